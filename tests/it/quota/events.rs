//! Consumption that carries its event: both or neither, and once.

use chrono::{DateTime, Utc};
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{World, eventually, refused};
use crate::quota::asks::{calls, consume, limited, monthly, take, used};
use crate::usage::support::{drift, event, fate, stored};

/// So many calls, and their event.
fn carrying(id: &str, at: DateTime<Utc>, amount: i64) -> v1::ConsumeQuotaRequest {
    let event = v1::UsageEvent { meter: String::new(), ..event(id, at) };
    v1::ConsumeQuotaRequest { event: Some(event), ..calls(amount) }
}

/// Whether it was admitted, how much, and what became of the event.
fn outcome(reply: &v1::ConsumeQuotaResponse) -> (bool, i64, Option<String>) {
    let decision = reply.decision.as_ref().unwrap();
    (decision.allowed, decision.granted, reply.event.as_ref().map(fate))
}

fn told(allowed: bool, granted: i64, event: &str) -> (bool, i64, Option<String>) {
    (allowed, granted, Some(event.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_recorded_when_it_is_admitted_and_charged_once() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let (client, now) = (&tenant.client, world.clock.now());
    let ask = async |id: &str, amount| outcome(&consume(client, carrying(id, now, amount)).await.unwrap());
    assert_eq!(ask("a", 6).await, told(true, 6, "RECORDED"));
    for _ in 0..3 {
        assert_eq!(ask("a", 6).await, told(true, 6, "DUPLICATE"), "also when it would be denied now");
    }
    let shown = consume(client, carrying("a", now, 6)).await.unwrap();
    assert_eq!(shown.decision.unwrap().limits[0].used, 6);
    assert_eq!(shown.event.unwrap().event_id, "a");
    assert_eq!(used(client).await, 6);
    assert_eq!(ask("b", 6).await, (false, 0, None));
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (1, 0));
    assert_eq!(ask("b", 4).await, told(true, 4, "RECORDED"));
    // On another replica, which has nothing left.
    let replica = World::on(world.database.clone(), &[]).await;
    let there = replica.client(&tenant.key);
    assert!(!take(&there, 1).await.allowed);
    assert_eq!(outcome(&consume(&there, carrying("b", now, 4)).await.unwrap()), told(true, 4, "DUPLICATE"));
    assert_eq!(used(client).await, 10);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (2, 0));
    let sum: String = sqlx::query_scalar("SELECT sum(quantity)::int::text FROM tenancy.usage_events")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(sum, "10", "their quantities are the amounts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_is_charged() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(1000)]).await;
    let now = world.clock.now();
    let mut asks = JoinSet::new();
    for _ in 0..30 {
        let client = tenant.client.clone();
        asks.spawn(async move { outcome(&consume(&client, carrying("a", now, 5)).await.unwrap()) });
    }
    let outcomes = asks.join_all().await;
    let recorded = outcomes.iter().filter(|outcome| **outcome == told(true, 5, "RECORDED")).count();
    let duplicates = outcomes.iter().filter(|outcome| **outcome == told(true, 5, "DUPLICATE")).count();
    assert_eq!((recorded, duplicates), (1, 29), "{outcomes:?}");
    assert_eq!(used(&tenant.client).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_recorded_is_not_charged() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let (client, now) = (&tenant.client, world.clock.now());
    consume(client, carrying("a", now, 1)).await.unwrap();
    let old = now - chrono::TimeDelta::days(40);
    for (request, why) in [(carrying("a", now, 2), "another event"), (carrying("b", old, 2), "EVENT_TOO_OLD")] {
        let refusal = refused(consume(client, request).await);
        assert!(refusal.is(Code::FailedPrecondition, "EVENT_NOT_RECORDED"), "{refusal:?}");
        assert!(refusal.message.contains(why), "{refusal:?}");
    }
    assert_eq!(used(client).await, 1);

    let condition = v1::MeterCondition {
        property: "model".into(),
        operator: v1::MeterConditionOperator::In.into(),
        values: vec!["large".into()],
    };
    let meter = v1::Meter {
        key: "large".into(),
        display_name: "Large".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        filter: vec![condition],
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    client.meters().create_meter(request).await.unwrap();
    let rule = v1::LimitRule { meter: "large".into(), ..monthly(10) };
    crate::quota::asks::limit(&world, &tenant, rule).await;
    for amount in [7, 7, 11] {
        let request = v1::ConsumeQuotaRequest { meter: "large".into(), ..carrying("c", now, amount) };
        let reply = consume(client, request).await.unwrap();
        assert_eq!(outcome(&reply), told(true, amount, "FILTERED"), "it counts nothing");
        assert_eq!(reply.decision.unwrap().limits[0].used, 0);
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_takes_both_permissions() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let client = tenant.with_scopes(&world, &[Permission::QuotaConsume]).await;
    let refusal = refused(consume(&client, carrying("a", world.clock.now(), 1)).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    assert!(refusal.message.contains("usage.write"), "{refusal:?}");
    assert!(take(&client, 1).await.allowed);
    assert_eq!(stored(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meter_of_a_property_measures_for_itself() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let meter = v1::Meter {
        key: "tokens".into(),
        display_name: "Tokens".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        value_property: "tokens".into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    tenant.client.meters().create_meter(request).await.unwrap();
    let tokens = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(12.0)) };
    let mut request = v1::ConsumeQuotaRequest { meter: "tokens".into(), ..carrying("a", world.clock.now(), 12) };
    request.event.as_mut().unwrap().properties =
        Some(prost_types::Struct { fields: [("tokens".to_owned(), tokens)].into() });
    assert_eq!(outcome(&consume(&tenant.client, request).await.unwrap()), told(true, 12, "RECORDED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_unknown_outcome_is_charged_once_when_it_is_repeated() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let now = world.clock.now();
    assert!(take(&tenant.client, 1).await.allowed);
    let mut silent = world.database.superuser.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE tenancy.usage_events").execute(&mut *silent).await.unwrap();
    let hasty = tenant.client.clone().header("grpc-timeout", "500m");
    consume(&hasty, carrying("a", now, 4)).await.unwrap_err();
    assert_eq!(used(&tenant.client).await, 5, "it may be recorded, so it stays charged");
    silent.rollback().await.unwrap();
    eventually("the event is recorded", || async { stored(&world.database).await == 1 }).await;
    for _ in 0..2 {
        let again = consume(&tenant.client, carrying("a", now, 4)).await.unwrap();
        assert_eq!(outcome(&again), told(true, 4, "DUPLICATE"));
    }
    assert_eq!(used(&tenant.client).await, 5);
}
