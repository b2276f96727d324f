//! What a limit may say. Every check notes all that is wrong, each with the path of its field.

use crate::error::{Error, Violation, Violations};
use crate::ids::parse_uuid;
use crate::model::limit::{Enforcement, Fallback, MOST, MOST_RATE, SubjectKind, Terms, Unit, Window};
use crate::model::meter;
use uuid::Uuid;

/// The most percentages at which one limit raises an alert.
const ALERTS: usize = 5;

/// The greatest of them.
const MOST_PERCENT: u16 = 1000;

/// A rule that names its meter by the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedRule {
    /// The key of what is counted.
    pub meter: String,
    /// Whose consumption is added up.
    pub subject_kind: SubjectKind,
    /// In which time.
    pub window: Window,
    /// How much, and what then.
    pub terms: Terms,
}

/// How long a window is, of whatever kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// So long.
    Unit(Unit),
    /// For ever.
    Lifetime,
}

/// Stands for a number that is none of its enumeration's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown;

/// A rule as somebody sent it.
#[derive(Clone, Debug)]
pub struct UncheckedRule {
    /// The key of a meter.
    pub meter: String,
    /// Whose consumption.
    pub subject_kind: Result<SubjectKind, Unknown>,
    /// How long the window is.
    pub length: Result<Length, Unknown>,
    /// Whether it is the time that ends now.
    pub rolling: bool,
    /// How much, and what then.
    pub terms: UncheckedTerms,
}

/// Terms as somebody sent them.
#[derive(Clone, Debug)]
pub struct UncheckedTerms {
    /// How much.
    pub amount: Option<i64>,
    /// Whether there is no limit.
    pub unlimited: bool,
    /// What the token bucket holds.
    pub burst: i64,
    /// What happens past the amount.
    pub enforcement: Result<Enforcement, Unknown>,
    /// Whether it only reports.
    pub shadow: bool,
    /// What is decided without the database; `None`: by the enforcement.
    pub fallback: Result<Option<Fallback>, Unknown>,
    /// At which percentages an alert is raised.
    pub alert_percents: Vec<i32>,
}

impl From<Terms> for UncheckedTerms {
    fn from(terms: Terms) -> Self {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            amount: terms.amount.map(signed),
            unlimited: terms.amount.is_none(),
            burst: signed(terms.burst),
            enforcement: Ok(terms.enforcement),
            shadow: terms.shadow,
            fallback: Ok(terms.fallback),
            alert_percents: terms.alert_percents.into_iter().map(i32::from).collect(),
        }
    }
}

impl UncheckedRule {
    /// The rule, if it is right in all parts; `field` is its path.
    pub fn check(self, field: &str, wrong: &mut Violations) -> Option<NamedRule> {
        let meter = wrong.take(meter::key(&format!("{field}.meter"), &self.meter));
        let subject_kind = wrong.take(self.subject_kind.map_err(|Unknown| {
            Violation::new(format!("{field}.subject_kind"), "must be one of the kinds of subjects")
        }));
        let window = wrong.take(match (self.length, self.rolling) {
            (Ok(Length::Unit(unit)), false) => Ok(Window::Calendar(unit)),
            (Ok(Length::Unit(unit)), true) => Ok(Window::Rolling(unit)),
            (Ok(Length::Lifetime), false) => Ok(Window::Lifetime),
            (Ok(Length::Lifetime), true) => {
                Err(Violation::new(format!("{field}.window.rolling"), "must be false: a lifetime does not roll"))
            }
            (Err(Unknown), _) => Err(Violation::new(format!("{field}.window.unit"), "must be one of the units")),
        });
        let terms = self.terms.check(field, window, wrong);
        Some(NamedRule { meter: meter?, subject_kind: subject_kind?, window: window?, terms: terms? })
    }
}

