//! Work refused because a bounded resource is full.

use std::time::Duration;

/// What was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bottleneck {
    /// The queue of the argon2 threads, in all or of one lookup id.
    Argon2,
    /// The loads of records from the database.
    Loads,
    /// The record changed each time it was read, several times within one request.
    Churn,
}

/// The request was refused to protect others, and may be repeated. For the wire this is UNAVAILABLE
/// with a `RetryInfo`, never UNAUTHENTICATED: nothing was found out about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key verification is overloaded; retry in {} ms", retry_after.as_millis())]
pub struct Overloaded {
    /// What was full, for metrics.
    pub bottleneck: Bottleneck,
    /// When a repetition has a fair chance: an estimate, between 10 ms and 1 s.
    pub retry_after: Duration,
}
