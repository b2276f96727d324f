//! Finding a key before its tenant is known: the one SECURITY DEFINER function that does it.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::repository::scope::LookupScope;

/// A key as stored, a tenant's or the platform's.
#[derive(Debug)]
pub struct FoundKey {
    /// As in the prefix, without its last underscore.
    pub kind: String,
    /// The id of the key.
    pub api_key_id: Uuid,
    /// A PHC string.
    pub secret_hash: String,
    /// The PHC string of the secret before the last rotation, and until when that one works.
    pub previous: Option<(String, DateTime<Utc>)>,
    /// Its permissions.
    pub scopes: Vec<String>,
    /// Where a publishable key may be used from; empty means anywhere.
    pub allowed_origins: Vec<String>,
    /// The addresses that it may be used from, as CIDRs; empty means any.
    pub allowed_ip_ranges: Vec<String>,
    /// Switched off for a while.
    pub disabled: bool,
    /// When it stops working.
    pub expire_time: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoke_time: Option<DateTime<Utc>>,
    /// A JSON object.
    pub labels: Value,
    /// `None` for a key of the platform.
    pub organization_id: Option<Uuid>,
    /// For a service key: the organizations it may name; `None` means all.
    pub organization_ids: Option<Vec<Uuid>>,
}

/// The key with this lookup id.
pub async fn find(scope: &mut LookupScope, lookup_id: &str) -> Result<Option<FoundKey>, Error> {
    let found = sqlx::query!(
        r#"SELECT kind AS "kind!", api_key_id AS "api_key_id!", secret_hash AS "secret_hash!", previous_secret_hash,
               previous_secret_expire_time, scopes AS "scopes!", allowed_origins AS "allowed_origins!",
               allowed_ip_ranges AS "allowed_ip_ranges!", disabled AS "disabled!", expire_time, revoke_time,
               labels AS "labels!", organization_id, organization_ids
           FROM tenancy.find_api_key($1)"#,
        lookup_id
    )
    .fetch_optional(&mut *scope)
    .await?;
    Ok(found.map(|found| FoundKey {
        kind: found.kind,
        api_key_id: found.api_key_id,
        secret_hash: found.secret_hash,
        previous: found.previous_secret_hash.zip(found.previous_secret_expire_time),
        scopes: found.scopes,
        allowed_origins: found.allowed_origins,
        allowed_ip_ranges: found.allowed_ip_ranges,
        disabled: found.disabled,
        expire_time: found.expire_time,
        revoke_time: found.revoke_time,
        labels: found.labels,
        organization_id: found.organization_id,
        organization_ids: found.organization_ids,
    }))
}
