//! The series that are named in the database, as far as this replica has seen, so that an event names its series once and
//! not at every batch. A name is never taken back, so what is known stays true.

use std::collections::BTreeMap;

use quick_cache::sync::Cache;

use crate::model::usage::NamedSeries;
use crate::repository::usage::ingest::{Entry, SeriesKey};

/// Series that are remembered, of 48 bytes each; one that was forgotten is named again, for nothing.
const CAPACITY: usize = 200_000;

/// Which series are known.
#[derive(Debug)]
pub struct KnownSeries(Cache<SeriesKey, ()>);

impl KnownSeries {
    /// None.
    pub fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// The series of the events that are not known, with their parents.
    pub fn unknown(&self, entries: &[Entry<'_>]) -> BTreeMap<SeriesKey, NamedSeries> {
        let mut unknown = BTreeMap::new();
        for (organization_id, event) in entries {
            let Some(series) = &event.series else { continue };
            let key = (*organization_id, event.meter_id, series.id);
            if unknown.contains_key(&key) || self.0.get(&key).is_some() {
                continue;
            }
            if let Some(parent) = series.parent_series() {
                unknown.insert((*organization_id, event.meter_id, parent.id), parent);
            }
            unknown.insert(key, series.clone());
        }
        unknown
    }

    /// To be called when they are committed, and not before.
    pub fn remember(&self, named: BTreeMap<SeriesKey, NamedSeries>) {
        for key in named.into_keys() {
            self.0.insert(key, ());
        }
    }
}
