//! Invitations between protobuf and the model.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::error::{Error, Violation, Violations};
use crate::ids::{OrganizationId, TeamId, UserId, parse_uuid};
use crate::model::invitation::{self as rules, Invitation, InvitationStatus, InvitedTeam, MOST_TEAMS, NewInvitation};
use crate::model::organization::Organization;
use crate::model::team::TeamRole;
use crate::model::user::{Private, Profile};
use crate::model::{etag, text};
use crate::proto::v1;
use crate::service::convert::audit_event::actor_type;
use crate::service::convert::quota::reply::duration;
use crate::service::convert::told;
use crate::service::convert::{team, timestamp, user};

/// For the wire; `now` decides whether it has expired.
#[must_use]
pub fn to_proto(invitation: Invitation, now: DateTime<Utc>) -> v1::Invitation {
    let team = |team: InvitedTeam| v1::InvitationTeam {
        team_id: team.team_id.to_string(),
        role: team::role(team.role).into(),
        display_name: team.display_name,
    };
    let id = |user: Option<UserId>| user.map(|id| id.to_string()).unwrap_or_default();
    v1::Invitation {
        organization_id: invitation.organization_id.to_string(),
        invitation_id: invitation.invitation_id.to_string(),
        status: status(invitation.status_at(now)).into(),
        email: invitation.email,
        role: invitation.role.to_string(),
        teams: invitation.teams.into_iter().map(team).collect(),
        expire_time: Some(timestamp(invitation.expire_time)),
        inviter: Some(v1::AuditActor {
            r#type: actor_type(invitation.inviter.actor_type).into(),
            id: invitation.inviter.actor_id,
        }),
        inviter_user_id: id(invitation.inviter.acting_user_id),
        accept_user_id: id(invitation.accept_user_id),
        etag: etag::of(invitation.revision),
        create_time: Some(timestamp(invitation.create_time)),
        update_time: Some(timestamp(invitation.update_time)),
    }
}

const fn status(status: InvitationStatus) -> v1::InvitationStatus {
    match status {
        InvitationStatus::Pending => v1::InvitationStatus::Pending,
        InvitationStatus::Accepted => v1::InvitationStatus::Accepted,
        InvitationStatus::Declined => v1::InvitationStatus::Declined,
        InvitationStatus::Revoked => v1::InvitationStatus::Revoked,
        InvitationStatus::Replaced => v1::InvitationStatus::Replaced,
        InvitationStatus::Expired => v1::InvitationStatus::Expired,
    }
}

/// A state as filters name it.
#[must_use]
pub fn read_status(text: &str) -> Option<InvitationStatus> {
    Some(match text {
        "PENDING" => InvitationStatus::Pending,
        "ACCEPTED" => InvitationStatus::Accepted,
        "DECLINED" => InvitationStatus::Declined,
        "REVOKED" => InvitationStatus::Revoked,
        "REPLACED" => InvitationStatus::Replaced,
        "EXPIRED" => InvitationStatus::Expired,
        _ => return None,
    })
}

/// What the mail of an invitation takes; `token` is empty for who looks at it by its token.
#[must_use]
pub fn delivery(
    organization: &Organization,
    inviter_display_name: &str,
    invitation: &Invitation,
    token: &str,
) -> v1::InvitationDelivery {
    let profile = &organization.profile;
    v1::InvitationDelivery {
        email: invitation.email.clone(),
        token: token.to_owned(),
        organization_id: organization.organization_id.to_string(),
        organization_slug: profile.slug.clone(),
        organization_display_name: profile.display_name.clone(),
        organization_logo_uri: profile.logo_uri.clone(),
        locale: profile.locale.clone(),
        inviter_display_name: inviter_display_name.to_owned(),
        role: invitation.role.to_string(),
        team_display_names: invitation.teams.iter().map(|team| team.display_name.clone()).collect(),
        expire_time: Some(timestamp(invitation.expire_time)),
    }
}

/// What became of one of a batch that was refused.
#[must_use]
pub fn refused(error: &Error) -> v1::InvitationResult {
    let retry_after = match error {
        Error::Overloaded { retry_after, .. } => Some(duration(*retry_after)),
        _ => None,
    };
    v1::InvitationResult { reason: error.reason(), message: told(error), retry_after, ..Default::default() }
}

/// An invitation to be made. Error: `INVALID_FIELD` with every violation.
pub fn new_invitation(message: v1::NewInvitation) -> Result<NewInvitation, Error> {
    let mut wrong = Violations::default();
    let email = wrong.take(text::email("email", &message.email));
    let role = wrong.take(message.role.parse());
    let teams = teams(&mut wrong, &message.teams);
    let ttl = wrong.take(ttl("ttl", message.ttl));
    wrong.finish()?;
    let complete = || Some(NewInvitation { email: email?, role: role?, teams, ttl: ttl? });
    complete().ok_or_else(|| Error::internal("an invitation lacks a field without a violation"))
}

