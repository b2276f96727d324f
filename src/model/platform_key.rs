//! Keys of the platform: of its operators, and of its backends and sidecars.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::auth::keys::key::{LookupId, Redacted};
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::permission::Permission;
use crate::ids::{OrganizationId, PlatformKeyId};
use crate::model::api_key::as_text;

/// A key of the platform. Its secret is not here, nor its hash.
#[derive(Clone, Debug, Serialize)]
pub struct PlatformKey {
    /// Its id.
    pub platform_key_id: PlatformKeyId,
    /// A service's or an operator's.
    #[serde(serialize_with = "as_text")]
    pub kind: ApiKeyKind,
    /// The part of the key that finds it.
    #[serde(serialize_with = "as_text")]
    pub lookup_id: LookupId,
    /// The name for people.
    pub display_name: String,
    /// A service's permissions as they were written; none for an operator, who may do everything.
    pub scopes: Vec<String>,
    /// The organizations that a service may name; `None` means all.
    pub organization_ids: Option<Vec<OrganizationId>>,
    /// When it stops working.
    pub expire_time: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoke_time: Option<DateTime<Utc>>,
    /// The last successful use. Not in the audit, which tells of changes.
    #[serde(skip)]
    pub last_used_time: Option<DateTime<Utc>>,
    /// When it was created.
    pub create_time: DateTime<Utc>,
}

/// What a new key may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grant {
    /// Everything.
    Operator,
    /// What is listed.
    Service {
        /// The permissions, any of the vocabulary.
        scopes: Vec<Permission>,
        /// The organizations it may name; `None` means all.
        organization_ids: Option<Vec<OrganizationId>>,
    },
}

impl Grant {
    /// The kind of key that carries it.
    #[must_use]
    pub const fn kind(&self) -> ApiKeyKind {
        match self {
            Self::Operator => ApiKeyKind::Operator,
            Self::Service { .. } => ApiKeyKind::Service,
        }
    }
}

impl PlatformKey {
    /// Its state at `now`, for people.
    #[must_use]
    pub fn state(&self, now: DateTime<Utc>) -> &'static str {
        if self.revoke_time.is_some() {
            "revoked"
        } else if self.expire_time.is_some_and(|expire_time| expire_time <= now) {
            "expired"
        } else {
            "active"
        }
    }

    /// As people may see it.
    #[must_use]
    pub const fn redacted(&self) -> Redacted {
        Redacted::new(self.kind, self.lookup_id)
    }
}
