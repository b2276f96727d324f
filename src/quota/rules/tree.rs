//! The rules of a domain as a tree, made for looking up. Pure.
//!
//! As envoyproxy/ratelimit does it, without its looking back: on each level the rule of exactly this key and value, else the
//! first whose value with a `*` is the beginning of this one, else the rule of the key; and who was chosen stays chosen, though
//! a later entry may find nothing below it.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::rate_limit_domain::{Limit, Rule};
use crate::quota::decision::Applied;
use crate::quota::rules::names;
use crate::quota::slots::LedgerTime;

/// The rules of a domain.
#[derive(Debug)]
pub struct RuleSet {
    root: Level,
    /// When they were read from the database.
    pub as_of: LedgerTime,
}

/// The rules beside each other, by key.
#[derive(Debug, Default)]
struct Level(HashMap<Box<str>, OfKey>);

/// The rules of one key.
#[derive(Debug, Default)]
struct OfKey {
    exact: HashMap<Box<str>, Node>,
    /// By the beginning of the value, in the order of the rules.
    beginnings: Vec<(Box<str>, Node)>,
    any: Option<Node>,
}

#[derive(Debug)]
struct Node {
    matched: Option<Arc<Matched>>,
    next: Level,
}

/// A rule with a limit that a descriptor was matched with to its end.
#[derive(Debug)]
pub struct Matched {
    /// What limits.
    pub says: Says,
    /// The name of the limit; may be empty.
    pub name: Arc<str>,
    /// Whether it only reports.
    pub shadow: bool,
    /// The names of limits that do not count beside it.
    pub replaces: Vec<String>,
}

/// What a rule says.
#[derive(Debug)]
pub enum Says {
    /// There is no limit.
    Unlimited,
    /// A limit, counted for each set of entries.
    Own(Arc<Applied>),
    /// The limits of a tenant.
    Tenant {
        /// The key of the meter.
        meter: Arc<str>,
        /// The key of the entry that names the tenant.
        tenant_key: Box<str>,
    },
}

impl RuleSet {
    /// The rules of a domain.
    #[must_use]
    pub fn new(domain: &str, rules: &[Rule], as_of: LedgerTime) -> Self {
        Self { root: Level::new(rules, &mut vec!["rule", domain]), as_of }
    }

    /// The rule with a limit that the entries, key and value, lead to.
    #[must_use]
    pub fn find<'a>(&self, entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<&Arc<Matched>> {
        let mut level = &self.root;
        let mut found = None;
        for (key, value) in entries {
            let node = level.0.get(key)?.find(value)?;
            (level, found) = (&node.next, node.matched.as_ref());
        }
        found
    }
}

impl OfKey {
    fn find(&self, value: &str) -> Option<&Node> {
        let beginning = || self.beginnings.iter().find(|(beginning, _)| value.starts_with(&**beginning));
        let by_value = self.exact.get(value).or_else(|| beginning().map(|(_, node)| node));
        by_value.or(self.any.as_ref())
    }
}

impl Level {
    /// `path` is what leads here: the name of what a rule counts is made of that, and not of the limit.
    fn new<'a>(rules: &'a [Rule], path: &mut Vec<&'a str>) -> Self {
        let mut level = Self::default();
        for rule in rules {
            path.extend([rule.key.as_str(), rule.value.as_str()]);
            let node = Node {
                matched: rule.limit.as_ref().map(|limit| Arc::new(Matched::new(rule, limit, path))),
                next: Self::new(&rule.rules, path),
            };
            path.truncate(path.len() - 2);
            let of_key = level.0.entry(rule.key.as_str().into()).or_default();
            if rule.value.is_empty() {
                of_key.any = Some(node);
            } else if let Some(beginning) = rule.value.strip_suffix('*') {
                of_key.beginnings.push((beginning.into(), node));
            } else {
                of_key.exact.insert(rule.value.as_str().into(), node);
            }
        }
        level
    }
}

impl Matched {
    fn new(rule: &Rule, limit: &Limit, path: &[&str]) -> Self {
        let says = match limit {
            Limit::Unlimited => Says::Unlimited,
            Limit::Own { requests, window } => {
                let what = names::of(path.iter().copied());
                Says::Own(names::applied(what, &rule.name, (*requests).into(), *window, rule.shadow))
            }
            Limit::Tenant { meter, tenant_key } => {
                Says::Tenant { meter: meter.as_str().into(), tenant_key: tenant_key.as_str().into() }
            }
        };
        let name = rule.name.as_str().into();
        Self { says, name, shadow: rule.shadow, replaces: rule.replaces.clone() }
    }
}
