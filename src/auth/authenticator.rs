//! Whose key is this, and is it good? From memory when it was seen before, else from the database, once for all who ask. The
//! same for tokens is in [`bearer`].

pub mod bearer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::auth::directory::Directory;
use crate::auth::keys::cache::{
    KeyCache, KeyRecord, Known, PreviousSecret, SecretUsed, Verdict, Verified, VerifyError,
};
use crate::auth::keys::key::{LookupId, ParsedKey};
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::last_used::Noted;
use crate::auth::permission::Permissions;
use crate::auth::principal::Principal;
use crate::auth::tokens::Tokens;
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::ip_range;
use crate::model::organization::Organization;
use crate::repository::changes::Change;
use crate::repository::database::Database;
use crate::repository::key_lookup::{self, FoundKey};

/// What is known of a key besides its secret.
#[derive(Debug)]
pub struct KeyFacts {
    /// What sort of key.
    pub kind: ApiKeyKind,
    /// Whom it stands for.
    pub principal: Arc<Principal>,
    /// Its permissions as they were written.
    pub scopes: Vec<String>,
    /// Where a publishable key may be used from; empty means anywhere.
    pub allowed_origins: Vec<String>,
    /// The addresses that it may be used from; empty means any.
    pub allowed_ip_ranges: Vec<IpNet>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it stops working.
    pub expire_time: Option<DateTime<Utc>>,
    /// When its use was last noted.
    pub(in crate::auth) noted: Noted,
    disabled: bool,
    revoked: bool,
    /// Which secret it has: a token that it was exchanged for counts as long as the secret does.
    generation: i64,
    /// The same of the secret before the last rotation, and until when that one works.
    previous_generation: Option<(i64, DateTime<Utc>)>,
}

/// A key whose secret was presented, now or to get a token; good or not.
#[derive(Debug)]
pub struct KnownKey {
    record: Known<KeyFacts>,
    /// Its organization; `None` for a key of the platform.
    pub organization: Option<Arc<Organization>>,
}

impl KnownKey {
    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> &KeyFacts {
        &self.record
    }

    /// What is known of it, and its organization.
    #[must_use]
    pub fn into_parts(self) -> (Known<KeyFacts>, Option<Arc<Organization>>) {
        (self.record, self.organization)
    }
}

/// A good key, as it was presented: what a token is made of.
#[derive(Debug)]
pub struct Presented {
    /// What finds it.
    pub lookup: LookupId,
    /// Which of its secrets it was.
    pub generation: i64,
    /// When it stops to work with that secret.
    pub end: Option<DateTime<Utc>>,
}

/// The outcome of a verification: of what applies, the first in this order.
#[derive(Debug)]
pub enum Outcome {
    /// Not a key at all.
    Malformed,
    /// No such key, a wrong secret, or a key of a deleted organization.
    NotFound,
    /// Revoked.
    Revoked(KnownKey),
    /// Disabled.
    Disabled(KnownKey),
    /// Past its expire time.
    Expired(KnownKey),
    /// Of a suspended organization.
    OrganizationSuspended(KnownKey),
    /// Good.
    Valid(KnownKey),
}

/// Verifies keys.
#[derive(Debug)]
pub struct Authenticator {
    keys: KeyCache<KeyFacts, Error>,
    tokens: Arc<Tokens>,
    directory: Arc<Directory>,
    database: Database,
    clock: Clock,
}

impl Authenticator {
    /// An authenticator that has seen no key yet.
    #[must_use]
    pub const fn new(
        keys: KeyCache<KeyFacts, Error>,
        tokens: Arc<Tokens>,
        directory: Arc<Directory>,
        database: Database,
        clock: Clock,
    ) -> Self {
        Self { keys, tokens, directory, database, clock }
    }

    /// The cache, for its pool and its size.
    #[must_use]
    pub const fn keys(&self) -> &KeyCache<KeyFacts, Error> {
        &self.keys
    }

    /// Verifies a key as it was presented at some moment. A key seen before needs no I/O.
    ///
    /// Errors: `Unavailable` when the database or argon2 could not be asked: nothing is known of the key then.
    pub async fn verify(&self, presented: &str, at: Moment) -> Result<Outcome, Error> {
        Ok(self.present(presented, at).await?.0)
    }

    /// The same, with what a token takes of a good key.
    pub async fn present(&self, presented: &str, at: Moment) -> Result<(Outcome, Option<Presented>), Error> {
        let Ok(key) = ParsedKey::parse(presented) else {
            return Ok((Outcome::Malformed, None));
        };
        let verdict = match self.keys.warm(&key, at.instant, at.wall) {
            Some(verdict) => verdict,
            // Boxed, as it is rare and large: the state of what is awaited here is moved with every request.
            None => Box::pin(self.verify_cold(&key, at)).await?,
        };
        let Verdict::Verified(record) = verdict else {
            return Ok((Outcome::NotFound, None));
        };
        let organization = match *record.facts.principal {
            Principal::ApiKey { organization_id, .. } => match self.organization(organization_id, at.instant).await? {
                // Deleted, or purged a moment ago.
                None => return Ok((Outcome::NotFound, None)),
                found => found,
            },
            Principal::User { .. }
            | Principal::Service { .. }
            | Principal::Operator { .. }
            | Principal::Workload { .. } => None,
        };
        let presented = presented_as(&record, key.lookup());
        Ok((judge(KnownKey { record: record.known(), organization }, at.wall), Some(presented)))
    }