impl UncheckedTerms {
    /// The terms, if they are right in all parts and for this window; `field` is the path of the rule.
    pub fn check(self, field: &str, window: Option<Window>, wrong: &mut Violations) -> Option<Terms> {
        let is_rate = window.is_none_or(Window::is_rate);
        let amount = wrong.take(self.amount(field, window.is_some_and(Window::is_rate)));
        let burst = u64::try_from(self.burst).ok().filter(|burst| *burst <= MOST_RATE);
        let burst_field = || format!("{field}.burst");
        match burst {
            None => wrong.add(burst_field(), format!("must be 0 to {MOST_RATE}")),
            Some(1..) if !is_rate => {
                wrong.add(burst_field(), "must be 0: only rolling windows of a second or a minute have a burst");
            }
            Some(1..) if matches!(amount, Some(None | Some(0))) => {
                wrong.add(burst_field(), "must be 0 without an amount, which is what fills the bucket");
            }
            Some(_) => {}
        }
        let enforcement = wrong.take(
            self.enforcement
                .map_err(|Unknown| Violation::new(format!("{field}.enforcement"), "must be one of the enforcements")),
        );
        let fallback = wrong.take(
            self.fallback
                .map_err(|Unknown| Violation::new(format!("{field}.fallback"), "must be one of the fallbacks")),
        );
        let alert_percents = alert_percents(&format!("{field}.alert_percents"), &self.alert_percents, wrong);
        Some(Terms {
            amount: amount?,
            burst: burst?,
            enforcement: enforcement?,
            shadow: self.shadow,
            fallback: fallback?,
            alert_percents: alert_percents?,
        })
    }

    fn amount(&self, field: &str, is_rate: bool) -> Result<Option<u64>, Violation> {
        let most = if is_rate { MOST_RATE } else { MOST };
        let wrong = |description: String| Err(Violation::new(format!("{field}.amount"), description));
        match (self.amount, self.unlimited) {
            (None, true) => Ok(None),
            (Some(amount), false) => match u64::try_from(amount) {
                Ok(amount) if amount <= most => Ok(Some(amount)),
                _ if is_rate => wrong(format!("must be 0 to {most} in a window so short")),
                _ => wrong(format!("must be 0 to {most}")),
            },
            (Some(_), true) => wrong("must be absent where `unlimited` is set".into()),
            (None, false) => wrong("must be set, or `unlimited`".into()),
        }
    }
}

fn alert_percents(field: &str, percents: &[i32], wrong: &mut Violations) -> Option<Vec<u16>> {
    if percents.len() > ALERTS {
        wrong.add(field, format!("must be at most {ALERTS} percentages"));
        return None;
    }
    let each = percents.iter().enumerate().map(|(position, percent)| {
        let field = format!("{field}[{position}]");
        let good = u16::try_from(*percent).ok().filter(|percent| (1..=MOST_PERCENT).contains(percent));
        let good = wrong.take(good.ok_or_else(|| Violation::new(&*field, format!("must be 1 to {MOST_PERCENT}"))));
        if good.is_some() && position > 0 && percents[position - 1] >= *percent {
            wrong.add(field, "must be greater than the one before");
            return None;
        }
        good
    });
    // First all, so that none is left unchecked.
    let each: Vec<_> = each.collect();
    each.into_iter().collect()
}

/// The subject of a limit that holds for one alone; `None` where the text is empty.
pub fn subject(field: &str, kind: Result<SubjectKind, Unknown>, text: &str) -> Result<Option<Uuid>, Violation> {
    if text.is_empty() {
        return Ok(None);
    }
    if kind == Ok(SubjectKind::Organization) {
        return Err(Violation::new(field, "must be empty: the subject is the organization itself"));
    }
    let id = parse_uuid(text);
    id.map(Some).ok_or_else(|| Violation::new(field, "must be a UUID, or empty for each subject of the kind"))
}

