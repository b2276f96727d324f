//! The meters, kept in memory and true to the change log, so that recording an event reads no table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::ids::{MeterId, OrganizationId, parse_uuid};
use crate::model::meter::Meter;
use crate::repository::changes::Change;
use crate::repository::database::Database;
use crate::repository::meter;
use crate::repository::scope::Purpose;

/// Organizations whose meters are kept.
const CAPACITY: usize = 100_000;

/// Meters by organization, and the platform-wide ones.
#[derive(Debug)]
pub struct Catalog {
    database: Database,
    clock: Clock,
    own: Facts<OrganizationId, Arc<Meters>>,
    platform_wide: Facts<(), Arc<Meters>>,
}

/// The meters of one owner.
#[derive(Debug, Default)]
struct Meters {
    by_key: HashMap<String, Arc<Meter>>,
    by_id: HashMap<MeterId, Arc<Meter>>,
}

/// The meters that count for one organization.
#[derive(Clone, Debug)]
pub struct View {
    own: Arc<Meters>,
    platform_wide: Arc<Meters>,
}

impl View {
    /// The meter that events of this key count for: the organization's own before a platform-wide one. May be archived;
    /// an own one takes the key all the same.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<Arc<Meter>> {
        self.own.by_key.get(key).or_else(|| self.platform_wide.by_key.get(key)).cloned()
    }

    /// All that count, by key: not a platform-wide one whose key is the organization's own.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Meter>> {
        let mut all: BTreeMap<&str, &Arc<Meter>> = BTreeMap::new();
        for meter in self.platform_wide.by_id.values().chain(self.own.by_id.values()) {
            all.insert(&meter.key, meter);
        }
        all.into_values().cloned().collect()
    }

    /// The meter of this id.
    #[must_use]
    pub fn of_id(&self, id: MeterId) -> Option<Arc<Meter>> {
        self.own.by_id.get(&id).or_else(|| self.platform_wide.by_id.get(&id)).cloned()
    }

    /// The meter of this id or key.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Meter>> {
        match parse_uuid(name).map(MeterId::from) {
            Some(id) => self.of_id(id),
            None => self.of_key(name),
        }
    }
}

impl Catalog {
    /// `lifetime` bounds how long a meter is believed while the change log cannot be read.
    #[must_use]
    pub fn new(database: Database, clock: Clock, lifetime: Duration) -> Self {
        Self { database, clock, own: Facts::new(CAPACITY, lifetime), platform_wide: Facts::new(1, lifetime) }
    }

    /// The meters that count for an organization, as this replica knows them. What is in it is there; what is not may
    /// have been created on another replica a moment ago: ask [`Self::view_since`] before saying so.
    pub async fn view(&self, organization_id: OrganizationId) -> Result<View, Error> {
        let now = self.clock.instant();
        let own = self.own.get(&organization_id, now, || self.load_own(organization_id)).await?;
        let platform_wide = self.platform_wide.get(&(), now, || self.load_platform_wide()).await?;
        Ok(View { own, platform_wide })
    }

    /// The same, read from the database at `since` or later.
    pub async fn view_since(&self, organization_id: OrganizationId, since: Instant) -> Result<View, Error> {
        let now = self.clock.instant();
        let own = self.own.get_since(&organization_id, since, now, || self.load_own(organization_id)).await?;
        let platform_wide = self.platform_wide.get_since(&(), since, now, || self.load_platform_wide()).await?;
        Ok(View { own, platform_wide })
    }

    /// The meter of an id or a key. Error: `METER_NOT_FOUND`.
    pub async fn named(&self, organization_id: OrganizationId, name: &str) -> Result<Arc<Meter>, Error> {
        let view = self.view_with(Some(organization_id), |view| view.named(name).is_some()).await?;
        view.named(name).ok_or_else(|| Error::not_found(meter::RESOURCE, name))
    }

    /// The platform-wide meter of an id or a key. Error: `METER_NOT_FOUND`.
    pub async fn named_platform_wide(&self, name: &str) -> Result<Arc<Meter>, Error> {
        let view = self.view_with(None, |view| view.named(name).is_some()).await?;
        view.named(name).ok_or_else(|| Error::not_found(meter::RESOURCE, name))
    }

    /// The meters that count for an organization, or without one the platform-wide meters; read anew when something is not
    /// there by `complete` that may have been created a moment ago. May still not be complete.
    pub async fn view_with(
        &self,
        organization_id: Option<OrganizationId>,
        complete: impl FnOnce(&View) -> bool + Send,
    ) -> Result<View, Error> {
        let since = self.clock.instant();
        let known = match organization_id {
            Some(organization_id) => self.view(organization_id).await?,
            None => self.platform_wide_since(None).await?,
        };
        if complete(&known) {
            return Ok(known);
        }
        match organization_id {
            Some(organization_id) => self.view_since(organization_id, since).await,
            None => self.platform_wide_since(Some(since)).await,
        }
    }

    async fn platform_wide_since(&self, since: Option<Instant>) -> Result<View, Error> {
        let now = self.clock.instant();
        let load = || self.load_platform_wide();
        let platform_wide = match since {
            Some(since) => self.platform_wide.get_since(&(), since, now, load).await?,
            None => self.platform_wide.get(&(), now, load).await?,
        };
        Ok(View { own: Arc::default(), platform_wide })
    }

    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        match change {
            Change::Meters(organization_id) => self.own.invalidate(organization_id),
            Change::PlatformMeters => self.platform_wide.invalidate_all(),
            Change::ApiKey(_)
            | Change::Organization(_)
            | Change::Member(..)
            | Change::Roles(_)
            | Change::User(_)
            | Change::Plans
            | Change::Limits(_)
            | Change::RateLimits
            | Change::TokenKeys => {}
        }
    }

    /// Forgets everything, as when the change log could not be followed.
    pub fn forget_all(&self) {
        self.own.invalidate_all();
        self.platform_wide.invalidate_all();
    }

    async fn load_own(&self, organization_id: OrganizationId) -> Result<Arc<Meters>, Error> {
        let mut scope = self.database.tenant(&Permitted::system(organization_id, "catalog")).await?;
        Ok(Arc::new(meter::own(&mut scope).await?.into_iter().collect()))
    }

    async fn load_platform_wide(&self) -> Result<Arc<Meters>, Error> {
        let permitted = PermittedPlatform::system("catalog");
        let mut scope = self.database.platform(&permitted, Purpose::PlatformMeters).await?;
        Ok(Arc::new(meter::platform_wide(&mut scope).await?.into_iter().collect()))
    }
}

impl FromIterator<Meter> for Meters {
    fn from_iter<I: IntoIterator<Item = Meter>>(meters: I) -> Self {
        let mut all = Self::default();
        for meter in meters {
            let meter = Arc::new(meter);
            all.by_key.insert(meter.key.clone(), Arc::clone(&meter));
            all.by_id.insert(meter.meter_id, meter);
        }
        all
    }
}
