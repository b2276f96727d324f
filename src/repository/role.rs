//! The roles of organizations' own.
//!
//! Whoever changes them holds [`organization::lock`](super::organization::lock), as does whoever gives them to members:
//! what a role has is what was looked at when it was given.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::role::{CustomRole, MOST_ROLES, Profile, RoleKey};
use crate::page::Cursor;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::{constraint, on_constraint};
use crate::repository::invitation;
use crate::repository::scope::TenantScope;

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "role";

struct Row {
    organization_id: Uuid,
    key: RoleKey,
    display_name: String,
    description: String,
    permissions: Vec<String>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Row> for CustomRole {
    fn from(row: Row) -> Self {
        Self {
            organization_id: OrganizationId::from(row.organization_id),
            key: row.key,
            profile: Profile {
                display_name: row.display_name,
                description: row.description,
                permissions: row.permissions,
            },
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Creates a role of the locked organization. Errors: `ROLE_TAKEN`, `ROLES_EXHAUSTED`.
pub async fn create(scope: &mut TenantScope, created: &CustomRole) -> Result<(), Error> {
    let organization_id = created.organization_id.uuid();
    sqlx::query!(
        "INSERT INTO tenancy.roles (organization_id, key, display_name, description, permissions, revision, create_time,
             update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        organization_id,
        created.key.as_str(),
        created.profile.display_name,
        created.profile.description,
        &created.profile.permissions,
        created.revision,
        created.create_time,
        created.update_time
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("roles_pkey", || Error::AlreadyExists {
        reason: "ROLE_TAKEN",
        resource: RESOURCE,
        field: "role.key",
        value: created.key.to_string(),
    }))?;
    let known = sqlx::query_scalar!(
        r#"SELECT count(*) AS "known!" FROM tenancy.roles WHERE organization_id = $1"#,
        organization_id
    )
    .fetch_one(&mut *scope)
    .await?;
    if known > MOST_ROLES {
        return Err(Error::FailedPrecondition {
            reason: "ROLES_EXHAUSTED",
            subject: format!("organizations/{organization_id}"),
            message: format!("an organization has at most {MOST_ROLES} roles of its own: delete one first"),
        });
    }
    record(scope, "roles.create", &created.key, None, Some(created), created.create_time).await
}

/// A role of the scope's organization. Error: `ROLE_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, key: &RoleKey) -> Result<CustomRole, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query_as!(
        Row,
        r#"SELECT organization_id, key AS "key: RoleKey", display_name, description, permissions, revision, create_time,
               update_time
           FROM tenancy.roles WHERE organization_id = $1 AND key = $2"#,
        organization_id.uuid(),
        key.as_str()
    )
    .fetch_optional(&mut *scope)
    .await?;
    found.map(Into::into).ok_or_else(|| Error::not_found(RESOURCE, key))
}

/// All roles of the scope's organization, newest first: there are few.
pub async fn list(scope: &mut TenantScope) -> Result<Vec<CustomRole>, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query_as!(
        Row,
        r#"SELECT organization_id, key AS "key: RoleKey", display_name, description, permissions, revision, create_time,
               update_time
           FROM tenancy.roles WHERE organization_id = $1"#,
        organization_id.uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    let mut roles: Vec<CustomRole> = found.into_iter().map(Into::into).collect();
    roles.sort_by_cached_key(|role| {
        let at = cursor(role);
        std::cmp::Reverse((at.time, at.id))
    });
    Ok(roles)
}

/// Where a page ends that ends with this role. Roles have no UUID; of several of one time, a hash of the key says which is
/// first.
#[must_use]
pub fn cursor(role: &CustomRole) -> Cursor {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(role.key.as_str())[..16]);
    Cursor { time: role.create_time, id: Uuid::from_bytes(id) }
}

/// Gives a role of the locked organization another profile, and tells the caches. Returns it as saved.
pub async fn save(
    scope: &mut TenantScope,
    before: &CustomRole,
    profile: Profile,
    now: DateTime<Utc>,
) -> Result<CustomRole, Error> {
    let saved = CustomRole { profile, revision: before.revision + 1, update_time: now, ..before.clone() };
    sqlx::query!(
        "UPDATE tenancy.roles SET display_name = $3, description = $4, permissions = $5, revision = $6, update_time = $7
         WHERE organization_id = $1 AND key = $2",
        saved.organization_id.uuid(),
        saved.key.as_str(),
        saved.profile.display_name,
        saved.profile.description,
        &saved.profile.permissions,
        saved.revision,
        saved.update_time
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "roles.update", &saved.key, Some(before), Some(&saved), now).await?;
    changes::announce(scope, &Change::Roles(saved.organization_id)).await?;
    Ok(saved)
}

/// Deletes a role of the locked organization. Error: `ROLE_IN_USE`.
pub async fn delete(scope: &mut TenantScope, before: &CustomRole, now: DateTime<Utc>) -> Result<(), Error> {
    invitation::revoke_expired(scope, &before.key, now).await?;
    sqlx::query!(
        "DELETE FROM tenancy.roles WHERE organization_id = $1 AND key = $2",
        before.organization_id.uuid(),
        before.key.as_str()
    )
    .execute(&mut *scope)
    .await
    .map_err(|error| {
        let message = match constraint(&error) {
            Some("members_role_fkey") => "members have this role: give them another one first",
            Some("invitations_role_fkey") => "somebody is invited to this role: revoke the invitations first",
            _ => return error.into(),
        };
        let subject = format!("roles/{}", before.key);
        Error::FailedPrecondition { reason: "ROLE_IN_USE", subject, message: message.into() }
    })?;
    record(scope, "roles.delete", &before.key, Some(before), None, now).await
}

/// Writes down what became of a role.
async fn record(
    scope: &mut TenantScope,
    action: &'static str,
    key: &RoleKey,
    before: Option<&CustomRole>,
    after: Option<&CustomRole>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: key.as_str() };
    audit_event::record(scope, happened, before, after).await
}