/// The changed terms of a limit in a window. Error: `INVALID_FIELD` with every violation, below `field`.
pub fn changed(field: &str, terms: UncheckedTerms, window: Window) -> Result<Terms, Error> {
    let mut wrong = Violations::default();
    let checked = terms.check(field, Some(window), &mut wrong);
    wrong.finish()?;
    checked.ok_or_else(|| Error::internal("terms lack a field without a violation"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> UncheckedTerms {
        let terms = Terms {
            amount: Some(10),
            burst: 0,
            enforcement: Enforcement::Hard,
            shadow: false,
            fallback: None,
            alert_percents: vec![],
        };
        terms.into()
    }

    fn fields(terms: &UncheckedTerms, window: Window) -> Vec<String> {
        match changed("r", terms.clone(), window) {
            Ok(checked) => {
                let mut again = Violations::default();
                let unchecked = UncheckedTerms::from(checked.clone());
                assert_eq!(unchecked.check("r", Some(window), &mut again), Some(checked), "what is right stays so");
                Vec::new()
            }
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    const RATE: Window = Window::Rolling(Unit::Minute);
    const MONTH: Window = Window::Calendar(Unit::Month);

    #[test]
    fn amounts() {
        let of = |amount, unlimited, window| fields(&UncheckedTerms { amount, unlimited, ..terms() }, window);
        let none: [&str; 0] = [];
        for (amount, window) in [(0, MONTH), (1_000_000_000_000_000, MONTH), (1_000_000_000, RATE)] {
            assert_eq!(of(Some(amount), false, window), none);
        }
        assert_eq!(of(Some(1_000_000_001), false, Window::Calendar(Unit::Minute)), none, "not a rate");
        assert_eq!(of(None, true, RATE), none);
        for (amount, unlimited, window) in [
            (None, false, MONTH),
            (Some(1), true, MONTH),
            (Some(0), true, MONTH),
            (Some(-1), false, MONTH),
            (Some(1_000_000_000_000_001), false, MONTH),
            (Some(1_000_000_001), false, RATE),
            (Some(i64::MIN), false, RATE),
        ] {
            assert_eq!(of(amount, unlimited, window), ["r.amount"], "{amount:?} {unlimited} {window}");
        }
    }

    #[test]
    fn bursts() {
        let of = |burst, amount: Option<i64>, window| {
            fields(&UncheckedTerms { burst, amount, unlimited: amount.is_none(), ..terms() }, window)
        };
        for (burst, amount, window) in [(0, None, RATE), (0, Some(0), MONTH), (1_000_000_000, Some(1), RATE)] {
            assert!(of(burst, amount, window).is_empty(), "{burst} {amount:?} {window}");
        }
        for (burst, amount, window) in [
            (1, Some(10), MONTH),
            (1, Some(10), Window::Rolling(Unit::Hour)),
            (1, Some(10), Window::Calendar(Unit::Second)),
            (1, Some(0), RATE),
            (1, None, RATE),
            (-1, Some(10), RATE),
            (1_000_000_001, Some(10), RATE),
        ] {
            assert_eq!(of(burst, amount, window), ["r.burst"], "{burst} {amount:?} {window}");
        }
    }

    #[test]
    fn alerts() {
        let of = |percents: &[i32]| fields(&UncheckedTerms { alert_percents: percents.to_vec(), ..terms() }, MONTH);
        assert!(of(&[1, 50, 90, 100, 1000]).is_empty() && of(&[]).is_empty());
        assert_eq!(of(&[1, 2, 3, 4, 5, 6]), ["r.alert_percents"]);
        assert_eq!(of(&[0, 50, 50, 1001]), ["r.alert_percents[0]", "r.alert_percents[2]", "r.alert_percents[3]"]);
        assert_eq!(of(&[90, 80]), ["r.alert_percents[1]"]);
        assert_eq!(of(&[-1, 65_536 + 50]), ["r.alert_percents[0]", "r.alert_percents[1]"]);
    }

    #[test]
    fn all_that_is_wrong_with_a_rule_is_told() {
        let mut wrong = Violations::default();
        let unknown = Err(Unknown);
        let terms = UncheckedTerms { enforcement: Err(Unknown), fallback: Err(Unknown), amount: None, ..terms() };
        let rule =
            UncheckedRule { meter: "A".into(), subject_kind: Err(Unknown), length: unknown, rolling: true, terms };
        assert!(rule.clone().check("r", &mut wrong).is_none());
        assert!(UncheckedRule { length: Ok(Length::Lifetime), ..rule }.check("s", &mut wrong).is_none());
        let Err(Error::Invalid(violations)) = wrong.finish() else { panic!("taken") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        let of = |rule: &str, window: &str| {
            ["meter", "subject_kind", window, "amount", "enforcement", "fallback"]
                .map(|field| format!("{rule}.{field}"))
        };
        assert_eq!(fields, [of("r", "window.unit"), of("s", "window.rolling")].concat());
    }

    #[test]
    fn subjects() {
        let of = |kind, text: &str| subject("s", Ok(kind), text).ok();
        let id = "018f0000-0000-7000-8000-000000000001";
        assert_eq!(of(SubjectKind::User, id), Some(parse_uuid(id)));
        assert_eq!(of(SubjectKind::Organization, ""), Some(None));
        assert_eq!(of(SubjectKind::Team, ""), Some(None));
        assert_eq!(of(SubjectKind::Organization, id), None);
        assert_eq!(of(SubjectKind::ApiKey, "ada"), None);
    }
}
