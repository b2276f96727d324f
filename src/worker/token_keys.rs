//! Keeps the keys that tokens are signed with: makes the next one in time, gives the former its end, removes what has ended,
//! and seals anew what a former key of the configuration has sealed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::auth::principal::PermittedPlatform;
use crate::auth::tokens::public_key;
use crate::auth::tokens::sealing::SealingKeys;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::TokenKeyId;
use crate::model::token_key::{TokenKey, due, is_abandoned};
use crate::repository::database::Database;
use crate::repository::scope::{PlatformScope, Purpose};
use crate::repository::token_key;

/// How often it is looked whether something is due.
const INTERVAL: Duration = Duration::from_mins(1);

/// How keys are kept.
#[derive(Clone, Debug)]
pub struct KeyOptions {
    /// What private keys are sealed with.
    pub sealing: SealingKeys,
    /// How long a key signs.
    pub rotation: TimeDelta,
}

/// Does all that is due, in one scope, one replica after the other.
pub async fn run_once(database: &Database, clock: &Clock, options: &KeyOptions) -> Result<(), Error> {
    let mut scope = database.platform(&PermittedPlatform::system("token_keys"), Purpose::TokenKeys).await?;
    token_key::lock(&mut scope).await?;
    let now = clock.now();
    let KeyOptions { sealing, rotation } = options;
    let (over, keys): (Vec<_>, Vec<_>) =
        token_key::list(&mut scope).await?.into_iter().partition(|key| key.is_over(now));
    for key in over {
        token_key::delete(&mut scope, &key, now).await?;
        tracing::info!(kid = %key.token_key_id, "a key for tokens has ended");
    }
    let mut ours = Vec::new();
    for key in keys {
        match sealing.open(key.token_key_id, &key.sealed_private_key) {
            Some(opened) => {
                if !opened.is_by_first {
                    let sealed = sealing.seal(key.token_key_id, &opened.seed)?;
                    token_key::reseal(&mut scope, &key, &sealed, now).await?;
                    tracing::info!(kid = %key.token_key_id, "a key for tokens was sealed anew");
                }
                ours.push(key);
            }
            None if is_abandoned(&key, *rotation, now) => {
                tracing::warn!(kid = %key.token_key_id, "nobody can unseal a key for tokens; it is given up");
                token_key::retire(&mut scope, &key, &key.clone().retired(now), now).await?;
            }
            // Another replica's, which has another key in its configuration.
            None => {}
        }
    }
    if let Some(activate_time) = due(ours.iter(), *rotation, now) {
        create(&mut scope, sealing, activate_time, now).await?;
        for former in ours.iter().filter(|key| key.retire_time.is_none()) {
            token_key::retire(&mut scope, former, &former.clone().retired(activate_time), now).await?;
        }
    }
    scope.commit().await
}

async fn create(
    scope: &mut PlatformScope,
    sealing: &SealingKeys,
    activate_time: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut seed = Zeroizing::new([0; 32]);
    SysRng.try_fill_bytes(seed.as_mut_slice()).map_err(Error::internal)?;
    let token_key_id = TokenKeyId::new(now);
    let key = TokenKey {
        token_key_id,
        public_key: public_key(&seed)?,
        sealed_private_key: sealing.seal(token_key_id, &seed)?,
        create_time: now,
        activate_time,
        retire_time: None,
        expire_time: None,
    };
    token_key::create(scope, &key).await?;
    tracing::info!(kid = %token_key_id, %activate_time, "a new key for tokens");
    Ok(())
}

/// Goes on until `shutdown`. The first time was at start.
pub async fn run(database: &Database, clock: &Clock, options: &KeyOptions, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = run_once(database, clock, options).await {
            tracing::warn!(%error, "the keys for tokens could not be looked after; it is tried again");
        }
    }
}
