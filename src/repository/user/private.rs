//! What only the platform knows of users: a tenant would learn from it where else they are.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::model::member::MemberStatus;
use crate::model::role::RoleKey;
use crate::model::user::{Belonging, Identity, Private};
use crate::page::Page;
use crate::repository::error::on_constraint;
use crate::repository::scope::PlatformScope;
use crate::repository::user::RESOURCE;

struct Row {
    user_id: Uuid,
    identity_provider: String,
    external_id: String,
    settings: Value,
    default_organization_id: Option<Uuid>,
    last_activity_time: Option<DateTime<Utc>>,
    erase_time: Option<DateTime<Utc>>,
}

impl From<Row> for Private {
    fn from(row: Row) -> Self {
        let is_known = !row.external_id.is_empty();
        Self {
            identity: is_known.then_some(Identity { provider: row.identity_provider, subject: row.external_id }),
            settings: row.settings,
            default_organization_id: row.default_organization_id.map(Into::into),
            last_activity_time: row.last_activity_time,
            erase_time: row.erase_time,
        }
    }
}

/// What is known of users who exist.
pub async fn read(scope: &mut PlatformScope, users: &[UserId]) -> Result<HashMap<UserId, Private>, Error> {
    let ids: Vec<Uuid> = users.iter().map(|user| user.uuid()).collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT u.user_id, u.identity_provider, u.external_id, u.settings, u.default_organization_id, u.erase_time,
             (SELECT max(a.last_activity_time) FROM tenancy.member_activity a WHERE a.user_id = u.user_id)
                 AS last_activity_time
         FROM tenancy.users u WHERE u.user_id = ANY ($1)",
        &ids
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(rows.into_iter().map(|row| (row.user_id.into(), row.into())).collect())
}

/// What is known of one. Error: `USER_NOT_FOUND`.
pub async fn get(scope: &mut PlatformScope, user_id: UserId) -> Result<Private, Error> {
    read(scope, &[user_id]).await?.remove(&user_id).ok_or_else(|| Error::not_found(RESOURCE, user_id))
}

/// Writes it, as a part of a change that counts and is written down by its caller. Error: `IDENTITY_TAKEN`.
pub(super) async fn save(scope: &mut PlatformScope, user_id: UserId, private: &Private) -> Result<(), Error> {
    let identity = private.identity.as_ref();
    sqlx::query!(
        "UPDATE tenancy.users SET identity_provider = $2, external_id = $3, settings = $4, default_organization_id = $5
         WHERE user_id = $1",
        user_id.uuid(),
        identity.map_or("", |identity| &identity.provider),
        identity.map_or("", |identity| &identity.subject),
        private.settings,
        private.default_organization_id.map(OrganizationId::uuid)
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("users_identity_key", || identity_taken(identity)))?;
    Ok(())
}

/// Fails with `NOT_A_MEMBER` unless the user is a member of the organization.
pub async fn require_member(
    scope: &mut PlatformScope,
    user_id: UserId,
    organization_id: OrganizationId,
) -> Result<(), Error> {
    let is_member = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tenancy.members WHERE organization_id = $1 AND user_id = $2) AS "is_member!""#,
        organization_id.uuid(),
        user_id.uuid()
    )
    .fetch_one(&mut *scope)
    .await?;
    if is_member {
        return Ok(());
    }
    Err(Error::FailedPrecondition {
        reason: "NOT_A_MEMBER",
        subject: format!("users/{user_id}"),
        message: format!("the user is no member of organization {organization_id}"),
    })
}

/// One page of the organizations of a user and one more, newest first, the deleted ones left out; `only` narrows it to
/// some. Error: `USER_NOT_FOUND`.
pub async fn organizations(
    scope: &mut PlatformScope,
    user_id: UserId,
    only: Option<&[OrganizationId]>,
    page: &Page,
) -> Result<Vec<Belonging>, Error> {
    super::get(scope, user_id).await?;
    let only: Option<Vec<Uuid>> = only.map(|only| only.iter().map(|id| id.uuid()).collect());
    Ok(sqlx::query_as!(
        Belonging,
        r#"SELECT o.organization_id AS "organization_id: OrganizationId", o.slug, o.display_name,
               o.status = 'suspended' AS "is_suspended!", m.role AS "role: RoleKey",
               m.status AS "member_status: MemberStatus", m.create_time AS join_time,
               o.organization_id IS NOT DISTINCT FROM u.default_organization_id AS "is_default!"
           FROM tenancy.members m
           JOIN tenancy.users u ON u.user_id = m.user_id
           JOIN tenancy.organizations o ON o.organization_id = m.organization_id
           WHERE m.user_id = $1 AND o.delete_time IS NULL
             AND ($2::uuid[] IS NULL OR m.organization_id = ANY ($2))
             AND (m.create_time, m.organization_id) < ($3, $4)
           ORDER BY m.create_time DESC, m.organization_id DESC LIMIT $5"#,
        user_id.uuid(),
        only.as_deref() as Option<&[Uuid]>,
        page.bound().time,
        page.bound().id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?)
}

pub(super) fn identity_taken(identity: Option<&Identity>) -> Error {
    let value = identity.map(|identity| format!("{} of {}", identity.subject, identity.provider));
    Error::AlreadyExists {
        reason: "IDENTITY_TAKEN",
        resource: RESOURCE,
        field: "user.identity",
        value: value.unwrap_or_default(),
    }
}
