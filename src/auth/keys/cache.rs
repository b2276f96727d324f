//! The verification cache: "is this presented key the secret of a record, and of which?"
//!
//! Three things are remembered, because they grow old differently:
//! - **records** (the rows' facts) for 30 s, and until they are invalidated;
//! - **absences** of records for 5 s, and until they are invalidated;
//! - **proofs** that a key is the one a stored hash was made of, and disproofs, until they are
//!   evicted: they cannot become wrong, they only stop to matter when the record's hash changes.
//!
//! [`KeyCache::warm`] answers from memory, without await or allocation, in well under a
//! microsecond. [`KeyCache::verify`] does what it takes: one load for all who ask for a lookup id
//! at a time, one argon2 run for all who present a key at a time.
//!
//! What an attacker can do, and what stands against it:
//!
//! | flood of | costs | bounded by |
//! |---|---|---|
//! | garbage | a CRC32 | the format |
//! | one bad key | nothing after the first | disproofs |
//! | made-up lookup ids | a load each | a gate of their own, absences in a map of their own |
//! | bad secrets for known lookup ids | an argon2 run each | the pool's fair queue; disproofs in a map of their own |
//!
//! A wrong secret takes longer to refuse than an unknown lookup id. That tells whether a lookup id
//! exists, which is no secret; hiding it would give made-up lookup ids an argon2 run each.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rand::TryCryptoRng;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    argon_pool::ArgonPool,
    gate::Gate,
    key::{LookupId, ParsedKey},
    overload::{Bottleneck, Overloaded},
    single_flight::Flights,
};

mod config;
mod invalidations;
mod proofs;
mod record;
mod records;

use self::{
    invalidations::Sequence,
    proofs::{Digest, Finding, Proofs},
    record::{Answer, Cached},
    records::{Entry, Records},
};

pub use self::config::{KeyCacheConfig, KeyCacheSize, VerifyError};
pub use self::record::{KeyRecord, Known, PreviousSecret, SecretUsed, Verdict, Verified};

/// How often one call starts over because the record was invalidated under its hands.
const ATTEMPTS: usize = 3;

/// The cache; `T` is what callers want to know of a row, `E` the loader's error.
#[derive(Debug)]
pub struct KeyCache<T, E> {
    records: Records<T>,
    proofs: Proofs,
    pool: Arc<ArgonPool>,
    loads: Flights<LookupId, Result<Entry<T>, VerifyError<E>>>,
    checks: Flights<Digest, Result<Finding, VerifyError<E>>>,
    known_loads: Gate,
    unknown_loads: Gate,
}

impl<T, E> KeyCache<T, E> {
    /// An empty cache. `rng` gives the key of this process's digests: `rand::rngs::SysRng`, but in
    /// tests.
    ///
    /// # Errors
    /// The generator's.
    pub fn new<R: TryCryptoRng + ?Sized>(
        config: KeyCacheConfig,
        pool: Arc<ArgonPool>,
        rng: &mut R,
    ) -> Result<Self, R::Error> {
        let mut process_key = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(process_key.as_mut_slice())?;
        Ok(Self {
            records: Records::new((config.records, config.record_lifetime), (config.absences, config.absence_lifetime)),
            proofs: Proofs::new(process_key, config.records.saturating_mul(2), config.disproofs),
            pool,
            loads: Flights::new(),
            checks: Flights::new(),
            known_loads: Gate::new(config.known_loads),
            unknown_loads: Gate::new(config.unknown_loads),
        })
    }

    /// The answer, if memory has it: no await, no allocation. None means to call
    /// [`verify`](Self::verify).
    ///
    /// `now` ages records and absences, `wall` ends graces.
    #[must_use]
    pub fn warm(&self, key: &ParsedKey<'_>, now: Instant, wall: DateTime<Utc>) -> Option<Verdict<T>> {
        let Entry::Present(cached) = self.records.get(&key.lookup(), now)? else {
            return Some(Verdict::UnknownKey);
        };
        let answer = self.known(&self.proofs.digest(key), &cached, wall)?;
        Some(verdict(cached, answer))
    }

