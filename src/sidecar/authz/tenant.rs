//! Whom a request belongs to. The one place that knows what sorts of credentials tenants have: keys and tokens.

use std::sync::Arc;

use crate::auth::authenticator::bearer::Bearer;
use crate::auth::authenticator::{KeyFacts, KnownKey};
use crate::auth::permission::{Permission, Permissions};
use crate::auth::principal::Principal;
use crate::ids::{ApiKeyId, OrganizationId, UserId};
use crate::model::organization::Organization;
use crate::model::role::RoleKey;
use crate::quota::decision::Subjects;

/// A tenant's credential that was found good.
#[derive(Debug)]
pub struct Tenant {
    /// The organization.
    pub organization: Arc<Organization>,
    /// The key, also where it was exchanged for a token.
    pub api_key: Option<ApiKeyId>,
    /// The user; a key stands for none.
    pub user: Option<UserId>,
    /// The user's role.
    pub role: Option<RoleKey>,
    /// Whom it stands for.
    pub principal: Arc<Principal>,
    /// Whether it is a token.
    pub is_token: bool,
    key: Option<KnownKey>,
}

impl Tenant {
    /// Of a key; `None` for a key of the platform, which is no tenant's.
    #[must_use]
    pub fn of_key(known: KnownKey) -> Option<Self> {
        let organization = Arc::clone(known.organization.as_ref()?);
        let facts = known.facts();
        let Principal::ApiKey { api_key_id, .. } = *facts.principal else { return None };
        Some(Self {
            organization,
            api_key: Some(api_key_id),
            user: None,
            role: None,
            principal: Arc::clone(&facts.principal),
            is_token: false,
            key: Some(known),
        })
    }

    /// Of a token.
    #[must_use]
    pub fn of_token(bearer: Bearer) -> Self {
        let Bearer { principal, organization, role, key } = bearer;
        let (api_key, user) = match *principal {
            Principal::ApiKey { api_key_id, .. } => (Some(api_key_id), None),
            Principal::User { user_id, .. } => (None, Some(user_id)),
            Principal::Service { .. } | Principal::Operator { .. } | Principal::Workload { .. } => (None, None),
        };
        Self { organization, api_key, user, role, is_token: true, principal, key }
    }

    /// The id of the organization.
    #[must_use]
    pub fn organization_id(&self) -> OrganizationId {
        self.organization.organization_id
    }

    /// What the key is bound to; a user is bound to nothing.
    #[must_use]
    pub fn facts(&self) -> Option<&KeyFacts> {
        self.key.as_ref().map(KnownKey::facts)
    }

    /// What it allows.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        self.principal.permissions()
    }

    /// What the application is told that it allows: of a key, as it was written.
    #[must_use]
    pub fn scopes(&self) -> String {
        match self.facts() {
            Some(facts) if !self.is_token => facts.scopes.join(" "),
            _ => self.permissions().iter().map(Permission::as_str).collect::<Vec<_>>().join(" "),
        }
    }

    /// Whose limits apply, beside the organization's.
    #[must_use]
    pub fn subjects(&self) -> Subjects {
        Subjects { team: None, user: self.user.map(UserId::uuid), api_key: self.api_key.map(ApiKeyId::uuid) }
    }
}
