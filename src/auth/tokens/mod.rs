//! Tokens: JSON Web Tokens that are ours, issued and verified. Whether what they say is still true is for the
//! [`authenticator`](crate::auth::authenticator) to tell.
//!
//! What a token costs that somebody sends, and what bounds it:
//!
//! | token | costs |
//! |---|---|
//! | seen before | a hash of it and a look into memory |
//! | garbage, another algorithm, issuer or audience, or past its end | reading it; no signature is looked at |
//! | of a key that nobody knows | the same, and all of them together one look at the database a second |
//! | made up, with a key, an issuer and an end that are right | a signature, some 60 µs: a few times what any request costs |
//!
//! So a flood of tokens is like a flood of any requests, bounded by how many are in flight. It needs no pool of its own, as
//! argon2 does, a run of which costs fifty times as much.
//!
//! The parts: `claims` what a token says, `ed25519` the algorithm, `sealing` how private keys are stored, `key_ring` the keys.

mod claims;
mod ed25519;
mod key_ring;
pub mod sealing;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, Header, Validation, dangerous, decode, decode_header, encode};
use quick_cache::sync::Cache;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::auth::credential;
use crate::auth::tokens::claims::Claims;
use crate::auth::tokens::key_ring::{Key, KeyRing};
use crate::auth::tokens::sealing::SealingKeys;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::TokenKeyId;
use crate::model::token_key::{SKEW, TokenKey};
use crate::repository::changes::Change;
use crate::repository::database::Database;

pub use self::claims::{Grant, Subject, Token};
pub use self::ed25519::public_key;

/// The longest text that is looked at, in bytes. One with every permission there is has half of it.
const LONGEST: usize = 4096;

/// How many tokens are remembered that were found to be ours. Some 300 bytes each.
const PROVEN: usize = 50_000;

/// What tokens are like here.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// Who we are.
    pub issuer: String,
    /// How long a token counts.
    pub lifetime: TimeDelta,
    /// What private keys are sealed with; without it, tokens are verified and none are issued.
    pub sealing: Option<SealingKeys>,
}

/// Issues and verifies.
#[derive(Debug)]
pub struct Tokens {
    ring: KeyRing,
    clock: Clock,
    issuer: String,
    lifetime: TimeDelta,
    is_configured: bool,
    validation: Validation,
    /// Tokens that are ours, by a hash of their text that nobody outside can compute.
    proven: Cache<[u8; 32], Arc<Token>>,
    process_key: Zeroizing<[u8; 32]>,
}

/// A new token.
pub struct Issued {
    /// Its text.
    pub text: String,
    /// When it ends.
    pub expire_time: DateTime<Utc>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expire_time", &self.expire_time).finish_non_exhaustive()
    }
}

/// A public key, by the names of RFC 7517 and RFC 8037.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct PublicKey {
    /// The type of key.
    pub kty: &'static str,
    /// The curve.
    pub crv: &'static str,
    /// The key.
    pub x: String,
    /// Its id.
    pub kid: String,
    /// The algorithm.
    pub alg: &'static str,
    /// What it is for.
    #[serde(rename = "use")]
    pub purpose: &'static str,
}

impl From<&TokenKey> for PublicKey {
    fn from(key: &TokenKey) -> Self {
        Self {
            kty: "OKP",
            crv: "Ed25519",
            x: URL_SAFE_NO_PAD.encode(key.public_key),
            kid: key.token_key_id.to_string(),
            alg: "EdDSA",
            purpose: "sig",
        }
    }
}

