//! `ext_authz`: whose request is it, and may it pass? Envoy asks about every request before the application sees it.
//!
//! A request past the cache does no I/O: the key is proven, the policy known and the quota granted in memory. What is not
//! known is never allowed: whatever fails here is a denial, with a status and a body of its own, and not an error of the
//! call, of which a client would see nothing.

mod denial;
mod identities;
mod reply;
mod request;
mod route;
mod tenant;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tonic::{Request, Response, Status};

use crate::auth::authenticator::{Authenticator, KeyFacts, KnownKey, Outcome};
use crate::auth::credential;
use crate::auth::gate::{Sight, require};
use crate::auth::last_used::LastUsed;
use crate::auth::principal::Caller;
use crate::auth::tokens::Tokens;
use crate::clock::Moment;
use crate::error::Error;
use crate::ids::{self, ApiKeyId, UserId};
use crate::model::usage::whole_milliseconds;
use crate::model::{ip_range, origin};
use crate::proto::envoy::service::auth::v3::authorization_server::Authorization;
use crate::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use crate::quota::decision::{Ask, Decision, Mode};
use crate::quota::decisions::{Decisions, Receipt};
use crate::quota::reservation::Reservation;
use crate::repository::meter;
use crate::service::{Shared, open};
use crate::sidecar::admission::Admission;
use crate::sidecar::pending::Pending;
use crate::sidecar::seldom::Seldom;
use crate::transport::dispatch::Direct;

use self::denial::Denial;
pub use self::identities::Identities;
use self::reply::Standing;
use self::request::Waiting;
use self::route::Route;
use self::tenant::Tenant;

/// The service.
#[derive(Debug)]
pub struct Authz {
    /// What it works with.
    pub shared: Shared,
    /// Verifies the tenants' keys and tokens.
    pub authenticator: Arc<Authenticator>,
    /// Notes their use.
    pub last_used: Arc<LastUsed>,
    /// Decides about quotas.
    pub decisions: Decisions,
    /// The requests whose log has not come.
    pub pending: Pending,
    /// What the application is told of who is calling.
    pub identities: Identities,
    /// Of misconfigured routes: every request of one fails, and there may be many.
    pub warnings: Seldom,
}

/// `Check`, answered directly.
#[derive(Debug)]
pub struct Check(pub Arc<Authz>);

impl Direct for Check {
    const PATH: &'static str = "/envoy.service.auth.v3.Authorization/Check";
    type Request = CheckRequest;
    type Reply = CheckResponse;

    async fn answer(&self, caller: &Caller, request: CheckRequest) -> Result<CheckResponse, Error> {
        self.0.answer(caller, request).await
    }
}

#[tonic::async_trait]
impl Authorization for Authz {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.answer(&caller, request).await?))
    }
}

impl Authz {
    /// Whether a request may pass.
    async fn answer(&self, caller: &Caller, request: CheckRequest) -> Result<CheckResponse, Error> {
        let sight = self.shared.gate.sight(caller).await?;
        let attributes: AttributeContext = request.attributes.unwrap_or_default();
        let waiting = Waiting::new(&attributes);
        let reply = match self.judge(&waiting, sight, caller.at()).await {
            Ok(reply) => reply,
            Err(denial) => {
                tracing::debug!(reason = %denial.reason, "denied");
                let request_id = waiting.id().unwrap_or_else(|| caller.request_id());
                reply::denied(&denial, request_id, waiting.is_grpc())
            }
        };
        Ok(reply)
    }

    async fn judge(&self, waiting: &Waiting<'_>, sight: Sight<'_>, at: Moment) -> Result<CheckResponse, Denial> {
        let route = Route::read(waiting.route()).map_err(|wrong| self.misconfigured(&wrong))?;
        let Some(credential) = waiting.credential(self.identities.credentials())? else {
            if route.needs_tenant() {
                return Err(credential::missing().into());
            }
            return Ok(self.identities.anonymous().passes(None, None));
        };
        let tenant = self.tenant(credential, sight, at).await?;
        permit(&tenant, waiting, &route)?;
        if let Some(feature) = route.feature
            && !self.decisions.engine().includes(tenant.organization_id(), feature).await?
        {
            let message = format!("the plan of the organization does not include {feature}");
            return Err(Denial::forbidden("FEATURE_NOT_INCLUDED", message));
        }
        let now = at.wall;
        match tenant.facts() {
            Some(facts) if !tenant.is_token => self.last_used.note_key(facts, now),
            _ => self.last_used.note(&tenant.principal, now),
        }
        let (signed, standing) = self.admit(&tenant, &route, now).await?;
        let Admitted { reservation, signed } = signed;
        let admission = Admission {
            reservation,
            api_key: tenant.api_key.map(ApiKeyId::uuid),
            user: tenant.user.map(UserId::uuid),
            meter: route.meter.map(str::to_owned),
            settle: route.settle,
            recordings: route.recordings,
        };
        if admission.settle.is_some() {
            self.pending.open(&admission);
        }
        Ok(self.identities.with(&tenant, |identity| identity.passes(Some((&admission, &signed)), standing)))
    }

