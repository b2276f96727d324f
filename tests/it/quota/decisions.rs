//! What is decided, and how a decision explains itself.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{Client, World, admin, eventually, refused};
use crate::quota::asks::{calls, check, consume, limit, limited, monthly, monthly_of_key, quota, take};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_limits_admit_or_none_is_charged() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100), monthly_of_key(10)]).await;
    let client = &tenant.client;

    let admitted = take(client, 8).await;
    assert!(admitted.allowed && admitted.granted == 8 && admitted.reason.is_empty(), "{admitted:?}");
    assert_eq!(admitted.retry_after, None);
    // The tightest first.
    let [key, organization] = admitted.limits.as_slice() else { panic!("{admitted:?}") };
    assert_eq!(
        (key.subject_kind(), organization.subject_kind()),
        (v1::SubjectKind::ApiKey, v1::SubjectKind::Organization)
    );
    assert_eq!((key.subject_id.as_str(), organization.subject_id.as_str()), (&*tenant.key_id, &*tenant.id));
    assert_eq!((key.amount, key.used, key.remaining), (Some(10), 8, 2));
    assert_eq!((organization.amount, organization.used, organization.remaining), (Some(100), 8, 92));

    // I7: the looser one is not charged when the tighter one denies.
    for _ in 0..3 {
        let denied = take(client, 3).await;
        assert!(!denied.allowed && denied.granted == 0 && denied.reason == "LIMIT_EXCEEDED", "{denied:?}");
        let used: Vec<_> = denied.limits.iter().map(|limit| (limit.used, limit.denied)).collect();
        assert_eq!(used, [(8, true), (8, false)]);
    }
    assert_eq!(take(client, 2).await.granted, 2);

    // Another key has its own, and the organization's is shared.
    let other = tenant.with_scopes(&world, &[Permission::QuotaConsume]).await;
    let decision = take(&other, 10).await;
    assert_eq!(decision.limits.iter().map(|limit| limit.used).collect::<Vec<_>>(), [10, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_explains_itself() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let made = limit(&world, &tenant, v1::LimitRule { alert_percents: vec![50, 90], ..monthly(10) }).await;
    let decision = take(&tenant.client, 6).await;
    let [found] = decision.limits.as_slice() else { panic!("{decision:?}") };
    assert_eq!(
        (&*found.limit_id, found.source(), &*found.meter),
        (&*made.limit_id, v1::QuotaSource::Platform, "calls")
    );
    assert_eq!(found.window, monthly(0).window);
    assert_eq!((found.used, found.reserved, found.remaining, found.overage), (6, 0, 4, 0));
    assert_eq!((found.denied, found.would_deny), (false, false));
    let now = world.clock.now().timestamp();
    let reset = found.reset_time.unwrap().seconds;
    assert!(reset > now && reset <= now + 31 * 86_400, "{reset}");

    let denied = take(&tenant.client, 5).await;
    let wait = denied.retry_after.unwrap();
    assert!((reset - now - 60..=reset - now + 1).contains(&wait.seconds), "{wait:?}: when the month is over");
    assert!(denied.limits[0].denied);

    let never = take(&tenant.client, 11).await;
    assert_eq!((never.reason.as_str(), never.retry_after), ("AMOUNT_TOO_LARGE", None));

    let [seen] = quota(&tenant.client).await.try_into().unwrap();
    let seen: v1::QuotaLimit = seen;
    assert_eq!((&seen.limit_id, seen.amount, seen.used, seen.remaining), (&made.limit_id, Some(10), 6, 4));
    // Raised by the ledger, once for all replicas.
    eventually("half of it is used", || async { quota(&tenant.client).await[0].alerts == [50] }).await;
    let listed = tenant.client.quotas().list_quotas(v1::ListQuotasRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.limits.iter().map(|limit| &limit.limit_id).collect::<Vec<_>>(), [&made.limit_id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_consumes_nothing() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10)]).await.client;
    for _ in 0..5 {
        let decision = check(&client, 10).await;
        assert!(decision.allowed && decision.granted == 10 && decision.limits[0].used == 0, "{decision:?}");
    }
    assert!(!check(&client, 11).await.allowed);
    let (_, metrics) = admin(world.running.admin, "/metrics").await;
    for outcome in ["allowed", "denied"] {
        assert!(metrics.contains(&format!("tenancy_quota_decisions_total{{outcome=\"{outcome}\"}}")), "{metrics}");
    }
    assert!(take(&client, 10).await.allowed);
    // Is anything left at all?
    assert!(!check(&client, 0).await.allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn best_effort_gets_what_is_left() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10), monthly_of_key(7)]).await.client;
    let some = async |amount| {
        let request = v1::ConsumeQuotaRequest { mode: v1::ConsumeMode::BestEffort.into(), ..calls(amount) };
        let decision = consume(&client, request).await.unwrap().decision.unwrap();
        (decision.allowed, decision.granted)
    };
    assert_eq!(some(4).await, (true, 4));
    assert_eq!(some(4).await, (true, 3));
    assert_eq!(some(4).await, (false, 0));
    let used: Vec<_> = check(&client, 0).await.limits.iter().map(|limit| limit.used).collect();
    assert_eq!(used, [7, 7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_do_not_simply_deny() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let client = &tenant.client;
    let free = take(client, 1_000_000).await;
    assert!(free.allowed && free.limits.is_empty(), "{free:?}: where no limit applies, everything is admitted");

    let made = limit(&world, &tenant, monthly(0)).await;
    let blocked = take(client, 1).await;
    assert_eq!((blocked.reason.as_str(), blocked.retry_after), ("BLOCKED", None));
    let change = async |rule: v1::LimitRule| {
        let request = v1::DeleteLimitRequest {
            organization_id: tenant.id.clone(),
            limit_id: made.limit_id.clone(),
            ..Default::default()
        };
        let _ = world.operator().limits().delete_limit(request).await;
        limit(&world, &tenant, rule).await
    };
    let made = change(v1::LimitRule { amount: None, unlimited: true, ..monthly(0) }).await;
    let unlimited = take(client, 1_000_000).await;
    assert!(unlimited.allowed, "{unlimited:?}");
    let request = v1::DeleteLimitRequest {
        organization_id: tenant.id.clone(),
        limit_id: made.limit_id.clone(),
        ..Default::default()
    };
    world.operator().limits().delete_limit(request).await.unwrap();

    let soft = v1::LimitRule { enforcement: v1::LimitEnforcement::Soft.into(), ..monthly_of_key(10) };
    let made = limit(&world, &tenant, soft).await;
    assert!(take(client, 8).await.allowed);
    let past = take(client, 8).await;
    assert!(past.allowed && past.granted == 8, "{past:?}");
    assert_eq!((past.limits[0].used, past.limits[0].remaining, past.limits[0].overage), (16, 0, 6));
    let request = v1::DeleteLimitRequest {
        organization_id: tenant.id.clone(),
        limit_id: made.limit_id.clone(),
        ..Default::default()
    };
    world.operator().limits().delete_limit(request).await.unwrap();

    let shadow = v1::LimitRule {
        shadow: true,
        window: Some(v1::Window { unit: v1::WindowUnit::Day.into(), rolling: true }),
        ..monthly(10)
    };
    limit(&world, &tenant, shadow).await;
    let below = take(client, 10).await;
    assert!(below.allowed && !below.limits[0].would_deny, "{below:?}");
    let above = take(client, 10).await;
    assert!(above.allowed && above.limits[0].would_deny && !above.limits[0].denied, "{above:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks() {
    let world = World::start().await;
    let of_user = v1::LimitRule { subject_kind: v1::SubjectKind::User.into(), ..monthly(5) };
    let tenant = limited(&world, [of_user]).await;
    let user = tenant.member(&world, "ada", "member").await;
    let acting = tenant.client.clone().acting(&user);
    assert!(take(&tenant.client, 9).await.limits.is_empty(), "a key that acts for nobody is no user");
    assert_eq!(take(&acting, 5).await.limits[0].subject_id, user);
    assert!(!take(&acting, 1).await.allowed);
    let naming = |user_id: &str| v1::ConsumeQuotaRequest {
        organization_id: tenant.slug.clone(),
        subject: Some(v1::QuotaSubject { user_id: user_id.into(), ..Default::default() }),
        ..calls(1)
    };
    let service = world.service(&[Permission::QuotaConsume], &[&tenant.id]).await;
    for client in [&tenant.client, &service] {
        assert!(!consume(client, naming(&user)).await.unwrap().decision.unwrap().allowed);
    }
    assert!(consume(&service, naming("")).await.unwrap().decision.unwrap().limits.is_empty());
    let refusal = refused(consume(&service, calls(1)).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["organization_id"], "{refusal:?}");
    let refusal =
        refused(consume(&tenant.client, v1::ConsumeQuotaRequest { meter: "unknown".into(), ..calls(1) }).await);
    assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "{refusal:?}");
    let wrong = v1::ConsumeQuotaRequest { amount: -1, ..naming("ada") };
    let refusal = refused(consume(&tenant.client, wrong).await);
    assert_eq!(refusal.fields, ["subject.user_id", "amount"]);
}

/// Asks for single calls until denied so often; how many were admitted.
async fn drain(client: Client, asks: usize) -> i64 {
    let mut admitted = 0;
    for _ in 0..asks {
        admitted += take(&client, 1).await.granted;
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_admit_no_more_than_the_limit_and_no_less() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let replica = World::on(world.database.clone(), &[]).await;
    let mut clients = JoinSet::new();
    for _ in 0..5 {
        clients.spawn(drain(tenant.client.clone(), 30));
        clients.spawn(drain(replica.client(&tenant.key), 30));
    }
    let admitted: i64 = clients.join_all().await.into_iter().sum();
    assert_eq!(admitted, 100);
    let limits = quota(&tenant.client).await;
    assert!(limits[0].used <= 100, "{limits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_begins_has_all_again() {
    let world = World::start().await;
    let rule =
        v1::LimitRule { window: Some(v1::Window { unit: v1::WindowUnit::Second.into(), rolling: true }), ..monthly(3) };
    let client = limited(&world, [rule]).await.client;
    assert_eq!(take(&client, 3).await.granted, 3);
    let denied = take(&client, 3).await;
    if !denied.allowed {
        let wait = denied.retry_after.unwrap();
        assert!(wait.seconds <= 1, "{wait:?}");
    }
    eventually("the second is over", || async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        take(&client, 3).await.allowed
    })
    .await;
}
