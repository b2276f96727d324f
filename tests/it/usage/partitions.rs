//! Partitions: made ahead, missed by nobody but whose event needs them, and dropped behind while the figures stay.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::AssertSqlSafe;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;
use tenancy::worker::upkeep::{self, UpkeepOptions};
use tonic::Code;

use crate::harness::{World, refused};
use crate::usage::support::{create_meter, drift, event, fates, record, stored, timestamp, void};
use crate::usage::verify::verify;

/// As the service has it by default.
pub const OPTIONS: UpkeepOptions = UpkeepOptions { accepted_age: TimeDelta::days(35), retention: TimeDelta::days(90) };

pub async fn run_upkeep(world: &World) {
    upkeep::run_once(&world.running.database, &world.clock, OPTIONS).await.unwrap();
}

/// The weeks from one time to another that have no partition.
pub async fn missing(world: &World, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT week::text FROM generate_series(date_trunc('week', $1, 'UTC'), $2, interval '7 days') AS week
         WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'tenancy.usage_events'::regclass
             AND inhrelid = to_regclass('tenancy.usage_events_' || to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD')))",
    )
    .bind(from)
    .bind(to)
    .fetch_all(&world.database.superuser)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_partition_is_the_fate_of_its_own_events_only() {
    let world = World::start().await;
    let (one, two) = (world.tenant("one").await.client, world.tenant("two").await.client);
    for client in [&one, &two] {
        create_meter(client, "calls", v1::MeterAggregation::Count).await;
    }
    let now = world.clock.now();
    let gone = now - TimeDelta::days(20);
    let drop: String = sqlx::query_scalar(
        "SELECT 'DROP TABLE tenancy.usage_events_' || to_char(date_trunc('week', $1, 'UTC') AT TIME ZONE 'UTC', 'YYYYMMDD')",
    )
    .bind(gone)
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&world.database.superuser).await.unwrap();
    assert_eq!(missing(&world, gone, gone).await.len(), 1);

    let (other, same) = (vec![event("a", now)], vec![event("b", now)]);
    let lost = vec![event("c", now), event("d", gone)];
    for _ in 0..5 {
        let (lost, same, other) =
            tokio::join!(record(&one, lost.clone()), fates(&one, same.clone()), fates(&two, other.clone()));
        let refusal = refused(lost);
        assert!(refusal.is(Code::Unavailable, "USAGE_PARTITION_MISSING") && refusal.retry, "{refusal:?}");
        assert!([&same, &other].iter().all(|fates| ["RECORDED", "DUPLICATE"].contains(&fates[0].as_str())));
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (2, 0), "all of the request or nothing");

    run_upkeep(&world).await;
    assert_eq!(fates(&one, lost).await, ["RECORDED", "RECORDED"]);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_made_weeks_ahead_also_by_several_replicas_at_once() {
    let world = World::start().await;
    let other = World::on(world.database.clone(), &[]).await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let now = world.clock.now();
    assert!(missing(&world, now - TimeDelta::days(35), now + TimeDelta::days(28)).await.is_empty());
    // A replica that was down for three weeks and a half needs none.
    for world in [&world, &other] {
        world.clock.advance(Duration::from_hours(24 * 25));
    }
    assert_eq!(fates(&client, vec![event("a", world.clock.now())]).await, ["RECORDED"]);
    for round in 0..3 {
        for world in [&world, &other] {
            world.clock.advance(Duration::from_hours(24 * 10));
        }
        tokio::join!(run_upkeep(&world), run_upkeep(&other));
        let now = world.clock.now();
        assert!(missing(&world, now - TimeDelta::days(35), now + TimeDelta::days(28)).await.is_empty());
        for (number, at) in [now - TimeDelta::days(34), now, now + TimeDelta::minutes(4)].into_iter().enumerate() {
            assert_eq!(fates(&client, vec![event(&format!("{round}/{number}"), at)]).await, ["RECORDED"]);
        }
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (10, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_drops_raw_events_and_keeps_their_figures() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Sum).await;
    let old = world.clock.now() - TimeDelta::days(30);
    let events = ["ada", "grace"].map(|subject| v1::UsageEvent {
        quantity: "1.5".into(),
        subject: subject.into(),
        ..event(subject, old)
    });
    fates(&client, events.to_vec()).await;
    fates(&client, vec![v1::UsageEvent { subject: "eve".into(), ..event("void", old) }]).await;
    void(&client, "void", old).await.unwrap();
    let query = |subject: &str| v1::QueryUsageRequest {
        meter: "calls".into(),
        start_time: Some(timestamp(quarter(old) - TimeDelta::days(1))),
        end_time: Some(timestamp(quarter(old) + TimeDelta::days(1))),
        bucket: v1::UsageBucket::Hour.into(),
        subject: subject.into(),
        ..Default::default()
    };
    let ask = async |subject| client.usage().query_usage(query(subject)).await.unwrap().into_inner();
    let before = (ask("").await, ask("ada").await);
    assert_eq!((before.0.total.as_str(), before.1.total.as_str()), ("3", "1.5"));

    // Within the retention nothing goes.
    world.clock.advance(Duration::from_hours(24 * 55));
    run_upkeep(&world).await;
    assert_eq!(fates(&client, vec![event("b", world.clock.now())]).await, ["RECORDED"]);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (4, 0));
    assert_eq!(verify(&world, &[]).await, ("1 organizations, 0 differences\n".into(), 0));

    world.clock.advance(Duration::from_hours(24 * 15));
    run_upkeep(&world).await;
    assert_eq!(stored(&world.database).await, 1);
    assert_eq!((ask("").await, ask("ada").await), before);
    // That there was a void, and what the series are, is known for ever.
    let kept: (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM tenancy.usage_voids), (SELECT count(*) FROM tenancy.usage_series)",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(kept, (1, 3));
    let said = "3 aggregates were not recounted: their raw events are no longer kept\n1 organizations, 0 differences\n";
    assert_eq!(verify(&world, &[]).await, (said.into(), 0));
    // Sent once more it is too old, and no figure grows.
    let again = fates(&client, events.to_vec()).await;
    assert_eq!(again, ["EVENT_TOO_OLD", "EVENT_TOO_OLD"]);
    assert_eq!(ask("").await, before.0);
}
