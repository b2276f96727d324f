//! Usage events, and what they add up to.

mod event_id;
mod measurement;
mod quantity;
pub mod query;
mod recorded;
mod series;
mod tally;

use chrono::{DateTime, DurationRound as _, SubsecRound as _, TimeDelta, Utc};
use uuid::Uuid;

use crate::ids::MeterId;
use crate::model::meter::Aggregation;

pub use event_id::EventId;
pub use measurement::{Measurement, Unmeasured};
pub use quantity::Quantity;
pub use recorded::{RecordedEvent, Void};
pub use series::{NamedSeries, Series, SeriesId};
pub use tally::{Tallies, Tally, TallyKey, tally};

use series::hashed;

/// The most events of one request.
pub const REQUEST_EVENTS: usize = 5000;

/// The most characters of a subject, and of a value that figures are grouped by.
pub const SUBJECT_CHARACTERS: usize = 128;

/// The most bytes that the properties of an event may be as JSON.
pub const PROPERTIES_BYTES: usize = 4 << 10;

/// How deep the properties of an event may be nested.
pub const PROPERTIES_DEPTH: usize = 4;

/// The seconds of the finer buckets that aggregates are kept in.
pub const QUARTER_SECONDS: i64 = 900;

/// The seconds of the coarser ones.
pub const HOUR_SECONDS: i64 = 3600;

/// An event as it is stored. Its identity in its organization is `(occurred_at, event_id)`; the rest is its payload, and
/// what its meter makes of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Chosen by its producer, or by the server.
    pub event_id: EventId,
    /// When it happened, in whole milliseconds.
    pub occurred_at: DateTime<Utc>,
    /// What it counts for.
    pub meter_id: MeterId,
    /// How the meter adds up.
    pub aggregation: Aggregation,
    /// How much.
    pub quantity: Quantity,
    /// Which value, where distinct ones are counted.
    pub value_id: Option<Uuid>,
    /// The finest series that it counts for beside the whole; none where it has neither subject nor groups.
    pub series: Option<NamedSeries>,
    /// A JSON object as text, written by serde with its keys in order, so that equal properties are equal text; `None`
    /// when there are none.
    pub properties: Option<String>,
}

impl Event {
    /// What tells it from the other events of its organization, in the order of the primary key.
    #[must_use]
    pub fn identity(&self) -> (DateTime<Utc>, Uuid) {
        (self.occurred_at, self.event_id.uuid())
    }

    /// Of whom; may be empty.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.series.as_ref().map_or("", |of| &of.series.subject)
    }

    /// The bytes it holds in memory, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts = self.series.iter().flat_map(|of| of.series.group_values.iter().chain([&of.series.subject]));
        size_of::<Self>()
            + texts.map(|text| size_of::<String>() + text.len()).sum::<usize>()
            + self.event_id.name().map_or(0, str::len)
            + self.properties.as_ref().map_or(0, String::len)
    }

    /// The series that it counts for, the whole among them.
    pub fn series_ids(&self) -> impl Iterator<Item = SeriesId> + use<> {
        let (id, parent) = self.series.as_ref().map(|of| (of.id, of.parent)).unzip();
        [Some(SeriesId::WHOLE), id, parent.flatten()].into_iter().flatten()
    }
}

/// A time in whole milliseconds, cut off towards the past: the precision of an event's identity.
#[must_use]
pub fn whole_milliseconds(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(3)
}

/// The start of the quarter of an hour, in UTC, that the time is in.
#[must_use]
pub fn quarter(time: DateTime<Utc>) -> DateTime<Utc> {
    // Fails beyond the year 2262 only, where no event is accepted.
    time.duration_trunc(TimeDelta::seconds(QUARTER_SECONDS)).unwrap_or(time)
}

/// The start of the hour, in UTC, that the time is in.
#[must_use]
pub fn hour(time: DateTime<Utc>) -> DateTime<Utc> {
    // As for a quarter.
    time.duration_trunc(TimeDelta::seconds(HOUR_SECONDS)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut() {
        let time = DateTime::from_timestamp(1_700_000_123, 456_789_000).unwrap();
        assert_eq!(whole_milliseconds(time).timestamp_subsec_nanos(), 456_000_000);
        assert_eq!(quarter(time).timestamp(), 1_700_000_100);
        assert_eq!(hour(time).timestamp(), 1_699_999_200);
    }
}
