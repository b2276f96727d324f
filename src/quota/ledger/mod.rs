//! The ledger: what of a limit was granted to which replica. Pure: one account, as it is read under its lock, changed, and
//! written; the same code in the repository and in the simulation.
//!
//! Two kinds, by the window:
//!
//! - **Slices** (calendar windows, long rolling ones, lifetimes): units. What a replica was granted counts as spent, until
//!   the replica itself says how much it did not spend. So whatever dies, no unit is granted twice.
//! - **Rates** (rolling windows of a second and a minute): shares of the amount, each a limit of its own on one replica. A
//!   share is for a time; when that is over without a word, the share rests for one more window before it is granted again,
//!   since all of it may just have been used.
//!
//! Messages are numbered by their replica. A message that comes after a later one is not heard, and what an answer granted
//! that never arrived is taken back by the next message, which says what the replica holds.

pub mod rates;
pub mod slices;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::limit::Window;
use crate::quota::decision::Change;
use crate::quota::slots::{LedgerTime, SECOND, Slot};
use rates::Rates;
use slices::Slices;

/// How long what was granted may be used without a word, in microseconds of any clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime(pub i64);

/// How long the number of the last message is kept of a replica that holds nothing, so that an older one that comes late is not
/// heard as if it were the first.
const MEMORY: i64 = 60 * SECOND;

/// What a replica says of an account, and asks of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Who: one id a process, never used again.
    pub replica: Uuid,
    /// Which of its messages, rising.
    pub sequence: u64,
    /// The start of the slot that the rest is about; `None` where it holds nothing. Of rates always `None`.
    pub slot: Option<LedgerTime>,
    /// What it holds: all that was granted in the slot and was not given back; of a rate its share. Giving back is saying
    /// less here.
    pub held: u64,
    /// What it used of that; of a rate in the window up to now.
    pub used: u64,
    /// What is left in the bucket of a rate, in the measure of [`rates`].
    pub tokens: u64,
    /// It uses no more of what it holds in that slot, unless the answer renews it.
    pub closing: bool,
    /// It holds nothing more and asks for nothing.
    pub leaving: bool,
    /// How much more would be of use; of a rate how large a share in all.
    pub wanted: u64,
    /// The least of it that is of any use, for a request that waits; 0 where none does.
    pub need: u64,
    /// What the limit says.
    pub terms: Terms,
}

/// What the limit says, as far as the ledger must know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// The amount.
    pub amount: u64,
    /// What the bucket of a rate holds; 0: no bucket.
    pub burst: u64,
    /// Past the amount nothing is granted.
    pub hard: bool,
    /// Of the amount: when what was used reaches one of them, an alert is raised.
    pub alert_percents: Vec<u16>,
    /// When this was read from the database. Older terms do not replace newer ones.
    pub as_of: LedgerTime,
}

/// What the ledger answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// The message was not heard: a later one of the replica came before.
    pub stale: bool,
    /// What the replica holds now; `None` when it left.
    pub lease: Option<Lease>,
    /// Used in the window, as far as all of them said.
    pub used: u64,
    /// What others hold, who are alive, and have not said to have used. Worth asking back when something is missing.
    pub unspent: u64,
    /// Used past the limit.
    pub overage: u64,
    /// The percentages that were reached in the slot.
    pub alerts: Vec<u16>,
    /// Of them, those that were reached just now.
    pub raised: Vec<u16>,
}

/// What the ledger knows of a window.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Used, as far as the replicas said.
    pub used: u64,
    /// Used past the limit, by corrections.
    pub overage: u64,
    /// The percentages that were reached.
    pub alerts: Vec<u16>,
    /// When the calendar window ends.
    pub reset: Option<LedgerTime>,
}

/// Whether an answer leaves out what the request needs.
#[must_use]
pub fn is_short(request: &Request, answer: &Answer) -> bool {
    let Some(lease) = answer.lease else { return false };
    // What is held in a new slot is all new; of a rate the whole share is meant.
    let is_same = request.slot == Some(lease.slot.start);
    lease.held.saturating_sub(if is_same { request.held } else { 0 }) < request.need
}

