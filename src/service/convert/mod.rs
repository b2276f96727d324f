//! Between protobuf and the model. What several resources share is here; each resource has a file of its own.

pub mod api_key;
pub mod audit_event;
pub mod invitation;
pub mod limit;
pub mod mask;
pub mod member;
pub mod meter;
pub mod organization;
pub mod plan;
pub mod quota;
pub mod rate_limit_domain;
pub mod role;
pub mod team;
pub mod token;
pub mod usage;
pub mod user;

use chrono::{DateTime, Utc};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value as ProtoValue};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Violation};

/// A time for the wire.
#[must_use]
pub fn timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    Timestamp { seconds: time.timestamp(), nanos }
}

/// A time from the wire: within the years 1 to 9999, in whole microseconds.
pub fn time(field: &str, timestamp: Timestamp) -> Result<DateTime<Utc>, Violation> {
    let good = || {
        let nanos = u32::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        let within = (-62_135_596_800..=253_402_300_799).contains(&timestamp.seconds);
        within.then(|| DateTime::from_timestamp(timestamp.seconds, nanos / 1000 * 1000))?
    };
    good().ok_or_else(|| Violation::new(field, "must be a time in the years 1 to 9999"))
}

/// What a caller is told of an error that is the fate of one row only; of a fault of ours no more than that.
#[must_use]
pub fn told(error: &Error) -> String {
    match error {
        Error::Internal(text) => {
            tracing::error!(error = %text, "internal error");
            "internal error".to_owned()
        }
        other => other.to_string(),
    }
}

/// A JSON object for the wire.
#[must_use]
pub fn to_struct(value: Value) -> Struct {
    match value {
        Value::Object(map) => Struct { fields: map.into_iter().map(|(key, value)| (key, to_value(value))).collect() },
        _ => Struct::default(),
    }
}

fn to_value(value: Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(to_value).collect() }),
        object @ Value::Object(_) => Kind::StructValue(to_struct(object)),
    };
    ProtoValue { kind: Some(kind) }
}

/// A JSON object from the wire. Numbers are doubles there, as in JSON; whole ones become integers, so that `3` stays
/// `3`. NaN and the infinities, which JSON does not know, are refused.
pub fn from_struct(field: &str, value: Struct) -> Result<Value, Violation> {
    let map = value.fields.into_iter().map(|(key, value)| Ok((key, from_value(field, value)?)));
    Ok(Value::Object(map.collect::<Result<Map<_, _>, Violation>>()?))
}

fn from_value(field: &str, value: ProtoValue) -> Result<Value, Violation> {
    // Every integer up to 2^53 is a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() <= EXACT => Value::from(value as i64),
        Some(Kind::NumberValue(value)) => Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| Violation::new(field, "must not contain NaN or an infinity"))?,
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::StructValue(value)) => from_struct(field, value)?,
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.into_iter().map(|value| from_value(field, value)).collect::<Result<_, _>>()?)
        }
    })
}
