//! Voids: an event stays on record and leaves the figures.
//!
//! # Why it leaves them exactly once, whatever else goes on
//!
//! A void runs at READ COMMITTED, each statement with a snapshot of its own, in this order: read the event, insert the
//! void, lock the quarters of an hour that the event is in, recount these from the raw events that are not voided, lock
//! their hours, make these anew of their quarters, remove the event's distinct value where no other event supports it.
//!
//! *Beside the writer, in the same quarter.* Who records an event writes its row, then adds to its quarters, and holds the
//! lock of a quarter's row from there to the end of the transaction. So when a void has the lock of a row, each transaction
//! that added to it has ended: it is visible to the recount, whose snapshot is taken afterwards, with its events. And one
//! that has written events of the quarter and not yet added them waits for our lock: its events are not visible, and it
//! adds them to what the recount left, or, when that left nothing and the row is gone, inserts the row anew (ON CONFLICT
//! looks again). Either way an event is in a row exactly when it was recorded and not voided. Each of the (at most three)
//! rows follows by itself; one snapshot after all locks serves them all. Distinct values are written after the aggregates
//! of the same series and quarter, so the same locks keep them apart.
//!
//! *Beside the writer, in another quarter of the same hour.* The same once more, with quarters for events: the writer adds
//! to quarters, then to their hours, and holds the lock of an hour's row to its end. When a void has that lock, each
//! transaction that added to the hour has ended, and the fold, whose snapshot is taken afterwards, sees its quarters. One
//! that added to another quarter and not yet to the hour waits for our lock, and has not committed, so the fold does not see
//! that quarter as it left it; it adds its tally to what the fold left, or inserts the row anew. One snapshot for recount
//! and fold would not do: the recount's is taken before the hour is locked, and who committed another quarter in between
//! would be lost from the hour.
//!
//! *The rows are there to be locked.* A quarter is removed only by a void that counted nothing in it under its lock. As
//! long as this event is visible and not voided, every such count finds it. An hour is removed only by a void that found
//! no quarter of it under its lock. Until this one commits, everybody else sees the event's quarter as it was, so every such
//! fold finds it.
//!
//! *Beside another void.* Of the same event: the second waits at the key of the void's row, and returns the first's when
//! that commits, or goes on when it does not. Of another event in the same quarter: the locks put the one after the other,
//! and the recount of the second sees the void of the first. Of one in another quarter of the hour: the locks of the hour
//! do, and the fold of the second sees the quarter as the first left it, and its own.
//!
//! *Beside the upkeep.* The statement that read the event holds the lock of the events' table, so that no partition of it
//! is dropped before this ends; a quarter of an hour lies in one partition. Quarters are kept for ever, so an hour can be
//! made of them whatever became of its raw events.
//!
//! *No deadlock.* The writer locks series, events, quarters, hours, distinct values; a void its own key, which the writer
//! never touches, then quarters, hours, and distinct values. All take the rows of one table in the order of the primary key.
//!
//! A recount, since the least, the greatest and the latest of what remains cannot be had by subtraction. It reads the
//! events of one organization in one quarter of an hour, a range of the primary key.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::model::usage::{EventId, HOUR_SECONDS, QUARTER_SECONDS, RecordedEvent, SeriesId, Void, hour, quarter};
use crate::repository::audit_event::{self, Happened};
use crate::repository::scope::TenantScope;

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "usage_event";

/// What names an event within its organization.
pub type Identity = (EventId, DateTime<Utc>);

struct Row {
    meter_id: Uuid,
    meter: Option<String>,
    quantity: Decimal,
    subject: String,
    properties: Option<Value>,
    recorded_at: DateTime<Utc>,
    series_id: Option<Uuid>,
    parent_series_id: Option<Uuid>,
    value_id: Option<Uuid>,
    void_time: Option<DateTime<Utc>>,
    reason: Option<String>,
}

/// Where an event counts.
struct Places {
    meter_id: Uuid,
    quarter_start: DateTime<Utc>,
    quarter_end: DateTime<Utc>,
    hour_start: DateTime<Utc>,
    hour_end: DateTime<Utc>,
    /// Ascending, as they are locked.
    series_ids: Vec<Uuid>,
    value_id: Option<Uuid>,
}

