//! Rate limit domains: trees of rules that descriptors of requests are matched with.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Violation, Violations};
use crate::model::limit::{MOST_RATE, Unit, Window};
use crate::model::{meter, text};

/// The most rules of a domain, nested ones included.
pub const MOST_RULES: usize = 10_000;

/// The most levels of them.
pub const MOST_LEVELS: usize = 16;

/// The longest name of a domain, key or limit.
pub const LONGEST_NAME: usize = 255;

/// The longest value.
const LONGEST_VALUE: usize = 1023;

/// The most limits that one replaces.
const MOST_REPLACED: usize = 64;

/// The key of the entry that names an organization.
pub const TENANT: &str = "tenant";

/// The rules of a domain, with its dates.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RateLimitDomain {
    /// Its name.
    pub domain: String,
    /// Its rules; none in lists.
    pub rules: Vec<Rule>,
    /// How many rules there are, nested ones included.
    pub rule_count: usize,
    /// Counts its changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

/// A rule, with those nested in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rule {
    /// The key of the entry.
    pub key: String,
    /// Its value, or with a `*` at the end its beginning; empty: any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What limits a descriptor that ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// The name of the limit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether the limit only reports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    /// The names of limits that do not count beside this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// For the next entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// What limits a descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Nothing does.
    Unlimited,
    /// So much in a window, for each set of entries.
    Own {
        /// How much.
        requests: u32,
        /// In which time.
        window: Window,
    },
    /// The limits of a tenant.
    Tenant {
        /// The key of the meter.
        meter: String,
        /// The key of the entry that names the organization.
        tenant_key: String,
    },
}

/// The window of a unit: short ones roll, so that no second or minute whatever has more than the amount, and longer ones turn
/// with the calendar.
#[must_use]
pub const fn window(unit: Unit) -> Window {
    match unit {
        Unit::Second | Unit::Minute => Window::Rolling(unit),
        Unit::Hour | Unit::Day | Unit::Week | Unit::Month => Window::Calendar(unit),
    }
}

/// How many rules there are, nested ones included.
#[must_use]
pub fn count(rules: &[Rule]) -> usize {
    rules.iter().map(|rule| 1 + count(&rule.rules)).sum()
}

/// 1 to 255 printable characters.
pub fn domain(field: &str, text: &str) -> Result<String, Violation> {
    name(field, text)
}

fn name(field: &str, text: &str) -> Result<String, Violation> {
    if text.is_empty() {
        return Err(Violation::new(field, format!("must be 1 to {LONGEST_NAME} printable characters")));
    }
    text::free(field, text, LONGEST_NAME)
}

/// Notes all that is wrong with the rules of a domain; `field` is their path.
pub fn check(field: &str, rules: &[Rule], wrong: &mut Violations) {
    if count(rules) > MOST_RULES {
        wrong.add(field, format!("must be at most {MOST_RULES} rules, nested ones included"));
        return;
    }
    check_level(field, rules, 1, wrong);
}

fn check_level(field: &str, rules: &[Rule], level: usize, wrong: &mut Violations) {
    if level > MOST_LEVELS && !rules.is_empty() {
        wrong.add(field, format!("must be at most {MOST_LEVELS} levels deep"));
        return;
    }
    let mut known = HashSet::new();
    for (position, rule) in rules.iter().enumerate() {
        let field = format!("{field}[{position}]");
        if !known.insert((&rule.key, &rule.value)) {
            wrong.add(&*field, "has the key and the value of another rule beside it");
        }
        check_rule(&field, rule, wrong);
        check_level(&format!("{field}.rules"), &rule.rules, level + 1, wrong);
    }
}

