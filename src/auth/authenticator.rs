//! Whose key is this, and is it good? From memory when it was seen before, else from the database, once for all who ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use ipnet::IpNet;

use crate::auth::directory::Directory;
use crate::auth::keys::cache::{KeyCache, KeyRecord, PreviousSecret, Verdict, Verified, VerifyError};
use crate::auth::keys::key::{LookupId, ParsedKey};
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::permission::Permissions;
use crate::auth::principal::Principal;
use crate::clock::Clock;
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
    disabled: bool,
    revoked: bool,
}

/// A key whose secret was presented, good or not.
#[derive(Debug)]
pub struct KnownKey {
    record: Verified<KeyFacts>,
    /// Its organization; `None` for a key of the platform.
    pub organization: Option<Arc<Organization>>,
}

impl KnownKey {
    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> &KeyFacts {
        &self.record.facts
    }
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
    directory: Arc<Directory>,
    database: Database,
    clock: Clock,
}

impl Authenticator {
    /// An authenticator that has seen no key yet.
    #[must_use]
    pub const fn new(
        keys: KeyCache<KeyFacts, Error>,
        directory: Arc<Directory>,
        database: Database,
        clock: Clock,
    ) -> Self {
        Self { keys, directory, database, clock }
    }

    /// The cache, for its pool and its size.
    #[must_use]
    pub const fn keys(&self) -> &KeyCache<KeyFacts, Error> {
        &self.keys
    }

    /// Verifies a key as it was presented. A key seen before needs no I/O.
    ///
    /// Errors: `Unavailable` when the database or argon2 could not be asked: nothing is known of the key then.
    pub async fn verify(&self, presented: &str) -> Result<Outcome, Error> {
        let Ok(key) = ParsedKey::parse(presented) else {
            return Ok(Outcome::Malformed);
        };
        let (now, wall) = (self.clock.instant(), self.clock.now());
        let verdict = match self.keys.warm(&key, now, wall) {
            Some(verdict) => verdict,
            // Boxed, as it is rare and large: the state of what is awaited here is moved with every request.
            None => Box::pin(self.verify_cold(&key, now, wall)).await?,
        };
        let Verdict::Verified(record) = verdict else {
            return Ok(Outcome::NotFound);
        };
        let organization = match *record.facts.principal {
            Principal::ApiKey { organization_id, .. } => match self.organization(organization_id).await? {
                // Deleted, or purged a moment ago.
                None => return Ok(Outcome::NotFound),
                found => found,
            },
            Principal::Service { .. } | Principal::Operator { .. } | Principal::Workload { .. } => None,
        };
        let suspended = organization.as_ref().is_some_and(|organization| organization.suspension.is_some());
        let known = KnownKey { record, organization };
        let facts = known.facts();
        Ok(if facts.revoked {
            Outcome::Revoked(known)
        } else if facts.disabled {
            Outcome::Disabled(known)
        } else if facts.expire_time.is_some_and(|expire_time| expire_time <= wall) {
            Outcome::Expired(known)
        } else if suspended {
            Outcome::OrganizationSuspended(known)
        } else {
            Outcome::Valid(known)
        })
    }

    async fn verify_cold(
        &self,
        key: &ParsedKey<'_>,
        now: Instant,
        wall: DateTime<Utc>,
    ) -> Result<Verdict<KeyFacts>, Error> {
        let verdict = self.keys.verify(key, now, wall, |lookup| self.load(lookup)).await;
        verdict.map_err(|error| match error {
            VerifyError::Load(error) => (*error).clone(),
            VerifyError::Overloaded(overloaded) => Error::Unavailable {
                reason: "VERIFICATION_OVERLOADED",
                message: "too many keys are being verified for the first time",
                retry_after: overloaded.retry_after,
            },
            VerifyError::Hashing(error) => Error::internal(error),
        })
    }

    async fn organization(&self, id: OrganizationId) -> Result<Option<Arc<Organization>>, Error> {
        let found = match self.directory.peek_organization(id) {
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
        if let Change::ApiKey(lookup) = change
            && let Ok(lookup) = lookup.parse()
        {
            self.keys.invalidate(&lookup);
        }
    }

    /// Forgets everything but proofs, which cannot become untrue.
    pub fn forget_all(&self) {
        self.keys.invalidate_all();
    }
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
        },
        (_, None) => return Err(Error::internal(format!("key {} has no organization", found.api_key_id))),
    };
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
            disabled: found.disabled,
            revoked: found.revoke_time.is_some(),
        },
    })
}
