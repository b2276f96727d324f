//! Usage: the writing of events with their aggregates, and the figures that aggregates answer.

pub mod ingest;

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::MeterId;
use crate::model::meter::Aggregation;
use crate::model::usage::SeriesId;
use crate::repository::scope::TenantScope;

/// The figures of a range.
#[derive(Debug)]
pub struct Figures {
    /// Bucket by bucket, in the order of time, without those that have no event.
    pub points: Vec<Figure>,
    /// The figure of the whole range.
    pub total: String,
}

/// The figure of one bucket.
#[derive(Debug)]
pub struct Figure {
    /// Which one: `boundaries[bucket]` to `boundaries[bucket + 1]`.
    pub bucket: usize,
    /// How many events it is made of.
    pub event_count: i64,
    /// A decimal number.
    pub value: String,
}

/// The figures of a meter's series over the buckets that the boundaries cut: from the first one, inclusive, to the last,
/// exclusive. There are at least two boundaries, ascending, on quarters of an hour.
///
/// Boundaries come from outside, so that one knowledge of time zones decides, not Postgres's beside ours.
pub async fn figures(
    scope: &mut TenantScope,
    (meter_id, aggregation): (MeterId, Aggregation),
    series_id: SeriesId,
    boundaries: &[DateTime<Utc>],
) -> Result<Figures, Error> {
    // The row of the empty grouping set has no bucket: it is the total.
    let rows = sqlx::query!(
        r#"SELECT width_bucket(a.bucket_start, $4::timestamptz[]) - 1 AS bucket,
               coalesce(sum(a.event_count), 0)::bigint AS "event_count!",
               CASE $5 WHEN 'count' THEN coalesce(sum(a.event_count), 0)::text
                   ELSE trim_scale(coalesce(sum(a.quantity_sum), 0))::text END AS "value!"
           FROM tenancy.usage_aggregates a
           WHERE a.organization_id = $1 AND a.meter_id = $2 AND a.series_id = $3
             AND a.bucket_start >= $6 AND a.bucket_start < $7
           GROUP BY GROUPING SETS ((1), ())
           ORDER BY 1"#,
        scope.organization_id().uuid(),
        meter_id.uuid(),
        series_id.uuid(),
        boundaries,
        aggregation.as_str(),
        boundaries.first().copied(),
        boundaries.last().copied()
    )
    .fetch_all(&mut *scope)
    .await?;
    let mut figures = Figures { points: Vec::with_capacity(rows.len()), total: String::new() };
    for row in rows {
        match row.bucket {
            Some(bucket) => figures.points.push(Figure {
                bucket: usize::try_from(bucket).map_err(Error::internal)?,
                event_count: row.event_count,
                value: row.value,
            }),
            None => figures.total = row.value,
        }
    }
    Ok(figures)
}
