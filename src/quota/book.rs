//! What one replica holds of one organization's accounts, and the decisions on it. Pure: its owner keeps it under one lock,
//! never across an await, and so all limits of a decision admit it or none is charged.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use uuid::Uuid;

use crate::model::limit::{Fallback, Terms};
use crate::quota::counter::{Consequence, Counter, Shortage};
use crate::quota::counters::Counters;
use crate::quota::decision::{AccountKey, Change, Charge, Correction, Decision, Denial, LimitView, Mode, Source};
use crate::quota::ledger::{Answer, Request};
use crate::quota::policy::Resolved;
use crate::quota::rate::Tick;
use crate::quota::slots::{Calendar, LedgerTime};

/// How many counters are looked at at a time: the lock is given up in between.
const SWEEP: usize = 4096;

/// The counters of an organization.
#[derive(Clone, Debug, Default)]
pub struct Book {
    counters: Counters,
}

/// What is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The limits that apply.
    pub limits: &'a [Resolved],
    /// When these were read from the database.
    pub as_of: LedgerTime,
    /// How much.
    pub amount: u64,
    /// What is to happen.
    pub mode: Mode,
    /// Whether it can wait; otherwise the ledger is taken to be away where it has not answered.
    pub patient: bool,
    /// Whether it was asked before, and waited: what it wants is counted already.
    pub again: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// This.
    Decided(Decision),
    /// Nothing yet: an answer of the ledger must come first, or the given time.
    Wait(Option<Tick>),
}

/// How a limit takes a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stance {
    /// It does not count: unlimited, or not enforced for want of a database.
    Absent,
    Admits,
    Denies,
}

/// What the limits say to a question, one after the other.
struct Weighing<'a> {
    question: Question<'a>,
    /// How much is enough; to ask for nothing is to ask whether there is anything.
    all: u64,
    /// How much is of use.
    least: u64,
    granted: u64,
    denial: Option<Denial>,
    degraded: bool,
    waits: bool,
    at: Option<Tick>,
    /// The longest of the waits, after which all have what they lack; `None` once waiting does not help one of them.
    retry_after: Option<i64>,
}

impl<'a> Weighing<'a> {
    fn new(question: Question<'a>) -> Self {
        let all = question.amount.max(1);
        let least = if question.mode == Mode::BestEffort { 1 } else { all };
        Self {
            all,
            least,
            question,
            granted: all,
            denial: None,
            degraded: false,
            waits: false,
            at: None,
            retry_after: Some(0),
        }
    }

    fn deny(&mut self, terms: &Terms, why: Denial) -> Stance {
        if !terms.shadow {
            self.denial = Some(self.denial.unwrap_or(why));
        }
        Stance::Denies
    }

    /// What a limit says by itself; `None` when its counter has to be asked.
    fn at_once(&mut self, terms: &Terms) -> Option<Stance> {
        let Some(amount) = terms.amount else { return Some(Stance::Absent) };
        if terms.is_soft() {
            return None;
        }
        if amount == 0 {
            return Some(self.deny(terms, Denial::Blocked));
        }
        let most = if terms.burst > 0 { terms.burst } else { amount };
        (self.least > most).then(|| self.deny(terms, Denial::AmountTooLarge))
    }

    /// What its counter says; accounts that the ledger is to be asked about are put into `ask`.
    fn of_counter(&mut self, now: Tick, terms: &Terms, counter: &mut Counter) -> (Stance, bool) {
        let available = counter.available(now);
        if available >= self.all {
            let adrift = terms.is_soft() && terms.fallback() == Fallback::Deny && counter.is_adrift(now);
            return (if adrift { self.deny(terms, Denial::LedgerUnavailable) } else { Stance::Admits }, false);
        }
        // Whoever takes what is left wants more of it all the same.
        let shortage = match counter.shortage(now, (available + 1).max(self.least), self.all, self.question.again) {
            Shortage::Ask | Shortage::AskAt(_) if !self.question.patient => Shortage::Away,
            shortage => shortage,
        };
        let stance = match shortage {
            Shortage::Ask => {
                self.waits = true;
                return (Stance::Admits, true);
            }
            Shortage::AskAt(time) => {
                self.waits = true;
                self.at = Some(self.at.map_or(time, |at| at.min(time)));
                Stance::Admits
            }
            Shortage::Away if terms.fallback() == Fallback::Admit && available < self.least => {
                self.degraded = true;
                Stance::Absent
            }
            Shortage::Dry | Shortage::Away if available >= self.least => {
                if !terms.shadow {
                    self.granted = self.granted.min(available);
                }
                Stance::Admits
            }
            Shortage::Dry => {
                if !terms.shadow {
                    let wait = counter.retry_after(now, self.all);
                    self.retry_after = self.retry_after.zip(wait).map(|(longest, wait)| longest.max(wait));
                }
                self.deny(terms, Denial::LimitExceeded)
            }
            Shortage::Away => self.deny(terms, Denial::LedgerUnavailable),
        };
        (stance, false)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self.denial? {
            Denial::LimitExceeded => self.retry_after.map(|wait| Duration::from_micros(wait.max(1).unsigned_abs())),
            Denial::LedgerUnavailable => Some(Duration::from_secs(1)),
            Denial::Blocked | Denial::AmountTooLarge => None,
        }
    }
}