    /// Whose credential it is.
    async fn tenant(&self, credential: &str, sight: Sight<'_>, at: Moment) -> Result<Tenant, Denial> {
        if Tokens::is_meant(credential) {
            // Boxed, as its state would be moved with every request that comes with a key.
            return Box::pin(self.bearer(credential, sight)).await;
        }
        let outcome = self.authenticator.verify(credential, at).await?;
        let is_seen = |key: &KnownKey| {
            key.organization.as_ref().is_some_and(|organization| sight.sees(organization.organization_id))
        };
        match outcome {
            Outcome::Valid(key) if is_seen(&key) => Tenant::of_key(key).ok_or_else(|| credential::invalid().into()),
            // A key of the platform, or of an organization that is not the Envoy's to serve, is like none at all.
            Outcome::Valid(key)
            | Outcome::Revoked(key)
            | Outcome::Disabled(key)
            | Outcome::Expired(key)
            | Outcome::OrganizationSuspended(key)
                if !is_seen(&key) =>
            {
                Err(credential::invalid().into())
            }
            outcome => Err(credential::refusal(&outcome).into()),
        }
    }

    /// Whose token it is.
    async fn bearer(&self, token: &str, sight: Sight<'_>) -> Result<Tenant, Denial> {
        let token = self.authenticator.tokens().verify(token).await?;
        if !sight.sees(token.organization_id) {
            // Like none at all, as of keys.
            return Err(credential::token_invalid().into());
        }
        Ok(Tenant::of_token(self.authenticator.bearer(&token).await?))
    }

    /// Takes what the request costs, and gives it its identity.
    async fn admit(
        &self,
        tenant: &Tenant,
        route: &Route<'_>,
        now: DateTime<Utc>,
    ) -> Result<(Admitted, Option<Standing>), Denial> {
        let Some(meter) = route.meter else {
            return Ok((self.unreserved(tenant, 0, route.reserve_ttl, now).await?, None));
        };
        let ask = Ask {
            organization_id: tenant.organization_id(),
            subjects: tenant.subjects(),
            meter,
            amount: route.cost,
            mode: Mode::All,
        };
        if route.settle.is_none() {
            // First, as it may fail, and then nothing is to be undone.
            let admitted = self.unreserved(tenant, route.cost, route.reserve_ttl, now).await?;
            let decision = self.decisions.decide(&ask).await.map_err(|error| self.undecided(error))?;
            let standing = judged(&decision, meter, now)?;
            return Ok((admitted, standing));
        }
        let reserved = Box::pin(self.decisions.reserve(&ask, route.reserve_ttl)).await;
        let (decision, receipt) = reserved.map_err(|error| self.undecided(error))?;
        let standing = judged(&decision, meter, now)?;
        let receipt = receipt.ok_or_else(|| Error::internal("a decision without denial and receipt"))?;
        let Receipt { reservation, reservation_id: signed, .. } = receipt;
        Ok((Admitted { reservation, signed }, standing))
    }

    /// An identity with nothing to settle.
    async fn unreserved(
        &self,
        tenant: &Tenant,
        amount: u64,
        ttl: Duration,
        now: DateTime<Utc>,
    ) -> Result<Admitted, Denial> {
        let key = self.decisions.engine().signing_key().await?;
        let ttl = TimeDelta::from_std(ttl).map_err(Error::internal)?;
        let reservation = Reservation {
            organization_id: tenant.organization_id(),
            id: ids::v7(now),
            expire_time: whole_milliseconds(now + ttl),
            amount,
            charges: Vec::new(),
        };
        let signed = reservation.sign(&key).ok_or_else(|| Error::internal("no charges are too many"))?;
        Ok(Admitted { reservation, signed })
    }

    fn undecided(&self, error: Error) -> Denial {
        match error {
            Error::NotFound { resource: meter::RESOURCE, name } => {
                self.misconfigured(&format!("meter: the organization has no meter {name:?}"))
            }
            error => error.into(),
        }
    }

    fn misconfigured(&self, what: &str) -> Denial {
        if self.warnings.is_due(self.shared.clock.now()) {
            tracing::warn!(what, "a route of an Envoy is misconfigured, and lets nothing through");
        }
        Denial::misconfigured(what)
    }
}

/// A request that passes: its identity, and the same as signed.
struct Admitted {
    reservation: Reservation,
    signed: String,
}

/// Whether the credential may be used so, here and for this.
fn permit(tenant: &Tenant, waiting: &Waiting<'_>, route: &Route<'_>) -> Result<(), Denial> {
    tenant.facts().map_or(Ok(()), |facts| permit_key(facts, waiting, route))?;
    if let Some(permission) = route.permission {
        require(tenant.permissions(), permission)?;
    }
    Ok(())
}

/// What a key is bound to, also where it was exchanged for a token.
fn permit_key(facts: &KeyFacts, waiting: &Waiting<'_>, route: &Route<'_>) -> Result<(), Denial> {
    if !ip_range::allowed(&facts.allowed_ip_ranges, waiting.address(route.trusted_hops)) {
        return Err(credential::ip_not_allowed().into());
    }
    if !origin::allowed(&facts.allowed_origins, waiting.origin()) {
        return Err(credential::origin_not_allowed().into());
    }
    if facts.kind.is_publishable() && !route.is_publishable(waiting.method()) {
        let message = "a publishable key cannot be used with this method here";
        return Err(Denial::forbidden("METHOD_NOT_ALLOWED_FOR_KEY", message));
    }
    Ok(())
}

/// How the limit stands, where the request was admitted.
fn judged(decision: &Decision, meter: &str, now: DateTime<Utc>) -> Result<Option<Standing>, Denial> {
    let standing = Standing::of(decision, now);
    match decision.denial {
        None => Ok(standing),
        Some(denial) => Err(Denial::of_quota(denial, meter, decision, standing)),
    }
}
