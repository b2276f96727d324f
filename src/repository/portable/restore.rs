//! Writes what was exported, row by row as it was: ids, times and etags stay. In one transaction of the owner's, bound to
//! the organization by the policies: a row of another one is refused by Postgres, whatever came here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::UserId;
use crate::model::portable::{Header, Span};
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::constraint;
use crate::repository::portable::owner::RestoreScope;
use crate::repository::portable::{Table, quoted, quoted_all, table};
use crate::repository::usage::recount;

/// The table whose rows need a partition.
const EVENTS: &str = "usage_events";

/// The version of the schema that added [`HOURS`]: what is exported of an earlier one has quarters of an hour alone.
const HOURS_SINCE: i64 = 17;

/// The table of what events add up to by the hour.
pub const HOURS: &str = "usage_hours";

/// Rows of one table that have the same columns.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Where they belong.
    pub table: &'a Table,
    /// The columns that they have.
    pub columns: &'a [String],
    /// A JSON array of objects.
    pub rows: &'a str,
}

/// A user of the file whose address or identity is another user's here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clash {
    /// In the file.
    pub user_id: UserId,
    /// In the file.
    pub email: String,
    /// Who has the address or the identity here.
    pub taken_by: UserId,
    /// Whether it is the address.
    pub same_email: bool,
}

/// A platform-wide meter of the file, and what there is of its key here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeterMatch {
    /// Its key.
    pub key: String,
    /// Its id in the file.
    pub theirs: Uuid,
    /// The id of the meter with this key here.
    pub ours: Option<Uuid>,
    /// Whether both count the same.
    pub same: bool,
}

/// Fails where the organization cannot be restored, before anything is done.
///
/// Errors: `ORGANIZATION_EXISTS`, `SCHEMA_TOO_OLD`, `PLAN_NOT_FOUND`.
pub async fn check(scope: &mut RestoreScope, header: &Header) -> Result<(), Error> {
    let organization_id = scope.organization_id();
    let named = &header.organization;
    let found = sqlx::query!(
        r#"SELECT tenancy.schema_version() AS "version!",
               EXISTS (SELECT FROM tenancy.organizations WHERE organization_id = $1) AS "exists!",
               EXISTS (SELECT FROM tenancy.plans WHERE key = $2) AS "has_plan!""#,
        organization_id.uuid(),
        named.plan
    )
    .fetch_one(&mut *scope)
    .await?;
    let subject = format!("organizations/{organization_id}");
    if found.exists {
        return Err(Error::AlreadyExists {
            reason: "ORGANIZATION_EXISTS",
            resource: "organization",
            field: "organization_id",
            value: organization_id.to_string(),
        });
    }
    if header.schema_version > found.version {
        return Err(Error::FailedPrecondition {
            reason: "SCHEMA_TOO_OLD",
            subject,
            message: format!(
                "the export is of schema version {}, this database of {}: update this installation first",
                header.schema_version, found.version
            ),
        });
    }
    if !found.has_plan {
        return Err(Error::FailedPrecondition {
            reason: "PLAN_NOT_FOUND",
            subject,
            message: format!("there is no plan {:?} here: create it first (PlanService/CreatePlan)", named.plan),
        });
    }
    Ok(())
}

