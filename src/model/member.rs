//! Members and their roles.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Violation};
use crate::ids::{OrganizationId, UserId};
use crate::model::user::UserStatus;

/// A built-in role; a greater one holds all that a lesser one holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Works.
    Member,
    /// Manages.
    Admin,
    /// Owns; an organization with an owner always keeps one.
    Owner,
}

impl Role {
    /// As in the API and the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Fails with `OWNER_REQUIRED` when giving or taking this role is for owners only, and the caller is none.
    ///
    /// There is no such rule below: whoever may change members is an admin at least, and may make others what they are.
    pub fn require_owner(self, caller_is_owner: bool) -> Result<(), Error> {
        if self != Self::Owner || caller_is_owner {
            return Ok(());
        }
        Err(Error::PermissionDenied {
            reason: "OWNER_REQUIRED",
            message: "only an owner or a platform key makes, changes or removes an owner".into(),
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        [Self::Viewer, Self::Member, Self::Admin, Self::Owner]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Violation::new("role", "must be owner, admin, member or viewer"))
    }
}

/// A user in an organization.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The user.
    pub user_id: UserId,
    /// What the user may do there.
    pub role: Role,
    /// The user's address.
    #[serde(skip)]
    pub email: String,
    /// The user's name.
    #[serde(skip)]
    pub display_name: String,
    /// Whether anybody can act for the user.
    #[serde(skip)]
    pub user_status: UserStatus,
    /// Counts the changes of the membership.
    pub revision: i64,
    /// When the user joined.
    pub create_time: DateTime<Utc>,
    /// The last change of the membership.
    pub update_time: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 4] = [Role::Viewer, Role::Member, Role::Admin, Role::Owner];

    #[test]
    fn roles_are_read_as_they_are_written() {
        for role in ROLES {
            assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
        }
        for bad in ["", "Owner", "root"] {
            assert_eq!(bad.parse::<Role>().unwrap_err().field, "role");
        }
    }

    #[test]
    fn owners_are_for_owners() {
        for role in ROLES {
            assert!(role.require_owner(true).is_ok());
            assert_eq!(role.require_owner(false).is_err(), role == Role::Owner);
        }
        assert_eq!(Role::Owner.require_owner(false).unwrap_err().reason(), "OWNER_REQUIRED");
    }
}
