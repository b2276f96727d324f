//! Members, and the roles that every organization has.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::auth::permission::Permissions;
use crate::error::{Error, Violation};
use crate::ids::{OrganizationId, UserId};
use crate::model::role::{self, RoleKey};
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

    /// All of them, the mightiest first.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Admin, Self::Member, Self::Viewer];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Violation::new("role", "must be owner, admin, member or viewer"))
    }
}

/// The state of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum MemberStatus {
    /// Belongs to the organization.
    Active,
    /// Belongs to it, and nobody can act for them there.
    Suspended,
}

impl MemberStatus {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// What is changed of what a member may do; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The role.
    pub role: Option<RoleKey>,
    /// What is beside it.
    pub extra_permissions: Option<Vec<String>>,
    /// What is taken from both.
    pub denied_permissions: Option<Vec<String>>,
}

impl Changes {
    /// The member changed. Error: `OWNER_HAS_ALL`.
    pub fn of(self, before: &Member) -> Result<Member, Error> {
        let Self { role, extra_permissions, denied_permissions } = self;
        let mut after = before.with_role(role.unwrap_or_else(|| before.role.clone()));
        if let Some(extra_permissions) = extra_permissions {
            after.extra_permissions = extra_permissions;
        }
        if let Some(denied_permissions) = denied_permissions {
            after.denied_permissions = denied_permissions;
        }
        if after.role.is_owner() && !(after.extra_permissions.is_empty() && after.denied_permissions.is_empty()) {
            return Err(Error::FailedPrecondition {
                reason: "OWNER_HAS_ALL",
                subject: format!("members/{}", before.user_id),
                message: "an owner has every permission: none can be given to them or denied".into(),
            });
        }
        Ok(after)
    }
}

/// A user in an organization.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The user.
    pub user_id: UserId,
    /// What the user is there.
    pub role: RoleKey,
    /// What the user may do beside what the role has.
    pub extra_permissions: Vec<String>,
    /// What the user may not do, whatever else says so.
    pub denied_permissions: Vec<String>,
    /// Whether anybody can act for the user there.
    pub status: MemberStatus,
    /// Since when nobody can.
    pub suspend_time: Option<DateTime<Utc>>,
    /// Why not.
    pub suspend_reason: String,
    /// The user's address.
    #[serde(skip)]
    pub email: String,
    /// The user's name.
    #[serde(skip)]
    pub display_name: String,
    /// Whether anybody can act for the user anywhere.
    #[serde(skip)]
    pub user_status: UserStatus,
    /// When somebody last did there. Not in the audit, which tells of changes.
    #[serde(skip)]
    pub last_activity_time: Option<DateTime<Utc>>,
    /// Counts the changes of the membership.
    pub revision: i64,
    /// When the user joined.
    pub create_time: DateTime<Utc>,
    /// The last change of the membership.
    pub update_time: DateTime<Utc>,
}

impl Member {
    /// Whether somebody can act for them: a member who is suspended, or whose user is deactivated or erased, is an owner
    /// in name only.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.status == MemberStatus::Active && self.user_status == UserStatus::Active
    }

    /// What they may do while they are active; `of_role` is what their role has.
    #[must_use]
    pub fn held(&self, of_role: Permissions) -> Permissions {
        role::held(&self.role, of_role, &self.extra_permissions, &self.denied_permissions)
    }

    /// Whether the other was given something else: another role, other permissions beside it, other denials.
    #[must_use]
    pub fn is_given_other_than(&self, other: &Self) -> bool {
        self.role != other.role
            || self.extra_permissions != other.extra_permissions
            || self.denied_permissions != other.denied_permissions
    }

    /// The same member in another role. An owner has everything, so what was beside the role goes.
    #[must_use]
    pub fn with_role(&self, role: RoleKey) -> Self {
        let mut changed = Self { role, ..self.clone() };
        if changed.role.is_owner() {
            changed.extra_permissions.clear();
            changed.denied_permissions.clear();
        }
        changed
    }

    /// The same member suspended, or active again.
    #[must_use]
    pub fn with_suspension(&self, suspension: Option<(DateTime<Utc>, String)>) -> Self {
        let status = if suspension.is_some() { MemberStatus::Suspended } else { MemberStatus::Active };
        let (suspend_time, suspend_reason) = suspension.map(|(time, reason)| (Some(time), reason)).unwrap_or_default();
        Self { status, suspend_time, suspend_reason, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
        }
        for bad in ["", "Owner", "root"] {
            assert_eq!(bad.parse::<Role>().unwrap_err().field, "role");
        }
    }
}
