//! Users: people, whom all organizations of the platform share.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::ids::UserId;

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

/// The fields of a user that are given at creation and changed with a mask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Their address, as they spell it.
    pub email: String,
    /// Their name.
    pub display_name: String,
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
}

impl UserStatus {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deactivated => "deactivated",
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
