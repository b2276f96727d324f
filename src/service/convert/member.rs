//! Members between protobuf and the model.

use crate::error::{Error, Violation, Violations};
use crate::ids::{OrganizationId, TeamId, UserId, parse_uuid};
use crate::model::invitation::Invitation;
use crate::model::member::{Changes, Member, MemberStatus, Role};
use crate::model::role::{self, RoleKey};
use crate::model::{team, text};
use crate::proto::v1;
use crate::service::convert::{timestamp, told};

/// The fields that an update mask can name.
pub const FIELDS: &[&str] = &["role", "extra_permissions", "denied_permissions"];

/// For the wire.
#[must_use]
pub fn to_proto(member: Member) -> v1::Member {
    v1::Member {
        organization_id: member.organization_id.to_string(),
        user_id: member.user_id.to_string(),
        role: member.role.to_string(),
        email: member.email,
        display_name: member.display_name,
        etag: crate::model::etag::of(member.revision),
        create_time: Some(timestamp(member.create_time)),
        update_time: Some(timestamp(member.update_time)),
        status: status(member.status).into(),
        extra_permissions: member.extra_permissions,
        denied_permissions: member.denied_permissions,
        suspend_time: member.suspend_time.map(timestamp),
        suspend_reason: member.suspend_reason,
        last_activity_time: member.last_activity_time.map(timestamp),
        invitation_id: String::new(),
    }
}

/// Who is invited, as a member who is none yet.
#[must_use]
pub fn invited(invitation: Invitation) -> v1::Member {
    v1::Member {
        organization_id: invitation.organization_id.to_string(),
        role: invitation.role.to_string(),
        email: invitation.email,
        etag: crate::model::etag::of(invitation.revision),
        create_time: Some(timestamp(invitation.create_time)),
        update_time: Some(timestamp(invitation.update_time)),
        status: v1::MemberStatus::Invited.into(),
        invitation_id: invitation.invitation_id.to_string(),
        ..v1::Member::default()
    }
}

/// A state for the wire.
#[must_use]
pub const fn status(status: MemberStatus) -> v1::MemberStatus {
    match status {
        MemberStatus::Active => v1::MemberStatus::Active,
        MemberStatus::Suspended => v1::MemberStatus::Suspended,
    }
}

/// The user and the role that a request names. Error: `INVALID_FIELD` with every violation.
pub fn user_and_role(user_id: &str, role: &str) -> Result<(UserId, RoleKey), Error> {
    user_and(user_id, |wrong| wrong.take(role.parse()))
}

/// The user and the reason that a request names. Error: `INVALID_FIELD` with every violation.
pub fn user_and_reason(user_id: &str, reason: &str) -> Result<(UserId, String), Error> {
    user_and(user_id, |wrong| wrong.take(text::free("reason", reason, 500)))
}

fn user_and<T>(user_id: &str, read: impl FnOnce(&mut Violations) -> Option<T>) -> Result<(UserId, T), Error> {
    let mut wrong = Violations::default();
    let user_id = take(&mut wrong, "user_id", user_id);
    let other = read(&mut wrong);
    wrong.finish()?;
    user_id.zip(other).ok_or_else(|| Error::internal("a request lacks a field without a violation"))
}

fn take(wrong: &mut Violations, field: &str, id: &str) -> Option<UserId> {
    let read = id.parse::<UserId>().ok();
    if read.is_none() {
        wrong.add(field, "must be a UUID");
    }
    read
}

/// What a mask names of a member. Error: `INVALID_FIELD` with every violation.
pub fn changes(message: &v1::Member, fields: &[&str]) -> Result<Changes, Error> {
    let mut wrong = Violations::default();
    let mut changes = Changes::default();
    for field in fields {
        match *field {
            "role" => changes.role = wrong.take(message.role.parse()),
            "extra_permissions" => {
                changes.extra_permissions = wrong.take(role::permissions(field, &message.extra_permissions));
            }
            "denied_permissions" => {
                changes.denied_permissions = wrong.take(role::permissions(field, &message.denied_permissions));
            }
            unknown => return Err(Error::internal(format!("{unknown} is no field of a member"))),
        }
    }
    wrong.finish().map_err(|error| error.within("member"))?;
    Ok(changes)
}

