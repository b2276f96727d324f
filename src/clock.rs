//! Time as a parameter. `clippy.toml` bans the global clocks elsewhere, so that a test can own every "now".

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

/// When something happened, by both clocks: what a request goes by that does not wait, so that each is read once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Monotonic time, for lifetimes of what is kept in memory.
    pub instant: Instant,
    /// Wall time, as [`Clock::now`] has it.
    pub wall: DateTime<Utc>,
}

/// Where "now" comes from: the machine, or a test.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    // What a test added to the machine's time. Absent in production.
    ahead: Option<Arc<Mutex<Duration>>>,
}

impl Clock {
    /// The machine's time.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// The machine's time plus whatever [`Self::advance`] added: time goes on, and jumps when told to.
    #[must_use]
    pub fn adjustable() -> Self {
        Self { ahead: Some(Arc::default()) }
    }

    /// Jumps ahead; does nothing to a system clock.
    pub fn advance(&self, by: Duration) {
        if let Some(ahead) = &self.ahead {
            *ahead.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// What a test added; zero of the machine's. For who goes by the database's clock.
    #[must_use]
    pub fn ahead(&self) -> Duration {
        self.ahead.as_ref().map_or(Duration::ZERO, |ahead| *ahead.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Both times.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment { instant: self.instant(), wall: self.now() }
    }

    /// Wall time in whole microseconds: the precision that Postgres keeps, so that a value read back equals the one
    /// written.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    pub fn now(&self) -> DateTime<Utc> {
        let now = std::time::SystemTime::now() + self.ahead();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // From microseconds at once: to cut them from a `DateTime` would reckon its date twice, in a microsecond's tenth.
        i64::try_from(since.as_micros()).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default()
    }

    /// Monotonic time, for lifetimes of what is kept in memory.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    pub fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }
}
