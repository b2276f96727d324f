//! What argon2 answers, and that it is the standard's.

use argon2::{Params, PasswordHasher as _, PasswordVerifier as _};
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::auth::keys::{
    key::PlainKey,
    kind::ApiKeyKind,
    testing::{cheap, hashed, key},
};

#[test]
fn a_key_is_proven_by_its_own_hash_only() {
    let mut scratch = Scratch::new(cheap()).unwrap();
    let hash = hashed(&key(1), cheap());
    assert_eq!(scratch.verify(&key(1).parsed(), &hash), Ok(true));
    assert_eq!(scratch.verify(&key(2).parsed(), &hash), Ok(false));
}

#[test]
fn memory_used_before_changes_nothing() {
    let mut scratch = Scratch::new(cheap()).unwrap();
    let dear = HashCost::new(64, 2, 2).unwrap();
    let (small, large) = (hashed(&key(1), cheap()), hashed(&key(1), dear));
    for _ in 0..3 {
        assert_eq!(scratch.verify(&key(1).parsed(), &large), Ok(true));
        assert_eq!(scratch.verify(&key(1).parsed(), &small), Ok(true));
        assert_eq!(scratch.verify(&key(2).parsed(), &large), Ok(false));
        assert_eq!(scratch.blocks.len(), 8, "the memory of the dear hash was given back");
    }
}

#[test]
fn the_same_secret_under_another_prefix_is_another_key() {
    let publishable = PlainKey::generate(ApiKeyKind::PublishableLive, &mut StdRng::seed_from_u64(1)).unwrap();
    let secret = key(1);
    // Same generator, same lookup id, same secret: only the prefix differs.
    assert_eq!(publishable.parsed().lookup(), secret.parsed().lookup());
    let hash = hashed(&publishable, cheap());
    assert_eq!(Scratch::new(cheap()).unwrap().verify(&secret.parsed(), &hash), Ok(false));
}

#[test]
fn the_text_is_standard_argon2id() {
    let hash = hashed(&key(1), HashCost::DEFAULT).to_string();
    assert!(hash.starts_with("$argon2id$v=19$m=1024,t=1,p=1$"), "{hash}");
    assert_eq!(hash.len(), 96);
    let text = key(1).parsed().expose().to_owned();
    assert_eq!(Argon2::default().verify_password(text.as_bytes(), hash.as_str()), Ok(()));
}

#[test]
fn another_implementations_hash_is_read() {
    let params = Params::new(8, 1, 1, None).unwrap();
    let made = Argon2::from(params)
        .hash_password_with_salt(key(1).parsed().expose().as_bytes(), &[7; 16])
        .unwrap()
        .to_string();
    let hash: SecretHash = made.parse().unwrap();
    assert_eq!(Scratch::new(cheap()).unwrap().verify(&key(1).parsed(), &hash), Ok(true));
}
