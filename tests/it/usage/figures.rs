//! `QueryUsage`, over the wire: what is counted, and what is refused.

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::Timestamp;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, World, refused};
use crate::usage::support::{create_meter, drift, event, fates, fold_hours, timestamp};

fn query(meter: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> v1::QueryUsageRequest {
    v1::QueryUsageRequest {
        meter: meter.into(),
        start_time: Some(timestamp(start)),
        end_time: Some(timestamp(end)),
        bucket: v1::UsageBucket::Hour.into(),
        ..Default::default()
    }
}

async fn ask(client: &Client, request: v1::QueryUsageRequest) -> v1::QueryUsageResponse {
    client.usage().query_usage(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_and_sums_are_exact_in_whole_and_by_subject() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let counted = create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let summed = create_meter(&client, "bytes", v1::MeterAggregation::Sum).await;
    let start = quarter(world.clock.now()) - TimeDelta::days(1);
    let end = start + TimeDelta::hours(2);
    let events = [
        ("0.1", "ada", 0),
        ("0.2", "ada", 1),
        ("999999999999999.999999999", "grace", 7_199),
        ("0.000000001", "", 3_600),
        ("0", "", 3_600),
        // Just outside.
        ("5", "ada", 7_200),
        ("5", "ada", -1),
    ];
    for meter in ["calls", "bytes"] {
        let events = events.iter().enumerate().map(|(number, (quantity, subject, seconds))| v1::UsageEvent {
            meter: meter.into(),
            quantity: (*quantity).into(),
            subject: (*subject).into(),
            ..event(&format!("{meter}/{number}"), start + TimeDelta::seconds(*seconds))
        });
        assert!(fates(&client, events.collect()).await.iter().all(|fate| fate == "RECORDED"));
    }
    for (meter, subject, total, events) in [
        ("bytes", "", "1000000000000000.3", 5),
        ("bytes", "ada", "0.3", 2),
        ("bytes", "grace", "999999999999999.999999999", 1),
        ("bytes", "nobody", "0", 0),
        ("calls", "", "5", 5),
        ("calls", "ada", "2", 2),
        ("calls", "nobody", "0", 0),
        (&summed.meter_id, "", "1000000000000000.3", 5),
        (&counted.meter_id, "ada", "2", 2),
    ] {
        let reply = ask(&client, v1::QueryUsageRequest { subject: subject.into(), ..query(meter, start, end) }).await;
        let number: i64 = reply.points.iter().map(|point| point.event_count).sum();
        assert_eq!((reply.total.as_str(), number), (total, events), "{meter} of {subject:?}: {reply:?}");
        let count = meter == "calls" || meter == counted.meter_id;
        let expected = if count { v1::MeterAggregation::Count } else { v1::MeterAggregation::Sum };
        assert_eq!(reply.aggregation(), expected);
        assert!(reply.points.iter().all(|point| !count || point.value == point.event_count.to_string()));
        assert!(reply.points.iter().all(|point| point.event_count > 0), "buckets without events are left out");
    }
    assert_eq!(drift(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_without_events_is_zero() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    for (key, aggregation) in [("calls", v1::MeterAggregation::Count), ("bytes", v1::MeterAggregation::Sum)] {
        create_meter(&client, key, aggregation).await;
        let (start, end) = (DateTime::from_timestamp(-900, 0).unwrap(), DateTime::from_timestamp(900, 0).unwrap());
        let reply = ask(&client, query(key, start, end)).await;
        assert_eq!((reply.points.len(), reply.total.as_str(), reply.time_zone.as_str()), (0, "0", "UTC"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_query_is_named() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let start = DateTime::from_timestamp(1_699_999_200, 0).unwrap();
    let good = || query("calls", start, start + TimeDelta::hours(10_000));
    assert_eq!(ask(&client, good()).await.total, "0", "10,000 buckets");
    let seconds = |seconds, nanos| Some(Timestamp { seconds, nanos });
    for (request, fields) in [
        (v1::QueryUsageRequest { start_time: None, ..good() }, &["start_time"][..]),
        (v1::QueryUsageRequest { end_time: None, ..good() }, &["end_time"]),
        (v1::QueryUsageRequest { end_time: seconds(i64::MAX, 0), ..good() }, &["end_time"]),
        (v1::QueryUsageRequest { end_time: good().start_time, ..good() }, &["end_time"]),
        (v1::QueryUsageRequest { end_time: seconds(0, 0), ..good() }, &["end_time"]),
        (v1::QueryUsageRequest { bucket: 0, ..good() }, &["bucket"]),
        (v1::QueryUsageRequest { bucket: 99, ..good() }, &["bucket"]),
        (v1::QueryUsageRequest { time_zone: "Mars/Base".into(), ..good() }, &["time_zone"]),
        (v1::QueryUsageRequest { subject: "x".repeat(129), ..good() }, &["subject"]),
        (query("calls", start, start + TimeDelta::hours(10_000) + TimeDelta::minutes(15)), &["bucket"]),
        (v1::QueryUsageRequest { meter: "calls".into(), ..Default::default() }, &["bucket", "end_time", "start_time"]),
    ] {
        let mut refusal = refused(client.usage().query_usage(request.clone()).await);
        refusal.fields.sort();
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == fields, "{refusal:?}");
    }
    let undeclared = v1::QueryUsageRequest { group_by: vec!["model".into()], ..good() };
    let refusal = refused(client.usage().query_usage(undeclared).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["group_by"], "{refusal:?}");
    for meter in ["", "nobody", "018f0000-0000-7000-8000-000000000001"] {
        let refusal =
            refused(client.usage().query_usage(v1::QueryUsageRequest { meter: meter.into(), ..good() }).await);
        assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "{meter:?}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_raw_events_is_refused_where_they_are_gone() {
    let world = World::start_with(&["--usage-retention", "60days"]).await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let hour = TimeDelta::hours(1);
    let gone = quarter(world.clock.now()) - TimeDelta::days(61);
    let kept = gone + TimeDelta::days(2);
    let by_minute = |request| v1::QueryUsageRequest { bucket: v1::UsageBucket::Minute.into(), ..request };
    let filter = v1::UsageFilter { property: "model".into(), values: vec!["x".into()] };
    let filtered = |request| v1::QueryUsageRequest { filters: vec![filter.clone()], ..request };
    let second = TimeDelta::seconds(1);
    for (is_raw, request) in [
        (false, query("calls", gone, gone + hour)),
        (true, query("calls", gone + second, gone + hour)),
        (true, by_minute(query("calls", gone, gone + hour))),
        (true, filtered(query("calls", gone, gone + hour))),
        (true, by_minute(query("calls", gone, gone + hour))),
        (false, query("calls", gone, kept + second)),
        (false, query("calls", kept + second, kept + hour)),
        (false, by_minute(query("calls", kept, kept + hour))),
        (false, filtered(query("calls", kept, kept + hour))),
    ] {
        let outcome = client.usage().query_usage(request.clone()).await;
        if is_raw {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::FailedPrecondition, "RAW_EVENTS_EXPIRED"), "{request:?}: {refusal:?}");
        } else {
            assert_eq!(outcome.unwrap().into_inner().total, "0", "{request:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_have_no_largest_number() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let start = DateTime::from_timestamp(1_699_999_200, 0).unwrap();
    for (key, aggregation) in [("bytes", v1::MeterAggregation::Sum), ("calls", v1::MeterAggregation::Count)] {
        let meter = create_meter(&tenant.client, key, aggregation).await;
        // What some 10^23 events of the largest quantity would add up to.
        sqlx::query(
            "INSERT INTO tenancy.usage_aggregates VALUES ($1::uuid, $2::uuid, '00000000-0000-0000-0000-000000000000',
                 $3, 12, 99999999999999999999999999999999999999.123456789)",
        )
        .bind(&tenant.id)
        .bind(&meter.meter_id)
        .bind(start)
        .execute(&world.database.superuser)
        .await
        .unwrap();
        fold_hours(&world.database).await;
        let reply = ask(&tenant.client, query(key, start, start + TimeDelta::hours(1))).await;
        let expected = if key == "calls" { "12" } else { "99999999999999999999999999999999999999.123456789" };
        assert_eq!((reply.total.as_str(), reply.points.len()), (expected, 1));
        assert_eq!(reply.points[0].value, expected);
    }
}
