//! Members: which users belong to an organization, in which role.
//!
//! Whoever changes who belongs to an organization holds [`organization::lock`](super::organization::lock), so that the
//! count of its members, and who its owners are, stay true until the scope ends.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::model::member::{Member, Role};
use crate::model::user::UserStatus;
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::constraint;
use crate::repository::scope::TenantScope;

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "member";

/// The role of a user in the scope's organization; `None` for who is no member, or deactivated.
pub async fn active_role(scope: &mut TenantScope, user: UserId) -> Result<Option<Role>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_scalar!(
        r#"SELECT m.role AS "role: Role" FROM tenancy.members m JOIN tenancy.users u USING (user_id)
           WHERE m.organization_id = $1 AND m.user_id = $2 AND u.status = 'active'"#,
        organization_id.uuid(),
        user.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?)
}

/// Adds a user to the scope's organization, which the scope has locked. Errors: `USER_NOT_FOUND`, `ALREADY_MEMBER`,
/// `USER_DEACTIVATED`.
pub async fn add(scope: &mut TenantScope, user_id: UserId, role: Role, now: DateTime<Utc>) -> Result<Member, Error> {
    let organization_id = scope.organization_id();
    sqlx::query!(
        "INSERT INTO tenancy.members (organization_id, user_id, role, create_time, update_time)
         VALUES ($1, $2, $3, $4, $4)",
        organization_id.uuid(),
        user_id.uuid(),
        role.as_str(),
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(|error| match constraint(&error) {
        Some("members_user_fkey") => Error::not_found("user", user_id),
        Some("members_pkey") => Error::AlreadyExists {
            reason: "ALREADY_MEMBER",
            resource: RESOURCE,
            field: "user_id",
            value: user_id.to_string(),
        },
        _ => error.into(),
    })?;
    // A statement of its own, and only now: to this scope the user is visible from the membership on.
    let added = get(scope, user_id).await?;
    if added.user_status == UserStatus::Deactivated {
        return Err(Error::FailedPrecondition {
            reason: "USER_DEACTIVATED",
            subject: format!("users/{user_id}"),
            message: "a deactivated user cannot be added".into(),
        });
    }
    record(scope, "members.add", user_id, None, Some(&added), now).await?;
    Ok(added)
}

/// A member of the scope's organization. Error: `MEMBER_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, user_id: UserId) -> Result<Member, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Member,
        r#"SELECT m.organization_id AS "organization_id: OrganizationId", m.user_id AS "user_id: UserId",
               m.role AS "role: Role", u.email, u.display_name, u.status AS "user_status: UserStatus", m.revision,
               m.create_time, m.update_time
           FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
           WHERE m.organization_id = $1 AND m.user_id = $2"#,
        organization_id.uuid(),
        user_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, user_id))
}

/// Whether the scope's organization has more members than `most`.
pub async fn more_than(scope: &mut TenantScope, most: i32) -> Result<bool, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenancy.members WHERE organization_id = $1 OFFSET $2) AS "more!""#,
        organization_id.uuid(),
        i64::from(most)
    )
    .fetch_one(&mut *scope)
    .await?)
}

/// Whether the scope's organization keeps an owner without this one. A deactivated owner cannot stand in for an active
/// one, since nobody can act for them.
pub async fn owner_remains_without(scope: &mut TenantScope, owner: &Member) -> Result<bool, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
               WHERE m.organization_id = $1 AND m.role = 'owner' AND m.user_id <> $2 AND (u.status = 'active' OR $3)
           ) AS "remains!""#,
        organization_id.uuid(),
        owner.user_id.uuid(),
        owner.user_status == UserStatus::Deactivated
    )
    .fetch_one(&mut *scope)
    .await?)
}

/// Gives a member of the locked organization another role, and tells the caches.
pub async fn save(scope: &mut TenantScope, before: &Member, role: Role, now: DateTime<Utc>) -> Result<Member, Error> {
    let revision = sqlx::query_scalar!(
        "UPDATE tenancy.members SET role = $3, update_time = $4, revision = revision + 1
         WHERE organization_id = $1 AND user_id = $2 RETURNING revision",
        before.organization_id.uuid(),
        before.user_id.uuid(),
        role.as_str(),
        now
    )
    .fetch_one(&mut *scope)
    .await?;
    let saved = Member { role, revision, update_time: now, ..before.clone() };
    record(scope, "members.update", before.user_id, Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Removes a member of the locked organization, and tells the caches.
pub async fn remove(scope: &mut TenantScope, before: &Member, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM tenancy.members WHERE organization_id = $1 AND user_id = $2",
        before.organization_id.uuid(),
        before.user_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "members.remove", before.user_id, Some(before), None, now).await
}

/// One page of members and one more, newest first.
pub async fn list(scope: &mut TenantScope, role: Option<Role>, page: &Page) -> Result<Vec<Member>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_as!(
        Member,
        r#"SELECT m.organization_id AS "organization_id: OrganizationId", m.user_id AS "user_id: UserId",
               m.role AS "role: Role", u.email, u.display_name, u.status AS "user_status: UserStatus", m.revision,
               m.create_time, m.update_time
           FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
           WHERE m.organization_id = $1
             AND (m.create_time, m.user_id) < ($2, $3)
             AND ($4::text IS NULL OR m.role = $4)
           ORDER BY m.create_time DESC, m.user_id DESC LIMIT $5"#,
        organization_id.uuid(),
        page.bound().time,
        page.bound().id,
        role.map(Role::as_str),
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// Writes down what became of a membership, and tells the caches.
async fn record(
    scope: &mut TenantScope,
    action: &'static str,
    user_id: UserId,
    before: Option<&Member>,
    after: Option<&Member>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = user_id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, after).await?;
    let change = Change::Member(scope.organization_id(), user_id);
    changes::announce(scope, &change).await
}
