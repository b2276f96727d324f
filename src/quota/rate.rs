//! A share of a rate on one replica: a sliding window, or with a burst a token bucket. Pure.

use crate::quota::ledger::rates::capacity;
use crate::quota::slots::LedgerTime;

/// Microseconds of this replica's monotonic clock.
pub type Tick = i64;

/// A sliding window forgets in steps of one part in so many.
const STEPS: i64 = 32;

/// Clocks run at different speeds: a part in so many is left out, so that no window is shorter than by the database's.
const DRIFT: i64 = 500;

/// One more than the steps: of the present step and the oldest one only a part is in the window, and both count in full,
/// so that no window of its length ever has more than the share.
const SLOTS: i64 = STEPS + 1;

/// What was used of a share.
#[derive(Clone, Debug)]
pub struct Rate {
    /// The length of the window in microseconds.
    length: i64,
    /// What is granted to this replica.
    pub share: u64,
    /// How much of it may be used.
    cap: u64,
    /// Used in each step, in a ring; the present step is at its number modulo the length.
    ring: [u32; 33],
    step: i64,
    sum: u64,
    /// In the bucket: units times the length of the window.
    tokens: u64,
    filled: Tick,
    /// When the share began, by the ledger.
    since: LedgerTime,
    /// Which of the two decided last.
    bucket: bool,
}

/// The amount of the limit, and its burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Bounds {
    pub amount: u64,
    pub burst: u64,
}

impl Rate {
    /// Without a share.
    #[must_use]
    pub const fn new(length: i64) -> Self {
        Self { length, share: 0, cap: 0, ring: [0; 33], step: 0, sum: 0, tokens: 0, filled: 0, since: 0, bucket: false }
    }

    /// How much can be used at `now`.
    pub fn available(&mut self, now: Tick, bounds: Bounds) -> u64 {
        self.advance(now, bounds);
        if bounds.burst > 0 { self.tokens / self.length() } else { self.usable(bounds).saturating_sub(self.sum) }
    }

    /// Uses an amount that is available.
    pub fn take(&mut self, amount: u64, bounds: Bounds) {
        if bounds.burst > 0 {
            self.tokens = self.tokens.saturating_sub(amount.saturating_mul(self.length()));
        }
        let slot = &mut self.ring[Self::index(self.step)];
        let noted = u32::try_from(amount).unwrap_or(u32::MAX).min(u32::MAX - *slot);
        *slot += noted;
        self.sum += u64::from(noted);
    }

    /// The number of the present step.
    #[must_use]
    pub const fn step(&self) -> i64 {
        self.step
    }

    /// Gives back what was taken in a step; nothing when that is forgotten already.
    pub fn put_back(&mut self, step: i64, amount: u64, bounds: Bounds) {
        if bounds.burst > 0 {
            self.tokens = self.tokens.saturating_add(amount.saturating_mul(self.length())).min(self.full(bounds));
        }
        if step > self.step || self.step - step >= SLOTS {
            return;
        }
        let slot = &mut self.ring[Self::index(step)];
        let noted = u32::try_from(amount).unwrap_or(u32::MAX).min(*slot);
        *slot -= noted;
        self.sum -= u64::from(noted);
    }

    /// Gives back what was taken last, up to the present step and at most all that is counted.
    pub fn give_back(&mut self, amount: u64, bounds: Bounds) {
        let mut left = amount.min(self.sum);
        if bounds.burst > 0 {
            self.tokens = self.tokens.saturating_add(left.saturating_mul(self.length())).min(self.full(bounds));
        }
        for past in 0..SLOTS {
            let slot = &mut self.ring[Self::index(self.step - past)];
            let noted = u32::try_from(left).unwrap_or(u32::MAX).min(*slot);
            *slot -= noted;
            self.sum -= u64::from(noted);
            left -= u64::from(noted);
        }
    }

    /// How much of the share may be used.
    #[must_use]
    pub const fn cap(&self) -> u64 {
        self.cap
    }

