//! Events on record, and what takes them out of the figures again.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;

use crate::error::Violation;
use crate::ids::MeterId;
use crate::model::text;
use crate::model::usage::EventId;

/// The most characters of a void's reason.
const REASON_CHARACTERS: usize = 500;

/// An event as it was recorded. As serialized it is what the audit keeps.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RecordedEvent {
    /// With `occurred_at` its identity.
    pub event_id: EventId,
    /// When it happened, in whole milliseconds.
    pub occurred_at: DateTime<Utc>,
    /// What it counts for.
    pub meter_id: MeterId,
    /// The key of that.
    pub meter: String,
    /// How much it counts.
    pub quantity: Decimal,
    /// Of whom; may be empty.
    pub subject: String,
    /// What else was said: an object.
    pub properties: Option<Value>,
    /// When it was recorded.
    pub record_time: DateTime<Utc>,
    /// Why it does not count; `None` when it does.
    pub void: Option<Void>,
}

/// That an event does not count.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Void {
    /// Since when.
    pub time: DateTime<Utc>,
    /// Why, for people.
    pub reason: String,
}

impl Void {
    /// The reason that somebody gives: 1 to 500 characters.
    pub fn reason(field: &str, text: &str) -> Result<String, Violation> {
        if text.trim().is_empty() {
            return Err(Violation::new(field, "must not be empty"));
        }
        text::free(field, text, REASON_CHARACTERS)
    }
}
