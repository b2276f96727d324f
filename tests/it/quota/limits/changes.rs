//! Changing and deleting limits: who may, what stays, and what is written down of it.

use tenancy::proto::v1;
use tonic::{Code, Status};

use super::super::support::{create_limit, full, limit, monthly, returned, update_limit, wrong_fields};
use super::{SUBJECT, get, with_meters};
use crate::harness::{Client, World, refused};

async fn delete(client: &Client, organization: &str, limit: &str, etag: &str) -> Result<(), Status> {
    let request =
        v1::DeleteLimitRequest { organization_id: organization.into(), limit_id: limit.into(), etag: etag.into() };
    client.limits().delete_limit(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terms_that_the_mask_names_change() {
    let world = World::start().await;
    let client = with_meters(&world).await.client;
    let before = create_limit(&client, limit("", full("calls"))).await.unwrap();
    let named = |rule: v1::LimitRule| v1::Limit { limit_id: before.limit_id.clone(), ..limit("", rule) };
    let current = before.rule.clone().unwrap();

    // Without a mask: what is set. What cannot be changed is not looked at.
    let changed = v1::LimitRule { amount: Some(7), meter: "tokens".into(), ..v1::LimitRule::default() };
    let after = update_limit(&client, named(changed), &[]).await.unwrap();
    let rule = v1::LimitRule { amount: Some(7), ..current.clone() };
    assert_eq!(
        after,
        v1::Limit { rule: Some(rule), etag: after.etag.clone(), update_time: after.update_time, ..before.clone() }
    );
    assert!(after.etag != before.etag && after.update_time != before.update_time);

    for (path, change) in [
        ("rule.burst", v1::LimitRule { burst: 3, ..v1::LimitRule::default() }),
        ("rule.enforcement", v1::LimitRule { enforcement: 1, ..v1::LimitRule::default() }),
        ("rule.shadow", v1::LimitRule::default()),
        ("rule.fallback", v1::LimitRule::default()),
        ("rule.alert_percents", v1::LimitRule { alert_percents: vec![80], ..v1::LimitRule::default() }),
    ] {
        update_limit(&client, named(change), &[path]).await.unwrap();
    }
    let expected = v1::LimitRule {
        amount: Some(7),
        burst: 3,
        enforcement: v1::LimitEnforcement::Hard.into(),
        shadow: false,
        fallback: 0,
        alert_percents: vec![80],
        ..current.clone()
    };
    let after = get(&client, "", &before.limit_id).await.unwrap();
    assert_eq!(after.rule.unwrap(), expected);
    let unlimited = v1::LimitRule { unlimited: true, ..v1::LimitRule::default() };
    let refusal = update_limit(&client, named(unlimited.clone()), &["rule.bound"]).await;
    assert_eq!(wrong_fields(refusal), ["limit.rule.burst"], "which needs an amount");
    let after = update_limit(&client, named(unlimited.clone()), &["*"]).await.unwrap();
    let nothing_else = v1::LimitRule {
        meter: current.meter.clone(),
        subject_kind: current.subject_kind,
        window: current.window,
        ..unlimited
    };
    assert_eq!(after.rule.unwrap(), returned(nothing_else));

    for fixed in ["rule.meter", "rule.subject_kind", "rule.window", "subject_id", "maker"] {
        assert_eq!(
            wrong_fields(update_limit(&client, named(full("calls")), &[fixed]).await),
            ["update_mask"],
            "{fixed}"
        );
    }
    assert_eq!(wrong_fields(update_limit(&client, named(v1::LimitRule::default()), &[]).await), ["update_mask"]);
    let no_amount = update_limit(&client, named(v1::LimitRule::default()), &["rule.bound"]).await;
    assert_eq!(wrong_fields(no_amount), ["limit.rule.amount"]);
    let too_much = v1::LimitRule { amount: Some(1_000_000_001), ..v1::LimitRule::default() };
    assert_eq!(wrong_fields(update_limit(&client, named(too_much), &[]).await), ["limit.rule.amount"], "of a minute");
    let stale = v1::Limit { etag: before.etag.clone(), ..named(full("calls")) };
    assert!(refused(update_limit(&client, stale, &[]).await).is(Code::Aborted, "ETAG_MISMATCH"));
    let unknown = v1::Limit { limit_id: SUBJECT.into(), ..named(full("calls")) };
    assert!(refused(update_limit(&client, unknown, &[]).await).is(Code::NotFound, "LIMIT_NOT_FOUND"));
    let no_id = v1::Limit { limit_id: "x".into(), ..named(full("calls")) };
    assert_eq!(wrong_fields(update_limit(&client, no_id, &[]).await), ["limit.limit_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_changes_no_limit_of_the_platform() {
    let world = World::start().await;
    let tenant = with_meters(&world).await;
    let owner = tenant.member(&world, "ada", "owner").await;
    let platforms = create_limit(&world.operator(), limit("acme", monthly("calls", 5))).await.unwrap();
    let own = create_limit(&tenant.client, limit("", monthly("calls", 500))).await.unwrap();
    for client in [&tenant.client, &tenant.client.clone().acting(&owner), &world.operator().acting(&owner)] {
        let update = v1::Limit { limit_id: platforms.limit_id.clone(), ..limit("acme", monthly("calls", 500)) };
        let refusal = refused(update_limit(client, update, &["rule.bound"]).await);
        assert!(refusal.is(Code::PermissionDenied, "LIMIT_OF_PLATFORM"), "{refusal:?}");
        let refusal = refused(delete(client, "acme", &platforms.limit_id, "").await);
        assert!(refusal.is(Code::PermissionDenied, "LIMIT_OF_PLATFORM"), "{refusal:?}");
    }
    assert_eq!(get(&tenant.client, "", &platforms.limit_id).await.unwrap(), platforms);
    // The platform changes either.
    for known in [platforms, own] {
        let update = v1::Limit { limit_id: known.limit_id.clone(), ..limit("acme", monthly("calls", 6)) };
        let after = update_limit(&world.operator(), update, &["rule.bound"]).await.unwrap();
        assert_eq!(after.maker, known.maker);
        assert!(
            refused(delete(&world.operator(), "acme", &known.limit_id, &known.etag).await)
                .is(Code::Aborted, "ETAG_MISMATCH")
        );
        delete(&world.operator(), "acme", &known.limit_id, &after.etag).await.unwrap();
        for gone in [
            refused(get(&tenant.client, "", &known.limit_id).await),
            refused(delete(&tenant.client, "", &known.limit_id, "").await),
        ] {
            assert!(gone.is(Code::NotFound, "LIMIT_NOT_FOUND"), "{gone:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_one_request_and_all_is_audited() {
    let world = World::start().await;
    let tenant = with_meters(&world).await;
    let request = v1::CreateLimitRequest {
        limit: Some(limit("", monthly("calls", 5))),
        request_id: "018f6d2e-0000-7000-8000-000000000001".into(),
    };
    let again = (0..6).map(|_| {
        let (mut limits, request) = (tenant.client.limits(), request.clone());
        async move { limits.create_limit(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = futures_util::future::join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    let other = v1::CreateLimitRequest { limit: Some(limit("", monthly("calls", 6))), ..request };
    let refusal = refused(tenant.client.limits().create_limit(other).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    let limit_id = replies[0].limit.clone().unwrap().limit_id;
    let update = v1::Limit { limit_id: limit_id.clone(), ..limit("", monthly("calls", 6)) };
    update_limit(&tenant.client, update, &["rule.bound"]).await.unwrap();
    delete(&tenant.client, "", &limit_id, "").await.unwrap();

    let audited: Vec<(String, Option<i64>, Option<i64>, bool)> = sqlx::query_as(
        "SELECT action, (before #>> '{terms,amount}')::bigint, (after #>> '{terms,amount}')::bigint,
             actor_id = $2 AND actor_type = 'api_key'
         FROM tenancy.audit_events WHERE resource_type = 'limit' AND resource_id = $1 ORDER BY occur_time",
    )
    .bind(&limit_id)
    .bind(&tenant.key_id)
    .fetch_all(&world.database.superuser)
    .await
    .unwrap();
    let expected =
        [("limits.create", None, Some(5)), ("limits.update", Some(5), Some(6)), ("limits.delete", Some(6), None)];
    assert!(audited.iter().all(|(.., by_tenant)| *by_tenant));
    let audited: Vec<_> = audited.iter().map(|(action, before, after, _)| (action.as_str(), *before, *after)).collect();
    assert_eq!(audited, expected);
}
