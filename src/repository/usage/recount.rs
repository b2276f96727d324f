//! A recount of what is kept for ever: what differs is damage. Of the quarters of an hour and the distinct values from the
//! raw events, as long as these are kept; of the hours from their quarters, which is all that there is of them once the raw
//! events are dropped. Where both find nothing, an hour is what its raw events add up to. A quarter that is damaged makes
//! its hour differ too, be that as it should be.
//!
//! It is right also while events are recorded and voided. Each of them changes raw events, aggregates and distinct values
//! in one transaction, and a slice is one statement, whose snapshot has all of a transaction or nothing of it. Upkeep is
//! another matter: a dropped partition is gone from every snapshot. So [`kept`] locks the table of events, as any reader
//! does, and holds that to the end of its scope, in which the slice is compared afterwards.

use std::fmt;
use std::ops::Range;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::model::usage::SeriesId;
use crate::repository::scope::{Scope, TenantScope};

/// A quarter of an hour of a series that is not what its raw events add up to, or an hour that is not what its quarters do.
/// `expected` and `found` are for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Whether it is an hour.
    pub is_hour: bool,
    /// The meter.
    pub meter_id: Uuid,
    /// Its key; `None` for a meter that does not exist.
    pub meter: Option<String>,
    /// The series; nil for the meter as a whole.
    pub series_id: Uuid,
    /// Of whom; `None` for the whole, or where the series has no name.
    pub subject: Option<String>,
    /// Of which groups, as the subject.
    pub group_values: Option<Vec<String>>,
    /// The start of the quarter of an hour, or of the hour.
    pub bucket_start: DateTime<Utc>,
    /// What the raw events, or the quarters, come to.
    pub expected: String,
    /// What is kept.
    pub found: String,
}

/// The time whose raw events are kept: from the start of the oldest partition to the end of the newest. `None` without
/// partitions. Until the scope ends, none is dropped.
pub async fn kept<K: fmt::Debug + Send>(scope: &mut Scope<K>) -> Result<Option<Range<DateTime<Utc>>>, Error> {
    sqlx::query!("SELECT FROM tenancy.usage_events LIMIT 0").execute(&mut *scope).await?;
    // By their names, as the functions of the upkeep have it.
    let row = sqlx::query!(
        "SELECT min(week.start) AS oldest, max(week.start) + interval '7 days' AS newest
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         CROSS JOIN LATERAL (
             SELECT to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS start
         ) AS week
         WHERE i.inhparent = 'tenancy.usage_events'::regclass"
    )
    .fetch_one(&mut *scope)
    .await?;
    Ok(row.oldest.zip(row.newest).map(|(oldest, newest)| oldest..newest))
}

/// How many quarters of an hour of the scope's organization lie in a span, series by series.
pub async fn quarters(scope: &mut TenantScope, span: &Range<DateTime<Utc>>) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM tenancy.usage_aggregates
           WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3"#,
        scope.organization_id().uuid(),
        span.start,
        span.end
    )
    .fetch_one(&mut *scope)
    .await?)
}

