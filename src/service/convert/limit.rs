//! Limits between protobuf and the model. Meters are keys on the wire and ids inside: a view of the catalog has both.

use prost_types::FieldMask;
use uuid::Uuid;

use crate::error::{Error, Violations};
use crate::ids::MeterId;
use crate::metering::catalog::View;
use crate::model::etag;
use crate::model::limit::rules::{self, Length, NamedRule, UncheckedRule, UncheckedTerms, Unknown};
use crate::model::limit::{Enforcement, Fallback, Limit, Maker, Rule, SubjectKind, Terms, Unit, Window};
use crate::proto::v1;
use crate::service::convert::{mask, timestamp};

/// The fields that an update mask can name: the terms. `rule.bound` is `amount` and `unlimited`.
const FIELDS: &[&str] =
    &["rule.bound", "rule.burst", "rule.enforcement", "rule.shadow", "rule.fallback", "rule.alert_percents"];

/// For the wire. The view must have the limit's meter.
pub fn to_proto(limit: Limit, meters: &View) -> Result<v1::Limit, Error> {
    let maker = match limit.maker {
        Maker::Platform => v1::LimitMaker::Platform,
        Maker::Organization => v1::LimitMaker::Organization,
    };
    Ok(v1::Limit {
        organization_id: limit.organization_id.to_string(),
        limit_id: limit.limit_id.to_string(),
        subject_id: limit.subject_id.map(|id| id.to_string()).unwrap_or_default(),
        rule: Some(rule(limit.rule, meters)?),
        maker: maker.into(),
        etag: etag::of(limit.revision),
        create_time: Some(timestamp(limit.create_time)),
        update_time: Some(timestamp(limit.update_time)),
    })
}

/// A rule for the wire. The view must have its meter.
pub fn rule(rule: Rule, meters: &View) -> Result<v1::LimitRule, Error> {
    let terms = rule.terms;
    let signed = |number: u64| i64::try_from(number).map_err(Error::internal);
    let enforcement = match terms.enforcement {
        Enforcement::Hard => v1::LimitEnforcement::Hard,
        Enforcement::Soft => v1::LimitEnforcement::Soft,
    };
    let fallback = match terms.fallback {
        None => v1::LimitFallback::Unspecified,
        Some(Fallback::Deny) => v1::LimitFallback::Deny,
        Some(Fallback::Admit) => v1::LimitFallback::Admit,
    };
    Ok(v1::LimitRule {
        meter: meter_key(rule.meter_id, meters)?,
        subject_kind: subject_kind(rule.subject_kind).into(),
        window: Some(window(rule.window)),
        amount: terms.amount.map(signed).transpose()?,
        unlimited: terms.amount.is_none(),
        burst: signed(terms.burst)?,
        enforcement: enforcement.into(),
        shadow: terms.shadow,
        fallback: fallback.into(),
        alert_percents: terms.alert_percents.into_iter().map(i32::from).collect(),
    })
}

fn meter_key(id: MeterId, meters: &View) -> Result<String, Error> {
    let meter = meters.of_id(id).ok_or_else(|| Error::internal(format!("a limit is on {id}, which is no meter")))?;
    Ok(meter.key.clone())
}

/// A kind of subject for the wire.
#[must_use]
pub const fn subject_kind(kind: SubjectKind) -> v1::SubjectKind {
    match kind {
        SubjectKind::Organization => v1::SubjectKind::Organization,
        SubjectKind::Team => v1::SubjectKind::Team,
        SubjectKind::User => v1::SubjectKind::User,
        SubjectKind::ApiKey => v1::SubjectKind::ApiKey,
    }
}

/// A kind of subject from the wire.
pub fn read_subject_kind(kind: i32) -> Result<SubjectKind, Unknown> {
    match v1::SubjectKind::try_from(kind) {
        Ok(v1::SubjectKind::Organization) => Ok(SubjectKind::Organization),
        Ok(v1::SubjectKind::Team) => Ok(SubjectKind::Team),
        Ok(v1::SubjectKind::User) => Ok(SubjectKind::User),
        Ok(v1::SubjectKind::ApiKey) => Ok(SubjectKind::ApiKey),
        Ok(v1::SubjectKind::Unspecified) | Err(_) => Err(Unknown),
    }
}

