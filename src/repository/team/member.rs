//! Who is in a team. Changed under [`organization::lock`](crate::repository::organization::lock), as the teams.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{OrganizationId, TeamId, UserId};
use crate::model::team::{Profile, Team, TeamMember, TeamRole, UserTeam};
use crate::model::text::Labels;
use crate::page::Page;
use crate::page::tree::TreePage;
use crate::repository::audit_event::{self, Happened};
use crate::repository::error::on_constraint;
use crate::repository::scope::TenantScope;

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "team_member";

/// How many memberships are removed at once, so that those of a large subtree are never all in memory.
const AT_ONCE: i64 = 2_000;

/// Adds a member of the locked organization to one of its teams. Error: `ALREADY_TEAM_MEMBER`.
pub async fn add(
    scope: &mut TenantScope,
    team_id: TeamId,
    user_id: UserId,
    role: TeamRole,
    now: DateTime<Utc>,
) -> Result<TeamMember, Error> {
    let organization_id = scope.organization_id();
    sqlx::query!(
        "INSERT INTO tenancy.team_members (organization_id, team_id, user_id, role, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $5)",
        organization_id.uuid(),
        team_id.uuid(),
        user_id.uuid(),
        role.as_str(),
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(on_constraint("team_members_pkey", || Error::AlreadyExists {
        reason: "ALREADY_TEAM_MEMBER",
        resource: RESOURCE,
        field: "user_id",
        value: user_id.to_string(),
    }))?;
    let added = get(scope, team_id, user_id).await?;
    record(scope, "team_members.add", None, Some(&added), now).await?;
    Ok(added)
}

/// Adds members of the locked organization to teams of it, as members there; who is in a team already stays what they are.
/// Returns which of these are new.
pub async fn add_all(
    scope: &mut TenantScope,
    pairs: &[(TeamId, UserId)],
    now: DateTime<Utc>,
) -> Result<HashSet<(TeamId, UserId)>, Error> {
    if pairs.is_empty() {
        return Ok(HashSet::new());
    }
    let organization_id = scope.organization_id();
    let teams: Vec<Uuid> = pairs.iter().map(|(team, _)| team.uuid()).collect();
    let users: Vec<Uuid> = pairs.iter().map(|(_, user)| user.uuid()).collect();
    let rows = sqlx::query_as!(
        Bare,
        r#"INSERT INTO tenancy.team_members (organization_id, team_id, user_id, role, create_time, update_time)
           SELECT $1, r.team_id, r.user_id, $4, $5, $5 FROM UNNEST($2::uuid[], $3::uuid[]) AS r (team_id, user_id)
           ON CONFLICT DO NOTHING
           RETURNING organization_id AS "organization_id: OrganizationId", team_id AS "team_id: TeamId",
               user_id AS "user_id: UserId", role AS "role: TeamRole", revision, create_time, update_time"#,
        organization_id.uuid(),
        &teams,
        &users,
        TeamRole::Member.as_str(),
        now
    )
    .fetch_all(&mut *scope)
    .await?;
    let added: Vec<(String, TeamMember)> = rows.into_iter().map(Into::into).collect();
    audit_event::record_additions(scope, "team_members.add", RESOURCE, &added, now).await?;
    Ok(added.into_iter().map(|(_, member)| (member.team_id, member.user_id)).collect())
}

/// A member of a team. Error: `TEAM_MEMBER_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, team_id: TeamId, user_id: UserId) -> Result<TeamMember, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        TeamMember,
        r#"SELECT m.organization_id AS "organization_id: OrganizationId", m.team_id AS "team_id: TeamId",
               m.user_id AS "user_id: UserId", m.role AS "role: TeamRole", u.email, u.display_name, m.revision,
               m.create_time, m.update_time
           FROM tenancy.team_members m JOIN tenancy.users u ON u.user_id = m.user_id
           WHERE m.organization_id = $1 AND m.team_id = $2 AND m.user_id = $3"#,
        organization_id.uuid(),
        team_id.uuid(),
        user_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .ok_or_else(|| Error::not_found(RESOURCE, user_id))
}

/// Gives a member of a team of the locked organization another role there.
pub async fn save(
    scope: &mut TenantScope,
    before: &TeamMember,
    role: TeamRole,
    now: DateTime<Utc>,
) -> Result<TeamMember, Error> {
    let saved = TeamMember { role, revision: before.revision + 1, update_time: now, ..before.clone() };
    sqlx::query!(
        "UPDATE tenancy.team_members SET role = $4, revision = $5, update_time = $6
         WHERE organization_id = $1 AND team_id = $2 AND user_id = $3",
        saved.organization_id.uuid(),
        saved.team_id.uuid(),
        saved.user_id.uuid(),
        saved.role.as_str(),
        saved.revision,
        saved.update_time
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "team_members.update", Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Removes a member from a team of the locked organization.
pub async fn remove(scope: &mut TenantScope, before: &TeamMember, now: DateTime<Utc>) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM tenancy.team_members WHERE organization_id = $1 AND team_id = $2 AND user_id = $3",
        before.organization_id.uuid(),
        before.team_id.uuid(),
        before.user_id.uuid()
    )
    .execute(&mut *scope)
    .await?;
    record(scope, "team_members.remove", Some(before), None, now).await
}

