//! Filters of lists: terms of the form `field = "value"` joined by AND, a subset of AIP-160.

use std::collections::BTreeMap;

use crate::error::{Error, Violation};

/// The terms of a filter, by field. A field is named once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filter(BTreeMap<String, String>);

/// The longest filter, in bytes.
const LONGEST: usize = 2048;

impl Filter {
    /// Reads a filter whose fields are among `fields`; one ending in `.` stands for all that begin with it, such as
    /// `labels.`. Error: `INVALID_FIELD` on `filter`.
    pub fn parse(text: &str, fields: &[&str]) -> Result<Self, Error> {
        if text.len() > LONGEST {
            return Err(wrong(format!("must be at most {LONGEST} bytes")));
        }
        let mut terms = BTreeMap::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (field, after) =
                rest.split_once('=').ok_or_else(|| wrong("must be terms of the form field = \"value\""))?;
            let field = field.trim();
            let known = fields.iter().any(|known| {
                if known.ends_with('.') {
                    field.len() > known.len() && field.starts_with(known)
                } else {
                    *known == field
                }
            });
            if !known {
                return Err(wrong(format!("has the unknown field {field:?}; known are {}", fields.join(", "))));
            }
            let (value, after) = quoted(after.trim_start())?;
            if terms.insert(field.to_owned(), value).is_some() {
                return Err(wrong(format!("names {field} twice")));
            }
            rest = after.trim_start();
            if let Some(next) = rest.strip_prefix("AND ") {
                rest = next.trim_start();
                if rest.is_empty() {
                    return Err(wrong("ends with AND"));
                }
            } else if !rest.is_empty() {
                return Err(wrong("must join its terms by AND"));
            }
        }
        Ok(Self(terms))
    }

    /// The value that a field must have, if the filter says so.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    /// The same for a field of few values, which `read` knows. Error: `INVALID_FIELD` on `filter`.
    pub fn get_as<T>(&self, field: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.get(field) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong(format!("compares {field} with {value:?}, which it never is")))
    }

    /// The terms whose field begins with `labels.`, as a JSON object that `@>` takes; `None` without any.
    #[must_use]
    pub fn labels(&self) -> Option<serde_json::Value> {
        let labels: serde_json::Map<_, _> = self
            .0
            .iter()
            .filter_map(|(field, value)| Some((field.strip_prefix("labels.")?.to_owned(), value.clone().into())))
            .collect();
        (!labels.is_empty()).then(|| labels.into())
    }
}

/// Takes a quoted string, with `\"` and `\\` inside, from the front.
fn quoted(text: &str) -> Result<(String, &str), Error> {
    let inner = text.strip_prefix('"').ok_or_else(|| wrong("must put its values in double quotes"))?;
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &inner[at + 1..])),
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                _ => return Err(wrong("has a backslash before something else than a quote or a backslash")),
            },
            '\0' => return Err(wrong("must not contain the character U+0000")),
            c => value.push(c),
        }
    }
    Err(wrong("has a value without its closing quote"))
}

fn wrong(description: impl Into<String>) -> Error {
    Violation::new("filter", description).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[&str] = &["status", "plan", "labels."];

    #[test]
    fn terms() {
        let filter =
            Filter::parse(r#"status = "ACTIVE" AND labels.tier="a \"b\" \\"  AND plan= "pro""#, FIELDS).unwrap();
        assert_eq!(filter.get("status"), Some("ACTIVE"));
        assert_eq!(filter.get("labels.tier"), Some(r#"a "b" \"#));
        assert_eq!(filter.labels().unwrap(), serde_json::json!({"tier": r#"a "b" \"#}));
        assert_eq!(filter.get("slug"), None);
        assert_eq!(Filter::parse("  ", FIELDS).unwrap(), Filter::default());
        assert!(filter.get_as("plan", |plan| (plan == "free").then_some(())).is_err());
    }

    #[test]
    fn refused() {
        for bad in [
            "status",
            "status =",
            "status = ACTIVE",
            r#"status = "A"#,
            r#"size = "1""#,
            r#"labels. = "x""#,
            r#"status = "A" status = "B""#,
            r#"status = "A" AND status = "B""#,
            r#"status = "A" AND "#,
            r#"status = "\n""#,
        ] {
            assert!(Filter::parse(bad, FIELDS).is_err(), "{bad}");
        }
    }
}
