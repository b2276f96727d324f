//! A bounded number of loads at once, and a bounded number of callers waiting for one.
//!
//! Everything else is refused at once: when a flood of made-up lookup ids arrives, a queue without
//! end would turn it into seconds of latency and then into timeouts for all.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::overload::{Bottleneck, Overloaded};

/// A load is a point read of about a millisecond, so a full gate is worth another try soon.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How much a gate lets through.
#[derive(Clone, Copy, Debug)]
pub struct GateBounds {
    /// At once. More than the database pool has connections only moves the queue there.
    pub concurrent: usize,
    /// In line, first come first served.
    pub waiting: usize,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    permits: Semaphore,
    in_line: AtomicUsize,
    waiting: usize,
}

impl Gate {
    /// A gate with nobody inside.
    #[must_use]
    pub fn new(bounds: GateBounds) -> Self {
        Self {
            permits: Semaphore::new(bounds.concurrent.min(Semaphore::MAX_PERMITS)),
            in_line: AtomicUsize::new(0),
            waiting: bounds.waiting,
        }
    }

    /// Waits for a place; it is given up when the permit, or this future, is dropped.
    ///
    /// # Errors
    /// [`Overloaded`] if too many wait already.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, Overloaded> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let refused = Overloaded { bottleneck: Bottleneck::Loads, retry_after: RETRY_AFTER };
        let place = Place(&self.in_line);
        if self.in_line.fetch_add(1, Ordering::Relaxed) >= self.waiting {
            return Err(refused);
        }
        let permit = self.permits.acquire().await;
        drop(place);
        // Nobody closes the semaphore.
        permit.map_err(|_closed| refused)
    }
}

/// A place in line, given back however the caller leaves.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::keys::testing::until;

    #[tokio::test]
    async fn what_is_beyond_the_line_is_refused_and_cancelled_waiters_leave_it() {
        let gate = Arc::new(Gate::new(GateBounds { concurrent: 2, waiting: 1 }));
        let (one, two) = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
        let enter = || {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.enter().await.map(drop) })
        };
        let third = enter();
        until(|| gate.in_line.load(Ordering::Relaxed) == 1).await;
        let refused = gate.enter().await.unwrap_err();
        assert_eq!(refused.bottleneck, Bottleneck::Loads);
        third.abort();
        assert!(third.await.unwrap_err().is_cancelled());
        assert_eq!(gate.in_line.load(Ordering::Relaxed), 0);
        let fourth = enter();
        until(|| gate.in_line.load(Ordering::Relaxed) == 1).await;
        drop(one);
        assert_eq!(fourth.await.unwrap(), Ok(()));
        drop(two);
    }
}
