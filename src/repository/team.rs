//! Teams: the tree of an organization, each with its path from the root.
//!
//! Whoever changes the tree, or who is in it, holds [`organization::lock`](super::organization::lock), so that what was
//! read of it stays true until the scope ends. That paths make a tree is a constraint of the database besides.

pub mod member;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{OrganizationId, TeamId};
use crate::model::team::{MOST_LEVELS, MOST_TEAMS, Profile, Team};
use crate::model::text::Labels;
use crate::page::tree::TreePage;
use crate::repository::audit_event::{self, Happened};
use crate::repository::error::constraint;
use crate::repository::plan;
use crate::repository::scope::TenantScope;

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "team";

struct Row {
    organization_id: OrganizationId,
    team_id: TeamId,
    path: Vec<TeamId>,
    display_name: String,
    description: String,
    labels: Json<Labels>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl From<Row> for Team {
    fn from(row: Row) -> Self {
        Self {
            organization_id: row.organization_id,
            team_id: row.team_id,
            path: row.path,
            profile: Profile { display_name: row.display_name, description: row.description, labels: row.labels.0 },
            revision: row.revision,
            create_time: row.create_time,
            update_time: row.update_time,
        }
    }
}

/// Creates a team of the scope's organization, which the scope has locked. Errors: `TEAM_NAME_TAKEN`, `TEAM_TOO_DEEP`,
/// `TEAM_LIMIT_REACHED`, `TEAMS_EXHAUSTED`.
pub async fn create(
    scope: &mut TenantScope,
    parent: Option<&Team>,
    profile: Profile,
    now: DateTime<Utc>,
) -> Result<Team, Error> {
    let organization_id = scope.organization_id();
    let known = sqlx::query_scalar!(
        r#"SELECT count(*) AS "known!" FROM tenancy.teams WHERE organization_id = $1"#,
        organization_id.uuid()
    )
    .fetch_one(&mut *scope)
    .await?;
    if let Some(limit) = plan::entitlements(scope).await?.sizes.team_limit
        && known >= i64::from(limit)
    {
        return Err(Error::FailedPrecondition {
            reason: "TEAM_LIMIT_REACHED",
            subject: format!("organizations/{organization_id}"),
            message: format!("the organization may have at most {limit} teams"),
        });
    }
    if known >= MOST_TEAMS {
        return Err(Error::FailedPrecondition {
            reason: "TEAMS_EXHAUSTED",
            subject: format!("organizations/{organization_id}"),
            message: format!("an organization has at most {MOST_TEAMS} teams: delete one first"),
        });
    }
    let team_id = TeamId::new(now);
    let above = parent.map_or(&[][..], |parent| &parent.path);
    let path = [above, &[team_id]].concat();
    let created = Team { organization_id, team_id, path, profile, revision: 1, create_time: now, update_time: now };
    sqlx::query!(
        "INSERT INTO tenancy.teams (organization_id, team_id, path, parent_path, display_name, name_key, description,
             labels, revision, create_time, update_time)
         VALUES ($1, $2, $3, NULLIF($4::uuid[], '{}'), $5, $6, $7, $8, $9, $10, $10)",
        organization_id.uuid(),
        team_id.uuid(),
        &uuids(&created.path),
        &uuids(above),
        created.profile.display_name,
        created.profile.name_key(),
        created.profile.description,
        Json(&created.profile.labels) as _,
        created.revision,
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(|error| refusal(error, &created))?;
    record(scope, "teams.create", None, Some(&created), now).await?;
    Ok(created)
}

/// One team. Error: `TEAM_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, team_id: TeamId) -> Result<Team, Error> {
    let organization_id = scope.organization_id();
    sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id: OrganizationId", team_id AS "team_id: TeamId",
               path AS "path: Vec<TeamId>", display_name, description, labels AS "labels: Json<Labels>", revision,
               create_time, update_time
           FROM tenancy.teams WHERE organization_id = $1 AND team_id = $2"#,
        organization_id.uuid(),
        team_id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?
    .map(Team::from)
    .ok_or_else(|| Error::not_found(RESOURCE, team_id))
}

