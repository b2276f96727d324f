//! Teams: a tree inside an organization, and who is in its teams.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Violation};
use crate::ids::{OrganizationId, TeamId, UserId};
use crate::model::text::Labels;

/// The most teams of an organization.
pub const MOST_TEAMS: i64 = 10_000;

/// The most levels of a tree. The database has it too.
pub const MOST_LEVELS: usize = 10;

/// A team.
#[derive(Clone, Debug, Serialize)]
pub struct Team {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its id.
    pub team_id: TeamId,
    /// The ids from the root down to the team itself.
    pub path: Vec<TeamId>,
    /// What can be changed with a mask.
    #[serde(flatten)]
    pub profile: Profile,
    /// Counts its changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

impl Team {
    /// The team above.
    #[must_use]
    pub fn parent(&self) -> Option<TeamId> {
        self.path.iter().rev().nth(1).copied()
    }

    /// Fails with `TEAM_CYCLE` when the team cannot be below `parent`, as that is the team itself or below it.
    pub fn require_outside(&self, parent: &Self) -> Result<(), Error> {
        if !parent.path.contains(&self.team_id) {
            return Ok(());
        }
        Err(Error::FailedPrecondition {
            reason: "TEAM_CYCLE",
            subject: format!("teams/{}", self.team_id),
            message: format!("a team cannot be below itself, and {} is", parent.team_id),
        })
    }
}

/// The fields of a team that are given at creation and changed with a mask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Its name, unique among siblings without regard to case.
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// Free labels.
    pub labels: Labels,
}

impl Profile {
    /// What is unique of the name: the same for names that differ in case only. Both ways, as some letters have a case
    /// that others share, such as the two small sigmas.
    #[must_use]
    pub fn name_key(&self) -> String {
        name_key(&self.display_name)
    }
}

/// The same of a name alone.
#[must_use]
pub fn name_key(display_name: &str) -> String {
    display_name.to_uppercase().to_lowercase()
}

/// The names in a path such as `Engineering/Backend Squad`, from the root down. A backslash takes the next character as it is,
/// so that a name may contain a slash.
pub fn names(field: &str, path: &str) -> Result<Vec<String>, Violation> {
    let mut names = vec![String::new()];
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        match (character, names.last_mut()) {
            ('/', _) => names.push(String::new()),
            ('\\', Some(name)) => name.extend(characters.next()),
            (other, Some(name)) => name.push(other),
            (_, None) => {}
        }
    }
    if names.len() > MOST_LEVELS || names.iter().any(String::is_empty) {
        let rule = format!("must be 1 to {MOST_LEVELS} names joined by slashes, such as Engineering/Backend Squad");
        return Err(Violation::new(field, rule));
    }
    Ok(names)
}

/// What somebody is in a team. It gives no permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum TeamRole {
    /// One of the team.
    Member,
    /// Who leads it.
    Lead,
}

impl TeamRole {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Lead => "lead",
        }
    }
}

/// A member of an organization in one of its teams.
#[derive(Clone, Debug, Serialize)]
pub struct TeamMember {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The team.
    pub team_id: TeamId,
    /// The user.
    pub user_id: UserId,
    /// What they are there.
    pub role: TeamRole,
    /// The user's address.
    #[serde(skip)]
    pub email: String,
    /// The user's name.
    #[serde(skip)]
    pub display_name: String,
    /// Counts the changes of the membership.
    pub revision: i64,
    /// When the user joined the team.
    pub create_time: DateTime<Utc>,
    /// The last change of the membership.
    pub update_time: DateTime<Utc>,
}

/// A team that somebody is in.
#[derive(Clone, Debug)]
pub struct UserTeam {
    /// The team.
    pub team: Team,
    /// What they are there.
    pub role: TeamRole,
    /// When they joined it.
    pub join_time: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_any_case() {
        let key = |name: &str| Profile { display_name: name.into(), ..Profile::default() }.name_key();
        for (one, other) in
            [("Backend Squad", "BACKEND squad"), ("ÄRZTE", "ärzte"), ("ΟΔΟΣ", "οδος"), ("Straße", "STRASSE")]
        {
            assert_eq!(key(one), key(other));
        }
        assert_ne!(key("Team 1"), key("Team 2"));
    }

    #[test]
    fn paths_of_names() {
        let of = |path: &str| names("teams", path).unwrap_or_default();
        assert_eq!(of("Ops"), ["Ops"]);
        assert_eq!(of(r"R\/D/CI\\CD / x"), ["R/D", r"CI\CD ", " x"]);
        for bad in ["", "/", "a/", "/a", "a//b", "\\", &["a"; 11].join("/")] {
            assert!(of(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_below_itself() {
        let now = DateTime::from_timestamp_nanos(0);
        let ids = [0, 1, 2].map(|number| TeamId::from(uuid::Uuid::from_u128(number)));
        let team = |path: &[usize]| {
            let path: Vec<TeamId> = path.iter().map(|at| ids[*at]).collect();
            Team {
                organization_id: uuid::Uuid::nil().into(),
                team_id: path[path.len() - 1],
                path,
                profile: Profile::default(),
                revision: 1,
                create_time: now,
                update_time: now,
            }
        };
        let (root, child, other) = (team(&[0]), team(&[0, 1]), team(&[2]));
        assert_eq!((root.parent(), child.parent()), (None, Some(ids[0])));
        assert!(root.require_outside(&other).is_ok() && child.require_outside(&root).is_ok());
        for parent in [&root, &child] {
            assert_eq!(root.require_outside(parent).unwrap_err().reason(), "TEAM_CYCLE");
        }
    }
}
