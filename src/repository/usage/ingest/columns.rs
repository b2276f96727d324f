//! Events and aggregates as columns: arrays, which is how the statements of the writer take any number of them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::model::usage::{Tally, TallyKey};
use crate::repository::usage::ingest::Entry;

/// Events as columns.
pub(super) struct Columns<'a> {
    pub(super) organization_ids: Vec<Uuid>,
    pub(super) occurred_at: Vec<DateTime<Utc>>,
    pub(super) event_ids: Vec<Uuid>,
    pub(super) meter_ids: Vec<Uuid>,
    pub(super) quantities: Vec<Decimal>,
    pub(super) subjects: Vec<&'a str>,
    pub(super) names: Vec<Option<&'a str>>,
    pub(super) properties: Vec<Option<&'a str>>,
    pub(super) series_ids: Vec<Option<Uuid>>,
    pub(super) value_ids: Vec<Option<Uuid>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(entries: &[Entry<'a>]) -> Self {
        Self {
            organization_ids: entries.iter().map(|(organization_id, _)| organization_id.uuid()).collect(),
            occurred_at: entries.iter().map(|(_, event)| event.occurred_at).collect(),
            event_ids: entries.iter().map(|(_, event)| event.event_id.uuid()).collect(),
            meter_ids: entries.iter().map(|(_, event)| event.meter_id.uuid()).collect(),
            quantities: entries.iter().map(|(_, event)| event.quantity.decimal()).collect(),
            subjects: entries.iter().map(|(_, event)| event.subject()).collect(),
            names: entries.iter().map(|(_, event)| event.event_id.name()).collect(),
            properties: entries.iter().map(|(_, event)| event.properties.as_deref()).collect(),
            series_ids: entries.iter().map(|(_, event)| event.series.as_ref().map(|of| of.id.uuid())).collect(),
            value_ids: entries.iter().map(|(_, event)| event.value_id).collect(),
        }
    }
}

/// Aggregates as columns.
pub(super) struct Aggregates {
    pub(super) organization_ids: Vec<Uuid>,
    pub(super) meter_ids: Vec<Uuid>,
    pub(super) series_ids: Vec<Uuid>,
    pub(super) bucket_starts: Vec<DateTime<Utc>>,
    pub(super) event_counts: Vec<i64>,
    pub(super) quantity_sums: Vec<Decimal>,
    pub(super) quantity_mins: Vec<Option<Decimal>>,
    pub(super) quantity_maxs: Vec<Option<Decimal>>,
    pub(super) latest_at: Vec<Option<DateTime<Utc>>>,
    pub(super) latest_event_ids: Vec<Option<Uuid>>,
    pub(super) latest_quantities: Vec<Option<Decimal>>,
}

impl Aggregates {
    pub(super) fn of(tallies: &BTreeMap<TallyKey, Tally>) -> Self {
        let (keys, tallies) = (|| tallies.keys(), || tallies.values());
        Self {
            organization_ids: keys().map(|key| key.organization_id.uuid()).collect(),
            meter_ids: keys().map(|key| key.meter_id.uuid()).collect(),
            series_ids: keys().map(|key| key.series_id.uuid()).collect(),
            bucket_starts: keys().map(|key| key.bucket_start).collect(),
            event_counts: tallies().map(|tally| tally.event_count).collect(),
            quantity_sums: tallies().map(|tally| tally.quantity_sum).collect(),
            quantity_mins: tallies().map(|tally| tally.quantity_min).collect(),
            quantity_maxs: tallies().map(|tally| tally.quantity_max).collect(),
            latest_at: tallies().map(|tally| tally.latest.map(|((at, _), _)| at)).collect(),
            latest_event_ids: tallies().map(|tally| tally.latest.map(|((_, id), _)| id)).collect(),
            latest_quantities: tallies().map(|tally| tally.latest.map(|(_, quantity)| quantity)).collect(),
        }
    }
}
