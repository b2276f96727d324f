//! One line: a CloudEvent in the JSON format, and the usage event that it is.
//!
//! Read by serde and not by the crate `cloudevents-sdk` (0.9): its extension attributes are strings, booleans and 64-bit
//! integers, so a quantity such as 0.125 cannot be read, and its URLs, snafu and hostname are much for one shape of
//! JSON.

use std::fmt::Write as _;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::proto::v1;
use crate::service::convert::{timestamp, to_struct};

/// The most characters of an event's identity.
const IDENTITY: usize = 128;

/// The attributes that count here; others are none of our business.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    /// As it is written: a double would change some decimals.
    #[serde(borrow)]
    quantity: Option<&'a RawValue>,
    organizationid: Option<String>,
    data: Option<Value>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
}

/// The usage event of a line; `meter` instead of its type where that is given. Error: what is wrong with the line.
pub fn read(line: &[u8], meter: Option<&str>) -> Result<v1::UsageEvent, String> {
    let event: CloudEvent<'_> = serde_json::from_slice(line).map_err(|error| format!("no CloudEvent: {error}"))?;
    match event.specversion.as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(format!("specversion must be 1.0, not {other:?}")),
        None => return Err("specversion must be 1.0".into()),
    }
    let id = required("id", event.id)?;
    let source = required("source", event.source)?;
    let kind = required("type", event.kind)?;
    let time = required("time", event.time).map_err(|_| "time must be set: it is part of the event's identity here")?;
    let time =
        DateTime::parse_from_rfc3339(&time).map_err(|error| format!("time must be as RFC 3339 has it: {error}"))?;
    if event.data_base64.is_some() {
        return Err("data_base64 is not taken: properties are a JSON object".into());
    }
    let properties = match event.data {
        None | Some(Value::Null) => None,
        Some(data @ Value::Object(_)) => Some(to_struct(data)),
        Some(_) => return Err("data must be a JSON object: it becomes the properties".into()),
    };
    Ok(v1::UsageEvent {
        event_id: identity(&source, &id)?,
        meter: meter.map_or(kind, str::to_owned),
        quantity: event.quantity.map(quantity).transpose()?.unwrap_or_default(),
        occurred_at: Some(timestamp(time.to_utc())),
        subject: event.subject.unwrap_or_default(),
        properties,
        organization_id: event.organizationid.unwrap_or_default(),
    })
}

fn required(name: &str, value: Option<String>) -> Result<String, String> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{name} must be set"))
}

/// One text for each pair: a source is a URI reference, which has no space, so the first space ends it. What is too long
/// is hashed, to a text without a space.
fn identity(source: &str, id: &str) -> Result<String, String> {
    if source.contains(char::is_whitespace) {
        return Err("source must be a URI reference, without a space".into());
    }
    let identity = format!("{source} {id}");
    if identity.contains(char::is_control) {
        return Err("source and id must have no control characters".into());
    }
    if identity.chars().count() <= IDENTITY {
        return Ok(identity);
    }
    let mut hashed = String::from("sha256:");
    for byte in Sha256::digest(identity.as_bytes()) {
        let _ = write!(hashed, "{byte:02x}");
    }
    Ok(hashed)
}

/// A decimal number as it is written, in a string or as a number. The service judges its form.
fn quantity(raw: &RawValue) -> Result<String, String> {
    let raw = raw.get();
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).map_err(|error| format!("quantity: {error}")),
        Some(b'-' | b'0'..=b'9') => Ok(raw.to_owned()),
        _ => Err("quantity must be a decimal number, or one in a string".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(changes: Value) -> Vec<u8> {
        let mut event = json!({
            "specversion": "1.0", "id": "1", "source": "/gateway", "type": "calls", "time": "2026-11-05T10:00:00.5+02:00",
        });
        for (name, value) in changes.as_object().unwrap() {
            event[name] = value.clone();
        }
        serde_json::to_vec(&event).unwrap()
    }

    #[test]
    fn attributes_become_fields() {
        let plain = read(&line(json!({})), None).unwrap();
        assert_eq!((plain.event_id.as_str(), plain.meter.as_str()), ("/gateway 1", "calls"));
        let at = prost_types::Timestamp { seconds: 1_793_865_600, nanos: 500_000_000 };
        assert_eq!(plain.occurred_at, Some(at));
        assert_eq!((plain.quantity.as_str(), plain.subject.as_str(), plain.properties), ("", "", None));
        let full = json!({
            "subject": "ida", "organizationid": "acme", "data": {"region": "eu", "size": 3}, "datacontenttype":
            "application/json", "unknown": [1], "quantity": "0.125"
        });
        let full = read(&line(full), Some("tokens")).unwrap();
        assert_eq!((full.meter.as_str(), full.quantity.as_str()), ("tokens", "0.125"));
        assert_eq!((full.subject.as_str(), full.organization_id.as_str()), ("ida", "acme"));
        assert_eq!(full.properties.unwrap().fields.len(), 2);
        assert_eq!(read(&line(json!({"data": null})), None).unwrap().properties, None);
    }

    #[test]
    fn a_quantity_is_what_was_written() {
        for (written, expected) in
            [("3", "3"), ("0.125", "0.125"), ("123456789012345.123456789", "123456789012345.123456789"), ("-1", "-1")]
        {
            let text = String::from_utf8(line(json!({}))).unwrap();
            let text = text.replacen('{', &format!("{{\"quantity\":{written},"), 1);
            assert_eq!(read(text.as_bytes(), None).unwrap().quantity, expected);
        }
        for bad in [json!(true), json!({}), json!([1])] {
            assert!(read(&line(json!({"quantity": bad})), None).is_err());
        }
        assert_eq!(read(&line(json!({"quantity": null})), None).unwrap().quantity, "", "null is absent");
    }

    #[test]
    fn what_is_no_event_is_told() {
        let bad = [
            (json!({"specversion": "0.3"}), "specversion"),
            (json!({"specversion": null}), "specversion"),
            (json!({"id": ""}), "id"),
            (json!({"id": null}), "id"),
            (json!({"id": 7}), "CloudEvent"),
            (json!({"source": null}), "source"),
            (json!({"source": "a b"}), "source"),
            (json!({"id": "a\u{7}"}), "control"),
            (json!({"type": null}), "type"),
            (json!({"time": null}), "time"),
            (json!({"time": "yesterday"}), "time"),
            (json!({"data": "text"}), "data"),
            (json!({"data_base64": "AAAA"}), "data_base64"),
        ];
        for (changes, about) in bad {
            let wrong = read(&line(changes.clone()), None).unwrap_err();
            assert!(wrong.contains(about), "{changes}: {wrong}");
        }
        for bad in ["", "[]", "nonsense", "{", "{} {}", "\"1.0\""] {
            assert!(read(bad.as_bytes(), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn source_and_id_are_one_identity() {
        assert_ne!(identity("/a", "b c").unwrap(), identity("/ab", "c").unwrap());
        let long = "i".repeat(200);
        let hashed = identity("/a", &long).unwrap();
        assert!(hashed.len() == 71 && hashed == identity("/a", &long).unwrap() && !hashed.contains(' '));
        assert_ne!(hashed, identity("/b", &long).unwrap());
        assert_eq!(identity("/a", &"ä".repeat(125)).unwrap().chars().count(), 128);
    }
}