/// A window for the wire.
#[must_use]
pub fn window(window: Window) -> v1::Window {
    let (unit, rolling) = match window {
        Window::Calendar(unit) => (unit, false),
        Window::Rolling(unit) => (unit, true),
        Window::Lifetime => return v1::Window { unit: v1::WindowUnit::Lifetime.into(), rolling: false },
    };
    let unit = match unit {
        Unit::Second => v1::WindowUnit::Second,
        Unit::Minute => v1::WindowUnit::Minute,
        Unit::Hour => v1::WindowUnit::Hour,
        Unit::Day => v1::WindowUnit::Day,
        Unit::Week => v1::WindowUnit::Week,
        Unit::Month => v1::WindowUnit::Month,
    };
    v1::Window { unit: unit.into(), rolling }
}

fn read_length(unit: i32) -> Result<Length, Unknown> {
    Ok(match v1::WindowUnit::try_from(unit) {
        Ok(v1::WindowUnit::Second) => Length::Unit(Unit::Second),
        Ok(v1::WindowUnit::Minute) => Length::Unit(Unit::Minute),
        Ok(v1::WindowUnit::Hour) => Length::Unit(Unit::Hour),
        Ok(v1::WindowUnit::Day) => Length::Unit(Unit::Day),
        Ok(v1::WindowUnit::Week) => Length::Unit(Unit::Week),
        Ok(v1::WindowUnit::Month) => Length::Unit(Unit::Month),
        Ok(v1::WindowUnit::Lifetime) => Length::Lifetime,
        Ok(v1::WindowUnit::Unspecified) | Err(_) => return Err(Unknown),
    })
}

fn read_enforcement(enforcement: i32) -> Result<Enforcement, Unknown> {
    match v1::LimitEnforcement::try_from(enforcement).map_err(|_| Unknown)? {
        v1::LimitEnforcement::Unspecified | v1::LimitEnforcement::Hard => Ok(Enforcement::Hard),
        v1::LimitEnforcement::Soft => Ok(Enforcement::Soft),
    }
}

fn read_fallback(fallback: i32) -> Result<Option<Fallback>, Unknown> {
    Ok(match v1::LimitFallback::try_from(fallback).map_err(|_| Unknown)? {
        v1::LimitFallback::Unspecified => None,
        v1::LimitFallback::Deny => Some(Fallback::Deny),
        v1::LimitFallback::Admit => Some(Fallback::Admit),
    })
}

/// A rule from the wire, not looked at yet.
#[must_use]
pub fn unchecked(message: v1::LimitRule) -> UncheckedRule {
    let window = message.window.unwrap_or_default();
    UncheckedRule {
        subject_kind: read_subject_kind(message.subject_kind),
        length: read_length(window.unit),
        rolling: window.rolling,
        terms: UncheckedTerms {
            amount: message.amount,
            unlimited: message.unlimited,
            burst: message.burst,
            enforcement: read_enforcement(message.enforcement),
            shadow: message.shadow,
            fallback: read_fallback(message.fallback),
            alert_percents: message.alert_percents,
        },
        meter: message.meter,
    }
}

/// The subject and the rule of a new limit. Error: `INVALID_FIELD` with every violation.
pub fn new_limit(message: v1::Limit) -> Result<(Option<Uuid>, NamedRule), Error> {
    let mut wrong = Violations::default();
    let rule = unchecked(message.rule.unwrap_or_default());
    let subject_id = wrong.take(rules::subject("subject_id", rule.subject_kind, &message.subject_id));
    let rule = rule.check("rule", &mut wrong);
    wrong.finish().map_err(|error| error.within("limit"))?;
    subject_id.zip(rule).ok_or_else(|| Error::internal("a limit lacks a field without a violation"))
}

/// The rule with the meter of its key. Error: `METER_NOT_FOUND` when the view has none.
pub fn resolved(named: NamedRule, meters: &View) -> Result<Rule, Error> {
    let NamedRule { meter, subject_kind, window, terms } = named;
    let found = meters.of_key(&meter).ok_or_else(|| Error::not_found("meter", &meter))?;
    Ok(Rule { meter_id: found.meter_id, subject_kind, window, terms })
}

/// The fields of a limit that a mask names; without one, those that the message sets. Error: `INVALID_FIELD` on
/// `update_mask`.
pub fn fields(mask: Option<FieldMask>, message: &v1::LimitRule) -> Result<Vec<&'static str>, Error> {
    mask::fields_or_set(mask, FIELDS, |field| match field {
        "rule.bound" => message.amount.is_some() || message.unlimited,
        "rule.burst" => message.burst != 0,
        "rule.enforcement" => message.enforcement != 0,
        "rule.shadow" => message.shadow,
        "rule.fallback" => message.fallback != 0,
        "rule.alert_percents" => !message.alert_percents.is_empty(),
        _ => false,
    })
}

