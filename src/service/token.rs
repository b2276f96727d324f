//! `TokenService`. What it issues is signed and forgotten: nothing is stored of a token but from where on those of a user count.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::authenticator::{Authenticator, KnownKey, Outcome, Presented};
use crate::auth::gate::{self, Reach, Sight};
use crate::auth::last_used::LastUsed;
use crate::auth::principal::{Permitted, PermittedPlatform, Principal};
use crate::auth::tokens::{Grant, Subject};
use crate::error::Error;
use crate::ids::UserId;
use crate::proto::v1;
use crate::proto::v1::token_service_server::TokenService;
use crate::repository::scope::Purpose;
use crate::repository::{member, user};
use crate::service::api_key::presented;
use crate::service::convert::{timestamp, token as convert};
use crate::service::member::taken;
use crate::service::{Shared, open};

/// The service.
#[derive(Clone, Debug)]
pub struct TokensOf {
    /// What it works with.
    pub shared: Shared,
    /// Verifies keys, and has what issues tokens.
    pub authenticator: Arc<Authenticator>,
    /// Notes the use of keys that are exchanged.
    pub last_used: Arc<LastUsed>,
}

#[tonic::async_trait]
impl TokenService for TokensOf {
    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenResponse>, Status> {
        let (caller, request) = open(request)?;
        let (user_id, wanted) = convert::issue(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let organization = self.shared.gate.open_organization(&caller, &request.organization_id).await?;
        let standing = gate::active(self.shared.gate.standing(&permitted, user_id).await?, user_id)?;

        let all = if permitted.is_platform() { standing.held } else { standing.held.and(permitted.permissions()) };
        let grant = Grant {
            organization: &organization,
            subject: Subject::User(user_id),
            role: Some(&standing.role),
            permissions: wanted.of(all),
            generation: standing.token_generation,
        };
        let issued = self.authenticator.tokens().issue(&grant, wanted.lifetime, None).await?;
        let expire_time = Some(timestamp(issued.expire_time));
        Ok(Response::new(v1::IssueTokenResponse { token: issued.text, expire_time }))
    }

    async fn exchange_api_key(
        &self,
        request: Request<v1::ExchangeApiKeyRequest>,
    ) -> Result<Response<v1::ExchangeApiKeyResponse>, Status> {
        let (caller, request) = open(request)?;
        let wanted = convert::exchange(&request, presented("api_key", &request.api_key))?;
        let sight = self.shared.gate.sight(&caller).await?;

        let at = self.shared.clock.moment();
        let (outcome, presented) = self.authenticator.present(&request.api_key, at).await?;
        let (key, presented) = exchangeable(outcome, presented, sight)?;
        let (Principal::ApiKey { organization_id, api_key_id, permissions, .. }, Some(organization)) =
            (&*key.facts().principal, &key.organization)
        else {
            return Err(not_found().into());
        };
        let grant = Grant {
            organization,
            subject: Subject::ApiKey { api_key_id: *api_key_id, lookup: presented.lookup },
            role: None,
            permissions: wanted.of(*permissions),
            generation: presented.generation,
        };
        let issued = self.authenticator.tokens().issue(&grant, wanted.lifetime, presented.end).await?;
        self.last_used.note(&key.facts().principal, self.shared.clock.now());
        Ok(Response::new(v1::ExchangeApiKeyResponse {
            token: issued.text,
            expire_time: Some(timestamp(issued.expire_time)),
            organization_id: organization_id.to_string(),
            api_key_id: api_key_id.to_string(),
        }))
    }

    async fn revoke_tokens(
        &self,
        request: Request<v1::RevokeTokensRequest>,
    ) -> Result<Response<v1::RevokeTokensResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;
        match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => self.revoke_here(&permitted, user_id).await?,
            Reach::Platform(permitted) => self.revoke_everywhere(&permitted, user_id).await?,
        }
        Ok(Response::new(v1::RevokeTokensResponse {}))
    }

    async fn get_json_web_key_set(
        &self,
        request: Request<v1::GetJsonWebKeySetRequest>,
    ) -> Result<Response<v1::GetJsonWebKeySetResponse>, Status> {
        let (_, _) = open(request)?;
        let keys = self.authenticator.tokens().public_keys().await?;
        Ok(Response::new(v1::GetJsonWebKeySetResponse { keys: keys.into_iter().map(convert::to_proto).collect() }))
    }
}

impl TokensOf {
    async fn revoke_here(&self, permitted: &Permitted, user_id: UserId) -> Result<(), Error> {
        let mut scope = self.shared.database.tenant(permitted).await?;
        taken(&mut scope, permitted, user_id, "").await?;
        member::revoke_tokens(&mut scope, user_id, self.shared.clock.now()).await?;
        scope.commit().await
    }

    async fn revoke_everywhere(&self, permitted: &PermittedPlatform, user_id: UserId) -> Result<(), Error> {
        let mut scope = self.shared.database.platform(permitted, Purpose::Users).await?;
        user::revoke_tokens(&mut scope, user_id, self.shared.clock.now()).await?;
        scope.commit().await
    }
}

/// A key that was presented, if it can be exchanged. What the caller does not see is like none at all.
fn exchangeable(
    outcome: Outcome,
    presented: Option<Presented>,
    sight: Sight<'_>,
) -> Result<(KnownKey, Presented), Error> {
    let (key, refusal) = match outcome {
        Outcome::Malformed | Outcome::NotFound => return Err(not_found()),
        Outcome::Revoked(key) => (key, Some(("API_KEY_REVOKED", "the key was revoked"))),
        Outcome::Disabled(key) => (key, Some(("API_KEY_DISABLED", "the key is disabled"))),
        Outcome::Expired(key) => (key, Some(("API_KEY_EXPIRED", "the key has expired"))),
        Outcome::OrganizationSuspended(key) => (key, Some(("ORGANIZATION_SUSPENDED", "the organization is suspended"))),
        Outcome::Valid(key) => (key, None),
    };
    let is_seen = key.organization.as_ref().is_some_and(|organization| sight.sees(organization.organization_id));
    let presented = presented.filter(|_| is_seen).ok_or_else(not_found)?;
    let is_bound = key.facts().kind.is_publishable() || !key.facts().allowed_ip_ranges.is_empty();
    let refusal = refusal.or_else(|| {
        let message = "publishable keys, and keys that are bound to IP addresses, are not exchanged: who checks a token \
                       offline would not know what they are bound to";
        is_bound.then_some(("API_KEY_NOT_EXCHANGEABLE", message))
    });
    match refusal {
        None => Ok((key, presented)),
        Some((reason, message)) => Err(Error::FailedPrecondition {
            reason,
            // As much of it as is no secret.
            subject: format!("api_keys/{}", presented.lookup),
            message: message.into(),
        }),
    }
}

fn not_found() -> Error {
    Error::not_found("api_key", "presented")
}