    /// The answer, from memory or by loading the record and running argon2.
    ///
    /// `load` reads a record by its lookup id, from the database itself: what it gives must not be
    /// older than the call. It may be called up to three times, if the record is invalidated
    /// meanwhile. It needs a timeout of its own: those who wait for it wait as long.
    ///
    /// The answer held at some moment during the call: an invalidation that returned before the
    /// call is always seen. Dropping the future is safe at any time.
    ///
    /// # Errors
    /// [`VerifyError`]; nothing is then known about the key.
    pub async fn verify<F, Fut>(
        &self,
        key: &ParsedKey<'_>,
        now: Instant,
        wall: DateTime<Utc>,
        load: F,
    ) -> Result<Verdict<T>, VerifyError<E>>
    where
        F: Fn(LookupId) -> Fut,
        Fut: Future<Output = Result<Option<KeyRecord<T>>, E>>,
    {
        let digest = self.proofs.digest(key);
        for _ in 0..ATTEMPTS {
            let entry = match self.records.get(&key.lookup(), now) {
                Some(entry) => entry,
                None => self.load(key.lookup(), now, &load).await?,
            };
            // A joined flight may have begun before an invalidation that this call must see.
            if !self.records.is_usable(&entry, now) {
                continue;
            }
            let Entry::Present(cached) = &entry else {
                return Ok(Verdict::UnknownKey);
            };
            let mut answer = self.known(&digest, cached, wall);
            if answer.is_none() {
                let finding = self.check(key, digest, cached, wall).await?;
                answer = cached.judge(&finding, wall);
            }
            // No answer: the joined check was made against the hashes of another version. And
            // argon2 and its queue take their time; what was revoked meanwhile is not let through.
            if let Some(answer) = answer
                && self.records.is_usable(&entry, now)
            {
                return Ok(verdict(Arc::clone(cached), answer));
            }
        }
        Err(VerifyError::Overloaded(churn()))
    }

    /// The record of a lookup id as it is now, for who has another proof than the secret that the bearer may use it; None if
    /// there is none. `load` and errors as for [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`VerifyError`]; nothing is then known about the key.
    pub async fn record<F, Fut>(
        &self,
        lookup: &LookupId,
        now: Instant,
        load: F,
    ) -> Result<Option<Known<T>>, VerifyError<E>>
    where
        F: Fn(LookupId) -> Fut,
        Fut: Future<Output = Result<Option<KeyRecord<T>>, E>>,
    {
        for _ in 0..ATTEMPTS {
            let entry = match self.records.get(lookup, now) {
                Some(entry) => entry,
                None => self.load(*lookup, now, &load).await?,
            };
            // As there: a joined flight may have begun before an invalidation that this call must see.
            if self.records.is_usable(&entry, now) {
                return Ok(match entry {
                    Entry::Present(cached) => Some(Known(cached)),
                    Entry::Absent(_) => None,
                });
            }
        }
        Err(VerifyError::Overloaded(churn()))
    }

    /// Forgets one key's record, or its absence: it was created, changed, rotated or revoked. Call
    /// it after the change is committed. Once this returns, no call that begins later is answered
    /// from before.
    pub fn invalidate(&self, lookup: &LookupId) {
        self.records.invalidations().key(lookup);
    }

    /// Forgets the records of all keys of an organization: it was suspended, or restored. One write,
    /// however many there are.
    pub fn invalidate_organization(&self, organization: &Uuid) {
        self.records.invalidations().organization(organization);
    }

    /// Forgets all records and absences: changes may have been missed. Proofs stay, they cannot be
    /// wrong.
    pub fn invalidate_all(&self) {
        self.records.invalidations().all();
    }

    /// What is kept.
    #[must_use]
    pub fn size(&self) -> KeyCacheSize {
        let ((records, absences), (proofs, disproofs)) = (self.records.len(), self.proofs.len());
        KeyCacheSize { records, absences, proofs, disproofs }
    }

