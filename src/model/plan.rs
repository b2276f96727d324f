//! Plans: what organizations pay for. Limits and features, in versions.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::error::{Violation, Violations};
use crate::ids::LimitId;
use crate::model::limit::rules::{NamedRule, UncheckedRule};
use crate::model::limit::{Limit, Rule};
use crate::model::text;

/// The most limits of a plan.
const LIMITS: usize = 200;

/// The most features of a plan.
const FEATURES: usize = 200;

/// What an organization pays for.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// Its name in organizations.
    pub key: String,
    /// What people read of it.
    #[serde(flatten)]
    pub profile: Profile,
    /// Its limits.
    pub limits: Vec<PlanLimit>,
    /// What it entitles to, by name.
    pub features: Features,
    /// How large organizations on it may become.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Counts the changes of limits, features and sizes.
    pub version: i64,
    /// When it was archived: since then no organization is put on it.
    pub archive_time: Option<DateTime<Utc>>,
    /// Counts its changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

/// How large an organization may become; `None`: as large as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Sizes {
    /// The most members.
    pub member_limit: Option<i32>,
    /// The most teams.
    pub team_limit: Option<i32>,
}

/// A plan that is still to be created.
#[derive(Clone, PartialEq, Debug)]
pub struct NewPlan {
    /// Its name in organizations.
    pub key: String,
    /// What people read of it.
    pub profile: Profile,
    /// What its limits say.
    pub rules: Vec<Rule>,
    /// What it entitles to.
    pub features: Features,
    /// How large organizations on it may become.
    pub sizes: Sizes,
}

impl NewPlan {
    /// The plan, created at `now`.
    #[must_use]
    pub fn created(self, now: DateTime<Utc>) -> Plan {
        Plan {
            key: self.key,
            profile: self.profile,
            limits: limits_of(&[], self.rules, now),
            features: self.features,
            sizes: self.sizes,
            version: 1,
            archive_time: None,
            revision: 1,
            create_time: now,
            update_time: now,
        }
    }
}

/// The limits of a plan that had others before: one for the same as before keeps its id, and all of them their order when
/// nothing changed but that.
#[must_use]
pub fn limits_of(before: &[PlanLimit], rules: Vec<Rule>, now: DateTime<Utc>) -> Vec<PlanLimit> {
    let same = |known: &PlanLimit, rule: &Rule| known.rule.identity() == rule.identity();
    let after: Vec<PlanLimit> = rules
        .into_iter()
        .map(|rule| PlanLimit {
            limit_id: before.iter().find(|known| same(known, &rule)).map_or_else(|| LimitId::new(now), |l| l.limit_id),
            rule,
        })
        .collect();
    if after.len() == before.len() && after.iter().all(|limit| before.contains(limit)) {
        return before.to_vec();
    }
    after
}

/// What people read of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Profile {
    /// The name for people.
    pub display_name: String,
    /// What it is.
    pub description: String,
}

/// A limit of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanLimit {
    /// Its id: the same while the plan has a limit of this meter, kind of subject and window.
    pub limit_id: LimitId,
    /// What it says.
    pub rule: Rule,
}

/// Features by their names.
pub type Features = BTreeMap<String, Feature>;

/// What a plan entitles to in one matter.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(into = "Value", try_from = "Value")]
pub enum Feature {
    /// Whether.
    Boolean(bool),
    /// How much; finite. A double and not the number as it was written, so that what was stored compares with what is sent.
    Number(f64),
    /// Which.
    Text(String),
}

impl Feature {
    /// Whether there is any of it: what is asked by who needs no amount.
    #[must_use]
    pub fn is_on(&self) -> bool {
        match self {
            Self::Boolean(is_on) => *is_on,
            Self::Number(amount) => *amount > 0.0,
            Self::Text(text) => !text.is_empty(),
        }
    }
}

impl From<Feature> for Value {
    fn from(feature: Feature) -> Self {
        // Every integer up to 2^53 is a double of its own.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match feature {
            Feature::Boolean(value) => Self::Bool(value),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            Feature::Number(value) if value.fract() == 0.0 && value.abs() <= EXACT => Self::from(value as i64),
            Feature::Number(value) => Number::from_f64(value).map_or(Self::Null, Self::Number),
            Feature::Text(value) => Self::String(value),
        }
    }
}

impl TryFrom<Value> for Feature {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, &'static str> {
        let no_scalar = "a feature is a boolean, a number or a text";
        match value {
            Value::Bool(value) => Ok(Self::Boolean(value)),
            Value::Number(value) => value.as_f64().map(Self::Number).ok_or(no_scalar),
            Value::String(value) => Ok(Self::Text(value)),
            Value::Null | Value::Array(_) | Value::Object(_) => Err(no_scalar),
        }
    }
}

/// All that decides what an organization may consume, as one transaction read it.
#[derive(Clone, PartialEq, Debug)]
pub struct PolicyRows {
    /// The key of the organization's plan.
    pub plan: String,
    /// The plan's version.
    pub plan_version: i64,
    /// The plan's limits; their meters are platform-wide ones.
    pub plan_limits: Vec<PlanLimit>,
    /// What the plan entitles to.
    pub features: Features,
    /// The limits made for the organization, by either maker, in no order.
    pub limits: Vec<Limit>,
    /// In which its days, weeks and months turn.
    pub time_zone: chrono_tz::Tz,
    /// On which day its months turn, 1 to 31; the last one in a shorter month.
    pub billing_anchor_day: u8,
    /// The time of the database when the transaction began: what was committed before is in it.
    pub as_of: DateTime<Utc>,
}

