//! What many organizations have in common, kept once: all that is in force by a plan.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Limits;
use crate::ids::OrganizationId;
use crate::model::plan::PolicyRows;

/// How many copies there are at the most, for as many groups of organizations: each decision counts references to the limits
/// that it is about, and threads that count the same ones at the same time wait for each other.
const COPIES: u8 = 64;

/// The fewest entries that are looked through for those that nobody has any more.
const ENTRIES: usize = 256;

/// Whose copy, by the number of the copy: a plan's, in a version.
type Key = (u8, String, i64);

/// Limits by plan.
#[derive(Debug, Default)]
pub struct Interner(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_plan: HashMap<Key, Weak<Limits>>,
    /// How many there were when those that nobody has were given up.
    kept: usize,
}

impl Interner {
    /// What is equal to the given limits, if it is known, or these. The plan only says where to look: meters may have changed
    /// meanwhile.
    pub(super) fn intern(&self, organization_id: OrganizationId, rows: &PolicyRows, limits: Limits) -> Arc<Limits> {
        // The end of an id is random.
        let copy = organization_id.uuid().as_bytes()[15] % COPIES;
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Entries { by_plan, kept } = &mut *entries;
        let known = by_plan.entry((copy, rows.plan.clone(), rows.plan_version)).or_default();
        if let Some(known) = known.upgrade().filter(|known| **known == limits) {
            return known;
        }
        let limits = Arc::new(limits);
        *known = Arc::downgrade(&limits);
        if by_plan.len() > ENTRIES.max(2 * *kept) {
            by_plan.retain(|_, known| known.strong_count() > 0);
            *kept = by_plan.len();
        }
        limits
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_plan.len()
    }
}
