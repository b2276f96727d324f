//! The keys that tokens are signed with, shared by all replicas. In platform scopes of the purpose `TokenKeys`.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::TokenKeyId;
use crate::model::token_key::TokenKey;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::scope::PlatformScope;

/// The name of the resource in the audit.
const RESOURCE: &str = "token_key";

struct Row {
    token_key_id: TokenKeyId,
    public_key: Vec<u8>,
    sealed_private_key: Vec<u8>,
    create_time: DateTime<Utc>,
    activate_time: DateTime<Utc>,
    retire_time: Option<DateTime<Utc>>,
    expire_time: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for TokenKey {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let public_key = row.public_key.try_into().map_err(|_| Error::internal("a public key has not 32 bytes"))?;
        Ok(Self {
            token_key_id: row.token_key_id,
            public_key,
            sealed_private_key: row.sealed_private_key,
            create_time: row.create_time,
            activate_time: row.activate_time,
            retire_time: row.retire_time,
            expire_time: row.expire_time,
        })
    }
}

/// Waits until nobody else changes the keys, until the scope ends: replicas that start at once make one key.
pub async fn lock(scope: &mut PlatformScope) -> Result<(), Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('tenancy.token_keys', 0))")
        .execute(&mut *scope)
        .await?;
    Ok(())
}

/// Every key, the latest first. There are two or three.
pub async fn list(scope: &mut PlatformScope) -> Result<Vec<TokenKey>, Error> {
    sqlx::query_as!(
        Row,
        r#"SELECT token_key_id AS "token_key_id: TokenKeyId", public_key, sealed_private_key, create_time, activate_time,
               retire_time, expire_time
           FROM tenancy.token_keys ORDER BY activate_time DESC, token_key_id DESC"#
    )
    .fetch_all(&mut *scope)
    .await?
    .into_iter()
    .map(TryInto::try_into)
    .collect()
}

/// Publishes a new key.
pub async fn create(scope: &mut PlatformScope, key: &TokenKey) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tenancy.token_keys (token_key_id, public_key, sealed_private_key, create_time, activate_time)
         VALUES ($1, $2, $3, $4, $5)",
        key.token_key_id.uuid(),
        &key.public_key,
        &key.sealed_private_key,
        key.create_time,
        key.activate_time
    )
    .execute(&mut *scope)
    .await?;
    changed(scope, "token_keys.create", (None, Some(key)), key.create_time).await
}

/// Gives a key the end that `after` has.
pub async fn retire(
    scope: &mut PlatformScope,
    before: &TokenKey,
    after: &TokenKey,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE tenancy.token_keys SET retire_time = $2, expire_time = $3 WHERE token_key_id = $1",
        after.token_key_id.uuid(),
        after.retire_time,
        after.expire_time
    )
    .execute(&mut *scope)
    .await?;
    changed(scope, "token_keys.retire", (Some(before), Some(after)), now).await
}

/// Stores a private key sealed anew. The key stays what it was, so no cache is told.
pub async fn reseal(
    scope: &mut PlatformScope,
    key: &TokenKey,
    sealed_private_key: &[u8],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE tenancy.token_keys SET sealed_private_key = $2 WHERE token_key_id = $1",
        key.token_key_id.uuid(),
        sealed_private_key
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "token_keys.reseal", (Some(key), Some(key)), now).await
}

/// Removes a key.
pub async fn delete(scope: &mut PlatformScope, key: &TokenKey, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!("DELETE FROM tenancy.token_keys WHERE token_key_id = $1", key.token_key_id.uuid())
        .execute(&mut *scope)
        .await?;
    changed(scope, "token_keys.delete", (Some(key), None), now).await
}

/// Writes down what became of a key, and tells the caches.
async fn changed(
    scope: &mut PlatformScope,
    action: &'static str,
    states: (Option<&TokenKey>, Option<&TokenKey>),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    record(scope, action, states, now).await?;
    changes::announce(scope, &Change::TokenKeys).await
}

async fn record(
    scope: &mut PlatformScope,
    action: &'static str,
    (before, after): (Option<&TokenKey>, Option<&TokenKey>),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = after.or(before).map(|key| key.token_key_id.to_string()).unwrap_or_default();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of_platform(scope, happened, before, after).await
}
