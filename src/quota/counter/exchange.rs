//! What a counter tells and asks the ledger, and what it makes of the answer.

use uuid::Uuid;

use super::{Counter, Holding, Quiet, Slice};
use crate::model::limit::Window;
use crate::quota::ledger::{Answer, Lease, Request, Terms, is_short, others_have};
use crate::quota::rate::{Rate, Tick};
use crate::quota::slots::{LedgerTime, SECOND, length};

/// How long a denial stands without asking the ledger again.
const DRY: i64 = SECOND / 5;
/// How long others are given to hand back what they do not use, before that is taken for a denial.
const PATIENCE: i64 = SECOND * 2 / 5;
/// How often the ledger is asked meanwhile.
const AGAIN: i64 = SECOND / 200;
/// How long nothing is asked after the ledger could not be reached.
const AWAY: i64 = SECOND / 10;
/// A lease ends early by a part in so many, and by so much.
const DRIFT: i64 = 500;
const MARGIN: i64 = SECOND / 500;

/// How many times what was used since the ledger was last asked is used in a second: with so much, who is busy asks a few
/// times a second, however busy. At most eight times, as a burst of a moment is no demand yet.
fn seconds_worth(spent: Tick) -> u64 {
    (SECOND / spent.max(1)).clamp(2, 8).unsigned_abs()
}

/// What follows from an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Consequence {
    /// It waits for what others hand back: the ledger has them asked, by the same rule.
    pub recall: bool,
    /// The ledger is to be asked once more.
    pub again: bool,
    /// The counter has left and is of no more use.
    pub left: bool,
    /// Alerts that were raised just now.
    pub raised: Vec<u16>,
}

/// What a question that is under way is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asking {
    /// The least that is of use, and all that is wanted.
    need: u64,
    wanted: u64,
    /// What it needs more than there was.
    missing: u64,
}

impl Counter {
    /// What the ledger is told and asked; `None` while it is being asked. `leave`: nothing more is wanted.
    pub fn question(&mut self, now: Tick, replica: Uuid, leave: bool) -> Option<Request> {
        self.is_queued = false;
        if self.asking.is_some() {
            return None;
        }
        let bounds = self.bounds();
        self.is_leaving |= leave || (self.need == 0 && now - self.used_at > self.idle());
        // By the clock, so that it rises also where the counter was forgotten and began anew.
        self.sequence = (self.sequence + 1).max(now.unsigned_abs());
        let (need, wanted) = (std::mem::take(&mut self.need), std::mem::take(&mut self.wanted));
        let recent = std::mem::take(&mut self.recent);
        let missing = need.saturating_sub(self.available(now));
        self.asking = Some(Box::new(Asking { need, wanted, missing }));
        let spent = now - std::mem::replace(&mut self.asked, now);
        if let Holding::Rate(rate) = &mut self.holding
            && !self.is_leaving
        {
            // So that the ring is of now.
            rate.available(now, bounds);
        }
        let terms = &self.applied.terms;
        let hard = self.is_hard();
        let mut request = Request {
            replica,
            sequence: self.sequence,
            leaving: self.is_leaving,
            terms: Terms {
                amount: bounds.amount,
                burst: bounds.burst,
                hard,
                alert_percents: terms.alert_percents.clone(),
                as_of: self.as_of,
            },
            ..Request::default()
        };
        match &mut self.holding {
            Holding::Slice(slice) => {
                let left = slice.held.min(slice.cap).saturating_sub(slice.used);
                if self.is_leaving {
                    slice.held = slice.used;
                }
                if !hard {
                    // The ledger takes it for all that is held: nothing is left, should the limit become a hard one.
                    slice.held = slice.used;
                }
                request.slot = slice.slot.map(|slot| slot.start);
                request.closing = now >= self.usable_until;
                request.used = slice.used;
                request.held = if hard { slice.held } else { slice.used };
                if hard && !self.is_leaving {
                    // While its slot goes on, what is left may be used again with the answer: more on top of it would pile
                    // up, lease after lease, and be lost with this replica.
                    let back = if now < slice.over { left } else { 0 };
                    let (part, times) = match self.applied.window {
                        // What a dead replica held is lost for ever.
                        Window::Lifetime => (0, 2),
                        _ => (bounds.amount / 32, seconds_worth(spent)),
                    };
                    request.need = need.saturating_sub(back);
                    request.wanted = wanted.max(recent.saturating_mul(times)).max(part.min(wanted.saturating_mul(64)));
                    request.wanted = request.wanted.saturating_sub(back);
                }
            }
            Holding::Rate(rate) => {
                let used = rate.used();
                request.used = used;
                request.held = rate.share;
                request.tokens = rate.tokens();
                if self.is_leaving {
                    request.held = used.min(rate.share);
                } else if bounds.burst > 0 {
                    // How many tokens come with a share is not known before.
                    request.need = if need > 0 { rate.share + 1 } else { 0 };
                    request.wanted = if need > 0 { bounds.amount } else { rate.share };
                } else {
                    request.need = if need > 0 { used.saturating_add(need) } else { 0 };
                    request.wanted = used.max(wanted.min(bounds.amount)).saturating_mul(2).max(request.need);
                }
            }
        }
        Some(request)
    }

