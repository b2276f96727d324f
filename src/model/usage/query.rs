//! What a query of usage reads: which series, and which part of its range from aggregates by the hour, by the quarter of an
//! hour, and from raw events. Pure.

use std::ops::Range;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use crate::error::{Error, Violation};
use crate::model::meter::Measure;
use crate::model::usage::{HOUR_SECONDS, QUARTER_SECONDS};

/// A stretch of time, its end exclusive.
pub type Span = Range<DateTime<Utc>>;

/// Whose usage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subjects {
    /// Everybody's together.
    All,
    /// That of one subject, whose name is not empty.
    One(String),
    /// That of each subject by itself; events without one are left out.
    Each,
}

/// A condition on a property: it has one of the values, where empty text stands for no value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Its name.
    pub property: String,
    /// The values.
    pub values: Vec<String>,
}

/// Which events of a meter are asked for, and how they are grouped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// Whose.
    pub subjects: Subjects,
    /// The properties they are grouped by: places in the meter's `group_by`.
    pub group_by: Vec<usize>,
    /// Conditions on properties that the meter groups by: place in its `group_by`, and values.
    pub filters: Vec<(usize, Vec<String>)>,
    /// Conditions on other properties, which only raw events have.
    pub raw_filters: Vec<Filter>,
}

impl Selection {
    /// What a request means for a meter. Error: `INVALID_FIELD` on `group_by` for a property that the meter does not
    /// group by.
    pub fn new(
        measure: &Measure,
        subjects: Subjects,
        group_by: &[String],
        filters: Vec<Filter>,
    ) -> Result<Self, Error> {
        let place = |property: &String| measure.group_by.iter().position(|key| key == property);
        let group_by = group_by.iter().map(|property| {
            place(property).ok_or_else(|| {
                let rule = format!("must be among the properties that the meter groups by, which {property:?} is not");
                Violation::new("group_by", rule)
            })
        });
        let group_by = group_by.collect::<Result<_, _>>()?;
        let (mut declared, mut raw_filters) = (Vec::new(), Vec::new());
        for filter in filters {
            match place(&filter.property) {
                Some(place) => declared.push((place, filter.values)),
                None => raw_filters.push(filter),
            }
        }
        Ok(Self { subjects, group_by, filters: declared, raw_filters })
    }

    /// Whether it is all events of the meter together, which have a series of their own.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.subjects == Subjects::All && self.group_by.is_empty() && self.filters.is_empty()
    }

    /// Whether figures are asked for group by group.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        self.subjects == Subjects::Each || !self.group_by.is_empty()
    }
}

/// Where the figures of a range come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sources {
    /// From aggregates; on quarters of an hour, and may be empty. What `hours` and `quarters` are parts of.
    pub aggregates: Span,
    /// Of these, what is read by the hour: hours that lie whole in one bucket.
    pub hours: Vec<Span>,
    /// And what is left, by the quarter of an hour: at most two where all boundaries are hours, however many those are.
    pub quarters: Vec<Span>,
    /// From raw events: at most two.
    pub raw: Vec<Span>,
}

impl Sources {
    /// The sources for the buckets that the boundaries cut: as much as possible from aggregates, unless `raw_only`.
    /// There are at least two boundaries, ascending.
    #[must_use]
    pub fn of(boundaries: &[DateTime<Utc>], raw_only: bool) -> Self {
        let (Some(&start), Some(&end)) = (boundaries.first(), boundaries.last()) else {
            return Self::raw(DateTime::UNIX_EPOCH..DateTime::UNIX_EPOCH);
        };
        let quarter = TimeDelta::seconds(QUARTER_SECONDS);
        let inner = boundaries.get(1..boundaries.len() - 1).unwrap_or_default();
        let (from, to) = (ceiling(start, quarter), floor(end, quarter));
        if raw_only || from >= to || inner.iter().any(|boundary| floor(*boundary, quarter) != *boundary) {
            return Self::raw(start..end);
        }
        let (mut hours, mut quarters, mut raw) = (Vec::new(), Vec::new(), Vec::new());
        extend(&mut raw, start..from);
        extend(&mut raw, to..end);
        let mut begin = from;
        for end in inner.iter().copied().chain([to]) {
            let hour = TimeDelta::seconds(HOUR_SECONDS);
            // Without a whole hour, they meet or pass each other.
            let (first, last) = (ceiling(begin, hour), floor(end, hour));
            if first < last {
                extend(&mut quarters, begin..first);
                extend(&mut hours, first..last);
                extend(&mut quarters, last..end);
            } else {
                extend(&mut quarters, begin..end);
            }
            begin = end;
        }
        Self { aggregates: from..to, hours, quarters, raw }
    }

