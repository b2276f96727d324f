//! Usage on its way in, between protobuf and the model; `query` has what is asked of it, `event` what is on
//! record.

pub mod event;
pub mod query;

use crate::error::Violation;
use crate::metering::recorder::{Draft, Fate};
use crate::model::usage::{EventId, PROPERTIES_BYTES, PROPERTIES_DEPTH, Quantity, SUBJECT_CHARACTERS};
use crate::model::{meter, text};
use crate::proto::v1;
use crate::service::convert::{from_struct, time};

/// What an event says; its properties are taken out of it. The first violation is enough: one event has one reason.
pub fn draft(message: &mut v1::UsageEvent) -> Result<Draft, Violation> {
    let given = |text: &str| !text.is_empty();
    let properties = match message.properties.take() {
        Some(properties) if !properties.fields.is_empty() => {
            let value = from_struct("properties", properties)?;
            Some(text::bounded_object("properties", value, PROPERTIES_BYTES, PROPERTIES_DEPTH)?)
        }
        _ => None,
    };
    Ok(Draft {
        event_id: Some(&message.event_id).filter(|id| given(id)).map(|id| EventId::read("event_id", id)).transpose()?,
        occurred_at: message.occurred_at.map(|at| time("occurred_at", at)).transpose()?,
        meter: meter::key("meter", &message.meter)?,
        quantity: Some(&message.quantity)
            .filter(|quantity| given(quantity))
            .map(|quantity| Quantity::parse("quantity", quantity))
            .transpose()?,
        subject: text::free("subject", &message.subject, SUBJECT_CHARACTERS)?,
        properties,
    })
}

/// The fate of an event for the wire. `sent` is its identity as its producer has it.
#[must_use]
pub fn result(fate: Fate, sent: String) -> v1::UsageEventResult {
    use v1::UsageEventStatus as Status;
    let (status, event_id, reason, message) = match fate {
        // Who chose it hears it as it was sent.
        Fate::Recorded(event_id) if sent.is_empty() => {
            (Status::Recorded, event_id.to_string(), String::new(), String::new())
        }
        Fate::Recorded(_) => (Status::Recorded, sent, String::new(), String::new()),
        Fate::Duplicate => (Status::Duplicate, sent, String::new(), String::new()),
        Fate::Conflict => {
            let message = "another event with this event_id and occurred_at was recorded before";
            (Status::Conflict, sent, String::new(), message.to_owned())
        }
        Fate::Filtered => (Status::Filtered, sent, String::new(), "the filter of the meter leaves it out".to_owned()),
        Fate::Rejected { reason, message } => (Status::Rejected, sent, reason.into_owned(), message),
        Fate::Unavailable { reason, message } => (Status::Unavailable, sent, reason, message),
    };
    v1::UsageEventResult { status: status.into(), event_id, reason, message }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn drafts() {
        let event = || v1::UsageEvent { meter: "calls".into(), ..Default::default() };
        let draft = |mut event: v1::UsageEvent| draft(&mut event);
        let plain = draft(event()).unwrap();
        assert_eq!((plain.event_id, plain.quantity, plain.properties), (None, None, None));
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
