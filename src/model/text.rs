//! Rules of text that several resources share. Each check takes the field's name for its violation.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::Violation;

/// Labels of a resource, in order of their keys.
pub type Labels = BTreeMap<String, String>;

/// The most labels a resource may have.
const LABELS: usize = 64;

/// A name for people: 1 to 200 characters, without control characters and without space around it.
pub fn display_name(field: &str, text: &str) -> Result<String, Violation> {
    let good = (1..=200).contains(&text.chars().count()) && text.trim() == text && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err(Violation::new(field, "must be 1 to 200 printable characters")) }
}

/// Free text of at most `most` characters, without control characters.
pub fn free(field: &str, text: &str, most: usize) -> Result<String, Violation> {
    if text.chars().count() <= most && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Violation::new(field, format!("must be at most {most} printable characters")))
}

/// An e-mail address, in the practical subset of RFC 5321 that a mail server of the public internet would take.
pub fn email(field: &str, text: &str) -> Result<String, Violation> {
    let good = text.len() <= 254
        && text.is_ascii()
        && text.split_once('@').is_some_and(|(local, domain)| {
            (1..=64).contains(&local.len())
                && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~.-".contains(&b))
                && !local.starts_with('.')
                && !local.ends_with('.')
                && !local.contains("..")
                && domain.contains('.')
                && domain.split('.').all(is_host_label)
        });
    if good { Ok(text.to_owned()) } else { Err(Violation::new(field, "must be an e-mail address")) }
}

/// Empty, or an e-mail address.
pub fn optional_email(field: &str, text: &str) -> Result<String, Violation> {
    if text.is_empty() { Ok(String::new()) } else { email(field, text) }
}

fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Empty, or an https URI with a host, of at most 2048 characters.
pub fn optional_uri(field: &str, text: &str) -> Result<String, Violation> {
    let good = text.is_empty()
        || (text.len() <= 2048
            && text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some()));
    if good { Ok(text.to_owned()) } else { Err(Violation::new(field, "must be empty or an https URI")) }
}

/// A BCP 47 tag by its form: a language of 2 or 3 letters, then subtags of 1 to 8 letters and digits.
pub fn locale(field: &str, text: &str) -> Result<String, Violation> {
    let mut subtags = text.split('-');
    let good = text.len() <= 35
        && subtags.next().is_some_and(|language| {
            (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_lowercase())
        })
        && subtags.all(|tag| (1..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric()));
    if good { Ok(text.to_owned()) } else { Err(Violation::new(field, "must be a BCP 47 tag such as en or pt-BR")) }
}

/// At most 64 labels; keys of 1 to 63 characters starting with a letter, values of at most 255 characters.
pub fn labels<'a>(
    field: &str,
    labels: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
) -> Result<Labels, Violation> {
    if labels.len() > LABELS {
        return Err(Violation::new(field, format!("must be at most {LABELS} labels")));
    }
    labels
        .map(|(key, value)| {
            let value = free(&format!("{field}.{key}"), value, 255)?;
            if !is_key(key) {
                let rule = "has a key that is not 1 to 63 characters of a-z, 0-9, _, - and ., starting with a letter";
                return Err(Violation::new(field, rule));
            }
            Ok((key.clone(), value))
        })
        .collect()
}

/// A name for programs: 1 to 63 characters of a-z, 0-9, `_`, `-` and `.`, starting with a letter.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b))
}

/// A JSON object of at most `bytes` when written out, and at most `depth` levels deep.
pub fn bounded_object(field: &str, value: Value, bytes: usize, depth: usize) -> Result<Value, Violation> {
    fn levels(value: &Value) -> usize {
        match value {
            Value::Object(map) => 1 + map.values().map(levels).max().unwrap_or(0),
            Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
            _ => 0,
        }
    }
    fn has_nul(value: &Value) -> bool {
        match value {
            Value::Object(map) => map.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
            Value::Array(items) => items.iter().any(has_nul),
            Value::String(text) => text.contains('\0'),
            _ => false,
        }
    }
    if value.to_string().len() > bytes {
        return Err(Violation::new(field, format!("must be at most {bytes} bytes as JSON")));
    }
    if levels(&value) > depth {
        return Err(Violation::new(field, format!("must be at most {depth} levels deep")));
    }
    // Postgres keeps text without NUL only, also inside jsonb.
    if has_nul(&value) {
        return Err(Violation::new(field, "must not contain the character U+0000"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails() {
        for good in ["a@b.co", "first.last+tag@sub.example.com", "o'neil@example.org"] {
            assert!(email("email", good).is_ok(), "{good}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in ["", "a", "a@b", "@b.co", "a@.co", "a@b..co", "a b@c.de", ".a@b.co", "a@-b.co", "ä@b.co", &long] {
            assert!(email("email", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uris_and_locales() {
        assert!(locale("f", "zh-Hant-TW").is_ok() && locale("f", "e").is_err() && locale("f", "en_US").is_err());
        assert!(optional_uri("f", "https://cdn.example/x.png").is_ok() && optional_uri("f", "http://x/y").is_err());
    }

    #[test]
    fn objects_are_bounded() {
        let deep = serde_json::json!({"a": {"b": [1]}});
        assert!(bounded_object("f", deep.clone(), 100, 3).is_ok());
        assert!(bounded_object("f", deep.clone(), 100, 2).is_err());
        assert!(bounded_object("f", deep, 10, 3).is_err());
        assert!(bounded_object("f", serde_json::json!({"a": "x\0y"}), 100, 3).is_err());
    }
}
