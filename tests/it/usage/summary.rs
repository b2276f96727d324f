//! `GetUsageSummary`: every meter over the current period.

use chrono::{DateTime, TimeDelta};
use tenancy::proto::v1::{self, MeterAggregation as Aggregation};
use tonic::Code;

use crate::harness::{World, refused};
use crate::usage::support::{create_meter, event, fates};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_meter_has_its_figure_of_the_period() {
    let world = World::start().await;
    let client = &world.tenant("acme").await.client;
    let all = [
        ("avg", Aggregation::Avg, "2.5"),
        ("count", Aggregation::Count, "4"),
        ("latest", Aggregation::Latest, "1"),
        ("max", Aggregation::Max, "4"),
        ("min", Aggregation::Min, "1"),
        ("sum", Aggregation::Sum, "10"),
        ("unique", Aggregation::UniqueCount, "2"),
    ];
    for (key, aggregation, _) in all {
        create_meter(client, key, aggregation).await;
    }
    let summary = |request| async { client.usage().get_usage_summary(request).await.unwrap().into_inner() };
    let before = summary(v1::GetUsageSummaryRequest::default()).await;
    let values: Vec<_> = before.meters.iter().map(|meter| meter.value.as_str()).collect();
    assert_eq!(values, ["", "0", "", "", "", "0", "0"]);
    let start = before.start_time.unwrap();
    let start = DateTime::from_timestamp(start.seconds, 0).unwrap();
    for (key, ..) in all {
        let sent = [("9", "eve", -1), ("4", "ada", 0), ("3", "bob", 1), ("2", "ada", 2), ("1", "bob", 3)];
        let sent = sent.map(|(quantity, subject, milliseconds)| v1::UsageEvent {
            meter: key.into(),
            quantity: quantity.into(),
            subject: subject.into(),
            ..event(&format!("{key}/{milliseconds}"), start + TimeDelta::milliseconds(milliseconds))
        });
        assert_eq!(fates(client, sent.into()).await, ["RECORDED"; 5]);
    }
    let reply = summary(v1::GetUsageSummaryRequest::default()).await;
    assert_eq!((reply.start_time, reply.end_time), (before.start_time, before.end_time));
    let found: Vec<_> =
        reply.meters.iter().map(|meter| (meter.meter.as_str(), meter.aggregation(), meter.value.as_str())).collect();
    assert_eq!(found, all);
    assert!(reply.meters.iter().all(|meter| meter.event_count == 4 && meter.value_missing_reason.is_empty()));

    // The zone decides where the month begins.
    let named = v1::GetUsageSummaryRequest { time_zone: "Pacific/Kiritimati".into(), ..Default::default() };
    let abroad = summary(named).await;
    assert_eq!(abroad.time_zone, "Pacific/Kiritimati");
    assert_ne!(abroad.start_time, reply.start_time);
    let hourly = v1::GetUsageSummaryRequest { period: v1::UsageBucket::Hour.into(), ..Default::default() };
    let refusal = refused(client.usage().get_usage_summary(hourly).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}
