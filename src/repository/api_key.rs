//! Keys of tenants, and their entries in the directory that finds a key before its tenant is known.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::auth::keys::stored_hash::SecretHash;
use crate::error::Error;
use crate::ids::ApiKeyId;
use crate::model::api_key::{ApiKey, Profile};
use crate::model::ip_range;
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::on_constraint;
use crate::repository::scope::TenantScope;

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "api_key";

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Labels that it must have, as a JSON object.
    pub labels: Option<Value>,
    /// Also the revoked ones.
    pub show_revoked: bool,
}

struct Row {
    organization_id: Uuid,
    api_key_id: Uuid,
    kind: String,
    lookup_id: String,
    previous_secret_expire_time: Option<DateTime<Utc>>,
    display_name: String,
    labels: Value,
    scopes: Vec<String>,
    allowed_origins: Vec<String>,
    allowed_ip_ranges: Vec<String>,
    disabled: bool,
    expire_time: Option<DateTime<Utc>>,
    revoke_time: Option<DateTime<Utc>>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    last_used_time: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for ApiKey {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            organization_id: row.organization_id.into(),
            api_key_id: row.api_key_id.into(),
            kind: row.kind.parse().map_err(Error::internal)?,
            lookup_id: row.lookup_id.parse().map_err(Error::internal)?,
            profile: Profile {
                display_name: row.display_name,
                labels: serde_json::from_value(row.labels).map_err(Error::internal)?,
                scopes: row.scopes,
                allowed_origins: row.allowed_origins,
                allowed_ip_ranges: ip_range::stored(&row.allowed_ip_ranges)?,
                disabled: row.disabled,
                expire_time: row.expire_time,
            },
            previous_secret_expire_time: row.previous_secret_expire_time,
            last_used_time: row.last_used_time,
            revoke_time: row.revoke_time,
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        })
    }
}

/// Stores a new key with the hash of its secret. Announced as well: a replica may remember that there was none.
///
/// A lookup id that is taken (95 random bits) fails as `Internal`: it means a broken generator, not bad luck.
pub async fn create(scope: &mut TenantScope, key: &ApiKey, secret: &SecretHash) -> Result<(), Error> {
    let organization_id = scope.organization_id();
    sqlx::query!(
        "INSERT INTO tenancy.api_key_directory (lookup_id, organization_id, api_key_id) VALUES ($1, $2, $3)",
        key.lookup_id.as_str(),
        organization_id.uuid(),
        key.api_key_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    let profile = &key.profile;
    sqlx::query!(
        "INSERT INTO tenancy.api_keys (organization_id, api_key_id, kind, lookup_id, secret_hash, display_name, labels,
             scopes, allowed_origins, disabled, expire_time, revision, create_time, update_time, allowed_ip_ranges)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        organization_id.uuid(),
        key.api_key_id.uuid(),
        key.kind.name(),
        key.lookup_id.as_str(),
        secret.to_string(),
        profile.display_name,
        serde_json::to_value(&profile.labels).map_err(Error::internal)?,
        &profile.scopes,
        &profile.allowed_origins,
        profile.disabled,
        profile.expire_time,
        key.revision,
        key.create_time,
        key.update_time,
        &ip_range::texts(&profile.allowed_ip_ranges)
    )
    .execute(&mut *scope)
    .await
    // Purged since the caller was let in.
    .map_err(on_constraint("api_keys_organization_fkey", || Error::not_found("organization", organization_id)))?;
    changed(scope, "keys.create", None, key, key.create_time).await
}

/// One key of the scope's organization. Error: `API_KEY_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, id: ApiKeyId) -> Result<ApiKey, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Row,
        r#"SELECT k.organization_id, k.api_key_id, k.kind, k.lookup_id, k.previous_secret_expire_time, k.display_name,
               k.labels, k.scopes, k.allowed_origins, k.allowed_ip_ranges, k.disabled, k.expire_time, k.revoke_time,
               k.revision, k.create_time, k.update_time, u.last_used_time AS "last_used_time?"
           FROM tenancy.api_keys k LEFT JOIN tenancy.api_key_uses u USING (organization_id, api_key_id)
           WHERE k.organization_id = $1 AND k.api_key_id = $2"#,
        organization_id.uuid(),
        id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, id))?
    .try_into()
}

