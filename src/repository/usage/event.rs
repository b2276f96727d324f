//! Raw events, as they were recorded.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::MeterId;
use crate::model::usage::{EventId, RecordedEvent, Void};
use crate::page::Page;
use crate::repository::scope::TenantScope;

/// What to narrow a list of events to.
#[derive(Clone, Debug)]
pub struct Narrow {
    /// One meter; `None`: all.
    pub meter_id: Option<MeterId>,
    /// One subject; empty: all.
    pub subject: String,
    /// This time or later.
    pub since: DateTime<Utc>,
    /// Before this time.
    pub until: DateTime<Utc>,
}

/// One page of events and one more, latest first, those that are voided among them.
pub async fn list(scope: &mut TenantScope, narrow: &Narrow, page: &Page) -> Result<Vec<RecordedEvent>, Error> {
    let bound = page.bound();
    let rows = sqlx::query!(
        r#"SELECT e.event_id, e.event_name, e.occurred_at, e.meter_id, coalesce(m.key, p.key) AS "meter!", e.quantity,
               e.subject, e.properties, e.recorded_at, v.void_time AS "void_time?", v.reason AS "reason?"
           FROM tenancy.usage_events e
           LEFT JOIN tenancy.usage_voids v
               ON v.organization_id = $1 AND v.occurred_at = e.occurred_at AND v.event_id = e.event_id
           LEFT JOIN tenancy.meters m ON m.organization_id = $1 AND m.meter_id = e.meter_id
           LEFT JOIN tenancy.platform_meters p ON p.meter_id = e.meter_id
           WHERE e.organization_id = $1
             AND e.occurred_at >= $2 AND e.occurred_at < $3
             AND (e.occurred_at, e.event_id) < ($4, $5)
             AND ($6::uuid IS NULL OR e.meter_id = $6)
             AND ($7 = '' OR e.subject = $7)
           ORDER BY e.occurred_at DESC, e.event_id DESC LIMIT $8"#,
        scope.organization_id().uuid(),
        narrow.since,
        narrow.until,
        bound.time,
        bound.id,
        narrow.meter_id.map(MeterId::uuid),
        narrow.subject,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    let recorded = rows.into_iter().map(|row| RecordedEvent {
        event_id: EventId::stored(row.event_id, row.event_name),
        occurred_at: row.occurred_at,
        meter_id: row.meter_id.into(),
        meter: row.meter,
        quantity: row.quantity.normalize(),
        subject: row.subject,
        properties: row.properties,
        record_time: row.recorded_at,
        void: row.void_time.zip(row.reason).map(|(time, reason)| Void { time, reason }),
    });
    Ok(recorded.collect())
}
