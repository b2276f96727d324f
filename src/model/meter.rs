//! Meters: what is counted, and how events become one figure.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Violation, Violations};
use crate::ids::{MeterId, OrganizationId, parse_uuid};
use crate::model::text;

/// The most keys that a meter groups by.
pub const GROUP_KEYS: usize = 8;

/// The most conditions of a meter's filter, and the most values of one condition.
pub const CONDITIONS: usize = 16;

/// The most characters of the name of a property.
const PROPERTY: usize = 63;

/// The most characters of a value of a condition.
const VALUE: usize = 128;

/// Something that is counted.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Meter {
    /// The organization it belongs to; `None` for a platform-wide one.
    pub organization_id: Option<OrganizationId>,
    /// Its id.
    pub meter_id: MeterId,
    /// The name in usage events.
    pub key: String,
    /// What people read of it.
    #[serde(flatten)]
    pub profile: Profile,
    /// What of the events counts.
    #[serde(flatten)]
    pub measure: Measure,
    /// When it was archived: since then it takes no events, and its figures stay.
    pub archive_time: Option<DateTime<Utc>>,
    /// Counts its changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

/// A meter that is still to be created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMeter {
    /// The name in usage events.
    pub key: String,
    /// What people read of it.
    pub profile: Profile,
    /// What of the events counts.
    pub measure: Measure,
}

impl NewMeter {
    /// The meter, created at `now` for an organization or, without one, for all.
    #[must_use]
    pub fn created(self, organization_id: Option<OrganizationId>, now: DateTime<Utc>) -> Meter {
        Meter {
            organization_id,
            meter_id: MeterId::new(now),
            key: self.key,
            profile: self.profile,
            measure: self.measure,
            archive_time: None,
            revision: 1,
            create_time: now,
            update_time: now,
        }
    }
}

/// What people read of a meter, and can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Profile {
    /// The name for people.
    pub display_name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// What one unit is; may be empty.
    pub unit: String,
}

/// What of the events counts, and how. Fixed at creation: figures that were added up by one rule cannot follow another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Measure {
    /// How events become one figure.
    pub aggregation: Aggregation,
    /// The property that is aggregated; `None`: the quantity of the event, and its subject for a unique count. Never
    /// with a count.
    pub value_property: Option<String>,
    /// The properties by which figures can be grouped and filtered for ever; distinct, in the order given.
    pub group_by: Vec<String>,
    /// What an event must fulfil to count, all of it.
    pub filter: Vec<Condition>,
}

impl Measure {
    /// The property that has the amount of an event; `None` where that is its quantity. Of a unique count it is none: the
    /// values that are told apart are no amounts.
    #[must_use]
    pub fn amount_property(&self) -> Option<&str> {
        self.value_property.as_deref().filter(|_| self.aggregation != Aggregation::UniqueCount)
    }
}

/// A condition on one property of an event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Condition {
    /// The name of the property.
    pub property: String,
    /// Which values fulfil it.
    pub operator: Operator,
    /// At least one.
    pub values: Vec<String>,
}

/// How a condition compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// The property is one of the values.
    In,
    /// The property is absent, or none of the values.
    NotIn,
}

/// How the events of a period become one figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Aggregation {
    /// Their number.
    Count,
    /// The sum of their values.
    Sum,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The sum of their values by their number.
    Avg,
    /// The value of the latest, by time and then by identity.
    Latest,
    /// How many different values there are.
    UniqueCount,
}

impl Aggregation {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
            Self::Latest => "latest",
            Self::UniqueCount => "unique_count",
        }
    }
}

/// 1 to 63 characters of a-z, 0-9, `_`, `-` and `.`, starting with a letter. Never a UUID, so that what names a meter is
/// either its id or its key.
pub fn key(field: &str, text: &str) -> Result<String, Violation> {
    if is_key(text) {
        return Ok(text.to_owned());
    }
    let rule = "must be 1 to 63 characters of a-z, 0-9, _, - and ., starting with a letter, and no UUID";
    Err(Violation::new(field, rule))
}

/// Whether it could be the key of a meter.
#[must_use]
pub fn is_key(text: &str) -> bool {
    text::is_key(text) && parse_uuid(text).is_none()
}

/// At most 1000 printable characters.
pub fn description(field: &str, text: &str) -> Result<String, Violation> {
    text::free(field, text, 1000)
}

/// At most 63 printable characters.
pub fn unit(field: &str, text: &str) -> Result<String, Violation> {
    text::free(field, text, 63)
}

/// The name of a property of events, as it stands in their JSON: 1 to 63 printable characters.
pub fn property(field: &str, text: &str) -> Result<String, Violation> {
    let named = text::free(field, text, PROPERTY).ok().filter(|name| !name.is_empty());
    named.ok_or_else(|| {
        Violation::new(field, format!("must be the name of a property: 1 to {PROPERTY} printable characters"))
    })
}

