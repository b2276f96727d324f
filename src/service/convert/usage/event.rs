//! Recorded events between protobuf and the model.

use chrono::{DateTime, Utc};

use crate::error::{Error, Violation, Violations};
use crate::model::text;
use crate::model::usage::{EventId, RecordedEvent, SUBJECT_CHARACTERS, Void, whole_milliseconds};
use crate::proto::v1;
use crate::repository::usage::event::Narrow;
use crate::service::convert::{time, timestamp, to_struct};

/// Which event a request voids, and why. Error: `INVALID_FIELD` with every violation.
pub fn to_void(request: &v1::VoidUsageEventRequest) -> Result<((EventId, DateTime<Utc>), String), Error> {
    let mut wrong = Violations::default();
    let event_id = wrong.take(EventId::read("event_id", &request.event_id));
    let occurred_at = request.occurred_at.ok_or_else(|| Violation::new("occurred_at", "must be set"));
    let occurred_at = wrong.take(occurred_at.and_then(|at| time("occurred_at", at)).map(whole_milliseconds));
    let reason = wrong.take(Void::reason("reason", &request.reason));
    wrong.finish()?;
    match (event_id, occurred_at, reason) {
        (Some(event_id), Some(occurred_at), Some(reason)) => Ok(((event_id, occurred_at), reason)),
        _ => Err(Error::internal("a void lacks a field without a violation")),
    }
}

/// What a list is narrowed to, but for its meter. Error: `INVALID_FIELD` with every violation.
pub fn narrow(request: &v1::ListUsageEventsRequest) -> Result<Narrow, Error> {
    let mut wrong = Violations::default();
    let subject = wrong.take(text::free("subject", &request.subject, SUBJECT_CHARACTERS));
    let since = wrong.take(request.start_time.map(|at| time("start_time", at)).transpose());
    let until = wrong.take(request.end_time.map(|at| time("end_time", at)).transpose());
    wrong.finish()?;
    Ok(Narrow {
        meter_id: None,
        subject: subject.unwrap_or_default(),
        since: since.flatten().unwrap_or(DateTime::UNIX_EPOCH),
        until: until.flatten().unwrap_or(DateTime::<Utc>::MAX_UTC),
    })
}

/// An event for the wire.
#[must_use]
pub fn to_proto(recorded: RecordedEvent) -> v1::RecordedUsageEvent {
    let (void_time, void_reason) = recorded.void.map(|void| (timestamp(void.time), void.reason)).unzip();
    v1::RecordedUsageEvent {
        event: Some(v1::UsageEvent {
            // The request's.
            organization_id: String::new(),
            event_id: recorded.event_id.to_string(),
            meter: recorded.meter,
            quantity: recorded.quantity.to_string(),
            occurred_at: Some(timestamp(recorded.occurred_at)),
            subject: recorded.subject,
            properties: recorded.properties.map(to_struct),
        }),
        meter_id: recorded.meter_id.to_string(),
        record_time: Some(timestamp(recorded.record_time)),
        void_time,
        void_reason: void_reason.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn identity_and_reason_are_required() {
        let good = v1::VoidUsageEventRequest {
            event_id: "a".into(),
            occurred_at: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 }),
            reason: "sent twice".into(),
            ..Default::default()
        };
        let ((event_id, occurred_at), _) = to_void(&good).unwrap();
        assert_eq!((event_id.name(), occurred_at.timestamp_subsec_nanos()), (Some("a"), 123_000_000));
        let Err(Error::Invalid(violations)) = to_void(&v1::VoidUsageEventRequest::default()) else { panic!() };
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["event_id", "occurred_at", "reason"]);
        for reason in [" ".to_owned(), "ä".repeat(501), "a\0".to_owned()] {
            assert!(to_void(&v1::VoidUsageEventRequest { reason, ..good.clone() }).is_err());
        }
        assert!(to_void(&v1::VoidUsageEventRequest { reason: "ä".repeat(500), ..good }).is_ok());
    }
}