/// Voids an event of the scope's organization and returns it as it then is; one that is voided stays as it was voided.
///
/// Errors: `USAGE_EVENT_NOT_FOUND`, also for one whose raw events are no longer kept. `Conflict`: nothing was done, try
/// again.
pub async fn void(scope: &mut TenantScope, identity: &Identity, void: Void) -> Result<RecordedEvent, Error> {
    let (before, places) = get(scope, identity).await?;
    if before.void.is_some() {
        return Ok(before);
    }
    if !insert(scope, identity, &void).await? {
        // Somebody else's was committed since the event was read.
        return Ok(get(scope, identity).await?.0);
    }
    lock_quarters(scope, &places).await?;
    recount_quarters(scope, &places).await?;
    lock_hours(scope, &places).await?;
    fold_hours(scope, &places).await?;
    if let Some(value_id) = places.value_id {
        remove_unsupported_value(scope, &places, value_id).await?;
    }
    let id = before.event_id.to_string();
    let happened = Happened { at: void.time, action: "usage_events.void", resource_type: RESOURCE, resource_id: &id };
    let after = RecordedEvent { void: Some(void), ..before.clone() };
    audit_event::record(scope, happened, Some(&before), Some(&after)).await?;
    Ok(after)
}

async fn get(scope: &mut TenantScope, identity: &Identity) -> Result<(RecordedEvent, Places), Error> {
    let (event_id, occurred_at) = identity;
    let row = sqlx::query_as!(
        Row,
        r#"SELECT e.meter_id,
               coalesce(m.key, p.key) AS meter, e.quantity, e.subject, e.properties, e.recorded_at, e.series_id,
               s.parent_series_id AS "parent_series_id?", e.value_id, v.void_time AS "void_time?", v.reason AS "reason?"
           FROM tenancy.usage_events e
           LEFT JOIN tenancy.usage_voids v USING (organization_id, occurred_at, event_id)
           LEFT JOIN tenancy.usage_series s
               ON s.organization_id = e.organization_id AND s.meter_id = e.meter_id AND s.series_id = e.series_id
           LEFT JOIN tenancy.meters m ON m.organization_id = e.organization_id AND m.meter_id = e.meter_id
           LEFT JOIN tenancy.platform_meters p ON p.meter_id = e.meter_id
           WHERE e.organization_id = $1 AND e.occurred_at = $2 AND e.event_id = $3"#,
        scope.organization_id().uuid(),
        occurred_at,
        event_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, event_id))?;
    let (quarter_start, hour_start) = (quarter(*occurred_at), hour(*occurred_at));
    let mut series_ids = vec![SeriesId::WHOLE.uuid()];
    series_ids.extend(row.series_id);
    series_ids.extend(row.parent_series_id);
    series_ids.sort_unstable();
    let places = Places {
        meter_id: row.meter_id,
        quarter_start,
        quarter_end: quarter_start + TimeDelta::seconds(QUARTER_SECONDS),
        hour_start,
        hour_end: hour_start + TimeDelta::seconds(HOUR_SECONDS),
        series_ids,
        value_id: row.value_id,
    };
    let event = RecordedEvent {
        event_id: event_id.clone(),
        occurred_at: *occurred_at,
        meter_id: row.meter_id.into(),
        meter: row.meter.ok_or_else(|| Error::internal("an event's meter is gone"))?,
        quantity: row.quantity.normalize(),
        subject: row.subject,
        properties: row.properties,
        record_time: row.recorded_at,
        void: row.void_time.zip(row.reason).map(|(time, reason)| Void { time, reason }),
    };
    Ok((event, places))
}

/// Tells whether it did: not where there is one, be it of a transaction that it had to wait for.
async fn insert(scope: &mut TenantScope, (event_id, occurred_at): &Identity, void: &Void) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO tenancy.usage_voids (organization_id, occurred_at, event_id, reason, void_time)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        scope.organization_id().uuid(),
        occurred_at,
        event_id.uuid(),
        void.reason,
        void.time
    )
    .execute(&mut *scope)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// A statement of its own: what comes after it sees what the lock waited for.
