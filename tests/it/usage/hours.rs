//! Figures by the hour: filled by their migration, read where a bucket has whole hours, and true beside a writer that is at
//! another quarter of the hour.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tenancy::model::usage::hour;
use tenancy::proto::v1;
use tenancy::proto::v1::UsageBucket::{Hour, Month};

use crate::harness::{Cloned, World, eventually};
use crate::usage::support::{
    KINDS, create_meter, create_meters_of_every_kind, drift, event, fates, model, timestamp, void,
};

/// The event that a test writes in the place of the writer.
const WRITTEN: &str = "00000000-0000-0000-0000-000000000004";

const MIGRATION: &str = include_str!("../../../migrations/0017_hours.sql");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_migration_folds_what_is_stored() {
    let world = World::start().await;
    let base = hour(world.clock.now()) - TimeDelta::hours(5);
    for slug in ["acme", "other"] {
        let client = world.tenant(slug).await.client;
        create_meters_of_every_kind(&client).await;
        for (kind, _) in KINDS {
            // In each of three hours several quarters; the latest of an hour is neither its greatest nor sent last.
            let events = (0..30_i32).map(|number| v1::UsageEvent {
                meter: kind.into(),
                quantity: (number * 7 % 11).to_string(),
                subject: ["ada", "grace"][usize::try_from(number % 2).unwrap()].into(),
                properties: model("x"),
                ..event(&format!("{kind} {number}"), base + TimeDelta::minutes(i64::from(number * 13 % 30 * 5)))
            });
            assert_eq!(fates(&client, events.collect()).await, ["RECORDED"; 30]);
        }
    }
    assert_eq!(drift(&world.database).await, 0);
    // As the owner, whom the policies bind, without the setting of any organization.
    let mut owner = PgConnection::connect_with(&world.database.owner).await.unwrap();
    let statements = format!("BEGIN; DROP TABLE tenancy.usage_hours; {MIGRATION} COMMIT");
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut owner).await.unwrap();
    assert_eq!(drift(&world.database).await, 0);
    let forced: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relforcerowsecurity AND relrowsecurity
         AND oid IN ('tenancy.usage_hours'::regclass, 'tenancy.usage_aggregates'::regclass)",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(forced, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_hours_are_read_by_the_hour_and_the_rest_by_the_quarter() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let base = hour(world.clock.now()) - TimeDelta::days(3);
    let events = (0..8).map(|number| event(&number.to_string(), base + TimeDelta::minutes(15 * number)));
    assert_eq!(fates(&client, events.collect()).await, ["RECORDED"; 8]);
    // Where a figure comes from shows when the two of them differ.
    sqlx::query("UPDATE tenancy.usage_hours SET event_count = event_count + 100")
        .execute(&world.database.superuser)
        .await
        .unwrap();
    let ask = async |minutes: [i64; 2], bucket: v1::UsageBucket, zone: &str| {
        let request = v1::QueryUsageRequest {
            meter: "calls".into(),
            start_time: Some(timestamp(base + TimeDelta::minutes(minutes[0]))),
            end_time: Some(timestamp(base + TimeDelta::minutes(minutes[1]))),
            bucket: bucket.into(),
            time_zone: zone.into(),
            ..Default::default()
        };
        let reply = client.usage().query_usage(request).await.unwrap().into_inner();
        (reply.points.iter().map(|point| point.event_count).collect::<Vec<_>>(), reply.event_count)
    };
    assert_eq!(ask([0, 120], Hour, "UTC").await, (vec![104, 104], 208));
    assert_eq!(ask([15, 105], Hour, "UTC").await, (vec![3, 3], 6), "no hour is whole");
    assert_eq!(ask([45, 120], Hour, "UTC").await, (vec![1, 104], 105));
    assert_eq!(ask([0, 120], Hour, "Asia/Kolkata").await, (vec![2, 4, 2], 8), "hours begin at half past");
    assert_eq!(ask([0, 120], Hour, "Asia/Kathmandu").await, (vec![1, 4, 3], 8), "and at a quarter past");
    assert_eq!(ask([-60, 180], Month, "Etc/GMT-1").await.1, 208);
    let summary = v1::GetUsageSummaryRequest { time_zone: "UTC".into(), period: Month.into(), ..Default::default() };
    let found = client.usage().get_usage_summary(summary).await.unwrap().into_inner();
    let is_this_month = found.start_time.unwrap().seconds <= base.timestamp();
    assert!(!is_this_month || found.meters[0].event_count == 208, "{found:?}");
}

/// Waits until somebody waits for a lock.
async fn somebody_waits(database: &Cloned) {
    eventually("somebody waits for a lock", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&database.superuser)
        .await
        .unwrap();
        waiting > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_that_waits_for_an_hour_finds_the_quarter_that_was_added_meanwhile() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Sum).await;
    let base = hour(world.clock.now()) - TimeDelta::hours(3);
    let events = ["a", "b"].map(|id| v1::UsageEvent { quantity: "1.5".into(), ..event(id, base) });
    assert_eq!(fates(&client, events.to_vec()).await, ["RECORDED"; 2]);

    // A writer between its last statement and its commit: an event in the next quarter of the hour.
    let mut writer = world.database.superuser.begin().await.unwrap();
    for statement in [
        "INSERT INTO tenancy.usage_events (organization_id, occurred_at, event_id, meter_id, quantity, recorded_at)
         SELECT organization_id, occurred_at + interval '15 minutes', $1::uuid, meter_id, 4, recorded_at
         FROM tenancy.usage_events WHERE event_name = 'a'",
        "INSERT INTO tenancy.usage_aggregates SELECT organization_id, meter_id, series_id, bucket_start + interval '15 minutes',
             1, 4 FROM tenancy.usage_aggregates WHERE $1 <> ''",
        "UPDATE tenancy.usage_hours SET event_count = event_count + 1, quantity_sum = quantity_sum + 4 WHERE $1 <> ''",
    ] {
        assert_eq!(sqlx::query(statement).bind(WRITTEN).execute(&mut *writer).await.unwrap().rows_affected(), 1);
    }
    let voiding = tokio::spawn({
        let client = client.clone();
        async move { void(&client, "a", base).await }
    });
    somebody_waits(&world.database).await;
    writer.commit().await.unwrap();
    voiding.await.unwrap().unwrap();
    assert_eq!(hours(&world.database).await, [(base, 2, "5.5".to_owned())]);
    assert_eq!(drift(&world.database).await, 0);
    void(&client, "b", base).await.unwrap();
    assert_eq!(hours(&world.database).await, [(base, 1, "4".to_owned())]);

    // Without its last quarter the hour is gone, and comes back with the next event.
    void(&client, WRITTEN, base + TimeDelta::minutes(15)).await.unwrap();
    assert_eq!(hours(&world.database).await, []);
    assert_eq!(fates(&client, vec![event("c", base + TimeDelta::minutes(59))]).await, ["RECORDED"]);
    assert_eq!(hours(&world.database).await, [(base, 1, "1".to_owned())]);
    assert_eq!(drift(&world.database).await, 0);
}

/// All the hours that there are: start, number, sum.
async fn hours(database: &Cloned) -> Vec<(DateTime<Utc>, i64, String)> {
    sqlx::query_as("SELECT bucket_start, event_count, trim_scale(quantity_sum)::text FROM tenancy.usage_hours")
        .fetch_all(&database.superuser)
        .await
        .unwrap()
}
