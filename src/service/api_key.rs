//! `ApiKeyService`.
//!
//! Whoever changes a key hands out what the key may do from then on, and must hold it: the scopes of a new key, those
//! added, all of a key that is rotated (the caller gets its secret) or made good for more. Otherwise a caller with
//! `keys.update` or `keys.rotate` and little else would be as mighty as the mightiest key.

mod verification;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::authenticator::{Authenticator, Outcome};
use crate::auth::last_used::LastUsed;
use crate::auth::mint;
use crate::auth::principal::Caller;
use crate::auth::principal::Permitted;
use crate::error::Error;
use crate::filter::Filter;
use crate::ids::ApiKeyId;
use crate::model::api_key::ApiKey;
use crate::model::etag;
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::api_key_service_server::ApiKeyService;
use crate::repository::api_key::{self, Narrow};
use crate::repository::scope::TenantScope;
use crate::service::convert::api_key as convert;
use crate::service::{Shared, convert::mask, idempotency, open};
use crate::transport::dispatch::Direct;

use self::verification::Wanted;

pub use self::verification::presented;

/// The service.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    /// What it works with.
    pub shared: Shared,
    /// Verifies keys, and has the pool that hashes new ones.
    pub authenticator: Arc<Authenticator>,
    /// Notes the use of keys that were verified for somebody else.
    pub last_used: Arc<LastUsed>,
}

#[tonic::async_trait]
impl ApiKeyService for ApiKeys {
    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let message = request.api_key.unwrap_or_default();
        let named = message.organization_id.clone();
        let (kind, profile) = convert::new_key(message)?;

        let permitted = self.shared.gate.tenant(&caller, &named).await?;
        require_held(&permitted, profile.scopes.iter().map(String::as_str))?;
        let (plain, hash) = mint::new(self.authenticator.keys().pool(), kind).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        // Not before: the key may have ended between the first request and this one that repeats it.
        profile.check_expire_time("api_key.expire_time", now).map_err(Error::from)?;
        let key = ApiKey {
            organization_id: permitted.organization_id(),
            api_key_id: ApiKeyId::new(now),
            kind,
            lookup_id: plain.parsed().lookup(),
            profile,
            previous_secret_expire_time: None,
            last_used_time: None,
            revoke_time: None,
            revision: 1,
            create_time: now,
            update_time: now,
        };
        api_key::create(&mut scope, &key, &hash).await?;
        let mut reply = v1::CreateApiKeyResponse {
            api_key: Some(convert::to_proto(key.clone(), now)),
            secret: String::new(),
            secret_omitted_reason: idempotency::ALREADY_SHOWN.into(),
        };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        reply.secret = plain.parsed().expose().into();
        reply.secret_omitted_reason.clear();
        Ok(Response::new(reply))
    }

    async fn get_api_key(
        &self,
        request: Request<v1::GetApiKeyRequest>,
    ) -> Result<Response<v1::GetApiKeyResponse>, Status> {
        let (caller, request) = open(request)?;
        let id: ApiKeyId = request.api_key_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = api_key::get(&mut scope, id).await?;
        Ok(Response::new(v1::GetApiKeyResponse { api_key: Some(self.to_proto(found)) }))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let filter = Filter::parse(&request.filter, &["labels."])?;
        let narrow = Narrow { labels: filter.labels(), show_revoked: request.show_revoked };
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let mut found = api_key::list(&mut scope, &narrow, &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.api_key_id.uuid() });
        let api_keys = found.into_iter().map(|key| self.to_proto(key)).collect();
        Ok(Response::new(v1::ListApiKeysResponse { api_keys, next_page_token }))
    }

    async fn update_api_key(
        &self,
        request: Request<v1::UpdateApiKeyRequest>,
    ) -> Result<Response<v1::UpdateApiKeyResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.api_key.unwrap_or_default();
        let id: ApiKeyId = message.api_key_id.parse().map_err(|error: Error| error.within("api_key"))?;
        let fields = mask::fields(request.update_mask, convert::FIELDS)?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, id, &message.etag).await?;
        require_unrevoked(&before)?;
        let now = self.shared.clock.now();
        let profile = convert::changed_profile(before.kind, before.profile.clone(), message, &fields)?;
        if profile.expire_time != before.profile.expire_time {
            profile.check_expire_time("api_key.expire_time", now).map_err(Error::from)?;
        }
        require_held(&permitted, before.profile.handed_out(&profile))?;
        let after = before.with_profile(profile);
        let saved = api_key::save(&mut scope, "keys.update", &before, after, now).await?;
        scope.commit().await?;
        Ok(Response::new(v1::UpdateApiKeyResponse { api_key: Some(self.to_proto(saved)) }))
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::RotateApiKeyRequest>,
    ) -> Result<Response<v1::RotateApiKeyResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let id: ApiKeyId = request.api_key_id.parse()?;
        let grace = convert::grace_period("grace_period", request.grace_period).map_err(Error::from)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        // A scope of its own for what never changes, over before the hash: no transaction waits for argon2.
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let known = api_key::get(&mut scope, id).await?;
        scope.rollback().await?;
        let pool = self.authenticator.keys().pool();
        let (plain, hash) = mint::renewed(pool, known.kind, known.lookup_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let before = locked(&mut scope, id, &request.etag).await?;
        require_unrevoked(&before)?;
        require_held(&permitted, before.profile.scopes.iter().map(String::as_str))?;
        let saved = api_key::rotate(&mut scope, &before, before.rotated(grace, now), &hash, now).await?;
        let mut reply = v1::RotateApiKeyResponse {
            api_key: Some(convert::to_proto(saved.clone(), now)),
            secret: String::new(),
            secret_omitted_reason: idempotency::ALREADY_SHOWN.into(),
        };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        reply.secret = plain.parsed().expose().into();
        reply.secret_omitted_reason.clear();
        Ok(Response::new(reply))
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::RevokeApiKeyResponse>, Status> {
        let (caller, request) = open(request)?;
        let id: ApiKeyId = request.api_key_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, id, &request.etag).await?;
        if before.revoke_time.is_some() {
            return Ok(Response::new(v1::RevokeApiKeyResponse { api_key: Some(self.to_proto(before)) }));
        }
        let now = self.shared.clock.now();
        let after = ApiKey { revoke_time: Some(now), ..before.clone() };
        let saved = api_key::save(&mut scope, "keys.revoke", &before, after, now).await?;
        scope.commit().await?;
        Ok(Response::new(v1::RevokeApiKeyResponse { api_key: Some(self.to_proto(saved)) }))
    }

    async fn verify_api_key(
        &self,
        request: Request<v1::VerifyApiKeyRequest>,
    ) -> Result<Response<v1::VerifyApiKeyResponse>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.verify(&caller, &request).await?))
    }
}

