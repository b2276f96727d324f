//! The cases of what Envoys ask. They take a permission that no tenant can hold; what a sidecar whose key is bound to some
//! organizations learns of others is tested with each service.

use super::{Case, case};

/// The cases.
pub fn cases() -> Vec<Case> {
    [
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        "/envoy.service.auth.v3.Authorization/Check",
        "/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas",
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
    ]
    .map(case)
    .into()
}
