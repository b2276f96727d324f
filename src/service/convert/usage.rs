//! Usage between protobuf and the model.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use prost_types::Timestamp;

use crate::error::{Error, Violation, Violations};
use crate::metering::buckets::{self, Unit};
use crate::metering::recorder::{Draft, Fate};
use crate::model::usage::{EventId, PROPERTIES_BYTES, PROPERTIES_DEPTH, QUARTER_SECONDS, Quantity};
use crate::model::{meter, organization, text};
use crate::proto::v1;
use crate::repository::usage::Figure;
use crate::service::convert::{from_struct, time, timestamp};

/// The most buckets of a query.
const MOST_BUCKETS: usize = 10_000;

/// What an event says. The first violation is enough: one event has one reason.
pub fn draft(message: v1::UsageEvent) -> Result<Draft, Violation> {
    let given = |text: &str| !text.is_empty();
    let properties = match message.properties {
        Some(properties) if !properties.fields.is_empty() => {
            let value = from_struct("properties", properties)?;
            Some(text::bounded_object("properties", value, PROPERTIES_BYTES, PROPERTIES_DEPTH)?.to_string())
        }
        _ => None,
    };
    Ok(Draft {
        event_id: Some(&message.event_id).filter(|id| given(id)).map(|id| EventId::read("event_id", id)).transpose()?,
        occurred_at: message.occurred_at.map(|at| time("occurred_at", at)).transpose()?,
        meter: meter::key("meter", &message.meter)?,
        quantity: Quantity::parse("quantity", &message.quantity)?,
        subject: text::free("subject", &message.subject, 128)?,
        properties,
    })
}

/// The fate of an event for the wire. `sent` is its identity as its producer has it.
#[must_use]
pub fn result(fate: Fate, sent: String) -> v1::UsageEventResult {
    use v1::UsageEventStatus as Status;
    let (status, event_id, reason, message) = match fate {
        Fate::Recorded(event_id) => (Status::Recorded, event_id.to_string(), "", String::new()),
        Fate::Duplicate => (Status::Duplicate, sent, "", String::new()),
        Fate::Conflict => {
            let message = "another event with this event_id and occurred_at was recorded before";
            (Status::Conflict, sent, "", message.to_owned())
        }
        Fate::Rejected { reason, message } => (Status::Rejected, sent, reason, message),
    };
    v1::UsageEventResult { status: status.into(), event_id, reason: reason.to_owned(), message }
}

/// The range of a query and how to cut it.
#[derive(Debug)]
pub struct Range {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    unit: Unit,
    /// The zone that the request names; `None` means the organization's.
    pub zone: Option<Tz>,
    /// Of whom; empty means all.
    pub subject: String,
}

impl Range {
    /// What a query says. Error: `INVALID_FIELD` with every violation.
    pub fn read(request: &v1::QueryUsageRequest) -> Result<Self, Error> {
        let mut wrong = Violations::default();
        let start = wrong.take(on_a_quarter("start_time", request.start_time));
        let end = wrong.take(on_a_quarter("end_time", request.end_time));
        let unit = wrong.take(match request.bucket() {
            v1::UsageBucket::Hour => Ok(Unit::Hour),
            v1::UsageBucket::Day => Ok(Unit::Day),
            v1::UsageBucket::Month => Ok(Unit::Month),
            v1::UsageBucket::Unspecified => Err(Violation::new("bucket", "must be HOUR, DAY or MONTH")),
        });
        let zone = Some(&request.time_zone).filter(|zone| !zone.is_empty());
        let zone = wrong.take(zone.map(|zone| organization::time_zone("time_zone", zone)).transpose());
        let subject = wrong.take(text::free("subject", &request.subject, 128));
        if start.zip(end).is_some_and(|(start, end)| start >= end) {
            wrong.add("end_time", "must be after start_time");
        }
        wrong.finish()?;
        match (start, end, unit, zone, subject) {
            (Some(start), Some(end), Some(unit), Some(zone), Some(subject)) => {
                Ok(Self { start, end, unit, zone, subject })
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
}

/// The points of figures, whose buckets are numbered by boundaries.
pub fn points(figures: Vec<Figure>, boundaries: &[DateTime<Utc>]) -> Result<Vec<v1::UsagePoint>, Error> {
    let point = |figure: Figure| {
        let (start, end) = boundaries.get(figure.bucket).zip(boundaries.get(figure.bucket + 1))?;
        Some(v1::UsagePoint {
            start_time: Some(timestamp(*start)),
            end_time: Some(timestamp(*end)),
            value: figure.value,
            event_count: figure.event_count,
        })
    };
    let points: Option<Vec<_>> = figures.into_iter().map(point).collect();
    points.ok_or_else(|| Error::internal("a figure lies outside of its range"))
}

fn on_a_quarter(field: &str, given: Option<Timestamp>) -> Result<DateTime<Utc>, Violation> {
    let given = given.ok_or_else(|| Violation::new(field, "must be set"))?;
    let read = time(field, given)?;
    if given.nanos != 0 || given.seconds.rem_euclid(QUARTER_SECONDS) != 0 {
        return Err(Violation::new(field, "must be on a quarter of an hour"));
    }
    Ok(read)
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
    fn ranges() {
        let range = Range::read(&query()).unwrap();
        assert_eq!(range.boundaries(chrono_tz::UTC).unwrap().len(), 25);
        let wrong = [
            v1::QueryUsageRequest { start_time: None, ..query() },
            v1::QueryUsageRequest { start_time: Some(at(60)), ..query() },
            v1::QueryUsageRequest { start_time: Some(Timestamp { seconds: 0, nanos: 1 }), ..query() },
            v1::QueryUsageRequest { end_time: Some(at(0)), ..query() },
            v1::QueryUsageRequest { bucket: 0, ..query() },
            v1::QueryUsageRequest { bucket: 99, ..query() },
            v1::QueryUsageRequest { time_zone: "Mars/Olympus".into(), ..query() },
        ];
        for request in wrong {
            assert!(Range::read(&request).is_err(), "{request:?}");
        }
        let long = Range::read(&v1::QueryUsageRequest { end_time: Some(at(3600 * 10_001)), ..query() }).unwrap();
        assert!(long.boundaries(chrono_tz::UTC).is_err());
    }

    #[test]
    fn drafts() {
        let event = || v1::UsageEvent { meter: "calls".into(), ..Default::default() };
        let plain = draft(event()).unwrap();
        assert_eq!((plain.event_id, plain.quantity, plain.properties), (None, Quantity::ONE, None));
        let empty = v1::UsageEvent { properties: Some(prost_types::Struct::default()), ..event() };
        assert_eq!(draft(empty).unwrap().properties, None, "no properties are no properties");
        let field = |event: v1::UsageEvent| draft(event).unwrap_err().field;
        assert_eq!(field(v1::UsageEvent::default()), "meter");
        assert_eq!(field(v1::UsageEvent { quantity: "-1".into(), ..event() }), "quantity");
        assert_eq!(field(v1::UsageEvent { event_id: "x".repeat(129), ..event() }), "event_id");
        assert_eq!(field(v1::UsageEvent { subject: "a\0b".into(), ..event() }), "subject");
        assert_eq!(field(v1::UsageEvent { occurred_at: Some(at(i64::MAX)), ..event() }), "occurred_at");
    }
}
