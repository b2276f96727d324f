//! The policies, kept in memory and true to the change log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::ids::OrganizationId;
use crate::metering::catalog::Catalog;
use crate::quota::policy::{Interner, Policy};
use crate::repository::changes::Change;
use crate::repository::database::Database;
use crate::repository::limit;

/// Organizations whose policies are kept.
pub const CAPACITY: usize = 1_000_000;

/// Policies by organization.
#[derive(Debug)]
pub struct Policies {
    database: Database,
    clock: Clock,
    catalog: Arc<Catalog>,
    facts: Facts<OrganizationId, Policy>,
    interner: Interner,
}

impl Policies {
    /// `lifetime` bounds how long a policy is believed while the change log cannot be read.
    #[must_use]
    pub fn new(database: Database, clock: Clock, catalog: Arc<Catalog>, lifetime: Duration) -> Self {
        Self { database, clock, catalog, facts: Facts::new(CAPACITY, lifetime), interner: Interner::default() }
    }

    /// The policy if it is here. Never waits.
    #[must_use]
    pub fn peek(&self, organization_id: OrganizationId, now: Instant) -> Option<Policy> {
        self.facts.peek(&organization_id, now)
    }

    /// The policy, from here or from the database.
    pub async fn get(&self, organization_id: OrganizationId) -> Result<Policy, Error> {
        let now = self.clock.instant();
        self.facts.get(&organization_id, now, || self.load(organization_id, None)).await
    }

    /// The same, read from the database at `since` or later.
    pub async fn get_since(&self, organization_id: OrganizationId, since: Instant) -> Result<Policy, Error> {
        let now = self.clock.instant();
        self.facts.get_since(&organization_id, since, now, || self.load(organization_id, Some(since))).await
    }

    async fn load(&self, organization_id: OrganizationId, since: Option<Instant>) -> Result<Policy, Error> {
        let meters = match since {
            Some(since) => self.catalog.view_since(organization_id, since).await?,
            None => self.catalog.view(organization_id).await?,
        };
        let mut scope = self.database.tenant(&Permitted::system(organization_id, "quota")).await?;
        let rows = limit::policy(&mut scope).await?;
        Ok(Policy::new(organization_id, &rows, &meters.all(), &self.interner))
    }

    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        match change {
            Change::Organization(id) | Change::Limits(id) | Change::Meters(id) => self.facts.invalidate(id),
            Change::Plans | Change::PlatformMeters => self.facts.invalidate_all(),
            Change::ApiKey(_)
            | Change::Member(..)
            | Change::Roles(_)
            | Change::User(_)
            | Change::RateLimits
            | Change::TokenKeys => {}
        }
    }

    /// Forgets everything, as when the change log could not be followed.
    pub fn forget_all(&self) {
        self.facts.invalidate_all();
    }
}
