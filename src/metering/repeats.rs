//! Whether events are to be expected that are there already.
//!
//! To insert events that may be there costs Postgres half as much again as to insert those that are not (see `ingest`), and they
//! are rare but for one case: a producer that heard no answer sends again what it sent, and so do all others of that moment.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after a repeated event more of them are expected. Where none is, a batch that has one costs a transaction more.
const REPEATS: Duration = Duration::from_secs(10);

/// When an event last came that was there before. Retries come in crowds: for a while after one, more are expected.
#[derive(Debug, Default)]
pub struct Repeats(Mutex<Option<Instant>>);

impl Repeats {
    /// One came.
    pub fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether more are to be expected.
    pub fn are_expected(&self, now: Instant) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| now.saturating_duration_since(last) < REPEATS)
    }
}
