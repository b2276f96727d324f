//! Members: which users belong to an organization, in which role.
//!
//! Whoever changes who belongs to an organization holds [`organization::lock`](super::organization::lock), so that the
//! count of its members, and who its owners are, stay true until the scope ends.

pub mod batch;

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::model::member::{Member, MemberStatus, Role};
use crate::model::role::{self, RoleKey, Standing};
use crate::model::user::{User, UserStatus};
use crate::page::Page;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::error::{constraint, on_constraint};
use crate::repository::scope::{PlatformScope, TenantScope};
use crate::repository::{plan, team};

/// The name of the resource in errors and in the audit.
const RESOURCE: &str = "member";

/// Where a user stands in the scope's organization; `None` for who is no member.
pub async fn standing(scope: &mut TenantScope, user: UserId) -> Result<Option<Standing>, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query!(
        r#"SELECT m.role AS "role: RoleKey", m.status AS "status: MemberStatus", u.status = 'active' AS "user_is_active!",
               m.extra_permissions, m.denied_permissions, r.permissions AS "own_role?",
               m.token_generation + u.token_generation AS "token_generation!"
           FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
           LEFT JOIN tenancy.roles r ON r.organization_id = m.organization_id AND r.key = m.custom_role
           WHERE m.organization_id = $1 AND m.user_id = $2"#,
        organization_id.uuid(),
        user.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?;
    Ok(found.map(|row| {
        let of_role = role::of_role(&row.role, row.own_role.as_deref());
        Standing {
            status: row.status,
            user_is_active: row.user_is_active,
            held: role::held(&row.role, of_role, &row.extra_permissions, &row.denied_permissions),
            denied: role::denied(&row.denied_permissions),
            token_generation: row.token_generation,
            role: row.role,
        }
    }))
}

/// Adds a user to the scope's organization, which the scope has locked. Errors: `USER_NOT_FOUND`, `ROLE_NOT_FOUND`,
/// `ALREADY_MEMBER`, `USER_DEACTIVATED`.
pub async fn add(
    scope: &mut TenantScope,
    user_id: UserId,
    role: &RoleKey,
    now: DateTime<Utc>,
) -> Result<Member, Error> {
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
        Some("members_role_fkey") => Error::not_found("role", role),
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
    if added.user_status != UserStatus::Active {
        return Err(Error::FailedPrecondition {
            reason: "USER_DEACTIVATED",
            subject: format!("users/{user_id}"),
            message: "a deactivated or erased user cannot be added".into(),
        });
    }
    record(scope, "members.add", user_id, None, Some(&added), now).await?;
    Ok(added)
}

/// Makes a user the first owner of an organization that the same scope created a moment ago.
pub async fn found(
    scope: &mut PlatformScope,
    organization_id: OrganizationId,
    owner: &User,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tenancy.members (organization_id, user_id, role, create_time, update_time)
         VALUES ($1, $2, 'owner', $3, $3)",
        organization_id.uuid(),
        owner.user_id.uuid(),
        now
    )
    .execute(&mut *scope)
    .await?;
    let added = Member {
        organization_id,
        user_id: owner.user_id,
        role: Role::Owner.into(),
        extra_permissions: Vec::new(),
        denied_permissions: Vec::new(),
        status: MemberStatus::Active,
        suspend_time: None,
        suspend_reason: String::new(),
        email: owner.profile.email.clone(),
        display_name: owner.profile.display_name.clone(),
        user_status: owner.status,
        last_activity_time: None,
        revision: 1,
        create_time: now,
        update_time: now,
    };
    let id = owner.user_id.to_string();
    let happened = Happened { at: now, action: "members.add", resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of(scope, organization_id, happened, None::<&Member>, Some(&added)).await?;
    changes::announce(scope, &Change::Member(organization_id, owner.user_id)).await
}

/// A member of the scope's organization. Error: `MEMBER_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, user_id: UserId) -> Result<Member, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Member,
        r#"SELECT m.organization_id AS "organization_id: OrganizationId", m.user_id AS "user_id: UserId",
               m.role AS "role: RoleKey", m.extra_permissions, m.denied_permissions, m.status AS "status: MemberStatus",
               m.suspend_time, m.suspend_reason, u.email, u.display_name, u.status AS "user_status: UserStatus",
               a.last_activity_time AS "last_activity_time?", m.revision, m.create_time, m.update_time
           FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
           LEFT JOIN tenancy.member_activity a ON a.organization_id = m.organization_id AND a.user_id = m.user_id
           WHERE m.organization_id = $1 AND m.user_id = $2"#,
        organization_id.uuid(),
        user_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, user_id))
}

/// How many members the scope's organization may have, by itself or else by its plan; `None`: as many as it likes.
pub async fn most(scope: &mut TenantScope) -> Result<Option<i32>, Error> {
    Ok(plan::entitlements(scope).await?.sizes.member_limit)
}

/// An organization has as many members as it may.
#[must_use]
pub fn limit_reached(organization_id: OrganizationId, most: i32) -> Error {
    Error::FailedPrecondition {
        reason: "MEMBER_LIMIT_REACHED",
        subject: format!("organizations/{organization_id}"),
        message: format!("the organization may have at most {most} members"),
    }
}