fn teams(wrong: &mut Violations, messages: &[v1::InvitationTeam]) -> Vec<(TeamId, TeamRole)> {
    if messages.len() > MOST_TEAMS {
        wrong.add("teams", format!("must be at most {MOST_TEAMS} teams"));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut teams = Vec::new();
    for (position, message) in messages.iter().enumerate() {
        let field = |name: &str| format!("teams[{position}].{name}");
        let role = match v1::TeamRole::try_from(message.role) {
            Ok(v1::TeamRole::Unspecified) => Some(TeamRole::Member),
            _ => wrong.take(team::read_role(&field("role"), message.role)),
        };
        match parse_uuid(&message.team_id).map(TeamId::from) {
            None => wrong.add(field("team_id"), "must be a UUID"),
            Some(id) if !seen.insert(id) => wrong.add(field("team_id"), "is named before"),
            Some(id) => teams.extend(role.map(|role| (id, role))),
        }
    }
    teams
}

/// How long an invitation can be accepted, in whole microseconds; absent means the default.
pub fn ttl(field: &str, ttl: Option<prost_types::Duration>) -> Result<TimeDelta, Violation> {
    let Some(prost_types::Duration { seconds, nanos }) = ttl else { return Ok(rules::DEFAULT_TTL) };
    let read = u32::try_from(nanos).ok().and_then(|nanos| TimeDelta::new(seconds, nanos / 1000 * 1000));
    rules::ttl(field, read.unwrap_or(TimeDelta::MAX))
}

/// Who accepts.
#[derive(Clone, PartialEq, Debug)]
pub enum Accepting {
    /// A user who is there.
    Known(UserId),
    /// One who is to be created.
    New(Box<(Profile, Private)>),
}

/// Who accepts an invitation of the organization. Error: `INVALID_FIELD` with every violation.
pub fn accepting(
    user_id: &str,
    message: Option<v1::User>,
    organization_id: OrganizationId,
) -> Result<Accepting, Error> {
    match (user_id, message) {
        ("", Some(message)) => {
            let (profile, private) = user::new_user(message)?;
            if private.default_organization_id.is_some_and(|id| id != organization_id) {
                let rule = "must be empty or the organization of the invitation";
                return Err(Violation::new("user.default_organization_id", rule).into());
            }
            let private = Private { default_organization_id: Some(organization_id), ..private };
            Ok(Accepting::New(Box::new((profile, private))))
        }
        ("", None) => Err(Violation::new("user_id", "must be set, unless there is a user to create").into()),
        (user_id, None) => Ok(Accepting::Known(user_id.parse()?)),
        (_, Some(_)) => Err(Violation::new("user_id", "must be empty where there is a user to create").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(error: Error) -> Vec<String> {
        match error {
            Error::Invalid(violations) => violations.into_iter().map(|violation| violation.field).collect(),
            other => vec![other.to_string()],
        }
    }

    #[test]
    fn every_violation_is_named() {
        let team = "0190b0c5-7c2e-7000-8000-000000000001";
        let of = |team_id: &str, role: i32| v1::InvitationTeam { team_id: team_id.into(), role, ..Default::default() };
        let wrong = v1::NewInvitation {
            email: "nobody".into(),
            role: "Root".into(),
            teams: vec![of(team, 0), of(team, 0), of("x", 9)],
            ttl: Some(prost_types::Duration { seconds: 86_399, nanos: 0 }),
        };
        let expected = ["email", "role", "teams[1].team_id", "teams[2].role", "teams[2].team_id", "ttl"];
        assert_eq!(fields(new_invitation(wrong).unwrap_err()), expected);
        let many = v1::NewInvitation {
            email: "ida@example.com".into(),
            role: "viewer".into(),
            teams: vec![of(team, 0); 51],
            ttl: None,
        };
        assert_eq!(fields(new_invitation(many.clone()).unwrap_err()), ["teams"]);
        let good = new_invitation(v1::NewInvitation { teams: vec![of(team, 2)], ..many }).unwrap();
        assert_eq!(good.teams, [(TeamId::from(parse_uuid(team).unwrap()), TeamRole::Lead)]);
        assert_eq!(good.ttl, rules::DEFAULT_TTL);
    }

    #[test]
    fn somebody_accepts_and_only_one() {
        let (here, there) = (uuid::Uuid::from_u128(1).into(), uuid::Uuid::from_u128(2));
        let id = "0190b0c5-7c2e-7000-8000-000000000001";
        let user = v1::User { email: "ida@example.com".into(), display_name: "Ida".into(), ..v1::User::default() };
        assert_eq!(accepting(id, None, here).unwrap(), Accepting::Known(id.parse().unwrap()));
        let Accepting::New(new) = accepting("", Some(user.clone()), here).unwrap() else { panic!("known") };
        assert_eq!(new.1.default_organization_id, Some(here));
        assert_eq!(fields(accepting("", None, here).unwrap_err()), ["user_id"]);
        assert_eq!(fields(accepting("x", None, here).unwrap_err()), ["user_id"]);
        assert_eq!(fields(accepting(id, Some(user.clone()), here).unwrap_err()), ["user_id"]);
        let elsewhere = v1::User { default_organization_id: there.to_string(), ..user };
        assert_eq!(fields(accepting("", Some(elsewhere), here).unwrap_err()), ["user.default_organization_id"]);
        let wrong = accepting("", Some(v1::User::default()), here).unwrap_err();
        assert_eq!(fields(wrong), ["user.email", "user.display_name"]);
    }
}