/// Whether others have what may be asked back: of a rate, only where it would be fair to have more.
#[must_use]
pub fn others_have(window: Window, request: &Request, answer: &Answer) -> bool {
    let is_fair = |lease: Lease| window.is_rate() && lease.fair <= lease.held.min(request.held);
    answer.unspent > 0 && !answer.lease.is_some_and(is_fair)
}

/// What a replica holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// In which slot it may be used; of a rate from now to the end of the lease.
    pub slot: Slot,
    /// How much, in all; see [`Request::held`].
    pub held: u64,
    /// What is put into the bucket of a rate.
    pub tokens: u64,
    /// How much of it may be used: less where the limit was lowered below what was granted.
    pub cap: u64,
    /// How much of it is to be kept, where that is less: the others want more than there is, or the limit was lowered.
    pub fair: u64,
    /// Until when it may be used without a word.
    pub expires: LedgerTime,
}

/// An account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// Units.
    Slices(Slices),
    /// Shares.
    Rates(Rates),
}

impl Account {
    /// Of which nothing was granted yet.
    #[must_use]
    pub fn new(window: Window) -> Self {
        if window.is_rate() { Self::Rates(Rates::default()) } else { Self::Slices(Slices::default()) }
    }

    /// Hears a replica. `slot` is the one that `now` is in by the calendar; the ledger's own lasts until its end, whatever
    /// became of the calendar meanwhile.
    pub fn exchange(
        &mut self,
        window: Window,
        now: LedgerTime,
        slot: Slot,
        lifetime: Lifetime,
        request: &Request,
    ) -> Answer {
        match self {
            Self::Slices(slices) => slices.exchange(window, now, slot, lifetime, request),
            Self::Rates(rates) => rates.exchange(window, now, lifetime, request),
        }
    }

    /// Corrects what was used in the slot that began at `start`, or without one in the present slot. Tells whether it did:
    /// a slot that is over and gone is left as it is.
    pub fn correct(&mut self, now: LedgerTime, start: Option<LedgerTime>, change: Change) -> bool {
        match self {
            Self::Slices(slices) => slices.correct(now, start, change),
            Self::Rates(_) => false,
        }
    }

    /// What is known of the window at `now`.
    #[must_use]
    pub fn state(&self, window: Window, now: LedgerTime) -> State {
        match self {
            Self::Slices(slices) => slices.state(window, now),
            Self::Rates(rates) => State { used: rates.used(now), ..State::default() },
        }
    }

    /// How much is granted in the window at `now`: what the database holds against the ceiling.
    #[must_use]
    pub fn granted(&self, window: Window, now: LedgerTime) -> u64 {
        match self {
            Self::Slices(slices) => slices.granted(window, now),
            Self::Rates(rates) => rates.granted(),
        }
    }

    /// The most that may be granted in a window by the terms; `None` where nothing limits it. A limit that was lowered below
    /// what was granted grants no more: the ceiling is what was granted before, then.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        match self {
            Self::Slices(slices) => slices.terms.hard.then_some(slices.terms.amount),
            Self::Rates(rates) => Some(rates.terms.amount),
        }
    }

    /// When the account says nothing any more.
    #[must_use]
    pub fn expires(&self, window: Window) -> LedgerTime {
        match self {
            Self::Slices(slices) => slices.expires(window),
            Self::Rates(rates) => rates.expires(window),
        }
    }
}

/// The terms that an account goes by.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    amount: u64,
    burst: u64,
    hard: bool,
    as_of: LedgerTime,
    /// Counts their changes.
    #[serde(default)]
    generation: u64,
}

impl Known {
    fn learn(&mut self, terms: &Terms) {
        if terms.as_of < self.as_of {
            return;
        }
        let Terms { amount, burst, hard, as_of, .. } = *terms;
        let is_new = (amount, burst, hard) != (self.amount, self.burst, self.hard);
        *self = Self { amount, burst, hard, as_of, generation: self.generation + u64::from(is_new) };
    }
}
