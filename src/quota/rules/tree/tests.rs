//! Which rule a descriptor is matched with: by a table, and by a model that looks through the list.

use proptest::prelude::*;

use super::*;
use crate::model::limit::{Unit, Window};

fn rule(key: &str, value: &str, name: &str, rules: Vec<Rule>) -> Rule {
    let limit = (!name.is_empty()).then_some(Limit::Own { requests: 1, window: Window::Calendar(Unit::Hour) });
    Rule { key: key.into(), value: value.into(), limit, name: name.into(), rules, ..Rule::default() }
}

fn found<'a>(rules: &'a RuleSet, entries: &[(&str, &str)]) -> Option<&'a str> {
    rules.find(entries.iter().copied()).map(|matched| &*matched.name)
}

#[test]
fn the_most_exact_rule_counts_on_each_level() {
    let rules = [
        rule(
            "path",
            "/v1/*",
            "v1",
            vec![rule("method", "POST", "v1 post", vec![]), rule("method", "", "v1 any", vec![])],
        ),
        rule("path", "/v1/pay*", "never: the first beginning counts", vec![]),
        rule("path", "/v1/status", "", vec![]),
        rule("path", "", "any path", vec![rule("method", "GET", "get", vec![])]),
        rule("path", "*", "any other", vec![rule("method", "", "star", vec![])]),
        rule("method", "", "", vec![rule("path", "", "method path", vec![])]),
    ];
    let rules = RuleSet::new("edge", &rules, 7);
    assert_eq!(rules.as_of, 7);
    for (entries, expected) in [
        (&[("path", "/v1/pay")][..], Some("v1")),
        (&[("path", "/v1/pay"), ("method", "POST")], Some("v1 post")),
        (&[("path", "/v1/pay"), ("method", "GET")], Some("v1 any")),
        (&[("path", "/v1/"), ("method", "GET")], Some("v1 any")),
        // The exact rule has no limit, and whoever was chosen stays chosen.
        (&[("path", "/v1/status")], None),
        (&[("path", "/v1/status"), ("method", "GET")], None),
        (&[("path", "/v2")], Some("any other")),
        (&[("path", "/v2"), ("method", "GET")], Some("star")),
        // More entries than levels, fewer than it takes, another order, an unknown key.
        (&[("path", "/v1/pay"), ("method", "GET"), ("method", "GET")], None),
        (&[("method", "GET")], None),
        (&[("method", "GET"), ("path", "/v1/pay")], Some("method path")),
        (&[("host", "a")], None),
        (&[], None),
    ] {
        assert_eq!(found(&rules, entries), expected, "{entries:?}");
    }
    let only_any = RuleSet::new("edge", &[rule("path", "", "any", vec![])], 0);
    assert_eq!(found(&only_any, &[("path", "")]), Some("any"));
    // `a_b` is a key of its own, and no value `b` of `a`.
    let joined = RuleSet::new("edge", &[rule("a_b", "", "joined", vec![])], 0);
    assert_eq!((found(&joined, &[("a", "b")]), found(&joined, &[("a_b", "c")])), (None, Some("joined")));
}

#[test]
fn what_is_counted_has_its_name_by_where_it_is() {
    let of = |domain: &str, rules: &[Rule], entries: &[(&str, &str)]| match &RuleSet::new(domain, rules, 0)
        .find(entries.iter().copied())
        .unwrap()
        .says
    {
        Says::Own(applied) => (applied.meter_id, applied.window, applied.terms.amount),
        other => panic!("{other:?}"),
    };
    let with = |requests, unit| Rule {
        limit: Some(Limit::Own { requests, window: Window::Calendar(unit) }),
        ..rule("a", "", "n", vec![])
    };
    let hour = of("edge", &[with(1, Unit::Hour)], &[("a", "x")]);
    let more = of("edge", &[with(9, Unit::Hour)], &[("a", "x")]);
    assert_eq!((hour.0, hour.1), (more.0, more.1), "another amount goes on counting");
    assert_ne!(hour.2, more.2);
    assert_ne!(hour.0, of("other", &[with(1, Unit::Hour)], &[("a", "x")]).0);
    let valued = Rule { value: "x".into(), ..with(1, Unit::Hour) };
    assert_ne!(hour.0, of("edge", &[valued], &[("a", "x")]).0);
}

/// As envoyproxy/ratelimit's `GetLimit` looks it up, in lists.
fn model<'a>(rules: &'a [Rule], entries: &[(&str, &str)]) -> Option<&'a str> {
    let mut level = rules;
    for (position, (key, value)) in entries.iter().enumerate() {
        let of_key = || level.iter().filter(|rule| rule.key == *key);
        let exact = of_key().find(|rule| !rule.value.ends_with('*') && !rule.value.is_empty() && rule.value == *value);
        let begins = |rule: &&Rule| rule.value.ends_with('*') && value.starts_with(rule.value.trim_end_matches('*'));
        let found = exact.or_else(|| of_key().find(begins)).or_else(|| of_key().find(|rule| rule.value.is_empty()))?;
        if position == entries.len() - 1 {
            return found.limit.is_some().then_some(found.name.as_str());
        }
        level = &found.rules;
    }
    None
}

fn level(depth: u32) -> BoxedStrategy<Vec<Rule>> {
    let value = prop::sample::select(vec!["", "x", "xy", "y", "*", "x*", "xy*"]);
    let nested = if depth == 0 { Just(Vec::new()).boxed() } else { level(depth - 1) };
    let rule = (prop::sample::select(vec!["a", "b"]), value, any::<bool>(), nested);
    let rules = prop::collection::vec(rule, 0..6).prop_map(|rules| {
        let mut distinct: Vec<Rule> = Vec::new();
        for (key, value, has_limit, nested) in rules {
            if !distinct.iter().any(|rule| rule.key == key && rule.value == value) {
                distinct.push(self::rule(key, value, if has_limit { "limit" } else { "" }, nested));
            }
        }
        distinct
    });
    rules.boxed()
}

/// Gives every limit a name of its own.
fn named(rules: &mut [Rule], next: &mut u32) {
    for rule in rules {
        if rule.limit.is_some() {
            rule.name = next.to_string();
        }
        *next += 1;
        named(&mut rule.rules, next);
    }
}

proptest! {
    #[test]
    fn the_tree_finds_what_the_list_says(
        mut rules in level(2),
        entries in prop::collection::vec(
            (prop::sample::select(vec!["a", "b", "c"]), prop::sample::select(vec!["", "x", "xy", "xyz", "y", "z"])), 1..4,
        ),
    ) {
        named(&mut rules, &mut 0);
        let set = RuleSet::new("edge", &rules, 0);
        prop_assert_eq!(found(&set, &entries), model(&rules, &entries));
    }
}
