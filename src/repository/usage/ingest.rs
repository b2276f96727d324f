//! The statements of the writer. Dedupe, event and aggregates (by the quarter of an hour, and by the hour) are one
//! transaction, and one statement unless an event was there before.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{MeterId, OrganizationId};
use crate::model::usage::{Event, NamedSeries, SeriesId, Tallies, TallyKey};
use crate::repository::scope::IngestScope;
use crate::repository::usage::ingest::columns::{Aggregates, Columns};

mod columns;

/// The reason of the error for an event whose week has no partition: a fault of the upkeep, over when that has run.
pub const PARTITION_MISSING: &str = "USAGE_PARTITION_MISSING";

/// An event of an organization.
pub type Entry<'a> = (OrganizationId, &'a Event);

/// What names an event: its organization and identity.
pub type Key = (OrganizationId, (DateTime<Utc>, Uuid));

/// What names a series.
pub type SeriesKey = (OrganizationId, MeterId, SeriesId);

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

/// Names series that may be new; those that are known already stay as they are. Before [`insert`], so that all replicas
/// lock series before events.
pub async fn name_series(scope: &mut IngestScope, series: &BTreeMap<SeriesKey, NamedSeries>) -> Result<(), Error> {
    let uuids = |of: fn(&SeriesKey) -> Uuid| series.keys().map(of).collect::<Vec<Uuid>>();
    let subjects: Vec<&str> = series.values().map(|named| named.series.subject.as_str()).collect();
    let parents: Vec<Option<Uuid>> = series.values().map(|named| named.parent.map(SeriesId::uuid)).collect();
    // As JSON, since an array of arrays would have to be rectangular.
    let group_values: Result<Vec<_>, _> =
        series.values().map(|named| serde_json::to_value(&named.series.group_values)).collect();
    sqlx::query!(
        "INSERT INTO tenancy.usage_series (organization_id, meter_id, series_id, subject, group_values, parent_series_id)
         SELECT s.organization_id, s.meter_id, s.series_id, s.subject,
             ARRAY(SELECT v.value FROM jsonb_array_elements_text(s.group_values) WITH ORDINALITY AS v (value, place)
                   ORDER BY v.place),
             s.parent_series_id
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::jsonb[], $6::uuid[])
             AS s (organization_id, meter_id, series_id, subject, group_values, parent_series_id)
         ON CONFLICT DO NOTHING",
        &uuids(|key| key.0.uuid()),
        &uuids(|key| key.1.uuid()),
        &uuids(|key| key.2.uuid()),
        &subjects as &[&str],
        &group_values.map_err(Error::internal)?,
        &parents as &[Option<Uuid>]
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

/// The statement of [`insert`] and [`insert_new`]: they differ in what becomes of an event that is there, and in what is told.
macro_rules! insert {
    ($row:ident, $on_conflict:literal, $returning:literal, $told:literal, $events:ident, $quarters:ident, $hours:ident,
     $recorded_at:ident) => {
        sqlx::query_as!(
            $row,
            r#"WITH inserted AS (
                   INSERT INTO tenancy.usage_events (organization_id, occurred_at, event_id, meter_id, quantity, recorded_at,
                       subject, event_name, properties, series_id, value_id)
                   SELECT e.organization_id, e.occurred_at, e.event_id, e.meter_id, e.quantity, $11, e.subject, e.event_name,
                       e.properties::jsonb, e.series_id, e.value_id
                   -- Side by side, which takes half of what UNNEST ($1, $2, …) does: that makes a table of each array first.
                   FROM (SELECT unnest($1::uuid[]) AS organization_id, unnest($2::timestamptz[]) AS occurred_at,
                           unnest($3::uuid[]) AS event_id, unnest($4::uuid[]) AS meter_id, unnest($5::numeric[]) AS quantity,
                           unnest($6::text[]) AS subject, unnest($7::text[]) AS event_name, unnest($8::text[]) AS properties,
                           unnest($9::uuid[]) AS series_id, unnest($10::uuid[]) AS value_id) AS e
                   "# + $on_conflict + r#"
                   RETURNING "# + $returning + r#"
               ), counted AS (
                   SELECT count(*) AS events FROM inserted
               ), added AS (
                   INSERT INTO tenancy.usage_aggregates AS a (organization_id, meter_id, series_id, bucket_start, event_count,
                       quantity_sum, quantity_min, quantity_max, latest_at, latest_event_id, latest_quantity)
                   SELECT t.organization_id, t.meter_id, t.series_id, t.bucket_start, t.event_count, t.quantity_sum,
                       t.quantity_min, t.quantity_max, t.latest_at, t.latest_event_id, t.latest_quantity
                   FROM (SELECT unnest($12::uuid[]) AS organization_id, unnest($13::uuid[]) AS meter_id,
                           unnest($14::uuid[]) AS series_id, unnest($15::timestamptz[]) AS bucket_start,
                           unnest($16::bigint[]) AS event_count, unnest($17::numeric[]) AS quantity_sum,
                           unnest($18::numeric[]) AS quantity_min, unnest($19::numeric[]) AS quantity_max,
                           unnest($20::timestamptz[]) AS latest_at, unnest($21::uuid[]) AS latest_event_id,
                           unnest($22::numeric[]) AS latest_quantity) AS t
                   -- Also makes every event come before the first quarter.
                   WHERE (SELECT events FROM counted) = cardinality($1::uuid[])
                   ON CONFLICT (organization_id, meter_id, series_id, bucket_start) DO UPDATE
                   SET event_count = a.event_count + excluded.event_count,
                       quantity_sum = a.quantity_sum + excluded.quantity_sum,
                       quantity_min = least(a.quantity_min, excluded.quantity_min),
                       quantity_max = greatest(a.quantity_max, excluded.quantity_max),
                       -- The order of rows puts time before identity. Without a latest one, the comparison is NULL.
                       latest_at = greatest(a.latest_at, excluded.latest_at),
                       latest_event_id = CASE
                           WHEN (a.latest_at, a.latest_event_id) > (excluded.latest_at, excluded.latest_event_id)
                           THEN a.latest_event_id ELSE excluded.latest_event_id END,
                       latest_quantity = CASE
                           WHEN (a.latest_at, a.latest_event_id) > (excluded.latest_at, excluded.latest_event_id)
                           THEN a.latest_quantity ELSE excluded.latest_quantity END
                   RETURNING 1
               ), added_hours AS (
                   INSERT INTO tenancy.usage_hours AS h (organization_id, meter_id, series_id, bucket_start, event_count,
                       quantity_sum, quantity_min, quantity_max, latest_at, latest_event_id, latest_quantity)
                   SELECT t.organization_id, t.meter_id, t.series_id, t.bucket_start, t.event_count, t.quantity_sum,
                       t.quantity_min, t.quantity_max, t.latest_at, t.latest_event_id, t.latest_quantity
                   FROM (SELECT unnest($23::uuid[]) AS organization_id, unnest($24::uuid[]) AS meter_id,
                           unnest($25::uuid[]) AS series_id, unnest($26::timestamptz[]) AS bucket_start,
                           unnest($27::bigint[]) AS event_count, unnest($28::numeric[]) AS quantity_sum,
                           unnest($29::numeric[]) AS quantity_min, unnest($30::numeric[]) AS quantity_max,
                           unnest($31::timestamptz[]) AS latest_at, unnest($32::uuid[]) AS latest_event_id,
                           unnest($33::numeric[]) AS latest_quantity) AS t
                   -- None where no quarter was added. Also makes every quarter come before the first hour.
                   WHERE (SELECT count(*) FROM added) = cardinality($12::uuid[])
                   ON CONFLICT (organization_id, meter_id, series_id, bucket_start) DO UPDATE
                   SET event_count = h.event_count + excluded.event_count,
                       quantity_sum = h.quantity_sum + excluded.quantity_sum,
                       quantity_min = least(h.quantity_min, excluded.quantity_min),
                       quantity_max = greatest(h.quantity_max, excluded.quantity_max),
                       latest_at = greatest(h.latest_at, excluded.latest_at),
                       latest_event_id = CASE
                           WHEN (h.latest_at, h.latest_event_id) > (excluded.latest_at, excluded.latest_event_id)
                           THEN h.latest_event_id ELSE excluded.latest_event_id END,
                       latest_quantity = CASE
                           WHEN (h.latest_at, h.latest_event_id) > (excluded.latest_at, excluded.latest_event_id)
                           THEN h.latest_quantity ELSE excluded.latest_quantity END
               )
               "# + $told,
            &$events.organization_ids,
            &$events.occurred_at,
            &$events.event_ids,
            &$events.meter_ids,
            &$events.quantities,
            &$events.subjects as &[&str],
            &$events.names as &[Option<&str>],
            &$events.properties as &[Option<&str>],
            &$events.series_ids as &[Option<Uuid>],
            &$events.value_ids as &[Option<Uuid>],
            $recorded_at,
            &$quarters.organization_ids,
            &$quarters.meter_ids,
            &$quarters.series_ids,
            &$quarters.bucket_starts,
            &$quarters.event_counts,
            &$quarters.quantity_sums,
            &$quarters.quantity_mins as &[Option<Decimal>],
            &$quarters.quantity_maxs as &[Option<Decimal>],
            &$quarters.latest_at as &[Option<DateTime<Utc>>],
            &$quarters.latest_event_ids as &[Option<Uuid>],
            &$quarters.latest_quantities as &[Option<Decimal>],
            &$hours.organization_ids,
            &$hours.meter_ids,
            &$hours.series_ids,
            &$hours.bucket_starts,
            &$hours.event_counts,
            &$hours.quantity_sums,
            &$hours.quantity_mins as &[Option<Decimal>],
            &$hours.quantity_maxs as &[Option<Decimal>],
            &$hours.latest_at as &[Option<DateTime<Utc>>],
            &$hours.latest_event_ids as &[Option<Uuid>],
            &$hours.latest_quantities as &[Option<Decimal>]
        )
    };
}