/// The property that is aggregated, or none where the text is empty. A count has none: it takes no values. `aggregation`
/// is `None` for one that is unknown.
pub fn value_property(field: &str, aggregation: Option<Aggregation>, text: &str) -> Result<Option<String>, Violation> {
    if text.is_empty() {
        return Ok(None);
    }
    if aggregation == Some(Aggregation::Count) {
        return Err(Violation::new(field, "must be empty for a count, which takes no values"));
    }
    property(field, text).map(Some)
}

/// At most 8 names of properties, each once. Notes every violation; `None` then.
pub fn group_by(field: &str, names: &[String], wrong: &mut Violations) -> Option<Vec<String>> {
    if names.len() > GROUP_KEYS {
        wrong.add(field, format!("must be at most {GROUP_KEYS} properties"));
        return None;
    }
    let each = names.iter().enumerate().map(|(position, name)| {
        let field = format!("{field}[{position}]");
        if names[..position].contains(name) {
            return Err(Violation::new(field, "names a property again: each can be named once"));
        }
        property(&field, name)
    });
    taken(each, wrong)
}

/// A condition on a property; `operator` is `None` for one that is unknown. Notes every violation; `None` then.
pub fn condition(
    field: &str,
    named: &str,
    operator: Option<Operator>,
    values: &[String],
    wrong: &mut Violations,
) -> Option<Condition> {
    let named = wrong.take(property(&format!("{field}.property"), named));
    if operator.is_none() {
        wrong.add(format!("{field}.operator"), "must be IN or NOT_IN");
    }
    let field = format!("{field}.values");
    if !(1..=CONDITIONS).contains(&values.len()) {
        wrong.add(field, format!("must be 1 to {CONDITIONS} values"));
        return None;
    }
    let each = values.iter().enumerate();
    let values = taken(each.map(|(position, value)| text::free(&format!("{field}[{position}]"), value, VALUE)), wrong);
    Some(Condition { property: named?, operator: operator?, values: values? })
}

/// Takes all out of their checks, noting what was wrong with each; `None` then.
fn taken(each: impl Iterator<Item = Result<String, Violation>>, wrong: &mut Violations) -> Option<Vec<String>> {
    // First all, then the question whether one is missing: none is left unchecked.
    let all: Vec<Option<String>> = each.map(|one| wrong.take(one)).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(wrong: Violations) -> Vec<String> {
        match wrong.finish() {
            Err(crate::error::Error::Invalid(violations)) => violations.into_iter().map(|v| v.field).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn properties() {
        for good in ["model", "HTTP status", " ", "größe", &"ü".repeat(63)] {
            assert_eq!(property("p", good).unwrap(), good);
        }
        for bad in ["", "a\0b", "a\nb", &"a".repeat(64)] {
            assert!(property("p", bad).is_err(), "{bad:?}");
        }
        assert_eq!(value_property("p", Some(Aggregation::Count), "").unwrap(), None);
        assert!(value_property("p", Some(Aggregation::Count), "tokens").is_err());
        assert_eq!(value_property("p", Some(Aggregation::UniqueCount), "tokens").unwrap().as_deref(), Some("tokens"));
        assert!(value_property("p", Some(Aggregation::Sum), "a\tb").is_err());
    }

    #[test]
    fn group_keys() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut wrong = Violations::default();
            let found = group_by("g", &names, &mut wrong);
            (found, fields(wrong))
        };
        let eight = ["h", "g", "f", "e", "d", "c", "b", "a"];
        assert_eq!(of(&eight), (Some(eight.map(str::to_owned).to_vec()), vec![]), "in the order given");
        assert_eq!(of(&[]), (Some(vec![]), vec![]));
        assert_eq!(of(&["a", "", "a", "b"]), (None, vec!["g[1]".to_owned(), "g[2]".to_owned()]));
        assert_eq!(of(&["a"; 9]), (None, vec!["g".to_owned()]));
    }

    #[test]
    fn conditions() {
        let of = |named: &str, operator, values: Vec<String>| {
            let mut wrong = Violations::default();
            let found = condition("c", named, operator, &values, &mut wrong);
            let wrong = fields(wrong);
            assert_eq!(found.is_none(), !wrong.is_empty());
            (found, wrong)
        };
        let sixteen: Vec<String> = (0..16).map(|number| format!("{number:0128}")).collect();
        let (found, wrong) = of("tier", Some(Operator::NotIn), sixteen.clone());
        let expected = Condition { property: "tier".into(), operator: Operator::NotIn, values: sixteen };
        assert_eq!((found, wrong), (Some(expected), vec![]));
        assert!(of("tier", Some(Operator::In), vec![String::new()]).0.is_some(), "the empty text is a value");
        assert_eq!(of("", None, vec![]).1, ["c.property", "c.operator", "c.values"]);
        assert_eq!(of("a", Some(Operator::In), vec![String::new(); 17]).1, ["c.values"]);
        assert_eq!(
            of("a", Some(Operator::In), vec!["a\0".into(), "a".into(), "x".repeat(129)]).1,
            ["c.values[0]", "c.values[2]"]
        );
    }

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
