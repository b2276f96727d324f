//! The figures of a meter over a range, from aggregates by the hour and, where these are too coarse, from those by the quarter
//! of an hour and from raw events: in one statement, so of one snapshot.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::error::Error;
use crate::ids::MeterId;
use crate::model::meter::Aggregation;
use crate::model::usage::query::{Filter, Selection, Sources, Subjects};
use crate::repository::scope::TenantScope;
use crate::repository::usage::{UNIQUE_VALUES, columns};

/// The most figures of an answer.
const FIGURES: usize = 10_000;

/// The figures of a range.
#[derive(PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// Of all groups together.
    pub whole: Line,
    /// Group by group, in the order of their keys, where they were asked for.
    pub groups: Vec<(Vec<String>, Line)>,
}

/// The figures of one group.
#[derive(PartialEq, Eq, Default, Debug)]
pub struct Line {
    /// Bucket by bucket, in the order of time, without those that have no event: `boundaries[bucket]` to
    /// `boundaries[bucket + 1]`.
    pub points: Vec<(usize, Figure)>,
    /// The figure of the whole range.
    pub total: Figure,
}

/// A figure.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figure {
    /// How many events it is made of.
    pub event_count: i64,
    /// A decimal number; empty where there is none, as the greatest of nothing.
    pub value: String,
}

/// One figure of the answer. Of the whole, `key` means nothing, and of a total, `bucket`.
struct Row {
    key: Option<Vec<String>>,
    bucket: Option<i32>,
    is_whole: bool,
    is_total: bool,
    event_count: i64,
    value: Option<String>,
    /// How many values were read for a unique count, the same in every row; one more than the most, if there are more.
    unique_values: i64,
}

/// The figures of a selection of a meter's events over the buckets that the boundaries cut: from the first one,
/// inclusive, to the last, exclusive. There are at least two boundaries, ascending; `sources` are made of them.
///
/// The key of a group has a text for each of the selection's `group_by`, and then the subject for [`Subjects::Each`].
///
/// Boundaries come from outside, so that one knowledge of time zones decides, not Postgres's beside ours.
///
/// Error: `USAGE_RESULT_TOO_LARGE`.
pub async fn figures(
    scope: &mut TenantScope,
    meter: (MeterId, Aggregation),
    selection: &Selection,
    sources: &Sources,
    boundaries: &[DateTime<Utc>],
) -> Result<Figures, Error> {
    let rows = rows(scope, meter, selection, sources, boundaries).await?;
    if rows.first().is_some_and(|row| row.unique_values > UNIQUE_VALUES) {
        return Err(too_large(format!("it takes more than {UNIQUE_VALUES} stored values")));
    }
    if selection.is_grouped() && rows.len() > FIGURES {
        return Err(too_large(format!("it has more than {FIGURES} figures")));
    }
    let mut figures = Figures::default();
    for row in rows {
        let line = match (row.is_whole, row.key) {
            (true, _) => &mut figures.whole,
            (false, _) if !selection.is_grouped() => continue,
            (false, key) => {
                let key = key.unwrap_or_default();
                if figures.groups.last().is_none_or(|(last, _)| *last != key) {
                    figures.groups.push((key, Line::default()));
                }
                let Some((_, line)) = figures.groups.last_mut() else { continue };
                line
            }
        };
        let figure = Figure { event_count: row.event_count, value: row.value.unwrap_or_default() };
        match row.bucket.filter(|_| !row.is_total) {
            Some(bucket) => line.points.push((usize::try_from(bucket).map_err(Error::internal)?, figure)),
            None => line.total = figure,
        }
    }
    // Not by Postgres alone, whose collation is the database's.
    figures.groups.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(figures)
}

