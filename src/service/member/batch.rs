//! Many members in one transaction, each with its own fate: by the rules of one, in the same order of refusals.
//!
//! All that the rules ask is read at once, the rows are decided one after the other in memory, and what was decided is written
//! at once. That what was read stays true meanwhile is the organization's lock.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use super::{Members, of_role};
use crate::auth::gate;
use crate::auth::permission::{Permission, Permissions};
use crate::auth::principal::{Caller, Permitted, PermittedPlatform};
use crate::error::Error;
use crate::ids::{TeamId, UserId};
use crate::model::member::{Member, MemberStatus};
use crate::model::organization::Organization;
use crate::model::role::RoleKey;
use crate::model::user::{UserStatus, email_key};
use crate::proto::v1;
use crate::repository::member::{self, batch as members};
use crate::repository::organization;
use crate::repository::scope::{Purpose, TenantScope};
use crate::repository::team::{self, member as team_member};
use crate::repository::user::batch::{self as users, Known};
use crate::service::convert::member::{self as convert, Named, New, TeamNamed};

/// A row, and who it is about as far as there is somebody.
pub type Row = Result<(New, Option<Known>), Error>;

impl Members {
    /// Reads the rows, and finds the users whom they name, before the scope of the organization: to that they are visible from
    /// the membership on.
    ///
    /// Errors: `PERMISSION_MISSING` for teams without `teams.members`; `PLATFORM_KEY_REQUIRED` for addresses by a key that does
    /// not see all users, `PERMISSION_MISSING` without `users.read`.
    pub(super) async fn look_up(
        &self,
        caller: &Caller,
        permitted: &Permitted,
        messages: &[v1::NewMember],
    ) -> Result<Vec<Row>, Error> {
        if messages.iter().any(|message| !message.teams.is_empty()) {
            gate::require(permitted.permissions(), Permission::TeamsMembers)?;
        }
        if messages.iter().any(|message| !message.email.is_empty()) {
            self.shared.gate.whole_platform(caller)?;
            gate::require(permitted.permissions(), Permission::UsersRead)?;
        }
        let rows: Vec<Result<New, Error>> = messages.iter().map(convert::new_member).collect();
        let named = || rows.iter().flatten().map(|new| &new.user);
        let ids: Vec<UserId> =
            named().filter_map(|user| if let Named::Id(id) = user { Some(*id) } else { None }).collect();
        let emails: Vec<String> = named()
            .filter_map(|user| if let Named::Email(email) = user { Some(email.clone()) } else { None })
            .collect();
        // Of its own accord: a tenant may add whom it can name, and hears no more of them than AddMember tells.
        let own = PermittedPlatform::system("members");
        let mut scope = self.shared.database.platform(&own, Purpose::Users).await?;
        let known = users::find(&mut scope, &ids, &emails).await?;
        scope.rollback().await?;
        let by_id: HashMap<UserId, &Known> = known.iter().map(|known| (known.user_id, known)).collect();
        let by_email: HashMap<String, &Known> = known.iter().map(|known| (email_key(&known.email), known)).collect();
        let found = |new: New| {
            let known = match &new.user {
                Named::Id(id) => by_id.get(id),
                Named::Email(email) => by_email.get(&email_key(email)),
            };
            (new, known.map(|known| (*known).clone()))
        };
        Ok(rows.into_iter().map(|row| row.map(found)).collect())
    }
}

/// Adds the users of the rows; what became of each, in their order.
pub async fn add(
    scope: &mut TenantScope,
    permitted: &Permitted,
    rows: Vec<Row>,
    now: DateTime<Utc>,
) -> Result<Vec<v1::NewMemberResult>, Error> {
    let organization = organization::lock(scope).await?;
    let mut desk = Desk::read(scope, permitted, organization, &rows, now).await?;
    let decided: Vec<Result<Decided, Error>> =
        rows.into_iter().map(|row| row.and_then(|(new, known)| desk.decide(new, known))).collect();

    let added: Vec<Member> = decided.iter().flatten().filter_map(|decided| decided.added.clone()).collect();
    members::add(scope, &added, now).await?;
    let pairs: HashSet<(TeamId, UserId)> =
        decided.iter().flatten().flat_map(|row| row.teams.iter().map(|team| (*team, row.user_id))).collect();
    let pairs: Vec<_> = pairs.into_iter().collect();
    let mut joined = team_member::add_all(scope, &pairs, now).await?;

    let organization_id = scope.organization_id();
    let result = |row: Result<Decided, Error>| match row {
        Ok(Decided { user_id, role, added, teams }) => {
            // By the first row that says so.
            let teams = teams.into_iter().filter(|team| joined.remove(&(*team, user_id))).collect();
            convert::new_member_result((organization_id, user_id, &role), added, teams)
        }
        Err(error) => convert::refused(&error),
    };
    Ok(decided.into_iter().map(result).collect())
}

/// What is to be done for a row.
struct Decided {
    user_id: UserId,
    role: RoleKey,
    /// Who becomes a member; `None` for who is one in this role.
    added: Option<Member>,
    teams: Vec<TeamId>,
}

