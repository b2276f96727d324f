//! Which limit is in force.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Interner, Policy};
use crate::ids::{LimitId, MeterId};
use crate::model::limit::{Enforcement, Limit, Maker, Rule, SubjectKind, Terms, Unit, Window};
use crate::model::meter::{Aggregation, Measure, Meter, Profile};
use crate::model::plan::{Feature, PlanLimit, PolicyRows};
use crate::quota::decision::{Source, Subjects};

const ORGANIZATION: Uuid = Uuid::from_u128(2);
const KEY: Uuid = Uuid::from_u128(7);

fn terms(amount: Option<u64>) -> Terms {
    Terms {
        amount,
        burst: 0,
        enforcement: Enforcement::Hard,
        shadow: false,
        fallback: None,
        alert_percents: Vec::new(),
    }
}

fn rule(terms: Terms) -> Rule {
    let window = Window::Calendar(Unit::Day);
    Rule { meter_id: MeterId::from(Uuid::from_u128(1)), subject_kind: SubjectKind::ApiKey, window, terms }
}

fn made(maker: Maker, subject_id: Option<Uuid>, terms: Terms) -> Limit {
    Limit {
        organization_id: ORGANIZATION.into(),
        limit_id: LimitId::from(Uuid::from_u128(3)),
        maker,
        subject_id,
        rule: rule(terms),
        revision: 1,
        create_time: DateTime::<Utc>::UNIX_EPOCH,
        update_time: DateTime::<Utc>::UNIX_EPOCH,
    }
}

fn meter(organization_id: Option<Uuid>) -> Meter {
    Meter {
        organization_id: organization_id.map(Into::into),
        meter_id: MeterId::from(Uuid::from_u128(1)),
        key: "requests".to_owned(),
        profile: Profile { display_name: String::new(), description: String::new(), unit: String::new() },
        measure: Measure {
            aggregation: Aggregation::Count,
            value_property: None,
            group_by: Vec::new(),
            filter: Vec::new(),
        },
        archive_time: None,
        revision: 1,
        create_time: DateTime::<Utc>::UNIX_EPOCH,
        update_time: DateTime::<Utc>::UNIX_EPOCH,
    }
}

/// A plan with a limit of 10, and the given ones.
fn rows(limits: Vec<Limit>) -> PolicyRows {
    PolicyRows {
        plan: "free".to_owned(),
        plan_version: 1,
        plan_limits: vec![PlanLimit { limit_id: LimitId::from(Uuid::from_u128(4)), rule: rule(terms(Some(10))) }],
        features: [("sso".to_owned(), Feature::Boolean(true)), ("audit".to_owned(), Feature::Boolean(false))].into(),
        limits,
        time_zone: chrono_tz::UTC,
        billing_anchor_day: 1,
        as_of: DateTime::<Utc>::UNIX_EPOCH,
    }
}

fn policy(limits: Vec<Limit>) -> Policy {
    Policy::new(ORGANIZATION.into(), &rows(limits), &[Arc::new(meter(None))], &Interner::default())
}

/// What is in force for the key.
fn in_force(limits: Vec<Limit>) -> (Option<u64>, Source) {
    let subjects = Subjects { api_key: Some(KEY), ..Subjects::default() };
    let resolved = policy(limits).resolve(ORGANIZATION.into(), "requests", subjects).unwrap();
    assert_eq!((resolved.len(), resolved[0].account.subject_id), (1, KEY));
    (resolved[0].applied.terms.amount, resolved[0].applied.source)
}

#[test]
fn the_platform_goes_before_the_plan_and_the_exact_before_each() {
    let platform = Source::Limit(Maker::Platform);
    let each = || made(Maker::Platform, None, terms(Some(20)));
    let exact = || made(Maker::Platform, Some(KEY), terms(Some(30)));
    let of_another = made(Maker::Platform, Some(Uuid::from_u128(8)), terms(Some(1)));
    assert_eq!(in_force(vec![]), (Some(10), Source::Plan));
    assert_eq!(in_force(vec![of_another]), (Some(10), Source::Plan));
    assert_eq!(in_force(vec![each()]), (Some(20), platform));
    assert_eq!(in_force(vec![exact(), each()]), (Some(30), platform));
    assert_eq!(in_force(vec![made(Maker::Platform, None, terms(None))]), (None, platform), "without a limit");
}

#[test]
fn the_organization_can_only_tighten() {
    let own = |amount| made(Maker::Organization, None, terms(Some(amount)));
    assert_eq!(in_force(vec![own(5)]), (Some(5), Source::Limit(Maker::Organization)));
    assert_eq!(in_force(vec![own(50)]), (Some(10), Source::Plan));
    let unlimited = made(Maker::Platform, Some(KEY), terms(None));
    assert_eq!(in_force(vec![unlimited, own(50)]), (Some(50), Source::Limit(Maker::Organization)));
}

