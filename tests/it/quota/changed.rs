//! I8 for limits: a change on one replica is in force on the others within a second, for whoever asks; and of a calendar from
//! the next window on.

use std::time::Duration;

use chrono_tz::Pacific::Kiritimati;
use tenancy::model::limit::{Unit, Window};
use tenancy::proto::v1;
use tenancy::quota::slots::{Calendar, slot};
use tokio::time::Instant;

use crate::harness::{Client, World};
use crate::quota::asks::{check, limit, limited, monthly, take};
use crate::quota::support::{create_plan, mask, monthly as of, plan, update_limit, update_plan};
use crate::usage::support::create_meter;

/// As of the other caches: far below the lifetime of what is known (30 s), far above the promise.
const SOON: Duration = Duration::from_secs(4);

/// Waits until a replica goes by this amount, and prints how long that took since `changed`.
async fn until(client: &Client, what: &str, changed: Instant, amount: i64) {
    while check(client, 0).await.limits[0].amount != Some(amount) && changed.elapsed() < SOON {}
    assert!(changed.elapsed() < SOON, "not seen on the other replica: {what}");
    println!("I8: {what}: {:.1?} after the reply", changed.elapsed());
}

/// Takes one at a time until refused.
async fn exhaust(client: &Client) -> i64 {
    let mut admitted = 0;
    while take(client, 1).await.allowed {
        admitted += 1;
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_changes_is_in_force_everywhere() {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = limited(&one, []).await;
    let clients = [&one, &two].map(|world| world.client(&tenant.key));
    let mut made = limit(&one, &tenant, monthly(200)).await;
    for client in &clients {
        assert!(take(client, 40).await.allowed);
    }
    let mut change = async |amount: i64| {
        let rule = v1::LimitRule { amount: Some(amount), ..made.rule.clone().unwrap() };
        let wanted = v1::Limit { rule: Some(rule), ..made.clone() };
        made = update_limit(&one.operator(), wanted, &["rule.bound"]).await.unwrap();
        let changed = Instant::now();
        for client in [&clients[1], &clients[0]] {
            until(client, &format!("now {amount}"), changed, amount).await;
        }
    };
    // Below what was used, whatever the replicas still held.
    change(30).await;
    for client in &clients {
        assert_eq!(exhaust(client).await, 0);
    }
    // Above that: exactly the rest.
    change(100).await;
    assert_eq!(exhaust(&clients[1]).await + exhaust(&clients[0]).await, 20);
    change(2_000).await;
    assert!(take(&clients[0], 1_000).await.allowed && take(&clients[1], 500).await.allowed);
    change(1_700).await;
    assert_eq!(exhaust(&clients[0]).await + exhaust(&clients[1]).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_changes_touches_no_account_that_nobody_asks_about() {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    create_meter(&one.operator(), "calls", v1::MeterAggregation::Sum).await;
    let made = create_plan(&one.operator(), plan("gold", vec![of("calls", 50)])).await.unwrap();
    let (asks, idle) = (one.tenant("asks").await, one.tenant("idle").await);
    let move_to = async |organization: &str, plan: &str| {
        let organization =
            v1::Organization { organization_id: organization.into(), plan: plan.into(), ..v1::Organization::default() };
        let request = v1::UpdateOrganizationRequest {
            organization: Some(organization),
            update_mask: mask(&["plan"]),
            ..Default::default()
        };
        one.operator().organizations().update_organization(request).await.unwrap();
    };
    move_to(&asks.id, "gold").await;
    move_to(&idle.id, "gold").await;
    let clients = [&one, &two].map(|world| world.client(&asks.key));
    assert!(take(&clients[0], 5).await.allowed && take(&clients[1], 5).await.allowed);
    // As a replica that is no more left it: nobody here tells anything of it.
    let copied = sqlx::query(
        "INSERT INTO tenancy.quota_accounts
         SELECT $2::uuid, subject_kind, $2::uuid, meter_id, window_kind, ceiling, granted, state, expire_time
         FROM tenancy.quota_accounts WHERE organization_id = $1::uuid",
    )
    .bind(&asks.id)
    .bind(&idle.id)
    .execute(&one.database.superuser)
    .await
    .unwrap();
    assert_eq!(copied.rows_affected(), 1);
    let version = async || {
        let sql = "SELECT xmin::text FROM tenancy.quota_accounts WHERE organization_id = $1::uuid";
        sqlx::query_scalar::<_, String>(sql).bind(&idle.id).fetch_one(&one.database.superuser).await.unwrap()
    };
    let before = version().await;

    let more = v1::Plan { etag: made.etag, ..plan("gold", vec![of("calls", 90)]) };
    update_plan(&one.operator(), more, &["limits"]).await.unwrap();
    until(&clients[1], "a plan's limit", Instant::now(), 90).await;
    create_plan(&one.operator(), plan("small", vec![of("calls", 20)])).await.unwrap();
    move_to(&asks.id, "small").await;
    until(&clients[1], "another plan", Instant::now(), 20).await;
    until(&clients[0], "another plan", Instant::now(), 20).await;
    assert_eq!(exhaust(&clients[1]).await + exhaust(&clients[0]).await, 10);
    assert_eq!(version().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calendar_that_changes_holds_from_the_next_window_on() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let first = take(&tenant.client, 8).await.limits[0].reset_time.unwrap();
    let organization = v1::Organization {
        time_zone: "Pacific/Kiritimati".into(),
        billing_anchor_day: 15,
        ..v1::Organization::default()
    };
    let request = v1::UpdateOrganizationRequest {
        organization: Some(organization),
        update_mask: mask(&["time_zone", "billing_anchor_day"]),
        ..Default::default()
    };
    tenant.client.organizations().update_organization(request).await.unwrap();
    // When this limit, which is made later, is seen, the calendar is too.
    limit(&world, &tenant, v1::LimitRule { subject_kind: v1::SubjectKind::ApiKey.into(), ..monthly(5) }).await;
    let changed = Instant::now();
    while check(&tenant.client, 0).await.limits.len() < 2 {
        assert!(changed.elapsed() < SOON);
    }
    let decision = take(&tenant.client, 3).await;
    assert_eq!(
        (decision.allowed, decision.reason.as_str()),
        (false, "LIMIT_EXCEEDED"),
        "no fresh window: {decision:?}"
    );
    let organizations = |decision: &v1::QuotaDecision| {
        decision.limits.iter().find(|limit| limit.subject_kind() == v1::SubjectKind::Organization).unwrap().clone()
    };
    assert_eq!(organizations(&decision).reset_time, Some(first));

    let until = u64::try_from(first.seconds - world.clock.now().timestamp()).unwrap();
    world.clock.advance(Duration::from_secs(until + 1));
    let next = take(&tenant.client, 3).await;
    assert!(next.allowed, "{next:?}");
    let limit = organizations(&next);
    let calendar = Calendar { zone: Kiritimati, anchor_day: 15 };
    let expected = slot(Window::Calendar(Unit::Month), world.clock.now().timestamp_micros(), calendar);
    assert_eq!((limit.used, limit.reset_time.unwrap().seconds), (3, expected.end / 1_000_000));
}
