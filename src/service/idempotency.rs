//! Creates that are safe to retry (AIP-155): claim the request id, create, remember the reply; all in one scope.

use chrono::{DateTime, Utc};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::repository::idempotency::{self, Claim, Repeatable, repeatable};
use crate::repository::scope::{Accountable, Scope};

/// Why the reply of a repeated request has no secret: nothing here has it any more.
pub const ALREADY_SHOWN: &str = "SECRET_ALREADY_SHOWN";

/// Reads the `request_id` of a request; `request` is the rest of it, with the id cleared.
pub fn read(request_id: &str, request: &impl Message) -> Result<Option<Repeatable>, Error> {
    repeatable(request_id, Sha256::digest(request.encode_to_vec()).into())
}

/// The reply of the first request with this id; `None` when this is the first, or carries no id.
pub async fn replayed<K: Accountable, R: Message + Default>(
    scope: &mut Scope<K>,
    request: Option<Repeatable>,
    now: DateTime<Utc>,
) -> Result<Option<R>, Error> {
    let Some(request) = request else { return Ok(None) };
    match idempotency::claim(scope, request, now).await? {
        Claim::First => Ok(None),
        Claim::Repeated(reply) => R::decode(reply.as_slice()).map(Some).map_err(Error::internal),
    }
}

/// Keeps the reply for whoever repeats the request. It must carry no secret.
pub async fn remember<K: Accountable>(
    scope: &mut Scope<K>,
    request: Option<Repeatable>,
    reply: &impl Message,
) -> Result<(), Error> {
    match request {
        Some(request) => idempotency::remember(scope, request, &reply.encode_to_vec()).await,
        None => Ok(()),
    }
}
