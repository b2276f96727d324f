//! Who is calling, and the proofs that authorization hands out. Values only, no I/O: the repository takes them.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::auth::permission::{Permission, Permissions};
use crate::clock::Moment;
use crate::error::Error;
use crate::ids::{ApiKeyId, OrganizationId, PlatformKeyId, UserId};
use crate::model::organization::Organization;
use crate::model::role::{RoleKey, Standing};
use crate::model::workload::SpiffeId;

/// The owner of a credential that was found good.
#[derive(Debug, Clone)]
pub enum Principal {
    /// A key of a tenant.
    ApiKey {
        /// The tenant.
        organization_id: OrganizationId,
        /// The key.
        api_key_id: ApiKeyId,
        /// Its scopes.
        permissions: Permissions,
        /// A publishable key may be seen by anybody, so it acts for nobody.
        publishable: bool,
        /// Whether it came as a token that it was exchanged for.
        by_token: bool,
    },
    /// A user in one organization, by a token of their own.
    User {
        /// The organization.
        organization_id: OrganizationId,
        /// The user.
        user_id: UserId,
        /// What the token allows, as far as the member still has it.
        permissions: Permissions,
    },
    /// A service key of the platform.
    Service {
        /// The key.
        key_id: PlatformKeyId,
        /// Its scopes.
        permissions: Permissions,
        /// The organizations it may name; `None` means all.
        organizations: Option<Arc<[OrganizationId]>>,
    },
    /// An operator of the platform, who may do everything.
    Operator {
        /// The key.
        key_id: PlatformKeyId,
    },
    /// A workload of the platform's, a sidecar, by its certificate.
    Workload {
        /// Its name.
        spiffe_id: SpiffeId,
    },
}

impl Principal {
    /// What the credential itself allows.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        match self {
            Self::ApiKey { permissions, .. } | Self::User { permissions, .. } | Self::Service { permissions, .. } => {
                *permissions
            }
            Self::Operator { .. } => Permissions::ALL,
            Self::Workload { .. } => Permissions::only(Permission::Sidecar),
        }
    }

    /// Whether it came with a token.
    #[must_use]
    pub const fn is_by_token(&self) -> bool {
        matches!(self, Self::User { .. } | Self::ApiKey { by_token: true, .. })
    }
}

/// Who did something, as the audit has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `api_key`, `user`, `service`, `operator`, `workload` or `system`. A workload may do nothing that is audited.
    pub kind: &'static str,
    /// Their id.
    pub id: ActorId,
}

/// The id of an actor. A text only where it is written down: most requests are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorId {
    /// Of a key or a user.
    Uuid(Uuid),
    /// Of a workload.
    Workload(SpiffeId),
    /// The name of a job.
    Job(&'static str),
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(id) => id.fmt(f),
            Self::Workload(id) => id.fmt(f),
            Self::Job(name) => f.write_str(name),
        }
    }
}

/// A request past authentication: its caller holds the permission that the method takes. Made by the auth layer;
/// a handler gets it beside its message, or takes it out of the request's extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(in crate::auth) principal: Arc<Principal>,
    // As it was when the credential was found good: the credential's own, if it has one.
    pub(in crate::auth) organization: Option<Arc<Organization>>,
    pub(in crate::auth) acting_user: Option<UserId>,
    pub(in crate::auth) method: &'static str,
    pub(in crate::auth) permission: Permission,
    pub(in crate::auth) request_id: Arc<str>,
    pub(in crate::auth) at: Moment,
}

impl Caller {
    /// When the request came; of a stream, when its caller was last asked for anew. Not the time by which what is in memory is
    /// believed where a stream goes on: that must not stand still.
    #[must_use]
    pub const fn at(&self) -> Moment {
        self.at
    }

    /// Whose credential it is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The path of the RPC.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        self.method
    }

    /// The id of the request.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Whether the credential is the platform's and acts for nobody.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        let of_platform = match *self.principal {
            Principal::ApiKey { .. } | Principal::User { .. } => false,
            Principal::Service { .. } | Principal::Operator { .. } | Principal::Workload { .. } => true,
        };
        of_platform && self.acting_user.is_none()
    }

    pub(in crate::auth) fn actor(&self) -> Actor {
        let (kind, id) = match &*self.principal {
            Principal::ApiKey { api_key_id, .. } => ("api_key", ActorId::Uuid(api_key_id.uuid())),
            // The user and not the token: who repeats a request may have another one by then.
            Principal::User { user_id, .. } => ("user", ActorId::Uuid(user_id.uuid())),
            Principal::Service { key_id, .. } => ("service", ActorId::Uuid(key_id.uuid())),
            Principal::Operator { key_id } => ("operator", ActorId::Uuid(key_id.uuid())),
            Principal::Workload { spiffe_id } => ("workload", ActorId::Workload(spiffe_id.clone())),
        };
        Actor { kind, id }
    }
}