fn check_rule(field: &str, rule: &Rule, wrong: &mut Violations) {
    wrong.take(name(&format!("{field}.key"), &rule.key));
    wrong.take(text::free(&format!("{field}.value"), &rule.value, LONGEST_VALUE));
    wrong.take(text::free(&format!("{field}.name"), &rule.name, LONGEST_NAME));
    if rule.replaces.len() > MOST_REPLACED {
        wrong.add(format!("{field}.replaces"), format!("must be at most {MOST_REPLACED} names"));
    }
    for (position, replaced) in rule.replaces.iter().enumerate() {
        let field = format!("{field}.replaces[{position}]");
        wrong.take(name(&field, replaced));
        if *replaced == rule.name || rule.replaces[..position].contains(replaced) {
            wrong.add(field, "must be the name of another limit, once");
        }
    }
    match &rule.limit {
        Some(Limit::Own { requests, window }) if window.is_rate() && u64::from(*requests) > MOST_RATE => {
            let rule = format!("must be 0 to {MOST_RATE} in a window so short; or set `unlimited`");
            wrong.add(format!("{field}.rate_limit.requests_per_unit"), rule);
        }
        Some(Limit::Tenant { meter: key, tenant_key }) => {
            wrong.take(meter::key(&format!("{field}.tenant_limit.meter"), key));
            wrong.take(name(&format!("{field}.tenant_limit.tenant_key"), tenant_key));
        }
        None if !rule.replaces.is_empty() => {
            wrong.add(format!("{field}.replaces"), "must be empty where there is no limit that could replace others");
        }
        Some(Limit::Unlimited | Limit::Own { .. }) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn wrong(rules: &[Rule]) -> Vec<String> {
        let mut wrong = Violations::default();
        check("rules", rules, &mut wrong);
        match wrong.finish() {
            Ok(()) => Vec::new(),
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    fn rule(key: &str) -> Rule {
        Rule { key: key.into(), ..Rule::default() }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let own = |requests, unit| Some(Limit::Own { requests, window: window(unit) });
        let good = Rule { limit: own(u32::MAX, Unit::Hour), value: "*".into(), rules: vec![rule("b")], ..rule("a") };
        assert!(wrong(&[good.clone(), rule("a")]).is_empty());
        let tenant =
            |meter: &str, tenant_key: &str| Some(Limit::Tenant { meter: meter.into(), tenant_key: tenant_key.into() });
        let rules = [
            good.clone(),
            good,
            rule(""),
            Rule { value: "\n".into(), ..rule("c") },
            Rule { value: "x".repeat(1024), ..rule("d") },
            Rule { limit: own(1_000_000_001, Unit::Minute), ..rule("e") },
            Rule { limit: tenant("No", ""), ..rule("f") },
            Rule { replaces: vec!["x".into()], ..rule("g") },
            Rule { limit: Some(Limit::Unlimited), name: "x".into(), replaces: vec!["x".into()], ..rule("h") },
            Rule { rules: vec![Rule { rules: vec![rule("")], ..rule("j") }], ..rule("i") },
        ];
        let expected = [
            "rules[1]",
            "rules[2].key",
            "rules[3].value",
            "rules[4].value",
            "rules[5].rate_limit.requests_per_unit",
            "rules[6].tenant_limit.meter",
            "rules[6].tenant_limit.tenant_key",
            "rules[7].replaces",
            "rules[8].replaces[0]",
            "rules[9].rules[0].rules[0].key",
        ];
        assert_eq!(wrong(&rules), expected);
    }

    #[test]
    fn trees_are_bounded() {
        let deep = |levels| (1..levels).fold(rule("a"), |inner, _| Rule { rules: vec![inner], ..rule("a") });
        assert!(wrong(&[deep(MOST_LEVELS)]).is_empty());
        assert_eq!(wrong(&[deep(MOST_LEVELS + 1)]).len(), 1);
        let many = |most| (0..most).map(|number| rule(&number.to_string())).collect::<Vec<_>>();
        assert!(wrong(&many(MOST_RULES)).is_empty());
        assert_eq!(wrong(&[Rule { rules: many(MOST_RULES), ..rule("a") }]), ["rules"]);
    }

    #[test]
    fn what_is_stored_is_what_was_sent() {
        let rules = vec![Rule {
            limit: Some(Limit::Own { requests: 3, window: window(Unit::Day) }),
            rules: vec![Rule { limit: Some(Limit::Unlimited), shadow: true, ..rule("b") }],
            ..rule("a")
        }];
        let stored = serde_json::to_value(&rules).unwrap();
        assert_eq!(serde_json::from_value::<Vec<Rule>>(stored).unwrap(), rules);
    }
}
