//! What the tests of usage share: events for the wire, their fates as short texts, and a recount of what is stored.

use chrono::{DateTime, Utc};
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp, Value};
use sqlx::PgPool;
use tenancy::proto::v1;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::{Client, Cloned, refused, waiting};

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

/// The same, `count` of them.
pub fn events(prefix: &str, count: usize, at: DateTime<Utc>) -> Vec<v1::UsageEvent> {
    (0..count).map(|number| event(&format!("{prefix}/{number}"), at)).collect()
}

/// Creates a meter of the caller's own organization.
pub async fn create_meter(client: &Client, key: &str, aggregation: v1::MeterAggregation) -> v1::Meter {
    create_grouped_meter(client, key, aggregation, &[]).await
}

/// The same, grouped by these properties.
pub async fn create_grouped_meter(
    client: &Client,
    key: &str,
    aggregation: v1::MeterAggregation,
    group_by: &[&str],
) -> v1::Meter {
    let meter = v1::Meter {
        key: key.into(),
        display_name: key.into(),
        aggregation: aggregation.into(),
        group_by: group_by.iter().map(ToString::to_string).collect(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    client.meters().create_meter(request).await.unwrap().into_inner().meter.unwrap()
}

/// A meter of every aggregation, by its name in lower case. All group by `model`; `unique_count` counts subjects.
pub const KINDS: [(&str, v1::MeterAggregation); 7] = [
    ("count", v1::MeterAggregation::Count),
    ("sum", v1::MeterAggregation::Sum),
    ("min", v1::MeterAggregation::Min),
    ("max", v1::MeterAggregation::Max),
    ("avg", v1::MeterAggregation::Avg),
    ("latest", v1::MeterAggregation::Latest),
    ("unique_count", v1::MeterAggregation::UniqueCount),
];

/// Creates a meter of each of [`KINDS`].
pub async fn create_meters_of_every_kind(client: &Client) {
    for (key, aggregation) in KINDS {
        let meter = v1::Meter {
            key: key.into(),
            display_name: key.into(),
            aggregation: aggregation.into(),
            group_by: vec!["model".into()],
            ..v1::Meter::default()
        };
        let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
        client.meters().create_meter(request).await.unwrap();
    }
}

/// The property that those meters group by.
pub fn model(name: &str) -> Option<Struct> {
    let value = Value { kind: Some(Kind::StringValue(name.into())) };
    Some(Struct { fields: [("model".to_owned(), value)].into() })
}

/// Voids an event of the caller's own organization.
pub async fn void(client: &Client, id: &str, at: DateTime<Utc>) -> Result<v1::RecordedUsageEvent, Status> {
    let request = v1::VoidUsageEventRequest {
        event_id: id.into(),
        occurred_at: Some(timestamp(at)),
        reason: format!("{id} was wrong"),
        ..Default::default()
    };
    Ok(client.usage().void_usage_event(request).await?.into_inner().event.unwrap())
}

/// Records events of the caller's own organization; what became of each.
pub async fn record(client: &Client, events: Vec<v1::UsageEvent>) -> Result<Vec<v1::UsageEventResult>, Status> {
    let request = v1::RecordUsageRequest { events, ..Default::default() };
    Ok(client.usage().record_usage(request).await?.into_inner().results)
}

/// Fills the part of the queue that one organization may hold, which is half of 100,000 events, while somebody holds the
/// aggregates: a batch is under way and ten wait. Of those that come at once any may be the one that is refused. Those
/// that are not.
pub async fn fill(
    client: &Client,
    superuser: &PgPool,
    now: DateTime<Utc>,
) -> JoinSet<Result<Vec<v1::UsageEventResult>, Status>> {
    let mut requests = JoinSet::new();
    for number in 0..12 {
        let (client, batch) = (client.clone(), events(&number.to_string(), 5000, now));
        requests.spawn(async move { record(&client, batch).await });
        waiting(superuser, 1).await;
    }
    let refusal = refused(requests.join_next().await.unwrap().unwrap());
    assert!(refusal.is(Code::ResourceExhausted, "INGEST_OVERLOADED") && refusal.retry, "{refusal:?}");
    requests
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

/// Makes the hours anew of the quarters of meters that count or sum, where a test has put these into the table.
pub async fn fold_hours(database: &Cloned) {
    for statement in [
        "TRUNCATE tenancy.usage_hours",
        "INSERT INTO tenancy.usage_hours (organization_id, meter_id, series_id, bucket_start, event_count, quantity_sum)
         SELECT organization_id, meter_id, series_id, date_trunc('hour', bucket_start, 'UTC'), sum(event_count), sum(quantity_sum)
         FROM tenancy.usage_aggregates GROUP BY 1, 2, 3, 4",
    ] {
        sqlx::query(statement).execute(&database.superuser).await.unwrap();
    }
}

/// How many aggregates, by the quarter of an hour and by the hour, and distinct values differ from a recount of the raw
/// events, by its own way from an event to its series: by their names.
pub async fn drift(database: &Cloned) -> i64 {
    drift_in(&database.superuser).await
}

/// The same of a database of another sort.
pub async fn drift_in(superuser: &PgPool) -> i64 {
    sqlx::query_scalar(
        "WITH rules AS (
             SELECT meter_id, aggregation, value_property, group_by FROM tenancy.meters
             UNION ALL SELECT meter_id, aggregation, value_property, group_by FROM tenancy.platform_meters
         ), counting AS (
             SELECT e.*, r.aggregation,
                 CASE WHEN r.value_property IS NULL THEN e.subject ELSE e.properties ->> r.value_property END AS value,
                 ARRAY(SELECT coalesce(e.properties ->> k.name, '')
                     FROM unnest(r.group_by) WITH ORDINALITY AS k (name, place) ORDER BY k.place) AS groups
             FROM tenancy.usage_events e JOIN rules r USING (meter_id)
             WHERE (e.organization_id, e.occurred_at, e.event_id) NOT IN (
                 SELECT organization_id, occurred_at, event_id FROM tenancy.usage_voids)
         ), names AS (
             SELECT c.*, '' AS of_subject, '{}'::text[] AS of_groups FROM counting c
             UNION ALL SELECT c.*, '', c.groups FROM counting c WHERE c.groups <> '{}'
             UNION ALL SELECT c.*, c.subject, c.groups FROM counting c WHERE c.subject <> ''
         ), series AS (
             SELECT n.*, CASE WHEN n.of_subject = '' AND n.of_groups = '{}' THEN '00000000-0000-0000-0000-000000000000'
                 ELSE s.series_id END AS series
             FROM names n LEFT JOIN tenancy.usage_series s ON s.organization_id = n.organization_id
                 AND s.meter_id = n.meter_id AND s.subject = n.of_subject AND s.group_values = n.of_groups
         ), counted AS (
             SELECT width, organization_id, meter_id, series, date_bin(width, occurred_at, 'epoch') AS bucket, count(*),
                 sum(quantity),
                 CASE aggregation WHEN 'min' THEN min(quantity) END, CASE aggregation WHEN 'max' THEN max(quantity) END,
                 CASE aggregation WHEN 'latest' THEN max(occurred_at) END,
                 CASE aggregation WHEN 'latest' THEN (array_agg(event_id ORDER BY occurred_at DESC, event_id DESC))[1] END,
                 CASE aggregation WHEN 'latest' THEN (array_agg(quantity ORDER BY occurred_at DESC, event_id DESC))[1] END
             FROM series CROSS JOIN (VALUES (interval '15 minutes'), (interval '1 hour')) AS buckets (width)
             GROUP BY width, organization_id, meter_id, series, bucket, aggregation
         ), kept AS (
             SELECT interval '15 minutes', a.* FROM tenancy.usage_aggregates a
             UNION ALL SELECT interval '1 hour', h.* FROM tenancy.usage_hours h
         ), unique_counts AS (
             SELECT organization_id, meter_id, series, date_bin('15 minutes', occurred_at, 'epoch'), count(DISTINCT value)
             FROM series WHERE aggregation = 'unique_count' GROUP BY 1, 2, 3, 4
         ), unique_stored AS (
             SELECT organization_id, meter_id, series_id, bucket_start, count(*)
             FROM tenancy.usage_unique_values GROUP BY 1, 2, 3, 4
         )
         SELECT (SELECT count(*) FROM (
                 (TABLE counted EXCEPT ALL TABLE kept) UNION ALL (TABLE kept EXCEPT ALL TABLE counted)
             ) AS different) + (SELECT count(*) FROM (
                 (TABLE unique_counts EXCEPT ALL TABLE unique_stored)
                 UNION ALL (TABLE unique_stored EXCEPT ALL TABLE unique_counts)
             ) AS different)",
    )
    .fetch_one(superuser)
    .await
    .unwrap()
}