    /// The pool that keys are verified on; new keys are hashed there as well.
    #[must_use]
    pub const fn pool(&self) -> &Arc<ArgonPool> {
        &self.pool
    }

    /// What memory says about a key and a record. A proof may be about an older hash than a
    /// disproof, so the one that says nothing does not silence the other.
    fn known(&self, key: &Digest, cached: &Cached<T>, wall: DateTime<Utc>) -> Option<Answer> {
        let judged = |finding| cached.judge(&finding, wall);
        let made = self.proofs.made(key).and_then(judged);
        made.or_else(|| self.proofs.not_made(key).and_then(judged))
    }

    /// One load for all who ask for a lookup id at a time.
    async fn load<F, Fut>(&self, lookup: LookupId, now: Instant, load: &F) -> Result<Entry<T>, VerifyError<E>>
    where
        F: Fn(LookupId) -> Fut,
        Fut: Future<Output = Result<Option<KeyRecord<T>>, E>>,
    {
        let work = || async move {
            // Between looking and boarding, another flight may have landed.
            if let Some(entry) = self.records.get(&lookup, now) {
                return Ok(entry);
            }
            let known = self.records.is_known(&lookup);
            let gate = if known { &self.known_loads } else { &self.unknown_loads };
            let _permit = gate.enter().await.map_err(VerifyError::Overloaded)?;
            // Before the database is read, or an invalidation during the load would go unseen.
            let begin = (now, self.records.sequence());
            let record = load(lookup).await.map_err(|error| VerifyError::Load(Arc::new(error)))?;
            let entry = self.entry(lookup, begin, record);
            self.records.put(lookup, &entry);
            Ok(entry)
        };
        self.loads.run(lookup, work).await
    }

    fn entry(&self, lookup: LookupId, begin: (Instant, Sequence), record: Option<KeyRecord<T>>) -> Entry<T> {
        let organization = record.as_ref().and_then(|record| record.organization);
        let freshness = self.records.freshness(begin, &lookup, organization);
        record.map_or(Entry::Absent(freshness), |record| {
            let previous = record.previous.as_ref();
            Entry::Present(Arc::new(Cached {
                current: self.proofs.fingerprint(&record.current),
                previous: previous.map(|previous| self.proofs.fingerprint(&previous.hash)),
                freshness,
                record,
            }))
        })
    }

    /// One argon2 run for all who present a key at a time: two, if it fails during a grace.
    async fn check(
        &self,
        key: &ParsedKey<'_>,
        digest: Digest,
        cached: &Cached<T>,
        wall: DateTime<Utc>,
    ) -> Result<Finding, VerifyError<E>> {
        let work = || async move {
            // Between looking and boarding, another flight may have landed.
            let landed = [self.proofs.made(&digest), self.proofs.not_made(&digest)];
            let tells = |finding: &Finding| cached.judge(finding, wall).is_some();
            if let Some(finding) = landed.into_iter().flatten().find(tells) {
                return Ok(finding);
            }
            let mut failed = [None; 2];
            for (candidate, slot) in cached.candidates(wall).zip(&mut failed) {
                if self.pool.verify(key, candidate.hash).await? {
                    let finding = Finding::Made(candidate.fingerprint);
                    self.proofs.remember(digest, finding);
                    return Ok(finding);
                }
                *slot = Some(candidate.fingerprint);
            }
            let finding = Finding::NotMade(failed);
            self.proofs.remember(digest, finding);
            Ok(finding)
        };
        self.checks.run(digest, work).await
    }
}

/// The record was invalidated under the caller's hands again and again.
const fn churn() -> Overloaded {
    Overloaded { bottleneck: Bottleneck::Churn, retry_after: Duration::from_millis(10) }
}

fn verdict<T>(cached: Arc<Cached<T>>, answer: Answer) -> Verdict<T> {
    match answer {
        Answer::Secret(secret) => Verdict::Verified(Verified { cached, secret }),
        Answer::NoSecret => Verdict::WrongSecret,
    }
}

#[cfg(test)]
mod tests;
