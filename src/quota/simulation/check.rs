//! The simulation's own bookkeeping: what was admitted when, by the true time, and what may be. It shares no arithmetic with
//! the code under test.

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta};

use crate::model::limit::{Enforcement, Terms, Unit, Window};

pub const MILLI: i64 = 1_000;
pub const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// What was admitted from one account.
#[derive(Debug)]
pub struct Record {
    pub window: Window,
    /// Seconds that the wall clock of the organization is ahead of UTC.
    pub ahead: i64,
    /// What the limit said, from when on.
    pub truth: Vec<(i64, Terms)>,
    pub admissions: Vec<Admission>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// The true time of the decision.
    pub at: i64,
    /// The slot that the charge named.
    pub slot: i64,
    /// What of it was not put back nor refunded.
    pub amount: u64,
    /// It may still be put back.
    pub is_unsettled: bool,
}

impl Record {
    /// The start of what counts with an admission at `at`; what is before does not.
    pub fn since(&self, at: i64) -> i64 {
        match self.window {
            Window::Lifetime => i64::MIN,
            Window::Calendar(_) => self.calendar_start(at),
            Window::Rolling(_) => at - self.rolling().unwrap_or(0) + 1,
        }
    }

    /// The length of a rolling window.
    pub const fn rolling(&self) -> Option<i64> {
        match self.window {
            Window::Rolling(Unit::Second) => Some(SECOND),
            Window::Rolling(Unit::Minute) => Some(60 * SECOND),
            Window::Rolling(Unit::Hour) => Some(3600 * SECOND),
            Window::Rolling(Unit::Day) => Some(DAY),
            Window::Rolling(Unit::Week) => Some(7 * DAY),
            Window::Rolling(Unit::Month) => Some(30 * DAY),
            Window::Calendar(_) | Window::Lifetime => None,
        }
    }

    fn calendar_start(&self, at: i64) -> i64 {
        let local = at + self.ahead * SECOND;
        let floor = |length: i64| local.div_euclid(length) * length;
        let start = match self.window {
            Window::Calendar(Unit::Second) => floor(SECOND),
            Window::Calendar(Unit::Minute) => floor(60 * SECOND),
            Window::Calendar(Unit::Hour) => floor(3600 * SECOND),
            Window::Calendar(Unit::Day) => floor(DAY),
            // The first of January 1970 was a Thursday.
            Window::Calendar(Unit::Week) => (local + 3 * DAY).div_euclid(7 * DAY) * 7 * DAY - 3 * DAY,
            _ => {
                let date = DateTime::from_timestamp_micros(local).unwrap().date_naive();
                let first = NaiveDate::from_ymd_opt(date.year(), date.month(), 1).unwrap();
                (first - NaiveDate::from_ymd_opt(1970, 1, 1).unwrap()).num_days() * DAY
            }
        };
        start - self.ahead * SECOND
    }

    /// When the present calendar window turns, or the oldest admission leaves a rolling one.
    pub fn next_turn(&self, at: i64) -> Option<i64> {
        match self.window {
            Window::Lifetime => None,
            Window::Rolling(_) => {
                let oldest = self.admissions.iter().find(|admission| admission.at >= self.since(at))?;
                Some(oldest.at + self.rolling()?)
            }
            Window::Calendar(unit) => {
                let start = self.calendar_start(at);
                let longest = match unit {
                    Unit::Second => SECOND,
                    Unit::Minute => 60 * SECOND,
                    Unit::Hour => 3600 * SECOND,
                    Unit::Day => DAY,
                    Unit::Week => 7 * DAY,
                    Unit::Month => TimeDelta::days(31).num_microseconds()?,
                };
                Some(self.calendar_start(start + longest))
            }
        }
    }

    /// What counts at `at`.
    pub fn admitted(&self, at: i64) -> u64 {
        self.admitted_since(self.since(at))
    }

    pub fn admitted_since(&self, since: i64) -> u64 {
        self.admissions
            .iter()
            .rev()
            .take_while(|admission| admission.at >= since)
            .map(|admission| admission.amount)
            .sum()
    }

    /// The terms in force at some time from `since` to `until`.
    pub fn in_force(&self, since: i64, until: i64) -> impl Iterator<Item = &Terms> {
        self.truth.iter().enumerate().filter_map(move |(place, (from, terms))| {
            let end = self.truth.get(place + 1).map_or(i64::MAX, |next| next.0);
            (*from <= until && end > since).then_some(terms)
        })
    }

    /// The most that may be admitted in the window up to `at`, where knowledge may be older by `stale`; `None`: whatever.
    ///
    /// Units of a limit that was lowered are asked back, so they go by what was in force just now; shares of a rate that was
    /// lowered may have been used before, so they go by the whole window. A limit that only counted left no trace at once.
    pub fn most(&self, at: i64, stale: i64) -> Option<u64> {
        let window = self.since(at).saturating_sub(stale);
        if self.in_force(window, at).any(|terms| terms.amount.is_none() || is_soft(self.window, terms)) {
            return None;
        }
        let since = if self.window.is_rate() { window } else { at - stale };
        let amount = self.in_force(since, at).filter_map(|terms| terms.amount).max().unwrap_or(0);
        let burst = self.in_force(since, at).map(|terms| terms.burst).max().unwrap_or(0);
        Some(amount + burst)
    }

    /// Whether nothing changed that the ledger must have noticed for its own count to be complete.
    pub fn always_hard(&self) -> bool {
        self.truth.iter().all(|(_, terms)| !is_soft(self.window, terms))
    }

    pub fn has_bucket(&self) -> bool {
        self.truth.iter().any(|(_, terms)| terms.burst > 0)
    }
}

fn is_soft(window: Window, terms: &Terms) -> bool {
    !window.is_rate() && terms.enforcement == Enforcement::Soft
}
