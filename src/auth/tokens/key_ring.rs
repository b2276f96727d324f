//! The keys of all replicas, as this one knows them: kept in memory, and true to the change log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use jsonwebtoken::{DecodingKey, EncodingKey};

use crate::auth::principal::PermittedPlatform;
use crate::auth::tokens::sealing::SealingKeys;
use crate::clock::Clock;
use crate::error::Error;
use crate::facts::Facts;
use crate::ids::TokenKeyId;
use crate::model::token_key::TokenKey;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::token_key;

/// How often keys are looked for that a token names and nobody knows: such a token costs nothing to make up.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The keys.
#[derive(Debug)]
pub(super) struct KeyRing {
    database: Database,
    clock: Clock,
    sealing: Option<SealingKeys>,
    keys: Facts<(), Arc<Keys>>,
    /// As they were read last, for who asks while the database is away.
    last: Mutex<Option<Arc<Keys>>>,
}

/// The keys as they were read, the latest first.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

/// One of them.
#[derive(Debug)]
pub(super) struct Key {
    pub stored: TokenKey,
    pub verifies: DecodingKey,
    /// Absent where the configuration cannot unseal it.
    pub signs: Option<EncodingKey>,
}

impl KeyRing {
    pub fn new(database: Database, clock: Clock, sealing: Option<SealingKeys>, lifetime: Duration) -> Self {
        Self { database, clock, sealing, keys: Facts::new(1, lifetime), last: Mutex::new(None) }
    }

    /// The keys, from memory where they are there.
    pub async fn keys(&self) -> Result<Arc<Keys>, Error> {
        let now = self.clock.instant();
        match self.keys.peek(&(), now) {
            Some(keys) => Ok(keys),
            None => self.keys.get(&(), now, || self.load()).await,
        }
    }

    /// The same for who did not find one in them: read anew, but not more often than once in a while, however many ask.
    pub async fn keys_anew(&self) -> Result<Arc<Keys>, Error> {
        let now: Instant = self.clock.instant();
        let since = now.checked_sub(LOOK_AGAIN).unwrap_or(now);
        self.keys.get_since(&(), since, now, || self.load()).await
    }

    /// The same for who only publishes them: those known last, when the database cannot be asked.
    pub async fn published(&self) -> Result<Arc<Keys>, Error> {
        let keys = self.keys().await;
        keys.or_else(|error| self.last.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(error))
    }

    async fn load(&self) -> Result<Arc<Keys>, Error> {
        let permitted = PermittedPlatform::system("tokens");
        let mut scope = self.database.platform(&permitted, Purpose::TokenKeys).await?;
        let stored = token_key::list(&mut scope).await?;
        let keys = Arc::new(Keys(stored.into_iter().map(|key| self.key(key)).collect()));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&keys));
        Ok(keys)
    }

    fn key(&self, stored: TokenKey) -> Key {
        let opened =
            self.sealing.as_ref().and_then(|sealing| sealing.open(stored.token_key_id, &stored.sealed_private_key));
        Key {
            verifies: DecodingKey::from_ed_der(&stored.public_key),
            signs: opened.map(|opened| EncodingKey::from_ed_der(opened.seed.as_slice())),
            stored,
        }
    }

    pub fn forget(&self) {
        self.keys.invalidate_all();
    }
}

impl Keys {
    /// The one that signs at this time: the latest that has begun to.
    pub fn signer(&self, now: DateTime<Utc>) -> Option<(TokenKeyId, &EncodingKey)> {
        let mut begun = self.0.iter().filter(|key| key.stored.activate_time <= now && !key.stored.is_over(now));
        begun.find_map(|key| Some((key.stored.token_key_id, key.signs.as_ref()?)))
    }

    /// The one that a token names, while its tokens count.
    pub fn find(&self, id: TokenKeyId, now: DateTime<Utc>) -> Option<&Key> {
        self.0.iter().find(|key| key.stored.token_key_id == id && !key.stored.is_over(now))
    }

    /// All whose tokens count, or will.
    pub fn all(&self, now: DateTime<Utc>) -> impl Iterator<Item = &TokenKey> {
        self.0.iter().map(|key| &key.stored).filter(move |key| !key.is_over(now))
    }
}
