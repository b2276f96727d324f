//! What issues and verifies tokens, put together of the configuration.

use std::sync::Arc;

use crate::app::AppError;
use crate::auth::tokens::{TokenOptions, Tokens};
use crate::clock::Clock;
use crate::config::{ServeConfig, calendar};
use crate::repository::database::Database;
use crate::worker::token_keys::{self, KeyOptions};

/// What issues and verifies tokens, and how its keys are kept, where any are. The first key is there when this is over, or as soon
/// as the database lets a worker make it.
pub async fn compose(
    config: &ServeConfig,
    database: &Database,
    clock: &Clock,
) -> Result<(Arc<Tokens>, Option<KeyOptions>), AppError> {
    let sealing = config.sealing_keys().map_err(|error| AppError::Start(error.to_string()))?;
    let keys = sealing.clone().map(|sealing| KeyOptions { sealing, rotation: calendar(config.token_key_rotation) });
    if let Some(options) = &keys
        && let Err(error) = token_keys::run_once(database, clock, options).await
    {
        tracing::warn!(%error, "the keys for tokens could not be looked after; it is tried again");
    }
    let options =
        TokenOptions { issuer: config.token_issuer.clone(), lifetime: calendar(config.token_lifetime), sealing };
    Ok((Arc::new(Tokens::new(options, database.clone(), clock.clone(), config.cache_lifetime)?), keys))
}
