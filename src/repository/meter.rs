//! Meters: an organization's own, and the platform-wide ones.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::MeterId;
use crate::model::meter::{Aggregation, Definition, Meter};
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::scope::{PlatformScope, TenantScope};

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "meter";

struct Row {
    organization_id: Option<Uuid>,
    meter_id: Uuid,
    key: String,
    display_name: String,
    unit: String,
    aggregation: Aggregation,
    create_time: DateTime<Utc>,
}

impl From<Row> for Meter {
    fn from(row: Row) -> Self {
        Self {
            organization_id: row.organization_id.map(Into::into),
            meter_id: row.meter_id.into(),
            definition: Definition {
                key: row.key,
                display_name: row.display_name,
                unit: row.unit,
                aggregation: row.aggregation,
            },
            create_time: row.create_time,
        }
    }
}

/// Creates a meter of the scope's organization. Error: `METER_KEY_TAKEN`, also by a platform-wide meter.
///
/// A platform-wide meter that is created at the same moment is not seen; the organization's own counts then.
pub async fn create(scope: &mut TenantScope, definition: Definition, now: DateTime<Utc>) -> Result<Meter, Error> {
    let organization_id = scope.organization_id();
    let taken = sqlx::query_scalar!("SELECT meter_id FROM tenancy.platform_meters WHERE key = $1", definition.key)
        .fetch_optional(&mut *scope)
        .await?;
    if taken.is_some() {
        return Err(key_taken(&definition.key));
    }
    let created =
        Meter { organization_id: Some(organization_id), meter_id: MeterId::new(now), definition, create_time: now };
    let Definition { key, display_name, unit, aggregation } = &created.definition;
    sqlx::query!(
        "INSERT INTO tenancy.meters (organization_id, meter_id, key, display_name, unit, aggregation, create_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        organization_id.uuid(),
        created.meter_id.uuid(),
        key,
        display_name,
        unit,
        aggregation.as_str(),
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("meters_key", || key_taken(key)))?;
    let id = created.meter_id.to_string();
    audit_event::record(scope, happened(now, &id), None::<&Meter>, Some(&created)).await?;
    changes::announce(scope, &Change::Meters(organization_id)).await?;
    Ok(created)
}

/// Creates a platform-wide meter. Error: `METER_KEY_TAKEN` by another one; where an organization has a meter of this
/// key, its own goes on counting.
pub async fn create_platform_wide(
    scope: &mut PlatformScope,
    definition: Definition,
    now: DateTime<Utc>,
) -> Result<Meter, Error> {
    let created = Meter { organization_id: None, meter_id: MeterId::new(now), definition, create_time: now };
    let Definition { key, display_name, unit, aggregation } = &created.definition;
    sqlx::query!(
        "INSERT INTO tenancy.platform_meters (meter_id, key, display_name, unit, aggregation, create_time)
         VALUES ($1, $2, $3, $4, $5, $6)",
        created.meter_id.uuid(),
        key,
        display_name,
        unit,
        aggregation.as_str(),
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("platform_meters_key", || key_taken(key)))?;
    let id = created.meter_id.to_string();
    audit_event::record(scope, happened(now, &id), None::<&Meter>, Some(&created)).await?;
    changes::announce(scope, &Change::PlatformMeters).await?;
    Ok(created)
}

/// One page and one more of the meters that count for the scope's organization, newest first: its own, and the
/// platform-wide ones whose key it has not taken itself.
pub async fn list(scope: &mut TenantScope, page: &Page) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT organization_id, meter_id AS "meter_id!", key AS "key!", display_name AS "display_name!",
               unit AS "unit!", aggregation AS "aggregation!: Aggregation", create_time AS "create_time!"
           FROM (
               SELECT organization_id, meter_id, key, display_name, unit, aggregation, create_time
               FROM tenancy.meters WHERE organization_id = $1
               UNION ALL
               SELECT NULL, meter_id, key, display_name, unit, aggregation, create_time
               FROM tenancy.platform_meters p
               WHERE NOT EXISTS (SELECT FROM tenancy.meters m WHERE m.organization_id = $1 AND m.key = p.key)
           ) AS counting
           WHERE meter_id < $2
           ORDER BY meter_id DESC LIMIT $3"#,
        scope.organization_id().uuid(),
        page.bound().id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// One page and one more of the platform-wide meters, newest first.
pub async fn list_platform_wide(scope: &mut PlatformScope, page: &Page) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT NULL::uuid AS organization_id, meter_id, key, display_name, unit,
               aggregation AS "aggregation: Aggregation", create_time
           FROM tenancy.platform_meters
           WHERE meter_id < $1 ORDER BY meter_id DESC LIMIT $2"#,
        page.bound().id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// All meters of the scope's organization itself, for the catalog.
pub async fn own(scope: &mut TenantScope) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT organization_id, meter_id, key, display_name, unit, aggregation AS "aggregation: Aggregation",
               create_time
           FROM tenancy.meters WHERE organization_id = $1"#,
        scope.organization_id().uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// All platform-wide meters, for the catalog.
pub async fn platform_wide(scope: &mut PlatformScope) -> Result<Vec<Meter>, Error> {
    let found = sqlx::query_as!(
        Row,
        r#"SELECT NULL::uuid AS organization_id, meter_id, key, display_name, unit,
               aggregation AS "aggregation: Aggregation", create_time
           FROM tenancy.platform_meters"#
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(Into::into).collect())
}

fn happened(at: DateTime<Utc>, id: &str) -> Happened<'_> {
    Happened { at, action: "meters.create", resource_type: RESOURCE, resource_id: id }
}

fn key_taken(key: &str) -> Error {
    Error::AlreadyExists { reason: "METER_KEY_TAKEN", resource: RESOURCE, field: "meter.key", value: key.to_owned() }
}
