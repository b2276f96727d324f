//! Voids over the wire: an event leaves every figure once, and stays on record.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::value::Kind;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;
use tenancy::worker::upkeep::{self, UpkeepOptions};
use tonic::Code;

use crate::harness::{Client, Cloned, World, refused};
use crate::usage::support::{
    KINDS, create_meter, create_meters_of_every_kind, drift, event, fates, model, stored, timestamp, void,
};

/// What is kept of a meter as a whole: number, sum, least, greatest and latest, then how many distinct values.
async fn kept(database: &Cloned, meter: &str) -> String {
    sqlx::query_scalar(
        "SELECT concat_ws(' ', a.event_count, trim_scale(a.quantity_sum), trim_scale(a.quantity_min),
             trim_scale(a.quantity_max), trim_scale(a.latest_quantity), (SELECT nullif(count(*), 0)
                 FROM tenancy.usage_unique_values u WHERE (u.meter_id, u.series_id) = (a.meter_id, a.series_id)))
         FROM tenancy.meters m LEFT JOIN tenancy.usage_aggregates a
             ON a.meter_id = m.meter_id AND a.series_id = '00000000-0000-0000-0000-000000000000'
         WHERE m.key = $1",
    )
    .bind(meter)
    .fetch_one(&database.superuser)
    .await
    .unwrap()
}