/// From when on raw events are taken, those before it being past their retention here, whose partitions began at `kept_since`
/// or later. No partition is made before it: figures of others, of which the raw events were dropped, would look wrong.
///
/// Until the scope ends, no partition is dropped.
pub async fn events_since(scope: &mut RestoreScope, kept_since: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
    let kept = recount::kept(scope).await?;
    let week = sqlx::query_scalar!(r#"SELECT date_trunc('week', $1::timestamptz, 'UTC') AS "week!""#, kept_since)
        .fetch_one(&mut *scope)
        .await?;
    Ok(kept.map_or(week, |kept| kept.start.min(week)))
}

/// Makes the partitions that events of the span need, from `since` on. In a scope of its own, for that it holds up the upkeep.
///
/// Error: `Conflict` when the table was busy for too long.
pub async fn make_partitions(scope: &mut RestoreScope, span: Span, since: DateTime<Utc>) -> Result<(), Error> {
    let from = span.oldest.max(since);
    if from <= span.newest {
        // The span has its end within; the function's ends before.
        let to = span.newest + chrono::TimeDelta::milliseconds(1);
        sqlx::query!("SELECT tenancy.create_usage_partitions($1, $2)", from, to).fetch_all(&mut *scope).await?;
    }
    Ok(())
}

/// The columns of a table that is no tenant's.
pub async fn shared(scope: &mut RestoreScope, name: &str) -> Result<Table, Error> {
    table(scope, name).await
}

/// Writes rows; returns how many of them. Raw events before `events_since` are left out.
///
/// Errors: `SLUG_TAKEN`, `IMPORT_CONFLICT` for a row whose place is taken, `IMPORT_FOREIGN` for one of another organization,
/// `IMPORT_INVALID` for what does not fit the schema.
pub async fn insert(scope: &mut RestoreScope, batch: &Batch<'_>, events_since: DateTime<Utc>) -> Result<u64, Error> {
    let (name, columns) = (quoted(&batch.table.name), quoted_all(batch.columns));
    let kept = if batch.table.name == EVENTS { "WHERE occurred_at >= $2" } else { "WHERE $2::timestamptz IS NOT NULL" };
    let sql = format!(
        "INSERT INTO tenancy.{name} ({columns})
         SELECT {columns} FROM jsonb_populate_recordset(NULL::tenancy.{name}, $1::text::jsonb) {kept}"
    );
    let inserted = sqlx::query(AssertSqlSafe(sql)).bind(batch.rows).bind(events_since).execute(&mut *scope).await;
    Ok(inserted.map_err(|error| misfit(&batch.table.name, error))?.rows_affected())
}

/// The users who are not here by their ids, and whose address or identity is another user's here.
pub async fn clashes(scope: &mut RestoreScope, rows: &str) -> Result<Vec<Clash>, Error> {
    sqlx::query_as!(
        Clash,
        r#"SELECT f.user_id AS "user_id!: UserId", f.email AS "email!", u.user_id AS "taken_by!: UserId",
               u.email_key = lower(f.email COLLATE "C") AS "same_email!"
           FROM jsonb_populate_recordset(NULL::tenancy.users, $1::text::jsonb) f
           JOIN tenancy.users u ON u.user_id <> f.user_id
               AND (u.email_key = lower(f.email COLLATE "C")
                   OR f.external_id <> '' AND u.identity_provider = f.identity_provider AND u.external_id = f.external_id)
           WHERE NOT EXISTS (SELECT FROM tenancy.users here WHERE here.user_id = f.user_id) ORDER BY 2, 3"#,
        rows
    )
    .fetch_all(&mut *scope)
    .await
    .map_err(|error| misfit("users", error))
}

/// Writes users, but for some, who are not here yet by their ids; those who are stay as they are. Returns how many it wrote.
pub async fn users(scope: &mut RestoreScope, batch: &Batch<'_>, but: &[UserId]) -> Result<u64, Error> {
    let columns = quoted_all(batch.columns);
    let sql = format!(
        "INSERT INTO tenancy.users ({columns})
         SELECT {columns} FROM jsonb_populate_recordset(NULL::tenancy.users, $1::text::jsonb) WHERE user_id <> ALL ($2)
         ON CONFLICT (user_id) DO NOTHING"
    );
    let but: Vec<Uuid> = but.iter().map(|user| user.uuid()).collect();
    let inserted = sqlx::query(AssertSqlSafe(sql)).bind(batch.rows).bind(but).execute(&mut *scope).await;
    Ok(inserted.map_err(|error| misfit("users", error))?.rows_affected())
}

/// Finds platform-wide meters by their keys: two installations have them under other ids.
pub async fn meters(scope: &mut RestoreScope, rows: &str) -> Result<Vec<MeterMatch>, Error> {
    sqlx::query_as!(
        MeterMatch,
        r#"SELECT f.key AS "key!", f.meter_id AS "theirs!", p.meter_id AS "ours?",
               (f.aggregation, f.value_property, f.group_by, f.filter)
                   IS NOT DISTINCT FROM (p.aggregation, p.value_property, p.group_by, p.filter) AS "same!"
           FROM jsonb_populate_recordset(NULL::tenancy.platform_meters, $1::text::jsonb) f
           LEFT JOIN tenancy.platform_meters p ON p.key = f.key ORDER BY f.key"#,
        rows
    )
    .fetch_all(&mut *scope)
    .await
    .map_err(|error| misfit("platform_meters", error))
}

/// Makes the hours of an export that has none, being older than they are, of its quarters. Returns how many rows it wrote; of
/// another export none.
pub async fn fold_hours(scope: &mut RestoreScope, header: &Header) -> Result<u64, Error> {
    if header.schema_version >= HOURS_SINCE {
        return Ok(0);
    }
    let inserted = sqlx::query!(
        "INSERT INTO tenancy.usage_hours (organization_id, meter_id, series_id, bucket_start, event_count, quantity_sum,
             quantity_min, quantity_max, latest_at, latest_event_id, latest_quantity)
         SELECT organization_id, meter_id, series_id, date_bin('1 hour', bucket_start, 'epoch'), sum(event_count)::bigint,
             sum(quantity_sum), min(quantity_min), max(quantity_max), max(latest_at),
             (array_agg(latest_event_id ORDER BY latest_at DESC, latest_event_id DESC)
                 FILTER (WHERE latest_at IS NOT NULL))[1],
             (array_agg(latest_quantity ORDER BY latest_at DESC, latest_event_id DESC)
                 FILTER (WHERE latest_at IS NOT NULL))[1]
         FROM tenancy.usage_aggregates WHERE organization_id = $1 GROUP BY 1, 2, 3, 4",
        scope.organization_id().uuid()
    )
    .execute(&mut *scope)
    .await?;
    Ok(inserted.rows_affected())
}

