//! Users: people, whom all organizations of the platform share.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::error::Violation;
use crate::ids::{OrganizationId, UserId};
use crate::model::member::MemberStatus;
use crate::model::role::RoleKey;
use crate::model::text;

/// A person.
#[derive(Clone, Debug, Serialize)]
pub struct User {
    /// Their id.
    pub user_id: UserId,
    /// What can be changed with a mask.
    #[serde(flatten)]
    pub profile: Profile,
    /// Whether anybody can act for them.
    pub status: UserStatus,
    /// Counts the changes.
    pub revision: i64,
    /// When they were created.
    pub create_time: DateTime<Utc>,
    /// The last change.
    pub update_time: DateTime<Utc>,
}

/// The fields of a user that are given at creation and changed with a mask, and that a tenant sees of its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Their address, as they spell it.
    pub email: String,
    /// Their name.
    pub display_name: String,
    /// Empty or an https URI.
    pub avatar_uri: String,
    /// BCP 47.
    pub locale: String,
}

impl Default for Profile {
    fn default() -> Self {
        Self { email: String::new(), display_name: String::new(), avatar_uri: String::new(), locale: "en".into() }
    }
}

/// What only the platform sees and changes of a user.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Private {
    /// Who they are at an identity provider.
    pub identity: Option<Identity>,
    /// A JSON object.
    pub settings: Value,
    /// In which they work where none is named.
    pub default_organization_id: Option<OrganizationId>,
    /// When somebody last acted for them. Not in the audit, which tells of changes.
    #[serde(skip)]
    pub last_activity_time: Option<DateTime<Utc>>,
    /// When they were erased.
    pub erase_time: Option<DateTime<Utc>>,
}

impl Default for Private {
    fn default() -> Self {
        Self {
            identity: None,
            settings: Value::Object(serde_json::Map::new()),
            default_organization_id: None,
            last_activity_time: None,
            erase_time: None,
        }
    }
}

/// A person at an identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The provider.
    pub provider: String,
    /// The provider's name for the person.
    pub subject: String,
}

impl Identity {
    /// Both of 1 to 255 printable characters.
    pub fn new(field: &str, provider: &str, subject: &str) -> Result<Self, Violation> {
        let part = |name: &str, text: &str| {
            let name = format!("{field}.{name}");
            if text.is_empty() {
                return Err(Violation::new(name, "must be 1 to 255 printable characters"));
            }
            text::free(&name, text, 255)
        };
        Ok(Self { provider: part("provider", provider)?, subject: part("subject", subject)? })
    }
}

/// An organization of a user.
#[derive(Clone, Debug)]
pub struct Belonging {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub display_name: String,
    /// Whether it is suspended.
    pub is_suspended: bool,
    /// The user's role in it.
    pub role: RoleKey,
    /// The user's state in it.
    pub member_status: MemberStatus,
    /// When the user joined.
    pub join_time: DateTime<Utc>,
    /// Whether it is the user's default.
    pub is_default: bool,
}

/// What is left of the profile of a user who was erased. The address is unique, as every user's, and of a domain that
/// nobody can have.
#[must_use]
pub fn tombstone(user_id: UserId) -> Profile {
    Profile { email: format!("{user_id}@erased.invalid"), display_name: "Erased user".into(), ..Profile::default() }
}

/// The state of a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum UserStatus {
    /// In use.
    Active,
    /// Nobody can act for them.
    Deactivated,
    /// Nothing is known of them any more.
    Erased,
}

impl UserStatus {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Erased => "erased",
        }
    }
}

/// What makes an address unique: two that differ in case only are one. Addresses are ASCII, so this is what Postgres
/// makes of `users.email_key`, whatever the database's locale.
#[must_use]
pub fn email_key(email: &str) -> String {
    email.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_unique_without_regard_to_case() {
        assert_eq!(email_key("Ida.I@Example.COM"), email_key("ida.i@example.com"));
        assert_ne!(email_key("ida@example.com"), email_key("ida+1@example.com"));
    }
}
