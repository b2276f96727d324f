//! A cache over a database that is a map behind a loader that counts, and that can be held after it
//! has read.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use chrono::TimeDelta;
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::watch;

use crate::auth::keys::cache::*;
use crate::auth::keys::{
    argon_pool::ArgonPoolConfig,
    argon_queue::QueueBounds,
    key::PlainKey,
    testing::{cheap, hash_of},
};

/// What the database answers when it is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("down")]
pub(super) struct Down;

/// The facts of a row: its version.
pub(super) type Version = usize;

pub(super) struct World {
    pub(super) cache: KeyCache<Version, Down>,
    rows: Mutex<HashMap<LookupId, KeyRecord<Version>>>,
    loads: AtomicUsize,
    /// Loads that have read their row and wait to return it while this is true.
    pub(super) held: watch::Sender<bool>,
    pub(super) down: AtomicBool,
    start: Instant,
}

pub(super) const ORGANIZATION: Uuid = Uuid::from_u128(7);

pub(super) fn wall(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds)
}

impl World {
    pub(super) fn new(config: KeyCacheConfig) -> Arc<Self> {
        let world = Self::idle(config);
        world.cache.pool().spawn_threads().unwrap();
        world
    }

    /// Without argon2 threads: what is to be verified waits for `pool().spawn_threads()`.
    pub(super) fn idle(config: KeyCacheConfig) -> Arc<Self> {
        let pool = ArgonPool::idle(ArgonPoolConfig {
            threads: NonZeroUsize::MIN,
            cost: cheap(),
            bounds: QueueBounds { total: 64, per_lookup: 4 },
        });
        let mut rng = StdRng::seed_from_u64(0);
        Arc::new(Self {
            cache: KeyCache::new(config, Arc::new(pool), &mut rng).unwrap(),
            rows: Mutex::default(),
            loads: AtomicUsize::new(0),
            held: watch::Sender::new(false),
            down: false.into(),
            start: tokio::time::Instant::now().into_std(),
        })
    }

    /// Commits a row.
    pub(super) fn put(&self, key: &PlainKey, version: Version) {
        self.put_rotated(key, None, version);
    }

    pub(super) fn put_rotated(&self, key: &PlainKey, old: Option<(&PlainKey, i64)>, version: Version) {
        let previous = old.map(|(old, until)| PreviousSecret { hash: hash_of(old), valid_until: wall(until) });
        let record = KeyRecord { organization: Some(ORGANIZATION), current: hash_of(key), previous, facts: version };
        self.rows.lock().unwrap().insert(key.parsed().lookup(), record);
    }

    pub(super) async fn load(&self, lookup: LookupId) -> Result<Option<KeyRecord<Version>>, Down> {
        let row = self.rows.lock().unwrap().get(&lookup).cloned();
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        tokio::task::yield_now().await;
        if self.down.load(Ordering::SeqCst) { Err(Down) } else { Ok(row) }
    }

    pub(super) fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    pub(super) async fn verify_at(
        &self,
        key: &PlainKey,
        millis: u64,
        seconds: i64,
    ) -> Result<Verdict<Version>, VerifyError<Down>> {
        let load = |lookup| self.load(lookup);
        self.cache.verify(&key.parsed(), self.at(millis), wall(seconds), load).await
    }

    pub(super) async fn verify(&self, key: &PlainKey) -> Result<Seen, VerifyError<Down>> {
        self.verify_at(key, 0, 0).await.map(Seen::from)
    }

    pub(super) fn warm(&self, key: &PlainKey) -> Option<Seen> {
        self.cache.warm(&key.parsed(), self.at(0), wall(0)).map(Seen::from)
    }

    /// Loads and argon2 runs so far.
    pub(super) fn work(&self) -> (usize, u64) {
        (self.loads.load(Ordering::SeqCst), self.cache.pool().runs())
    }
}

/// A verdict that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Current(Version),
    Previous(Version),
    Unknown,
    Wrong,
}

impl From<Verdict<Version>> for Seen {
    fn from(verdict: Verdict<Version>) -> Self {
        match verdict {
            Verdict::Verified(verified) => match verified.secret() {
                SecretUsed::Current => Self::Current(verified.facts),
                SecretUsed::Previous { .. } => Self::Previous(verified.facts),
            },
            Verdict::UnknownKey => Self::Unknown,
            Verdict::WrongSecret => Self::Wrong,
        }
    }
}