/// What the audit has of a restore.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// As exported.
    pub slug: String,
    /// When it was exported.
    pub exported_at: DateTime<Utc>,
    /// How many rows of each table were written.
    pub rows: BTreeMap<String, u64>,
}

/// Writes down that it was done, and tells the caches: a key that nobody knew a moment ago is good now.
pub async fn finish(scope: &mut RestoreScope, restored: &Restored, now: DateTime<Utc>) -> Result<(), Error> {
    let organization_id = scope.organization_id();
    let id = organization_id.to_string();
    let happened =
        Happened { at: now, action: "organizations.import", resource_type: "organization", resource_id: &id };
    audit_event::record(scope, happened, None::<&()>, Some(&json!(restored))).await?;
    sqlx::query!(
        "INSERT INTO tenancy.changes (subject)
         SELECT 'api_key:' || lookup_id FROM tenancy.api_key_directory WHERE organization_id = $1",
        organization_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    for change in [
        Change::Roles(organization_id),
        Change::Meters(organization_id),
        Change::Limits(organization_id),
        Change::Organization(organization_id),
    ] {
        changes::announce(scope, &change).await?;
    }
    Ok(())
}

/// What Postgres says of rows that do not fit, for the operator who brought them.
fn misfit(table: &str, error: sqlx::Error) -> Error {
    let Some(database) = error.as_database_error() else { return error.into() };
    let (code, message) = (database.code().unwrap_or_default().into_owned(), database.message().to_owned());
    let refused = |reason, message| Error::FailedPrecondition { reason, subject: format!("tables/{table}"), message };
    match (code.as_str(), constraint(&error)) {
        ("23505", Some("organization_slugs_pkey")) => refused(
            "SLUG_TAKEN",
            "another organization has its slug here: rename that one, or this one where it is".into(),
        ),
        ("23505", constraint) => refused(
            "IMPORT_CONFLICT",
            format!("a row of {table} is there already ({})", constraint.unwrap_or("a unique constraint")),
        ),
        ("42501", _) => refused("IMPORT_FOREIGN", format!("a row of {table} is another organization's: {message}")),
        (code, _) if code.starts_with("22") || code.starts_with("23") => {
            refused("IMPORT_INVALID", format!("a row of {table} does not fit the schema: {message}"))
        }
        _ => error.into(),
    }
}