    /// Hears the answer to the last question, which was sent at `sent`; `ledger` is the database's time as it answered.
    pub fn answered(
        &mut self,
        sent: Tick,
        now: Tick,
        ledger: LedgerTime,
        request: &Request,
        answer: &Answer,
    ) -> Consequence {
        let asked = self.asking.take().unwrap_or_default();
        if answer.stale {
            // Only after a restart of the counter under the same name, which takes a new replica id.
            return Consequence { again: true, ..Consequence::default() };
        }
        // Together: what is told and not answered is not in what is known, and must not be taken out of it.
        (self.known, self.told) = (answer.used, request.used);
        let mut consequence = Consequence { raised: answer.raised.clone(), ..Consequence::default() };
        if self.seldom.is_some() || answer.overage > 0 || !answer.alerts.is_empty() {
            self.note(|seldom| (seldom.overage, seldom.alerts) = (answer.overage, answer.alerts.as_slice().into()));
        }
        let Some(lease) = answer.lease else {
            self.forget();
            // Somebody may have come while it left.
            (consequence.again, consequence.left) = (self.need > 0, self.need == 0);
            return consequence;
        };
        self.hold(sent, now, ledger, &lease);
        if request.terms.amount != self.bounds().amount
            || request.terms.burst != self.bounds().burst
            || request.terms.hard != self.is_hard()
        {
            // Granted by what the limit was.
            self.usable_until = 0;
            consequence.again = true;
            return consequence;
        }
        if self.is_leaving {
            // It was decided while the question was under way.
            consequence.again = true;
            return consequence;
        }
        consequence.again = lease.fair < lease.held && self.release(now, lease.fair);
        let missing = match &self.holding {
            Holding::Slice(_) => is_short(request, answer),
            // More of a share is not yet more to use.
            Holding::Rate(_) => request.need > 0,
        } && self.available(now) < asked.need;
        if asked.need == 0 {
            // Nobody waited for it, so it says nothing about who does: only that the ledger can be reached.
            if self.quiet == Quiet::Away {
                self.quiet_until = 0;
            }
        } else if !missing {
            self.quiet_until = 0;
            // Two that take each other's last units one by one have no patience without end.
            if self.available(now) >= asked.wanted {
                self.recalling_since = 0;
            }
        } else if now >= self.usable_until {
            // The slot ends before what it grants could be used: the next one is about to begin.
            (self.quiet, self.quiet_until) = (Quiet::Soon, now + MARGIN);
        } else if !others_have(self.applied.window, request, answer)
            || (self.recalling_since > 0 && (PATIENCE..=SECOND).contains(&(now - self.recalling_since)))
        {
            (self.quiet, self.quiet_until, self.recalling_since) = (Quiet::Dry, now + DRY, 0);
            self.missing = asked.missing;
        } else {
            if self.recalling_since == 0 || now - self.recalling_since > SECOND {
                self.recalling_since = now;
            }
            consequence.recall = true;
            (self.quiet, self.quiet_until) = (Quiet::Soon, now + AGAIN);
        }
        if std::mem::take(&mut self.is_recalled) && self.need == 0 && self.recall(now) {
            consequence.again = true;
        }
        consequence
    }