/// What is added or removed with something else: what of it is written down.
struct Bare {
    organization_id: OrganizationId,
    team_id: TeamId,
    user_id: UserId,
    role: TeamRole,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Bare> for (String, TeamMember) {
    fn from(row: Bare) -> Self {
        let member = TeamMember {
            organization_id: row.organization_id,
            team_id: row.team_id,
            user_id: row.user_id,
            role: row.role,
            email: String::new(),
            display_name: String::new(),
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        };
        (resource_id(&member), member)
    }
}

/// Removes a member of the locked organization from all of its teams.
pub async fn leave_all(scope: &mut TenantScope, user_id: UserId, now: DateTime<Utc>) -> Result<(), Error> {
    let organization_id = scope.organization_id();
    let rows = sqlx::query_as!(
        Bare,
        r#"DELETE FROM tenancy.team_members WHERE organization_id = $1 AND user_id = $2
           RETURNING organization_id AS "organization_id: OrganizationId", team_id AS "team_id: TeamId",
               user_id AS "user_id: UserId", role AS "role: TeamRole", revision, create_time, update_time"#,
        organization_id.uuid(),
        user_id.uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    let removed: Vec<_> = rows.into_iter().map(Into::into).collect();
    audit_event::record_removals(scope, "team_members.remove", RESOURCE, &removed, now).await
}

/// Removes all members from a team of the locked organization and from all below it. Returns how many memberships.
pub async fn clear(scope: &mut TenantScope, team: &Team, now: DateTime<Utc>) -> Result<usize, Error> {
    let level = super::level(team)?;
    let mut count = 0;
    loop {
        let rows = sqlx::query_as!(
            Bare,
            r#"DELETE FROM tenancy.team_members WHERE organization_id = $1 AND (team_id, user_id) IN (
                   SELECT m.team_id, m.user_id FROM tenancy.team_members m
                   JOIN tenancy.teams t ON t.organization_id = m.organization_id AND t.team_id = m.team_id
                   WHERE m.organization_id = $1 AND t.path[$2] = $3 LIMIT $4
               )
               RETURNING organization_id AS "organization_id: OrganizationId", team_id AS "team_id: TeamId",
                   user_id AS "user_id: UserId", role AS "role: TeamRole", revision, create_time, update_time"#,
            team.organization_id.uuid(),
            level,
            team.team_id.uuid(),
            AT_ONCE
        )
        .fetch_all(&mut *scope)
        .await?;
        if rows.is_empty() {
            return Ok(count);
        }
        let removed: Vec<_> = rows.into_iter().map(Into::into).collect();
        audit_event::record_removals(scope, "team_members.remove", RESOURCE, &removed, now).await?;
        count += removed.len();
    }
}

/// One page of the members of a team and one more, newest user first.
pub async fn list(scope: &mut TenantScope, team_id: TeamId, page: &Page) -> Result<Vec<TeamMember>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_as!(
        TeamMember,
        r#"SELECT m.organization_id AS "organization_id: OrganizationId", m.team_id AS "team_id: TeamId",
               m.user_id AS "user_id: UserId", m.role AS "role: TeamRole", u.email, u.display_name, m.revision,
               m.create_time, m.update_time
           FROM tenancy.team_members m JOIN tenancy.users u ON u.user_id = m.user_id
           WHERE m.organization_id = $1 AND m.team_id = $2 AND m.user_id < $3
           ORDER BY m.user_id DESC LIMIT $4"#,
        organization_id.uuid(),
        team_id.uuid(),
        page.bound().id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// The same with those of all teams below it: each user once, by the membership nearest to the team.
pub async fn list_subtree(scope: &mut TenantScope, team: &Team, page: &Page) -> Result<Vec<TeamMember>, Error> {
    Ok(sqlx::query_as!(
        TeamMember,
        r#"SELECT DISTINCT ON (m.user_id) m.organization_id AS "organization_id: OrganizationId",
               m.team_id AS "team_id: TeamId", m.user_id AS "user_id: UserId", m.role AS "role: TeamRole", u.email,
               u.display_name, m.revision, m.create_time, m.update_time
           FROM tenancy.team_members m
           JOIN tenancy.teams t ON t.organization_id = m.organization_id AND t.team_id = m.team_id
           JOIN tenancy.users u ON u.user_id = m.user_id
           WHERE m.organization_id = $1 AND t.path[$2] = $3 AND m.user_id < $4
           ORDER BY m.user_id DESC, cardinality(t.path), t.path LIMIT $5"#,
        team.organization_id.uuid(),
        super::level(team)?,
        team.team_id.uuid(),
        page.bound().id,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// One page of the teams that a user is in and one more, depth first.
pub async fn teams_of(scope: &mut TenantScope, user_id: UserId, page: &TreePage) -> Result<Vec<UserTeam>, Error> {
    let organization_id = scope.organization_id();
    let rows = sqlx::query!(
        r#"SELECT t.team_id AS "team_id: TeamId", t.path AS "path: Vec<TeamId>", t.display_name, t.description,
               t.labels AS "labels: Json<Labels>", t.revision, t.create_time, t.update_time,
               m.role AS "role: TeamRole", m.create_time AS join_time
           FROM tenancy.team_members m
           JOIN tenancy.teams t ON t.organization_id = m.organization_id AND t.team_id = m.team_id
           WHERE m.organization_id = $1 AND m.user_id = $2 AND t.path > $3
           ORDER BY t.path LIMIT $4"#,
        organization_id.uuid(),
        user_id.uuid(),
        page.after(),
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    let user_team = rows.into_iter().map(|row| UserTeam {
        team: Team {
            organization_id,
            team_id: row.team_id,
            path: row.path,
            profile: Profile { display_name: row.display_name, description: row.description, labels: row.labels.0 },
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        },
        role: row.role,
        join_time: row.join_time,
    });
    Ok(user_team.collect())
}

/// The name of a membership in the audit.
fn resource_id(member: &TeamMember) -> String {
    format!("{}/{}", member.team_id, member.user_id)
}

/// Writes down what became of a membership.
async fn record(
    scope: &mut TenantScope,
    action: &'static str,
    before: Option<&TeamMember>,
    after: Option<&TeamMember>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = before.or(after).map(resource_id).unwrap_or_default();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, after).await
}
