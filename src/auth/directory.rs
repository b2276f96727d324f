//! What authorization must know of organizations and memberships, kept in memory and true to the change log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::ids::{OrganizationId, UserId};
use crate::model::organization::Organization;
use crate::model::role::Standing;
use crate::repository::changes::Change;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{member, organization};

/// Organizations and memberships kept, each.
const CAPACITY: usize = 100_000;

/// Slugs kept that may be nobody's: whatever a client says may be asked for.
const FOUND: usize = 10_000;

/// How long a slug is believed to be nobody's.
const JUST_NOW: Duration = Duration::from_secs(1);

/// Organizations and memberships by id.
#[derive(Debug)]
pub struct Directory {
    database: Database,
    clock: Clock,
    organizations: Facts<OrganizationId, Option<Arc<Organization>>>,
    memberships: Facts<(OrganizationId, UserId), Option<Arc<Standing>>>,
    /// Whose a slug was; the organization itself tells whether it still is.
    slugs: Facts<String, OrganizationId>,
    /// What was found of slugs just now: that nobody has one is asked again soon.
    found: Facts<String, Option<OrganizationId>>,
}

impl Directory {
    /// `lifetime` bounds how long a fact is believed while the change log cannot be read.
    #[must_use]
    pub fn new(database: Database, clock: Clock, lifetime: Duration) -> Self {
        Self {
            database,
            clock,
            organizations: Facts::new(CAPACITY, lifetime),
            memberships: Facts::new(CAPACITY, lifetime),
            slugs: Facts::new(CAPACITY, lifetime),
            found: Facts::new(FOUND, JUST_NOW),
        }
    }

    /// The organization if it is known in memory; `Some(None)` when it is known not to exist.
    #[must_use]
    pub fn peek_organization(&self, id: OrganizationId, now: Instant) -> Option<Option<Arc<Organization>>> {
        self.organizations.peek(&id, now)
    }

    /// The organization, deleted or not.
    pub async fn organization(&self, id: OrganizationId) -> Result<Option<Arc<Organization>>, Error> {
        self.organizations
            .get(&id, self.clock.instant(), || async {
                let mut scope = self.database.tenant(&Permitted::system(id, "directory")).await?;
                match organization::get(&mut scope).await {
                    Ok(found) => Ok(Some(Arc::new(found))),
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// The organization of a slug.
    pub async fn organization_by_slug(&self, slug: &str) -> Result<Option<OrganizationId>, Error> {
        let (slug, now) = (slug.to_owned(), self.clock.instant());
        if let Some(id) = self.slugs.peek(&slug, now) {
            let found = self.organization(id).await?;
            if found.is_some_and(|organization| organization.profile.slug == slug) {
                return Ok(Some(id));
            }
            // It has another one now, and this one may be somebody else's.
            self.slugs.invalidate(&slug);
        }
        let find = || async {
            let permitted = PermittedPlatform::system("directory");
            let mut scope = self.database.platform(&permitted, Purpose::ReadOrganizations).await?;
            organization::find_by_slug(&mut scope, &slug).await
        };
        let found = self.found.get(&slug, now, find).await?;
        if let Some(id) = found {
            self.slugs.get(&slug, now, || async { Ok::<_, Error>(id) }).await?;
        }
        Ok(found)
    }

    /// Where a user stands in an organization; `None` for who is no member.
    pub async fn standing(&self, organization: OrganizationId, user: UserId) -> Result<Option<Arc<Standing>>, Error> {
        let now = self.clock.instant();
        self.memberships.get(&(organization, user), now, || self.load_standing(organization, user)).await
    }

    /// The same, as it was at `since` or later.
    pub async fn standing_since(
        &self,
        organization: OrganizationId,
        user: UserId,
        since: Instant,
    ) -> Result<Option<Arc<Standing>>, Error> {
        let now = self.clock.instant();
        let load = || self.load_standing(organization, user);
        self.memberships.get_since(&(organization, user), since, now, load).await
    }

    async fn load_standing(&self, organization: OrganizationId, user: UserId) -> Result<Option<Arc<Standing>>, Error> {
        let mut scope = self.database.tenant(&Permitted::system(organization, "directory")).await?;
        Ok(member::standing(&mut scope, user).await?.map(Arc::new))
    }

    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        match change {
            Change::Organization(id) => {
                self.organizations.invalidate(id);
                // It may be a new one, or have a new slug.
                self.found.invalidate_all();
            }
            Change::Member(organization, user) => self.memberships.invalidate(&(*organization, *user)),
            Change::Roles(id) => self.memberships.invalidate_where(|(organization, _)| organization == id),
            Change::User(user) => self.memberships.invalidate_where(|(_, member)| member == user),
            Change::ApiKey(_)
            | Change::Meters(_)
            | Change::PlatformMeters
            | Change::Plans
            | Change::Limits(_)
            | Change::RateLimits
            | Change::TokenKeys => {}
        }
    }

    /// Forgets everything, as when the change log could not be followed.
    pub fn forget_all(&self) {
        self.organizations.invalidate_all();
        self.memberships.invalidate_all();
        self.slugs.invalidate_all();
        self.found.invalidate_all();
    }
}
