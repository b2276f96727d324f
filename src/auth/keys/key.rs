//! The format of API keys: prefix, lookup id, secret, checksum.
//!
//! ```text
//! sk_live_ 4fT0xKq81LmZsV2c 9bYwQ…27 characters 0aZ3kP
//! prefix   lookup id: 16    secret: 27          CRC32 of all before it: 6
//! ```
//!
//! All parts behind the prefix are base62 of fixed length, so they need no separators and a text
//! has one reading. The lookup id (95 bits, random) names the row and is no secret; the secret has
//! 160.8 bits. The checksum refuses garbage without I/O and lets scanners recognise a leak; it
//! proves nothing, since anyone can compute it.
//!
//! No key is longer than 59 bytes, which keeps its digest in the cache at one BLAKE3 block of 64.

use std::{fmt, str::FromStr};

use rand::TryCryptoRng;
use zeroize::Zeroizing;

use super::{
    base62::{self, CHECKSUM_CHARS, RandomError},
    kind::ApiKeyKind,
};

/// Characters of a lookup id.
pub const LOOKUP_ID_CHARS: usize = 16;
/// Characters of a secret: the fewest that carry 160 bits in base62.
pub const SECRET_CHARS: usize = 27;
/// Characters behind the prefix.
const BODY_CHARS: usize = LOOKUP_ID_CHARS + SECRET_CHARS + CHECKSUM_CHARS;
/// Bytes of the longest key: one with the prefix `pk_widget_`.
pub const MAX_KEY_BYTES: usize = 10 + BODY_CHARS;
/// Characters of the lookup id that are shown to people.
const SHOWN_CHARS: usize = 4;

/// Why a text is no API key. Says nothing about its content, so it is safe to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// It begins with none of the known prefixes.
    #[error("the API key has no known prefix")]
    Prefix,
    /// It is too long or too short for its prefix.
    #[error("the API key has the wrong length")]
    Length,
    /// It holds a character that is not base62 behind the prefix.
    #[error("the API key contains a character that keys do not have")]
    Alphabet,
    /// Its last six characters do not match the others: mistyped, cut or made up.
    #[error("the API key is mistyped: its checksum does not match")]
    Checksum,
}

/// The part of a key that finds its row. No secret: it may be logged and stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupId([u8; LOOKUP_ID_CHARS]);

impl LookupId {
    /// The id as text: 16 base62 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Base62 is ASCII, so the default is never taken.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for LookupId {
    type Err = MalformedKey;

    /// # Errors
    /// [`MalformedKey::Length`] or [`MalformedKey::Alphabet`].
    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let id = text.as_bytes().try_into().map_err(|_| MalformedKey::Length)?;
        if base62::is_base62(text.as_bytes()) { Ok(Self(id)) } else { Err(MalformedKey::Alphabet) }
    }
}

impl fmt::Display for LookupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LookupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupId({self})")
    }
}

/// A well-formed key in someone else's buffer, such as a request's header. It is a claim: whether
/// the secret is right is for the cache to say.
///
/// Debug and Display show the redacted form. There is no equality: comparing secrets byte by byte
/// would tell by its duration how much of them was right.
#[derive(Clone, Copy)]
pub struct ParsedKey<'a> {
    kind: ApiKeyKind,
    lookup: LookupId,
    text: &'a str,
}

impl<'a> ParsedKey<'a> {
    /// Reads a key. Does no I/O, allocates nothing, and accepts exactly what [`PlainKey::generate`]
    /// makes.
    ///
    /// # Errors
    /// [`MalformedKey`] says what is wrong, for any input.
    pub fn parse(text: &'a str) -> Result<Self, MalformedKey> {
        if text.len() > MAX_KEY_BYTES {
            return Err(MalformedKey::Length);
        }
        let (kind, body) = ApiKeyKind::strip(text).ok_or(MalformedKey::Prefix)?;
        if body.len() != BODY_CHARS {
            return Err(MalformedKey::Length);
        }
        if !base62::is_base62(body.as_bytes()) {
            return Err(MalformedKey::Alphabet);
        }
        let lookup = body.as_bytes().first_chunk().ok_or(MalformedKey::Length)?;
        let (covered, checksum) = text.as_bytes().split_last_chunk().ok_or(MalformedKey::Length)?;
        if base62::checksum(covered) != *checksum {
            return Err(MalformedKey::Checksum);
        }
        Ok(Self { kind, lookup: LookupId(*lookup), text })
    }