/// 1 to 63 characters of a-z, 0-9, `_` and `-`, starting with a letter.
pub fn key(field: &str, text: &str) -> Result<String, Violation> {
    if text::is_key(text) && !text.contains('.') {
        return Ok(text.to_owned());
    }
    Err(Violation::new(
        field,
        "must be the key of a plan: 1 to 63 characters of a-z, 0-9, _ and -, starting with a letter",
    ))
}

/// At most 1000 printable characters.
pub fn description(field: &str, text: &str) -> Result<String, Violation> {
    text::free(field, text, 1000)
}

/// At most 200 rules, each for another meter, kind of subject or window. Notes every violation; `None` then.
pub fn limits(
    field: &str,
    rules: impl ExactSizeIterator<Item = UncheckedRule>,
    wrong: &mut Violations,
) -> Option<Vec<NamedRule>> {
    if rules.len() > LIMITS {
        wrong.add(field, format!("must be at most {LIMITS} limits"));
        return None;
    }
    // First all, so that none is left unchecked.
    let each: Vec<_> =
        rules.enumerate().map(|(position, rule)| rule.check(&format!("{field}[{position}].rule"), wrong)).collect();
    let mut first_of = HashMap::new();
    for (position, rule) in each.iter().enumerate() {
        let Some(rule) = rule else { continue };
        let first = *first_of.entry((&rule.meter, rule.subject_kind, rule.window)).or_insert(position);
        if first < position {
            let rule = format!("is for the meter, the kind of subject and the window of {field}[{first}]");
            wrong.add(format!("{field}[{position}].rule"), rule);
        }
    }
    each.into_iter().collect()
}

/// At most 200 features; a name is 1 to 63 characters starting with a letter, a text has at most 255 characters. `None` is
/// a value that is no scalar. Notes every violation; `None` then.
pub fn features<'a>(
    field: &str,
    features: impl ExactSizeIterator<Item = (&'a String, Option<Feature>)>,
    wrong: &mut Violations,
) -> Option<Features> {
    if features.len() > FEATURES {
        wrong.add(field, format!("must be at most {FEATURES} features"));
        return None;
    }
    let each = features.map(|(name, feature)| {
        if !text::is_key(name) {
            let rule = "has a name that is not 1 to 63 characters of a-z, 0-9, _, - and ., starting with a letter";
            wrong.add(field, rule);
            return None;
        }
        let field = format!("{field}.{name}");
        let feature = match feature {
            Some(Feature::Text(text)) => text::free(&field, &text, 255).map(Feature::Text),
            Some(Feature::Number(number)) if !number.is_finite() => Err(Violation::new(field, "must be finite")),
            Some(feature) => Ok(feature),
            None => Err(Violation::new(field, "must be a boolean, a number or a text")),
        };
        Some((name.clone(), wrong.take(feature)?))
    });
    let each: Vec<_> = each.collect();
    each.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MeterId;
    use crate::model::limit::{SubjectKind, Terms, Unit, Window};

    fn rule(meter: u128, window: Window, amount: u64) -> Rule {
        let terms = serde_json::from_value::<Terms>(serde_json::json!({"amount": amount})).unwrap();
        let meter_id = MeterId::from(uuid::Uuid::from_u128(meter));
        Rule { meter_id, subject_kind: SubjectKind::User, window, terms }
    }

    #[test]
    fn a_limit_keeps_its_id() {
        let now = DateTime::from_timestamp_nanos(1_700_000_000_000_000_000);
        let (month, day) = (Window::Calendar(Unit::Month), Window::Calendar(Unit::Day));
        let before = limits_of(&[], vec![rule(1, month, 5), rule(2, month, 5)], now);
        assert_ne!(before[0].limit_id, before[1].limit_id);
        let turned = limits_of(&before, vec![rule(2, month, 5), rule(1, month, 5)], now);
        assert_eq!(turned, before, "an order is no change");
        let after = limits_of(&before, vec![rule(1, day, 5), rule(2, month, 6)], now);
        assert_eq!(after[1].limit_id, before[1].limit_id);
        assert!(before.iter().all(|known| known.limit_id != after[0].limit_id));
        assert_eq!(limits_of(&before, vec![rule(1, month, 5)], now), before[..1]);
    }

    #[test]
    fn features_as_stored_are_those_sent() {
        let number = |value: &str| serde_json::from_str::<Feature>(value).unwrap();
        for (sent, stored) in
            [(3.0, "3"), (1e18, "1000000000000000000"), (0.1, "0.1"), (f64::MAX, "1.7976931348623157e308")]
        {
            assert_eq!(Feature::Number(sent), number(stored));
            assert_eq!(number(&serde_json::to_string(&Feature::Number(sent)).unwrap()), Feature::Number(sent));
        }
        assert_eq!(serde_json::to_string(&Feature::Number(3.0)).unwrap(), "3");
        assert!(serde_json::from_str::<Feature>("null").is_err() && serde_json::from_str::<Feature>("[]").is_err());
    }

    #[test]
    fn keys() {
        for good in ["a", "pro-2026_b", &"a".repeat(63)] {
            assert!(key("plan", good).is_ok(), "{good}");
        }
        for bad in ["", "1", "A", "a.b", "a b", "a\0", &"a".repeat(64)] {
            assert!(key("plan", bad).is_err(), "{bad}");
        }
    }
}
