//! Sealing private keys: AES-256-GCM under a key of the configuration, which is never in the database. What was sealed for
//! one key opens for no other.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng as _;
use rand::rngs::SysRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::auth::tokens::ed25519::KEY_BYTES;
use crate::error::Error;
use crate::ids::TokenKeyId;

/// Bytes of a key that seals.
const SEALING_BYTES: usize = 32;

/// The keys of the configuration: the first one seals, all of them open.
#[derive(Clone)]
pub struct SealingKeys(Arc<[LessSafeKey]>);

/// The text is not 32 bytes in base64, or several of that. Says nothing of it, as it may be half right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not 32 bytes in base64, or several of that with commas between")]
pub struct MalformedSealingKey;

/// A private key in clear.
#[derive(Debug)]
pub struct Opened {
    /// The key.
    pub seed: Zeroizing<[u8; KEY_BYTES]>,
    /// Whether the first key of the configuration has sealed it.
    pub is_by_first: bool,
}

impl SealingKeys {
    /// Reads keys from the text of the configuration.
    pub fn parse(text: &str) -> Result<Self, MalformedSealingKey> {
        let keys = text.split(',').map(|key| {
            let bytes = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| MalformedSealingKey)?);
            UnboundKey::new(&AES_256_GCM, &bytes).map(LessSafeKey::new).map_err(|_| MalformedSealingKey)
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// A new key, as text for a configuration.
    pub fn generate() -> Result<Zeroizing<String>, Error> {
        let mut bytes = Zeroizing::new([0; SEALING_BYTES]);
        SysRng.try_fill_bytes(bytes.as_mut_slice()).map_err(Error::internal)?;
        Ok(Zeroizing::new(STANDARD.encode(bytes.as_slice())))
    }

    /// Seals a private key: a nonce, what was sealed, and its tag.
    pub fn seal(&self, id: TokenKeyId, seed: &[u8; KEY_BYTES]) -> Result<Vec<u8>, Error> {
        let key = self.0.first().ok_or_else(|| Error::internal("no key seals"))?;
        // Random: one key seals a handful of times in its life.
        let mut nonce = [0; NONCE_LEN];
        SysRng.try_fill_bytes(&mut nonce).map_err(Error::internal)?;
        let mut sealed = nonce.to_vec();
        let mut body = Zeroizing::new(seed.to_vec());
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(id.uuid().into_bytes()),
                &mut body,
            )
            .map_err(Error::internal)?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what was sealed; `None` when none of the keys has sealed it, or not for this id.
    #[must_use]
    pub fn open(&self, id: TokenKeyId, sealed: &[u8]) -> Option<Opened> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.0.iter().enumerate().find_map(|(position, key)| {
            let mut body = Zeroizing::new(sealed.to_vec());
            let aad = Aad::from(id.uuid().into_bytes());
            let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut body).ok()?;
            Some(Opened { seed: Zeroizing::new((&*opened).try_into().ok()?), is_by_first: position == 0 })
        })
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn what_is_sealed_opens_for_its_own_key_and_id_only() {
        let (one, two) = (SealingKeys::generate().unwrap(), SealingKeys::generate().unwrap());
        let [ours, theirs] = [&one, &two].map(|text| SealingKeys::parse(text).unwrap());
        let both = SealingKeys::parse(&format!("{}, {}", &*two, &*one)).unwrap();
        let [id, other] = [0, 1].map(|_| TokenKeyId::new(Clock::system().now()));
        let sealed = ours.seal(id, &[7; 32]).unwrap();
        assert_ne!(sealed, ours.seal(id, &[7; 32]).unwrap(), "a nonce of its own");
        assert!(!sealed.windows(8).any(|window| window == [7; 8]));
        let opened = ours.open(id, &sealed).unwrap();
        assert_eq!((*opened.seed, opened.is_by_first), ([7; 32], true));
        let opened = both.open(id, &sealed).unwrap();
        assert_eq!((*opened.seed, opened.is_by_first), ([7; 32], false));
        assert!(theirs.open(id, &sealed).is_none() && ours.open(other, &sealed).is_none());
        for at in 0..sealed.len() {
            let mut tampered = sealed.clone();
            tampered[at] ^= 1;
            assert!(ours.open(id, &tampered).is_none() && ours.open(id, &sealed[..at]).is_none());
        }
    }

    #[test]
    fn keys_of_a_configuration() {
        let good = SealingKeys::generate().unwrap();
        assert_eq!(format!("{:?}", SealingKeys::parse(&good).unwrap()), "SealingKeys(1)");
        let short = STANDARD.encode([0; 31]);
        for bad in ["", "x", ",", &short, &format!("{},", &*good), &format!("{},{short}", &*good)] {
            assert_eq!(SealingKeys::parse(bad).unwrap_err(), MalformedSealingKey, "{bad}");
        }
    }
}
