//! Authorization in the organization that a request names: the last step before the repository, and the only maker of
//! the proofs that scopes are opened with.

use std::sync::Arc;

use crate::auth::directory::Directory;
use crate::auth::last_used::LastUsed;
use crate::auth::permission::{Permission, Permissions};
use crate::auth::principal::{Caller, Context, Permitted, PermittedPlatform, Principal};
use crate::clock::Clock;
use crate::error::{Error, Violation};
use crate::ids::{OrganizationId, UserId, parse_uuid};
use crate::model::member::MemberStatus;
use crate::model::organization::Organization;
use crate::model::role::{Standing, Verdict};

/// Lets callers into organizations.
#[derive(Clone, Debug)]
pub struct Gate {
    directory: Arc<Directory>,
    last_used: Arc<LastUsed>,
    clock: Clock,
}

/// Where a request goes that may name an organization or mean the platform.
#[derive(Debug)]
pub enum Reach {
    /// Into one organization.
    Tenant(Permitted),
    /// To what belongs to none.
    Platform(PermittedPlatform),
}

/// Whose resources a caller may see that asks about one without naming its organization.
#[derive(Clone, Copy, Debug)]
pub enum Sight<'a> {
    /// Everybody's.
    All,
    /// Those of these organizations.
    Of(&'a [OrganizationId]),
}

impl Sight<'_> {
    /// Whether it reaches into the organization.
    #[must_use]
    pub fn sees(self, organization: OrganizationId) -> bool {
        match self {
            Self::All => true,
            Self::Of(organizations) => organizations.contains(&organization),
        }
    }
}

impl Gate {
    /// A gate that knows what the directory knows, and notes for whom somebody acts.
    #[must_use]
    pub const fn new(directory: Arc<Directory>, last_used: Arc<LastUsed>, clock: Clock) -> Self {
        Self { directory, last_used, clock }
    }

    /// Lets the caller into the organization it names by UUID or slug; empty means its own.
    ///
    /// Errors: `ORGANIZATION_NOT_FOUND` for one that does not exist or is not the caller's to see,
    /// `ORGANIZATION_SUSPENDED`, `ORGANIZATION_DELETED` (platform keys), `NOT_A_MEMBER`, `MEMBER_SUSPENDED` and
    /// `PERMISSION_MISSING` for the user it acts for.
    pub async fn tenant(&self, caller: &Caller, organization: &str) -> Result<Permitted, Error> {
        let found = self.find(caller, organization).await?;
        deny_when_deleted(&found)?;
        self.permit(caller, &found).await
    }

    /// The organization that the caller names, for who asks on the tenant's own behalf: it must be open. From memory, where it
    /// is known there.
    ///
    /// Errors: as of [`Gate::tenant`], and `ORGANIZATION_SUSPENDED` whoever calls.
    pub async fn open_organization(&self, caller: &Caller, organization: &str) -> Result<Arc<Organization>, Error> {
        let found = self.find(caller, organization).await?;
        deny_when_deleted(&found)?;
        deny_when_closed(&found)?;
        // Of who acts for nobody the auth layer has asked all there is to ask.
        if caller.acting_user.is_some() {
            self.permit(caller, &found).await?;
        }
        Ok(found)
    }

    /// The same, also into an organization that is deleted: to look at it and to undelete it.
    pub async fn tenant_or_deleted(&self, caller: &Caller, organization: &str) -> Result<Permitted, Error> {
        let found = self.find(caller, organization).await?;
        self.permit(caller, &found).await
    }

    /// Lets a platform key to what belongs to no organization.
    ///
    /// A service key with an allow-list gets there only with its list, which the caller of this must respect.
    pub fn platform(&self, caller: &Caller) -> Result<PermittedPlatform, Error> {
        let organizations = match caller.principal() {
            _ if !caller.is_platform() => {
                return Err(Error::PermissionDenied {
                    reason: "PLATFORM_KEY_REQUIRED",
                    message: "only a platform key that acts for nobody may do this".into(),
                });
            }
            Principal::Service { organizations, .. } => organizations.clone(),
            Principal::ApiKey { .. }
            | Principal::User { .. }
            | Principal::Operator { .. }
            | Principal::Workload { .. } => None,
        };
        Ok(PermittedPlatform { context: context(caller), organizations })
    }