/// Proof that somebody may act in one organization: what a tenant scope is opened with. There is no other way to one.
#[derive(Debug, Clone)]
pub struct Permitted {
    pub(in crate::auth) organization_id: OrganizationId,
    pub(in crate::auth) context: Context,
    pub(in crate::auth) permissions: Permissions,
    pub(in crate::auth) acting: Option<(UserId, Arc<Standing>)>,
    pub(in crate::auth) platform: bool,
}

/// Proof that somebody may act on what belongs to no organization: what a platform scope is opened with.
#[derive(Debug, Clone)]
pub struct PermittedPlatform {
    pub(in crate::auth) context: Context,
    pub(in crate::auth) organizations: Option<Arc<[OrganizationId]>>,
}

/// What is written down of a caller: by the audit, and to recognise a repeated request.
#[derive(Debug, Clone)]
pub struct Context {
    /// Who.
    pub actor: Actor,
    /// For whom.
    pub acting_user: Option<UserId>,
    /// The path of the RPC, or the name of the job.
    pub method: &'static str,
    /// The id of the request; empty for jobs.
    pub request_id: Arc<str>,
}

impl Context {
    /// A background job or a command, by name.
    #[must_use]
    pub fn system(job: &'static str) -> Self {
        Self {
            actor: Actor { kind: "system", id: ActorId::Job(job) },
            acting_user: None,
            method: job,
            request_id: Arc::from(""),
        }
    }

    /// Who repeats a request, for the idempotency of creates.
    #[must_use]
    pub fn principal(&self) -> String {
        match self.acting_user {
            Some(user) => format!("{}:{} for {user}", self.actor.kind, self.actor.id),
            None => format!("{}:{}", self.actor.kind, self.actor.id),
        }
    }
}

impl Permitted {
    /// The service itself, in one organization: background jobs, the command line, and reading the facts that
    /// authorization needs.
    #[must_use]
    pub fn system(organization_id: OrganizationId, job: &'static str) -> Self {
        Self {
            organization_id,
            context: Context::system(job),
            permissions: Permissions::ALL,
            acting: None,
            platform: true,
        }
    }

    /// The organization.
    #[must_use]
    pub const fn organization_id(&self) -> OrganizationId {
        self.organization_id
    }

    /// What is written down of the caller.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// All that the caller may do here.
    #[must_use]
    pub const fn permissions(&self) -> Permissions {
        self.permissions
    }

    /// The user for whom the caller acts.
    #[must_use]
    pub fn acting_user(&self) -> Option<UserId> {
        self.acting.as_ref().map(|(user, _)| *user)
    }

    /// The role of the user for whom the caller acts.
    #[must_use]
    pub fn role(&self) -> Option<&RoleKey> {
        self.acting.as_ref().map(|(_, standing)| &standing.role)
    }

    /// Whether the caller is the platform, acting for nobody.
    #[must_use]
    pub const fn is_platform(&self) -> bool {
        self.platform
    }

    /// Whether the caller may make, change and remove owners: the platform, and who acts for an owner. A tenant's key
    /// that acts for nobody is no owner, whatever its scopes.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.platform || self.acting.as_ref().is_some_and(|(_, standing)| standing.role.is_owner())
    }

    /// Fails with `OWNER_REQUIRED` when this is an owners' affair and the caller is none.
    pub fn require_owner(&self, is_owners_affair: bool) -> Result<(), Error> {
        if !is_owners_affair || self.is_owner() {
            return Ok(());
        }
        Err(Error::PermissionDenied {
            reason: "OWNER_REQUIRED",
            message: "only an owner or a platform key makes, changes or removes an owner".into(),
        })
    }

    /// Fails with `PRIVILEGE_ESCALATION` unless the caller holds all that it hands out, or takes from somebody: what the
    /// key and the user for whom it acts have both, and for an owner and the platform everything.
    pub fn require_held(&self, touched: Permissions) -> Result<(), Error> {
        let missing = if self.is_owner() { Permissions::default() } else { touched.without(self.permissions) };
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<&str> = missing.iter().map(Permission::as_str).collect();
        Err(Error::PermissionDenied {
            reason: "PRIVILEGE_ESCALATION",
            message: format!(
                "nobody hands out, or takes away, what they do not hold; the caller lacks {}",
                missing.join(", ")
            ),
        })
    }

    /// Fails with `OPERATOR_ONLY_FIELD` unless the caller is the platform.
    pub fn require_platform(&self, field: &str) -> Result<(), Error> {
        if self.platform {
            return Ok(());
        }
        Err(Error::PermissionDenied {
            reason: "OPERATOR_ONLY_FIELD",
            message: format!("{field} can only be changed by a platform key"),
        })
    }
}

impl PermittedPlatform {
    /// The service itself: background jobs and the command line.
    #[must_use]
    pub fn system(job: &'static str) -> Self {
        Self { context: Context::system(job), organizations: None }
    }

    /// What is written down of the caller.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// The organizations that the caller may name; `None` means all.
    #[must_use]
    pub fn organizations(&self) -> Option<&[OrganizationId]> {
        self.organizations.as_deref()
    }
}
