//! What one replica holds of one account, and what it used of that. Pure.
//!
//! What was granted may be used until a moment of this replica's monotonic clock that lies before the end of the lease and of
//! its slot by the database's clock: the time is counted from before the question was sent, and a part of it is left out for
//! clocks that run at different speeds. So a replica that was paused, or that hears nothing, stops by itself.

mod exchange;
mod view;

use std::sync::Arc;

use crate::model::limit::Fallback;
use crate::quota::decision::{Applied, Source};
use crate::quota::rate::{Bounds, Rate, Tick};
use crate::quota::slots::{LedgerTime, SECOND, Slot, length};

use exchange::Asking;
pub use exchange::Consequence;
use view::Seldom;

/// How often more is asked for before it is missing.
const AHEAD: i64 = SECOND / 50;
/// How often it is told what was used, when nothing else is to be said.
const REPORT: i64 = 5 * SECOND;
/// The same where nothing is granted, and what is not told is lost with the replica.
const REPORT_SOFT: i64 = SECOND;
/// After how long without use everything is given back.
const IDLE: i64 = 10 * SECOND;

/// What a replica knows of an account.
#[derive(Clone, Debug)]
pub struct Counter {
    /// The limit as of the last decision.
    applied: Arc<Applied>,
    as_of: LedgerTime,
    holding: Holding,
    sequence: u64,
    /// The question that is under way.
    asking: Option<Box<Asking>>,
    /// It waits for its turn to be asked about.
    is_queued: bool,
    is_leaving: bool,
    /// It was asked back while a question was under way.
    is_recalled: bool,
    /// Until then what is held may be used.
    usable_until: Tick,
    /// Before then the ledger is not asked; it said that there is nothing, or could not be reached.
    quiet_until: Tick,
    quiet: Quiet,
    /// So much there was not, where it is dry.
    missing: u64,
    /// Since when others are asked to hand back.
    recalling_since: Tick,
    asked: Tick,
    used_at: Tick,
    /// The least that is of use to those who wait, and what all of them want.
    need: u64,
    wanted: u64,
    /// Used since the ledger was asked last.
    recent: u64,
    /// Used in the window by all, as the ledger said last; of that by this replica, as it told then.
    known: u64,
    told: u64,
    /// For those who look; most have none of it.
    seldom: Option<Box<Seldom>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Quiet {
    /// There is not so much more as is missing.
    Dry,
    /// Others may hand back; or the next slot is about to begin.
    Soon,
    /// The ledger cannot be reached.
    Away,
}

#[derive(Clone, Debug)]
enum Holding {
    Slice(Slice),
    Rate(Box<Rate>),
}

#[derive(Clone, Debug, Default)]
struct Slice {
    slot: Option<Slot>,
    held: u64,
    /// How much of it may be used: less where the limit was lowered below what was granted.
    cap: u64,
    used: u64,
    /// Used of a soft limit after the slot was over, or before one was known.
    carried: u64,
    /// When the slot is over.
    over: Tick,
}

/// What can be done about a want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// The ledger is to be asked, or is being asked.
    Ask,
    /// It is to be asked again at that time.
    AskAt(Tick),
    /// There is nothing more.
    Dry,
    /// The ledger cannot be reached.
    Away,
}

impl Counter {
    /// Of an account that this replica holds nothing of.
    #[must_use]
    pub fn new(applied: Arc<Applied>, as_of: LedgerTime, now: Tick) -> Self {
        let holding = match (applied.window.is_rate(), length(applied.window)) {
            (true, Some(length)) => Holding::Rate(Box::new(Rate::new(length))),
            _ => Holding::Slice(Slice::default()),
        };
        Self {
            applied,
            as_of,
            holding,
            sequence: 0,
            asking: None,
            is_queued: false,
            is_leaving: false,
            is_recalled: false,
            usable_until: 0,
            quiet_until: 0,
            quiet: Quiet::Soon,
            missing: 0,
            recalling_since: 0,
            asked: now,
            used_at: now,
            need: 0,
            wanted: 0,
            recent: 0,
            known: 0,
            told: 0,
            seldom: None,
        }
    }

    /// It is to be put into the queue of those that the ledger is asked about. Tells whether it was not in it yet.
    pub const fn enqueue(&mut self) -> bool {
        !std::mem::replace(&mut self.is_queued, true)
    }