/// Who hands over to whom, and what they become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Who becomes an owner.
    pub to: UserId,
    /// Who hands over, where the request names them.
    pub from: Option<UserId>,
    /// What that one becomes.
    pub former_role: RoleKey,
}

/// What a request hands over. Error: `INVALID_FIELD` with every violation.
pub fn transfer(request: &v1::TransferOwnershipRequest) -> Result<Transfer, Error> {
    let mut wrong = Violations::default();
    let to = take(&mut wrong, "user_id", &request.user_id);
    let from = match request.former_owner_id.as_str() {
        "" => None,
        id => take(&mut wrong, "former_owner_id", id),
    };
    let former_role = match request.former_owner_role.as_str() {
        "" => Some(Role::Admin.into()),
        key => match key.parse::<RoleKey>() {
            Ok(role) if !role.is_owner() => Some(role),
            Ok(_) => {
                wrong.add("former_owner_role", "must not be owner");
                None
            }
            Err(violation) => {
                wrong.add("former_owner_role", violation.description);
                None
            }
        },
    };
    wrong.finish()?;
    let (to, former_role) =
        to.zip(former_role).ok_or_else(|| Error::internal("a transfer lacks a field without a violation"))?;
    Ok(Transfer { to, from, former_role })
}

/// Somebody who is to be added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct New {
    /// Who.
    pub user: Named,
    /// In which role.
    pub role: RoleKey,
    /// To which teams.
    pub teams: Vec<TeamNamed>,
}

/// A user, as a row names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// By id.
    Id(UserId),
    /// By address.
    Email(String),
}

/// A team, as a row names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TeamNamed {
    /// By id.
    Id(TeamId),
    /// By what is unique of the names from the root down to it.
    Path(Vec<String>),
}

/// The most teams of one row.
const MOST_TEAMS: usize = 20;

/// Who is to be added. Error: `INVALID_FIELD` with every violation.
pub fn new_member(message: &v1::NewMember) -> Result<New, Error> {
    let mut wrong = Violations::default();
    let user = match (message.user_id.as_str(), message.email.as_str()) {
        (id, "") => take(&mut wrong, "user_id", id).map(Named::Id),
        ("", email) => wrong.take(text::email("email", email)).map(Named::Email),
        _ => {
            wrong.add("email", "must be empty where user_id names the user");
            None
        }
    };
    let role = wrong.take(message.role.parse());
    if message.teams.len() > MOST_TEAMS {
        wrong.add("teams", format!("must be at most {MOST_TEAMS}"));
    }
    let named = |name: &String| -> Result<TeamNamed, Violation> {
        if let Some(id) = parse_uuid(name) {
            return Ok(TeamNamed::Id(id.into()));
        }
        let names = team::names("teams", name)?;
        let key = |name: String| text::display_name("teams", &name).map(|name| team::name_key(&name));
        Ok(TeamNamed::Path(names.into_iter().map(key).collect::<Result<_, _>>()?))
    };
    let teams = message.teams.iter().take(MOST_TEAMS).filter_map(|name| wrong.take(named(name))).collect();
    wrong.finish()?;
    let (user, role) = user.zip(role).ok_or_else(|| Error::internal("a row lacks a field without a violation"))?;
    Ok(New { user, role, teams })
}

