//! Latencies, counted in buckets: however many there are, they take the same memory.

use std::ops::AddAssign;
use std::time::Duration;

/// Buckets of each doubling: a figure is exact to one part in so many.
const PARTS: u64 = 64;

/// How often which latency was seen.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Vec<u64>,
    all: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; 64 * 64], all: 0 }
    }
}

/// Counts all of another's.
impl AddAssign<&Self> for Latencies {
    fn add_assign(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.all += other.all;
    }
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(PARTS);
        let doubling = u64::from(nanoseconds.ilog2()) - 6;
        let bucket = doubling * PARTS + ((nanoseconds >> doubling) - PARTS);
        if let Some(count) = self.counts.get_mut(usize::try_from(bucket).unwrap_or(usize::MAX)) {
            *count += 1;
            self.all += 1;
        }
    }

    /// What so many of a thousand did not exceed, in milliseconds.
    pub fn ms(&self, per_mille: u64) -> f64 {
        let rank = (self.all * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in (0_u64..).zip(&self.counts) {
            seen += count;
            if seen >= rank && seen > 0 {
                let nanoseconds = (bucket % PARTS + PARTS + 1) << (bucket / PARTS);
                return Duration::from_nanos(nanoseconds).as_secs_f64() * 1000.0;
            }
        }
        0.0
    }
}
