//! Whom a request belongs to. The one place that knows what sorts of credentials tenants have: keys so far.

use std::sync::Arc;

use crate::auth::authenticator::{KeyFacts, KnownKey};
use crate::auth::permission::Permissions;
use crate::auth::principal::Principal;
use crate::ids::{ApiKeyId, OrganizationId, UserId};
use crate::model::member::Role;
use crate::model::organization::Organization;
use crate::quota::decision::Subjects;

/// A tenant's credential that was found good.
#[derive(Debug)]
pub struct Tenant {
    /// The organization.
    pub organization: Arc<Organization>,
    /// The key.
    pub api_key: Option<ApiKeyId>,
    /// The user; a key stands for none.
    pub user: Option<UserId>,
    /// The user's role.
    pub role: Option<Role>,
    known: KnownKey,
}

impl Tenant {
    /// Of a key; `None` for a key of the platform, which is no tenant's.
    #[must_use]
    pub fn of(known: KnownKey) -> Option<Self> {
        let organization = Arc::clone(known.organization.as_ref()?);
        match *known.facts().principal {
            Principal::ApiKey { api_key_id, .. } => {
                Some(Self { organization, api_key: Some(api_key_id), user: None, role: None, known })
            }
            Principal::Service { .. } | Principal::Operator { .. } | Principal::Workload { .. } => None,
        }
    }

    /// The id of the organization.
    #[must_use]
    pub fn organization_id(&self) -> OrganizationId {
        self.organization.organization_id
    }

    /// What the credential is bound to.
    #[must_use]
    pub fn facts(&self) -> &KeyFacts {
        self.known.facts()
    }

    /// What it allows.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        self.facts().principal.permissions()
    }

    /// The same as the application is told: as it was written.
    #[must_use]
    pub fn scopes(&self) -> String {
        self.facts().scopes.join(" ")
    }

    /// Whose limits apply, beside the organization's.
    #[must_use]
    pub fn subjects(&self) -> Subjects {
        Subjects { team: None, user: self.user.map(UserId::uuid), api_key: self.api_key.map(ApiKeyId::uuid) }
    }
}
