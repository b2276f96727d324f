//! Rates: shares of the amount of a rolling window of a second or a minute.
//!
//! A replica with a share of `s` admits at most `s` in every window by itself, so all together admit at most the sum of the
//! shares. A share changes hands when that keeps: at once as far as its holder used none of it in the last window, else a
//! window later.
//!
//! With a burst, a replica has a token bucket instead: filled at its share a window, and holding its share of the burst.
//! Tokens are never made twice: what no replica has a share of fills a bucket here, from which a new share takes its part.
//! Tokens are counted in units times microseconds of a window, so that filling loses nothing to rounding.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::limit::Window;
use crate::quota::ledger::{Answer, Known, Lease, Lifetime, MEMORY, Request};
use crate::quota::slots::{LedgerTime, SECOND, Slot, length};

/// An account of shares.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rates {
    pub(super) terms: Known,
    #[serde(default)]
    shares: Vec<Share>,
    /// What rests before it is granted again.
    #[serde(default)]
    resting: Vec<Resting>,
    /// The tokens of nobody, and when they were counted.
    #[serde(default)]
    pool: Option<(u64, LedgerTime)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Share {
    replica: Uuid,
    sequence: u64,
    units: u64,
    wanted: u64,
    used: u64,
    expires: LedgerTime,
    /// When it began, and whether as a part of a bucket.
    since: LedgerTime,
    bucket: bool,
    /// How much of it its holder was last told to use, and by which terms.
    told: u64,
    generation: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Resting {
    share: u64,
    until: LedgerTime,
}

/// What a bucket holds that belongs to a share.
#[must_use]
pub fn capacity(share: u64, amount: u64, burst: u64) -> u64 {
    if amount == 0 {
        return 0;
    }
    u64::try_from(u128::from(burst) * u128::from(share.min(amount)) / u128::from(amount)).unwrap_or(u64::MAX)
}

impl Rates {
    pub(super) fn exchange(
        &mut self,
        window: Window,
        now: LedgerTime,
        lifetime: Lifetime,
        request: &Request,
    ) -> Answer {
        let length = length(window).unwrap_or(SECOND);
        self.fill(now, length);
        self.settle(now, length);
        let known = self.shares.iter().position(|share| share.replica == request.replica);
        if known.is_some_and(|known| self.shares[known].sequence >= request.sequence) {
            return Answer { stale: true, ..Answer::default() };
        }
        let was_bucket = self.terms.burst > 0;
        self.terms.learn(&request.terms);
        if was_bucket && self.terms.burst == 0 {
            // The buckets may have let through more than a window has: nothing more is granted until that is past.
            self.rest(self.terms.amount.saturating_sub(self.granted()), now + length);
        }
        let bucket = request.terms.burst > 0;
        let mut mine = match known {
            Some(known) => self.shares.swap_remove(known),
            None => Share {
                replica: request.replica,
                sequence: 0,
                units: 0,
                wanted: 0,
                used: 0,
                expires: now,
                since: now,
                bucket,
                told: 0,
                generation: 0,
            },
        };
        mine.sequence = request.sequence;
        // Who gives back says so only when it used no more than it keeps, or that the rest was used: then that rests.
        let had = mine.units;
        mine.units = mine.units.min(request.held);
        mine.used = request.used;
        mine.wanted = request.wanted.max(request.need).min(self.terms.amount);
        if request.leaving {
            // Said twice, it is heard once.
            if had > 0 && mine.bucket {
                self.put_into_pool(request.tokens, length);
            }
            if !mine.bucket || self.terms.burst == 0 {
                self.rest(if mine.bucket { had } else { request.used.min(had) }, now + length);
            }
            (mine.units, mine.wanted, mine.used, mine.expires) = (0, 0, 0, now);
            self.shares.push(mine);
            return self.answer(now, None, request.replica);
        }
        if mine.units == 0 {
            (mine.since, mine.bucket) = (now, bucket);
        }
        let available = self.terms.amount.saturating_sub(self.granted() + mine.units);
        let more = mine.wanted.saturating_sub(mine.units);
        // Half of what is left at the most, unless who waits needs more: others may come.
        let more = more.min(available).min(available.div_ceil(2).max(request.need.saturating_sub(mine.units)));
        mine.expires = now.saturating_add(lifetime.0);
        // No more than is fair: it would be given back at once, and asked for again.
        self.shares.push(mine.clone());
        let fair = self.fair(request.replica);
        self.shares.pop();
        let more = more.min(fair.saturating_sub(mine.units));
        let tokens = self.take_from_pool(more, available, now, length);
        mine.units += more;
        // Where more is granted than there is, as the limit was lowered: all together are told no more than that.
        let cap = mine.units.min(self.untold());
        (mine.told, mine.generation) = (cap, self.terms.generation);
        let lease = Lease {
            slot: Slot { start: mine.since, end: mine.expires },
            held: mine.units,
            tokens,
            cap,
            fair: fair.min(cap),
            expires: mine.expires,
        };
        self.shares.push(mine);
        self.answer(now, Some(lease), request.replica)
    }

    fn answer(&self, now: LedgerTime, lease: Option<Lease>, replica: Uuid) -> Answer {
        let others = || self.shares.iter().filter(|share| share.replica != replica);
        let resting: u64 = self.resting.iter().map(|resting| resting.share).sum();
        Answer {
            stale: false,
            lease,
            used: self.shares.iter().map(|share| share.used).sum::<u64>() + resting,
            unspent: others()
                .filter(|share| share.expires > now)
                .map(|share| share.units.saturating_sub(share.used))
                .sum(),
            ..Answer::default()
        }
    }

    /// Used in the window up to now, as far as the replicas said.
    pub(super) fn used(&self, now: LedgerTime) -> u64 {
        self.shares.iter().filter(|share| share.expires > now).map(|share| share.used).sum()
    }

    pub(super) fn granted(&self) -> u64 {
        let shares: u64 = self.shares.iter().map(|share| share.units).sum();
        shares + self.resting.iter().map(|resting| resting.share).sum::<u64>()
    }

    pub(super) fn expires(&self, window: Window) -> LedgerTime {
        let shares = self.shares.iter().map(|share| share.expires);
        let last = shares.chain(self.resting.iter().map(|resting| resting.until)).max().unwrap_or(0);
        // A bucket of nobody is full again long before. By whole hours: the time is indexed, and a row that changes what is
        // indexed is written into the index too.
        let hour = 3600 * SECOND;
        last.saturating_add(2 * length(window).unwrap_or(SECOND)) / hour * hour + 2 * hour
    }

    /// Ends the shares whose time is over, and the rest of those that have rested.
    fn settle(&mut self, now: LedgerTime, length: i64) {
        let bucket = self.terms.burst > 0;
        let mut over = Vec::new();
        self.shares.retain_mut(|share| {
            if share.expires <= now {
                let ended = std::mem::take(&mut share.units);
                (share.wanted, share.used) = (0, 0);
                if !(bucket && share.bucket) {
                    over.push((ended, share.expires + length));
                }
            }
            share.expires + MEMORY > now
        });
        for (share, until) in over {
            self.rest(share, until);
        }
        self.resting.retain(|resting| resting.until > now);
    }

    /// What nobody was told to use by the present terms.
    fn untold(&self) -> u64 {
        let told = self.shares.iter().filter(|share| share.generation == self.terms.generation);
        let resting: u64 = self.resting.iter().map(|resting| resting.share).sum();
        self.terms.amount.saturating_sub(told.map(|share| share.told.min(share.units)).sum::<u64>() + resting)
    }

    fn rest(&mut self, share: u64, until: LedgerTime) {
        if share > 0 {
            self.resting.push(Resting { share, until });
        }
    }

    /// The largest share that the replica could have so that nobody who wants no more than that goes short.
    fn fair(&self, replica: Uuid) -> u64 {
        let mut wanted: Vec<_> = self.shares.iter().map(|share| (share.wanted, share.replica)).collect();
        wanted.sort_unstable();
        let mut left = self.terms.amount;
        let mut waiting = wanted.len() as u64;
        for (wanted, who) in wanted {
            let part = wanted.min(left.div_ceil(waiting));
            if who == replica {
                return part;
            }
            left -= part;
            waiting -= 1;
        }
        left
    }

    /// Fills the bucket of nobody with what no replica has a share of.
    fn fill(&mut self, now: LedgerTime, length: i64) {
        if self.terms.burst == 0 {
            self.pool = None;
            return;
        }
        let free = self.terms.amount.saturating_sub(self.granted());
        let Some((tokens, since)) = self.pool else { return };
        let passed = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
        let full = self.pool_capacity(length);
        self.pool = Some((tokens.saturating_add(free.saturating_mul(passed)).min(full), now.max(since)));
    }

    fn pool_capacity(&self, length: i64) -> u64 {
        let (amount, burst) = (self.terms.amount, self.terms.burst);
        let held: u64 = self.shares.iter().map(|share| capacity(share.units, amount, burst)).sum();
        burst.saturating_sub(held).saturating_mul(u64::try_from(length).unwrap_or(0))
    }

    fn put_into_pool(&mut self, tokens: u64, length: i64) {
        let full = self.pool_capacity(length);
        if let Some((pool, _)) = &mut self.pool {
            *pool = pool.saturating_add(tokens).min(full);
        }
    }

    /// The part of the tokens of nobody that goes with a share of what is left.
    fn take_from_pool(&mut self, share: u64, available: u64, now: LedgerTime, length: i64) -> u64 {
        if self.terms.burst == 0 || share == 0 {
            return 0;
        }
        let full = self.pool_capacity(length);
        // An account that nobody has used has a full bucket.
        let (pool, _) = self.pool.get_or_insert((full, now));
        let part = u128::from(*pool) * u128::from(share) / u128::from(available.max(1));
        let part = u64::try_from(part).unwrap_or(*pool).min(*pool);
        *pool -= part;
        part
    }
}
