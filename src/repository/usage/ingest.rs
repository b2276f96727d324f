//! The statements of the writer. Dedupe, event and aggregate are one transaction, and one statement unless an event was
//! there before.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::usage::{Event, Tallies};
use crate::repository::scope::IngestScope;

/// The reason of the error for an event whose week has no partition: a fault of the upkeep, over when that has run.
pub const PARTITION_MISSING: &str = "USAGE_PARTITION_MISSING";

/// An event of an organization.
pub type Entry<'a> = (OrganizationId, &'a Event);

/// What names an event: its organization and identity.
pub type Key = (OrganizationId, (DateTime<Utc>, Uuid));

/// The key of an entry.
#[must_use]
pub fn key((organization_id, event): Entry<'_>) -> Key {
    (organization_id, event.identity())
}

/// Which events an insert put into the table.
#[derive(PartialEq, Eq, Debug)]
pub enum Inserted {
    /// All; their tallies were added too.
    All,
    /// These, the others were there before; **no** tally was added.
    Only(HashSet<Key>),
}

impl Inserted {
    /// Whether the event is among them.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Only(keys) => keys.contains(key),
        }
    }
}

/// Inserts events that are not there yet and, when that were all of them, adds their tallies to the aggregates.
///
/// Entries are distinct, and ascending by key: replicas lock rows in the same order, events before aggregates. The rest,
/// when some were there before, is for the caller: add up those that were inserted, and call this again without events.
///
/// Errors: `USAGE_PARTITION_MISSING`; `Conflict` when the whole transaction is to be tried again.
pub async fn insert(
    scope: &mut IngestScope,
    entries: &[Entry<'_>],
    tallies: &Tallies,
    recorded_at: DateTime<Utc>,
) -> Result<Inserted, Error> {
    let events = Columns::of(entries);
    let of = |uuid: fn(&crate::model::usage::TallyKey) -> Uuid| tallies.keys().map(uuid).collect::<Vec<Uuid>>();
    let rows = sqlx::query!(
        r#"WITH inserted AS (
               INSERT INTO tenancy.usage_events (organization_id, occurred_at, event_id, meter_id, quantity, recorded_at,
                   subject, event_name, properties)
               SELECT e.organization_id, e.occurred_at, e.event_id, e.meter_id, e.quantity, $9, e.subject, e.event_name,
                   e.properties::jsonb
               FROM UNNEST($1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::numeric[], $6::text[], $7::text[],
                   $8::text[])
                   AS e (organization_id, occurred_at, event_id, meter_id, quantity, subject, event_name, properties)
               ON CONFLICT DO NOTHING
               RETURNING organization_id, occurred_at, event_id
           ), counted AS (
               SELECT count(*) AS events FROM inserted
           ), added AS (
               INSERT INTO tenancy.usage_aggregates AS a (organization_id, meter_id, series_id, bucket_start, event_count,
                   quantity_sum)
               SELECT t.organization_id, t.meter_id, t.series_id, t.bucket_start, t.event_count, t.quantity_sum
               FROM UNNEST($10::uuid[], $11::uuid[], $12::uuid[], $13::timestamptz[], $14::bigint[], $15::numeric[])
                   AS t (organization_id, meter_id, series_id, bucket_start, event_count, quantity_sum)
               -- Also makes every event come before the first aggregate.
               WHERE (SELECT events FROM counted) = cardinality($1::uuid[])
               ON CONFLICT (organization_id, meter_id, series_id, bucket_start) DO UPDATE
               SET event_count = a.event_count + excluded.event_count,
                   quantity_sum = a.quantity_sum + excluded.quantity_sum
           )
           SELECT c.events AS "events!", i.organization_id AS "organization_id?", i.occurred_at AS "occurred_at?",
               i.event_id AS "event_id?"
           FROM counted c LEFT JOIN inserted i ON c.events < cardinality($1::uuid[])"#,
        &events.organization_ids,
        &events.occurred_at,
        &events.event_ids,
        &events.meter_ids,
        &events.quantities,
        &events.subjects as &[&str],
        &events.names as &[Option<&str>],
        &events.properties as &[Option<&str>],
        recorded_at,
        &of(|key| key.organization_id.uuid()),
        &of(|key| key.meter_id.uuid()),
        &of(|key| key.series_id.uuid()),
        &tallies.keys().map(|key| key.bucket_start).collect::<Vec<_>>(),
        &tallies.values().map(|tally| tally.event_count).collect::<Vec<_>>(),
        &tallies.values().map(|tally| tally.quantity_sum).collect::<Vec<_>>()
    )
    .fetch_all(&mut *scope)
    .await
    .map_err(insert_failed)?;
    if rows.first().is_some_and(|row| usize::try_from(row.events) == Ok(entries.len())) {
        return Ok(Inserted::All);
    }
    let keys = rows
        .into_iter()
        .filter_map(|row| Some((row.organization_id?.into(), (row.occurred_at?, row.event_id?))))
        .collect();
    Ok(Inserted::Only(keys))
}

