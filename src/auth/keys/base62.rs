//! Base62: random characters without bias, numbers of a fixed length, and the checksum at the end of a key.
//!
//! A checksum is compared in its encoded form, so no spelling but the canonical one is accepted.

use rand::TryCryptoRng;
use zeroize::Zeroizing;

/// Digits, then capitals, then small letters; as GitHub's tokens, so that known scanners' patterns carry over.
const ALPHABET: [u8; 62] = *b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of a checksum: 62^6 > 2^32, and five would not do.
pub const CHECKSUM_CHARS: usize = 6;

/// The largest multiple of 62 that a byte can hold. Bytes from here on are thrown away: taking them modulo 62 would
/// make the first eight characters likelier than the others.
const ACCEPTED_BELOW: u8 = 62 * 4;

/// Bytes drawn at a time: enough for a lookup id or a secret in almost every case.
const DRAW: usize = 64;

/// Draws until a generator is declared broken. One draw in a sound generator yields 62 characters on average; a stuck one
/// (all 0xFF) would keep us here for ever.
const MAX_DRAWS: usize = 64;

/// Why no random characters could be had.
#[derive(Debug, thiserror::Error)]
pub enum RandomError<E> {
    /// The generator failed, as the OS's may.
    #[error("the random number generator failed")]
    Generator(#[from] E),
    /// The generator keeps giving bytes that cannot be used, which no sound one does.
    #[error("the random number generator is stuck")]
    Stuck,
}

/// Fills `out` with uniformly distributed base62 characters: log2(62) ≈ 5.954 bits each.
///
/// # Errors
/// [`RandomError`] when the generator fails or is stuck; `out` is then partly filled and must not be used.
pub fn fill_random<R: TryCryptoRng + ?Sized>(rng: &mut R, out: &mut [u8]) -> Result<(), RandomError<R::Error>> {
    let mut drawn = Zeroizing::new([0; DRAW]);
    let mut slots = out.iter_mut();
    for _ in 0..MAX_DRAWS {
        if slots.as_slice().is_empty() {
            return Ok(());
        }
        rng.try_fill_bytes(drawn.as_mut_slice())?;
        let accepted = drawn.iter().filter(|byte| **byte < ACCEPTED_BELOW);
        for (byte, slot) in accepted.zip(slots.by_ref()) {
            *slot = digit(u32::from(*byte));
        }
    }
    if slots.as_slice().is_empty() { Ok(()) } else { Err(RandomError::Stuck) }
}

/// CRC32 (IEEE) of `text` in base62, padded with zeros on the left.
#[must_use]
pub fn checksum(text: &[u8]) -> [u8; CHECKSUM_CHARS] {
    let mut rest = crc32fast::hash(text);
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for slot in digits.iter_mut().rev() {
        *slot = digit(rest);
        rest /= 62;
    }
    digits
}

/// Characters of a 128-bit number: 62^22 > 2^128, and 21 would not do.
pub const NUMBER_CHARS: usize = 22;

/// The number in base62, padded with zeros on the left.
#[must_use]
pub fn number(number: u128) -> [u8; NUMBER_CHARS] {
    let mut rest = number;
    let mut digits = [b'0'; NUMBER_CHARS];
    for slot in digits.iter_mut().rev() {
        *slot = digit(u32::try_from(rest % 62).unwrap_or_default());
        rest /= 62;
    }
    digits
}

/// The number that was written so; `None` for what [`number`] does not write.
#[must_use]
pub fn read_number(text: &[u8; NUMBER_CHARS]) -> Option<u128> {
    text.iter().try_fold(0_u128, |number, character| {
        let value = ALPHABET.iter().position(|known| known == character)?;
        number.checked_mul(62)?.checked_add(u128::try_from(value).ok()?)
    })
}

/// Whether all of `text` is base62.
#[must_use]
pub fn is_base62(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_alphanumeric)
}

/// The character of `value` modulo 62.
#[expect(clippy::indexing_slicing, reason = "a value modulo 62 is within an array of 62")]
const fn digit(value: u32) -> u8 {
    ALPHABET[(value % 62) as usize]
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, TryRng, rngs::StdRng};

    use super::*;

    /// A generator that gives one byte for ever.
    struct Stuck(u8);

    impl TryRng for Stuck {
        type Error = std::io::Error;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(u32::from_ne_bytes([self.0; 4]))
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(u64::from_ne_bytes([self.0; 8]))
        }

        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
            out.fill(self.0);
            Ok(())
        }
    }

    impl TryCryptoRng for Stuck {}

    #[test]
    fn the_checksum_is_crc32_in_base62() {
        // 0xCBF43926 is the check value of CRC32 (IEEE) for this input.
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
        let value = checksum(b"123456789")
            .iter()
            .fold(0_u64, |value, digit| value * 62 + ALPHABET.iter().position(|known| known == digit).unwrap() as u64);
        assert_eq!(value, 0xCBF4_3926);
        assert_eq!(&checksum(b""), b"000000");
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for value in [0, 1, 61, 62, u128::MAX - 1, u128::MAX] {
            assert_eq!(read_number(&number(value)), Some(value));
        }
        assert_eq!(&number(62), b"0000000000000000000010");
        // More than 128 bits, and no base62.
        assert_eq!(read_number(b"zzzzzzzzzzzzzzzzzzzzzz"), None);
        assert_eq!(read_number(b"00000000000000000000-0"), None);
    }

    #[test]
    fn every_character_is_as_likely_as_any_other() {
        let mut counts = [0_i64; 62];
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..4000 {
            let mut text = [0; 62];
            fill_random(&mut rng, &mut text).unwrap();
            for byte in text {
                counts[ALPHABET.iter().position(|known| *known == byte).unwrap()] += 1;
            }
        }
        // 4,000 expected, standard deviation 63. Modulo bias would give the first eight 4,844.
        for count in counts {
            assert!((count - 4000).abs() < 350, "{counts:?}");
        }
    }

    #[test]
    fn a_stuck_generator_is_refused() {
        let refused = fill_random(&mut Stuck(0xFF), &mut [0; 16]);
        assert!(matches!(refused, Err(RandomError::Stuck)));
        fill_random(&mut Stuck(61), &mut [0; 16]).unwrap();
    }
}
