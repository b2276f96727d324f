//! Reads all that an organization has, in [`Database::snapshot`]: one moment, however long it takes and whatever is written
//! meanwhile. A row is text from Postgres to the file: no number, no time and no bytes pass through a type of ours.
//!
//! [`Database::snapshot`]: crate::repository::database::Database::snapshot

use chrono::{DateTime, Utc};
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::{AssertSqlSafe, Postgres};

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::portable::{FORMAT, Header, Named, Span};
use crate::repository::organization;
use crate::repository::portable::{Table, quoted, quoted_all, table};
use crate::repository::scope::{PlatformScope, TenantScope};

/// Rows as JSON objects.
pub type Rows<'s> = BoxStream<'s, Result<String, Error>>;

/// The name of the scope's snapshot, for [`Database::platform_snapshot`]; good for as long as the scope is open.
///
/// [`Database::platform_snapshot`]: crate::repository::database::Database::platform_snapshot
pub async fn moment(scope: &mut TenantScope) -> Result<String, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT pg_export_snapshot() AS "moment!""#).fetch_one(&mut *scope).await?)
}

/// The first line of the file. Error: `ORGANIZATION_NOT_FOUND`.
pub async fn header(scope: &mut TenantScope, now: DateTime<Utc>) -> Result<Header, Error> {
    let organization = organization::get(scope).await?;
    let found = sqlx::query!(
        r#"SELECT tenancy.schema_version() AS "version!", min(occurred_at) AS oldest, max(occurred_at) AS newest
           FROM tenancy.usage_events WHERE organization_id = $1"#,
        organization.organization_id.uuid()
    )
    .fetch_one(&mut *scope)
    .await?;
    Ok(Header {
        tenancy_export: FORMAT,
        schema_version: found.version,
        organization: Named {
            organization_id: organization.organization_id,
            slug: organization.profile.slug,
            plan: organization.profile.plan,
        },
        exported_at: now,
        events: found.oldest.zip(found.newest).map(|(oldest, newest)| Span { oldest, newest }),
    })
}

/// The rows of a table.
pub fn rows<'s>(scope: &'s mut TenantScope, table: &Table) -> Rows<'s> {
    let (columns, name, order) = (quoted_all(&table.columns), quoted(&table.name), quoted_all(&table.order));
    let order = if order.is_empty() { String::new() } else { format!("ORDER BY {order}") };
    let sql = format!(
        "SELECT row_to_json(r)::text FROM (SELECT {columns} FROM tenancy.{name} WHERE organization_id = $1 {order}) AS r"
    );
    let organization_id = scope.organization_id().uuid();
    let rows = sqlx::query_scalar::<Postgres, String>(AssertSqlSafe(sql)).bind(organization_id);
    rows.fetch(&mut *scope).map_err(Error::from).boxed()
}

/// The platform-wide meters that rows of these tables name: their definitions, for another installation has its own ids.
pub async fn meters(scope: &mut TenantScope, tables: &[Table]) -> Result<Vec<String>, Error> {
    let columns = quoted_all(&table(scope, "platform_meters").await?.columns);
    // Each table is read through: an event whose every aggregate was voided names its meter too.
    let named = tables
        .iter()
        .filter(|table| table.has("meter_id"))
        .map(|table| format!("SELECT meter_id FROM tenancy.{} WHERE organization_id = $1", quoted(&table.name)));
    let named: Vec<String> = named.collect();
    let sql = format!(
        "SELECT row_to_json(r)::text FROM (SELECT {columns} FROM tenancy.platform_meters
             WHERE meter_id IN ({}) ORDER BY key) AS r",
        named.join(" UNION ")
    );
    let organization_id = scope.organization_id().uuid();
    let rows = sqlx::query_scalar::<Postgres, String>(AssertSqlSafe(sql)).bind(organization_id);
    Ok(rows.fetch_all(&mut *scope).await?)
}

/// The users who are members, and nobody else. Which other organization one of them prefers stays unsaid.
pub async fn users(scope: &mut PlatformScope, organization_id: OrganizationId) -> Result<Rows<'_>, Error> {
    let columns = table(scope, "users").await?.columns;
    let columns = columns.iter().map(|column| match column.as_str() {
        "default_organization_id" => {
            "CASE default_organization_id WHEN $1 THEN $1 END AS default_organization_id".into()
        }
        column => quoted(column),
    });
    let sql = format!(
        "SELECT row_to_json(r)::text FROM (SELECT {} FROM tenancy.users u WHERE EXISTS (
             SELECT FROM tenancy.members m WHERE m.organization_id = $1 AND m.user_id = u.user_id) ORDER BY user_id) AS r",
        columns.collect::<Vec<_>>().join(", ")
    );
    let rows = sqlx::query_scalar::<Postgres, String>(AssertSqlSafe(sql)).bind(organization_id.uuid());
    Ok(rows.fetch(&mut *scope).map_err(Error::from).boxed())
}