impl Tokens {
    /// With nothing read yet. `cache_lifetime` bounds how long keys are believed while the change log cannot be read.
    pub fn new(
        options: TokenOptions,
        database: Database,
        clock: Clock,
        cache_lifetime: Duration,
    ) -> Result<Self, Error> {
        ed25519::install();
        let mut process_key = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(process_key.as_mut_slice()).map_err(Error::internal)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&options.issuer]);
        validation.set_audience(&[claims::AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud"]);
        // By our own clock.
        validation.validate_exp = false;
        Ok(Self {
            is_configured: options.sealing.is_some(),
            ring: KeyRing::new(database, clock.clone(), options.sealing, cache_lifetime),
            clock,
            issuer: options.issuer,
            lifetime: options.lifetime,
            validation,
            proven: Cache::new(PROVEN),
            process_key,
        })
    }

    /// Whether a credential is meant to be a token: a key never has a dot.
    #[must_use]
    pub fn is_meant(credential: &str) -> bool {
        credential.contains('.')
    }

    /// Issues a token, for as long as is configured, at the most for `lifetime`, and not past `end`.
    ///
    /// Error: `TOKENS_NOT_CONFIGURED`.
    pub async fn issue(
        &self,
        grant: &Grant<'_>,
        lifetime: Option<TimeDelta>,
        end: Option<DateTime<Utc>>,
    ) -> Result<Issued, Error> {
        let keys = self.ring.keys().await?;
        let now = self.clock.now();
        let Some((kid, signs)) = keys.signer(now) else { return Err(self.no_signer()) };
        let lifetime = lifetime.map_or(self.lifetime, |wanted| wanted.min(self.lifetime));
        let expire_time = end.map_or(now + lifetime, |end| end.min(now + lifetime));
        let expire_time = expire_time.duration_trunc(TimeDelta::seconds(1)).map_err(Error::internal)?;
        let header = Header { kid: Some(kid.to_string()), ..Header::new(Algorithm::EdDSA) };
        let claims = Claims::new(&self.issuer, grant, now, expire_time);
        Ok(Issued { text: encode(&header, &claims, signs).map_err(Error::internal)?, expire_time })
    }

    fn no_signer(&self) -> Error {
        if self.is_configured {
            return Error::Unavailable {
                reason: "TOKEN_KEY_UNAVAILABLE",
                message: "there is no key to sign tokens with yet",
                retry_after: Duration::from_secs(1),
            };
        }
        Error::FailedPrecondition {
            reason: "TOKENS_NOT_CONFIGURED",
            subject: "TENANCY_TOKEN_ENCRYPTION_KEY".into(),
            message: "the service issues no tokens: it has no TENANCY_TOKEN_ENCRYPTION_KEY to keep their keys with"
                .into(),
        }
    }

    /// What a token says that somebody presented, if it is ours and has not ended. From memory, when it was seen before.
    ///
    /// Errors: `TOKEN_MALFORMED`, `TOKEN_INVALID`, `TOKEN_EXPIRED`; `Unavailable` when the keys could not be read.
    pub async fn verify(&self, text: &str) -> Result<Arc<Token>, Error> {
        if text.len() > LONGEST {
            return Err(credential::token_malformed());
        }
        let digest = *blake3::keyed_hash(&self.process_key, text.as_bytes()).as_bytes();
        let now = self.clock.now();
        if let Some(token) = self.proven.get(&digest) {
            // Nothing that was proven becomes untrue, but a key may be given up before its time.
            if token.expire_time <= now {
                return Err(credential::token_expired());
            }
            if self.ring.keys().await?.find(token.signed_by, now).is_some() {
                return Ok(token);
            }
        }
        let token = Arc::new(Box::pin(self.verify_cold(text, now)).await?);
        self.proven.insert(digest, Arc::clone(&token));
        Ok(token)
    }

    async fn verify_cold(&self, text: &str, now: DateTime<Utc>) -> Result<Token, Error> {
        let kid = self.claimed(text, now)?;
        let keys = self.ring.keys().await?;
        if let Some(key) = keys.find(kid, now) {
            return self.proven_by(key, text);
        }
        // Another replica may have made it a moment ago.
        let keys = self.ring.keys_anew().await?;
        let key = keys.find(kid, now).ok_or_else(credential::token_invalid)?;
        self.proven_by(key, text)
    }

    /// The key that a token names, if all that costs nothing to look at is right.
    fn claimed(&self, text: &str, now: DateTime<Utc>) -> Result<TokenKeyId, Error> {
        let header = decode_header(text).map_err(|_| credential::token_malformed())?;
        let claimed = dangerous::insecure_decode_claims::<Claims>(text).map_err(|_| credential::token_malformed())?;
        let is_ours = header.alg == Algorithm::EdDSA && claimed.iss == self.issuer && claimed.aud == claims::AUDIENCE;
        let kid = header.kid.and_then(|kid| kid.parse::<TokenKeyId>().ok()).filter(|_| is_ours);
        let kid = kid.ok_or_else(credential::token_invalid)?;
        if claimed.nbf > (now + SKEW).timestamp() {
            return Err(credential::token_invalid());
        }
        if claimed.exp <= now.timestamp() {
            return Err(credential::token_expired());
        }
        Ok(kid)
    }

    fn proven_by(&self, key: &Key, text: &str) -> Result<Token, Error> {
        let decoded = decode::<Claims>(text, &key.verifies, &self.validation);
        let decoded = decoded.map_err(|_| credential::token_invalid())?;
        decoded.claims.understood(key.stored.token_key_id)
    }

    /// The public keys, the latest first; as they were known last, while the database is away.
    pub async fn public_keys(&self) -> Result<Vec<PublicKey>, Error> {
        let keys = self.ring.published().await?;
        Ok(keys.all(self.clock.now()).map(PublicKey::from).collect())
    }

    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        if *change == Change::TokenKeys {
            self.ring.forget();
        }
    }

    /// Forgets the keys, as when the change log could not be followed. What was proven stays so.
    pub fn forget_all(&self) {
        self.ring.forget();
    }
}
