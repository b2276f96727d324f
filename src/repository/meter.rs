//! Meters: an organization's own, and the platform-wide ones. A tenant scope creates and changes the first, a platform
//! scope the second.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{OrganizationId, parse_uuid};
use crate::model::meter::{Aggregation, Condition, Measure, Meter, NewMeter, Profile};
use crate::model::text;
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::scope::{Accountable, PlatformScope, Scope, TenantScope};

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "meter";

struct Row {
    organization_id: Option<Uuid>,
    meter_id: Uuid,
    key: String,
    display_name: String,
    description: String,
    unit: String,
    aggregation: Aggregation,
    value_property: Option<String>,
    group_by: Vec<String>,
    filter: Json<Vec<Condition>>,
    archive_time: Option<DateTime<Utc>>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Row> for Meter {
    fn from(row: Row) -> Self {
        Self {
            organization_id: row.organization_id.map(Into::into),
            meter_id: row.meter_id.into(),
            key: row.key,
            profile: Profile { display_name: row.display_name, description: row.description, unit: row.unit },
            measure: Measure {
                aggregation: row.aggregation,
                value_property: row.value_property,
                group_by: row.group_by,
                filter: row.filter.0,
            },
            archive_time: row.archive_time,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Creates a meter of the scope's organization, or a platform-wide one. Error: `METER_KEY_TAKEN`, for an organization
/// also by a platform-wide meter; where an organization has a meter of a platform-wide one's key, its own goes on
/// counting.
///
/// A platform-wide meter that is created at the same moment is not seen; the organization's own counts then.
pub async fn create<K: Accountable>(scope: &mut Scope<K>, new: NewMeter, now: DateTime<Utc>) -> Result<Meter, Error> {
    let created = new.created(scope.kind().organization(), now);
    match created.organization_id {
        Some(organization_id) => insert(scope, organization_id, &created).await?,
        None => insert_platform_wide(scope, &created).await?,
    }
    changed(scope, "meters.create", None, &created, now).await?;
    Ok(created)
}

async fn insert<K: Accountable>(
    scope: &mut Scope<K>,
    organization_id: OrganizationId,
    meter: &Meter,
) -> Result<(), Error> {
    let taken = sqlx::query_scalar!("SELECT meter_id FROM tenancy.platform_meters WHERE key = $1", meter.key)
        .fetch_optional(&mut *scope)
        .await?;
    if taken.is_some() {
        return Err(key_taken(&meter.key));
    }
    let Meter { profile, measure, .. } = meter;
    sqlx::query!(
        "INSERT INTO tenancy.meters (organization_id, meter_id, key, display_name, description, unit, aggregation,
             value_property, group_by, filter, revision, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        organization_id.uuid(),
        meter.meter_id.uuid(),
        meter.key,
        profile.display_name,
        profile.description,
        profile.unit,
        measure.aggregation.as_str(),
        measure.value_property,
        &measure.group_by,
        Json(&measure.filter) as _,
        meter.revision,
        meter.create_time,
        meter.update_time
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("meters_key", || key_taken(&meter.key)))?;
    Ok(())
}

async fn insert_platform_wide<K: Accountable>(scope: &mut Scope<K>, meter: &Meter) -> Result<(), Error> {
    let Meter { profile, measure, .. } = meter;
    sqlx::query!(
        "INSERT INTO tenancy.platform_meters (meter_id, key, display_name, description, unit, aggregation,
             value_property, group_by, filter, revision, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        meter.meter_id.uuid(),
        meter.key,
        profile.display_name,
        profile.description,
        profile.unit,
        measure.aggregation.as_str(),
        measure.value_property,
        &measure.group_by,
        Json(&measure.filter) as _,
        meter.revision,
        meter.create_time,
        meter.update_time
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("platform_meters_key", || key_taken(&meter.key)))?;
    Ok(())
}

/// The meter of an id or a key that the scope may change, locked until the scope ends: changes of one meter happen one
/// after another.
///
/// Errors: `METER_NOT_FOUND`; `METER_PLATFORM_WIDE` in an organization for a meter that is not its own but counts for all.
pub async fn lock<K: Accountable>(scope: &mut Scope<K>, name: &str) -> Result<Meter, Error> {
    let id = parse_uuid(name);
    let key = Some(name).filter(|name| id.is_none() && text::is_key(name));
    let found = match scope.kind().organization() {
        Some(organization_id) => {
            let own = lock_own(scope, organization_id, id, key).await?;
            if own.is_none() && is_platform_wide(scope, id, key).await? {
                return Err(Error::PermissionDenied {
                    reason: "METER_PLATFORM_WIDE",
                    message: format!(
                        "the meter {name:?} counts for all organizations: a platform key changes it, in a request that \
                         names no organization"
                    ),
                });
            }
            own
        }
        None => lock_platform_wide(scope, id, key).await?,
    };
    found.map(Into::into).ok_or_else(|| Error::not_found(RESOURCE, name))
}

async fn lock_own<K: Accountable>(
    scope: &mut Scope<K>,
    organization_id: OrganizationId,
    id: Option<Uuid>,
    key: Option<&str>,
) -> Result<Option<Row>, Error> {
    Ok(sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id?", meter_id, key, display_name, description, unit,
               aggregation AS "aggregation: Aggregation", value_property, group_by,
               filter AS "filter: Json<Vec<Condition>>", archive_time, revision, create_time, update_time
           FROM tenancy.meters WHERE organization_id = $1 AND (meter_id = $2 OR key = $3) FOR NO KEY UPDATE"#,
        organization_id.uuid(),
        id,
        key
    )
    .fetch_optional(&mut *scope)
    .await?)
}

async fn lock_platform_wide<K: Accountable>(
    scope: &mut Scope<K>,
    id: Option<Uuid>,
    key: Option<&str>,
) -> Result<Option<Row>, Error> {
    Ok(sqlx::query_as!(
        Row,
        r#"SELECT NULL::uuid AS organization_id, meter_id, key, display_name, description, unit,
               aggregation AS "aggregation: Aggregation", value_property, group_by,
               filter AS "filter: Json<Vec<Condition>>", archive_time, revision, create_time, update_time
           FROM tenancy.platform_meters WHERE meter_id = $1 OR key = $2 FOR NO KEY UPDATE"#,
        id,
        key
    )
    .fetch_optional(&mut *scope)
    .await?)
}

async fn is_platform_wide<K: Accountable>(
    scope: &mut Scope<K>,
    id: Option<Uuid>,
    key: Option<&str>,
) -> Result<bool, Error> {
    let found =
        sqlx::query_scalar!("SELECT meter_id FROM tenancy.platform_meters WHERE meter_id = $1 OR key = $2", id, key)
            .fetch_optional(&mut *scope)
            .await?;
    Ok(found.is_some())
}

/// Writes what can change of a locked meter back as `after`, under `action` in the audit, and tells the caches. Returns
/// it as saved.
pub async fn save<K: Accountable>(
    scope: &mut Scope<K>,
    action: &'static str,
    before: &Meter,
    after: Meter,
    now: DateTime<Utc>,
) -> Result<Meter, Error> {
    let profile = &after.profile;
    let revision = match after.organization_id {
        Some(organization_id) => {
            sqlx::query_scalar!(
                "UPDATE tenancy.meters SET display_name = $3, description = $4, unit = $5, archive_time = $6,
                     update_time = $7, revision = revision + 1
                 WHERE organization_id = $1 AND meter_id = $2 RETURNING revision",
                organization_id.uuid(),
                after.meter_id.uuid(),
                profile.display_name,
                profile.description,
                profile.unit,
                after.archive_time,
                now
            )
            .fetch_one(&mut *scope)
            .await?
        }
        None => {
            sqlx::query_scalar!(
                "UPDATE tenancy.platform_meters SET display_name = $2, description = $3, unit = $4, archive_time = $5,
                     update_time = $6, revision = revision + 1
                 WHERE meter_id = $1 RETURNING revision",
                after.meter_id.uuid(),
                profile.display_name,
                profile.description,
                profile.unit,
                after.archive_time,
                now
            )
            .fetch_one(&mut *scope)
            .await?
        }
    };
    let saved = Meter { revision, update_time: now, ..after };
    changed(scope, action, Some(before), &saved, now).await?;
    Ok(saved)
}

/// One page and one more of the meters that count for the scope's organization, newest first: its own, and the
/// platform-wide ones whose key it has not taken itself; the archived ones if asked.
pub async fn list(scope: &mut TenantScope, show_archived: bool, page: &Page) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT organization_id, meter_id AS "meter_id!", key AS "key!", display_name AS "display_name!",
               description AS "description!", unit AS "unit!", aggregation AS "aggregation!: Aggregation",
               value_property, group_by AS "group_by!", filter AS "filter!: Json<Vec<Condition>>", archive_time,
               revision AS "revision!", create_time AS "create_time!", update_time AS "update_time!"
           FROM (
               SELECT organization_id, meter_id, key, display_name, description, unit, aggregation, value_property,
                   group_by, filter, archive_time, revision, create_time, update_time
               FROM tenancy.meters WHERE organization_id = $1
               UNION ALL
               SELECT NULL, meter_id, key, display_name, description, unit, aggregation, value_property,
                   group_by, filter, archive_time, revision, create_time, update_time
               FROM tenancy.platform_meters p
               WHERE NOT EXISTS (SELECT FROM tenancy.meters m WHERE m.organization_id = $1 AND m.key = p.key)
           ) AS counting
           WHERE meter_id < $2 AND ($3 OR archive_time IS NULL)
           ORDER BY meter_id DESC LIMIT $4"#,
        scope.organization_id().uuid(),
        page.bound().id,
        show_archived,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// One page and one more of the platform-wide meters, newest first; the archived ones if asked.
pub async fn list_platform_wide(
    scope: &mut PlatformScope,
    show_archived: bool,
    page: &Page,
) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT NULL::uuid AS organization_id, meter_id, key, display_name, description, unit,
               aggregation AS "aggregation: Aggregation", value_property, group_by,
               filter AS "filter: Json<Vec<Condition>>", archive_time, revision, create_time, update_time
           FROM tenancy.platform_meters
           WHERE meter_id < $1 AND ($2 OR archive_time IS NULL)
           ORDER BY meter_id DESC LIMIT $3"#,
        page.bound().id,
        show_archived,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// All meters of the scope's organization itself, also the archived ones, for the catalog.
pub async fn own(scope: &mut TenantScope) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id?", meter_id, key, display_name, description, unit,
               aggregation AS "aggregation: Aggregation", value_property, group_by,
               filter AS "filter: Json<Vec<Condition>>", archive_time, revision, create_time, update_time
           FROM tenancy.meters WHERE organization_id = $1"#,
        scope.organization_id().uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// All platform-wide meters, also the archived ones, for the catalog.
pub async fn platform_wide(scope: &mut PlatformScope) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT NULL::uuid AS organization_id, meter_id, key, display_name, description, unit,
               aggregation AS "aggregation: Aggregation", value_property, group_by,
               filter AS "filter: Json<Vec<Condition>>", archive_time, revision, create_time, update_time
           FROM tenancy.platform_meters"#
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// Writes down what became of a meter, and tells the caches.
async fn changed<K: Accountable>(
    scope: &mut Scope<K>,
    action: &'static str,
    before: Option<&Meter>,
    after: &Meter,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = after.meter_id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, Some(after)).await?;
    let change = after.organization_id.map_or(Change::PlatformMeters, Change::Meters);
    changes::announce(scope, &change).await
}

fn key_taken(key: &str) -> Error {
    Error::AlreadyExists { reason: "METER_KEY_TAKEN", resource: RESOURCE, field: "meter.key", value: key.to_owned() }
}
