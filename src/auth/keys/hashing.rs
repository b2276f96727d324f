//! argon2id of API keys, as PHC strings.
//!
//! **What is hashed** is the whole text of the key, not only its secret part: prefix and lookup id
//! are covered too. A publishable key that leaked can then not be presented with the prefix of a
//! secret one, and a hash copied into another row proves nothing there, whatever code around this
//! forgets to compare. The secret inside makes the text as hard to guess as the secret alone.
//!
//! **What it costs.** A secret of 160 random bits needs no stretching: even one nanosecond a guess
//! leaves 10^31 years. argon2 is here so that a stolen table helps nobody and the format is the
//! usual one; OWASP's parameters (27–34 ms) protect passwords, and would let a flood of bad keys
//! or a cold start with 100,000 keys occupy all cores. The default, 1 MiB and one pass, takes
//! 0.6 ms.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Version};
use rand::TryCryptoRng;

use super::{
    key::ParsedKey,
    stored_hash::{HashCost, OUTPUT_BYTES, SALT_BYTES, SecretHash},
};

/// A random salt. Made by the caller, so that the threads that hash need no generator.
#[derive(Clone, Copy, Debug)]
pub struct HashSalt([u8; SALT_BYTES]);

impl HashSalt {
    /// A new salt.
    ///
    /// # Errors
    /// The generator's.
    pub fn generate<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, R::Error> {
        let mut salt = [0; SALT_BYTES];
        rng.try_fill_bytes(&mut salt)?;
        Ok(Self(salt))
    }
}

/// argon2 refused valid parameters, which means a fault in this module or out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("argon2 failed: {0}")]
pub struct HashingError(#[from] argon2::Error);

/// The memory that argon2 fills, kept by a thread between two hashes: fresh memory would be mapped
/// and zeroed page by page each time.
///
/// Not wiped between hashes. argon2 overwrites every block it reads, and what stays behind is
/// BLAKE2 of BLAKE2 of 160 random bits, from which nobody gets back to a key; wiping would cost a
/// tenth of the hash.
pub struct Scratch {
    blocks: Vec<Block>,
    kept: usize,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Scratch {
    /// Memory for hashes of `cost`. A dearer one makes it grow, and gives the excess back.
    ///
    /// # Errors
    /// [`HashingError`] if argon2 does not take the parameters.
    pub fn new(cost: HashCost) -> Result<Self, HashingError> {
        let kept = cost.params()?.block_count();
        Ok(Self { blocks: vec![Block::new(); kept], kept })
    }

    /// Hashes a key for storage.
    ///
    /// # Errors
    /// [`HashingError`].
    pub fn hash(&mut self, key: &ParsedKey<'_>, salt: HashSalt, cost: HashCost) -> Result<SecretHash, HashingError> {
        let output = self.derive(key, &salt.0, cost)?;
        Ok(SecretHash { cost, salt: salt.0, output })
    }

    /// Whether `hash` was made of `key`.
    ///
    /// # Errors
    /// [`HashingError`].
    pub fn verify(&mut self, key: &ParsedKey<'_>, hash: &SecretHash) -> Result<bool, HashingError> {
        let output = self.derive(key, &hash.salt, hash.cost)?;
        // `blake3::Hash` compares in constant time. Nobody steers argon2's output to profit from
        // anything else, but nothing is to rest on that.
        Ok(blake3::Hash::from_bytes(output) == blake3::Hash::from_bytes(hash.output))
    }

    fn derive(
        &mut self,
        key: &ParsedKey<'_>,
        salt: &[u8; SALT_BYTES],
        cost: HashCost,
    ) -> Result<[u8; OUTPUT_BYTES], HashingError> {
        let params = cost.params()?;
        if self.blocks.len() < params.block_count() {
            self.blocks.resize(params.block_count(), Block::new());
        }
        let mut output = [0; OUTPUT_BYTES];
        let derived = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
            key.expose().as_bytes(),
            salt,
            &mut output,
            &mut self.blocks,
        );
        if self.blocks.len() > self.kept {
            self.blocks.truncate(self.kept);
            self.blocks.shrink_to_fit();
        }
        derived?;
        Ok(output)
    }
}

#[cfg(test)]
mod tests;
