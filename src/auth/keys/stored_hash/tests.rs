//! Which stored hashes are read, and which refused.

use super::*;
use crate::auth::keys::testing::{cheap, hash_of, hashed, key};
use proptest::prelude::*;

#[test]
fn a_hash_is_read_back() {
    let hash = hash_of(&key(1));
    assert_eq!(hash.to_string().parse(), Ok(hash));
    assert_eq!(format!("{hash:?}"), "SecretHash(m=8,t=1,p=1)");
}

#[test]
fn other_parameters_ask_for_a_rehash() {
    let hash = hash_of(&key(1));
    assert!(!hash.needs_rehash(cheap()));
    assert!(hash.needs_rehash(HashCost::DEFAULT));
    assert!(hash.needs_rehash(HashCost { passes: 2, ..cheap() }));
    assert_ne!(hash.canonical_bytes(), hash_of(&key(2)).canonical_bytes());
}

#[test]
fn broken_hashes_are_told_apart_from_mismatches() {
    let good = hash_of(&key(1)).to_string();
    let refusal = |from: &str, to: &str| good.replace(from, to).parse::<SecretHash>().unwrap_err();
    assert_eq!("".parse::<SecretHash>(), Err(BrokenHash::Syntax));
    assert_eq!("$".parse::<SecretHash>(), Err(BrokenHash::Syntax));
    assert_eq!("$".repeat(1000).parse::<SecretHash>(), Err(BrokenHash::Syntax));
    assert_eq!(refusal("argon2id", "argon2i"), BrokenHash::Algorithm);
    assert_eq!(refusal("argon2id", "scrypt"), BrokenHash::Algorithm);
    assert_eq!(refusal("v=19", "v=16"), BrokenHash::Algorithm);
    assert_eq!(refusal("$v=19", ""), BrokenHash::Algorithm);
    assert_eq!(refusal("m=8,t=1,p=1", "m=8,t=1"), BrokenHash::Algorithm);
    assert_eq!(refusal("p=1", "p=1,data=AAAA"), BrokenHash::Algorithm);
    assert_eq!(refusal("m=8", "m=4294967295"), BrokenHash::Cost(CostOutOfRange));
    assert_eq!(refusal("t=1", "t=4294967295"), BrokenHash::Cost(CostOutOfRange));
    assert_eq!(refusal("p=1", "p=0"), BrokenHash::Cost(CostOutOfRange));
    let fields: Vec<&str> = good.split('$').collect();
    assert_eq!(fields[..5].join("$").parse::<SecretHash>(), Err(BrokenHash::Shape));
    assert_eq!(refusal(fields[5], "AAAAAAAAAAAAAAAAAAAAAA"), BrokenHash::Shape);
    assert_eq!(refusal(fields[4], "AAAAAAAAAAAAAAAA"), BrokenHash::Shape);
}

#[test]
fn argon2_takes_every_cost_that_we_take() {
    for (memory_kib, passes, lanes) in [(8, 1, 1), (64, 16, 8), (HashCost::MAX_MEMORY_KIB, 1, 1)] {
        assert!(HashCost::new(memory_kib, passes, lanes).unwrap().params().is_ok());
    }
    for (memory_kib, passes, lanes) in [(7, 1, 1), (8, 0, 1), (8, 1, 0), (15, 1, 2), (8, 17, 1)] {
        assert_eq!(HashCost::new(memory_kib, passes, lanes), Err(CostOutOfRange));
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_panic(text in any::<String>()) {
        let _ = text.parse::<SecretHash>();
    }

    #[test]
    fn damaged_hashes_are_read_or_refused_without_panic(
        at in 0_usize..96,
        len in 0_usize..20,
        junk in "[$=,a-z0-9é]{0,20}",
    ) {
        let mut text = hashed(&key(1), HashCost::DEFAULT).to_string();
        text.replace_range(at..(at + len).min(text.len()), &junk);
        let _ = text.parse::<SecretHash>();
    }
}
