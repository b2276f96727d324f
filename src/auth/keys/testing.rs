//! What several tests of this directory need.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    hashing::{HashSalt, Scratch},
    key::PlainKey,
    kind::ApiKeyKind,
    stored_hash::{HashCost, SecretHash},
};

/// A key that is the same for the same seed.
pub(super) fn key(seed: u64) -> PlainKey {
    PlainKey::generate(ApiKeyKind::SecretLive, &mut StdRng::seed_from_u64(seed)).unwrap()
}

/// Another secret for the same lookup id.
pub(super) fn sibling(key: &PlainKey, seed: u64) -> PlainKey {
    let mut rng = StdRng::seed_from_u64(seed);
    PlainKey::with_lookup(key.parsed().kind(), key.parsed().lookup(), &mut rng).unwrap()
}

/// The least that argon2 takes.
pub(super) fn cheap() -> HashCost {
    HashCost::new(8, 1, 1).unwrap()
}

/// A cheap hash of a key.
pub(super) fn hash_of(key: &PlainKey) -> SecretHash {
    hashed(key, cheap())
}

/// A hash of a key, always with the same salt.
pub(super) fn hashed(key: &PlainKey, cost: HashCost) -> SecretHash {
    let salt = HashSalt::generate(&mut StdRng::seed_from_u64(99)).unwrap();
    Scratch::new(cost).unwrap().hash(&key.parsed(), salt, cost).unwrap()
}

/// Lets others run until something has happened; fails if it does not.
pub(super) async fn until(happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it never happened");
}