impl Book {
    /// Decides at `now`; the accounts that the ledger is to be asked about are put into `ask`.
    pub fn decide(&mut self, now: Tick, question: Question<'_>, ask: &mut Vec<AccountKey>) -> Verdict {
        let Question { limits, as_of, amount, mode, .. } = question;
        let mut weighing = Weighing::new(question);
        // Most meters have a few limits, which need no memory of their own.
        let mut stances = SmallVec::<[Stance; 8]>::with_capacity(limits.len());
        for Resolved { account, applied } in limits {
            if let Some(stance) = weighing.at_once(&applied.terms) {
                stances.push(stance);
                continue;
            }
            let new = || Counter::new(Arc::clone(applied), as_of, now);
            let counter = self.counters.get_or_insert_with(*account, new);
            let is_news = counter.learn(applied, as_of);
            let (stance, asks) = weighing.of_counter(now, &applied.terms, counter);
            if is_news || asks {
                ask.push(*account);
            }
            stances.push(stance);
        }
        if weighing.denial.is_none() && weighing.waits {
            return Verdict::Wait(weighing.at);
        }
        let granted = if weighing.denial.is_some() { 0 } else { weighing.granted.min(amount) };
        let charges = if mode == Mode::Check || weighing.denial.is_some() {
            Vec::new()
        } else {
            self.charge(now, limits, &stances, granted, ask)
        };
        let mut views: Vec<LimitView> = limits
            .iter()
            .zip(&stances)
            .map(|(resolved, stance)| {
                let mut view = self.view(now, resolved);
                view.denied = *stance == Stance::Denies && !resolved.applied.terms.shadow;
                view.would_deny = *stance == Stance::Denies && resolved.applied.terms.shadow;
                view
            })
            .collect();
        views.sort_by_key(|view| (!view.denied, view.remaining));
        Verdict::Decided(Decision {
            denial: weighing.denial,
            granted,
            retry_after: weighing.retry_after(),
            degraded: weighing.degraded,
            limits: views,
            charges,
        })
    }

    /// Takes what was granted from all limits that count.
    fn charge(
        &mut self,
        now: Tick,
        limits: &[Resolved],
        stances: &[Stance],
        granted: u64,
        ask: &mut Vec<AccountKey>,
    ) -> Vec<Charge> {
        let mut charges = Vec::with_capacity(limits.len());
        for (Resolved { account, .. }, stance) in limits.iter().zip(stances) {
            if let (Stance::Admits, Some(counter)) = (stance, self.counters.get_mut(account)) {
                // In shadow mode a limit may have less than that.
                let taken = granted.min(counter.available(now));
                if counter.take(now, taken) {
                    ask.push(*account);
                }
                charges.push(Charge { account: *account, slot: counter.slot_start(), amount: taken });
            }
        }
        charges
    }

    /// Gives back what was taken a moment ago.
    pub fn put_back(&mut self, charges: &[Charge]) {
        for Charge { account, slot, amount } in charges {
            if let Some(counter) = self.counters.get_mut(account) {
                counter.put_back(*slot, *amount);
            }
        }
    }

    /// Gives back of a rate what was taken last, at most all that is counted here. The ledger takes no corrections of rates:
    /// what they count is soon forgotten.
    pub fn give_back(&mut self, now: Tick, account: &AccountKey, amount: u64) {
        if let Some(counter) = self.counters.get_mut(account) {
            counter.give_back(now, amount);
        }
    }