/// What became of a row that was not refused; `added` is who became a member by it.
#[must_use]
pub fn new_member_result(
    (organization_id, user_id, role): (OrganizationId, UserId, &RoleKey),
    added: Option<Member>,
    joined: Vec<TeamId>,
) -> v1::NewMemberResult {
    let status = match (&added, joined.as_slice()) {
        (Some(_), _) => v1::NewMemberStatus::Added,
        (None, [_, ..]) => v1::NewMemberStatus::Joined,
        (None, []) => v1::NewMemberStatus::Exists,
    };
    let known = || v1::Member {
        organization_id: organization_id.to_string(),
        user_id: user_id.to_string(),
        role: role.to_string(),
        ..v1::Member::default()
    };
    v1::NewMemberResult {
        status: status.into(),
        member: Some(added.map_or_else(known, to_proto)),
        joined_team_ids: joined.iter().map(ToString::to_string).collect(),
        ..v1::NewMemberResult::default()
    }
}

/// What became of a row that was refused.
#[must_use]
pub fn refused(error: &Error) -> v1::NewMemberResult {
    v1::NewMemberResult {
        status: v1::NewMemberStatus::Refused.into(),
        reason: error.reason(),
        message: told(error),
        ..v1::NewMemberResult::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_named() {
        let user = "0190b0c5-7c2e-7000-8000-000000000001";
        let wrong = |user: &str, role: &str| match user_and_role(user, role) {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            _ => Vec::new(),
        };
        assert_eq!(user_and_role(user, "admin").unwrap(), (user.parse().unwrap(), Role::Admin.into()));
        assert_eq!(wrong("", ""), ["user_id", "role"]);
        assert_eq!(wrong("x", "admin"), ["user_id"]);
        assert_eq!(wrong(user, "Admin"), ["role"]);
    }

    #[test]
    fn new_members() {
        let of = |user_id: &str, email: &str, role: &str, teams: &[&str]| {
            let teams = teams.iter().map(ToString::to_string).collect();
            new_member(&v1::NewMember { user_id: user_id.into(), email: email.into(), role: role.into(), teams })
                .map_err(|error| match error {
                    Error::Invalid(violations) => violations.into_iter().map(|violation| violation.field).collect(),
                    other => vec![other.to_string()],
                })
        };
        let id = "0190b0c5-7c2e-7000-8000-000000000001";
        let new = of(id, "", "admin", &[id, "Ops/ON Call"]).unwrap();
        let path = TeamNamed::Path(vec!["ops".into(), "on call".into()]);
        assert_eq!(new.user, Named::Id(id.parse().unwrap()));
        assert_eq!(new.teams, [TeamNamed::Id(parse_uuid(id).unwrap().into()), path]);
        assert_eq!(of("", "a@b.co", "viewer", &[]).unwrap().user, Named::Email("a@b.co".into()));
        let wrong = |fields: &[&str]| Err(fields.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(of("", "", "", &["a//b"]), wrong(&["user_id", "role", "teams"]));
        assert_eq!(of(id, "a@b.co", "viewer", &["a"; 21]), wrong(&["email", "teams"]));
        assert_eq!(of("", "a@", "viewer", &[]), wrong(&["email"]));
    }

    #[test]
    fn transfers() {
        let user = "0190b0c5-7c2e-7000-8000-000000000001";
        let of = |user_id: &str, from: &str, role: &str| {
            let request = v1::TransferOwnershipRequest {
                user_id: user_id.into(),
                former_owner_id: from.into(),
                former_owner_role: role.into(),
                ..Default::default()
            };
            transfer(&request).map_err(|error| match error {
                Error::Invalid(violations) => violations.into_iter().map(|violation| violation.field).collect(),
                other => vec![other.to_string()],
            })
        };
        let to = user.parse().unwrap();
        assert_eq!(of(user, "", ""), Ok(Transfer { to, from: None, former_role: Role::Admin.into() }));
        let billing = "billing".parse().unwrap();
        assert_eq!(of(user, user, "billing"), Ok(Transfer { to, from: Some(to), former_role: billing }));
        let fields = ["user_id", "former_owner_id", "former_owner_role"].map(str::to_owned);
        assert_eq!(of("", "x", "owner"), Err(fields.to_vec()));
        assert_eq!(of(user, "", "B"), Err(fields[2..].to_vec()));
    }
}
