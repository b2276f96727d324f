//! Questions about usage between protobuf and the model.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use prost_types::Timestamp;

use crate::error::{Error, Violation, Violations};
use crate::metering::buckets::{self, Unit};
use crate::model::meter::{GROUP_KEYS, Measure, Meter};
use crate::model::usage::SUBJECT_CHARACTERS;
use crate::model::usage::query::{Filter, Selection, Span, Subjects};
use crate::model::{organization, text};
use crate::proto::v1;
use crate::repository::usage::figures::{Figure, Figures, Line};
use crate::service::convert::{meter, time, timestamp};

/// The most buckets of a query.
const MOST_BUCKETS: usize = 10_000;
/// The most filters of a query.
const FILTERS: usize = 16;
/// The most values of a filter.
const FILTER_VALUES: usize = 64;

/// What a query asks for.
#[derive(Debug)]
pub struct Question {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    unit: Unit,
    /// The zone that the request names; `None` means the organization's.
    pub zone: Option<Tz>,
    subjects: Subjects,
    group_by: Vec<String>,
    filters: Vec<Filter>,
}

impl Question {
    /// What a request says. Error: `INVALID_FIELD` with every violation.
    pub fn read(request: &v1::QueryUsageRequest) -> Result<Self, Error> {
        let mut wrong = Violations::default();
        let start = wrong.take(required("start_time", request.start_time));
        let end = wrong.take(required("end_time", request.end_time));
        let unit = wrong.take(unit("bucket", request.bucket()));
        let zone = wrong.take(zone(&request.time_zone));
        let subjects = wrong.take(subjects(&request.subject, request.group_by_subject));
        let filters = wrong.take(filters(&request.filters));
        if start.zip(end).is_some_and(|(start, end)| start >= end) {
            wrong.add("end_time", "must be after start_time");
        }
        let group_by = request.group_by.clone();
        if group_by.len() > GROUP_KEYS || group_by.iter().collect::<BTreeSet<_>>().len() < group_by.len() {
            wrong.add("group_by", format!("must be at most {GROUP_KEYS} different properties"));
        }
        wrong.finish()?;
        match (start, end, unit, zone, subjects, filters) {
            (Some(start), Some(end), Some(unit), Some(zone), Some(subjects), Some(filters)) => {
                Ok(Self { start, end, unit, zone, subjects, group_by, filters })
            }
            _ => Err(Error::internal("a query lacks a field without a violation")),
        }
    }

    /// The boundaries of its buckets in a zone. Error: `INVALID_FIELD` on `bucket` when there are more than 10,000.
    pub fn boundaries(&self, zone: Tz) -> Result<Vec<DateTime<Utc>>, Error> {
        buckets::boundaries(self.start, self.end, self.unit, zone, MOST_BUCKETS).ok_or_else(|| {
            let rule = format!("must be longer or the range shorter: at most {MOST_BUCKETS} buckets are returned");
            Violation::new("bucket", rule).into()
        })
    }

    /// Which events of a meter it asks for. Error: as [`Selection::new`].
    pub fn selection(&self, measure: &Measure) -> Result<Selection, Error> {
        Selection::new(measure, self.subjects.clone(), &self.group_by, self.filters.clone())
    }
}

/// Figures for the wire.
pub fn reply(
    figures: Figures,
    of: &Meter,
    selection: &Selection,
    boundaries: &[DateTime<Utc>],
    zone: Tz,
) -> Result<v1::QueryUsageResponse, Error> {
    let group = |(key, line): (Vec<String>, Line)| {
        let mut values = key.into_iter();
        let properties = selection.group_by.iter().filter_map(|place| of.measure.group_by.get(*place)).cloned();
        let properties = properties.zip(values.by_ref()).collect();
        Ok(v1::UsageGroup {
            properties,
            subject: values.next().unwrap_or_default(),
            points: points(line.points, boundaries)?,
            total: line.total.value,
            event_count: line.total.event_count,
        })
    };
    Ok(v1::QueryUsageResponse {
        points: points(figures.whole.points, boundaries)?,
        total: figures.whole.total.value,
        event_count: figures.whole.total.event_count,
        time_zone: zone.name().to_owned(),
        aggregation: meter::aggregation(of.measure.aggregation).into(),
        groups: figures.groups.into_iter().map(group).collect::<Result<_, Error>>()?,
    })
}

