//! Invitations. Whoever makes, changes or answers one holds [`organization::lock`](super::organization::lock), as whoever
//! changes the roles, teams and members that it is about: what was looked at stays true until the scope ends. Only the
//! erasure of a person does without, and locks the rows.

pub mod erasure;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::auth::invitation::{Token, TokenHash};
use crate::error::Error;
use crate::ids::{InvitationId, OrganizationId, TeamId, UserId};
use crate::model::audit_event::ActorType;
use crate::model::invitation::{Invitation, InvitationStatus, InvitedTeam, Inviter};
use crate::model::role::RoleKey;
use crate::model::team::TeamRole;
use crate::model::user;
use crate::page::Page;
use crate::repository::audit_event::{self, Changed, Happened};
use crate::repository::scope::{Accountable as _, TenantScope};

/// The name of the resource in errors and in the audit.
pub const RESOURCE: &str = "invitation";

/// What a list is narrowed to.
#[derive(Debug, Default)]
pub struct Narrow {
    /// Only those in this state now.
    pub status: Option<InvitationStatus>,
    /// Only those to this address, whatever its case.
    pub email: Option<String>,
    /// Only those of this role.
    pub role: Option<RoleKey>,
}

struct Row {
    organization_id: OrganizationId,
    invitation_id: InvitationId,
    email: String,
    role: RoleKey,
    status: InvitationStatus,
    token_hash: Vec<u8>,
    expire_time: DateTime<Utc>,
    actor_type: ActorType,
    actor_id: String,
    acting_user_id: Option<Uuid>,
    accept_user_id: Option<Uuid>,
    revision: i64,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
}

impl Row {
    fn with(self, teams: Vec<InvitedTeam>) -> Invitation {
        Invitation {
            organization_id: self.organization_id,
            invitation_id: self.invitation_id,
            email: self.email,
            role: self.role,
            teams,
            status: self.status,
            expire_time: self.expire_time,
            inviter: Inviter {
                actor_type: self.actor_type,
                actor_id: self.actor_id,
                acting_user_id: self.acting_user_id.map(UserId::from),
            },
            accept_user_id: self.accept_user_id.map(UserId::from),
            revision: self.revision,
            create_time: self.create_time,
            update_time: self.update_time,
        }
    }
}

/// Who invites in this scope.
#[must_use]
pub fn inviter(scope: &TenantScope) -> Inviter {
    let context = scope.kind().context();
    let actor_type = match context.actor.kind {
        "api_key" => ActorType::ApiKey,
        "service" => ActorType::Service,
        "operator" => ActorType::Operator,
        _ => ActorType::System,
    };
    Inviter { actor_type, actor_id: context.actor.id.to_string(), acting_user_id: context.acting_user }
}

/// Writes new invitations of the locked organization, each with the hash of its token. None of the addresses has one that is
/// pending: see [`replace`].
pub async fn create(scope: &mut TenantScope, created: &[(Invitation, TokenHash)]) -> Result<(), Error> {
    let Some((first, _)) = created.first() else { return Ok(()) };
    let (now, inviter) = (first.create_time, inviter(scope));
    let organization_id = scope.organization_id();
    let ids: Vec<Uuid> = created.iter().map(|(invitation, _)| invitation.invitation_id.uuid()).collect();
    let emails: Vec<String> = created.iter().map(|(invitation, _)| invitation.email.clone()).collect();
    let roles: Vec<String> = created.iter().map(|(invitation, _)| invitation.role.to_string()).collect();
    let hashes: Vec<Vec<u8>> = created.iter().map(|(_, hash)| hash.as_bytes().to_vec()).collect();
    let expire_times: Vec<DateTime<Utc>> = created.iter().map(|(invitation, _)| invitation.expire_time).collect();
    sqlx::query!(
        "INSERT INTO tenancy.invitations (organization_id, invitation_id, email, role, token_hash, expire_time, actor_type,
             actor_id, acting_user_id, create_time, update_time)
         SELECT $1, i.*, $2, $3, $4, $5, $5
         FROM UNNEST($6::uuid[], $7::text[], $8::text[], $9::bytea[], $10::timestamptz[]) AS i",
        organization_id.uuid(),
        inviter.actor_type as ActorType,
        inviter.actor_id,
        inviter.acting_user_id.map(UserId::uuid),
        now,
        &ids,
        &emails,
        &roles,
        &hashes,
        &expire_times
    )
    .execute(&mut *scope)
    .await?;
    let teams =
        || created.iter().flat_map(|(invitation, _)| invitation.teams.iter().map(move |team| (invitation, team)));
    let of: Vec<Uuid> = teams().map(|(invitation, _)| invitation.invitation_id.uuid()).collect();
    let team_ids: Vec<Uuid> = teams().map(|(_, team)| team.team_id.uuid()).collect();
    let team_roles: Vec<String> = teams().map(|(_, team)| team.role.as_str().to_owned()).collect();
    sqlx::query!(
        "INSERT INTO tenancy.invitation_teams (organization_id, invitation_id, team_id, role)
         SELECT $1, t.* FROM UNNEST($2::uuid[], $3::uuid[], $4::text[]) AS t",
        organization_id.uuid(),
        &of,
        &team_ids,
        &team_roles
    )
    .execute(&mut *scope)
    .await?;
    let changes = created.iter().map(|(created, _)| changed(None, created)).collect::<Result<Vec<_>, _>>()?;
    audit_event::record_all(scope, "invitations.create", RESOURCE, &changes, now).await
}

