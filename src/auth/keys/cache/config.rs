//! What the cache is told, and what it tells of itself: its bounds, its errors, its size.

use std::{sync::Arc, time::Duration};

use crate::auth::keys::{argon_pool::PoolError, gate::GateBounds, overload::Overloaded};

/// How much is kept, for how long, and how much may be loaded at once.
#[derive(Clone, Copy, Debug)]
pub struct KeyCacheConfig {
    /// Records kept. Twice as many proofs, since a record has two secrets during a rotation.
    pub records: usize,
    /// Absences kept.
    pub absences: usize,
    /// Disproofs kept.
    pub disproofs: usize,
    /// How long a record is used while nothing invalidates it: what I8 allows when the database
    /// cannot be reached.
    pub record_lifetime: Duration,
    /// How long an absence is used while nothing invalidates it.
    pub absence_lifetime: Duration,
    /// Loads for lookup ids that had a record when last looked.
    pub known_loads: GateBounds,
    /// Loads for all others. A flood of made-up lookup ids is in here, and so is a cold start.
    pub unknown_loads: GateBounds,
}

impl Default for KeyCacheConfig {
    fn default() -> Self {
        Self {
            records: 100_000,
            absences: 50_000,
            disproofs: 50_000,
            record_lifetime: Duration::from_secs(30),
            absence_lifetime: Duration::from_secs(5),
            known_loads: GateBounds { concurrent: 16, waiting: 4096 },
            unknown_loads: GateBounds { concurrent: 16, waiting: 1024 },
        }
    }
}

/// Why nothing was found out about a key. Never to be reported as a bad key.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError<E> {
    /// The loader failed; shared by all who waited for it.
    #[error("the API key's record could not be loaded")]
    Load(#[source] Arc<E>),
    /// Too much is going on.
    #[error(transparent)]
    Overloaded(Overloaded),
    /// argon2 failed or is shutting down.
    #[error("the API key's secret could not be checked")]
    Hashing(#[source] PoolError),
}

/// By hand: derived, it would want `E: Clone`.
impl<E> Clone for VerifyError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Load(error) => Self::Load(Arc::clone(error)),
            Self::Overloaded(overloaded) => Self::Overloaded(*overloaded),
            Self::Hashing(error) => Self::Hashing(*error),
        }
    }
}

impl<E> From<PoolError> for VerifyError<E> {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Overloaded(overloaded) => Self::Overloaded(overloaded),
            PoolError::Hashing(_) | PoolError::Stopped => Self::Hashing(error),
        }
    }
}

/// What the cache holds, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyCacheSize {
    /// Records, usable or not.
    pub records: usize,
    /// Absences, usable or not.
    pub absences: usize,
    /// Proofs.
    pub proofs: usize,
    /// Disproofs.
    pub disproofs: usize,
}