/// The points of figures, whose buckets are numbered by boundaries.
fn points(points: Vec<(usize, Figure)>, boundaries: &[DateTime<Utc>]) -> Result<Vec<v1::UsagePoint>, Error> {
    let point = |(bucket, figure): (usize, Figure)| {
        let (start, end) = boundaries.get(bucket).zip(boundaries.get(bucket + 1))?;
        Some(v1::UsagePoint {
            start_time: Some(timestamp(*start)),
            end_time: Some(timestamp(*end)),
            value: figure.value,
            event_count: figure.event_count,
        })
    };
    let points: Option<Vec<_>> = points.into_iter().map(point).collect();
    points.ok_or_else(|| Error::internal("a figure lies outside of its range"))
}

/// The period of a summary and the zone that the request names. Error: `INVALID_FIELD` with every violation.
pub fn period(request: &v1::GetUsageSummaryRequest) -> Result<(Unit, Option<Tz>), Error> {
    let mut wrong = Violations::default();
    let unit = wrong.take(match request.period() {
        v1::UsageBucket::Unspecified | v1::UsageBucket::Month => Ok(Unit::Month),
        v1::UsageBucket::Week => Ok(Unit::Week),
        v1::UsageBucket::Day => Ok(Unit::Day),
        v1::UsageBucket::Hour | v1::UsageBucket::Minute => Err(Violation::new("period", "must be DAY, WEEK or MONTH")),
    });
    let zone = wrong.take(zone(&request.time_zone));
    wrong.finish()?;
    unit.zip(zone).ok_or_else(|| Error::internal("a period lacks a field without a violation"))
}

/// A summary for the wire. Archived meters without usage are left out.
#[must_use]
pub fn summary(
    meters: &[Arc<Meter>],
    figures: Vec<Option<Figure>>,
    period: &Span,
    zone: Tz,
) -> v1::GetUsageSummaryResponse {
    let of = |(of, figure): (&Arc<Meter>, Option<Figure>)| {
        let missing = if figure.is_none() { "USAGE_RESULT_TOO_LARGE" } else { "" };
        let figure = figure.unwrap_or_default();
        let shown = of.archive_time.is_none() || figure.event_count > 0 || !missing.is_empty();
        shown.then(|| v1::MeterUsage {
            meter: of.key.clone(),
            meter_id: of.meter_id.to_string(),
            unit: of.profile.unit.clone(),
            aggregation: meter::aggregation(of.measure.aggregation).into(),
            value: figure.value,
            event_count: figure.event_count,
            value_missing_reason: missing.to_owned(),
        })
    };
    v1::GetUsageSummaryResponse {
        start_time: Some(timestamp(period.start)),
        end_time: Some(timestamp(period.end)),
        time_zone: zone.name().to_owned(),
        meters: meters.iter().zip(figures).filter_map(of).collect(),
    }
}

fn required(field: &str, given: Option<Timestamp>) -> Result<DateTime<Utc>, Violation> {
    time(field, given.ok_or_else(|| Violation::new(field, "must be set"))?)
}

fn unit(field: &str, bucket: v1::UsageBucket) -> Result<Unit, Violation> {
    Ok(match bucket {
        v1::UsageBucket::Minute => Unit::Minute,
        v1::UsageBucket::Hour => Unit::Hour,
        v1::UsageBucket::Day => Unit::Day,
        v1::UsageBucket::Week => Unit::Week,
        v1::UsageBucket::Month => Unit::Month,
        v1::UsageBucket::Unspecified => {
            return Err(Violation::new(field, "must be MINUTE, HOUR, DAY, WEEK or MONTH"));
        }
    })
}

