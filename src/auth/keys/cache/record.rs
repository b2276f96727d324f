//! Records of keys: as the caller loads them, as the cache keeps them, as they are handed out.

use std::{ops::Deref, sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    invalidations::Stamp,
    proofs::{Digest, Finding},
};
use crate::auth::keys::stored_hash::SecretHash;

/// A row of a key, as the loader reads it.
#[derive(Clone, Debug)]
pub struct KeyRecord<T> {
    /// Whose key it is; none for a key of the platform. Decides what
    /// [`invalidate_organization`](super::KeyCache::invalidate_organization) reaches.
    pub organization: Option<Uuid>,
    /// The hash of the secret.
    pub current: SecretHash,
    /// The secret before the last rotation.
    pub previous: Option<PreviousSecret>,
    /// What the caller wants to know of the row: ids, scopes, expiry, whether it is disabled or
    /// revoked. None of it is the cache's business, so **the caller still has to check it**, with
    /// the old secret as with the new one: the grace of a rotation never extends a key's expiry.
    pub facts: T,
}

/// A secret that was replaced and still works for a while.
#[derive(Clone, Copy, Debug)]
pub struct PreviousSecret {
    /// Its hash.
    pub hash: SecretHash,
    /// From this moment on it does not work any more. Wall time of the database.
    pub valid_until: DateTime<Utc>,
}

/// Which of a record's secrets was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretUsed {
    /// The one in force.
    Current,
    /// The one before, in its grace: whoever uses it should be told to change over.
    Previous {
        /// When the grace ends.
        valid_until: DateTime<Utc>,
    },
}

/// A record in the cache.
#[derive(Debug)]
pub(super) struct Cached<T> {
    pub(super) record: KeyRecord<T>,
    pub(super) current: Digest,
    pub(super) previous: Option<Digest>,
    pub(super) freshness: Freshness,
}

/// How a value in the cache grows old.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    pub(super) stamp: Stamp,
    /// When the load began: what it read is no older than that.
    pub(super) loaded_at: Instant,
}

/// A stored hash that a presented key may be proven by.
pub(super) struct Candidate<'a> {
    pub(super) used: SecretUsed,
    pub(super) hash: &'a SecretHash,
    pub(super) fingerprint: Digest,
}

impl<T> Cached<T> {
    /// The hashes in force at `wall`, the current one first.
    pub(super) fn candidates(&self, wall: DateTime<Utc>) -> impl Iterator<Item = Candidate<'_>> {
        let current = Candidate { used: SecretUsed::Current, hash: &self.record.current, fingerprint: self.current };
        let previous = self.record.previous.as_ref().zip(self.previous);
        let previous = previous.filter(|(secret, _)| wall < secret.valid_until);
        std::iter::once(current).chain(previous.map(|(secret, fingerprint)| Candidate {
            used: SecretUsed::Previous { valid_until: secret.valid_until },
            hash: &secret.hash,
            fingerprint,
        }))
    }

    /// What a finding means for this record at `wall`. None if it says nothing: it is about hashes
    /// that this record does not have, or it does not rule all of them out.
    pub(super) fn judge(&self, finding: &Finding, wall: DateTime<Utc>) -> Option<Answer> {
        let mut candidates = self.candidates(wall);
        match finding {
            Finding::Made(by) => candidates
                .find(|candidate| candidate.fingerprint == *by)
                .map(|candidate| Answer::Secret(candidate.used)),
            Finding::NotMade(failed) => {
                candidates.all(|candidate| failed.contains(&Some(candidate.fingerprint))).then_some(Answer::NoSecret)
            }
        }
    }
}

/// Whether a presented key is one of a record's secrets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Secret(SecretUsed),
    NoSecret,
}

/// A record, and the certainty that its secret was presented. Dereferences to the record.
#[derive(Debug)]
pub struct Verified<T> {
    pub(super) cached: Arc<Cached<T>>,
    pub(super) secret: SecretUsed,
}

impl<T> Verified<T> {
    /// Which of the record's secrets was presented.
    #[must_use]
    pub const fn secret(&self) -> SecretUsed {
        self.secret
    }

    /// The record alone.
    #[must_use]
    pub fn known(&self) -> Known<T> {
        Known(Arc::clone(&self.cached))
    }
}

/// A record, and no certainty that anybody presented its secret: nothing that lets a request in by itself. Dereferences to
/// what the caller wanted to know of the row.
#[derive(Debug)]
pub struct Known<T>(pub(super) Arc<Cached<T>>);

impl<T> Deref for Known<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.record.facts
    }
}

impl<T> Deref for Verified<T> {
    type Target = KeyRecord<T>;

    fn deref(&self) -> &KeyRecord<T> {
        &self.cached.record
    }
}

impl<T> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self { cached: Arc::clone(&self.cached), secret: self.secret }
    }
}

/// What is known of a presented key.
#[derive(Clone, Debug)]
pub enum Verdict<T> {
    /// It is the secret of this record. Whether the record may be used is the caller's to check.
    Verified(Verified<T>),
    /// No record has its lookup id. Tell the client the same as for a wrong secret; the two are
    /// apart here for metrics only.
    UnknownKey,
    /// The record exists, the secret is wrong.
    WrongSecret,
}
