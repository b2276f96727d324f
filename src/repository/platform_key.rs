//! Keys of the platform, and their entries in the directory that finds a key by its lookup id.

use std::collections::HashMap;
use std::hash::BuildHasher;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::auth::keys::stored_hash::SecretHash;
use crate::error::Error;
use crate::ids::{OrganizationId, PlatformKeyId};
use crate::model::platform_key::PlatformKey;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::scope::PlatformScope;

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "platform_key";

struct Row {
    platform_key_id: Uuid,
    kind: String,
    lookup_id: String,
    display_name: String,
    scopes: Vec<String>,
    organization_ids: Option<Vec<Uuid>>,
    expire_time: Option<DateTime<Utc>>,
    revoke_time: Option<DateTime<Utc>>,
    last_used_time: Option<DateTime<Utc>>,
    create_time: DateTime<Utc>,
}

impl TryFrom<Row> for PlatformKey {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            platform_key_id: row.platform_key_id.into(),
            kind: row.kind.parse().map_err(Error::internal)?,
            lookup_id: row.lookup_id.parse().map_err(Error::internal)?,
            display_name: row.display_name,
            scopes: row.scopes,
            organization_ids: row.organization_ids.map(|ids| ids.into_iter().map(Into::into).collect()),
            expire_time: row.expire_time,
            revoke_time: row.revoke_time,
            last_used_time: row.last_used_time,
            create_time: row.create_time,
        })
    }
}

/// Stores a new key with the hash of its secret.
pub async fn create(scope: &mut PlatformScope, key: &PlatformKey, secret: &SecretHash) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tenancy.api_key_directory (lookup_id, organization_id, api_key_id) VALUES ($1, NULL, $2)",
        key.lookup_id.as_str(),
        key.platform_key_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    let organization_ids: Option<Vec<Uuid>> =
        key.organization_ids.as_ref().map(|ids| ids.iter().copied().map(OrganizationId::uuid).collect());
    sqlx::query!(
        "INSERT INTO tenancy.platform_keys (platform_key_id, kind, lookup_id, secret_hash, display_name, scopes,
             organization_ids, expire_time, create_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        key.platform_key_id.uuid(),
        key.kind.name(),
        key.lookup_id.as_str(),
        secret.to_string(),
        key.display_name,
        &key.scopes,
        organization_ids.as_deref(),
        key.expire_time,
        key.create_time
    )
    .execute(&mut *scope)
    .await?;
    changed(scope, "platform_keys.create", None, key, key.create_time).await
}

/// Every key, also those that work no more, newest first. There are few: people make them one by one.
pub async fn list(scope: &mut PlatformScope) -> Result<Vec<PlatformKey>, Error> {
    sqlx::query_as!(
        Row,
        "SELECT platform_key_id, kind, lookup_id, display_name, scopes, organization_ids, expire_time, revoke_time,
             last_used_time, create_time
         FROM tenancy.platform_keys ORDER BY platform_key_id DESC"
    )
    .fetch_all(&mut *scope)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// Revokes a key for good; one that is revoked stays as it is. Error: `PLATFORM_KEY_NOT_FOUND`.
pub async fn revoke(scope: &mut PlatformScope, id: PlatformKeyId, now: DateTime<Utc>) -> Result<PlatformKey, Error> {
    let before: PlatformKey = sqlx::query_as!(
        Row,
        "SELECT platform_key_id, kind, lookup_id, display_name, scopes, organization_ids, expire_time, revoke_time,
             last_used_time, create_time
         FROM tenancy.platform_keys WHERE platform_key_id = $1 FOR NO KEY UPDATE",
        id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, id))?
    .try_into()?;
    if before.revoke_time.is_some() {
        return Ok(before);
    }
    sqlx::query!("UPDATE tenancy.platform_keys SET revoke_time = $2 WHERE platform_key_id = $1", id.uuid(), now)
        .execute(&mut *scope)
        .await?;
    let after = PlatformKey { revoke_time: Some(now), ..before.clone() };
    changed(scope, "platform_keys.revoke", Some(&before), &after, now).await?;
    Ok(after)
}

/// Writes when keys were last used, each unless a later time is known.
pub async fn write_uses<S: BuildHasher>(
    scope: &mut PlatformScope,
    uses: &HashMap<PlatformKeyId, DateTime<Utc>, S>,
) -> Result<(), Error> {
    let (ids, times): (Vec<_>, Vec<_>) = uses.iter().map(|(id, at)| (id.uuid(), *at)).unzip();
    sqlx::query!(
        "UPDATE tenancy.platform_keys k SET last_used_time = GREATEST(k.last_used_time, used.at)
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS used (id, at) WHERE k.platform_key_id = used.id",
        &ids,
        &times
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}

async fn changed(
    scope: &mut PlatformScope,
    action: &'static str,
    before: Option<&PlatformKey>,
    after: &PlatformKey,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = after.platform_key_id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, Some(after)).await?;
    changes::announce(scope, &Change::ApiKey(after.lookup_id.to_string())).await
}