    /// Lets a platform key that is not bound to an allow-list to what belongs to no organization.
    pub fn whole_platform(&self, caller: &Caller) -> Result<PermittedPlatform, Error> {
        let permitted = self.platform(caller)?;
        if permitted.organizations.is_some() {
            return Err(Error::PermissionDenied {
                reason: "PLATFORM_KEY_REQUIRED",
                message: "a service key with a list of organizations must name one of them".into(),
            });
        }
        Ok(permitted)
    }

    /// Into the organization named; for a platform key that names none, to the platform.
    pub async fn reach(&self, caller: &Caller, organization: &str) -> Result<Reach, Error> {
        if organization.is_empty() && caller.is_platform() {
            return self.whole_platform(caller).map(Reach::Platform);
        }
        self.tenant(caller, organization).await.map(Reach::Tenant)
    }

    /// How far the caller sees in a request that names no organization. For who acts for nobody the auth layer has
    /// asked all there is to ask, so this does no I/O then.
    ///
    /// Errors: those of [`Gate::tenant`] in the caller's own organization, when it acts for a user.
    /// `ACTING_USER_WITHOUT_ORGANIZATION` when a platform key does: a user has rights in an organization only.
    pub async fn sight<'a>(&self, caller: &'a Caller) -> Result<Sight<'a>, Error> {
        match caller.principal() {
            Principal::ApiKey { organization_id, .. } | Principal::User { organization_id, .. } => {
                if caller.acting_user.is_some() {
                    self.tenant(caller, "").await?;
                }
                Ok(Sight::Of(std::slice::from_ref(organization_id)))
            }
            _ if caller.acting_user.is_some() => Err(Error::InvalidRequest {
                reason: "ACTING_USER_WITHOUT_ORGANIZATION",
                message: "this request names no organization in which the user could have rights: leave x-acting-user \
                          out"
                .into(),
            }),
            Principal::Service { organizations, .. } => Ok(organizations.as_deref().map_or(Sight::All, Sight::Of)),
            Principal::Operator { .. } | Principal::Workload { .. } => Ok(Sight::All),
        }
    }

    /// Where a user stands in the organization of the proof; `None` for who is no member.
    pub async fn standing(&self, permitted: &Permitted, user: UserId) -> Result<Option<Arc<Standing>>, Error> {
        self.directory.standing(permitted.organization_id, user).await
    }

    /// Whether the organization of the proof is closed to its members.
    pub async fn is_closed(&self, permitted: &Permitted) -> Result<bool, Error> {
        let found = self.directory.organization(permitted.organization_id).await?;
        Ok(found.is_none_or(|organization| deny_when_closed(&organization).is_err()))
    }

    async fn find(&self, caller: &Caller, named: &str) -> Result<Arc<Organization>, Error> {
        let not_found = || Error::not_found("organization", named);
        let id = match caller.principal() {
            Principal::ApiKey { organization_id, .. } | Principal::User { organization_id, .. } => {
                // A tenant's key or token finds its own only, and learns nothing of others: no lookup is made for them.
                let own = caller.organization.clone().ok_or_else(not_found)?;
                let is_own = named.is_empty()
                    || parse_uuid(named).map_or(named == own.profile.slug, |id| id == organization_id.uuid());
                return if is_own { Ok(own) } else { Err(not_found()) };
            }
            _ if named.is_empty() => {
                return Err(Violation::new("organization_id", "must be named by a platform key").into());
            }
            Principal::Service { organizations, .. } => {
                let id = self.resolve(named).await?.ok_or_else(not_found)?;
                if organizations.as_ref().is_some_and(|allowed| !allowed.contains(&id)) {
                    return Err(not_found());
                }
                id
            }
            Principal::Operator { .. } | Principal::Workload { .. } => {
                self.resolve(named).await?.ok_or_else(not_found)?
            }
        };
        self.directory.organization(id).await?.ok_or_else(not_found)
    }

    async fn resolve(&self, named: &str) -> Result<Option<OrganizationId>, Error> {
        match parse_uuid(named) {
            Some(id) => Ok(Some(id.into())),
            None if crate::model::organization::slug("organization_id", named).is_ok() => {
                // Boxed, as it is rare and large.
                Box::pin(self.directory.organization_by_slug(named)).await
            }
            None => Err(Violation::new("organization_id", "must be a UUID or a slug").into()),
        }
    }

    async fn permit(&self, caller: &Caller, organization: &Organization) -> Result<Permitted, Error> {
        let id = organization.organization_id;
        let mut permissions = caller.principal().permissions();
        let mut acting = None;
        if let Some(user) = caller.acting_user {
            deny_when_closed(organization)?;
            let standing = active(self.directory.standing(id, user).await?, user)?;
            permissions = permissions.and(standing.held);
            acting = Some((user, standing));
        }
        require(permissions, caller.permission)?;
        if let Some((user, _)) = &acting {
            self.last_used.note_member(id, *user, self.clock.now());
        }
        let platform = caller.is_platform();
        Ok(Permitted { organization_id: id, context: context(caller), permissions, acting, platform })
    }
}

