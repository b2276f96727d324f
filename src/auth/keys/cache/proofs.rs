//! What argon2 has found out, so that it need not be asked again.
//!
//! A proof says "the key with this digest was the one that this stored hash was made of", which
//! stays true for ever. Whether that hash is still the record's is compared at each use, so a
//! rotation voids proofs without touching them, and facts may expire every 30 s without argon2
//! running every 30 s.
//!
//! Digests are BLAKE3 under a random key of this process: nobody outside can compute one, make two
//! keys collide in a map, or learn from comparisons; a memory dump has no plain keys in here.

use quick_cache::sync::Cache;
use zeroize::Zeroizing;

use crate::auth::keys::{key::ParsedKey, stored_hash::SecretHash};

/// A keyed digest: of a whole key, or of a stored hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

/// What argon2 said about a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Finding {
    /// It is the one that this stored hash was made of.
    Made(Digest),
    /// It is not the one that these were made of; two, because a record has a second one during a
    /// rotation.
    NotMade([Option<Digest>; 2]),
}

/// Proofs and disproofs.
#[derive(Debug)]
pub(super) struct Proofs {
    process_key: Zeroizing<[u8; 32]>,
    /// Whole key → the stored hash it was proven by.
    made: Cache<Digest, Digest>,
    /// Whole key → the stored hashes it failed. Apart from the proofs, so that a flood of bad keys
    /// evicts only other bad keys.
    not_made: Cache<Digest, [Option<Digest>; 2]>,
}

impl Proofs {
    /// At most so many proofs and disproofs; a proof takes about 100 bytes.
    pub(super) fn new(process_key: Zeroizing<[u8; 32]>, made: usize, not_made: usize) -> Self {
        Self { process_key, made: Cache::new(made), not_made: Cache::new(not_made) }
    }

    pub(super) fn digest(&self, key: &ParsedKey<'_>) -> Digest {
        Digest(*blake3::keyed_hash(&self.process_key, key.expose().as_bytes()).as_bytes())
    }

    pub(super) fn fingerprint(&self, hash: &SecretHash) -> Digest {
        Digest(*blake3::keyed_hash(&self.process_key, &hash.canonical_bytes()).as_bytes())
    }

    /// The hash that the key was proven by.
    pub(super) fn made(&self, key: &Digest) -> Option<Finding> {
        self.made.get(key).map(Finding::Made)
    }

    /// The hashes that the key failed.
    pub(super) fn not_made(&self, key: &Digest) -> Option<Finding> {
        self.not_made.get(key).map(Finding::NotMade)
    }

    pub(super) fn remember(&self, key: Digest, finding: Finding) {
        match finding {
            Finding::Made(hash) => self.made.insert(key, hash),
            Finding::NotMade(hashes) => self.not_made.insert(key, hashes),
        }
    }

    /// How many proofs and disproofs are kept.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.made.len(), self.not_made.len())
    }
}