/// Puts an end to pending invitations of the locked organization, as others take their places.
pub async fn replace(scope: &mut TenantScope, replaced: &[Invitation], now: DateTime<Utc>) -> Result<(), Error> {
    let ids: Vec<Uuid> = replaced.iter().map(|invitation| invitation.invitation_id.uuid()).collect();
    sqlx::query!(
        "UPDATE tenancy.invitations SET status = 'replaced', update_time = $3, revision = revision + 1
         WHERE organization_id = $1 AND invitation_id = ANY ($2)",
        scope.organization_id().uuid(),
        &ids,
        now
    )
    .execute(&mut *scope)
    .await?;
    let after = |before: &Invitation| Invitation {
        status: InvitationStatus::Replaced,
        update_time: now,
        revision: before.revision + 1,
        ..before.clone()
    };
    let changes = replaced.iter().map(|before| changed(Some(before), &after(before))).collect::<Result<Vec<_>, _>>()?;
    audit_event::record_all(scope, "invitations.replace", RESOURCE, &changes, now).await
}

/// An invitation, whatever became of it. Error: `INVITATION_NOT_FOUND`.
pub async fn get(scope: &mut TenantScope, id: InvitationId) -> Result<Invitation, Error> {
    let organization_id = scope.organization_id();
    let row = sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id: OrganizationId", invitation_id AS "invitation_id: InvitationId", email,
               role AS "role: RoleKey", status AS "status: InvitationStatus", token_hash, expire_time,
               actor_type AS "actor_type: ActorType", actor_id, acting_user_id, accept_user_id, revision, create_time,
               update_time
           FROM tenancy.invitations WHERE organization_id = $1 AND invitation_id = $2"#,
        organization_id.uuid(),
        id.uuid()
    )
    .fetch_optional(&mut *scope)
    .await?;
    one(scope, row).await?.ok_or_else(|| Error::not_found(RESOURCE, id))
}

/// The same, locked until the scope ends.
pub async fn lock(scope: &mut TenantScope, id: InvitationId) -> Result<Invitation, Error> {
    let row = locked(scope, &[id.uuid()], &[]).await?.pop();
    one(scope, row).await?.ok_or_else(|| Error::not_found(RESOURCE, id))
}

/// The invitation of a token, locked. Error: `INVITATION_NOT_FOUND`, also for a token that is void.
pub async fn lock_presented(scope: &mut TenantScope, token: &Token) -> Result<Invitation, Error> {
    let id = token.invitation_id();
    let row = locked(scope, &[id.uuid()], &[]).await?.pop();
    let row = row.filter(|row| TokenHash::stored(&row.token_hash) == Some(token.hash()));
    one(scope, row).await?.ok_or_else(|| Error::not_found(RESOURCE, id))
}

/// The pending invitations to some addresses, locked; `keys` are what is unique of the addresses.
pub async fn lock_pending(scope: &mut TenantScope, keys: &[String]) -> Result<Vec<Invitation>, Error> {
    let rows = locked(scope, &[], keys).await?;
    with_teams(scope, rows).await
}

async fn locked(scope: &mut TenantScope, ids: &[Uuid], keys: &[String]) -> Result<Vec<Row>, Error> {
    let organization_id = scope.organization_id();
    Ok(sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id: OrganizationId", invitation_id AS "invitation_id: InvitationId", email,
               role AS "role: RoleKey", status AS "status: InvitationStatus", token_hash, expire_time,
               actor_type AS "actor_type: ActorType", actor_id, acting_user_id, accept_user_id, revision, create_time,
               update_time
           FROM tenancy.invitations
           WHERE organization_id = $1 AND (invitation_id = ANY ($2) OR status = 'pending' AND email_key = ANY ($3))
           FOR NO KEY UPDATE"#,
        organization_id.uuid(),
        ids,
        keys
    )
    .fetch_all(&mut *scope)
    .await?)
}

