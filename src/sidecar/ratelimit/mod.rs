//! `envoy.service.ratelimit.v3.RateLimitService`: descriptors of requests, decided by the rules of their domain or by the limits
//! of the tenant they name.
//!
//! `question` reads what is asked, `course` finds what limits a descriptor, `taking` decides about all of them or none, `reply`
//! says what came of it. Two traps of Envoy shape this: UNKNOWN is taken for an admission, so a fault is an error of the call;
//! and a tenant that is not known must not be admitted by mistake, so it is over its limit.

mod course;
mod question;
mod reply;
mod taking;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::principal::Caller;
use crate::error::Error;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use crate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::quota::decisions::Decisions;
use crate::quota::rules::Rules;
use crate::service::{Shared, open};
use crate::sidecar::seldom::Seldom;
use crate::transport::dispatch::Direct;

/// The service.
#[derive(Clone, Debug)]
pub struct RateLimits {
    /// What it works with.
    pub shared: Shared,
    /// Decides.
    pub decisions: Decisions,
    /// The rules in memory.
    pub rules: Arc<Rules>,
    /// Of faults: while the database is away, every request has one.
    pub warnings: Seldom,
}

/// `ShouldRateLimit`, answered directly.
#[derive(Debug)]
pub struct ShouldRateLimit(pub Arc<RateLimits>);

impl Direct for ShouldRateLimit {
    const PATH: &'static str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    type Request = RateLimitRequest;
    type Reply = RateLimitResponse;

    async fn answer(&self, caller: &Caller, request: RateLimitRequest) -> Result<RateLimitResponse, Error> {
        self.0.answer(caller, &request).await
    }
}

#[tonic::async_trait]
impl RateLimitService for RateLimits {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.answer(&caller, &request).await?))
    }
}

impl RateLimits {
    /// Whether a request is within its limits.
    async fn answer(&self, caller: &Caller, request: &RateLimitRequest) -> Result<RateLimitResponse, Error> {
        self.decide(caller, request).await.inspect_err(|error| {
            // Envoy lets the request through unless it is told otherwise: somebody should know.
            let is_told_elsewhere =
                matches!(error, Error::Invalid(_) | Error::InvalidRequest { .. } | Error::Internal(_));
            if !is_told_elsewhere && self.warnings.is_due(self.shared.clock.now()) {
                tracing::warn!(%error, domain = request.domain, "a rate limit could not be decided");
            }
        })
    }

    async fn decide(&self, caller: &Caller, request: &RateLimitRequest) -> Result<RateLimitResponse, Error> {
        let questions = question::read(request)?;
        let outcomes = self.take_all(caller, &request.domain, &questions).await?;
        Ok(reply::reply(&outcomes, caller.at().wall))
    }
}