/// What [`insert`] is told: how many events were inserted, and which, when that were not all.
struct Told {
    events: i64,
    organization_id: Option<Uuid>,
    occurred_at: Option<DateTime<Utc>>,
    event_id: Option<Uuid>,
}

/// What [`insert_new`] is told: how many events were inserted.
struct Count {
    events: i64,
}

/// Inserts events that are not there yet and, when that were all of them, adds their tallies to the aggregates: to the
/// quarters, then to the hours.
///
/// Entries are distinct, and ascending by key: replicas lock rows in the same order, events before quarters before hours.
/// The rest, when some were there before, is for the caller: add up those that were inserted, and call this again without
/// events.
///
/// Errors: `USAGE_PARTITION_MISSING`; `Conflict` when the whole transaction is to be tried again.
pub async fn insert(
    scope: &mut IngestScope,
    entries: &[Entry<'_>],
    tallies: &Tallies,
    recorded_at: DateTime<Utc>,
) -> Result<Inserted, Error> {
    let events = Columns::of(entries);
    let (quarters, hours) = (Aggregates::of(&tallies.quarters), Aggregates::of(&tallies.hours));
    let statement = insert!(
        Told,
        "ON CONFLICT DO NOTHING",
        "organization_id, occurred_at, event_id",
        r#"SELECT c.events AS "events!", i.organization_id AS "organization_id?", i.occurred_at AS "occurred_at?",
                   i.event_id AS "event_id?"
               FROM counted c LEFT JOIN inserted i ON c.events < cardinality($1::uuid[])"#,
        events,
        quarters,
        hours,
        recorded_at
    );
    let rows = statement.fetch_all(&mut *scope).await.map_err(insert_failed)?;
    if rows.first().is_some_and(|row| usize::try_from(row.events) == Ok(entries.len())) {
        return Ok(Inserted::All);
    }
    let keys = rows
        .into_iter()
        .filter_map(|row| Some((row.organization_id?.into(), (row.occurred_at?, row.event_id?))))
        .collect();
    Ok(Inserted::Only(keys))
}

/// The same for events of which none is there. To insert one takes Postgres a third less: where one may be there, it looks for
/// each first, and inserts it as one that may be taken back.
///
/// Errors: as there, and `Conflict` when one of them is there: to be tried again with [`insert`].
pub async fn insert_new(
    scope: &mut IngestScope,
    entries: &[Entry<'_>],
    tallies: &Tallies,
    recorded_at: DateTime<Utc>,
) -> Result<(), Error> {
    let events = Columns::of(entries);
    let (quarters, hours) = (Aggregates::of(&tallies.quarters), Aggregates::of(&tallies.hours));
    // A column of theirs would be read, and so each row be held against the policies for reading too.
    let statement =
        insert!(Count, "", "1", r#"SELECT events AS "events!" FROM counted"#, events, quarters, hours, recorded_at);
    let rows = statement.fetch_all(&mut *scope).await.map_err(|error| match error.as_database_error() {
        // Aggregates are updated where they are there.
        Some(database) if database.is_unique_violation() => Error::Conflict,
        _ => insert_failed(error),
    })?;
    match rows.first() {
        Some(row) if usize::try_from(row.events) == Ok(entries.len()) => Ok(()),
        _ => Err(Error::internal("an event was neither inserted nor there")),
    }
}

/// Adds distinct values, which may be there. After the aggregates of their series and quarters of an hour were added:
/// their locks keep a void, which takes values away, from running beside this.
pub async fn insert_unique_values(scope: &mut IngestScope, tallies: &Tallies) -> Result<(), Error> {
    let uuids = |of: fn(&(TallyKey, Uuid)) -> Uuid| tallies.unique_values.iter().map(of).collect::<Vec<Uuid>>();
    sqlx::query!(
        "INSERT INTO tenancy.usage_unique_values (organization_id, meter_id, series_id, bucket_start, value_id)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::uuid[])
         ON CONFLICT DO NOTHING",
        &uuids(|(key, _)| key.organization_id.uuid()),
        &uuids(|(key, _)| key.meter_id.uuid()),
        &uuids(|(key, _)| key.series_id.uuid()),
        &tallies.unique_values.iter().map(|(key, _)| key.bucket_start).collect::<Vec<_>>(),
        &uuids(|(_, value)| *value)
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
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