    /// Learns what the limit says now. Tells whether the ledger is to hear of it at once.
    pub fn learn(&mut self, applied: &Arc<Applied>, as_of: LedgerTime) -> bool {
        // Somebody who waited may come with what was in force before.
        if as_of < self.as_of || Arc::ptr_eq(&self.applied, applied) {
            self.as_of = self.as_of.max(as_of);
            return false;
        }
        self.as_of = as_of;
        let before = std::mem::replace(&mut self.applied, Arc::clone(applied));
        if before.terms == applied.terms {
            return false;
        }
        if applied.window.is_rate() && (before.terms.burst > 0) != (applied.terms.burst > 0) {
            // A bucket counts otherwise than a window: the share is given back as what it was, and a new one is asked for.
            self.is_leaving = true;
        }
        // What was refused by the old terms may be granted by the new ones.
        self.quiet_until = 0;
        if before.terms.amount < applied.terms.amount
            && before.terms.burst <= applied.terms.burst
            && !before.terms.is_soft()
        {
            return true;
        }
        // What was granted by the old terms is not used before the ledger has said how much of it is left by the new ones.
        self.usable_until = 0;
        true
    }

    fn is_hard(&self) -> bool {
        !self.applied.terms.is_soft() || self.applied.window.is_rate()
    }

    fn bounds(&self) -> Bounds {
        Bounds { amount: self.applied.terms.amount.unwrap_or(0), burst: self.applied.terms.burst }
    }

    /// How much can be used at `now` without asking.
    pub fn available(&mut self, now: Tick) -> u64 {
        if self.applied.terms.is_soft() && matches!(self.holding, Holding::Slice(_)) {
            return u64::MAX;
        }
        if now >= self.usable_until || self.is_leaving {
            return 0;
        }
        let bounds = self.bounds();
        match &mut self.holding {
            Holding::Slice(slice) => slice.held.min(slice.cap).saturating_sub(slice.used),
            Holding::Rate(rate) => rate.available(now, bounds),
        }
    }

    /// What can be done when not enough is available: less than `need` is of no use, and `wanted` is enough. Notes it.
    pub fn shortage(&mut self, now: Tick, need: u64, wanted: u64, again: bool) -> Shortage {
        // Also while it is told what is given back: the answer to that says nothing new.
        if now < self.quiet_until {
            let quiet = self.quiet;
            match quiet {
                Quiet::Dry if need.saturating_sub(self.available(now)) >= self.missing => return Shortage::Dry,
                // Less than what was not there may be.
                Quiet::Dry => {}
                Quiet::Away => return Shortage::Away,
                Quiet::Soon => {
                    self.want(need, wanted, again);
                    return Shortage::AskAt(self.quiet_until);
                }
            }
        }
        if self.asking.is_some() {
            self.want(need, wanted, again);
            return Shortage::Ask;
        }
        if now < self.usable_until && self.holds_all() {
            return Shortage::Dry;
        }
        self.want(need, wanted, again);
        Shortage::Ask
    }

    /// Who waits is woken by every answer to its organization: what it wants is added once, or more would be granted than
    /// anybody uses, and lost with this replica.
    fn want(&mut self, need: u64, wanted: u64, again: bool) {
        self.need = self.need.max(need);
        self.wanted = if again { self.wanted.max(wanted) } else { self.wanted.saturating_add(wanted) };
    }

    /// Whether there is no more to be had than what is held: all of a rate.
    fn holds_all(&self) -> bool {
        matches!(&self.holding, Holding::Rate(rate) if rate.share.min(rate.cap()) >= self.bounds().amount)
    }

    /// Uses an amount that is available. Tells whether the ledger should be asked for more, before it is missing.
    pub fn take(&mut self, now: Tick, amount: u64) -> bool {
        let bounds = self.bounds();
        self.used_at = now;
        self.recent = self.recent.saturating_add(amount);
        let quiet = self.asking.is_some() || now < self.quiet_until || now - self.asked < AHEAD;
        match &mut self.holding {
            Holding::Slice(slice) => {
                if self.applied.terms.is_soft() && now >= slice.over {
                    slice.carried = slice.carried.saturating_add(amount);
                } else {
                    slice.used = slice.used.saturating_add(amount);
                }
                let left = slice.held.saturating_sub(slice.used);
                !quiet && !self.applied.terms.is_soft() && left < slice.held / 4 && left < self.recent
            }
            Holding::Rate(rate) => {
                rate.take(amount, bounds);
                !quiet && rate.share < bounds.amount && rate.used() > rate.share - rate.share / 4
            }
        }
    }

