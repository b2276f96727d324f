//! What Envoys ask and tell: they authenticate, limit and meter the requests of tenants through us.
//!
//! A sidecar is a caller of its own (a service key with the scope `sidecar`, or a certificate); the tenant is whom the
//! request that it asks about belongs to. What `ext_authz` admitted is an [`admission::Admission`]: it goes to the Envoy in
//! dynamic metadata, and comes back with the access log.

pub mod access_log;
pub mod admission;
pub mod authz;
pub mod pending;
pub mod ratelimit;
pub mod rlqs;
mod seldom;
pub mod usage;

use std::sync::Arc;

use http::HeaderName;

use crate::auth::authenticator::Authenticator;
use crate::auth::last_used::LastUsed;
use crate::metering::recorder::Recorder;
use crate::proto::envoy::service::accesslog::v3::access_log_service_server::AccessLogServiceServer;
use crate::proto::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use crate::proto::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::RateLimitQuotaServiceServer;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use crate::quota::decisions::Decisions;
use crate::quota::rules::Rules;
use crate::service::Shared;
use crate::sidecar::access_log::{AccessLogs, Deliveries};
use crate::sidecar::authz::{Authz, Check, Identities};
use crate::sidecar::pending::Pending;
use crate::sidecar::ratelimit::{RateLimits, ShouldRateLimit};
use crate::sidecar::rlqs::RateLimitQuotas;
use crate::sidecar::seldom::Seldom;
use crate::transport::dispatch::Services;

/// All that the sidecars' services are made of.
#[derive(Clone, Debug)]
pub struct Ingredients {
    /// What every service works with.
    pub shared: Shared,
    /// Verifies the tenants' keys.
    pub authenticator: Arc<Authenticator>,
    /// Notes their use.
    pub last_used: Arc<LastUsed>,
    /// Decides about quotas.
    pub decisions: Decisions,
    /// Takes usage in.
    pub recorder: Recorder,
    /// The headers in which tenants send their credentials.
    pub credential_headers: Arc<[HeaderName]>,
    /// The requests whose log has not come.
    pub pending: Pending,
    /// The logs that are being recorded.
    pub deliveries: Deliveries,
    /// The rules of the rate limit service.
    pub rules: Arc<Rules>,
}

/// Registers the sidecars' services beside the others.
pub fn mount(services: &mut Services, ingredients: Ingredients) {
    let access_logs = AccessLogServiceServer::new(AccessLogs::new(&ingredients));
    services.add_service(access_logs.max_decoding_message_size(access_log::LARGEST));
    let Ingredients { shared, authenticator, last_used, decisions, credential_headers, pending, rules, .. } =
        ingredients;
    let quotas = RateLimitQuotas { shared: shared.clone(), decisions: decisions.clone() };
    services.add_service(RateLimitQuotaServiceServer::new(quotas));
    let limits =
        RateLimits { shared: shared.clone(), decisions: decisions.clone(), rules, warnings: Seldom::default() };
    let limits = Arc::new(limits);
    services.add_service(RateLimitServiceServer::from_arc(Arc::clone(&limits)));
    let authz = Arc::new(Authz {
        shared,
        authenticator,
        last_used,
        decisions,
        identities: Identities::new(credential_headers),
        pending,
        warnings: Seldom::default(),
    });
    services.add_service(AuthorizationServer::from_arc(Arc::clone(&authz)));
    // What is asked with every request of an Envoy.
    services.directly(Check(authz)).directly(ShouldRateLimit(limits));
}
