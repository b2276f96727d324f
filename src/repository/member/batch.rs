//! Many members at once: the same statements, over all rows of a batch.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::RESOURCE;
use crate::error::Error;
use crate::ids::UserId;
use crate::model::member::Member;
use crate::model::role::RoleKey;
use crate::repository::audit_event;
use crate::repository::changes::{self, Change};
use crate::repository::scope::TenantScope;

/// The roles of those among the users who are members of the scope's organization.
pub async fn roles(scope: &mut TenantScope, users: &[UserId]) -> Result<HashMap<UserId, RoleKey>, Error> {
    let organization_id = scope.organization_id();
    let users: Vec<Uuid> = users.iter().map(|user| user.uuid()).collect();
    // A join and not ANY: planned for a table that was small, that would go on to read all members of the organization.
    let rows = sqlx::query!(
        r#"SELECT m.user_id AS "user_id: UserId", m.role AS "role: RoleKey"
           FROM UNNEST($2::uuid[]) AS asked (user_id)
           JOIN tenancy.members m ON m.organization_id = $1 AND m.user_id = asked.user_id"#,
        organization_id.uuid(),
        &users
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(rows.into_iter().map(|row| (row.user_id, row.role)).collect())
}

/// How many members the scope's organization has.
pub async fn count(scope: &mut TenantScope) -> Result<i64, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM tenancy.members WHERE organization_id = $1"#,
        organization_id.uuid()
    )
    .fetch_one(&mut *scope)
    .await?)
}

/// Adds users to the scope's organization, which the scope has locked: users who exist, are no members, and have roles that
/// exist, each once. Writes it down, and tells the caches.
///
/// Each membership is told of by itself. One change that stands for all of an organization's would be a row instead of
/// hundreds, but while a large import goes on every replica would forget several times a second what the people may do who
/// work there meanwhile.
pub async fn add(scope: &mut TenantScope, added: &[Member], now: DateTime<Utc>) -> Result<(), Error> {
    if added.is_empty() {
        return Ok(());
    }
    let organization_id = scope.organization_id();
    let users: Vec<Uuid> = added.iter().map(|member| member.user_id.uuid()).collect();
    let roles: Vec<String> = added.iter().map(|member| member.role.to_string()).collect();
    sqlx::query!(
        "INSERT INTO tenancy.members (organization_id, user_id, role, create_time, update_time)
         SELECT $1, r.user_id, r.role, $4, $4 FROM UNNEST($2::uuid[], $3::text[]) AS r (user_id, role)",
        organization_id.uuid(),
        &users,
        &roles,
        now
    )
    .execute(&mut *scope)
    .await?;
    let records: Vec<(String, &Member)> = added.iter().map(|member| (member.user_id.to_string(), member)).collect();
    audit_event::record_additions(scope, "members.add", RESOURCE, &records, now).await?;
    let told = added.iter().map(|member| Change::Member(organization_id, member.user_id)).collect();
    changes::announce_all(scope, told).await
}