/// The same, locked until the scope ends: changes of one key happen one after another.
pub async fn lock(scope: &mut TenantScope, id: ApiKeyId) -> Result<ApiKey, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Row,
        r#"SELECT k.organization_id, k.api_key_id, k.kind, k.lookup_id, k.previous_secret_expire_time, k.display_name,
               k.labels, k.scopes, k.allowed_origins, k.allowed_ip_ranges, k.disabled, k.expire_time, k.revoke_time,
               k.revision, k.create_time, k.update_time, u.last_used_time AS "last_used_time?"
           FROM tenancy.api_keys k LEFT JOIN tenancy.api_key_uses u USING (organization_id, api_key_id)
           WHERE k.organization_id = $1 AND k.api_key_id = $2 FOR NO KEY UPDATE OF k"#,
        organization_id.uuid(),
        id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, id))?
    .try_into()
}

/// Writes a locked key back as `after`, under `action` in the audit, and tells the caches. Returns it as saved.
pub async fn save(
    scope: &mut TenantScope,
    action: &'static str,
    before: &ApiKey,
    after: ApiKey,
    now: DateTime<Utc>,
) -> Result<ApiKey, Error> {
    let organization_id = scope.organization_id();
    let profile = &after.profile;
    let revision = sqlx::query_scalar!(
        "UPDATE tenancy.api_keys SET display_name = $3, labels = $4, scopes = $5, allowed_origins = $6, disabled = $7,
             expire_time = $8, revoke_time = $9, previous_secret_expire_time = $10, update_time = $11,
             allowed_ip_ranges = $12, revision = revision + 1
         WHERE organization_id = $1 AND api_key_id = $2 RETURNING revision",
        organization_id.uuid(),
        after.api_key_id.uuid(),
        profile.display_name,
        serde_json::to_value(&profile.labels).map_err(Error::internal)?,
        &profile.scopes,
        &profile.allowed_origins,
        profile.disabled,
        profile.expire_time,
        after.revoke_time,
        after.previous_secret_expire_time,
        now,
        &ip_range::texts(&profile.allowed_ip_ranges)
    )
    .fetch_one(&mut *scope)
    .await?;
    let saved = ApiKey { revision, update_time: now, ..after };
    changed(scope, action, Some(before), &saved, now).await?;
    Ok(saved)
}

/// Gives a locked key a new secret. The one in force so far works until `after` says, and the one before it no longer.
pub async fn rotate(
    scope: &mut TenantScope,
    before: &ApiKey,
    after: ApiKey,
    secret: &SecretHash,
    now: DateTime<Utc>,
) -> Result<ApiKey, Error> {
    let organization_id = scope.organization_id();
    let revision = sqlx::query_scalar!(
        "UPDATE tenancy.api_keys SET previous_secret_hash = CASE WHEN $4::timestamptz IS NOT NULL THEN secret_hash END,
             previous_secret_expire_time = $4, secret_hash = $3, update_time = $5, revision = revision + 1
         WHERE organization_id = $1 AND api_key_id = $2 RETURNING revision",
        organization_id.uuid(),
        after.api_key_id.uuid(),
        secret.to_string(),
        after.previous_secret_expire_time,
        now
    )
    .fetch_one(&mut *scope)
    .await?;
    let saved = ApiKey { revision, update_time: now, ..after };
    changed(scope, "keys.rotate", Some(before), &saved, now).await?;
    Ok(saved)
}

/// One page of keys and one more, newest first.
pub async fn list(scope: &mut TenantScope, narrow: &Narrow, page: &Page) -> Result<Vec<ApiKey>, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Row,
        r#"SELECT k.organization_id, k.api_key_id, k.kind, k.lookup_id, k.previous_secret_expire_time, k.display_name,
               k.labels, k.scopes, k.allowed_origins, k.allowed_ip_ranges, k.disabled, k.expire_time, k.revoke_time,
               k.revision, k.create_time, k.update_time, u.last_used_time AS "last_used_time?"
           FROM tenancy.api_keys k LEFT JOIN tenancy.api_key_uses u USING (organization_id, api_key_id)
           WHERE k.organization_id = $1
             AND k.api_key_id < $2
             AND ($3::jsonb IS NULL OR k.labels @> $3)
             AND ($4 OR k.revoke_time IS NULL)
           ORDER BY k.api_key_id DESC LIMIT $5"#,
        organization_id.uuid(),
        page.bound().id,
        narrow.labels,
        narrow.show_revoked,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

async fn changed(
    scope: &mut TenantScope,
    action: &'static str,
    before: Option<&ApiKey>,
    after: &ApiKey,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = after.api_key_id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, Some(after)).await?;
    changes::announce(scope, &Change::ApiKey(after.lookup_id.to_string())).await
}
