//! The reservations of this replica that are not settled, so that who looks at a limit sees how much of it they hold.
//! For show only: what is settled where, the ledger knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::Clock;
use crate::ids::OrganizationId;
use crate::quota::decision::Charge;
use crate::quota::engine::Engine;

/// The most that are shown.
const MOST: usize = 100_000;

/// The open reservations of this replica.
#[derive(Debug)]
pub struct Reserved {
    engine: Engine,
    clock: Clock,
    began: Instant,
    /// When the first of them expires, in milliseconds since the beginning: it alone is looked at for each decision.
    next: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    by_id: HashMap<Uuid, Instant>,
    by_expiry: BTreeMap<(Instant, Uuid), (OrganizationId, Vec<Charge>)>,
}

impl Reserved {
    /// None open.
    #[must_use]
    pub fn new(engine: Engine, clock: Clock) -> Self {
        let began = clock.instant();
        Self { engine, clock, began, next: AtomicU64::new(u64::MAX), open: Mutex::default() }
    }

    /// Counts what was charged as reserved, for so long at most.
    pub fn open(&self, organization_id: OrganizationId, id: Uuid, ttl: Duration, charges: Vec<Charge>) {
        let expiry = self.clock.instant() + ttl;
        let mut open = self.lock();
        if charges.is_empty() || open.by_id.len() >= MOST {
            return;
        }
        self.engine.reserved(organization_id, &charges, true);
        open.by_id.insert(id, expiry);
        open.by_expiry.insert((expiry, id), (organization_id, charges));
        self.look_next(&open);
    }

    /// It was settled.
    pub fn settled(&self, id: Uuid) {
        let mut open = self.lock();
        if let Some(expiry) = open.by_id.remove(&id)
            && let Some((organization_id, charges)) = open.by_expiry.remove(&(expiry, id))
        {
            self.engine.reserved(organization_id, &charges, false);
        }
        self.look_next(&open);
    }

    /// Lets go of those that can no longer be settled at `now`. Cheap when there are none.
    pub fn sweep(&self, now: Instant) {
        if self.since_began(now) < self.next.load(Ordering::Relaxed) {
            return;
        }
        let mut open = self.lock();
        while let Some(first) = open.by_expiry.first_entry()
            && first.key().0 <= now
        {
            let ((_, id), (organization_id, charges)) = first.remove_entry();
            open.by_id.remove(&id);
            self.engine.reserved(organization_id, &charges, false);
        }
        self.look_next(&open);
    }

    fn look_next(&self, open: &Open) {
        // A millisecond late, as it is rounded down, and not one early, when nothing would be there to let go of.
        let next = open.by_expiry.keys().next().map_or(u64::MAX, |(expiry, _)| self.since_began(*expiry) + 1);
        self.next.store(next, Ordering::Relaxed);
    }

    fn since_began(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// A poisoned lock is taken all the same: nothing that runs under it panics half way.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