/// Fails when the locked organization has, with so many more, more members than it may. Error: `MEMBER_LIMIT_REACHED`.
pub async fn require_room(scope: &mut TenantScope, further: i32) -> Result<(), Error> {
    let Some(most) = most(scope).await? else { return Ok(()) };
    let organization_id = scope.organization_id();
    let too_many = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenancy.members WHERE organization_id = $1 OFFSET $2) AS "too_many!""#,
        organization_id.uuid(),
        i64::from((most - further).max(0))
    )
    .fetch_one(&mut *scope)
    .await?;
    if too_many { Err(limit_reached(organization_id, most)) } else { Ok(()) }
}

/// Which of these addresses are of members of the scope's organization; `keys` are what is unique of the addresses.
pub async fn with_addresses(scope: &mut TenantScope, keys: &[String]) -> Result<HashSet<String>, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query_scalar!(
        "SELECT u.email_key FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
         WHERE m.organization_id = $1 AND u.email_key = ANY ($2)",
        organization_id.uuid(),
        keys
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().collect())
}

/// Whether the scope's organization keeps an owner without this one. An owner who is suspended, deactivated or erased cannot
/// stand in for an active one, since nobody can act for them.
pub async fn owner_remains_without(scope: &mut TenantScope, owner: &Member) -> Result<bool, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
               WHERE m.organization_id = $1 AND m.role = 'owner' AND m.user_id <> $2
                 AND (m.status = 'active' AND u.status = 'active' OR $3)
           ) AS "remains!""#,
        organization_id.uuid(),
        owner.user_id.uuid(),
        !owner.is_active()
    )
    .fetch_one(&mut *scope)
    .await?)
}

/// Writes a member of the locked organization back as `after`, under `action` in the audit, and tells the caches. Error:
/// `ROLE_NOT_FOUND`.
pub async fn save(
    scope: &mut TenantScope,
    action: &'static str,
    before: &Member,
    after: Member,
    now: DateTime<Utc>,
) -> Result<Member, Error> {
    let revision = sqlx::query_scalar!(
        "UPDATE tenancy.members
         SET role = $3, extra_permissions = $4, denied_permissions = $5, status = $6, suspend_time = $7,
             suspend_reason = $8, update_time = $9, revision = revision + 1
         WHERE organization_id = $1 AND user_id = $2 RETURNING revision",
        before.organization_id.uuid(),
        before.user_id.uuid(),
        after.role.as_str(),
        &after.extra_permissions,
        &after.denied_permissions,
        after.status.as_str(),
        after.suspend_time,
        after.suspend_reason,
        now
    )
    .fetch_one(&mut *scope)
    .await
    .map_err(on_constraint("members_role_fkey", || Error::not_found("role", &after.role)))?;
    let saved = Member { revision, update_time: now, ..after };
    record(scope, action, before.user_id, Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Has the tokens of a member of the locked organization that were issued so far count no more, and tells the caches.
pub async fn revoke_tokens(scope: &mut TenantScope, user_id: UserId, now: DateTime<Utc>) -> Result<(), Error> {
    let organization_id = scope.organization_id();
    sqlx::query!(
        "UPDATE tenancy.members SET token_generation = token_generation + 1
         WHERE organization_id = $1 AND user_id = $2",
        organization_id.uuid(),
        user_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "tokens.revoke", user_id, None, None, now).await
}

/// Removes a member of the locked organization, also from its teams, and tells the caches.
pub async fn remove(scope: &mut TenantScope, before: &Member, now: DateTime<Utc>) -> Result<(), Error> {
    team::member::leave_all(scope, before.user_id, now).await?;
    sqlx::query!(
        "DELETE FROM tenancy.members WHERE organization_id = $1 AND user_id = $2",
        before.organization_id.uuid(),
        before.user_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "members.remove", before.user_id, Some(before), None, now).await
}

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Only this role.
    pub role: Option<RoleKey>,
    /// Only this state.
    pub status: Option<MemberStatus>,
}

/// One page of members and one more, newest first.
pub async fn list(scope: &mut TenantScope, narrow: &Narrow, page: &Page) -> Result<Vec<Member>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_as!(
        Member,
        r#"SELECT m.organization_id AS "organization_id: OrganizationId", m.user_id AS "user_id: UserId",
               m.role AS "role: RoleKey", m.extra_permissions, m.denied_permissions, m.status AS "status: MemberStatus",
               m.suspend_time, m.suspend_reason, u.email, u.display_name, u.status AS "user_status: UserStatus",
               a.last_activity_time AS "last_activity_time?", m.revision, m.create_time, m.update_time
           FROM tenancy.members m JOIN tenancy.users u ON u.user_id = m.user_id
           LEFT JOIN tenancy.member_activity a ON a.organization_id = m.organization_id AND a.user_id = m.user_id
           WHERE m.organization_id = $1
             AND (m.create_time, m.user_id) < ($2, $3)
             AND ($4::text IS NULL OR m.role = $4) AND ($5::text IS NULL OR m.status = $5)
           ORDER BY m.create_time DESC, m.user_id DESC LIMIT $6"#,
        organization_id.uuid(),
        page.bound().time,
        page.bound().id,
        narrow.role.as_ref().map(RoleKey::as_str),
        narrow.status.map(MemberStatus::as_str),
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