/// All that the rules ask.
struct Desk<'a> {
    permitted: &'a Permitted,
    organization: Organization,
    now: DateTime<Utc>,
    /// The roles of those who are members, with those of the rows before.
    members: HashMap<UserId, RoleKey>,
    /// How many more there may be, and how many in all.
    room: Option<(i64, i32)>,
    roles: HashMap<String, Result<Permissions, Error>>,
    teams: Teams,
}

impl<'a> Desk<'a> {
    async fn read(
        scope: &mut TenantScope,
        permitted: &'a Permitted,
        organization: Organization,
        rows: &[Row],
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let rows = || rows.iter().flatten();
        let users: Vec<UserId> = rows().filter_map(|(_, known)| known.as_ref()).map(|known| known.user_id).collect();
        let members = members::roles(scope, &users).await?;
        let room = match member::most(scope).await? {
            Some(most) => Some((i64::from(most) - members::count(scope).await?, most)),
            None => None,
        };
        let mut roles = HashMap::new();
        for (new, _) in rows() {
            if !roles.contains_key(new.role.as_str()) {
                let has = match of_role(scope, &new.role).await {
                    Err(error) if !matches!(error, Error::NotFound { .. }) => return Err(error),
                    has => has,
                };
                roles.insert(new.role.to_string(), has);
            }
        }
        let teams = Teams::read(scope, rows().flat_map(|(new, _)| &new.teams)).await?;
        Ok(Self { permitted, organization, now, members, room, roles, teams })
    }

    /// Errors: those of adding one, in their order; `TEAM_NOT_FOUND`.
    fn decide(&mut self, new: New, known: Option<Known>) -> Result<Decided, Error> {
        let New { user, role, teams } = new;
        self.permitted.require_owner(role.is_owner())?;
        let has = self.roles.get(role.as_str()).cloned();
        self.permitted.require_held(has.ok_or_else(|| Error::internal("a role that nobody asked for"))??)?;
        let teams = teams.iter().map(|team| self.teams.find(team)).collect::<Result<Vec<_>, _>>()?;
        let known = known.ok_or_else(|| match user {
            Named::Id(id) => Error::not_found("user", id),
            Named::Email(email) => Error::not_found("user", email),
        })?;
        let user_id = known.user_id;
        if let Some(has) = self.members.get(&user_id) {
            if *has == role {
                return Ok(Decided { user_id, role, added: None, teams });
            }
            return Err(Error::AlreadyExists {
                reason: "ALREADY_MEMBER",
                resource: "member",
                field: "user_id",
                value: user_id.to_string(),
            });
        }
        if known.status != UserStatus::Active {
            return Err(Error::FailedPrecondition {
                reason: "USER_DEACTIVATED",
                subject: format!("users/{user_id}"),
                message: "a deactivated or erased user cannot be added".into(),
            });
        }
        if let Some((room, most)) = &mut self.room {
            if *room <= 0 {
                return Err(member::limit_reached(self.organization.organization_id, *most));
            }
            *room -= 1;
        }
        self.members.insert(user_id, role.clone());
        let added = self.member(known, &role);
        Ok(Decided { user_id, role, added: Some(added), teams })
    }

    fn member(&self, known: Known, role: &RoleKey) -> Member {
        Member {
            organization_id: self.organization.organization_id,
            user_id: known.user_id,
            role: role.clone(),
            extra_permissions: Vec::new(),
            denied_permissions: Vec::new(),
            status: MemberStatus::Active,
            suspend_time: None,
            suspend_reason: String::new(),
            email: known.email,
            display_name: known.display_name,
            user_status: known.status,
            last_activity_time: None,
            revision: 1,
            create_time: self.now,
            update_time: self.now,
        }
    }
}

/// The teams that rows name.
struct Teams {
    known: HashSet<TeamId>,
    /// By the team above and what is unique of the name.
    below: HashMap<(Option<TeamId>, String), TeamId>,
}

impl Teams {
    async fn read(scope: &mut TenantScope, asked: impl Iterator<Item = &TeamNamed>) -> Result<Self, Error> {
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for team in asked {
            match team {
                TeamNamed::Id(id) => _ = ids.insert(*id),
                TeamNamed::Path(path) => names.extend(path.iter().cloned()),
            }
        }
        let mut teams = Self { known: HashSet::new(), below: HashMap::new() };
        if ids.is_empty() && names.is_empty() {
            return Ok(teams);
        }
        let (ids, names): (Vec<_>, Vec<_>) = (ids.into_iter().collect(), names.into_iter().collect());
        for place in team::places(scope, &ids, &names).await? {
            let mut up = place.path.into_iter().rev();
            if let Some(id) = up.next() {
                teams.known.insert(id);
                teams.below.insert((up.next(), place.name_key), id);
            }
        }
        Ok(teams)
    }

    /// Error: `TEAM_NOT_FOUND`.
    fn find(&self, team: &TeamNamed) -> Result<TeamId, Error> {
        let missing = |name: String| Error::not_found(team::RESOURCE, name);
        match team {
            TeamNamed::Id(id) => self.known.get(id).copied().ok_or_else(|| missing(id.to_string())),
            TeamNamed::Path(path) => {
                let step = |above, name: &String| self.below.get(&(above, name.clone())).copied().map(Some);
                let found = path.iter().try_fold(None, step).flatten();
                found.ok_or_else(|| missing(path.join("/")))
            }
        }
    }
}
