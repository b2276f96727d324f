//! Tests of what events add up to: once for each series, whatever their order.

use proptest::prelude::*;

use super::*;
use crate::model::usage::{EventId, NamedSeries, Quantity};

fn at(milliseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(milliseconds).unwrap()
}

fn event(aggregation: Aggregation, subject: &str, groups: &[&str], quantity: &str, milliseconds: i64) -> Event {
    Event {
        event_id: EventId::read("event_id", "x").unwrap(),
        occurred_at: at(milliseconds),
        meter_id: MeterId::from(Uuid::from_u128(2)),
        aggregation,
        quantity: Quantity::parse("quantity", quantity).unwrap(),
        value_id: None,
        series: NamedSeries::of(subject, groups.iter().map(ToString::to_string).collect()),
        properties: None,
    }
}

fn tallied<'a>(events: impl IntoIterator<Item = &'a Event>) -> Tallies {
    tally(events.into_iter().map(|event| (OrganizationId::from(Uuid::from_u128(1)), event)))
}

#[test]
fn an_event_counts_once_for_each_of_its_series() {
    let sum = |subject: &str, quantity: &str, at| event(Aggregation::Sum, subject, &[], quantity, at);
    let events = [sum("", "0.1", 0), sum("ada", "0.2", 899_999), sum("ada", "4", 900_000)];
    let found: Vec<_> = tallied(&events)
        .quarters
        .iter()
        .map(|(key, tally)| {
            let whole = key.series_id == SeriesId::WHOLE;
            (whole, key.bucket_start.timestamp(), tally.event_count, tally.quantity_sum.to_string())
        })
        .collect();
    let expected = [(true, 0, 2, "0.3"), (true, 900, 1, "4"), (false, 0, 1, "0.2"), (false, 900, 1, "4")];
    assert_eq!(found, expected.map(|(whole, bucket, count, sum)| (whole, bucket, count, sum.to_owned())));

    let grouped = [
        event(Aggregation::Count, "ada", &["x"], "1", 0),
        event(Aggregation::Count, "bob", &["x"], "1", 0),
        event(Aggregation::Count, "", &["x"], "1", 0),
    ];
    let counts: Vec<i64> = tallied(&grouped).quarters.values().map(|tally| tally.event_count).collect();
    assert_eq!(counts.iter().sum::<i64>(), 3 + 3 + 2, "the whole, the group, and two subjects");
}

#[test]
fn hours_are_the_folds_of_their_quarters() {
    let minutes = |minutes: i64| minutes * 60_000;
    // The last one sent is not the latest, and the greatest is in the middle.
    let sent = [("1", 60), ("4", 100), ("3", 119), ("2", 75), ("9", 120), ("8", 59)];
    let of = |aggregation| {
        let events = sent.map(|(quantity, at)| event(aggregation, "", &[], quantity, minutes(at)));
        let found = tallied(&events);
        assert_eq!((found.quarters.len(), found.hours.len()), (6, 3));
        let (key, tally) = found.hours.into_iter().nth(1).unwrap();
        assert_eq!(key.bucket_start, at(minutes(60)));
        tally
    };
    let (sum, least, most, latest) =
        (of(Aggregation::Sum), of(Aggregation::Min), of(Aggregation::Max), of(Aggregation::Latest));
    assert_eq!((sum.event_count, sum.quantity_sum), (4, Decimal::from(10)));
    assert_eq!((least.quantity_min, most.quantity_max), (Some(Decimal::ONE), Some(Decimal::from(4))));
    assert_eq!(latest.latest.map(|((at, _), quantity)| (at, quantity)), Some((at(minutes(119)), Decimal::from(3))));
}

#[test]
fn each_aggregation_keeps_what_it_needs() {
    let of = |aggregation| {
        let events = [("3", 20), ("1", 10), ("2", 30)].map(|(quantity, at)| event(aggregation, "", &[], quantity, at));
        let tallies = tallied(&events);
        let tally = *tallies.quarters.values().next().unwrap();
        let text = |value: Option<Decimal>| value.map(|value| value.to_string());
        (text(tally.quantity_min), text(tally.quantity_max), text(tally.latest.map(|(_, quantity)| quantity)))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(Aggregation::Avg), (None, None, None));
    assert_eq!(of(Aggregation::Min), (some("1"), None, None));
    assert_eq!(of(Aggregation::Max), (None, some("3"), None));
    assert_eq!(of(Aggregation::Latest), (None, None, some("2")));
}

#[test]
fn distinct_values_are_kept_for_each_series() {
    let value = |subject: &str, value: u128| Event {
        value_id: Some(Uuid::from_u128(value)),
        ..event(Aggregation::UniqueCount, subject, &[], "1", 0)
    };
    let events = [value("ada", 1), value("ada", 1), value("bob", 1), value("", 2)];
    assert_eq!(tallied(&events).unique_values.len(), 2 + 1 + 1);
}

#[test]
fn the_largest_sum_of_a_batch_is_exact() {
    let largest = Quantity::parse("quantity", "999999999999999.999999999").unwrap().decimal();
    let sum = (0..79_000).fold(Decimal::ZERO, |sum, _| sum + largest);
    assert_eq!(sum.to_string(), "78999999999999999999.999921000");
}

proptest! {
    #[test]
    fn the_order_of_events_does_not_matter(
        sent in prop::collection::vec((0_usize..7, "[ab]?", 0_u32..50, 0_i64..2_000_000), 1..40),
        cut in 0_usize..40,
    ) {
        let aggregations = [
            Aggregation::Count, Aggregation::Sum, Aggregation::Min, Aggregation::Max, Aggregation::Avg,
            Aggregation::Latest, Aggregation::UniqueCount,
        ];
        let events: Vec<Event> = sent.iter().enumerate().map(|(number, (aggregation, subject, quantity, at))| Event {
            event_id: EventId::read("event_id", &number.to_string()).unwrap(),
            meter_id: MeterId::from(Uuid::from_u128(*aggregation as u128)),
            ..event(aggregations[*aggregation], subject, &[], &quantity.to_string(), *at)
        }).collect();
        let cut = cut.min(events.len());
        let turned = events[cut..].iter().chain(&events[..cut]);
        prop_assert_eq!(tallied(turned), tallied(&events));
    }
}
