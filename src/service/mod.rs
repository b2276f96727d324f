//! The gRPC services, one file a resource. A handler is validate → authorize → repository → reply.

pub mod api_key;
pub mod audit_event;
pub mod convert;
pub mod idempotency;
pub mod invitation;
pub mod limit;
pub mod member;
pub mod meter;
pub mod organization;
pub mod permission;
pub mod plan;
pub mod quota;
pub mod rate_limit_domain;
pub mod role;
pub mod team;
pub mod token;
pub mod usage;
pub mod user;

use std::sync::Arc;

use chrono::TimeDelta;
use tonic::{Request, Status};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::auth::authenticator::Authenticator;
use crate::auth::gate::Gate;
use crate::auth::last_used::LastUsed;
use crate::auth::principal::Caller;
use crate::clock::Clock;
use crate::error::{Error, Violation};
use crate::metering::catalog::Catalog;
use crate::metering::recorder::Recorder;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::v1::api_key_service_server::ApiKeyServiceServer;
use crate::proto::v1::audit_service_server::AuditServiceServer;
use crate::proto::v1::invitation_service_server::InvitationServiceServer;
use crate::proto::v1::limit_service_server::LimitServiceServer;
use crate::proto::v1::member_service_server::MemberServiceServer;
use crate::proto::v1::meter_service_server::MeterServiceServer;
use crate::proto::v1::organization_service_server::OrganizationServiceServer;
use crate::proto::v1::permission_service_server::PermissionServiceServer;
use crate::proto::v1::plan_service_server::PlanServiceServer;
use crate::proto::v1::quota_service_server::QuotaServiceServer;
use crate::proto::v1::rate_limit_domain_service_server::RateLimitDomainServiceServer;
use crate::proto::v1::role_service_server::RoleServiceServer;
use crate::proto::v1::team_service_server::TeamServiceServer;
use crate::proto::v1::token_service_server::TokenServiceServer;
use crate::proto::v1::usage_service_server::UsageServiceServer;
use crate::proto::v1::user_service_server::UserServiceServer;
use crate::quota::decisions::Decisions;
use crate::repository::allowance::Allowance;
use crate::repository::database::Database;
use crate::service::api_key::{ApiKeys, VerifyApiKey};
use crate::service::audit_event::Audit;
use crate::service::invitation::Invitations;
use crate::service::limit::Limits;
use crate::service::member::Members;
use crate::service::meter::Meters;
use crate::service::organization::Organizations;
use crate::service::permission::PermissionsOf;
use crate::service::plan::Plans;
use crate::service::quota::{CheckQuota, ConsumeQuota, Quotas};
use crate::service::rate_limit_domain::RateLimitDomains;
use crate::service::role::Roles;
use crate::service::team::Teams;
use crate::service::token::TokensOf;
use crate::service::usage::{Intake, RecordUsage, Usage};
use crate::service::user::Users;
use crate::transport::dispatch::Services;

/// What every service works with.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Where scopes come from.
    pub database: Database,
    /// Lets callers in.
    pub gate: Gate,
    /// The time.
    pub clock: Clock,
}

/// All that the services are made of.
#[derive(Clone, Debug)]
pub struct Ingredients {
    /// What every one works with.
    pub shared: Shared,
    /// Verifies keys and tokens.
    pub authenticator: Arc<Authenticator>,
    /// Notes their use.
    pub last_used: Arc<LastUsed>,
    /// The meters in memory.
    pub catalog: Arc<Catalog>,
    /// Takes usage in.
    pub recorder: Recorder,
    /// Decides about quotas.
    pub decisions: Decisions,
    /// How long raw usage events are kept.
    pub usage_retention: TimeDelta,
    /// How long a deleted organization can be brought back.
    pub purge_after: TimeDelta,
    /// How often a user may found an organization.
    pub organizations: Allowance,
    /// How often somebody may invite.
    pub invitations: Allowance,
}

/// Every service there is, with health and reflection, but those of the sidecars: the one place where they are registered.
pub fn services(
    ingredients: Ingredients,
    health: HealthServer<impl Health>,
) -> Result<Services, tonic_reflection::server::Error> {
    let Ingredients { shared, authenticator, last_used, catalog, recorder, decisions, .. } = ingredients;
    let Ingredients { usage_retention, purge_after, organizations, invitations, .. } = ingredients;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients can show the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let keys = Arc::new(ApiKeys {
        shared: shared.clone(),
        authenticator: Arc::clone(&authenticator),
        last_used: Arc::clone(&last_used),
    });
    let quotas = Arc::new(Quotas::new(shared.clone(), decisions, Arc::clone(&catalog), recorder.clone()));
    let intake = Arc::new(Intake { gate: shared.gate.clone(), recorder });
    let usage = Usage { shared: shared.clone(), catalog: Arc::clone(&catalog), intake, retention: usage_retention };
    let usage = Arc::new(usage);
    let mut services = Services::default();
    services
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(ApiKeyServiceServer::from_arc(Arc::clone(&keys)))
        .add_service(AuditServiceServer::new(Audit { shared: shared.clone() }))
        .add_service(InvitationServiceServer::new(Invitations { shared: shared.clone(), allowance: invitations }))
        .add_service(LimitServiceServer::new(Limits { shared: shared.clone(), catalog: Arc::clone(&catalog) }))
        .add_service(MemberServiceServer::new(Members { shared: shared.clone() }))
        .add_service(MeterServiceServer::new(Meters { shared: shared.clone(), catalog: Arc::clone(&catalog) }))
        .add_service(OrganizationServiceServer::new(Organizations {
            shared: shared.clone(),
            purge_after,
            allowance: organizations,
        }))
        .add_service(PermissionServiceServer::new(PermissionsOf { shared: shared.clone() }))
        .add_service(PlanServiceServer::new(Plans { shared: shared.clone(), catalog: Arc::clone(&catalog) }))
        .add_service(QuotaServiceServer::from_arc(Arc::clone(&quotas)))
        .add_service(RateLimitDomainServiceServer::new(RateLimitDomains { shared: shared.clone() }))
        .add_service(RoleServiceServer::new(Roles { shared: shared.clone() }))
        .add_service(TeamServiceServer::new(Teams { shared: shared.clone() }))
        .add_service(TokenServiceServer::new(TokensOf { shared: shared.clone(), authenticator, last_used }))
        .add_service(UsageServiceServer::from_arc(Arc::clone(&usage)))
        .add_service(UserServiceServer::new(Users { shared, allowance: organizations }));
    // What is asked with every request of the platform.
    services
        .directly(VerifyApiKey(keys))
        .directly(CheckQuota(Arc::clone(&quotas)))
        .directly(ConsumeQuota(quotas))
        .directly(RecordUsage(usage));
    Ok(services)
}

/// Takes a request apart into who sent it and what it says. The auth layer has put the caller there; without one the
/// service was mounted outside of it.
pub fn open<T>(mut request: Request<T>) -> Result<(Caller, T), Status> {
    let caller = request
        .extensions_mut()
        .remove::<Caller>()
        .ok_or_else(|| Error::internal("a request came past the auth layer without a caller"))?;
    Ok((caller, request.into_inner()))
}

/// The most rows of a batch that is written in one transaction.
const MOST_ROWS: usize = 500;

/// Fails unless a batch has 1 to 500 rows.
fn require_rows(field: &str, rows: usize) -> Result<(), Error> {
    if (1..=MOST_ROWS).contains(&rows) {
        return Ok(());
    }
    Err(Violation::new(field, format!("must be 1 to {MOST_ROWS}")).into())
}