async fn lock_quarters(scope: &mut TenantScope, places: &Places) -> Result<(), Error> {
    let locked = sqlx::query_scalar!(
        "SELECT series_id FROM tenancy.usage_aggregates
         WHERE organization_id = $1 AND meter_id = $2 AND series_id = ANY ($3) AND bucket_start = $4
         ORDER BY series_id FOR UPDATE",
        scope.organization_id().uuid(),
        places.meter_id,
        &places.series_ids,
        places.quarter_start
    )
    .fetch_all(&mut *scope)
    .await?;
    all_locked(&locked, places)
}

/// Without every lock there is no telling what comes after it sees.
fn all_locked(locked: &[Uuid], places: &Places) -> Result<(), Error> {
    if locked == places.series_ids {
        Ok(())
    } else {
        Err(Error::internal("an event counts in no aggregate: `tenancy usage verify` shows the damage"))
    }
}

/// Makes the locked quarters what the remaining events add up to; one without events is removed.
async fn recount_quarters(scope: &mut TenantScope, places: &Places) -> Result<(), Error> {
    // Which of the figures the meter asks for, the row itself tells.
    sqlx::query!(
        "WITH remaining AS (
             SELECT e.occurred_at, e.event_id, e.quantity, e.series_id, s.parent_series_id
             FROM tenancy.usage_events e
             LEFT JOIN tenancy.usage_series s
                 ON s.organization_id = e.organization_id AND s.meter_id = e.meter_id AND s.series_id = e.series_id
             WHERE e.organization_id = $1 AND e.occurred_at >= $4 AND e.occurred_at < $5 AND e.meter_id = $2
               AND NOT EXISTS (SELECT FROM tenancy.usage_voids v WHERE v.organization_id = e.organization_id
                   AND v.occurred_at = e.occurred_at AND v.event_id = e.event_id)
         ), recounted AS (
             SELECT a.series_id, count(r.event_id) AS event_count, trim_scale(sum(r.quantity)) AS quantity_sum,
                 min(r.quantity) FILTER (WHERE a.quantity_min IS NOT NULL) AS quantity_min,
                 max(r.quantity) FILTER (WHERE a.quantity_max IS NOT NULL) AS quantity_max,
                 max(r.occurred_at) FILTER (WHERE a.latest_at IS NOT NULL) AS latest_at,
                 (array_agg(r.event_id ORDER BY r.occurred_at DESC, r.event_id DESC)
                     FILTER (WHERE a.latest_at IS NOT NULL))[1] AS latest_event_id,
                 (array_agg(r.quantity ORDER BY r.occurred_at DESC, r.event_id DESC)
                     FILTER (WHERE a.latest_at IS NOT NULL))[1] AS latest_quantity
             FROM tenancy.usage_aggregates a
             LEFT JOIN remaining r ON a.series_id = $6 OR r.series_id = a.series_id OR r.parent_series_id = a.series_id
             WHERE a.organization_id = $1 AND a.meter_id = $2 AND a.series_id = ANY ($3) AND a.bucket_start = $4
             GROUP BY a.series_id
         ), emptied AS (
             DELETE FROM tenancy.usage_aggregates a USING recounted r
             WHERE a.organization_id = $1 AND a.meter_id = $2 AND a.series_id = r.series_id AND a.bucket_start = $4
               AND r.event_count = 0
         )
         UPDATE tenancy.usage_aggregates a
         SET event_count = r.event_count, quantity_sum = r.quantity_sum, quantity_min = r.quantity_min,
             quantity_max = r.quantity_max, latest_at = r.latest_at, latest_event_id = r.latest_event_id,
             latest_quantity = r.latest_quantity
         FROM recounted r
         WHERE a.organization_id = $1 AND a.meter_id = $2 AND a.series_id = r.series_id AND a.bucket_start = $4
           AND r.event_count > 0",
        scope.organization_id().uuid(),
        places.meter_id,
        &places.series_ids,
        places.quarter_start,
        places.quarter_end,
        SeriesId::WHOLE.uuid()
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

/// Also a statement of its own, after the quarters, as the writer has it.
async fn lock_hours(scope: &mut TenantScope, places: &Places) -> Result<(), Error> {
    let locked = sqlx::query_scalar!(
        "SELECT series_id FROM tenancy.usage_hours
         WHERE organization_id = $1 AND meter_id = $2 AND series_id = ANY ($3) AND bucket_start = $4
         ORDER BY series_id FOR UPDATE",
        scope.organization_id().uuid(),
        places.meter_id,
        &places.series_ids,
        places.hour_start
    )
    .fetch_all(&mut *scope)
    .await?;
    all_locked(&locked, places)
}

/// Makes the locked hours what their quarters add up to; one without quarters is removed.
async fn fold_hours(scope: &mut TenantScope, places: &Places) -> Result<(), Error> {
    sqlx::query!(
        "WITH folded AS (
             SELECT h.series_id, sum(a.event_count)::bigint AS event_count, trim_scale(sum(a.quantity_sum)) AS quantity_sum,
                 min(a.quantity_min) AS quantity_min, max(a.quantity_max) AS quantity_max, max(a.latest_at) AS latest_at,
                 (array_agg(a.latest_event_id ORDER BY a.latest_at DESC, a.latest_event_id DESC)
                     FILTER (WHERE a.latest_at IS NOT NULL))[1] AS latest_event_id,
                 (array_agg(a.latest_quantity ORDER BY a.latest_at DESC, a.latest_event_id DESC)
                     FILTER (WHERE a.latest_at IS NOT NULL))[1] AS latest_quantity
             FROM tenancy.usage_hours h
             LEFT JOIN tenancy.usage_aggregates a
                 ON a.organization_id = h.organization_id AND a.meter_id = h.meter_id AND a.series_id = h.series_id
                 AND a.bucket_start >= $4 AND a.bucket_start < $5
             WHERE h.organization_id = $1 AND h.meter_id = $2 AND h.series_id = ANY ($3) AND h.bucket_start = $4
             GROUP BY h.series_id
         ), emptied AS (
             DELETE FROM tenancy.usage_hours h USING folded f
             WHERE h.organization_id = $1 AND h.meter_id = $2 AND h.series_id = f.series_id AND h.bucket_start = $4
               AND f.event_count IS NULL
         )
         UPDATE tenancy.usage_hours h
         SET event_count = f.event_count, quantity_sum = f.quantity_sum, quantity_min = f.quantity_min,
             quantity_max = f.quantity_max, latest_at = f.latest_at, latest_event_id = f.latest_event_id,
             latest_quantity = f.latest_quantity
         FROM folded f
         WHERE h.organization_id = $1 AND h.meter_id = $2 AND h.series_id = f.series_id AND h.bucket_start = $4
           AND f.event_count IS NOT NULL",
        scope.organization_id().uuid(),
        places.meter_id,
        &places.series_ids,
        places.hour_start,
        places.hour_end
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

/// Removes the event's distinct value from the series in whose quarter no remaining event has it.
async fn remove_unsupported_value(scope: &mut TenantScope, places: &Places, value_id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "WITH remaining AS (
             SELECT e.series_id, s.parent_series_id
             FROM tenancy.usage_events e
             LEFT JOIN tenancy.usage_series s
                 ON s.organization_id = e.organization_id AND s.meter_id = e.meter_id AND s.series_id = e.series_id
             WHERE e.organization_id = $1 AND e.occurred_at >= $4 AND e.occurred_at < $5 AND e.meter_id = $2
               AND e.value_id = $7
               AND NOT EXISTS (SELECT FROM tenancy.usage_voids v WHERE v.organization_id = e.organization_id
                   AND v.occurred_at = e.occurred_at AND v.event_id = e.event_id)
         )
         DELETE FROM tenancy.usage_unique_values u
         WHERE u.organization_id = $1 AND u.meter_id = $2 AND u.series_id = ANY ($3) AND u.bucket_start = $4
           AND u.value_id = $7
           AND NOT EXISTS (SELECT FROM remaining r
               WHERE u.series_id = $6 OR r.series_id = u.series_id OR r.parent_series_id = u.series_id)",
        scope.organization_id().uuid(),
        places.meter_id,
        &places.series_ids,
        places.quarter_start,
        places.quarter_end,
        SeriesId::WHOLE.uuid(),
        value_id
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}