    async fn verify_cold(&self, key: &ParsedKey<'_>, at: Moment) -> Result<Verdict<KeyFacts>, Error> {
        self.keys.verify(key, at.instant, at.wall, |lookup| self.load(lookup)).await.map_err(unverified)
    }

    async fn organization(&self, id: OrganizationId, now: Instant) -> Result<Option<Arc<Organization>>, Error> {
        let found = match self.directory.peek_organization(id, now) {
            Some(found) => found,
            None => self.directory.organization(id).await?,
        };
        Ok(found.filter(|organization| organization.deletion.is_none()))
    }

    async fn load(&self, lookup: LookupId) -> Result<Option<KeyRecord<KeyFacts>>, Error> {
        let mut scope = self.database.lookup().await?;
        key_lookup::find(&mut scope, lookup.as_str()).await?.map(record).transpose()
    }

    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        self.tokens.apply(change);
        if let Change::ApiKey(lookup) = change
            && let Ok(lookup) = lookup.parse()
        {
            self.keys.invalidate(&lookup);
        }
    }

    /// Forgets everything but proofs, which cannot become untrue.
    pub fn forget_all(&self) {
        self.tokens.forget_all();
        self.keys.invalidate_all();
    }
}

fn unverified(error: VerifyError<Error>) -> Error {
    match error {
        VerifyError::Load(error) => (*error).clone(),
        VerifyError::Overloaded(overloaded) => Error::Unavailable {
            reason: "VERIFICATION_OVERLOADED",
            message: "too many keys are being verified for the first time",
            retry_after: overloaded.retry_after,
        },
        VerifyError::Hashing(error) => Error::internal(error),
    }
}

/// What becomes of who may use a key that is like this.
fn judge(known: KnownKey, wall: DateTime<Utc>) -> Outcome {
    let facts = known.facts();
    if facts.revoked {
        Outcome::Revoked(known)
    } else if facts.disabled {
        Outcome::Disabled(known)
    } else if facts.expire_time.is_some_and(|expire_time| expire_time <= wall) {
        Outcome::Expired(known)
    } else if known.organization.as_ref().is_some_and(|organization| organization.suspension.is_some()) {
        Outcome::OrganizationSuspended(known)
    } else {
        Outcome::Valid(known)
    }
}

fn presented_as(record: &Verified<KeyFacts>, lookup: LookupId) -> Presented {
    let facts = &record.facts;
    let (generation, end) = match (record.secret(), facts.previous_generation) {
        (SecretUsed::Previous { valid_until }, Some((generation, _))) => (generation, Some(valid_until)),
        (SecretUsed::Current | SecretUsed::Previous { .. }, _) => (facts.generation, None),
    };
    Presented { lookup, generation, end: [end, facts.expire_time].into_iter().flatten().min() }
}

/// A number for a secret, of its stored hash: tells nothing of it, and is another one after a rotation. 53 bits, which every
/// reader of JSON keeps.
fn generation(secret_hash: &str) -> i64 {
    let digest = Sha256::digest(secret_hash);
    digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte)).cast_signed() & ((1 << 53) - 1)
}

fn record(found: FoundKey) -> Result<KeyRecord<KeyFacts>, Error> {
    let kind: ApiKeyKind = found.kind.parse().map_err(Error::internal)?;
    let permissions = Permissions::of_scopes(&found.scopes);
    let principal = match (kind, found.organization_id) {
        (ApiKeyKind::Operator, None) => Principal::Operator { key_id: found.api_key_id.into() },
        (ApiKeyKind::Service, None) => Principal::Service {
            key_id: found.api_key_id.into(),
            permissions,
            organizations: found.organization_ids.map(|ids| ids.into_iter().map(Into::into).collect()),
        },
        (_, Some(organization_id)) => Principal::ApiKey {
            organization_id: organization_id.into(),
            api_key_id: found.api_key_id.into(),
            permissions,
            publishable: kind.is_publishable(),
            by_token: false,
        },
        (_, None) => return Err(Error::internal(format!("key {} has no organization", found.api_key_id))),
    };
    let generation_of = |(hash, until): &(String, DateTime<Utc>)| (generation(hash), *until);
    let previous_generation = found.previous.as_ref().map(generation_of);
    let previous = found.previous.map(|(hash, valid_until)| {
        Ok::<_, Error>(PreviousSecret { hash: hash.parse().map_err(Error::internal)?, valid_until })
    });
    Ok(KeyRecord {
        organization: found.organization_id,
        current: found.secret_hash.parse().map_err(Error::internal)?,
        previous: previous.transpose()?,
        facts: KeyFacts {
            kind,
            principal: Arc::new(principal),
            scopes: found.scopes,
            allowed_origins: found.allowed_origins,
            allowed_ip_ranges: ip_range::stored(&found.allowed_ip_ranges)?,
            labels: serde_json::from_value(found.labels).map_err(Error::internal)?,
            expire_time: found.expire_time,
            noted: Noted::default(),
            disabled: found.disabled,
            revoked: found.revoke_time.is_some(),
            generation: generation(&found.secret_hash),
            previous_generation,
        },
    })
}