    /// Gives back what was taken from the slot a moment ago; nothing when that is over.
    pub fn put_back(&mut self, slot: LedgerTime, amount: u64) {
        let bounds = self.bounds();
        let is_present = self.slot_start() == slot;
        match &mut self.holding {
            Holding::Slice(slice) if is_present => {
                let carried = slice.carried.min(amount);
                slice.carried -= carried;
                slice.used = slice.used.saturating_sub(amount - carried);
            }
            Holding::Slice(_) => return,
            Holding::Rate(rate) => rate.put_back(slot, amount, bounds),
        }
        self.recent = self.recent.saturating_sub(amount);
    }

    /// Gives back of a rate what was taken last, at most all that is counted; of units nothing, which the ledger corrects.
    pub fn give_back(&mut self, now: Tick, amount: u64) {
        let bounds = self.bounds();
        if let Holding::Rate(rate) = &mut self.holding {
            rate.available(now, bounds);
            rate.give_back(amount, bounds);
            self.recent = self.recent.saturating_sub(amount);
        }
    }

    /// Where its limit comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.applied.source
    }

    /// Hands back what is not used, as others want it. Tells whether the ledger is to hear of it: of what was used as well,
    /// which the others take for something to be had.
    pub fn recall(&mut self, now: Tick) -> bool {
        if self.asking.is_some() {
            self.is_recalled = true;
            return false;
        }
        if self.applied.terms.is_soft() && !self.applied.window.is_rate() {
            return false;
        }
        if self.available(now) == 0 {
            let used = match &self.holding {
                Holding::Slice(slice) => slice.used,
                Holding::Rate(rate) => rate.used(),
            };
            return used > self.told;
        }
        let keep = match &self.holding {
            Holding::Slice(_) => 0,
            // A rate that is used will be used again.
            Holding::Rate(rate) => rate.share / 2,
        };
        self.release(now, keep)
    }

    /// Keeps what was used, and of what is held no more than `keep`. Tells whether that is less than before.
    fn release(&mut self, now: Tick, keep: u64) -> bool {
        let bounds = self.bounds();
        match &mut self.holding {
            Holding::Slice(slice) => {
                let kept = slice.held.min(keep.max(slice.used));
                std::mem::replace(&mut slice.held, kept) > kept
            }
            Holding::Rate(rate) => {
                // With a bucket, what was used is no reason to keep a share: tokens are never made twice.
                let used = if bounds.burst > 0 { 0 } else { rate.used() };
                let kept = rate.share.min(keep.max(used));
                let less = kept < rate.share;
                rate.resize(now, kept, kept.min(rate.cap()), 0, bounds);
                less
            }
        }
    }

    /// Whether the ledger was told at `since` or later, and answered.
    #[must_use]
    pub const fn is_told(&self, since: Tick) -> bool {
        self.asking.is_none() && self.asked >= since
    }

    /// Whether the ledger is to hear of this counter although nobody waits.
    #[must_use]
    pub fn is_due(&self, now: Tick) -> bool {
        if self.asking.is_some() || (now < self.quiet_until && self.quiet == Quiet::Away) {
            return false;
        }
        let idle = now - self.used_at > self.idle();
        let interval = if self.applied.terms.is_soft() { REPORT_SOFT } else { REPORT };
        idle || self.is_leaving || (self.has_news() && now - self.asked >= interval)
    }

    fn has_news(&self) -> bool {
        match &self.holding {
            Holding::Slice(slice) => self.recent > 0 || slice.carried > 0 || slice.held > slice.used,
            Holding::Rate(rate) => rate.share > 0,
        }
    }

    fn idle(&self) -> i64 {
        IDLE + if self.applied.window.is_rate() { length(self.applied.window).unwrap_or(0) } else { 0 }
    }

    /// What is decided without the ledger.
    #[must_use]
    pub fn fallback(&self) -> Fallback {
        self.applied.terms.fallback()
    }

    /// Whether a soft limit has not been able to tell for so long that its fallback decides.
    #[must_use]
    pub fn is_adrift(&self, now: Tick) -> bool {
        now < self.quiet_until && self.quiet == Quiet::Away && now >= self.usable_until
    }

    /// Hears that less was used than the ledger said; whoever was refused may ask again.
    pub const fn corrected(&mut self, refund: u64) {
        self.known = self.known.saturating_sub(refund);
        self.quiet_until = 0;
    }

    /// The start of the slot that it takes from; of a rate the number of the step.
    #[must_use]
    pub fn slot_start(&self) -> LedgerTime {
        match &self.holding {
            Holding::Slice(slice) => slice.slot.map_or(0, |slot| slot.start),
            Holding::Rate(rate) => rate.step(),
        }
    }
}