/// `VerifyApiKey`, answered directly.
#[derive(Debug)]
pub struct VerifyApiKey(pub Arc<ApiKeys>);

impl Direct for VerifyApiKey {
    const PATH: &'static str = "/tenancy.v1.ApiKeyService/VerifyApiKey";
    type Request = v1::VerifyApiKeyRequest;
    type Reply = v1::VerifyApiKeyResponse;

    async fn answer(
        &self,
        caller: &Caller,
        request: v1::VerifyApiKeyRequest,
    ) -> Result<v1::VerifyApiKeyResponse, Error> {
        self.0.verify(caller, &request).await
    }
}

impl ApiKeys {
    /// Whether a key is good.
    async fn verify(
        &self,
        caller: &Caller,
        request: &v1::VerifyApiKeyRequest,
    ) -> Result<v1::VerifyApiKeyResponse, Error> {
        verification::presented("api_key", &request.api_key)?;
        let wanted = Wanted::read(&request.permission, &request.origin, &request.client_ip)?;
        let sight = self.shared.gate.sight(caller).await?;

        let at = caller.at();
        let outcome = self.authenticator.verify(&request.api_key, at).await?;
        let reply = verification::reply(&outcome, wanted, sight);
        if let Outcome::Valid(key) = &outcome
            && reply.code() == v1::VerificationCode::Valid
        {
            self.last_used.note_key(key.facts(), at.wall);
        }
        Ok(reply)
    }

    fn to_proto(&self, key: ApiKey) -> v1::ApiKey {
        convert::to_proto(key, self.shared.clock.now())
    }
}

/// The key, locked, as the caller last saw it.
async fn locked(scope: &mut TenantScope, id: ApiKeyId, etag: &str) -> Result<ApiKey, Error> {
    let before = api_key::lock(scope, id).await?;
    etag::check("api_key", etag, before.revision)?;
    Ok(before)
}

fn require_unrevoked(key: &ApiKey) -> Result<(), Error> {
    if key.revoke_time.is_none() {
        return Ok(());
    }
    Err(Error::FailedPrecondition {
        reason: "API_KEY_REVOKED",
        subject: format!("api_keys/{}", key.api_key_id),
        message: "the key was revoked, which is for good; create another one".into(),
    })
}

/// Fails with `SCOPE_NOT_HELD` unless the caller holds all that it hands out. A scope that this version does not know
/// cannot be held: who wants to rotate such a key removes the scope first.
fn require_held<'a>(permitted: &Permitted, scopes: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    let held = |scope: &str| scope.parse().is_ok_and(|permission| permitted.permissions().contains(permission));
    match scopes.into_iter().find(|scope| !held(scope)) {
        None => Ok(()),
        Some(scope) => Err(Error::PermissionDenied {
            reason: "SCOPE_NOT_HELD",
            message: format!("the key may {scope}, which the caller may not: nobody hands out what they do not hold"),
        }),
    }
}