#[expect(clippy::too_many_lines, reason = "it is one statement")]
async fn rows(
    scope: &mut TenantScope,
    (meter_id, aggregation): (MeterId, Aggregation),
    selection: &Selection,
    sources: &Sources,
    boundaries: &[DateTime<Utc>],
) -> Result<Vec<Row>, Error> {
    let (series, subject) = match &selection.subjects {
        _ if selection.is_whole() => ("whole", ""),
        Subjects::All => ("named", ""),
        Subjects::One(subject) => ("named", subject.as_str()),
        Subjects::Each => ("subjects", ""),
    };
    // Arrays of Postgres begin at 1.
    let places = |places: &mut dyn Iterator<Item = usize>| -> Result<Vec<i32>, Error> {
        places.map(|place| i32::try_from(place + 1).map_err(Error::internal)).collect()
    };
    let group_places = places(&mut selection.group_by.iter().copied())?;
    let filter_places = places(&mut selection.filters.iter().map(|(place, _)| *place))?;
    let filter_values: Vec<Value> = selection.filters.iter().map(|(_, values)| json!(values)).collect();
    let raw_names: Vec<&str> = selection.raw_filters.iter().map(|filter| filter.property.as_str()).collect();
    let raw_values: Vec<Value> = selection.raw_filters.iter().map(|Filter { values, .. }| json!(values)).collect();
    let (hours, quarters, raw) = (columns(&sources.hours), columns(&sources.quarters), columns(&sources.raw));
    let most = i64::try_from(FIGURES).map_err(Error::internal)? + 1;
    // `series` are looked up one by one with OFFSET 0, and so are the spans of each, so that each is a range of the primary
    // key, whatever the planner believes of their number, and added up there by bucket: sorting every row by its key takes
    // twice as long. `cells`
    // makes few rows of many before the cube adds up groups, buckets and the whole; for distinct values it keeps each
    // once. The latest is the greatest of arrays of text: time, identity, quantity.
    Ok(sqlx::query_as!(
        Row,
        r#"WITH series AS MATERIALIZED (
               SELECT '00000000-0000-0000-0000-000000000000'::uuid AS series_id, '{}'::text[] AS key
               WHERE $3 = 'whole'
               UNION ALL
               SELECT s.series_id, ARRAY(SELECT s.group_values[p.place]
                   FROM unnest($5::int[]) WITH ORDINALITY AS p (place, n) ORDER BY p.n)
               FROM tenancy.usage_series s
               WHERE $3 = 'named' AND s.organization_id = $1 AND s.meter_id = $2 AND s.subject = $4
                 AND NOT EXISTS (SELECT FROM unnest($6::int[], $7::jsonb[]) AS f (place, wanted)
                     WHERE NOT f.wanted ? s.group_values[f.place])
               UNION ALL
               SELECT s.series_id, ARRAY(SELECT s.group_values[p.place]
                   FROM unnest($5::int[]) WITH ORDINALITY AS p (place, n) ORDER BY p.n) || s.subject
               FROM tenancy.usage_series s
               WHERE $3 = 'subjects' AND s.organization_id = $1 AND s.meter_id = $2 AND s.subject <> ''
                 AND NOT EXISTS (SELECT FROM unnest($6::int[], $7::jsonb[]) AS f (place, wanted)
                     WHERE NOT f.wanted ? s.group_values[f.place])
           ), unique_values AS MATERIALIZED (
               SELECT s.key, v.bucket_start AS at, v.value_id
               FROM series s CROSS JOIN LATERAL (
                   SELECT u.bucket_start, u.value_id FROM tenancy.usage_unique_values u
                   WHERE u.organization_id = $1 AND u.meter_id = $2 AND u.series_id = s.series_id
                     AND u.bucket_start >= $10 AND u.bucket_start < $11
                   OFFSET 0
               ) AS v
               WHERE $14 = 'unique_count'
               LIMIT $15::bigint + 1
           ), parts AS (
               SELECT s.key, a.bucket, a.event_count, a.quantity_sum, a.quantity_min, a.quantity_max, a.latest,
                   NULL::uuid AS value_id
               FROM series s CROSS JOIN LATERAL (
                   SELECT width_bucket(a.bucket_start, $20::timestamptz[]) - 1 AS bucket,
                       sum(a.event_count) AS event_count, sum(a.quantity_sum) AS quantity_sum,
                       min(a.quantity_min) AS quantity_min, max(a.quantity_max) AS quantity_max,
                       max(CASE WHEN $14 = 'latest' THEN ARRAY[
                           lpad((extract(epoch FROM a.latest_at) * 1000)::bigint::text, 20, '0') COLLATE "C",
                           a.latest_event_id::text, a.latest_quantity::text] END) AS latest
                   FROM (
                       SELECT h.* FROM unnest($16::timestamptz[], $17::timestamptz[]) AS span (starts, ends)
                       CROSS JOIN LATERAL (
                           SELECT * FROM tenancy.usage_hours u
                           WHERE u.organization_id = $1 AND u.meter_id = $2 AND u.series_id = s.series_id
                             AND u.bucket_start >= span.starts AND u.bucket_start < span.ends
                           OFFSET 0
                       ) AS h
                       UNION ALL
                       SELECT q.* FROM unnest($18::timestamptz[], $19::timestamptz[]) AS span (starts, ends)
                       CROSS JOIN LATERAL (
                           SELECT * FROM tenancy.usage_aggregates u
                           WHERE u.organization_id = $1 AND u.meter_id = $2 AND u.series_id = s.series_id
                             AND u.bucket_start >= span.starts AND u.bucket_start < span.ends
                           OFFSET 0
                       ) AS q
                   ) AS a
                   GROUP BY 1
                   OFFSET 0
               ) AS a
               UNION ALL
               SELECT u.key, width_bucket(u.at, $20) - 1, 0, 0, NULL, NULL, NULL, u.value_id FROM unique_values u
               UNION ALL
               SELECT ARRAY(SELECT s.group_values[p.place]
                       FROM unnest($5::int[]) WITH ORDINALITY AS p (place, n) ORDER BY p.n)
                       || CASE WHEN $3 = 'subjects' THEN ARRAY[e.subject] ELSE '{}' END,
                   width_bucket(e.occurred_at, $20) - 1, 1, e.quantity, e.quantity, e.quantity,
                   CASE WHEN $14 = 'latest' THEN ARRAY[
                       lpad((extract(epoch FROM e.occurred_at) * 1000)::bigint::text, 20, '0') COLLATE "C",
                       e.event_id::text, e.quantity::text] END,
                   e.value_id
               FROM unnest($12::timestamptz[], $13::timestamptz[]) AS span (starts, ends)
               CROSS JOIN LATERAL (
                   SELECT u.* FROM tenancy.usage_events u
                   WHERE u.organization_id = $1 AND u.meter_id = $2
                     AND u.occurred_at >= span.starts AND u.occurred_at < span.ends
                   OFFSET 0
               ) AS e
               LEFT JOIN LATERAL (
                   SELECT s.group_values FROM tenancy.usage_series s
                   WHERE s.organization_id = $1 AND s.meter_id = $2 AND s.series_id = e.series_id
                   OFFSET 0
               ) AS s ON true
               WHERE ($4 = '' OR e.subject = $4) AND ($3 <> 'subjects' OR e.subject <> '')
                 AND NOT EXISTS (SELECT FROM unnest($6::int[], $7::jsonb[]) AS f (place, wanted)
                     WHERE NOT f.wanted ? s.group_values[f.place])
                 AND NOT EXISTS (SELECT FROM unnest($8::text[], $9::jsonb[]) AS f (name, wanted)
                     WHERE NOT f.wanted ? coalesce(e.properties ->> f.name, ''))
                 AND NOT EXISTS (SELECT FROM tenancy.usage_voids v
                     WHERE v.organization_id = $1 AND v.occurred_at = e.occurred_at AND v.event_id = e.event_id)
           ), cells AS (
               SELECT key, bucket, value_id, sum(event_count) AS event_count, sum(quantity_sum) AS quantity_sum,
                   min(quantity_min) AS quantity_min, max(quantity_max) AS quantity_max, max(latest) AS latest
               FROM parts GROUP BY 1, 2, 3
           )
           SELECT key, bucket, grouping(key) = 1 AS "is_whole!", grouping(bucket) = 1 AS "is_total!",
               coalesce(sum(event_count), 0)::bigint AS "event_count!",
               CASE $14
                   WHEN 'count' THEN coalesce(sum(event_count), 0)::text
                   WHEN 'sum' THEN trim_scale(coalesce(sum(quantity_sum), 0))::text
                   WHEN 'avg' THEN trim_scale(round(sum(quantity_sum) / nullif(sum(event_count), 0), 9))::text
                   WHEN 'min' THEN trim_scale(min(quantity_min))::text
                   WHEN 'max' THEN trim_scale(max(quantity_max))::text
                   WHEN 'latest' THEN trim_scale((max(latest))[3]::numeric)::text
                   WHEN 'unique_count' THEN count(DISTINCT value_id)::text
               END AS value,
               (SELECT count(*) FROM unique_values) AS "unique_values!"
           FROM cells GROUP BY CUBE (key, bucket) ORDER BY key, bucket LIMIT $21"#,
        scope.organization_id().uuid(),
        meter_id.uuid(),
        series,
        subject,
        &group_places,
        &filter_places,
        &filter_values,
        &raw_names as &[&str],
        &raw_values,
        sources.aggregates.start,
        sources.aggregates.end,
        &raw.0,
        &raw.1,
        aggregation.as_str(),
        UNIQUE_VALUES,
        &hours.0,
        &hours.1,
        &quarters.0,
        &quarters.1,
        boundaries,
        // Without groups, the cube has every figure twice.
        if selection.is_grouped() { most } else { 2 * most }
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// A result that would be too large, and why.
fn too_large(why: String) -> Error {
    Error::FailedPrecondition {
        reason: "USAGE_RESULT_TOO_LARGE",
        subject: "usage".to_owned(),
        message: format!("{why}: ask for a shorter range, longer buckets, or filter"),
    }
}