    /// All from raw events.
    fn raw(span: Span) -> Self {
        let mut raw = Vec::new();
        extend(&mut raw, span.clone());
        Self { aggregates: span.start..span.start, hours: Vec::new(), quarters: Vec::new(), raw }
    }

    /// The earliest time of which raw events are needed.
    #[must_use]
    pub fn raw_since(&self) -> Option<DateTime<Utc>> {
        self.raw.iter().map(|span| span.start).min()
    }
}

/// Cut off to a whole number of units.
fn floor(time: DateTime<Utc>, unit: TimeDelta) -> DateTime<Utc> {
    // Fails beyond the year 2262 only, which the rules of times refuse.
    time.duration_trunc(unit).unwrap_or(time)
}

fn ceiling(time: DateTime<Utc>, unit: TimeDelta) -> DateTime<Utc> {
    let floor = floor(time, unit);
    if floor == time { time } else { floor + unit }
}

/// Adds a span behind the others, if it is not empty: to the last one where that ends at its start, so that there are few.
fn extend(spans: &mut Vec<Span>, span: Span) {
    match spans.last_mut() {
        _ if span.is_empty() => {}
        Some(last) if last.end == span.start => last.end = span.end,
        _ => spans.push(span),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::meter::Aggregation;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(minutes * 60, 0).unwrap()
    }

    fn sources(boundaries: &[i64]) -> Sources {
        Sources::of(&boundaries.iter().copied().map(at).collect::<Vec<_>>(), false)
    }

    #[test]
    fn aggregates_answer_what_they_can() {
        let whole = Sources { aggregates: at(0)..at(120), hours: vec![at(0)..at(120)], quarters: vec![], raw: vec![] };
        assert_eq!(sources(&[0, 60, 120]), whole, "one span, however many buckets");
        let edges = Sources {
            aggregates: at(15)..at(120),
            hours: vec![at(60)..at(120)],
            quarters: vec![at(15)..at(60)],
            raw: vec![at(7)..at(15), at(120)..at(121)],
        };
        assert_eq!(sources(&[7, 60, 121]), edges);
        assert_eq!(edges.raw_since(), Some(at(7)));
        assert_eq!(sources(&[1, 14]).raw, [at(1)..at(14)], "inside one quarter");
        assert_eq!(sources(&[1, 15, 16]).raw, [at(1)..at(16)], "no whole quarter");
        assert_eq!(sources(&[0, 1, 30]).raw, [at(0)..at(30)], "buckets finer than a quarter");
        assert_eq!(Sources::of(&[at(0), at(60)], true).raw, [at(0)..at(60)]);
    }

    #[test]
    fn hours_answer_where_they_lie_in_one_bucket() {
        let parts = |boundaries: &[i64]| {
            let found = sources(boundaries);
            assert_eq!(found.raw, []);
            (found.hours, found.quarters)
        };
        let spans = |spans: &[(i64, i64)]| spans.iter().map(|(start, end)| at(*start)..at(*end)).collect::<Vec<_>>();
        assert_eq!(parts(&[45, 195]), (spans(&[(60, 180)]), spans(&[(45, 60), (180, 195)])));
        // Days that begin at a quarter past the hour, as in Kathmandu: the hour that two of them share is one span.
        let days = (
            spans(&[(60, 18 * 60), (19 * 60, 42 * 60)]),
            spans(&[(15, 60), (18 * 60, 19 * 60), (42 * 60, 42 * 60 + 15)]),
        );
        assert_eq!(parts(&[15, 18 * 60 + 15, 42 * 60 + 15]), days);
        // Hours that begin at half past.
        assert_eq!(parts(&[30, 90, 150, 210]), (spans(&[]), spans(&[(30, 210)])));
        // Lord Howe sets its clocks back: an hour that is the half of one.
        assert_eq!(parts(&[60, 120, 150, 210, 270]), (spans(&[(60, 120)]), spans(&[(120, 270)])));
        assert_eq!(parts(&[15, 45]), (spans(&[]), spans(&[(15, 45)])), "within an hour");
    }

    #[test]
    fn filters_are_parted_by_what_the_meter_groups_by() {
        let measure = Measure {
            aggregation: Aggregation::Sum,
            value_property: None,
            group_by: vec!["model".into(), "region".into()],
            filter: vec![],
        };
        let filter = |property: &str| Filter { property: property.into(), values: vec!["x".into()] };
        let select = |group_by: &[String], filters| Selection::new(&measure, Subjects::All, group_by, filters);
        let found = select(&["region".into()], vec![filter("zone"), filter("model")]).unwrap();
        assert_eq!((found.group_by, found.filters), (vec![1], vec![(0, vec!["x".to_owned()])]));
        assert_eq!(found.raw_filters, [filter("zone")]);
        assert!(select(&["zone".into()], vec![]).is_err());
        assert!(select(&[], vec![filter("zone")]).unwrap().is_whole(), "the raw events of the whole are filtered");
        assert!(!select(&[], vec![filter("model")]).unwrap().is_whole());
    }

    proptest! {
        #[test]
        fn the_sources_are_the_range_cut_without_gap_or_overlap(
            start in 0_i64..100_000, length in 1_i64..10_000, cuts in prop::collection::btree_set(1_i64..200, 0..4),
        ) {
            let end = start + length;
            let inner = cuts.into_iter().map(|cut| (start / 15 + cut) * 15).filter(|cut| (start + 1..end).contains(cut));
            let boundaries: Vec<_> = std::iter::once(start).chain(inner).chain([end]).map(at).collect();
            let found = Sources::of(&boundaries, false);
            let whole = |spans: &mut Vec<Span>, range: &Span| {
                spans.sort_by_key(|span| span.start);
                !spans.iter().any(Span::is_empty)
                    && spans.windows(2).all(|pair| pair[0].end == pair[1].start)
                    && (range.is_empty() && spans.is_empty()
                        || spans.first().is_some_and(|first| first.start == range.start)
                            && spans.last().is_some_and(|last| last.end == range.end))
            };
            let mut aggregates = [found.hours.clone(), found.quarters.clone()].concat();
            prop_assert!(whole(&mut aggregates, &found.aggregates), "{:?}", found);
            let mut all = [found.raw.clone(), aggregates].concat();
            prop_assert!(whole(&mut all, &(at(start)..at(end))), "{:?}", found);
            let length = |spans: &[Span]| spans.iter().map(|span| span.end - span.start).sum::<TimeDelta>();
            prop_assert!(length(&found.raw) < TimeDelta::minutes(45));
            // Less than an hour at either side of a boundary.
            prop_assert!(length(&found.quarters) < TimeDelta::minutes(120) * i32::try_from(boundaries.len()).unwrap());
            for span in &found.hours {
                let on_hours = [span.start, span.end].into_iter().all(|at| at.timestamp() % HOUR_SECONDS == 0);
                prop_assert!(on_hours, "{:?}", found);
                let mut hours = (0..).map(|hour| span.start + TimeDelta::hours(hour)).take_while(|hour| *hour < span.end);
                let bucket = |at| boundaries.partition_point(|boundary| *boundary <= at);
                prop_assert!(hours.all(|hour| bucket(hour) == bucket(hour + TimeDelta::minutes(45))), "{:?}", found);
            }
        }
    }
}