/// One page of invitations and one more, newest first; `now` decides which have expired.
pub async fn list(
    scope: &mut TenantScope,
    narrow: &Narrow,
    now: DateTime<Utc>,
    page: &Page,
) -> Result<Vec<Invitation>, Error> {
    let organization_id = scope.organization_id();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT organization_id AS "organization_id: OrganizationId", invitation_id AS "invitation_id: InvitationId", email,
               role AS "role: RoleKey", status AS "status: InvitationStatus", token_hash, expire_time,
               actor_type AS "actor_type: ActorType", actor_id, acting_user_id, accept_user_id, revision, create_time,
               update_time
           FROM tenancy.invitations
           WHERE organization_id = $1
             AND (create_time, invitation_id) < ($2, $3)
             AND ($4::text IS NULL
                 OR $4 = CASE WHEN status = 'pending' AND expire_time <= $5 THEN 'expired' ELSE status END)
             AND ($6::text IS NULL OR email_key = $6)
             AND ($7::text IS NULL OR role = $7)
           ORDER BY create_time DESC, invitation_id DESC LIMIT $8"#,
        organization_id.uuid(),
        page.bound().time,
        page.bound().id,
        narrow.status.map(InvitationStatus::as_str),
        now,
        narrow.email.as_deref().map(user::email_key),
        narrow.role.as_ref().map(RoleKey::as_str),
        page.limit()
    )
    .fetch_all(&mut *scope)
    .await?;
    with_teams(scope, rows).await
}

/// Writes a locked invitation back as `after`, under `action` in the audit; with the hash of another token, where it has one.
pub async fn save(
    scope: &mut TenantScope,
    action: &'static str,
    before: &Invitation,
    after: Invitation,
    token: Option<TokenHash>,
    now: DateTime<Utc>,
) -> Result<Invitation, Error> {
    let saved = Invitation { revision: before.revision + 1, update_time: now, ..after };
    sqlx::query!(
        "UPDATE tenancy.invitations
         SET status = $3, expire_time = $4, accept_user_id = $5, token_hash = COALESCE($6, token_hash), revision = $7,
             update_time = $8
         WHERE organization_id = $1 AND invitation_id = $2",
        saved.organization_id.uuid(),
        saved.invitation_id.uuid(),
        saved.status.as_str(),
        saved.expire_time,
        saved.accept_user_id.map(UserId::uuid),
        token.as_ref().map(|hash| hash.as_bytes().as_slice()),
        saved.revision,
        now
    )
    .execute(&mut *scope)
    .await?;
    let id = saved.invitation_id.to_string();
    let happened = Happened { at: now, action, resource_type: RESOURCE, resource_id: &id };
    audit_event::record(scope, happened, Some(before), Some(&saved)).await?;
    Ok(saved)
}

/// Takes back what has expired of the invitations to a role: an invitation that nobody can accept keeps no role.
pub async fn revoke_expired(scope: &mut TenantScope, role: &RoleKey, now: DateTime<Utc>) -> Result<(), Error> {
    let ids = sqlx::query_scalar!(
        "SELECT invitation_id FROM tenancy.invitations
         WHERE organization_id = $1 AND custom_role = $2 AND expire_time <= $3",
        scope.organization_id().uuid(),
        role.as_str(),
        now
    )
    .fetch_all(&mut *scope)
    .await?;
    let rows = locked(scope, &ids, &[]).await?;
    // One whose person was erased meanwhile keeps none either.
    let pending = rows.into_iter().filter(|row| row.status == InvitationStatus::Pending).collect();
    for before in with_teams(scope, pending).await? {
        let after = Invitation { status: InvitationStatus::Revoked, ..before.clone() };
        save(scope, "invitations.revoke", &before, after, None, now).await?;
    }
    Ok(())
}

async fn one(scope: &mut TenantScope, row: Option<Row>) -> Result<Option<Invitation>, Error> {
    Ok(with_teams(scope, row.into_iter().collect()).await?.pop())
}

async fn with_teams(scope: &mut TenantScope, rows: Vec<Row>) -> Result<Vec<Invitation>, Error> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.invitation_id.uuid()).collect();
    let organization_id = scope.organization_id();
    let found = sqlx::query!(
        r#"SELECT i.invitation_id AS "invitation_id: InvitationId", i.team_id AS "team_id: TeamId", i.role AS "role: TeamRole",
               t.display_name
           FROM tenancy.invitation_teams i
           JOIN tenancy.teams t ON t.organization_id = i.organization_id AND t.team_id = i.team_id
           WHERE i.organization_id = $1 AND i.invitation_id = ANY ($2) ORDER BY t.path"#,
        organization_id.uuid(),
        &ids
    )
    .fetch_all(&mut *scope)
    .await?;
    let mut teams: HashMap<InvitationId, Vec<InvitedTeam>> = HashMap::new();
    for row in found {
        let team = InvitedTeam { team_id: row.team_id, role: row.role, display_name: row.display_name };
        teams.entry(row.invitation_id).or_default().push(team);
    }
    let teams_of = |row: Row| {
        let teams = teams.remove(&row.invitation_id).unwrap_or_default();
        row.with(teams)
    };
    Ok(rows.into_iter().map(teams_of).collect())
}

/// What became of one, for the audit.
fn changed(before: Option<&Invitation>, after: &Invitation) -> Result<Changed, Error> {
    let value = |invitation: &Invitation| serde_json::to_value(invitation).map_err(Error::internal);
    Ok(Changed {
        resource_id: after.invitation_id.to_string(),
        before: before.map(value).transpose()?,
        after: Some(value(after)?),
    })
}
