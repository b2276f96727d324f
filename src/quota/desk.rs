//! The books of all organizations that this replica decides for, each under its lock.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use crate::ids::OrganizationId;
use crate::quota::book::Book;
use crate::quota::decision::AccountKey;
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
    /// The accounts that wait for their turn to be asked about.
    pub queued: HashSet<AccountKey>,
}

impl Desk {
    /// Takes the lock: never across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Desks by organization.
#[derive(Debug)]
pub struct Desks {
    shards: Vec<RwLock<HashMap<OrganizationId, Arc<Desk>>>>,
    hasher: RandomState,
}

impl Default for Desks {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), hasher: RandomState::new() }
    }
}

impl Desks {
    fn shard(&self, organization_id: OrganizationId) -> &RwLock<HashMap<OrganizationId, Arc<Desk>>> {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder of a small divisor")]
        let shard = (self.hasher.hash_one(organization_id) % SHARDS as u64) as usize;
        &self.shards[shard]
    }

    /// The desk of an organization, if it has one.
    #[must_use]
    pub fn find(&self, organization_id: OrganizationId) -> Option<Arc<Desk>> {
        self.shard(organization_id).read().unwrap_or_else(PoisonError::into_inner).get(&organization_id).cloned()
    }

    /// The desk of an organization.
    #[must_use]
    pub fn of(&self, organization_id: OrganizationId) -> Arc<Desk> {
        self.find(organization_id).unwrap_or_else(|| {
            let mut shard = self.shard(organization_id).write().unwrap_or_else(PoisonError::into_inner);
            let desk = shard.entry(organization_id).or_insert_with(|| {
                Arc::new(Desk { organization_id, state: Mutex::default(), answered: Notify::new() })
            });
            Arc::clone(desk)
        })
    }

    /// Every desk there is.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Desk>> {
        let shards = self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner));
        shards.flat_map(|shard| shard.values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Gives up the desks that hold nothing and that nobody is at.
    pub fn tidy(&self) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            // Whoever is at a desk has got it through this lock and holds it.
            shard.retain(|_, desk| Arc::strong_count(desk) > 1 || !desk.lock().book.is_empty());
        }
    }
}
