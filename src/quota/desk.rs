//! The books of all organizations that this replica decides for, each under its lock.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::ids::OrganizationId;
use crate::quota::book::Book;
use crate::quota::slots::Calendar;

/// So that two threads seldom want one lock.
const SHARDS: usize = 64;

/// Where the counters of one organization are.
#[derive(Debug)]
pub struct Desk {
    /// Whose.
    pub organization_id: OrganizationId,
    state: Mutex<State>,
    /// Woken by every answer of the ledger.
    pub answered: Notify,
}

/// What the lock of an organization guards.
#[derive(Debug, Default)]
pub struct State {
    /// The counters.
    pub book: Book,
    /// In which its windows turn, as of the last decision.
    pub calendar: Calendar,
}

impl Desk {
    /// Takes the lock: never across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A desk as it is found by its organization, without a copy of the id beside it: tables are half empty, and what is small in
/// them is small where nothing is, too.
#[derive(Debug)]
struct Found(Arc<Desk>);

impl Borrow<OrganizationId> for Found {
    fn borrow(&self) -> &OrganizationId {
        &self.0.organization_id
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.0.organization_id == other.0.organization_id
    }
}

impl Eq for Found {}

impl Hash for Found {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As what it is borrowed as.
        self.0.organization_id.hash(state);
    }
}

type Shard = RwLock<HashSet<Found>>;

/// Desks by organization.
#[derive(Debug)]
pub struct Desks {
    shards: Vec<Shard>,
    hasher: RandomState,
}

impl Default for Desks {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }
}

impl Desks {
    fn shard(&self, organization_id: OrganizationId) -> &Shard {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder of a small divisor")]
        let shard = (self.hasher.hash_one(organization_id) % SHARDS as u64) as usize;
        &self.shards[shard]
    }

    /// The desk of an organization, if it has one.
    #[must_use]
    pub fn find(&self, organization_id: OrganizationId) -> Option<Arc<Desk>> {
        let shard = self.shard(organization_id).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&organization_id).map(|found| Arc::clone(&found.0))
    }

    /// The desk of an organization.
    #[must_use]
    pub fn of(&self, organization_id: OrganizationId) -> Arc<Desk> {
        self.find(organization_id).unwrap_or_else(|| {
            let mut shard = self.shard(organization_id).write().unwrap_or_else(PoisonError::into_inner);
            // Somebody may have been faster.
            if let Some(found) = shard.get(&organization_id) {
                return Arc::clone(&found.0);
            }
            let desk = Arc::new(Desk { organization_id, state: Mutex::default(), answered: Notify::new() });
            shard.insert(Found(Arc::clone(&desk)));
            desk
        })
    }

    /// Every desk there is, taken from one shard after the other.
    pub fn all(&self) -> impl Iterator<Item = Arc<Desk>> {
        self.shards.iter().flat_map(|shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.iter().map(|found| Arc::clone(&found.0)).collect::<Vec<_>>()
        })
    }

    /// Gives up the desks that hold nothing and that nobody is at.
    pub fn tidy(&self) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            // Whoever is at a desk has got it through this lock and holds it.
            shard.retain(|found| Arc::strong_count(&found.0) > 1 || !found.0.lock().book.is_empty());
        }
    }
}