    /// In which the windows of an account turn: the organization's, or UTC where the limit is none of the tenant's.
    #[must_use]
    pub fn calendar(&self, account: &AccountKey, organizations: Calendar) -> Calendar {
        let is_rule = self.counters.get(account).is_some_and(|counter| counter.source() == Source::Rule);
        if is_rule { Calendar::default() } else { organizations }
    }

    /// Hears of corrections that the ledger knows already.
    pub fn corrected(&mut self, corrections: &[Correction]) {
        for Correction { account, change, .. } in corrections {
            if let (Some(counter), Change::Refund(amount)) = (self.counters.get_mut(account), change) {
                counter.corrected(*amount);
            }
        }
    }

    /// Notes what is reserved, or no longer is.
    pub fn reserve(&mut self, charges: &[Charge], more: bool) {
        for Charge { account, amount, .. } in charges {
            if let Some(counter) = self.counters.get_mut(account) {
                counter.reserve(*amount, more);
            }
        }
    }

    /// What is known of a limit.
    #[must_use]
    pub fn view(&self, now: Tick, resolved: &Resolved) -> LimitView {
        let limit = Arc::clone(&resolved.applied);
        let subject_id = resolved.account.subject_id;
        let amount = limit.terms.amount.unwrap_or(u64::MAX);
        let counter = if limit.terms.amount.is_some() { self.counters.get(&resolved.account) } else { None };
        let (used, reserved, past, alerts) = counter.map_or((0, 0, 0, &[][..]), Counter::used);
        let overage = if limit.terms.is_soft() { used.saturating_sub(amount) } else { past };
        LimitView {
            subject_id,
            used,
            reserved,
            remaining: amount.saturating_sub(used),
            overage,
            reset_time: counter.and_then(|counter| counter.reset(now)),
            denied: false,
            would_deny: false,
            alerts: limit.terms.reached(used, alerts),
            limit,
        }
    }

    /// An account is to be put into the queue of those that the ledger is asked about. Tells whether it was not in it yet; one
    /// that is not known here need not be.
    pub fn enqueue(&mut self, account: &AccountKey) -> bool {
        self.counters.get_mut(account).is_some_and(Counter::enqueue)
    }

    /// What the ledger is told and asked about an account, whose turn it is; `None` when there is nothing to say, or it is being asked.
    pub fn question(&mut self, now: Tick, replica: Uuid, account: &AccountKey, leave: bool) -> Option<Request> {
        self.counters.get_mut(account)?.question(now, replica, leave)
    }

    /// Whether the ledger was told of an account, and answered, at `since` or later; also of one that is not known here.
    #[must_use]
    pub fn is_told(&self, account: &AccountKey, since: Tick) -> bool {
        self.counters.get(account).is_none_or(|counter| counter.is_told(since))
    }

    /// Hears an answer; see [`Counter::answered`].
    pub fn answered(
        &mut self,
        account: &AccountKey,
        (sent, now): (Tick, Tick),
        ledger: LedgerTime,
        request: &Request,
        answer: &Answer,
    ) -> Consequence {
        let Some(counter) = self.counters.get_mut(account) else { return Consequence::default() };
        let consequence = counter.answered(sent, now, ledger, request, answer);
        if consequence.left {
            self.counters.remove(account);
        }
        consequence
    }

    /// Hears that there is no answer.
    pub fn failed(&mut self, account: &AccountKey, now: Tick) {
        if let Some(counter) = self.counters.get_mut(account) {
            counter.failed(now);
        }
    }

    /// Others want what is not used of an account. Tells whether the ledger is to hear of it.
    pub fn recall(&mut self, account: &AccountKey, now: Tick) -> bool {
        self.counters.get_mut(account).is_some_and(|counter| counter.recall(now))
    }

    /// The accounts that the ledger is to hear of although nobody waits, all of them with `leave`; of those from a place on,
    /// and the place to go on from.
    #[must_use]
    pub fn due(&self, now: Tick, leave: bool, from: usize) -> (Vec<AccountKey>, Option<usize>) {
        let end = (from + SWEEP).min(self.counters.len());
        let part = self.counters.part(from..end);
        let due = part.filter(|(_, counter)| leave || counter.is_due(now)).map(|(account, _)| *account).collect();
        (due, (end < self.counters.len()).then_some(end))
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    /// How many accounts it knows of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters.len()
    }
}
