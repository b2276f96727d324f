//! What was said of credentials before, so that it need not be put together for every request.

use std::sync::Arc;

use http::HeaderName;
use quick_cache::sync::Cache;

use crate::auth::principal::Principal;
use crate::ids::ApiKeyId;
use crate::model::organization::Organization;
use crate::sidecar::authz::reply::Identity;
use crate::sidecar::authz::tenant::Tenant;

/// How many keys are remembered; some 2 KB each.
const KEYS: usize = 20_000;

/// Identities by key, and that of nobody.
#[derive(Debug)]
pub struct Identities {
    credentials: Arc<[HeaderName]>,
    anonymous: Identity,
    of_keys: Cache<ApiKeyId, Arc<Known>>,
}

/// An identity, and what it was made from: it is what it was while they are the same objects, as both are read anew when
/// anything of them changes.
#[derive(Debug)]
struct Known {
    organization: Arc<Organization>,
    principal: Arc<Principal>,
    identity: Identity,
}

impl Identities {
    /// Of credentials that come in these headers.
    #[must_use]
    pub fn new(credentials: Arc<[HeaderName]>) -> Self {
        let anonymous = Identity::anonymous(&credentials);
        Self { credentials, anonymous, of_keys: Cache::new(KEYS) }
    }

    /// The headers that may carry a credential.
    #[must_use]
    pub fn credentials(&self) -> &[HeaderName] {
        &self.credentials
    }

    /// Of nobody.
    #[must_use]
    pub const fn anonymous(&self) -> &Identity {
        &self.anonymous
    }

    /// Has `said` of who sent a request.
    pub fn with<R>(&self, tenant: &Tenant, said: impl FnOnce(&Identity) -> R) -> R {
        // A token is made for some minutes, and verified as a principal of its own.
        let Some(key) = tenant.api_key.filter(|_| !tenant.is_token) else {
            return said(&Identity::of(tenant, &self.credentials));
        };
        let is_of = |known: &Arc<Known>| {
            Arc::ptr_eq(&known.organization, &tenant.organization) && Arc::ptr_eq(&known.principal, &tenant.principal)
        };
        let known = self.of_keys.get(&key).filter(is_of).unwrap_or_else(|| {
            let known = Arc::new(Known {
                organization: Arc::clone(&tenant.organization),
                principal: Arc::clone(&tenant.principal),
                identity: Identity::of(tenant, &self.credentials),
            });
            self.of_keys.insert(key, Arc::clone(&known));
            known
        });
        said(&known.identity)
    }
}