fn zone(name: &str) -> Result<Option<Tz>, Violation> {
    Some(name).filter(|name| !name.is_empty()).map(|name| organization::time_zone("time_zone", name)).transpose()
}

fn subjects(subject: &str, each: bool) -> Result<Subjects, Violation> {
    let subject = text::free("subject", subject, SUBJECT_CHARACTERS)?;
    match (subject.is_empty(), each) {
        (true, true) => Ok(Subjects::Each),
        (true, false) => Ok(Subjects::All),
        (false, false) => Ok(Subjects::One(subject)),
        (false, true) => Err(Violation::new("subject", "must be empty with group_by_subject")),
    }
}

fn filters(filters: &[v1::UsageFilter]) -> Result<Vec<Filter>, Violation> {
    let properties: BTreeSet<&str> = filters.iter().map(|filter| filter.property.as_str()).collect();
    if filters.len() > FILTERS || properties.len() < filters.len() {
        return Err(Violation::new("filters", format!("must be at most {FILTERS}, each of another property")));
    }
    let filter = |filter: &v1::UsageFilter| {
        let within = |violation: Violation| violation.within("filters");
        let property = text::free("property", &filter.property, SUBJECT_CHARACTERS).map_err(within)?;
        if property.is_empty() {
            return Err(Violation::new("filters.property", "must be set"));
        }
        if !(1..=FILTER_VALUES).contains(&filter.values.len()) {
            return Err(Violation::new("filters.values", format!("must be 1 to {FILTER_VALUES}")));
        }
        let values = filter.values.iter().map(|value| text::free("values", value, SUBJECT_CHARACTERS).map_err(within));
        Ok(Filter { property, values: values.collect::<Result<_, _>>()? })
    };
    filters.iter().map(filter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn query() -> v1::QueryUsageRequest {
        v1::QueryUsageRequest {
            start_time: Some(at(0)),
            end_time: Some(at(3600 * 24)),
            bucket: v1::UsageBucket::Hour.into(),
            ..Default::default()
        }
    }

    #[test]
    fn questions() {
        let question = Question::read(&query()).unwrap();
        assert_eq!(question.boundaries(chrono_tz::UTC).unwrap().len(), 25);
        let filter = |property: &str, values: &[&str]| v1::UsageFilter {
            property: property.into(),
            values: values.iter().map(ToString::to_string).collect(),
        };
        let wrong = [
            ("start_time", v1::QueryUsageRequest { start_time: None, ..query() }),
            ("end_time", v1::QueryUsageRequest { end_time: Some(at(0)), ..query() }),
            ("bucket", v1::QueryUsageRequest { bucket: 0, ..query() }),
            ("bucket", v1::QueryUsageRequest { bucket: 99, ..query() }),
            ("time_zone", v1::QueryUsageRequest { time_zone: "Mars/Olympus".into(), ..query() }),
            ("subject", v1::QueryUsageRequest { subject: "a\nb".into(), ..query() }),
            ("subject", v1::QueryUsageRequest { subject: "a".into(), group_by_subject: true, ..query() }),
            ("group_by", v1::QueryUsageRequest { group_by: vec!["a".into(), "a".into()], ..query() }),
            ("filters", v1::QueryUsageRequest { filters: vec![filter("a", &["x"]); 2], ..query() }),
            ("filters.property", v1::QueryUsageRequest { filters: vec![filter("", &["x"])], ..query() }),
            ("filters.values", v1::QueryUsageRequest { filters: vec![filter("a", &[])], ..query() }),
            ("filters.values", v1::QueryUsageRequest { filters: vec![filter("a", &["\0"])], ..query() }),
        ];
        for (field, request) in wrong {
            match Question::read(&request) {
                Err(Error::Invalid(violations)) => assert_eq!(violations[0].field, field, "{request:?}"),
                other => panic!("{other:?}"),
            }
        }
        let long = Question::read(&v1::QueryUsageRequest { end_time: Some(at(3600 * 10_001)), ..query() }).unwrap();
        assert!(long.boundaries(chrono_tz::UTC).is_err());
    }
}