/// The names of those of the teams that exist.
pub async fn names(scope: &mut TenantScope, teams: &[TeamId]) -> Result<HashMap<TeamId, String>, Error> {
    let organization_id = scope.organization_id();
    let found = sqlx::query!(
        r#"SELECT team_id AS "team_id: TeamId", display_name FROM tenancy.teams
           WHERE organization_id = $1 AND team_id = ANY ($2)"#,
        organization_id.uuid(),
        &uuids(teams)
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found.into_iter().map(|row| (row.team_id, row.display_name)).collect())
}

/// Where a team is, and what it is called.
#[derive(Debug)]
pub struct Place {
    /// The ids from the root down to the team itself.
    pub path: Vec<TeamId>,
    /// What is unique of its name among its siblings.
    pub name_key: String,
}

/// The teams with one of these ids, and those with one of these names wherever they are in the tree.
pub async fn places(scope: &mut TenantScope, ids: &[TeamId], name_keys: &[String]) -> Result<Vec<Place>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_as!(
        Place,
        r#"SELECT path AS "path: Vec<TeamId>", name_key FROM tenancy.teams
           WHERE organization_id = $1 AND (team_id = ANY ($2) OR name_key = ANY ($3))"#,
        organization_id.uuid(),
        &uuids(ids),
        name_keys
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// One page and one more, depth first, of the teams directly below the path, or of all of them with the one that the path
/// leads to. The empty path is above all roots.
pub async fn list(
    scope: &mut TenantScope,
    path: &[TeamId],
    subtree: bool,
    page: &TreePage,
) -> Result<Vec<Team>, Error> {
    let organization_id = scope.organization_id();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id: OrganizationId", team_id AS "team_id: TeamId",
               path AS "path: Vec<TeamId>", display_name, description, labels AS "labels: Json<Labels>", revision,
               create_time, update_time
           FROM tenancy.teams
           WHERE organization_id = $1 AND path > $2
             AND CASE WHEN $4 THEN path[:cardinality($3::uuid[])] = $3
                 ELSE parent_path IS NOT DISTINCT FROM NULLIF($3, '{}') END
           ORDER BY path LIMIT $5"#,
        organization_id.uuid(),
        page.after(),
        &uuids(path),
        subtree,
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(rows.into_iter().map(Team::from).collect())
}

/// Gives a team of the locked organization another profile. Error: `TEAM_NAME_TAKEN`.
pub async fn save(scope: &mut TenantScope, before: &Team, profile: Profile, now: DateTime<Utc>) -> Result<Team, Error> {
    let saved = Team { profile, revision: before.revision + 1, update_time: now, ..before.clone() };
    sqlx::query!(
        "UPDATE tenancy.teams
         SET display_name = $3, name_key = $4, description = $5, labels = $6, revision = $7, update_time = $8
         WHERE organization_id = $1 AND team_id = $2",
        saved.organization_id.uuid(),
        saved.team_id.uuid(),
        saved.profile.display_name,
        saved.profile.name_key(),
        saved.profile.description,
        Json(&saved.profile.labels) as _,
        saved.revision,
        saved.update_time
    )
    .execute(&mut *scope)
    .await
    .map_err(|error| refusal(error, &saved))?;
    record(scope, "teams.update", Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Moves a team of the locked organization, with all below it, to another parent, or makes it a root. Errors:
/// `TEAM_CYCLE`, `TEAM_NAME_TAKEN`, `TEAM_TOO_DEEP`.
pub async fn reparent(
    scope: &mut TenantScope,
    before: &Team,
    parent: Option<&Team>,
    now: DateTime<Utc>,
) -> Result<Team, Error> {
    if let Some(parent) = parent {
        before.require_outside(parent)?;
    }
    let above = parent.map_or(&[][..], |parent| &parent.path);
    let path = [above, &[before.team_id]].concat();
    let saved = Team { path, revision: before.revision + 1, update_time: now, ..before.clone() };
    // All paths at once, as each is checked against that of its parent at the end of the statement.
    sqlx::query!(
        "UPDATE tenancy.teams
         SET path = $3::uuid[] || path[$4:],
             parent_path = NULLIF($3 || path[$4:cardinality(path) - 1], '{}'),
             revision = CASE WHEN team_id = $2 THEN $5 ELSE revision END,
             update_time = CASE WHEN team_id = $2 THEN $6 ELSE update_time END
         WHERE organization_id = $1 AND path[$4] = $2",
        saved.organization_id.uuid(),
        saved.team_id.uuid(),
        &uuids(above),
        level(before)?,
        saved.revision,
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(|error| refusal(error, &saved))?;
    record(scope, "teams.move", Some(before), Some(&saved), now).await?;
    Ok(saved)
}

/// Whether a team of the locked organization has no team below it and no member.
pub async fn is_empty(scope: &mut TenantScope, team: &Team) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (SELECT FROM tenancy.teams WHERE organization_id = $1 AND parent_path = $3)
               AND NOT EXISTS (SELECT FROM tenancy.team_members WHERE organization_id = $1 AND team_id = $2) AS "empty!""#,
        team.organization_id.uuid(),
        team.team_id.uuid(),
        &uuids(&team.path)
    )
    .fetch_one(&mut *scope)
    .await?)
}

/// Deletes a team of the locked organization and all below it, which have no members any more. Returns how many.
pub async fn delete(scope: &mut TenantScope, team: &Team, now: DateTime<Utc>) -> Result<usize, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"DELETE FROM tenancy.teams WHERE organization_id = $1 AND path[$2] = $3
           RETURNING organization_id AS "organization_id: OrganizationId", team_id AS "team_id: TeamId",
               path AS "path: Vec<TeamId>", display_name, description, labels AS "labels: Json<Labels>", revision,
               create_time, update_time"#,
        team.organization_id.uuid(),
        level(team)?,
        team.team_id.uuid()
    )
    .fetch_all(&mut *scope)
    .await?;
    let removed: Vec<(String, Team)> =
        rows.into_iter().map(Team::from).map(|team| (team.team_id.to_string(), team)).collect();
    audit_event::record_removals(scope, "teams.delete", RESOURCE, &removed, now).await?;
    Ok(removed.len())
}

