//! Making invitations: many at once, and one in the same way.
//!
//! All of them in one transaction, so that a repeated request finds all of its reply or none of it. A statement that fails
//! would undo the others; so everything that can refuse one is asked for before any is written, under the organization's
//! lock, which keeps it true.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::auth::invitation::Token;
use crate::auth::permission::Permissions;
use crate::auth::principal::{ActorId, Permitted};
use crate::error::Error;
use crate::ids::{InvitationId, TeamId};
use crate::model::invitation::{Invitation, InvitationStatus, InvitedTeam, Inviter, NewInvitation};
use crate::model::organization::Organization;
use crate::model::role::{CustomRole, RoleKey};
use crate::model::user::email_key;
use crate::proto::v1;
use crate::repository::allowance::Taken;
use crate::repository::scope::TenantScope;
use crate::repository::{invitation, member, organization, role, team};
use crate::service::convert::invitation as convert;
use crate::service::invitation::{Invitations, inviter_name};

/// An invitation that was made, with its token, which nothing else has.
#[derive(Debug)]
pub(super) struct Issued {
    /// The invitation.
    pub invitation: Invitation,
    token: Token,
}

/// What the mails of several invitations have in common.
#[derive(Debug)]
pub(super) struct Letterhead {
    organization: Organization,
    inviter_display_name: String,
}

impl Letterhead {
    /// What the mail of one takes.
    pub fn delivery(&self, issued: &Issued) -> v1::InvitationDelivery {
        let token = issued.token.expose();
        convert::delivery(&self.organization, &self.inviter_display_name, &issued.invitation, token)
    }
}

/// What became of what was wanted, in its order.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Each for itself.
    pub results: Vec<Result<Issued, Error>>,
    /// For the mails.
    pub letterhead: Letterhead,
}

/// All that can refuse an invitation.
struct Known {
    members: HashSet<String>,
    teams: HashMap<TeamId, String>,
    roles: Vec<CustomRole>,
    /// By what is unique of their addresses.
    pending: HashMap<String, Invitation>,
    room: Result<(), Error>,
    inviter: Inviter,
}

impl Known {
    async fn read(scope: &mut TenantScope, wanted: &[&NewInvitation]) -> Result<Self, Error> {
        let keys: Vec<String> = wanted.iter().map(|new| email_key(&new.email)).collect();
        let teams: HashSet<TeamId> = wanted.iter().flat_map(|new| &new.teams).map(|(id, _)| *id).collect();
        let pending = invitation::lock_pending(scope, &keys).await?;
        let room = match member::require_room(scope, 1).await {
            refusal @ Err(Error::FailedPrecondition { .. }) => refusal,
            other => {
                other?;
                Ok(())
            }
        };
        Ok(Self {
            members: member::with_addresses(scope, &keys).await?,
            teams: team::names(scope, &teams.into_iter().collect::<Vec<_>>()).await?,
            roles: role::list(scope).await?,
            pending: pending.into_iter().map(|found| (email_key(&found.email), found)).collect(),
            room,
            inviter: invitation::inviter(scope),
        })
    }

    /// What a role has. Error: `ROLE_NOT_FOUND`.
    fn of_role(&self, key: &RoleKey) -> Result<Permissions, Error> {
        if let Some(role) = key.built_in() {
            return Ok(Permissions::of_role(role));
        }
        let found = self.roles.iter().find(|role| role.key == *key);
        found.map(|role| role.profile.permissions()).ok_or_else(|| Error::not_found(role::RESOURCE, key))
    }

    /// The invitation as it would be made.
    fn check(&self, permitted: &Permitted, new: NewInvitation, now: DateTime<Utc>) -> Result<Invitation, Error> {
        permitted.require_owner(new.role.is_owner())?;
        permitted.require_held(self.of_role(&new.role)?)?;
        let team = |(team_id, role)| match self.teams.get(&team_id) {
            Some(name) => Ok(InvitedTeam { team_id, role, display_name: name.clone() }),
            None => Err(Error::not_found(team::RESOURCE, team_id)),
        };
        let teams = new.teams.into_iter().map(team).collect::<Result<_, _>>()?;
        let key = email_key(&new.email);
        if self.members.contains(&key) {
            return Err(Error::AlreadyExists {
                reason: "ALREADY_MEMBER",
                resource: "member",
                field: "invitation.email",
                value: new.email,
            });
        }
        if let Some(outstanding) = self.pending.get(&key) {
            permitted.require_owner(outstanding.role.is_owner())?;
            permitted.require_held(self.of_role(&outstanding.role)?)?;
        }
        self.room.clone()?;
        Ok(Invitation {
            organization_id: permitted.organization_id(),
            invitation_id: InvitationId::new(now),
            email: new.email,
            role: new.role,
            teams,
            status: InvitationStatus::Pending,
            expire_time: now + new.ttl,
            inviter: self.inviter.clone(),
            accept_user_id: None,
            revision: 1,
            create_time: now,
            update_time: now,
        })
    }
}