/// Compares the quarters and distinct values of the scope's organization in a slice of time, on quarters of an hour and
/// within what is [`kept`], with a recount. Returns the first `most` differences.
///
/// Error: `DeadlineExceeded` for a slice of too many events; smaller ones may do.
pub async fn different_quarters(
    scope: &mut TenantScope,
    slice: &Range<DateTime<Utc>>,
    most: i64,
) -> Result<Vec<Difference>, Error> {
    Ok(sqlx::query_as!(
        Difference,
        r#"WITH rules AS (
               SELECT meter_id, key, aggregation FROM tenancy.meters WHERE organization_id = $1
               UNION ALL SELECT meter_id, key, aggregation FROM tenancy.platform_meters
           ), counting AS (
               SELECT e.meter_id, places.series_id, date_bin('15 minutes', e.occurred_at, 'epoch') AS bucket_start,
                   e.occurred_at, e.event_id, e.quantity, e.value_id, places.series_id = $4 OR s.series_id IS NOT NULL AS named
               FROM tenancy.usage_events e
               LEFT JOIN tenancy.usage_series s
                   ON s.organization_id = e.organization_id AND s.meter_id = e.meter_id AND s.series_id = e.series_id
               CROSS JOIN LATERAL (VALUES ($4::uuid), (e.series_id), (s.parent_series_id)) AS places (series_id)
               WHERE e.organization_id = $1 AND e.occurred_at >= $2 AND e.occurred_at < $3
                 AND places.series_id IS NOT NULL
                 AND NOT EXISTS (SELECT FROM tenancy.usage_voids v WHERE v.organization_id = e.organization_id
                     AND v.occurred_at = e.occurred_at AND v.event_id = e.event_id)
           ), expected AS (
               SELECT c.meter_id, c.series_id, c.bucket_start, count(*) AS event_count, sum(c.quantity) AS quantity_sum,
                   min(c.quantity) FILTER (WHERE r.aggregation = 'min') AS quantity_min,
                   max(c.quantity) FILTER (WHERE r.aggregation = 'max') AS quantity_max,
                   max(c.occurred_at) FILTER (WHERE r.aggregation = 'latest') AS latest_at,
                   (array_agg(c.event_id ORDER BY c.occurred_at DESC, c.event_id DESC)
                       FILTER (WHERE r.aggregation = 'latest'))[1] AS latest_event_id,
                   (array_agg(c.quantity ORDER BY c.occurred_at DESC, c.event_id DESC)
                       FILTER (WHERE r.aggregation = 'latest'))[1] AS latest_quantity
               FROM counting c LEFT JOIN rules r USING (meter_id)
               GROUP BY c.meter_id, c.series_id, c.bucket_start
           ), found AS (
               SELECT meter_id, series_id, bucket_start, event_count, quantity_sum, quantity_min, quantity_max, latest_at,
                   latest_event_id, latest_quantity
               FROM tenancy.usage_aggregates
               WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3
           ), different AS (
               SELECT meter_id, series_id, bucket_start,
                   concat('count=', coalesce(e.event_count, 0), ' sum=' || trim_scale(e.quantity_sum),
                       ' min=' || trim_scale(e.quantity_min), ' max=' || trim_scale(e.quantity_max),
                       ' latest=' || trim_scale(e.latest_quantity) || ' of ' || e.latest_event_id
                           || to_char(e.latest_at AT TIME ZONE 'UTC', '" at" YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) AS expected,
                   concat('count=', coalesce(f.event_count, 0), ' sum=' || trim_scale(f.quantity_sum),
                       ' min=' || trim_scale(f.quantity_min), ' max=' || trim_scale(f.quantity_max),
                       ' latest=' || trim_scale(f.latest_quantity) || ' of ' || f.latest_event_id
                           || to_char(f.latest_at AT TIME ZONE 'UTC', '" at" YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) AS found
               FROM expected e FULL JOIN found f USING (meter_id, series_id, bucket_start)
               WHERE (e.event_count, e.quantity_sum, e.quantity_min, e.quantity_max, e.latest_at, e.latest_event_id,
                       e.latest_quantity)
                   IS DISTINCT FROM (f.event_count, f.quantity_sum, f.quantity_min, f.quantity_max, f.latest_at,
                       f.latest_event_id, f.latest_quantity)
               UNION ALL
               SELECT meter_id, series_id, bucket_start,
                   concat('value ', value_id, CASE WHEN e.here THEN ' is there' ELSE ' is not there' END),
                   concat('value ', value_id, CASE WHEN f.here THEN ' is there' ELSE ' is not there' END)
               FROM (
                   SELECT DISTINCT meter_id, series_id, bucket_start, value_id, true AS here
                   FROM counting WHERE value_id IS NOT NULL
               ) AS e FULL JOIN (
                   SELECT meter_id, series_id, bucket_start, value_id, true AS here FROM tenancy.usage_unique_values
                   WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3
               ) AS f USING (meter_id, series_id, bucket_start, value_id)
               WHERE e.here IS DISTINCT FROM f.here
               UNION ALL
               SELECT DISTINCT meter_id, series_id, bucket_start, 'a name of the series', 'none' FROM counting WHERE NOT named
           )
           SELECT false AS "is_hour!", d.meter_id AS "meter_id!", r.key AS "meter?", d.series_id AS "series_id!", s.subject AS "subject?",
               s.group_values AS "group_values?", d.bucket_start AS "bucket_start!", d.expected AS "expected!",
               d.found AS "found!"
           FROM different d
           LEFT JOIN rules r ON r.meter_id = d.meter_id
           LEFT JOIN tenancy.usage_series s
               ON s.organization_id = $1 AND s.meter_id = d.meter_id AND s.series_id = d.series_id
           ORDER BY d.bucket_start, d.meter_id, d.series_id, d.expected LIMIT $5"#,
        scope.organization_id().uuid(),
        slice.start,
        slice.end,
        SeriesId::WHOLE.uuid(),
        most
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// The hours from the first to the last for which the scope's organization has an aggregate of either kind in a span that
/// begins and ends on an hour. `None` without any.
pub async fn hours(
    scope: &mut TenantScope,
    span: &Range<DateTime<Utc>>,
) -> Result<Option<Range<DateTime<Utc>>>, Error> {
    let row = sqlx::query!(
        "SELECT date_bin('1 hour', least(q.first, h.first), 'epoch') AS first,
             date_bin('1 hour', greatest(q.last, h.last), 'epoch') + interval '1 hour' AS ends
         FROM (
             SELECT min(bucket_start) AS first, max(bucket_start) AS last FROM tenancy.usage_aggregates
             WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3
         ) AS q CROSS JOIN (
             SELECT min(bucket_start) AS first, max(bucket_start) AS last FROM tenancy.usage_hours
             WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3
         ) AS h",
        scope.organization_id().uuid(),
        span.start,
        span.end
    )
    .fetch_one(&mut *scope)
    .await?;
    Ok(row.first.zip(row.ends).map(|(first, ends)| first..ends))
}

/// Compares the hours of the scope's organization in a slice of time, on hours, with what their quarters add up to. Returns
/// the first `most` differences.
///
/// Error: `DeadlineExceeded` for a slice of too many; smaller ones may do.
pub async fn different_hours(
    scope: &mut TenantScope,
    slice: &Range<DateTime<Utc>>,
    most: i64,
) -> Result<Vec<Difference>, Error> {
    Ok(sqlx::query_as!(
        Difference,
        r#"WITH rules AS (
               SELECT meter_id, key FROM tenancy.meters WHERE organization_id = $1
               UNION ALL SELECT meter_id, key FROM tenancy.platform_meters
           ), expected AS (
               SELECT meter_id, series_id, date_bin('1 hour', bucket_start, 'epoch') AS bucket_start,
                   sum(event_count) AS event_count, sum(quantity_sum) AS quantity_sum, min(quantity_min) AS quantity_min,
                   max(quantity_max) AS quantity_max, max(latest_at) AS latest_at,
                   (array_agg(latest_event_id ORDER BY latest_at DESC, latest_event_id DESC)
                       FILTER (WHERE latest_at IS NOT NULL))[1] AS latest_event_id,
                   (array_agg(latest_quantity ORDER BY latest_at DESC, latest_event_id DESC)
                       FILTER (WHERE latest_at IS NOT NULL))[1] AS latest_quantity
               FROM tenancy.usage_aggregates
               WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3
               GROUP BY 1, 2, 3
           ), found AS (
               SELECT meter_id, series_id, bucket_start, event_count, quantity_sum, quantity_min, quantity_max, latest_at,
                   latest_event_id, latest_quantity
               FROM tenancy.usage_hours
               WHERE organization_id = $1 AND bucket_start >= $2 AND bucket_start < $3
           ), different AS (
               SELECT meter_id, series_id, bucket_start,
                   concat('count=', coalesce(e.event_count, 0), ' sum=' || trim_scale(e.quantity_sum),
                       ' min=' || trim_scale(e.quantity_min), ' max=' || trim_scale(e.quantity_max),
                       ' latest=' || trim_scale(e.latest_quantity) || ' of ' || e.latest_event_id
                           || to_char(e.latest_at AT TIME ZONE 'UTC', '" at" YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) AS expected,
                   concat('count=', coalesce(f.event_count, 0), ' sum=' || trim_scale(f.quantity_sum),
                       ' min=' || trim_scale(f.quantity_min), ' max=' || trim_scale(f.quantity_max),
                       ' latest=' || trim_scale(f.latest_quantity) || ' of ' || f.latest_event_id
                           || to_char(f.latest_at AT TIME ZONE 'UTC', '" at" YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) AS found
               FROM expected e FULL JOIN found f USING (meter_id, series_id, bucket_start)
               WHERE (e.event_count, e.quantity_sum, e.quantity_min, e.quantity_max, e.latest_at, e.latest_event_id,
                       e.latest_quantity)
                   IS DISTINCT FROM (f.event_count, f.quantity_sum, f.quantity_min, f.quantity_max, f.latest_at,
                       f.latest_event_id, f.latest_quantity)
           )
           SELECT true AS "is_hour!", d.meter_id AS "meter_id!", r.key AS "meter?", d.series_id AS "series_id!",
               s.subject AS "subject?", s.group_values AS "group_values?", d.bucket_start AS "bucket_start!",
               d.expected AS "expected!", d.found AS "found!"
           FROM different d
           LEFT JOIN rules r ON r.meter_id = d.meter_id
           LEFT JOIN tenancy.usage_series s
               ON s.organization_id = $1 AND s.meter_id = d.meter_id AND s.series_id = d.series_id
           ORDER BY d.bucket_start, d.meter_id, d.series_id LIMIT $4"#,
        scope.organization_id().uuid(),
        slice.start,
        slice.end,
        most
    )
    .fetch_all(&mut *scope)
    .await?)
}
