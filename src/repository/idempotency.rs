//! Requests that carried a `request_id`: who repeats one gets the reply of the first (AIP-155).

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, Violation};
use crate::repository::scope::{Accountable, PlatformScope, Scope};

/// A request that may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Repeatable {
    /// Chosen by the caller.
    pub request_id: Uuid,
    /// SHA-256 of the request.
    pub request_hash: [u8; 32],
}

/// What is known of a request that may be repeated.
#[derive(Debug)]
pub enum Claim {
    /// It is the first; [`remember`] its reply in the same scope.
    First,
    /// It was done before, with this reply.
    Repeated(Vec<u8>),
}

/// Claims the request id for this transaction. A concurrent request with the same id waits here until the first is over.
///
/// Error: `REQUEST_ID_REUSED` when the first request with this id was another one.
pub async fn claim<K: Accountable>(
    scope: &mut Scope<K>,
    request: Repeatable,
    now: DateTime<Utc>,
) -> Result<Claim, Error> {
    let (principal, method) = (scope.kind().context().principal(), scope.kind().context().method);
    let hash = request.request_hash.as_slice();
    let claimed = match scope.kind().organization() {
        Some(organization) => {
            sqlx::query!(
                "INSERT INTO tenancy.idempotent_requests
                 (organization_id, principal, method, request_id, request_hash, create_time)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                organization.uuid(),
                principal,
                method,
                request.request_id,
                hash,
                now
            )
            .execute(&mut *scope)
            .await?
        }
        None => {
            sqlx::query!(
                "INSERT INTO tenancy.platform_idempotent_requests
                 (principal, method, request_id, request_hash, create_time)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                principal,
                method,
                request.request_id,
                hash,
                now
            )
            .execute(&mut *scope)
            .await?
        }
    };
    if claimed.rows_affected() == 1 {
        return Ok(Claim::First);
    }
    let (first_hash, reply) = if let Some(organization) = scope.kind().organization() {
        let first = sqlx::query!(
            "SELECT request_hash, reply FROM tenancy.idempotent_requests
             WHERE organization_id = $1 AND principal = $2 AND method = $3 AND request_id = $4",
            organization.uuid(),
            principal,
            method,
            request.request_id
        )
        .fetch_one(&mut *scope)
        .await?;
        (first.request_hash, first.reply)
    } else {
        let first = sqlx::query!(
            "SELECT request_hash, reply FROM tenancy.platform_idempotent_requests
             WHERE principal = $1 AND method = $2 AND request_id = $3",
            principal,
            method,
            request.request_id
        )
        .fetch_one(&mut *scope)
        .await?;
        (first.request_hash, first.reply)
    };
    if first_hash != hash {
        return Err(Error::InvalidRequest {
            reason: "REQUEST_ID_REUSED",
            message: format!("request_id {} was used for another request", request.request_id),
        });
    }
    reply.map(Claim::Repeated).ok_or(Error::Conflict)
}

/// Keeps the reply of a claimed request, for 24 hours.
pub async fn remember<K: Accountable>(scope: &mut Scope<K>, request: Repeatable, reply: &[u8]) -> Result<(), Error> {
    let (principal, method) = (scope.kind().context().principal(), scope.kind().context().method);
    match scope.kind().organization() {
        Some(organization) => {
            sqlx::query!(
                "UPDATE tenancy.idempotent_requests SET reply = $5
             WHERE organization_id = $1 AND principal = $2 AND method = $3 AND request_id = $4",
                organization.uuid(),
                principal,
                method,
                request.request_id,
                reply
            )
            .execute(&mut *scope)
            .await?
        }
        None => {
            sqlx::query!(
                "UPDATE tenancy.platform_idempotent_requests SET reply = $4
             WHERE principal = $1 AND method = $2 AND request_id = $3",
                principal,
                method,
                request.request_id,
                reply
            )
            .execute(&mut *scope)
            .await?
        }
    };
    Ok(())
}

/// Forgets the requests made before the given time. Returns how many.
pub async fn forget(scope: &mut PlatformScope, before: DateTime<Utc>) -> Result<u64, Error> {
    let tenants = sqlx::query!("DELETE FROM tenancy.idempotent_requests WHERE create_time < $1", before)
        .execute(&mut *scope)
        .await?;
    let platform = sqlx::query!("DELETE FROM tenancy.platform_idempotent_requests WHERE create_time < $1", before)
        .execute(&mut *scope)
        .await?;
    Ok(tenants.rows_affected() + platform.rows_affected())
}

/// Reads the `request_id` of a request; `None` when it carries none. Error: `INVALID_FIELD` on `request_id`.
pub fn repeatable(request_id: &str, request_hash: [u8; 32]) -> Result<Option<Repeatable>, Error> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let request_id =
        crate::ids::parse_uuid(request_id).ok_or_else(|| Violation::new("request_id", "must be a UUID"))?;
    Ok(Some(Repeatable { request_id, request_hash }))
}
