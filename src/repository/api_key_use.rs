//! When the keys of tenants were last used.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{ApiKeyId, OrganizationId};
use crate::repository::scope::IngestScope;

/// Writes uses, each unless a later one is known. The scope must name their organizations.
pub async fn write(scope: &mut IngestScope, uses: &[(OrganizationId, ApiKeyId, DateTime<Utc>)]) -> Result<(), Error> {
    let organizations: Vec<Uuid> = uses.iter().map(|(organization, ..)| organization.uuid()).collect();
    let keys: Vec<Uuid> = uses.iter().map(|(_, key, _)| key.uuid()).collect();
    let times: Vec<DateTime<Utc>> = uses.iter().map(|(.., at)| *at).collect();
    sqlx::query!(
        "INSERT INTO tenancy.api_key_uses AS u (organization_id, api_key_id, last_used_time)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[])
         ON CONFLICT ON CONSTRAINT api_key_uses_pkey
         DO UPDATE SET last_used_time = GREATEST(u.last_used_time, excluded.last_used_time)",
        &organizations,
        &keys,
        &times
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}
