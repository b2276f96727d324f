//! Usage events, and what they add up to.

mod event_id;
mod quantity;

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound as _, SubsecRound as _, TimeDelta, Utc};
use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::ids::{MeterId, OrganizationId};

pub use event_id::EventId;
pub use quantity::Quantity;

/// The most events of one request.
pub const REQUEST_EVENTS: usize = 1000;

/// The most bytes that the properties of an event may be as JSON.
pub const PROPERTIES_BYTES: usize = 4 << 10;

/// How deep the properties of an event may be nested.
pub const PROPERTIES_DEPTH: usize = 4;

/// The seconds of the buckets that aggregates are kept in.
pub const QUARTER_SECONDS: i64 = 900;

/// An event as it is stored. Its identity in its organization is `(occurred_at, event_id)`; the rest is its payload.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Chosen by its producer, or by the server.
    pub event_id: EventId,
    /// When it happened, in whole milliseconds.
    pub occurred_at: DateTime<Utc>,
    /// What it counts for.
    pub meter_id: MeterId,
    /// How much.
    pub quantity: Quantity,
    /// Of whom; may be empty.
    pub subject: String,
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

    /// The bytes it holds in memory, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.subject.len()
            + self.event_id.name().map_or(0, str::len)
            + self.properties.as_ref().map_or(0, String::len)
    }

    /// What the event adds to each of the series it is part of.
    fn contributions(&self) -> impl Iterator<Item = (SeriesId, Tally)> + use<> {
        let tally = Tally { event_count: 1, quantity_sum: self.quantity.decimal() };
        let of_subject = (!self.subject.is_empty()).then(|| SeriesId::of_subject(&self.subject));
        std::iter::once(SeriesId::WHOLE).chain(of_subject).map(move |series| (series, tally))
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

/// A series of aggregates within a meter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SeriesId(Uuid);

impl SeriesId {
    /// The meter as a whole.
    pub const WHOLE: Self = Self(Uuid::nil());

    /// The events of one subject, which is not empty.
    #[must_use]
    pub fn of_subject(subject: &str) -> Self {
        Self(hashed(subject))
    }

    /// As stored.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// Where an aggregate is kept, in the order of the primary key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TallyKey {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The meter.
    pub meter_id: MeterId,
    /// The series of the meter.
    pub series_id: SeriesId,
    /// The start of the quarter of an hour.
    pub bucket_start: DateTime<Utc>,
}

/// What some events add up to.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Tally {
    /// How many they are.
    pub event_count: i64,
    /// The sum of their quantities. Exact for up to 79,000 events, where 15 and 9 digits fill the 96 bits; a batch has
    /// fewer.
    pub quantity_sum: Decimal,
}

/// What was added up, in the order in which rows are locked, the same on every replica.
pub type Tallies = BTreeMap<TallyKey, Tally>;

/// Adds up events of any organizations, series by series.
#[must_use]
pub fn tally<'a>(events: impl IntoIterator<Item = (OrganizationId, &'a Event)>) -> Tallies {
    let mut tallies = Tallies::new();
    for (organization_id, event) in events {
        let bucket_start = quarter(event.occurred_at);
        for (series_id, part) in event.contributions() {
            let key = TallyKey { organization_id, meter_id: event.meter_id, series_id, bucket_start };
            let tally = tallies.entry(key).or_default();
            tally.event_count += part.event_count;
            tally.quantity_sum += part.quantity_sum;
        }
    }
    tallies
}

/// A UUIDv8 of the SHA-256 of a text: 16 bytes whatever its length.
fn hashed(text: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(text)[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(milliseconds).unwrap()
    }

    #[test]
    fn an_event_counts_once_for_its_meter_and_once_for_its_subject() {
        let organization = OrganizationId::from(Uuid::from_u128(1));
        let event = |subject: &str, quantity: &str, occurred_at| Event {
            event_id: EventId::read("event_id", "x").unwrap(),
            occurred_at,
            meter_id: MeterId::from(Uuid::from_u128(2)),
            quantity: Quantity::parse("quantity", quantity).unwrap(),
            subject: subject.into(),
            properties: None,
        };
        let events = [event("", "0.1", at(0)), event("ada", "0.2", at(899_999)), event("ada", "4", at(900_000))];
        let tallies = tally(events.iter().map(|event| (organization, event)));
        let found: Vec<_> = tallies
            .iter()
            .map(|(key, tally)| {
                let whole = key.series_id == SeriesId::WHOLE;
                (whole, key.bucket_start.timestamp(), tally.event_count, tally.quantity_sum.to_string())
            })
            .collect();
        let expected = [(true, 0, 2, "0.3"), (true, 900, 1, "4"), (false, 0, 1, "0.2"), (false, 900, 1, "4")];
        assert_eq!(found, expected.map(|(whole, bucket, count, sum)| (whole, bucket, count, sum.to_owned())));
    }

    #[test]
    fn the_largest_sum_of_a_batch_is_exact() {
        let largest = Quantity::parse("quantity", "999999999999999.999999999").unwrap().decimal();
        let sum = (0..79_000).fold(Decimal::ZERO, |sum, _| sum + largest);
        assert_eq!(sum.to_string(), "78999999999999999999.999921000");
    }

    #[test]
    fn times_are_cut() {
        let time = DateTime::from_timestamp(1_700_000_123, 456_789_000).unwrap();
        assert_eq!(whole_milliseconds(time).timestamp_subsec_nanos(), 456_000_000);
        assert_eq!(quarter(time).timestamp(), 1_700_000_100);
        assert_eq!(SeriesId::of_subject("ada").uuid().get_version_num(), 8);
    }
}
