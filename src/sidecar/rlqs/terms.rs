//! How much of a bucket may be given away, and for how long, by the limits that apply to it. Pure.

use chrono::{DateTime, Utc};

use crate::model::limit::{Unit, Window};
use crate::quota::decision::{Decision, LimitView};
use crate::quota::slots::until;
use crate::sidecar::rlqs::bucket::{LIVES, SMALL, Time};

/// What a quiet bucket keeps, so that who comes seldom is not refused: where that is little of what is left.
const KEPT: u64 = 4;
/// For how long a slice of a second's window should do.
const SECOND: Time = 1_000;

/// What the hard limits of a bucket come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// What is left of the tightest.
    left: u64,
    /// The longest that a slice may live, in seconds, when it is no small one, and when it is.
    longest: (u64, u64),
    /// For how long a slice will do, in milliseconds, where that is shorter than for others.
    pub shortest: Option<Time>,
    /// When the first of the windows is over; `Time::MAX`: no time soon.
    pub end: Time,
}

/// A slice to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// How much, at most.
    pub amount: u64,
    /// For how long, in seconds.
    pub life: u64,
}

impl Terms {
    /// By a decision that consumed nothing; `None` when no limit is enforced. `now` and `wall` are the same moment.
    #[must_use]
    pub fn of(decision: &Decision, now: Time, wall: DateTime<Utc>) -> Option<Self> {
        let mut hard = decision.limits.iter().filter(|view| is_enforced(view)).peekable();
        hard.peek()?;
        let mut terms = Self { left: u64::MAX, longest: (LIVES.1, LIVES.0), shortest: None, end: Time::MAX };
        for view in hard {
            terms.left = terms.left.min(view.remaining);
            match view.limit.window {
                Window::Rolling(Unit::Second) | Window::Calendar(Unit::Second) => {
                    terms.longest = (1, terms.longest.1.min(LIVES.1));
                    terms.shortest = Some(SECOND);
                }
                Window::Rolling(Unit::Minute) | Window::Calendar(Unit::Minute) => {
                    terms.longest = (terms.longest.0.min(10), terms.longest.1.min(LIVES.1));
                    terms.shortest = terms.shortest.or(Some(10 * SECOND));
                }
                _ => {}
            }
            let turns = !matches!(view.limit.window, Window::Calendar(Unit::Second));
            if let Some(reset) = view.reset_time.filter(|_| turns) {
                let rest = Time::try_from(until(reset, wall).as_millis()).unwrap_or(Time::MAX);
                terms.end = terms.end.min(now.saturating_add(rest));
            }
        }
        Some(terms)
    }

    /// The slice for who wants so much, 0 for who is quiet; `None` when there is to be none.
    ///
    /// Never more than half of what is left, so that others have something too, and what is not used is little where it is
    /// missed; and none beyond the end of its window.
    #[must_use]
    pub fn slice(&self, now: Time, wanted: u64) -> Option<Slice> {
        let small = self.left / SMALL;
        if wanted == 0 && small < KEPT {
            return None;
        }
        let amount = wanted.max(KEPT.min(small)).min(self.left / 2).clamp(1, u64::from(u32::MAX));
        let life = if amount <= small { self.longest.1 } else { self.longest.0 };
        let life = life.min(self.end.saturating_sub(now) / 1000);
        (life > 0).then_some(Slice { amount, life })
    }
}

/// Whether a limit refuses what is past it.
fn is_enforced(view: &LimitView) -> bool {
    let terms = &view.limit.terms;
    terms.amount.is_some() && !terms.is_soft() && !terms.shadow
}