/// Where a team is in lists.
#[must_use]
pub fn key(team: &Team) -> Vec<Uuid> {
    uuids(&team.path)
}

/// Where the team itself is in its path, and in those of all below it.
fn level(team: &Team) -> Result<i32, Error> {
    i32::try_from(team.path.len()).map_err(Error::internal)
}

fn uuids(path: &[TeamId]) -> Vec<Uuid> {
    path.iter().map(|id| id.uuid()).collect()
}

/// What the constraints say of a team that was to be as `team`.
fn refusal(error: sqlx::Error, team: &Team) -> Error {
    match constraint(&error) {
        Some("teams_name_key") => Error::AlreadyExists {
            reason: "TEAM_NAME_TAKEN",
            resource: RESOURCE,
            field: "team.display_name",
            value: team.profile.display_name.clone(),
        },
        Some("teams_depth") => Error::FailedPrecondition {
            reason: "TEAM_TOO_DEEP",
            subject: format!("organizations/{}", team.organization_id),
            message: format!("teams are at most {MOST_LEVELS} levels deep"),
        },
        _ => error.into(),
    }
}

/// Writes down what became of a team.
async fn record(
    scope: &mut TenantScope,
    action: &'static str,
    before: Option<&Team>,
    after: Option<&Team>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let id = before.or(after).map(|team| team.team_id.to_string()).unwrap_or_default();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, before, after).await
}