    /// Used in the window up to now.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.sum
    }

    /// What is in the bucket, in the measure of the ledger.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Learns since when the ledger knows the share. Another one brings its tokens along, and those of the one that is over are
    /// nobody's.
    pub const fn begin(&mut self, since: LedgerTime) {
        if self.since != since {
            (self.since, self.tokens) = (since, 0);
        }
    }

    /// Takes a new share, of which no more than `cap` may be used, and what comes with it.
    pub fn resize(&mut self, now: Tick, share: u64, cap: u64, tokens: u64, bounds: Bounds) {
        self.advance(now, bounds);
        (self.share, self.cap) = (share, cap);
        self.tokens = self.tokens.saturating_add(tokens).min(self.full(bounds));
    }

    /// How long until `amount` is available, in microseconds; `None` where that never happens with this share.
    #[must_use]
    pub fn wait(&self, now: Tick, amount: u64, bounds: Bounds) -> Option<i64> {
        if bounds.burst > 0 {
            let missing = amount.saturating_mul(self.length()).saturating_sub(self.tokens);
            let fits = amount <= capacity(self.usable(bounds), bounds.amount, bounds.burst);
            let filling = self.usable(bounds);
            return (fits && filling > 0).then(|| fast(i64::try_from(missing.div_ceil(filling)).unwrap_or(i64::MAX)));
        }
        let share = self.usable(bounds);
        if amount > share {
            return None;
        }
        let mut sum = self.sum;
        // From the oldest step on: when it is past, what it has is available again.
        for past in (0..SLOTS).rev() {
            if sum + amount <= share {
                return Some(0);
            }
            sum -= u64::from(self.ring[Self::index(self.step - past)]);
            if sum + amount <= share {
                let free = (self.step - past + SLOTS) * self.step_length();
                return Some(fast((free - slow(now)).max(1)));
            }
        }
        None
    }

    fn advance(&mut self, now: Tick, bounds: Bounds) {
        let now = slow(now);
        let step = now.div_euclid(self.step_length());
        if step > self.step {
            for number in 0..(step - self.step).min(SLOTS) {
                let slot = &mut self.ring[Self::index(step - number)];
                self.sum -= u64::from(std::mem::take(slot));
            }
            self.step = step;
        }
        if bounds.burst == 0 && self.bucket {
            // The bucket may have let through more than a window has: nothing more until that is past.
            self.take(self.share, bounds);
        }
        self.bucket = bounds.burst > 0;
        if self.bucket {
            let passed = u64::try_from(now - self.filled).unwrap_or(0);
            let share = self.usable(bounds);
            self.tokens = self.tokens.saturating_add(share.saturating_mul(passed)).min(self.full(bounds));
        }
        self.filled = self.filled.max(now);
    }

    fn usable(&self, bounds: Bounds) -> u64 {
        self.share.min(self.cap).min(bounds.amount)
    }

    fn full(&self, bounds: Bounds) -> u64 {
        capacity(self.usable(bounds), bounds.amount, bounds.burst).saturating_mul(self.length())
    }

    const fn length(&self) -> u64 {
        self.length.unsigned_abs()
    }

    const fn step_length(&self) -> i64 {
        self.length / STEPS
    }

    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a small divisor")]
    const fn index(step: i64) -> usize {
        step.rem_euclid(SLOTS) as usize
    }
}

/// What a clock that is never fast would say.
const fn slow(now: Tick) -> i64 {
    now - now.div_euclid(DRIFT)
}