#[test]
fn what_denies_goes_before_what_only_counts() {
    let soft = Terms { enforcement: Enforcement::Soft, ..terms(Some(1)) };
    let shadow = Terms { shadow: true, ..terms(Some(1)) };
    assert_eq!(in_force(vec![made(Maker::Organization, None, soft.clone())]), (Some(10), Source::Plan));
    assert_eq!(in_force(vec![made(Maker::Organization, None, shadow)]), (Some(10), Source::Plan));
    let own = made(Maker::Organization, None, terms(Some(50)));
    let replaced = made(Maker::Platform, None, soft);
    assert_eq!(in_force(vec![replaced, own]), (Some(50), Source::Limit(Maker::Organization)));
}

#[test]
fn limits_of_subjects_that_do_not_ask_do_not_apply() {
    let policy = policy(vec![]);
    assert!(policy.resolve(ORGANIZATION.into(), "requests", Subjects::default()).unwrap().is_empty());
    assert!(policy.resolve(ORGANIZATION.into(), "others", Subjects::default()).is_none());
}

#[test]
fn features_are_on_or_not_included() {
    let policy = policy(vec![]);
    assert!(policy.includes("sso") && !policy.includes("audit") && !policy.includes("other"));
    for (feature, is_on) in [
        (Feature::Boolean(true), true),
        (Feature::Number(0.0), false),
        (Feature::Number(0.5), true),
        (Feature::Text(String::new()), false),
        (Feature::Text("gold".into()), true),
    ] {
        assert_eq!(feature.is_on(), is_on, "{feature:?}");
    }
}

#[test]
fn organizations_have_the_limits_of_one_plan_once() {
    let interner = Interner::default();
    let of = |organization: u128, rows: &PolicyRows, meter: Meter| {
        Policy::new(Uuid::from_u128(organization).into(), rows, &[Arc::new(meter)], &interner)
    };
    let is_one = |one: &Policy, other: &Policy| Arc::ptr_eq(&one.limits, &other.limits);
    let kept = of(0x100, &rows(vec![]), meter(None));
    let other = PolicyRows { billing_anchor_day: 2, ..rows(vec![]) };
    let same = of(0x200, &other, meter(None));
    assert!(is_one(&kept, &same));
    assert_eq!((kept.calendar.anchor_day, same.calendar.anchor_day), (1, 2), "and each its own calendar");
    let subjects = Subjects { api_key: Some(KEY), ..Subjects::default() };
    let applied =
        |policy: &Policy| policy.resolve(ORGANIZATION.into(), "requests", subjects).unwrap().remove(0).applied;
    assert!(Arc::ptr_eq(&applied(&kept), &applied(&same)));

    assert!(!is_one(&kept, &of(0x201, &rows(vec![]), meter(None))), "threads do not all count the same references");
    let renamed = Meter { key: "calls".to_owned(), ..meter(None) };
    let after = of(0x300, &rows(vec![]), renamed.clone());
    assert!(
        after.resolve(ORGANIZATION.into(), "requests", subjects).is_none(),
        "the plan is as it was, a meter is not"
    );
    assert!(is_one(&after, &of(0x400, &rows(vec![]), renamed)));
    let newer = PolicyRows { plan_version: 2, plan_limits: Vec::new(), ..rows(vec![]) };
    assert!(of(0x500, &newer, meter(None)).resolve(ORGANIZATION.into(), "requests", subjects).unwrap().is_empty());

    let own = |organization: u128, limits: Vec<Limit>, meter: Meter| of(organization, &rows(limits), meter);
    let limits = || vec![made(Maker::Organization, None, terms(Some(5)))];
    assert!(!is_one(&own(0x600, limits(), meter(None)), &own(0x700, limits(), meter(None))), "nobody else has them");
    let whose = Some(ORGANIZATION);
    assert!(!is_one(&own(0x600, vec![], meter(whose)), &own(0x700, vec![], meter(whose))), "nor such a meter");
}

#[test]
fn limits_that_nobody_has_are_given_up() {
    let interner = Interner::default();
    let kept = Policy::new(ORGANIZATION.into(), &rows(vec![]), &[], &interner);
    for plan_version in 2..2000 {
        let rows = PolicyRows { plan_version, ..rows(vec![]) };
        drop(Policy::new(ORGANIZATION.into(), &rows, &[], &interner));
        assert!(interner.len() <= 257, "{}", interner.len());
    }
    let again = Policy::new(ORGANIZATION.into(), &rows(vec![]), &[], &interner);
    assert!(Arc::ptr_eq(&kept.limits, &again.limits), "but not what somebody has");
}