impl Invitations {
    /// Makes the invitations that are wanted and allowed. An error of one is its own; that of this function is everybody's.
    pub(super) async fn issue(
        &self,
        scope: &mut TenantScope,
        permitted: &Permitted,
        wanted: Vec<Result<NewInvitation, Error>>,
        now: DateTime<Utc>,
    ) -> Result<Outcome, Error> {
        let organization = organization::lock(scope).await?;
        let known = Known::read(scope, &wanted.iter().flatten().collect::<Vec<_>>()).await?;
        let mut seen = HashSet::new();
        let checked = wanted.into_iter().map(|new| {
            let new = new?;
            if !seen.insert(email_key(&new.email)) {
                return Err(Error::InvalidRequest {
                    reason: "DUPLICATE_EMAIL",
                    message: format!("{} comes before in the same batch", new.email),
                });
            }
            known.check(permitted, new, now)
        });
        let checked: Vec<Result<Invitation, Error>> = checked.collect();
        let mut left = self.take(scope, permitted, checked.iter().flatten().count(), now).await?;
        let mut results = Vec::with_capacity(checked.len());
        for one in checked {
            results.push(match one {
                Ok(_) if left.count == 0 => Err(self.allowance.exceeded(left.retry_after)),
                Ok(invitation) => {
                    left.count -= 1;
                    let token = Token::generate(invitation.organization_id, invitation.invitation_id)?;
                    Ok(Issued { invitation, token })
                }
                Err(error) => Err(error),
            });
        }
        write(scope, known.pending, &results, now).await?;
        let inviter_display_name = inviter_name(scope, &known.inviter).await?;
        Ok(Outcome { results, letterhead: Letterhead { organization, inviter_display_name } })
    }

    /// Takes one of what the inviter may send in an hour. Error: `INVITATION_RATE_EXCEEDED`.
    pub(super) async fn take_one(
        &self,
        scope: &mut TenantScope,
        permitted: &Permitted,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        match counted(permitted)? {
            Some(subject) => self.allowance.take_one(scope, subject, now).await,
            None => Ok(()),
        }
    }

    async fn take(
        &self,
        scope: &mut TenantScope,
        permitted: &Permitted,
        wanted: usize,
        now: DateTime<Utc>,
    ) -> Result<Taken, Error> {
        let Some(subject) = counted(permitted)? else {
            return Ok(Taken { count: wanted, retry_after: Duration::ZERO });
        };
        self.allowance.take(scope, subject, wanted, now).await
    }
}

/// For whom it counts: the user for whom the caller acts, else the tenant's key; nobody, where the platform acts for nobody.
fn counted(permitted: &Permitted) -> Result<Option<Uuid>, Error> {
    if let Some(user) = permitted.acting_user() {
        return Ok(Some(user.uuid()));
    }
    if permitted.is_platform() {
        return Ok(None);
    }
    match permitted.context().actor.id {
        ActorId::Uuid(key) => Ok(Some(key)),
        ActorId::Workload(_) | ActorId::Job(_) => Err(Error::internal("a tenant without a key")),
    }
}

/// Writes what was made, in the places of what was pending.
async fn write(
    scope: &mut TenantScope,
    mut pending: HashMap<String, Invitation>,
    results: &[Result<Issued, Error>],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let made: Vec<_> =
        results.iter().flatten().map(|issued| (issued.invitation.clone(), issued.token.hash())).collect();
    let replaced: Vec<_> = made.iter().filter_map(|(new, _)| pending.remove(&email_key(&new.email))).collect();
    if !replaced.is_empty() {
        invitation::replace(scope, &replaced, now).await?;
    }
    invitation::create(scope, &made).await
}
