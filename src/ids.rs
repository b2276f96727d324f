//! Identifiers as types, so that one cannot be taken for another.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Violation};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The field of the API that carries it.
            pub const FIELD: &str = $field;

            /// A new UUIDv7 made at `now`.
            #[must_use]
            pub fn new(now: DateTime<Utc>) -> Self {
                Self(v7(now))
            }

            /// The UUID itself.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        /// Accepts the 36-character form only. Error: `INVALID_FIELD` naming the field.
        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                parse_uuid(text).map(Self).ok_or_else(|| Violation::new($field, "must be a UUID").into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An organization, the tenant.
    OrganizationId,
    "organization_id"
);
id!(
    /// A person.
    UserId,
    "user_id"
);
id!(
    /// A key of a tenant.
    ApiKeyId,
    "api_key_id"
);
id!(
    /// A key of the platform: a service's or an operator's.
    PlatformKeyId,
    "platform_key_id"
);
id!(
    /// A meter.
    MeterId,
    "meter_id"
);
id!(
    /// A team of an organization.
    TeamId,
    "team_id"
);
id!(
    /// An invitation.
    InvitationId,
    "invitation_id"
);
id!(
    /// A limit, of a plan or of an organization.
    LimitId,
    "limit_id"
);
id!(
    /// A key that tokens are signed with; the `kid` of its tokens.
    TokenKeyId,
    "kid"
);
id!(
    /// A token.
    TokenId,
    "jti"
);
id!(
    /// A record of the audit.
    AuditEventId,
    "audit_event_id"
);

/// A UUIDv7 of the given time, with 74 bits from the operating system's generator.
#[must_use]
pub fn v7(now: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    // A context-free timestamp: ids of one millisecond are in no order, and need none.
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, now.timestamp_subsec_nanos()))
}

/// A new UUIDv7 for what is gone with its request. Not from the operating system's generator: measured, that system call
/// was a twentieth of what a decision costs.
#[must_use]
pub fn fleeting(now: DateTime<Utc>) -> Uuid {
    let milliseconds = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    #[expect(clippy::disallowed_methods, reason = "names a request, and keeps no secret")]
    let random = rand::rng().random();
    uuid::Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid()
}

/// Reads the hyphenated form of a UUID, and no other that the uuid crate knows (braced, simple, URN): one resource has
/// one name.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = UserId::new(DateTime::from_timestamp_nanos(1_700_000_000_123_000_000));
        assert_eq!(id.to_string().parse::<UserId>().unwrap(), id);
        assert_eq!(id.uuid().get_version_num(), 7);
        for bad in ["", "x", &id.uuid().simple().to_string(), &id.uuid().urn().to_string(), &format!("{id} ")] {
            assert!(bad.parse::<UserId>().is_err(), "{bad}");
        }
    }
}
