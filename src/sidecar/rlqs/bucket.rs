//! What one Envoy may admit of one bucket: what it was told, what it was given for that, and what comes back. Pure.
//!
//! Nothing is known of an Envoy but its reports, which are late, and nothing ever says when a message reached it. So all is
//! reckoned from the worst that can be: a slice that was sent may be used until its time to live and a margin are over,
//! replaced or not; of what a report says to be admitted, all may be of any slice that was sent before the report came. What
//! was taken for slices of one window, less what was reported since the first of them, less what may still be used: so much
//! is certainly not used by anybody any more, and comes back.

use std::collections::VecDeque;

use crate::model::limit::Window;
use crate::quota::decision::{AccountKey, Charge};
use crate::quota::slots::LedgerTime;

/// Milliseconds since the stream began.
pub type Time = u64;

/// How much longer than its time to live a slice may be used: for its way to the Envoy, and for the way of the report that
/// tells of its last request.
pub const MARGIN: Time = 10_000;
/// The demand that is assumed of a bucket that is new.
pub const FIRST: u64 = 16;
/// How much of the limit's rest a slice may be to be called small.
pub const SMALL: u64 = 50;
/// The time to live of a slice, in seconds: of a small one, of others.
pub const LIVES: (u64, u64) = (120, 30);
/// For how long a slice should be enough.
const HORIZON: Time = 20_000;
/// What is added to the demand of the last report, as a share of it: a quarter.
const HEADROOM: u64 = 4;
/// Reports come every five seconds, whatever is configured.
const REPORT: Time = 5_000;
/// How long before a slice is used up, or over, the next one is given.
const AHEAD: Time = 1_200;
/// After so long without a request a bucket is abandoned.
const IDLE: Time = 600_000;
/// How often what may pass is looked at.
const OFTEN: Time = 500;
/// The least time between two returns, while the limit has something left.
const RETURN: Time = 10_000;
/// The windows whose slices are kept apart. What was taken from older ones does not come back.
const BOOKS: usize = 4;

/// What an Envoy was told last, and until when it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing.
    Nothing,
    /// All may pass.
    Allow(Time),
    /// Nothing may.
    Deny(Time),
    /// So much may.
    Slice {
        /// How much.
        amount: u64,
        /// How much of it was probably used, as of the last report.
        seen: u64,
        /// When it was given.
        since: Time,
        /// Until then.
        until: Time,
    },
}

/// What was taken from the ledger for a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// How much may be admitted.
    pub amount: u64,
    /// From where it can be given back.
    pub charges: Vec<Charge>,
    /// For how long, in seconds.
    pub life: u64,
}

/// What comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Return {
    /// Where it was taken from.
    pub charges: Vec<Charge>,
    /// How much.
    pub amount: u64,
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    standing: Standing,
    books: VecDeque<Book>,
    /// Until when what is reported may be of a slice.
    covered: Time,
    /// Of the last report.
    demand: u64,
    gap: Time,
    reported: Time,
    wanted: Time,
    returned: Time,
    /// When to look without a report.
    due: Time,
}

/// The slices that were taken from the same windows.
#[derive(Clone, Debug)]
struct Book {
    charges: Vec<Charge>,
    taken: u64,
    returned: u64,
    /// Admitted by the reports since the first slice was sent.
    seen: u64,
    /// How much, and until when it may be used, the margin included.
    slices: Vec<(u64, Time)>,
}

