//! Teams between protobuf and the model.

use crate::error::{Error, Violation, Violations};
use crate::ids::{TeamId, UserId, parse_uuid};
use crate::model::team::{Profile, Team, TeamMember, TeamRole, UserTeam};
use crate::model::{etag, text};
use crate::proto::v1;
use crate::service::convert::timestamp;

/// The fields of a team that an update mask can name.
pub const FIELDS: &[&str] = &["display_name", "description", "labels"];

/// The same of a member of a team.
pub const MEMBER_FIELDS: &[&str] = &["role"];

/// For the wire.
#[must_use]
pub fn to_proto(team: Team) -> v1::Team {
    v1::Team {
        organization_id: team.organization_id.to_string(),
        team_id: team.team_id.to_string(),
        parent_team_id: team.parent().map(|id| id.to_string()).unwrap_or_default(),
        display_name: team.profile.display_name,
        description: team.profile.description,
        labels: team.profile.labels,
        depth: i32::try_from(team.path.len()).unwrap_or(i32::MAX),
        path: team.path.iter().map(ToString::to_string).collect(),
        etag: etag::of(team.revision),
        create_time: Some(timestamp(team.create_time)),
        update_time: Some(timestamp(team.update_time)),
    }
}

/// A member for the wire.
#[must_use]
pub fn member_to_proto(member: TeamMember) -> v1::TeamMember {
    v1::TeamMember {
        organization_id: member.organization_id.to_string(),
        team_id: member.team_id.to_string(),
        user_id: member.user_id.to_string(),
        role: role(member.role).into(),
        email: member.email,
        display_name: member.display_name,
        etag: etag::of(member.revision),
        create_time: Some(timestamp(member.create_time)),
        update_time: Some(timestamp(member.update_time)),
    }
}

/// A team of a user for the wire.
#[must_use]
pub fn user_team(found: UserTeam) -> v1::UserTeam {
    v1::UserTeam {
        team: Some(to_proto(found.team)),
        role: role(found.role).into(),
        join_time: Some(timestamp(found.join_time)),
    }
}

/// A role for the wire.
#[must_use]
pub const fn role(role: TeamRole) -> v1::TeamRole {
    match role {
        TeamRole::Member => v1::TeamRole::Member,
        TeamRole::Lead => v1::TeamRole::Lead,
    }
}

/// A role from the wire.
pub fn read_role(field: &str, role: i32) -> Result<TeamRole, Violation> {
    match v1::TeamRole::try_from(role) {
        Ok(v1::TeamRole::Member) => Ok(TeamRole::Member),
        Ok(v1::TeamRole::Lead) => Ok(TeamRole::Lead),
        Ok(v1::TeamRole::Unspecified) | Err(_) => Err(Violation::new(field, "must be MEMBER or LEAD")),
    }
}

/// Whether all below the team is deleted with it.
pub fn read_cascade(mode: i32) -> Result<bool, Violation> {
    match v1::DeleteTeamMode::try_from(mode) {
        Ok(v1::DeleteTeamMode::Unspecified | v1::DeleteTeamMode::Refuse) => Ok(false),
        Ok(v1::DeleteTeamMode::Cascade) => Ok(true),
        Err(_) => Err(Violation::new("mode", "must be REFUSE or CASCADE")),
    }
}

/// The id of a team in any field; `None` for an empty one.
pub fn optional_team(field: &str, text: &str) -> Result<Option<TeamId>, Violation> {
    if text.is_empty() {
        return Ok(None);
    }
    parse_uuid(text).map(|id| Some(id.into())).ok_or_else(|| Violation::new(field, "must be a UUID or empty"))
}

/// The parent and the profile of a new team. Error: `INVALID_FIELD` with every violation.
pub fn new_team(message: v1::Team) -> Result<(Option<TeamId>, Profile), Error> {
    let mut wrong = Violations::default();
    let parent = wrong.take(optional_team("parent_team_id", &message.parent_team_id));
    let profile = profile(&mut wrong, Profile::default(), message, FIELDS)?;
    wrong.finish().map_err(|error| error.within("team"))?;
    Ok((parent.flatten(), profile))
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(current: Profile, message: v1::Team, fields: &[&str]) -> Result<Profile, Error> {
    let mut wrong = Violations::default();
    let profile = profile(&mut wrong, current, message, fields)?;
    wrong.finish().map_err(|error| error.within("team"))?;
    Ok(profile)
}

fn profile(wrong: &mut Violations, current: Profile, message: v1::Team, fields: &[&str]) -> Result<Profile, Error> {
    let mut profile = current;
    for field in fields {
        match *field {
            "display_name" => {
                let checked = wrong.take(text::display_name(field, &message.display_name));
                profile.display_name = checked.unwrap_or_default();
            }
            "description" => {
                profile.description = wrong.take(text::free(field, &message.description, 1000)).unwrap_or_default();
            }
            "labels" => {
                profile.labels = wrong.take(text::labels(field, message.labels.iter())).unwrap_or_default();
            }
            unknown => return Err(Error::internal(format!("{unknown} is no field of a team"))),
        }
    }
    Ok(profile)
}

/// The team, the user and what else a request has. Error: `INVALID_FIELD` with every violation.
pub fn membership<T>(team_id: &str, user_id: &str, other: Result<T, Violation>) -> Result<(TeamId, UserId, T), Error> {
    let mut wrong = Violations::default();
    let id = |field: &str, text: &str| parse_uuid(text).ok_or_else(|| Violation::new(field, "must be a UUID"));
    let team_id = wrong.take(id(TeamId::FIELD, team_id));
    let user_id = wrong.take(id(UserId::FIELD, user_id));
    let other = wrong.take(other);
    wrong.finish()?;
    let all = team_id.zip(user_id).zip(other);
    let ((team_id, user_id), other) = all.ok_or_else(|| Error::internal("a field is missing without a violation"))?;
    Ok((team_id.into(), user_id.into(), other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong<T>(outcome: Result<T, Error>) -> Vec<String> {
        match outcome {
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_violation_is_named() {
        let message = v1::Team {
            parent_team_id: "x".into(),
            description: "a\0b".into(),
            labels: [("Key".to_owned(), String::new())].into(),
            ..v1::Team::default()
        };
        let all = ["team.parent_team_id", "team.display_name", "team.description", "team.labels"];
        assert_eq!(wrong(new_team(message.clone())), all);
        assert_eq!(wrong(changed_profile(Profile::default(), message.clone(), &["labels"])), ["team.labels"]);
        let role = || read_role("role", 0);
        assert_eq!(wrong(membership("", "x", role())), ["team_id", "user_id", "role"]);
    }

    #[test]
    fn only_the_named_fields_change() {
        let current = Profile { display_name: "Ops".into(), description: "old".into(), ..Profile::default() };
        let message = v1::Team { description: "new".into(), ..v1::Team::default() };
        let changed = changed_profile(current.clone(), message, &["description"]).unwrap();
        assert_eq!(changed, Profile { description: "new".into(), ..current });
    }

    #[test]
    fn enumerations() {
        for known in [TeamRole::Member, TeamRole::Lead] {
            assert_eq!(read_role("role", role(known).into()), Ok(known));
        }
        assert!([0, 3, -1].into_iter().all(|number| read_role("role", number).is_err()));
        assert_eq!([0, 1, 2].map(|mode| read_cascade(mode).unwrap()), [false, false, true]);
        assert!([3, -1].into_iter().all(|number| read_cascade(number).is_err()));
    }
}
