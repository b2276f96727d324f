//! The records that are kept: which lookup ids have one, and which were found to have none.

use std::{
    hash::RandomState,
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use uuid::Uuid;

use super::{
    invalidations::{Invalidations, Sequence},
    record::{Cached, Freshness},
};
use crate::auth::keys::key::LookupId;

/// `SipHash` under a random key: lookup ids are chosen by whoever sends them.
type LookupMap<V> = Cache<LookupId, V, UnitWeighter, RandomState>;

/// What is known of a lookup id.
#[derive(Debug)]
pub(super) enum Entry<T> {
    Present(Arc<Cached<T>>),
    Absent(Freshness),
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Present(cached) => Self::Present(Arc::clone(cached)),
            Self::Absent(freshness) => Self::Absent(*freshness),
        }
    }
}

#[derive(Debug)]
pub(super) struct Records<T> {
    present: LookupMap<Arc<Cached<T>>>,
    /// Apart from the records, so that a flood of made-up lookup ids evicts only its like.
    absent: LookupMap<Freshness>,
    lifetime: Duration,
    absent_lifetime: Duration,
    invalidations: Invalidations,
}

impl<T> Records<T> {
    pub(super) fn new((present, lifetime): (usize, Duration), (absent, absent_lifetime): (usize, Duration)) -> Self {
        Self {
            present: bounded(present),
            absent: bounded(absent),
            lifetime,
            absent_lifetime,
            invalidations: Invalidations::new(),
        }
    }

    /// What may be used at `now`.
    pub(super) fn get(&self, lookup: &LookupId, now: Instant) -> Option<Entry<T>> {
        let present = self.present.get(lookup).map(Entry::Present);
        if let Some(entry) = present
            && self.is_usable(&entry, now)
        {
            return Some(entry);
        }
        let absent = Entry::Absent(self.absent.get(lookup)?);
        self.is_usable(&absent, now).then_some(absent)
    }

    /// Young enough, and nothing was invalidated since. A lifetime of zero still lets a load's own
    /// caller use what it has loaded.
    pub(super) fn is_usable(&self, entry: &Entry<T>, now: Instant) -> bool {
        let (freshness, lifetime) = match entry {
            Entry::Present(cached) => (&cached.freshness, self.lifetime),
            Entry::Absent(freshness) => (freshness, self.absent_lifetime),
        };
        now.saturating_duration_since(freshness.loaded_at) <= lifetime
            && self.invalidations.is_current(&freshness.stamp)
    }

    /// Whether there was a record when last looked, usable or not. Such a lookup id is no made-up
    /// one.
    pub(super) fn is_known(&self, lookup: &LookupId) -> bool {
        self.present.contains_key(lookup)
    }

    pub(super) fn put(&self, lookup: LookupId, entry: &Entry<T>) {
        match entry {
            Entry::Present(cached) => {
                self.present.insert(lookup, Arc::clone(cached));
                self.absent.remove(&lookup);
            }
            Entry::Absent(freshness) => {
                self.absent.insert(lookup, *freshness);
                self.present.remove(&lookup);
            }
        }
    }

    /// To be noted before a load; see [`Invalidations::now`].
    pub(super) fn sequence(&self) -> Sequence {
        self.invalidations.now()
    }

    pub(super) fn freshness(
        &self,
        (loaded_at, read_at): (Instant, Sequence),
        lookup: &LookupId,
        organization: Option<Uuid>,
    ) -> Freshness {
        let stamp = self.invalidations.stamp(read_at, lookup, organization);
        Freshness { stamp, loaded_at }
    }

    pub(super) const fn invalidations(&self) -> &Invalidations {
        &self.invalidations
    }

    /// How many records and how many absences are kept.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.present.len(), self.absent.len())
    }
}

fn bounded<V: Clone>(capacity: usize) -> LookupMap<V> {
    let weight = u64::try_from(capacity).unwrap_or(u64::MAX);
    Cache::with(capacity, weight, UnitWeighter, RandomState::new(), DefaultLifecycle::default())
}
