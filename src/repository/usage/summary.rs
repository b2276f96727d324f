//! The figures of several meters over one period.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::MeterId;
use crate::model::meter::Aggregation;
use crate::model::usage::query::{Sources, Span};
use crate::repository::scope::TenantScope;
use crate::repository::usage::figures::Figure;
use crate::repository::usage::{UNIQUE_VALUES, columns};

/// The figure of each meter as a whole over a period that begins and ends on a quarter of an hour, in the order of the
/// meters. `None`: a unique count that reads more than [`UNIQUE_VALUES`].
pub async fn summary(
    scope: &mut TenantScope,
    meters: &[(MeterId, Aggregation)],
    period: &Span,
) -> Result<Vec<Option<Figure>>, Error> {
    let ids: Vec<Uuid> = meters.iter().map(|(id, _)| id.uuid()).collect();
    let aggregations: Vec<&str> = meters.iter().map(|(_, aggregation)| aggregation.as_str()).collect();
    let (start, end): (DateTime<Utc>, DateTime<Utc>) = (period.start, period.end);
    // One bucket: hours, and the quarters before the first and after the last of them.
    let sources = Sources::of(&[start, end], false);
    let (hours, quarters) = (columns(&sources.hours), columns(&sources.quarters));
    let rows = sqlx::query!(
        r#"SELECT a.event_count AS "event_count!", a.value, u.stored AS "unique_values!", u.distinct_values
           FROM unnest($2::uuid[], $3::text[]) WITH ORDINALITY AS m (meter_id, aggregation, place)
           CROSS JOIN LATERAL (
               SELECT coalesce(sum(a.event_count), 0)::bigint AS event_count,
                   CASE m.aggregation
                       WHEN 'count' THEN coalesce(sum(a.event_count), 0)::text
                       WHEN 'sum' THEN trim_scale(coalesce(sum(a.quantity_sum), 0))::text
                       WHEN 'avg' THEN trim_scale(round(sum(a.quantity_sum) / nullif(sum(a.event_count), 0), 9))::text
                       WHEN 'min' THEN trim_scale(min(a.quantity_min))::text
                       WHEN 'max' THEN trim_scale(max(a.quantity_max))::text
                       WHEN 'latest' THEN trim_scale((max(CASE WHEN m.aggregation = 'latest' THEN ARRAY[
                           lpad((extract(epoch FROM a.latest_at) * 1000)::bigint::text, 20, '0') COLLATE "C",
                           a.latest_event_id::text, a.latest_quantity::text] END))[3]::numeric)::text
                   END AS value
               FROM (
                   SELECT h.* FROM unnest($7::timestamptz[], $8::timestamptz[]) AS span (starts, ends)
                   CROSS JOIN LATERAL (
                       SELECT * FROM tenancy.usage_hours u
                       WHERE u.organization_id = $1 AND u.meter_id = m.meter_id
                         AND u.series_id = '00000000-0000-0000-0000-000000000000'
                         AND u.bucket_start >= span.starts AND u.bucket_start < span.ends
                       OFFSET 0
                   ) AS h
                   UNION ALL
                   SELECT q.* FROM unnest($9::timestamptz[], $10::timestamptz[]) AS span (starts, ends)
                   CROSS JOIN LATERAL (
                       SELECT * FROM tenancy.usage_aggregates u
                       WHERE u.organization_id = $1 AND u.meter_id = m.meter_id
                         AND u.series_id = '00000000-0000-0000-0000-000000000000'
                         AND u.bucket_start >= span.starts AND u.bucket_start < span.ends
                       OFFSET 0
                   ) AS q
               ) AS a
           ) AS a
           CROSS JOIN LATERAL (
               SELECT count(*) AS stored, count(DISTINCT v.value_id)::text AS distinct_values
               FROM (
                   SELECT u.value_id FROM tenancy.usage_unique_values u
                   WHERE m.aggregation = 'unique_count' AND u.organization_id = $1 AND u.meter_id = m.meter_id
                     AND u.series_id = '00000000-0000-0000-0000-000000000000'
                     AND u.bucket_start >= $4 AND u.bucket_start < $5
                   LIMIT $6::bigint + 1
               ) AS v
           ) AS u
           ORDER BY m.place"#,
        scope.organization_id().uuid(),
        &ids,
        &aggregations as &[&str],
        start,
        end,
        UNIQUE_VALUES,
        &hours.0,
        &hours.1,
        &quarters.0,
        &quarters.1
    )
    .fetch_all(&mut *scope)
    .await?;
    let figures = meters.iter().zip(rows).map(|((_, aggregation), row)| {
        let value = if *aggregation == Aggregation::UniqueCount { row.distinct_values } else { row.value };
        (row.unique_values <= UNIQUE_VALUES)
            .then(|| Figure { event_count: row.event_count, value: value.unwrap_or_default() })
    });
    Ok(figures.collect())
}
