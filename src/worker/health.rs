//! Keeps `grpc.health.v1` honest: serving while the database answers and the service is not draining.

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::repository::database::Database;

/// The services whose health is told, apart from the empty name, which stands for all.
pub const SERVICES: &[&str] = &[
    "envoy.service.accesslog.v3.AccessLogService",
    "envoy.service.auth.v3.Authorization",
    "envoy.service.rate_limit_quota.v3.RateLimitQuotaService",
    "envoy.service.ratelimit.v3.RateLimitService",
    "tenancy.v1.ApiKeyService",
    "tenancy.v1.AuditService",
    "tenancy.v1.InvitationService",
    "tenancy.v1.LimitService",
    "tenancy.v1.MemberService",
    "tenancy.v1.MeterService",
    "tenancy.v1.OrganizationService",
    "tenancy.v1.PermissionService",
    "tenancy.v1.PlanService",
    "tenancy.v1.QuotaService",
    "tenancy.v1.RateLimitDomainService",
    "tenancy.v1.RoleService",
    "tenancy.v1.TeamService",
    "tenancy.v1.TokenService",
    "tenancy.v1.UsageService",
    "tenancy.v1.UserService",
];

/// Reports until `draining`, and then that nothing is served any more.
pub async fn run(reporter: HealthReporter, database: Database, draining: CancellationToken) {
    let mut reachable = database.watch_reachable();
    loop {
        let status = match *reachable.borrow_and_update() {
            _ if draining.is_cancelled() => ServingStatus::NotServing,
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in SERVICES.iter().chain(&[""]) {
            reporter.set_service_status(*service, status).await;
        }
        if draining.is_cancelled() {
            return;
        }
        tokio::select! {
            changed = reachable.changed() => if changed.is_err() { return },
            () = draining.cancelled() => {}
        }
    }
}