    fn hold(&mut self, sent: Tick, now: Tick, ledger: LedgerTime, lease: &Lease) {
        let bounds = self.bounds();
        let until = lease.expires.min(lease.slot.end).saturating_sub(ledger);
        self.usable_until = sent.saturating_add(until - until / DRIFT - MARGIN);
        match &mut self.holding {
            Holding::Slice(slice) => {
                if slice.slot.map(|slot| slot.start) != Some(lease.slot.start) {
                    let soft = self.applied.terms.is_soft();
                    // What was used of a limit that only counts, since the ledger was told.
                    let since = if soft { slice.used - self.told.min(slice.used) } else { 0 };
                    slice.used = since + std::mem::take(&mut slice.carried);
                    (self.told, self.recent) = (0, self.recent.max(slice.used));
                }
                slice.slot = Some(lease.slot);
                (slice.held, slice.cap) = (lease.held, lease.cap);
                slice.over = sent.saturating_add(lease.slot.end.saturating_sub(ledger));
            }
            Holding::Rate(rate) => {
                rate.begin(lease.slot.start);
                rate.resize(now, lease.held, lease.cap, lease.tokens, bounds);
            }
        }
    }

    /// Holds nothing any more, and has used nothing: the ledger knows of it.
    fn forget(&mut self) {
        (self.is_leaving, self.is_recalled, self.usable_until, self.told) = (false, false, 0, 0);
        self.holding = match length(self.applied.window) {
            Some(length) if self.applied.window.is_rate() => Holding::Rate(Box::new(Rate::new(length))),
            _ => Holding::Slice(Slice::default()),
        };
    }

    /// Hears that there is no answer, whatever became of the question.
    pub fn failed(&mut self, now: Tick) {
        self.asking = None;
        (self.quiet, self.quiet_until) = (Quiet::Away, now + AWAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Unit;
    use crate::quota::ledger::{Account, Lifetime};
    use crate::quota::rules::names;
    use crate::quota::slots::{Calendar, slot};

    const WINDOW: Window = Window::Calendar(Unit::Month);

    /// How often the ledger is asked in the last of some seconds, in which so many units are used in each millisecond.
    fn asked(seconds: i64, units: u64) -> u32 {
        let applied = names::applied(Uuid::nil(), "", 1_000_000_000, WINDOW, false);
        let mut account = Account::new(WINDOW);
        let mut counter = Counter::new(applied, 0, 0);
        let mut asked = 0;
        for now in (0..seconds * SECOND).step_by(1000) {
            let mut asks = false;
            for _ in 0..units {
                if counter.available(now) == 0 {
                    counter.shortage(now, 1, 1, false);
                    asks = true;
                } else {
                    asks |= counter.take(now, 1);
                }
            }
            if asks && let Some(request) = counter.question(now, Uuid::max(), false) {
                let month = slot(WINDOW, now, Calendar::default());
                let answer = account.exchange(WINDOW, now, month, Lifetime(30 * SECOND), &request);
                counter.answered(now, now, now, &request, &answer);
                asked += u32::from(now >= (seconds - 1) * SECOND);
            }
        }
        asked
    }

    #[test]
    fn who_is_busy_asks_some_times_a_second_however_busy() {
        for units in [1, 10, 100] {
            let asked = asked(5, units);
            assert!((1..=4).contains(&asked), "{asked} times with {units} units a millisecond");
        }
    }
}
