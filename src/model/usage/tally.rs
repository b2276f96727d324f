//! What events add up to: the same whatever the order and the batches they come in.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::ids::{MeterId, OrganizationId};
use crate::model::meter::Aggregation;
use crate::model::usage::{Event, SeriesId, hour, quarter};

/// Where an aggregate is kept, in the order of the primary key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TallyKey {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The meter.
    pub meter_id: MeterId,
    /// The series of the meter.
    pub series_id: SeriesId,
    /// The start of the quarter of an hour, or of the hour.
    pub bucket_start: DateTime<Utc>,
}

/// What some events of a meter add up to. Beside number and sum only what the meter asks for.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Tally {
    /// How many they are.
    pub event_count: i64,
    /// The sum of their quantities. Exact for up to 79,000 events, where 15 and 9 digits fill the 96 bits; a batch has
    /// fewer.
    pub quantity_sum: Decimal,
    /// The least quantity.
    pub quantity_min: Option<Decimal>,
    /// The greatest quantity.
    pub quantity_max: Option<Decimal>,
    /// The latest event by time and identity, and its quantity.
    pub latest: Option<((DateTime<Utc>, Uuid), Decimal)>,
}

impl Tally {
    fn of(event: &Event) -> Self {
        let quantity = event.quantity.decimal();
        let mut tally = Self { event_count: 1, quantity_sum: quantity, ..Self::default() };
        match event.aggregation {
            Aggregation::Count | Aggregation::Sum | Aggregation::Avg | Aggregation::UniqueCount => {}
            Aggregation::Min => tally.quantity_min = Some(quantity),
            Aggregation::Max => tally.quantity_max = Some(quantity),
            Aggregation::Latest => tally.latest = Some((event.identity(), quantity)),
        }
        tally
    }

    fn add(&mut self, other: &Self) {
        self.event_count += other.event_count;
        self.quantity_sum += other.quantity_sum;
        self.quantity_min = [self.quantity_min, other.quantity_min].into_iter().flatten().min();
        self.quantity_max = self.quantity_max.max(other.quantity_max);
        self.latest = [self.latest, other.latest].into_iter().flatten().max_by_key(|(identity, _)| *identity);
    }
}

/// What was added up, in the order in which rows are locked, the same on every replica.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Tallies {
    /// By the quarter of an hour.
    pub quarters: BTreeMap<TallyKey, Tally>,
    /// By the hour: the same once more.
    pub hours: BTreeMap<TallyKey, Tally>,
    /// The distinct values of the meters that count them, by the quarter of an hour.
    pub unique_values: BTreeSet<(TallyKey, Uuid)>,
}

/// Adds up events of any organizations, series by series.
#[must_use]
pub fn tally<'a>(events: impl IntoIterator<Item = (OrganizationId, &'a Event)>) -> Tallies {
    let mut tallies = Tallies::default();
    for (organization_id, event) in events {
        let bucket_start = quarter(event.occurred_at);
        let tally = Tally::of(event);
        for series_id in event.series_ids() {
            let key = TallyKey { organization_id, meter_id: event.meter_id, series_id, bucket_start };
            tallies.quarters.entry(key).or_default().add(&tally);
            tallies.unique_values.extend(event.value_id.map(|value| (key, value)));
        }
    }
    // Of the quarters, which are fewer than the events.
    for (key, tally) in &tallies.quarters {
        let key = TallyKey { bucket_start: hour(key.bucket_start), ..*key };
        tallies.hours.entry(key).or_default().add(tally);
    }
    tallies
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
