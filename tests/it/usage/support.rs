//! What the tests of usage share: events for the wire, their fates as short texts, and a recount of what is stored.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, Cloned};

/// A time for the wire.
pub fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap() }
}

/// An event of the meter `calls`.
pub fn event(id: &str, at: DateTime<Utc>) -> v1::UsageEvent {
    v1::UsageEvent {
        event_id: id.into(),
        meter: "calls".into(),
        occurred_at: Some(timestamp(at)),
        ..v1::UsageEvent::default()
    }
}

/// Creates a meter of the caller's own organization.
pub async fn create_meter(client: &Client, key: &str, aggregation: v1::MeterAggregation) -> v1::Meter {
    let meter = v1::Meter {
        key: key.into(),
        display_name: key.into(),
        aggregation: aggregation.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    client.meters().create_meter(request).await.unwrap().into_inner().meter.unwrap()
}

/// Records events of the caller's own organization; what became of each.
pub async fn record(client: &Client, events: Vec<v1::UsageEvent>) -> Result<Vec<v1::UsageEventResult>, Status> {
    let request = v1::RecordUsageRequest { events, ..Default::default() };
    Ok(client.usage().record_usage(request).await?.into_inner().results)
}

/// The fate of an event: its status, or the reason why it was rejected.
pub fn fate(result: &v1::UsageEventResult) -> String {
    match result.status() {
        v1::UsageEventStatus::Rejected => result.reason.clone(),
        status => {
            assert_eq!(result.reason, "");
            status.as_str_name().strip_prefix("USAGE_EVENT_STATUS_").unwrap().to_owned()
        }
    }
}

/// Records events that reach the writer; their fates.
pub async fn fates(client: &Client, events: Vec<v1::UsageEvent>) -> Vec<String> {
    record(client, events).await.unwrap().iter().map(fate).collect()
}

/// How many raw events there are.
pub async fn stored(database: &Cloned) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM tenancy.usage_events").fetch_one(&database.superuser).await.unwrap()
}

/// How many aggregates differ from a recount of the raw events, by its own way from a subject to its series.
pub async fn drift(database: &Cloned) -> i64 {
    sqlx::query_scalar(
        "WITH hashed AS (
             SELECT *, substring(sha256(convert_to(subject, 'UTF8')) FOR 16) AS hash FROM tenancy.usage_events
         ), series AS (
             SELECT *, encode(set_byte(set_byte(hash, 6, get_byte(hash, 6) & 15 | 128),
                 8, get_byte(hash, 8) & 63 | 128), 'hex')::uuid AS series_id FROM hashed WHERE subject <> ''
             UNION ALL
             SELECT *, '00000000-0000-0000-0000-000000000000'::uuid FROM hashed
         ), counted AS (
             SELECT organization_id, meter_id, series_id, date_bin('15 minutes', occurred_at, 'epoch'), count(*),
                 sum(quantity)
             FROM series GROUP BY 1, 2, 3, 4
         )
         SELECT count(*) FROM (
             (TABLE counted EXCEPT ALL TABLE tenancy.usage_aggregates)
             UNION ALL (TABLE tenancy.usage_aggregates EXCEPT ALL TABLE counted)
         ) AS different",
    )
    .fetch_one(&database.superuser)
    .await
    .unwrap()
}
