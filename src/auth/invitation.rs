//! The tokens of invitations: what whoever was invited presents.
//!
//! ```text
//! inv_ 0Fq…22 characters 0Fr…22 characters 9bYwQ…27 characters 0aZ3kP
//!      organization      invitation        secret              CRC32 of all before it: 6
//! ```
//!
//! All parts are base62 of fixed length, as those of keys. The token names its organization and its row, so that it is found
//! inside a tenant's scope and nothing is looked up across tenants; garbage is refused without I/O. The secret has 160.8
//! random bits, so a fast hash of the whole token is enough to keep.

use std::fmt;
use std::str::FromStr;

use rand::rngs::SysRng;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::auth::keys::base62::{self, CHECKSUM_CHARS, NUMBER_CHARS};
use crate::error::Error;
use crate::ids::{InvitationId, OrganizationId};

/// What every token begins with.
const PREFIX: &str = "inv_";

/// Characters of a secret, as of a key's.
const SECRET_CHARS: usize = 27;

/// Bytes of a token.
const LENGTH: usize = PREFIX.len() + 2 * NUMBER_CHARS + SECRET_CHARS + CHECKSUM_CHARS;

/// A token in clear. Wiped when dropped; nothing shows it but [`Token::expose`].
pub struct Token {
    organization_id: OrganizationId,
    invitation_id: InvitationId,
    text: Zeroizing<String>,
}

impl Token {
    /// A token with a new secret.
    pub fn generate(organization_id: OrganizationId, invitation_id: InvitationId) -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0; SECRET_CHARS]);
        base62::fill_random(&mut SysRng, secret.as_mut_slice()).map_err(Error::internal)?;
        // The capacity is final: growing would leave a copy behind that nobody wipes.
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(PREFIX);
        for id in [organization_id.uuid(), invitation_id.uuid()] {
            text.extend(base62::number(id.as_u128()).map(char::from));
        }
        text.extend(secret.iter().map(|byte| char::from(*byte)));
        let checksum = base62::checksum(text.as_bytes());
        text.extend(checksum.map(char::from));
        Ok(Self { organization_id, invitation_id, text })
    }

    /// The organization that it claims to be of.
    #[must_use]
    pub const fn organization_id(&self) -> OrganizationId {
        self.organization_id
    }

    /// The invitation that it claims to be of.
    #[must_use]
    pub const fn invitation_id(&self) -> InvitationId {
        self.invitation_id
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(blake3::hash(self.text.as_bytes()))
    }

    /// The whole token in clear. Never log or store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

/// Reads exactly what [`Token::generate`] makes. Error: `INVITATION_TOKEN_MALFORMED`, which says nothing of the text.
impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        read(text).ok_or_else(|| Error::InvalidRequest {
            reason: "INVITATION_TOKEN_MALFORMED",
            message: "the text is no token of an invitation: it is mistyped or cut".into(),
        })
    }
}

fn read(text: &str) -> Option<Token> {
    if text.len() != LENGTH {
        return None;
    }
    let body = text.strip_prefix(PREFIX)?.as_bytes();
    let (organization, rest) = body.split_first_chunk::<NUMBER_CHARS>()?;
    let (invitation, _) = rest.split_first_chunk::<NUMBER_CHARS>()?;
    let (covered, checksum) = text.as_bytes().split_last_chunk::<CHECKSUM_CHARS>()?;
    if !base62::is_base62(body) || base62::checksum(covered) != *checksum {
        return None;
    }
    let id = |number| base62::read_number(number).map(Uuid::from_u128);
    Some(Token {
        organization_id: id(organization)?.into(),
        invitation_id: id(invitation)?.into(),
        text: Zeroizing::new(text.to_owned()),
    })
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.invitation_id)
    }
}

/// BLAKE3 of a token: what is stored. Compared in constant time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    /// A stored hash; `None` for what has another length.
    #[must_use]
    pub fn stored(bytes: &[u8]) -> Option<Self> {
        blake3::Hash::from_slice(bytes).ok().map(Self)
    }

    /// For storing.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let (organization, invitation) = (Uuid::from_u128(u128::MAX), Uuid::from_u128(7));
        Token::generate(organization.into(), invitation.into()).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_was_made() {
        let made = token();
        let read: Token = made.expose().parse().unwrap();
        assert_eq!(made.expose().len(), LENGTH);
        assert_eq!((read.organization_id(), read.invitation_id()), (made.organization_id, made.invitation_id));
        assert_eq!(read.hash(), made.hash());
        assert_ne!(made.hash(), token().hash(), "another secret");
        assert_eq!(TokenHash::stored(made.hash().as_bytes()), Some(made.hash()));
        assert_eq!(TokenHash::stored(b"short"), None);
        assert!(!format!("{made:?}").contains(&made.expose()[48..]), "nothing shows it");
    }

    #[test]
    fn garbage_is_refused() {
        let good = token().expose().to_owned();
        for position in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[position] = if bad[position] == b'x' { b'y' } else { b'x' };
            let error = String::from_utf8(bad).unwrap().parse::<Token>().unwrap_err();
            assert_eq!(error.reason(), "INVITATION_TOKEN_MALFORMED", "{position}");
        }
        // A good checksum over an id of more than 128 bits.
        let mut huge = format!("inv_{}{}", "z".repeat(NUMBER_CHARS), &good[4 + NUMBER_CHARS..LENGTH - CHECKSUM_CHARS]);
        let checksum = base62::checksum(huge.as_bytes());
        huge.extend(checksum.map(char::from));
        assert_eq!(huge.len(), LENGTH);
        for bad in ["", "inv_", &good[1..], &format!("{good}0"), &good.replace("inv_", "sk_l"), &huge] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
        let twisted = format!("{}é{}", &good[..40], &good[42..]);
        assert!(twisted.len() == LENGTH && twisted.parse::<Token>().is_err());
    }
}
