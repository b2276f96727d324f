//! The partition that an event needs is there: at midnight, after weeks without service, and with somebody in the way.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tenancy::proto::v1;

use crate::harness::{World, clone_template, waiting};
use crate::usage::partitions::{missing, run_upkeep};
use crate::usage::support::{create_meter, drift, event, fates, stored, timestamp};
use crate::usage::verify::verify;

const DAY: Duration = Duration::from_hours(24);

/// The times that are accepted, at their edges, and now.
fn accepted(now: DateTime<Utc>) -> [DateTime<Utc>; 3] {
    [now - TimeDelta::days(35) + TimeDelta::minutes(1), now, now + TimeDelta::minutes(4)]
}

async fn records_at_once(world: &World, slug: &str) {
    let client = world.tenant(slug).await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    for (number, at) in accepted(world.clock.now()).into_iter().enumerate() {
        assert_eq!(fates(&client, vec![event(&format!("{number}"), at)]).await, ["RECORDED"], "{at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_downtime_the_first_event_is_recorded() {
    let database = clone_template().await;
    let mut events = 0;
    // The last is beyond all that was made ahead, and leaves weeks without any.
    for days in [0, 8, 29, 120] {
        let mut world = World::after(database.clone(), DAY * days, &[]).await;
        records_at_once(&world, &format!("after-{days}")).await;
        events += 3;
        assert_eq!(drift(&world.database).await, 0);
        world.running.stop();
        world.running.ended().await.unwrap();
    }
    let world = World::after(database, DAY * 120, &[]).await;
    assert_eq!(stored(&world.database).await, events, "what is past its retention waits for the upkeep");
    run_upkeep(&world).await;
    assert!(stored(&world.database).await < events);
    assert_eq!(verify(&world, &[]).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_all_record() {
    let database = clone_template().await;
    let start = || World::after(database.clone(), DAY * 60, &[]);
    let worlds: [World; 3] = tokio::join!(start(), start(), start()).into();
    for (number, world) in worlds.iter().enumerate() {
        records_at_once(world, &format!("number-{number}")).await;
    }
    assert_eq!((stored(&database).await, drift(&database).await), (9, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_in_the_way_delays_a_start_and_a_reader_does_not() {
    let database = clone_template().await;
    // As an ANALYZE of the whole table has it.
    let mut blocker = database.superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_events IN SHARE UPDATE EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let start = tokio::spawn(World::after(database.clone(), DAY * 60, &[]));
    // The first attempt gives up, so as not to be in the way of others; there is a second one.
    for wanted in [1, 0, 1] {
        waiting(&database.superuser, wanted).await;
    }
    assert!(!start.is_finished(), "it does not serve before it can record");
    blocker.rollback().await.unwrap();
    let world = start.await.unwrap();
    records_at_once(&world, "acme").await;

    // Who reads the oldest events for a long time is in the way of their end, and of nothing else.
    let mut reader = database.superuser.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM tenancy.usage_events").execute(&mut *reader).await.unwrap();
    let later = World::after(database.clone(), DAY * 150, &[]).await;
    records_at_once(&later, "later").await;
    assert_eq!(stored(&database).await, 6);
    reader.rollback().await.unwrap();
    run_upkeep(&later).await;
    let now = later.clock.now();
    assert!(missing(&later, now - TimeDelta::days(35), now + TimeDelta::days(28)).await.is_empty());
    assert_eq!((stored(&database).await, verify(&later, &[]).await.1), (5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weeks_meet_at_midnight_without_a_gap() {
    let world = World::start().await;
    let other = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let clients = [tenant.client.clone(), other.client(&tenant.key)];
    create_meter(&clients[0], "calls", v1::MeterAggregation::Count).await;
    let now = world.clock.now();
    let monday = i64::from(chrono::Datelike::weekday(&now).num_days_from_monday());
    let midnight = (now.date_naive() + TimeDelta::days(7 - monday)).and_time(chrono::NaiveTime::MIN).and_utc();
    let ahead = (midnight - now - TimeDelta::minutes(2)).to_std().unwrap();
    for world in [&world, &other] {
        world.clock.advance(ahead);
    }
    let moments = [-240_000, -1, 0, 1, 120_000].map(|millis| midnight + TimeDelta::milliseconds(millis));
    // Two minutes before, and two after.
    for round in 0..2 {
        for (number, at) in moments.into_iter().enumerate() {
            for (replica, client) in clients.iter().enumerate() {
                let id = format!("{round} {number} {replica}");
                assert_eq!(fates(client, vec![event(&id, at)]).await, ["RECORDED"], "{at}");
            }
        }
        for world in [&world, &other] {
            world.clock.advance(Duration::from_mins(4));
        }
        run_upkeep(&world).await;
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (20, 0));
    let request = v1::QueryUsageRequest {
        meter: "calls".into(),
        start_time: Some(timestamp(midnight - TimeDelta::hours(1))),
        end_time: Some(timestamp(midnight + TimeDelta::hours(1))),
        bucket: v1::UsageBucket::Day.into(),
        time_zone: "UTC".into(),
        ..Default::default()
    };
    let points = clients[1].usage().query_usage(request).await.unwrap().into_inner().points;
    assert_eq!(points.iter().map(|point| point.value.as_str()).collect::<Vec<_>>(), ["8", "12"]);
    assert_eq!(verify(&world, &[]).await.1, 0);
}
