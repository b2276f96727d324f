//! Meters: what is counted, and how events become one figure.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::Violation;
use crate::ids::{MeterId, OrganizationId, parse_uuid};
use crate::model::text;

/// Something that is counted.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Meter {
    /// The organization it belongs to; `None` for a platform-wide one.
    pub organization_id: Option<OrganizationId>,
    /// Its id.
    pub meter_id: MeterId,
    /// What is given at creation.
    #[serde(flatten)]
    pub definition: Definition,
    /// When it was created.
    pub create_time: DateTime<Utc>,
}

/// What is given when a meter is created.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Definition {
    /// The name in usage events.
    pub key: String,
    /// The name for people.
    pub display_name: String,
    /// What one unit is; may be empty.
    pub unit: String,
    /// How events become one figure.
    pub aggregation: Aggregation,
}

/// How the events of a period become one figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Aggregation {
    /// Their number.
    Count,
    /// The sum of their quantities.
    Sum,
}

impl Aggregation {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
        }
    }
}

/// 1 to 63 characters of a-z, 0-9, `_`, `-` and `.`, starting with a letter. Never a UUID, so that what names a meter is
/// either its id or its key.
pub fn key(field: &str, text: &str) -> Result<String, Violation> {
    if text::is_key(text) && parse_uuid(text).is_none() {
        return Ok(text.to_owned());
    }
    let rule = "must be 1 to 63 characters of a-z, 0-9, _, - and ., starting with a letter, and no UUID";
    Err(Violation::new(field, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["a", "api.requests", "bytes_out-2"] {
            assert!(key("meter.key", good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "A", ".a", "a b", &"a".repeat(64), "a1234567-1234-7234-8234-123456789abc"] {
            assert!(key("meter.key", bad).is_err(), "{bad}");
        }
    }
}