/// How long it takes until so much has passed on a clock that is never fast.
const fn fast(wait: i64) -> i64 {
    wait.saturating_add(wait / (DRIFT - 1) + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: i64 = 60_000_000;

    /// Takes as much as it can of what is asked at each time; returns what was taken when.
    fn drive(asked: &[(i64, u64)], bounds: Bounds, share: u64, tokens: u64) -> Vec<(i64, u64)> {
        let mut rate = Rate::new(LENGTH);
        rate.resize(0, share, share, tokens, bounds);
        let mut now = 0;
        let mut taken = Vec::new();
        for (passed, amount) in asked {
            now += passed;
            let amount = rate.available(now, bounds).min(*amount);
            rate.take(amount, bounds);
            taken.push((now, amount));
        }
        taken
    }

    fn most_in_a_window(taken: &[(i64, u64)]) -> u64 {
        let window = |end: i64| taken.iter().filter(move |(time, _)| *time <= end && *time > end - LENGTH);
        taken.iter().map(|(end, _)| window(*end).map(|(_, amount)| amount).sum()).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_share(
            asked in prop::collection::vec((0_i64..9_000_000, 1_u64..40), 1..200), share in 0_u64..100,
        ) {
            let taken = drive(&asked, Bounds { amount: 100, burst: 0 }, share, 0);
            prop_assert!(most_in_a_window(&taken) <= share);
        }

        #[test]
        fn with_a_bucket_no_window_has_more_than_share_and_burst(
            asked in prop::collection::vec((0_i64..9_000_000, 1_u64..40), 1..200), share in 1_u64..100, burst in 1_u64..50,
        ) {
            let bounds = Bounds { amount: 100, burst };
            let taken = drive(&asked, bounds, share, u64::MAX);
            prop_assert!(most_in_a_window(&taken) <= share + capacity(share, 100, burst));
        }

        #[test]
        fn who_waits_as_told_is_served(
            asked in prop::collection::vec((0_i64..9_000_000, 1_u64..40), 1..100), amount in 1_u64..10, burst in 0_u64..20,
        ) {
            let bounds = Bounds { amount: 100, burst };
            let mut rate = Rate::new(LENGTH);
            rate.resize(0, 100, 100, 0, bounds);
            let mut now = 0;
            for (passed, amount) in asked {
                now += passed;
                let amount = rate.available(now, bounds).min(amount);
                rate.take(amount, bounds);
            }
            match rate.wait(now, amount, bounds) {
                Some(wait) => prop_assert!(rate.available(now + wait, bounds) >= amount, "after {wait}"),
                None => prop_assert!(burst > 0 && amount > burst),
            }
        }
    }

    #[test]
    fn what_is_given_back_is_what_was_taken_last() {
        let bounds = Bounds { amount: 10, burst: 0 };
        let mut rate = Rate::new(LENGTH);
        rate.resize(0, 10, 10, 0, bounds);
        rate.take(6, bounds);
        assert_eq!(rate.available(LENGTH / 2, bounds), 4);
        rate.take(4, bounds);
        rate.give_back(5, bounds);
        assert_eq!(rate.available(LENGTH / 2, bounds), 5);
        // Of what was taken first 5 are left, and those are forgotten first.
        assert_eq!(rate.available(LENGTH + LENGTH / 32 + LENGTH / 400, bounds), 10);
        rate.take(3, bounds);
        rate.give_back(u64::MAX, bounds);
        assert_eq!((rate.used(), rate.available(LENGTH + LENGTH / 16, bounds)), (0, 10), "and no more than there was");
    }

    #[test]
    fn what_is_used_evenly_is_forgotten_after_a_window_and_a_step() {
        let bounds = Bounds { amount: 10, burst: 0 };
        let mut rate = Rate::new(LENGTH);
        rate.resize(0, 10, 10, 0, bounds);
        rate.take(10, bounds);
        assert_eq!(rate.available(LENGTH - 1, bounds), 0);
        assert_eq!(rate.available(LENGTH + LENGTH / 32 + LENGTH / 400, bounds), 10);
    }

    #[test]
    fn what_is_used_counts_for_a_window_of_a_slower_clock() {
        let bounds = Bounds { amount: 10, burst: 0 };
        for start in (0..LENGTH / 16).step_by(997) {
            let mut rate = Rate::new(LENGTH);
            rate.resize(start, 10, 10, 0, bounds);
            rate.take(10, bounds);
            // This clock is fast by 200 ppm, and the other one slow by as much.
            assert_eq!(rate.available(start + LENGTH + LENGTH / 2500, bounds), 0, "from {start}");
        }
    }

    #[test]
    fn a_bucket_that_becomes_a_window_begins_full() {
        let bucket = Bounds { amount: 10, burst: 10 };
        let mut rate = Rate::new(LENGTH);
        rate.resize(0, 10, 10, u64::MAX, bucket);
        let used = rate.available(0, bucket);
        rate.take(used, bucket);
        assert_eq!((used, rate.available(1, Bounds { amount: 10, burst: 0 })), (10, 0));
    }
}
