//! When what was invalidated: decides whether a record that was read may still be used.
//!
//! Every invalidation takes the next number of one sequence and writes it to what it concerns: a
//! key, an organization, or all. A load notes the sequence *before* it reads the database, and its
//! record is current as long as nothing that concerns it carries a later number. So
//! - a load that began before an invalidation leaves nothing usable behind, whenever it ends and
//!   whatever it puts into the cache: the number is compared at each use, not at the insertion,
//!   and there is no moment between a check and an insertion to get wrong;
//! - suspending an organization with 100,000 cached keys is one write, and needs no index from
//!   organizations to keys; and the load need not know the organization before it has read it.
//!
//! Keys and organizations share a fixed number of cells by hash. Sharing errs on the safe side: an
//! unrelated record is read once more (1 in 4,096).

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use uuid::Uuid;

use crate::auth::keys::key::LookupId;

/// Cells for keys and cells for organizations; 32 KiB each.
const CELLS: usize = 4096;

/// A point in the sequence of invalidations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sequence(u64);

/// What was known when a record was read, and where to look for what came later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    read_at: Sequence,
    key_cell: usize,
    organization_cell: Option<usize>,
}

/// The sequence and the cells.
#[derive(Debug)]
pub(super) struct Invalidations {
    sequence: AtomicU64,
    all: AtomicU64,
    keys: Box<[AtomicU64]>,
    organizations: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Invalidations {
    pub(super) fn new() -> Self {
        let cells = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self {
            sequence: AtomicU64::new(0),
            all: AtomicU64::new(0),
            keys: cells(),
            organizations: cells(),
            hasher: RandomState::new(),
        }
    }

    /// To be noted before the database is read. Whoever sees the number of an invalidation here
    /// reads after it began, hence after the change that caused it was committed.
    pub(super) fn now(&self) -> Sequence {
        Sequence(self.sequence.load(Ordering::SeqCst))
    }

    /// The stamp of a record that was read after `read_at` was noted.
    pub(super) fn stamp(&self, read_at: Sequence, lookup: &LookupId, organization: Option<Uuid>) -> Stamp {
        Stamp {
            read_at,
            key_cell: self.cell(lookup),
            organization_cell: organization.map(|organization| self.cell(&organization)),
        }
    }

    /// Whether nothing that concerns the record was invalidated since it was read.
    pub(super) fn is_current(&self, stamp: &Stamp) -> bool {
        let until =
            |cell: Option<&AtomicU64>| cell.is_none_or(|cell| Sequence(cell.load(Ordering::SeqCst)) <= stamp.read_at);
        until(Some(&self.all))
            && until(self.keys.get(stamp.key_cell))
            && until(stamp.organization_cell.and_then(|cell| self.organizations.get(cell)))
    }

    pub(super) fn key(&self, lookup: &LookupId) {
        self.mark(self.keys.get(self.cell(lookup)));
    }

    pub(super) fn organization(&self, organization: &Uuid) {
        self.mark(self.organizations.get(self.cell(organization)));
    }

    pub(super) fn all(&self) {
        self.mark(Some(&self.all));
    }

    /// The maximum, because two invalidations may arrive here in either order.
    fn mark(&self, cell: Option<&AtomicU64>) {
        let number = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(cell) = cell {
            cell.fetch_max(number, Ordering::SeqCst);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits of the hash are used")]
    fn cell(&self, of: &impl Hash) -> usize {
        self.hasher.hash_one(of) as usize % CELLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(number: u64) -> LookupId {
        format!("{number:016}").parse().unwrap()
    }

    #[test]
    fn a_record_lasts_until_something_that_concerns_it_is_invalidated() {
        let log = Invalidations::new();
        let (mine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let events: [(&str, &dyn Fn(), bool); 5] = [
            ("another key", &|| log.key(&lookup(2)), true),
            ("another organization", &|| log.organization(&other), true),
            ("the key", &|| log.key(&lookup(1)), false),
            ("the organization", &|| log.organization(&mine), false),
            ("all", &|| log.all(), false),
        ];
        assert!(log.cell(&lookup(1)) != log.cell(&lookup(2)) && log.cell(&mine) != log.cell(&other));
        for (name, event, stays) in events {
            let stamp = log.stamp(log.now(), &lookup(1), Some(mine));
            assert!(log.is_current(&stamp));
            event();
            assert_eq!(log.is_current(&stamp), stays, "{name}");
            assert!(log.is_current(&log.stamp(log.now(), &lookup(1), Some(mine))), "{name}");
        }
    }

    #[test]
    fn a_read_that_began_before_is_stale_however_late_it_is_stamped() {
        let log = Invalidations::new();
        let before = log.now();
        log.organization(&Uuid::from_u128(1));
        assert!(!log.is_current(&log.stamp(before, &lookup(1), Some(Uuid::from_u128(1)))));
        assert!(log.is_current(&log.stamp(before, &lookup(1), None)));
    }

    #[test]
    fn few_others_are_hit() {
        let log = Invalidations::new();
        let read_at = log.now();
        log.key(&lookup(0));
        let hit = (1..100_000).filter(|n| !log.is_current(&log.stamp(read_at, &lookup(*n), None))).count();
        assert!(hit < 100, "{hit} of 100,000, 24 expected");
    }
}
