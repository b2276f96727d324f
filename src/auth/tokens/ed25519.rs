//! What `jsonwebtoken` signs and verifies with: Ed25519 of ring, and nothing else.
//!
//! Of its own back ends, one needs a C tool chain that nothing else here does, and the other has an RSA with a known
//! weakness. And what is not here cannot be talked into: there is no other algorithm that a header could name.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use signature::{Signer, Verifier};

use crate::error::Error;

/// Bytes of a private key, which is a seed, and of a public one.
pub const KEY_BYTES: usize = 32;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| signer(*algorithm, key),
    verifier_factory: |algorithm, key| verifier(*algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has the library use this. It keeps one for the whole process, which is always ours.
pub fn install() {
    let _ = PROVIDER.install_default();
}

/// The public half of a private key.
pub fn public_key(seed: &[u8; KEY_BYTES]) -> std::result::Result<[u8; KEY_BYTES], Error> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(Error::internal)?;
    pair.public_key().as_ref().try_into().map_err(Error::internal)
}

struct EdSigner(Ed25519KeyPair);

fn signer(algorithm: Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if algorithm != Algorithm::EdDSA || key.family() != Algorithm::EdDSA.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let pair = Ed25519KeyPair::from_seed_unchecked(key.as_bytes()).map_err(|_| ErrorKind::InvalidEddsaKey)?;
    Ok(Box::new(EdSigner(pair)))
}

impl Signer<Vec<u8>> for EdSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for EdSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct EdVerifier(UnparsedPublicKey<Vec<u8>>);

fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if algorithm != Algorithm::EdDSA || key.family() != Algorithm::EdDSA.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(EdVerifier(UnparsedPublicKey::new(&ED25519, key.try_get_as_bytes()?.to_vec()))))
}

impl Verifier<Vec<u8>> for EdVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        self.0.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for EdVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
