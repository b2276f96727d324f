//! Raw events that are past their retention where they come to: their figures are restored, and those of others stay right.

use chrono::TimeDelta;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;

use crate::harness::World;
use crate::portable::support::{everything, exported, kept_for, restored, signed};
use crate::usage::support::{KINDS, create_meter, create_meters_of_every_kind, drift, event, fates, stored, timestamp};
use crate::usage::verify::verify;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_outlive_the_events() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = origin.tenant("acme").await;
    create_meter(&acme.client, "calls", v1::MeterAggregation::Sum).await;
    let now = quarter(origin.clock.now());
    let ages = [1, 15, 25, 34];
    let events = ages.iter().map(|days| event(&format!("{days}"), now - TimeDelta::days(*days)));
    assert_eq!(fates(&acme.client, events.collect()).await, ["RECORDED"; 4]);
    let file = exported(&origin, &acme.id).await;

    // Somebody here had usage in weeks of which no raw event is kept any more.
    let resident = destination.tenant("resident").await;
    create_meter(&resident.client, "calls", v1::MeterAggregation::Sum).await;
    let events = ages.iter().map(|days| event(&format!("{days}"), now - TimeDelta::days(*days)));
    assert_eq!(fates(&resident.client, events.collect()).await, ["RECORDED"; 4]);
    let retention = TimeDelta::days(16);
    sqlx::query("SELECT tenancy.drop_usage_partitions($1)")
        .bind(destination.clock.now() - retention)
        .execute(&destination.database.superuser)
        .await
        .unwrap();
    let before = stored(&destination.database).await;
    assert!((1..4).contains(&before));

    let said = kept_for(&destination, &file, retention).await.unwrap();
    let taken = stored(&destination.database).await - before;
    assert_eq!(taken, before, "as much as of who is here");
    assert!(said.contains(&format!("         4 usage_events, {} of them past their retention", 4 - taken)), "{said}");
    let (told, different) = verify(&destination, &[]).await;
    assert!(different == 0 && told.contains("aggregates were not recounted"), "{told}");
    let request = v1::QueryUsageRequest {
        meter: "calls".into(),
        start_time: Some(timestamp(now - TimeDelta::days(40))),
        end_time: Some(timestamp(now)),
        bucket: v1::UsageBucket::Day.into(),
        ..Default::default()
    };
    let figures = destination.client(&acme.key).usage().query_usage(request).await.unwrap().into_inner();
    assert_eq!(figures.total, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_made_for_what_is_kept() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = origin.tenant("acme").await;
    create_meter(&acme.client, "calls", v1::MeterAggregation::Sum).await;
    let now = quarter(origin.clock.now());
    assert_eq!(fates(&acme.client, vec![event("old", now - TimeDelta::days(34))]).await, ["RECORDED"]);
    let file = exported(&origin, &acme.id).await;
    // A young installation: nothing is kept of so long ago.
    sqlx::query("SELECT tenancy.drop_usage_partitions($1)")
        .bind(now - TimeDelta::days(2))
        .execute(&destination.database.superuser)
        .await
        .unwrap();
    kept_for(&destination, &file, TimeDelta::days(90)).await.unwrap();
    assert_eq!(stored(&destination.database).await, 1);
    assert_eq!(verify(&destination, &[]).await, ("1 organizations, 0 differences\n".into(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_older_than_the_hours_gets_them() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = origin.tenant("acme").await;
    create_meters_of_every_kind(&acme.client).await;
    let base = quarter(origin.clock.now()) - TimeDelta::hours(6);
    for (kind, _) in KINDS {
        let events = (0..12_i64).map(|number| v1::UsageEvent {
            meter: kind.into(),
            subject: "ada".into(),
            quantity: (number * 7 % 5).to_string(),
            ..event(&format!("{kind} {number}"), base + TimeDelta::minutes(number * 5 % 12 * 13))
        });
        assert_eq!(fates(&acme.client, events.collect()).await, ["RECORDED"; 12]);
    }
    let file = exported(&origin, &acme.id).await;
    let mut header: serde_json::Value = serde_json::from_str(file.lines().next().unwrap()).unwrap();
    header["schema_version"] = 16.into();
    let rows = file.lines().skip(1).filter(|line| !line.starts_with("{\"table\":\"usage_hours\""));
    let older = [header.to_string().as_str()].into_iter().chain(rows).collect::<Vec<_>>().join("\n");
    assert!(older.lines().count() < file.lines().count());
    restored(&destination, &signed(&older)).await.unwrap();
    let hours = async |world: &World| everything(&world.database.superuser, &acme.id).await.remove("usage_hours");
    assert_eq!(drift(&destination.database).await, 0);
    assert_eq!(hours(&destination).await.map(|rows| rows.len()), hours(&origin).await.map(|rows| rows.len()));
}
