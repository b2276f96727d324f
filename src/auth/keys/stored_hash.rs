//! Stored hashes of keys: their parameters, and the PHC string they are read from and written as.

use std::{fmt, str::FromStr, time::Duration};

use argon2::{
    ARGON2ID_IDENT, Params, Version,
    password_hash::phc::{self, Output, ParamsString, PasswordHash, Salt},
};

/// Bytes of a salt, as RFC 9106 recommends.
pub(super) const SALT_BYTES: usize = 16;
/// Bytes of argon2's output.
pub(super) const OUTPUT_BYTES: usize = 32;
/// Longest PHC string looked at; ours have 96 characters.
const MAX_PHC_BYTES: usize = 256;

/// The three parameters of argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// The parameters are outside what argon2 allows or this service is willing to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "argon2 parameters must be within: memory 8 KiB a lane to {} KiB, passes 1 to {}, lanes 1 to {}",
    HashCost::MAX_MEMORY_KIB,
    HashCost::MAX_PASSES,
    HashCost::MAX_LANES
)]
pub struct CostOutOfRange;

impl HashCost {
    /// The most memory of one hash. Bounds what a row with a broken hash can make a thread allocate.
    pub const MAX_MEMORY_KIB: u32 = 256 * 1024;
    /// The most passes over the memory.
    pub const MAX_PASSES: u32 = 16;
    /// The most lanes. They are computed one after the other, so more of them gain nothing here.
    pub const MAX_LANES: u32 = 8;
    /// 1 MiB, one pass, one lane: 0.6 ms; the module's documentation says why that is enough.
    pub const DEFAULT: Self = Self { memory_kib: 1024, passes: 1, lanes: 1 };

    /// Checks and takes argon2's `m` (KiB), `t` and `p`.
    ///
    /// # Errors
    /// [`CostOutOfRange`].
    pub const fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CostOutOfRange> {
        let within = 1 <= lanes
            && lanes <= Self::MAX_LANES
            && 8 * lanes <= memory_kib
            && memory_kib <= Self::MAX_MEMORY_KIB
            && 1 <= passes
            && passes <= Self::MAX_PASSES;
        if within { Ok(Self { memory_kib, passes, lanes }) } else { Err(CostOutOfRange) }
    }

    /// What one hash takes, roughly: 0.6 µs for each KiB and pass (measured: m=1024,t=1 0.6 ms;
    /// m=4096,t=1 2.4 ms; m=19456,t=2 27 ms).
    #[must_use]
    pub fn nominal_duration(self) -> Duration {
        Duration::from_nanos(600) * self.memory_kib * self.passes
    }

    /// For argon2, which takes every cost that passed [`HashCost::new`].
    pub(super) fn params(self) -> Result<Params, argon2::Error> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(OUTPUT_BYTES))
    }
}

impl Default for HashCost {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A stored hash that cannot be used. A fault of the row, never of who presents a key: treat it as
/// an internal error, not as a bad key. Quotes nothing of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenHash {
    /// Not a PHC string.
    #[error("the stored hash is not a PHC string")]
    Syntax,
    /// Not argon2id of version 19 with m, t, p and nothing else.
    #[error("the stored hash is not argon2id version 19")]
    Algorithm,
    /// Parameters out of range.
    #[error("the stored hash has parameters out of range")]
    Cost(#[from] CostOutOfRange),
    /// No salt of 16 bytes, or no output of 32: less would weaken it, and we never write another.
    #[error("the stored hash has a salt or an output of the wrong length")]
    Shape,
}

/// A key's stored hash. 60 bytes instead of the PHC string's 96, since the cache holds many; its
/// Display is the PHC string, its Debug only the parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash {
    pub(super) cost: HashCost,
    pub(super) salt: [u8; SALT_BYTES],
    pub(super) output: [u8; OUTPUT_BYTES],
}

impl SecretHash {
    /// Whether the hash was made with other parameters than are wanted now. The one who finds out
    /// has the key in hand and may store a new hash.
    #[must_use]
    pub fn needs_rehash(&self, wanted: HashCost) -> bool {
        self.cost != wanted
    }

    /// All that the hash consists of, in 60 bytes, equal exactly for equal hashes.
    pub(super) fn canonical_bytes(&self) -> [u8; 12 + SALT_BYTES + OUTPUT_BYTES] {
        let mut bytes = [0; 12 + SALT_BYTES + OUTPUT_BYTES];
        let HashCost { memory_kib, passes, lanes } = self.cost;
        let costs = [memory_kib, passes, lanes].into_iter().flat_map(u32::to_le_bytes);
        for (slot, byte) in bytes.iter_mut().zip(costs.chain(self.salt).chain(self.output)) {
            *slot = byte;
        }
        bytes
    }
}

impl FromStr for SecretHash {
    type Err = BrokenHash;

    /// Reads a PHC string.
    ///
    /// # Errors
    /// [`BrokenHash`] for anything that [`Scratch::hash`](super::hashing::Scratch::hash) could not have made.
    fn from_str(text: &str) -> Result<Self, BrokenHash> {
        if text.len() > MAX_PHC_BYTES {
            return Err(BrokenHash::Syntax);
        }
        let phc = PasswordHash::new(text).map_err(|_| BrokenHash::Syntax)?;
        if phc.algorithm != ARGON2ID_IDENT || phc.version != Some(Version::V0x13.into()) {
            return Err(BrokenHash::Algorithm);
        }
        // One by one and exactly these: argon2's own conversion fills in defaults for a missing
        // parameter and accepts key ids and associated data.
        let mut values = [0; 3];
        if phc.params.iter().count() != values.len() {
            return Err(BrokenHash::Algorithm);
        }
        for (name, value) in ["m", "t", "p"].into_iter().zip(&mut values) {
            *value = phc.params.get_decimal(name).ok_or(BrokenHash::Algorithm)?;
        }
        let [memory_kib, passes, lanes] = values;
        let salt = phc.salt.as_deref().and_then(|salt| salt.try_into().ok());
        let output = phc.hash.as_ref().and_then(|output| output.as_bytes().try_into().ok());
        Ok(Self {
            cost: HashCost::new(memory_kib, passes, lanes)?,
            salt: salt.ok_or(BrokenHash::Shape)?,
            output: output.ok_or(BrokenHash::Shape)?,
        })
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // None of these can fail: the lengths are within PHC's bounds by their types.
        let phc = || -> Result<PasswordHash, phc::Error> {
            let mut params = ParamsString::new();
            params.add_decimal("m", self.cost.memory_kib)?;
            params.add_decimal("t", self.cost.passes)?;
            params.add_decimal("p", self.cost.lanes)?;
            Ok(PasswordHash {
                algorithm: ARGON2ID_IDENT,
                version: Some(Version::V0x13.into()),
                params,
                salt: Some(Salt::new(&self.salt)?),
                hash: Some(Output::new(&self.output)?),
            })
        };
        phc().map_err(|_| fmt::Error)?.fmt(f)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HashCost { memory_kib, passes, lanes } = self.cost;
        write!(f, "SecretHash(m={memory_kib},t={passes},p={lanes})")
    }
}

#[cfg(test)]
mod tests;