/// Fails with `PERMISSION_MISSING` unless the permission is held.
pub fn require(held: Permissions, permission: Permission) -> Result<(), Error> {
    if held.contains(permission) {
        return Ok(());
    }
    Err(Error::PermissionDenied {
        reason: "PERMISSION_MISSING",
        message: format!("the permission {permission} is required"),
    })
}

fn deny_when_deleted(organization: &Organization) -> Result<(), Error> {
    if organization.deletion.is_none() {
        return Ok(());
    }
    Err(Error::FailedPrecondition {
        reason: "ORGANIZATION_DELETED",
        subject: format!("organizations/{}", organization.organization_id),
        message: "the organization is deleted; undelete it first".into(),
    })
}

/// Whether the caller whom this proof is of may do something: its key must have it, and who it acts for.
#[must_use]
pub fn verdict(caller: &Caller, permitted: &Permitted, permission: Permission) -> Verdict {
    let of_user = permitted.acting.as_ref().map_or(Verdict::Allowed, |(_, standing)| standing.verdict(permission));
    match of_user {
        Verdict::Allowed if !caller.principal().permissions().contains(permission) => Verdict::NotInScopes,
        verdict => verdict,
    }
}

/// Fails for an organization whose people and keys are locked out.
pub fn deny_when_closed(organization: &Organization) -> Result<(), Error> {
    if organization.deletion.is_some() {
        return Err(Error::not_found("organization", organization.organization_id));
    }
    if organization.suspension.is_some() {
        return Err(Error::PermissionDenied {
            reason: "ORGANIZATION_SUSPENDED",
            message: "the organization is suspended".into(),
        });
    }
    Ok(())
}

/// A member for whom somebody can act. Errors: `NOT_A_MEMBER`, `MEMBER_SUSPENDED`.
pub fn active(standing: Option<Arc<Standing>>, user: UserId) -> Result<Arc<Standing>, Error> {
    let standing = standing.filter(|standing| standing.user_is_active).ok_or_else(|| Error::PermissionDenied {
        reason: "NOT_A_MEMBER",
        message: format!("user {user} is not an active member of the organization"),
    })?;
    if standing.status == MemberStatus::Suspended {
        return Err(Error::PermissionDenied {
            reason: "MEMBER_SUSPENDED",
            message: format!("user {user} is suspended in the organization"),
        });
    }
    Ok(standing)
}

fn context(caller: &Caller) -> Context {
    Context {
        actor: caller.actor(),
        acting_user: caller.acting_user,
        method: caller.method,
        request_id: Arc::clone(&caller.request_id),
    }
}