/// The figures of the meters that add up, as they are answered.
async fn answered(client: &Client, meter: &str, at: DateTime<Utc>, subject: &str) -> String {
    let request = v1::QueryUsageRequest {
        meter: meter.into(),
        start_time: Some(timestamp(quarter(at))),
        end_time: Some(timestamp(quarter(at) + TimeDelta::minutes(15))),
        bucket: v1::UsageBucket::Hour.into(),
        subject: subject.into(),
        ..Default::default()
    };
    client.usage().query_usage(request).await.unwrap().into_inner().total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voided_event_leaves_every_figure() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meters_of_every_kind(&client).await;
    let at = quarter(world.clock.now()) - TimeDelta::hours(1);
    // Subject, group, quantity; a second apart.
    let sent = [("ada", "x", "5"), ("grace", "x", "0.5"), ("ada", "y", "9"), ("", "y", "2.25"), ("ada", "x", "3")];
    for (kind, _) in KINDS {
        let events = sent.iter().enumerate().map(|(number, (subject, group, quantity))| v1::UsageEvent {
            meter: kind.into(),
            quantity: (*quantity).into(),
            // The meter of distinct subjects wants one.
            subject: if kind == "unique_count" && subject.is_empty() { "eve" } else { subject }.into(),
            properties: model(group),
            ..event(&format!("{kind} {number}"), at + TimeDelta::seconds(i64::try_from(number).unwrap()))
        });
        assert_eq!(fates(&client, events.collect()).await, ["RECORDED"; 5]);
    }
    assert_eq!(drift(&world.database).await, 0);

    // What is left after each void, the greatest first, and of the latest the last.
    let order = [2, 4, 1, 3, 0];
    let expected = [
        ("count", ["4 10.75", "3 7.75", "2 7.25", "1 5", ""]),
        ("sum", ["4 10.75", "3 7.75", "2 7.25", "1 5", ""]),
        ("min", ["4 10.75 0.5", "3 7.75 0.5", "2 7.25 2.25", "1 5 5", ""]),
        ("max", ["4 10.75 5", "3 7.75 5", "2 7.25 5", "1 5 5", ""]),
        ("avg", ["4 10.75", "3 7.75", "2 7.25", "1 5", ""]),
        ("latest", ["4 10.75 3", "3 7.75 2.25", "2 7.25 2.25", "1 5 5", ""]),
        ("unique_count", ["4 10.75 3", "3 7.75 3", "2 7.25 2", "1 5 1", ""]),
    ];
    for (kind, left) in expected {
        for (number, left) in order.into_iter().zip(left) {
            let voided = void(&client, &format!("{kind} {number}"), at + TimeDelta::seconds(number)).await.unwrap();
            assert!(voided.void_time.is_some());
            assert_eq!(kept(&world.database, kind).await, left, "{kind} after {number}");
            assert_eq!(drift(&world.database).await, 0, "{kind} after {number}");
        }
    }
    let rows: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM tenancy.usage_aggregates) + (SELECT count(*) FROM tenancy.usage_hours)
             + (SELECT count(*) FROM tenancy.usage_unique_values)",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!((rows, stored(&world.database).await), (0, 35), "nothing counts, and everything is on record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_void_happens_once_and_is_audited_once() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Sum).await;
    let at = world.clock.now() - TimeDelta::hours(1);
    let wrong = v1::UsageEvent {
        quantity: "7.50".into(),
        subject: "ada".into(),
        properties: model("x"),
        ..event("invoice 1", at)
    };
    let good = v1::UsageEvent { quantity: "1".into(), subject: "ada".into(), ..event("invoice 2", at) };
    assert_eq!(fates(&client, vec![wrong.clone(), good]).await, ["RECORDED", "RECORDED"]);
    assert_eq!(answered(&client, "calls", at, "").await, "8.5");

    let request = v1::VoidUsageEventRequest {
        event_id: "invoice 1".into(),
        occurred_at: Some(timestamp(at)),
        reason: "sent by a test system".into(),
        ..Default::default()
    };
    let by = client.clone().header("x-request-id", "the-void");
    let first = by.usage().void_usage_event(request.clone()).await.unwrap().into_inner().event.unwrap();
    let truncated = DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap();
    let expected = v1::UsageEvent { quantity: "7.5".into(), occurred_at: Some(timestamp(truncated)), ..wrong.clone() };
    assert_eq!(first.event, Some(expected));
    assert_eq!(first.void_reason, "sent by a test system");
    assert!(first.record_time.is_some() && first.void_time.is_some() && !first.meter_id.is_empty());
    for subject in ["", "ada"] {
        assert_eq!(answered(&client, "calls", at, subject).await, "1");
    }

    // Again, for another reason: as it was.
    world.clock.advance(Duration::from_mins(1));
    let again = v1::VoidUsageEventRequest { reason: "to be sure".into(), ..request };
    let again = client.usage().void_usage_event(again).await.unwrap().into_inner().event.unwrap();
    assert_eq!(again, first);
    // Its identity stays taken.
    let other = v1::UsageEvent { quantity: "2".into(), ..wrong.clone() };
    assert_eq!(fates(&client, vec![wrong, other.clone()]).await, ["DUPLICATE", "CONFLICT"]);
    assert_eq!((answered(&client, "calls", at, "").await, drift(&world.database).await), ("1".into(), 0));
    // The correction is another event.
    assert_eq!(fates(&client, vec![v1::UsageEvent { event_id: "invoice 1a".into(), ..other }]).await, ["RECORDED"]);
    assert_eq!((answered(&client, "calls", at, "ada").await, drift(&world.database).await), ("3".into(), 0));

    let filter = "action = \"usage_events.void\"".to_owned();
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let audit = client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert_eq!((audit[0].request_id.as_str(), audit[0].resource_type.as_str()), ("the-void", "usage_event"));
    assert_eq!(audit[0].resource_id, "invoice 1");
    let quantity = audit[0].before.as_ref().unwrap().fields["quantity"].kind.clone();
    assert_eq!(quantity, Some(Kind::StringValue("7.5".into())));
    assert!(format!("{:?}", audit[0].after).contains("sent by a test system"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_on_record_cannot_be_voided() {
    let world = World::start().await;
    let (client, stranger) = (world.tenant("acme").await.client, world.tenant("other").await.client);
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let at = world.clock.now() - TimeDelta::days(30);
    fates(&client, vec![event("a", at), event("b", at)]).await;
    void(&client, "b", at).await.unwrap();
    let not_found = async |client: &Client, id: &str, at: DateTime<Utc>| {
        let refusal = refused(void(client, id, at).await);
        assert!(refusal.is(Code::NotFound, "USAGE_EVENT_NOT_FOUND"), "{refusal:?}");
    };
    not_found(&client, "c", at).await;
    not_found(&client, "a", at + TimeDelta::milliseconds(1)).await;
    not_found(&client, "a", at + TimeDelta::days(3000)).await;
    not_found(&stranger, "a", at).await;
    let refusal = refused(client.usage().void_usage_event(v1::VoidUsageEventRequest::default()).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");

    // Its raw events aged out: it can neither be voided, nor is there anything left to tell that it is.
    world.clock.advance(Duration::from_hours(24 * 70));
    let options = UpkeepOptions { accepted_age: TimeDelta::days(35), retention: TimeDelta::days(90) };
    upkeep::run_once(&world.running.database, &world.clock, options).await.unwrap();
    assert_eq!(stored(&world.database).await, 0);
    not_found(&client, "a", at).await;
    not_found(&client, "b", at).await;
    assert_eq!(answered(&client, "calls", at, "").await, "1", "the figure stays, without what was voided");
}
