//! What background jobs do to tables, through functions of the owner. In platform scopes of the purpose `Upkeep`.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::repository::scope::PlatformScope;

/// Makes the weekly partitions of usage events that cover the span and are not there yet; returns their names.
///
/// Error: `Conflict` when the tables were busy for too long; nothing was made then, try again.
pub async fn create_usage_partitions(
    scope: &mut PlatformScope,
    covers_from: DateTime<Utc>,
    covers_to: DateTime<Utc>,
) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT name AS "name!" FROM tenancy.create_usage_partitions($1, $2) AS name"#,
        covers_from,
        covers_to
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// Drops the partitions of usage events that end at or before the given time; returns their names. Aggregates stay.
///
/// Error: `Conflict` when the tables were busy for too long; nothing was dropped then, try again.
pub async fn drop_usage_partitions(
    scope: &mut PlatformScope,
    ends_before: DateTime<Utc>,
) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT name AS "name!" FROM tenancy.drop_usage_partitions($1) AS name"#, ends_before)
        .fetch_all(&mut *scope)
        .await?)
}
