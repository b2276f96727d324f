//! `LimitService`, over the wire.

mod changes;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::support::{calendar, create_limit, full, limit, monthly, returned, rolling, wrong_fields};
use crate::harness::{Client, Tenant, World, refused};
use crate::usage::support::create_meter;

const SUBJECT: &str = "018f0000-0000-7000-8000-00000000000a";

/// A tenant with a meter of its own, `calls`, beside the platform-wide `tokens`.
async fn with_meters(world: &World) -> Tenant {
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    create_meter(&world.operator(), "tokens", v1::MeterAggregation::Sum).await;
    tenant
}

async fn get(client: &Client, organization: &str, limit: &str) -> Result<v1::Limit, Status> {
    let request = v1::GetLimitRequest { organization_id: organization.into(), limit_id: limit.into() };
    Ok(client.limits().get_limit(request).await?.into_inner().limit.unwrap())
}

async fn list(client: &Client, request: v1::ListLimitsRequest) -> Result<v1::ListLimitsResponse, Status> {
    Ok(client.limits().list_limits(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_is_kept_and_the_maker_is_who_calls() {
    let world = World::start().await;
    let tenant = with_meters(&world).await;
    let acting = world.operator().acting(&tenant.member(&world, "ada", "admin").await);
    let service = world.service(&[Permission::LimitsCreate, Permission::LimitsRead], &[&tenant.id]).await;
    let time = Some(prost_types::Timestamp::default());
    for (client, maker, subject) in [
        (&tenant.client, v1::LimitMaker::Organization, SUBJECT),
        (&world.operator(), v1::LimitMaker::Platform, SUBJECT),
        (&service, v1::LimitMaker::Platform, ""),
        (&acting, v1::LimitMaker::Organization, ""),
    ] {
        for rule in [full("calls"), full("tokens"), v1::LimitRule { subject_kind: 3, ..monthly("tokens", 0) }] {
            let wanted = v1::Limit {
                limit_id: "x".into(),
                subject_id: subject.into(),
                maker: v1::LimitMaker::Platform.into(),
                etag: "x".into(),
                create_time: time,
                update_time: time,
                ..limit("acme", rule.clone())
            };
            let created = create_limit(client, wanted.clone()).await.unwrap();
            let expected = v1::Limit {
                organization_id: tenant.id.clone(),
                limit_id: created.limit_id.clone(),
                subject_id: subject.into(),
                rule: Some(returned(rule)),
                maker: maker.into(),
                etag: created.etag.clone(),
                create_time: created.create_time,
                update_time: created.create_time,
            };
            assert_eq!(created, expected);
            assert!(created.create_time.is_some_and(|time| time.seconds > 0) && !created.etag.is_empty());
            assert_eq!(get(&tenant.client, "", &created.limit_id).await.unwrap(), created);
            assert_eq!(get(&world.operator(), "acme", &created.limit_id).await.unwrap(), created);
            let refusal = refused(create_limit(client, wanted).await);
            assert!(refusal.is(Code::AlreadyExists, "LIMIT_TAKEN"), "{refusal:?}");
        }
    }
    let nobody = refused(get(&tenant.client, "", SUBJECT).await);
    assert!(nobody.is(Code::NotFound, "LIMIT_NOT_FOUND"), "{nobody:?}");
    assert_eq!(wrong_fields(get(&tenant.client, "", "x").await), ["limit_id"]);
    assert_eq!(wrong_fields(get(&world.operator(), "", SUBJECT).await), ["organization_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let client = with_meters(&world).await.client;
    let wrong = v1::Limit {
        subject_id: SUBJECT.into(),
        ..limit(
            "",
            v1::LimitRule {
                meter: "Calls".into(),
                window: rolling(v1::WindowUnit::Lifetime),
                unlimited: true,
                burst: -1,
                enforcement: 3,
                fallback: 3,
                alert_percents: vec![0, 1001],
                ..monthly("", 5)
            },
        )
    };
    let expected = [
        "limit.rule.alert_percents[0]",
        "limit.rule.alert_percents[1]",
        "limit.rule.amount",
        "limit.rule.burst",
        "limit.rule.enforcement",
        "limit.rule.fallback",
        "limit.rule.meter",
        "limit.rule.window.rolling",
        "limit.subject_id",
    ];
    assert_eq!(wrong_fields(create_limit(&client, wrong).await), expected);
    let missing = ["limit.rule.amount", "limit.rule.meter", "limit.rule.subject_kind", "limit.rule.window.unit"];
    assert_eq!(wrong_fields(create_limit(&client, v1::Limit::default()).await), missing);
    let no_uuid = v1::Limit { subject_id: "ada".into(), ..limit("", full("calls")) };
    assert_eq!(wrong_fields(create_limit(&client, no_uuid).await), ["limit.subject_id"]);
    for meter in ["nothing", "CALLS"] {
        let outcome = create_limit(&client, limit("", monthly(meter, 1))).await;
        match meter {
            "CALLS" => assert_eq!(wrong_fields(outcome), ["limit.rule.meter"]),
            _ => assert!(refused(outcome).is(Code::NotFound, "METER_NOT_FOUND")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_each_maker_for_a_subject_a_meter_and_a_window() {
    let world = World::start().await;
    let tenant = with_meters(&world).await;
    let rule = || v1::LimitRule { subject_kind: v1::SubjectKind::User.into(), ..monthly("calls", 1) };
    let other_subject = v1::Limit { subject_id: SUBJECT.into(), ..limit("acme", rule()) };
    let different = [
        limit("acme", rule()),
        other_subject,
        limit("acme", v1::LimitRule { subject_kind: v1::SubjectKind::Team.into(), ..rule() }),
        limit("acme", v1::LimitRule { window: calendar(v1::WindowUnit::Day), ..rule() }),
        limit("acme", v1::LimitRule { window: rolling(v1::WindowUnit::Month), ..rule() }),
        limit("acme", v1::LimitRule { meter: "tokens".into(), ..rule() }),
    ];
    for client in [&tenant.client, &world.operator()] {
        for limit in &different {
            let at_once = (0..4).map(|_| create_limit(client, limit.clone()));
            let outcomes = futures_util::future::join_all(at_once).await;
            let (created, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
            assert_eq!(created.len(), 1);
            for refusal in refusals {
                assert!(refused(refusal).is(Code::AlreadyExists, "LIMIT_TAKEN"));
            }
        }
    }
    let all = list(&tenant.client, v1::ListLimitsRequest::default()).await.unwrap().limits;
    assert_eq!(all.len(), 12);
    // An organization's own meter and not a platform-wide one of the same key.
    let own = create_meter(&tenant.client, "jobs", v1::MeterAggregation::Sum).await;
    create_meter(&world.operator(), "jobs", v1::MeterAggregation::Sum).await;
    let created = create_limit(&tenant.client, limit("", monthly("jobs", 1))).await.unwrap();
    let stored: String = sqlx::query_scalar("SELECT meter_id::text FROM tenancy.limits WHERE limit_id = $1::uuid")
        .bind(&created.limit_id)
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(stored, own.meter_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_newest_first_by_meter_and_subject() {
    let world = World::start().await;
    let tenant = with_meters(&world).await;
    let mut expected = Vec::new();
    for number in 0..6_i32 {
        let rule = v1::LimitRule {
            subject_kind: v1::SubjectKind::User.into(),
            window: Some(v1::Window { unit: 1 + number, rolling: false }),
            ..monthly(if number % 2 == 0 { "calls" } else { "tokens" }, 1)
        };
        let subject_id = if number % 3 == 0 { SUBJECT.into() } else { String::new() };
        let wanted = v1::Limit { subject_id, ..limit("acme", rule) };
        let maker = if number % 2 == 0 { world.operator() } else { tenant.client.clone() };
        expected.insert(0, create_limit(&maker, wanted).await.unwrap());
        // Ids of one millisecond are in no order.
        world.clock.advance(std::time::Duration::from_millis(2));
    }
    let mut request = v1::ListLimitsRequest { page_size: 4, ..Default::default() };
    let first = list(&tenant.client, request.clone()).await.unwrap();
    request.page_token = first.next_page_token;
    let second = list(&tenant.client, request.clone()).await.unwrap();
    assert_eq!([first.limits, second.limits].concat(), expected);
    assert_eq!(second.next_page_token, "");
    for (meter, subject_id, of) in
        [("calls", "", vec![1, 3, 5]), ("", SUBJECT, vec![2, 5]), ("tokens", SUBJECT, vec![2])]
    {
        let narrow = v1::ListLimitsRequest { meter: meter.into(), subject_id: subject_id.into(), ..Default::default() };
        let found = list(&tenant.client, narrow).await.unwrap().limits;
        let of: Vec<_> = of.into_iter().map(|position: usize| expected[position].clone()).collect();
        assert_eq!(found, of, "{meter} {subject_id}");
    }
    let unknown = v1::ListLimitsRequest { meter: "nothing".into(), ..Default::default() };
    assert!(refused(list(&tenant.client, unknown).await).is(Code::NotFound, "METER_NOT_FOUND"));
    let wrong = v1::ListLimitsRequest { subject_id: "ada".into(), ..Default::default() };
    assert_eq!(wrong_fields(list(&tenant.client, wrong).await), ["subject_id"]);
    let wrong = v1::ListLimitsRequest { meter: "calls".into(), ..request };
    assert_eq!(wrong_fields(list(&tenant.client, wrong).await), ["page_token"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_a_last_limit_however_many_are_made_at_once() {
    let world = World::start().await;
    let tenant = with_meters(&world).await;
    let other = world.tenant("other").await;
    sqlx::query(
        "INSERT INTO tenancy.limits (organization_id, limit_id, maker, subject_id, meter_id, subject_kind, window_kind,
             rule, create_time, update_time)
         SELECT $1::uuid, gen_random_uuid(), 'platform', gen_random_uuid(), gen_random_uuid(), 'user', 'lifetime',
             '{\"amount\": 1}', now(), now() FROM generate_series(1, 9998)",
    )
    .bind(&tenant.id)
    .execute(&world.database.superuser)
    .await
    .unwrap();
    let at_once = (1..=7).map(|unit| {
        let rule = v1::LimitRule { window: Some(v1::Window { unit, rolling: false }), ..monthly("calls", 1) };
        create_limit(&tenant.client, limit("", rule))
    });
    let outcomes = futures_util::future::join_all(at_once).await;
    let (created, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 2);
    for refusal in refusals {
        let refusal = refused(refusal);
        assert!(refusal.is(Code::FailedPrecondition, "LIMITS_EXHAUSTED"), "{refusal:?}");
    }
    create_limit(&other.client, limit("", monthly("tokens", 1))).await.unwrap();
    let limit_id = created[0].as_ref().unwrap().limit_id.clone();
    let request = v1::DeleteLimitRequest { limit_id, ..Default::default() };
    tenant.client.limits().delete_limit(request).await.unwrap();
    create_limit(&world.operator(), limit("acme", monthly("tokens", 1))).await.unwrap();
}
