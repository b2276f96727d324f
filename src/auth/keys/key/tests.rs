//! What the format accepts, refuses and shows.

use proptest::{prelude::*, sample::select};
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;

fn generated(kind: ApiKeyKind, seed: u64) -> PlainKey {
    PlainKey::generate(kind, &mut StdRng::seed_from_u64(seed)).unwrap()
}

fn any_kind() -> impl Strategy<Value = ApiKeyKind> {
    select(&ApiKeyKind::ALL)
}

#[test]
fn the_secret_has_160_bits_and_27_characters_are_the_fewest() {
    let bits = |characters: usize| 62_f64.log2() * f64::from(u32::try_from(characters).unwrap());
    assert!(bits(SECRET_CHARS) >= 160.0);
    assert!(bits(SECRET_CHARS - 1) < 160.0);
}

#[test]
fn the_longest_key_fits_one_blake3_block() {
    let longest = ApiKeyKind::ALL.map(|kind| generated(kind, 1).parsed().expose().len()).into_iter().max();
    assert_eq!(longest, Some(MAX_KEY_BYTES));
    const { assert!(MAX_KEY_BYTES <= 64) };
}

#[test]
fn two_keys_share_nothing() {
    let mut rng = StdRng::seed_from_u64(3);
    let one = PlainKey::generate(ApiKeyKind::SecretLive, &mut rng).unwrap();
    let other = PlainKey::generate(ApiKeyKind::SecretLive, &mut rng).unwrap();
    assert_ne!(one.parsed().lookup(), other.parsed().lookup());
    assert_ne!(one.parsed().expose()[24..], other.parsed().expose()[24..]);
}

#[test]
fn a_rotated_key_keeps_its_lookup_id_and_nothing_of_its_secret() {
    let mut rng = StdRng::seed_from_u64(4);
    let old = PlainKey::generate(ApiKeyKind::Service, &mut rng).unwrap();
    let lookup = old.parsed().lookup();
    let new = PlainKey::with_lookup(ApiKeyKind::Service, lookup, &mut rng).unwrap();
    assert_eq!(new.parsed().lookup(), lookup);
    assert_ne!(new.parsed().expose(), old.parsed().expose());
}

#[test]
fn the_buffer_of_a_generated_key_never_grew() {
    assert_eq!(generated(ApiKeyKind::PublishableWidget, 5).text.capacity(), MAX_KEY_BYTES);
}

#[test]
fn what_is_wrong_is_told() {
    let key = generated(ApiKeyKind::SecretLive, 6);
    let text = key.parsed().expose();
    let refusal = |text: &str| ParsedKey::parse(text).unwrap_err();
    assert_eq!(refusal(""), MalformedKey::Prefix);
    assert_eq!(refusal("rk_live_"), MalformedKey::Prefix);
    assert_eq!(refusal(&text.replace("sk_", "SK_")), MalformedKey::Prefix);
    assert_eq!(refusal(&text[..text.len() - 1]), MalformedKey::Length);
    assert_eq!(refusal(&format!("{text}0")), MalformedKey::Length);
    assert_eq!(refusal(&format!(" {text}")), MalformedKey::Prefix);
    assert_eq!(refusal(&"sk_live_".repeat(1 << 20)), MalformedKey::Length);
    assert_eq!(refusal(&format!("sk_live_{}", "-".repeat(BODY_CHARS))), MalformedKey::Alphabet);
    // As many bytes as a key has, but not as many characters.
    assert_eq!(refusal(&format!("sk_live_{}a", "é".repeat(24))), MalformedKey::Alphabet);
    assert_eq!(refusal(&text.replace("sk_live_", "sk_test_")), MalformedKey::Checksum);
}

#[test]
fn lookup_ids_are_validated() {
    assert_eq!("0123456789abcdeF".parse::<LookupId>().unwrap().as_str(), "0123456789abcdeF");
    assert_eq!("0123456789abcde".parse::<LookupId>(), Err(MalformedKey::Length));
    assert_eq!("0123456789abcde_".parse::<LookupId>(), Err(MalformedKey::Alphabet));
    assert_eq!("0123456789abcdé".parse::<LookupId>(), Err(MalformedKey::Alphabet));
}

proptest! {
    #[test]
    fn a_generated_key_is_read_back(kind in any_kind(), seed: u64) {
        let key = generated(kind, seed);
        let parsed = ParsedKey::parse(key.parsed().expose()).unwrap();
        prop_assert_eq!(parsed.kind(), kind);
        prop_assert_eq!(parsed.lookup(), key.parsed().lookup());
        let copy = parsed.to_plain();
        prop_assert_eq!(copy.parsed().expose(), key.parsed().expose());
    }

    #[test]
    fn any_text_is_read_or_refused_without_panic(text in any::<String>()) {
        let _ = ParsedKey::parse(&text);
        let _ = text.parse::<LookupId>();
    }

    #[test]
    fn text_behind_a_prefix_is_read_or_refused_without_panic(
        kind in any_kind(),
        rest in "\\PC{40,52}",
    ) {
        let _ = ParsedKey::parse(&format!("{}{rest}", kind.prefix()));
    }

    #[test]
    fn one_wrong_character_is_noticed(
        kind in any_kind(),
        seed: u64,
        at: prop::sample::Index,
        other in "[0-9A-Za-z]",
    ) {
        let key = generated(kind, seed);
        let text = key.parsed().expose();
        let at = at.index(text.len());
        let mut wrong = text.to_owned();
        wrong.replace_range(at..=at, &other);
        prop_assert_eq!(ParsedKey::parse(&wrong).is_ok(), wrong == text);
    }

    #[test]
    fn nothing_shows_more_than_four_characters_of_the_lookup_id(kind in any_kind(), seed: u64) {
        let key = generated(kind, seed);
        let parsed = key.parsed();
        let head = &parsed.lookup().to_string()[..4];
        let expected = format!("{}{head}…", kind.prefix());
        for shown in [key.to_string(), parsed.to_string(), parsed.redacted().to_string()] {
            prop_assert_eq!(&shown, &expected);
        }
        prop_assert_eq!(format!("{key:?}"), format!("PlainKey({expected})"));
        prop_assert_eq!(format!("{parsed:#?}"), format!("ParsedKey({expected})"));
    }
}