/// The terms with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_terms(current: Terms, window: Window, message: v1::LimitRule, fields: &[&str]) -> Result<Terms, Error> {
    let mut terms = UncheckedTerms::from(current);
    let new = unchecked(message).terms;
    for field in fields {
        match *field {
            "rule.bound" => (terms.amount, terms.unlimited) = (new.amount, new.unlimited),
            "rule.burst" => terms.burst = new.burst,
            "rule.enforcement" => terms.enforcement = new.enforcement,
            "rule.shadow" => terms.shadow = new.shadow,
            "rule.fallback" => terms.fallback = new.fallback,
            "rule.alert_percents" => terms.alert_percents.clone_from(&new.alert_percents),
            unknown => return Err(Error::internal(format!("{unknown} is no field of a limit"))),
        }
    }
    rules::changed("limit.rule", terms, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_kinds_are_read_as_written() {
        let units = [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month];
        for unit in units {
            for (known, rolling) in [(Window::Calendar(unit), false), (Window::Rolling(unit), true)] {
                let written = window(known);
                assert_eq!((read_length(written.unit), written.rolling), (Ok(Length::Unit(unit)), rolling));
            }
        }
        assert_eq!(read_length(window(Window::Lifetime).unit), Ok(Length::Lifetime));
        for kind in [SubjectKind::Organization, SubjectKind::Team, SubjectKind::User, SubjectKind::ApiKey] {
            assert_eq!(read_subject_kind(subject_kind(kind).into()), Ok(kind));
        }
        assert_eq!([0, 99].map(read_subject_kind), [Err(Unknown); 2]);
        assert_eq!([0, 99].map(read_length), [Err(Unknown); 2]);
        assert_eq!([0, 1, 99].map(read_enforcement), [Ok(Enforcement::Hard), Ok(Enforcement::Hard), Err(Unknown)]);
        assert_eq!([0, 1, 99].map(read_fallback), [Ok(None), Ok(Some(Fallback::Deny)), Err(Unknown)]);
    }

    #[test]
    fn masks() {
        let of = |paths: &[&str], message: &v1::LimitRule| {
            fields(Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() }), message)
        };
        let message = v1::LimitRule { amount: Some(0), shadow: true, ..v1::LimitRule::default() };
        assert_eq!(of(&[], &message).unwrap(), ["rule.bound", "rule.shadow"], "what is set");
        assert_eq!(of(&["*"], &message).unwrap().len(), FIELDS.len());
        assert_eq!(of(&["rule"], &message).unwrap().len(), FIELDS.len());
        assert_eq!(of(&["rule.burst"], &message).unwrap(), ["rule.burst"]);
        assert!(of(&[], &v1::LimitRule::default()).is_err());
        for fixed in ["subject_id", "rule.meter", "rule.subject_kind", "rule.window", "maker", "limit_id"] {
            assert!(of(&[fixed], &message).is_err(), "{fixed}");
        }
    }

    #[test]
    fn only_named_terms_change() {
        let window = Window::Rolling(Unit::Minute);
        let current = Terms {
            amount: Some(10),
            burst: 5,
            enforcement: Enforcement::Soft,
            shadow: true,
            fallback: Some(Fallback::Deny),
            alert_percents: vec![90],
        };
        let of = |message: v1::LimitRule, fields: &[&str]| changed_terms(current.clone(), window, message, fields);
        let message = v1::LimitRule { amount: Some(20), ..v1::LimitRule::default() };
        assert_eq!(of(message.clone(), &["rule.bound"]).unwrap(), Terms { amount: Some(20), ..current.clone() });
        let all = Terms {
            amount: Some(20),
            burst: 0,
            enforcement: Enforcement::Hard,
            shadow: false,
            fallback: None,
            alert_percents: vec![],
        };
        assert_eq!(of(message, FIELDS).unwrap(), all);
        // What is not named is looked at too: it has to fit.
        let unlimited = v1::LimitRule { unlimited: true, ..v1::LimitRule::default() };
        let Err(Error::Invalid(wrong)) = of(unlimited, &["rule.bound"]) else { panic!("taken") };
        assert_eq!(wrong[0].field, "limit.rule.burst");
    }
}