/// Compares events with those stored under the same identity: whether they are the same in everything; `None` where
/// nothing is stored. In the order of the entries.
pub async fn compare(scope: &mut IngestScope, entries: &[Entry<'_>]) -> Result<Vec<Option<bool>>, Error> {
    let events = Columns::of(entries);
    // In SQL, because jsonb knows that 1e16 and 10000000000000000 are equal. Lateral and with OFFSET 0, so that each is
    // looked up in the primary key, whatever the planner believes of a partition without statistics.
    let rows = sqlx::query!(
        r#"SELECT e.position AS "position!", s.same AS "same!"
           FROM UNNEST($1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::numeric[], $6::text[], $7::text[],
               $8::text[]) WITH ORDINALITY
               AS e (organization_id, occurred_at, event_id, meter_id, quantity, subject, event_name, properties, position)
           CROSS JOIN LATERAL (
               SELECT u.meter_id = e.meter_id AND u.quantity = e.quantity AND u.subject = e.subject
                   AND u.event_name IS NOT DISTINCT FROM e.event_name
                   AND u.properties IS NOT DISTINCT FROM e.properties::jsonb AS same
               FROM tenancy.usage_events u
               WHERE u.organization_id = e.organization_id AND u.occurred_at = e.occurred_at AND u.event_id = e.event_id
               OFFSET 0
           ) AS s"#,
        &events.organization_ids,
        &events.occurred_at,
        &events.event_ids,
        &events.meter_ids,
        &events.quantities,
        &events.subjects as &[&str],
        &events.names as &[Option<&str>],
        &events.properties as &[Option<&str>],
    )
    .fetch_all(&mut *scope)
    .await?;
    let mut same = vec![None; entries.len()];
    for row in rows {
        let position = usize::try_from(row.position - 1).map_err(Error::internal)?;
        if let Some(slot) = same.get_mut(position) {
            *slot = Some(row.same);
        }
    }
    Ok(same)
}

/// Events as columns, which is how a statement takes any number of them.
struct Columns<'a> {
    organization_ids: Vec<Uuid>,
    occurred_at: Vec<DateTime<Utc>>,
    event_ids: Vec<Uuid>,
    meter_ids: Vec<Uuid>,
    quantities: Vec<Decimal>,
    subjects: Vec<&'a str>,
    names: Vec<Option<&'a str>>,
    properties: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(entries: &[Entry<'a>]) -> Self {
        Self {
            organization_ids: entries.iter().map(|(organization_id, _)| organization_id.uuid()).collect(),
            occurred_at: entries.iter().map(|(_, event)| event.occurred_at).collect(),
            event_ids: entries.iter().map(|(_, event)| event.event_id.uuid()).collect(),
            meter_ids: entries.iter().map(|(_, event)| event.meter_id.uuid()).collect(),
            quantities: entries.iter().map(|(_, event)| event.quantity.decimal()).collect(),
            subjects: entries.iter().map(|(_, event)| event.subject.as_str()).collect(),
            names: entries.iter().map(|(_, event)| event.event_id.name()).collect(),
            properties: entries.iter().map(|(_, event)| event.properties.as_deref()).collect(),
        }
    }
}

fn insert_failed(error: sqlx::Error) -> Error {
    let database = error.as_database_error();
    // A check violation without a constraint's name: no partition takes the row.
    if database.is_some_and(|error| error.code().as_deref() == Some("23514") && error.constraint().is_none()) {
        tracing::error!(%error, "a partition of usage_events is missing");
        return Error::Unavailable {
            reason: PARTITION_MISSING,
            message: "the storage of the events' time is not ready",
            retry_after: Duration::from_secs(10),
        };
    }
    error.into()
}
