//! Making keys: a secret from the operating system's generator, and the hash of it that is stored.

use std::num::NonZeroUsize;

use rand::rngs::SysRng;

use crate::auth::keys::argon_pool::{ArgonPool, ArgonPoolConfig, PoolError};
use crate::auth::keys::hashing::HashSalt;
use crate::auth::keys::key::{LookupId, PlainKey};
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::keys::stored_hash::SecretHash;
use crate::error::Error;

/// A new key and the hash to store. The hash takes a turn in the pool, so no scope may be open meanwhile.
pub async fn new(pool: &ArgonPool, kind: ApiKeyKind) -> Result<(PlainKey, SecretHash), Error> {
    let key = PlainKey::generate(kind, &mut SysRng).map_err(Error::internal)?;
    hashed(pool, key).await
}

/// The same for a key that exists: only the secret is new.
pub async fn renewed(pool: &ArgonPool, kind: ApiKeyKind, lookup: LookupId) -> Result<(PlainKey, SecretHash), Error> {
    let key = PlainKey::with_lookup(kind, lookup, &mut SysRng).map_err(Error::internal)?;
    hashed(pool, key).await
}

async fn hashed(pool: &ArgonPool, key: PlainKey) -> Result<(PlainKey, SecretHash), Error> {
    let salt = HashSalt::generate(&mut SysRng).map_err(Error::internal)?;
    let hash = pool.hash(&key.parsed(), salt).await.map_err(|error| match error {
        PoolError::Overloaded(overloaded) => Error::Overloaded {
            reason: "HASHING_OVERLOADED",
            message: "too many keys are being hashed or verified for the first time",
            retry_after: overloaded.retry_after,
        },
        PoolError::Hashing(_) | PoolError::Stopped => Error::internal(error),
    })?;
    Ok((key, hash))
}

/// A pool for a command that makes a key or two; its thread ends with it. A server with dearer parameters verifies the
/// hashes by their own.
pub fn small_pool() -> Result<ArgonPool, Error> {
    ArgonPool::start(ArgonPoolConfig { threads: NonZeroUsize::MIN, ..ArgonPoolConfig::default() })
        .map_err(Error::internal)
}
