//! The usage events that a request of a tenant becomes. Pure.
//!
//! Their identity is the reservation's, and their time is when it was made: whoever records one of them again, from another
//! log, on another replica, or since no log came, makes no second one.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::Violation;
use crate::metering::catalog::View;
use crate::metering::recorder::Draft;
use crate::model::usage::{EventId, Quantity};
use crate::sidecar::admission::Admission;

/// What the events of a request have in common.
#[derive(Clone, Debug)]
pub struct Request {
    /// The reservation's.
    pub id: Uuid,
    /// When it was admitted.
    pub time: DateTime<Utc>,
    /// The user, else the key.
    pub subject: Option<Uuid>,
    /// What else is known of it.
    pub properties: Map<String, Value>,
}

/// So much of a meter.
#[derive(Clone, PartialEq, Debug)]
pub struct Amount {
    /// The key of the meter.
    pub meter: String,
    /// How much.
    pub quantity: Quantity,
    /// Whether it is what was admitted, and not one of the other recordings.
    pub is_admitted: bool,
}

impl Request {
    /// Of a request that was let through.
    #[must_use]
    pub fn of(admission: &Admission, properties: Map<String, Value>) -> Self {
        Self {
            id: admission.reservation.id,
            time: admission.time(),
            subject: admission.user.or(admission.api_key),
            properties,
        }
    }

    /// The event; its amount is where the meter looks for it. A property that the request has is left as it is.
    pub fn event(&self, amount: &Amount, meters: &View) -> Result<Draft, Violation> {
        let Amount { meter, quantity, is_admitted } = amount;
        let id = if *is_admitted { self.id.to_string() } else { format!("{}/{meter}", self.id) };
        let known = meters.of_key(meter);
        let mut properties = self.properties.clone();
        let property = known.as_ref().and_then(|meter| meter.measure.amount_property());
        if let Some(property) = property {
            properties.entry(property).or_insert_with(|| Value::String(quantity.decimal().to_string()));
        }
        Ok(Draft {
            event_id: Some(EventId::read("event_id", &id)?),
            occurred_at: Some(self.time),
            meter: meter.clone(),
            quantity: property.is_none().then_some(*quantity),
            subject: self.subject.map(|subject| subject.to_string()).unwrap_or_default(),
            properties: (!properties.is_empty()).then_some(Value::Object(properties)),
        })
    }
}