    /// The kind that the prefix names.
    #[must_use]
    pub const fn kind(&self) -> ApiKeyKind {
        self.kind
    }

    /// Which row the key claims to be of.
    #[must_use]
    pub const fn lookup(&self) -> LookupId {
        self.lookup
    }

    /// The whole key in clear. Never log, store or return it.
    #[must_use]
    pub const fn expose(&self) -> &'a str {
        self.text
    }

    /// The key as people may see it: prefix and the first four characters of the lookup id.
    #[must_use]
    pub const fn redacted(&self) -> Redacted {
        Redacted { kind: self.kind, lookup: self.lookup }
    }

    /// A copy that outlives the buffer and is wiped when dropped.
    #[must_use]
    pub fn to_plain(&self) -> PlainKey {
        PlainKey { kind: self.kind, lookup: self.lookup, text: Zeroizing::new(self.text.to_owned()) }
    }
}

impl fmt::Debug for ParsedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParsedKey({})", self.redacted())
    }
}

impl fmt::Display for ParsedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redacted().fmt(f)
    }
}

/// A well-formed key of our own: just generated, or waiting for argon2. Wiped when dropped.
pub struct PlainKey {
    kind: ApiKeyKind,
    lookup: LookupId,
    text: Zeroizing<String>,
}

impl PlainKey {
    /// A new key with a random lookup id and a random secret. For anything but tests `rng` is
    /// `rand::rngs::SysRng`, the OS's generator.
    ///
    /// # Errors
    /// [`RandomError`] when the generator fails.
    pub fn generate<R: TryCryptoRng + ?Sized>(kind: ApiKeyKind, rng: &mut R) -> Result<Self, RandomError<R::Error>> {
        let mut lookup = [0; LOOKUP_ID_CHARS];
        base62::fill_random(rng, &mut lookup)?;
        Self::with_lookup(kind, LookupId(lookup), rng)
    }

    /// A key with a new secret for an existing lookup id, as a rotation makes it: both the old and
    /// the new secret then find the same row.
    ///
    /// # Errors
    /// [`RandomError`] when the generator fails.
    pub fn with_lookup<R: TryCryptoRng + ?Sized>(
        kind: ApiKeyKind,
        lookup: LookupId,
        rng: &mut R,
    ) -> Result<Self, RandomError<R::Error>> {
        let mut secret = Zeroizing::new([0; SECRET_CHARS]);
        base62::fill_random(rng, secret.as_mut_slice())?;
        // The capacity is final: growing would leave a copy behind that nobody wipes.
        let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_BYTES));
        text.push_str(kind.prefix());
        text.push_str(lookup.as_str());
        text.extend(secret.iter().map(|byte| char::from(*byte)));
        let checksum = base62::checksum(text.as_bytes());
        text.extend(checksum.map(char::from));
        Ok(Self { kind, lookup, text })
    }

    /// The key as the functions of this module take it.
    #[must_use]
    pub fn parsed(&self) -> ParsedKey<'_> {
        ParsedKey { kind: self.kind, lookup: self.lookup, text: &self.text }
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainKey({})", self.parsed().redacted())
    }
}

impl fmt::Display for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parsed().redacted().fmt(f)
    }
}

/// A key as people may see it, `sk_live_AbCd…`. Can also be had for a row, which has no secret.
#[derive(Clone, Copy)]
pub struct Redacted {
    kind: ApiKeyKind,
    lookup: LookupId,
}

impl Redacted {
    /// The redacted form of a stored key.
    #[must_use]
    pub const fn new(kind: ApiKeyKind, lookup: LookupId) -> Self {
        Self { kind, lookup }
    }
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.lookup.as_str().get(..SHOWN_CHARS).unwrap_or_default();
        write!(f, "{}{shown}…", self.kind.prefix())
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
