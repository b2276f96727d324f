//! What is logged of every request, and would fill the disk when each of them fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// Once a second at the most. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Seldom(Arc<AtomicI64>);

impl Seldom {
    /// Whether nothing was logged in this second yet; then it is now.
    #[must_use]
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        let second = now.timestamp();
        self.0.swap(second, Ordering::Relaxed) != second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_second() {
        let seldom = Seldom::default();
        let at = |millis| DateTime::from_timestamp_millis(millis).unwrap();
        let due =
            [1_000_000, 1_000_500, 1_000_999, 1_001_000, 1_003_000].map(|millis| seldom.clone().is_due(at(millis)));
        assert_eq!(due, [true, false, false, true, true]);
    }
}