impl Bucket {
    /// A bucket that nothing was heard of yet.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self {
            standing: Standing::Nothing,
            books: VecDeque::new(),
            covered: now,
            demand: 0,
            gap: REPORT,
            reported: now,
            wanted: now,
            returned: now,
            due: now,
        }
    }

    /// What the Envoy was told last.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Hears a report. Tells how many of the requests that were admitted are of no slice: all, or none.
    pub fn report(&mut self, now: Time, is_first: bool, allowed: u64, denied: u64) -> u64 {
        let last = self.reported;
        self.demand = if is_first { FIRST } else { allowed.saturating_add(denied) };
        self.gap = if self.standing == Standing::Nothing {
            REPORT
        } else {
            now.saturating_sub(self.reported).clamp(1_000, 4 * REPORT)
        };
        self.reported = now;
        if self.demand > 0 {
            self.wanted = now;
        }
        if let Standing::Slice { seen, since, .. } = &mut self.standing {
            // Of what was admitted before it was given, nothing is of it.
            let (its, all) = (now.saturating_sub(last.max(*since)), now.saturating_sub(last).max(1));
            let part = u128::from(allowed) * u128::from(its) / u128::from(all);
            *seen = seen.saturating_add(u64::try_from(part).unwrap_or(allowed));
        }
        for book in &mut self.books {
            book.seen = book.seen.saturating_add(allowed);
        }
        if now >= self.covered { allowed } else { 0 }
    }

    /// How much a slice should be now, in requests; `None` while there is enough. `shortest` is for how long it will do, where
    /// that is shorter than others; `end` is when the window is over, beyond which no slice goes.
    #[must_use]
    pub fn wants(&self, now: Time, shortest: Option<Time>, end: Time) -> Option<u64> {
        let ahead = shortest.map_or(AHEAD, |shortest| shortest / 4);
        let needed = now.saturating_add(ahead).min(end.saturating_sub(1_000));
        let lacks = match self.standing {
            Standing::Slice { until, .. } => until <= now || until < needed || self.left(now) < self.in_time(ahead),
            _ => true,
        };
        let wanted = self.in_time(shortest.unwrap_or(HORIZON));
        lacks.then_some(wanted.saturating_add(wanted.div_ceil(HEADROOM)))
    }

    /// What is probably left of the slice: since the last report it went on as before.
    #[must_use]
    pub fn left(&self, now: Time) -> u64 {
        match self.standing {
            Standing::Slice { amount, seen, since, until } if until > now => {
                let gone = self.in_time(now.saturating_sub(self.reported.max(since)));
                amount.saturating_sub(seen.saturating_add(gone))
            }
            _ => 0,
        }
    }

    /// What the demand comes to in so long.
    fn in_time(&self, time: Time) -> u64 {
        let demand = u128::from(self.demand) * u128::from(time);
        u64::try_from(demand.div_ceil(u128::from(self.gap.max(1)))).unwrap_or(u64::MAX)
    }

    /// Whether it should be looked at although no report came.
    #[must_use]
    pub const fn is_due(&self, now: Time) -> bool {
        now >= self.due
    }

    /// Has it looked at soon: its tenant may be locked out, its limit may be another, or its slice be over.
    pub fn look_soon(&mut self, now: Time) {
        let is_short = matches!(self.standing, Standing::Slice { since, until, .. } if until - since <= 2_000);
        self.due = now.saturating_add(if is_short { OFTEN / 2 } else { OFTEN });
    }

    /// When to look at it next, if no report comes before.
    pub const fn look_at(&mut self, due: Time) {
        self.due = due;
    }

    /// Whether what the Envoy was told holds long enough not to be repeated: until half of its time to live is over.
    #[must_use]
    pub fn is_told(&self, now: Time, allowed: bool, life: u64) -> bool {
        let half = now.saturating_add(life.saturating_mul(500));
        match self.standing {
            Standing::Allow(until) => allowed && until >= half,
            Standing::Deny(until) => !allowed && until >= half,
            Standing::Nothing | Standing::Slice { .. } => false,
        }
    }

    /// The Envoy is told that all, or nothing, may pass, for so many seconds.
    pub fn tell(&mut self, now: Time, allowed: bool, life: u64) {
        let until = now.saturating_add(life.saturating_mul(1000));
        self.standing = if allowed { Standing::Allow(until) } else { Standing::Deny(until) };
    }

    /// The Envoy is given a slice in place of what it has.
    pub fn give(&mut self, now: Time, taken: &Taken) {
        let until = now.saturating_add(taken.life.saturating_mul(1000));
        self.standing = Standing::Slice { amount: taken.amount, seen: 0, since: now, until };
        self.covered = self.covered.max(until.saturating_add(MARGIN));
        if taken.charges.is_empty() {
            return;
        }
        let same = |book: &Book| book.charges.iter().map(place).eq(taken.charges.iter().map(place));
        if !self.books.back().is_some_and(same) {
            let charges = taken.charges.clone();
            self.books.push_back(Book { charges, taken: 0, returned: 0, seen: 0, slices: Vec::new() });
            if self.books.len() > BOOKS {
                self.books.pop_front();
            }
        }
        if let Some(book) = self.books.back_mut() {
            book.taken = book.taken.saturating_add(taken.amount);
            book.slices.push((taken.amount, until.saturating_add(MARGIN)));
        }
    }

    /// What comes back as of a report that came at `now`; it is taken to be given back from here on. `scarce`: at once.
    pub fn give_back(&mut self, now: Time, scarce: bool) -> Vec<Return> {
        // Only a report can tell that what is over was not used.
        if self.reported < now || (!scarce && now.saturating_sub(self.returned) < RETURN) {
            return Vec::new();
        }
        let mut returns = Vec::new();
        let last = self.books.len().saturating_sub(1);
        let mut number = 0;
        self.books.retain_mut(|book| {
            let is_last = number == last;
            number += 1;
            book.slices.retain(|(_, usable)| *usable > now);
            let open = book.slices.iter().fold(0_u64, |sum, (amount, _)| sum.saturating_add(*amount));
            let gone = book.returned.saturating_add(book.seen).saturating_add(open);
            let amount = book.taken.saturating_sub(gone);
            // A calendar window before the last one is over, and nobody can use what would come back.
            let is_of_use =
                is_last || book.charges.iter().any(|charge| !matches!(charge.account.window, Window::Calendar(_)));
            if amount > 0 && is_of_use {
                book.returned = book.returned.saturating_add(amount);
                returns.push(Return { charges: book.charges.clone(), amount });
            }
            !book.slices.is_empty()
        });
        if !returns.is_empty() {
            self.returned = now;
        }
        returns
    }

    /// What it was given was somebody else's: nothing of that comes back.
    pub fn disown(&mut self) {
        self.books.clear();
    }

    /// Whether it was refused at the last look.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self.standing, Standing::Deny(_))
    }

    /// Whether nobody asked for so long that nothing is kept for it any more.
    #[must_use]
    pub const fn is_forgotten(&self, now: Time) -> bool {
        now.saturating_sub(self.wanted) >= IDLE
    }

    /// Whether nobody asked for so long that the Envoy may forget the bucket, and nothing of it is outstanding.
    #[must_use]
    pub fn is_idle(&self, now: Time) -> bool {
        self.books.is_empty() && self.is_forgotten(now)
    }

    /// Whether the Envoy may still have something of its slice.
    #[must_use]
    pub const fn has_left(&self, now: Time) -> bool {
        matches!(self.standing, Standing::Slice { amount, seen, until, .. } if until > now && seen < amount)
    }
}

/// Where a charge was taken from.
const fn place(charge: &Charge) -> (&AccountKey, LedgerTime) {
    (&charge.account, charge.slot)
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
