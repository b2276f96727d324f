//! The cases of plans and limits, and what a tenant has of them.

use prost_types::FieldMask;
use tenancy::proto::v1;

use super::{Case, Furnished, case};
use crate::harness::World;

/// A rule on a meter.
pub fn rule(meter: &str) -> v1::LimitRule {
    v1::LimitRule {
        meter: meter.into(),
        subject_kind: v1::SubjectKind::User.into(),
        window: Some(v1::Window { unit: v1::WindowUnit::Day.into(), rolling: false }),
        amount: Some(1_000),
        ..v1::LimitRule::default()
    }
}

/// A row in each table of the ledger, of nothing that anybody asks for.
pub async fn ledger(world: &World, organization_id: &str) {
    for row in [
        "INSERT INTO tenancy.quota_accounts VALUES ($1::uuid, 'user', gen_random_uuid(), gen_random_uuid(),
             'calendar_day', 1000, 10, '{}', now() + interval '1 hour')",
        "INSERT INTO tenancy.quota_operations VALUES ($1::uuid, gen_random_uuid(), '', '', now())",
    ] {
        sqlx::query(row).bind(organization_id).execute(&world.database.superuser).await.unwrap();
    }
}

/// The cases, for a victim.
pub fn cases(victim: &Furnished) -> Vec<Case> {
    let organization_id = || victim.tenant.id.clone();
    let mask = |path: &str| Some(FieldMask { paths: vec![path.into()] });
    let limit = |organization_id: String| v1::Limit {
        organization_id,
        limit_id: victim.limit_id.clone(),
        rule: Some(v1::LimitRule { shadow: true, ..rule(&format!("{}.callers", victim.tenant.slug)) }),
        ..v1::Limit::default()
    };
    vec![
        case("/tenancy.v1.LimitService/CreateLimit")
            .organization(v1::CreateLimitRequest { limit: Some(limit(organization_id())), ..Default::default() })
            .resource(
                v1::CreateLimitRequest { limit: Some(limit(String::new())), ..Default::default() },
                "METER_NOT_FOUND",
            ),
        case("/tenancy.v1.LimitService/GetLimit")
            .organization(v1::GetLimitRequest { organization_id: organization_id(), limit_id: victim.limit_id.clone() })
            .resource(
                v1::GetLimitRequest { limit_id: victim.limit_id.clone(), ..Default::default() },
                "LIMIT_NOT_FOUND",
            ),
        case("/tenancy.v1.LimitService/ListLimits")
            .organization(v1::ListLimitsRequest { organization_id: organization_id(), ..Default::default() })
            .resource(
                v1::ListLimitsRequest { meter: victim.meter_id.clone(), ..Default::default() },
                "METER_NOT_FOUND",
            ),
        case("/tenancy.v1.LimitService/UpdateLimit")
            .organization(v1::UpdateLimitRequest {
                limit: Some(limit(organization_id())),
                update_mask: mask("rule.shadow"),
            })
            .resource(
                v1::UpdateLimitRequest { limit: Some(limit(String::new())), update_mask: mask("rule.shadow") },
                "LIMIT_NOT_FOUND",
            ),
        case("/tenancy.v1.LimitService/DeleteLimit")
            .organization(v1::DeleteLimitRequest {
                organization_id: organization_id(),
                limit_id: victim.limit_id.clone(),
                ..Default::default()
            })
            .resource(
                v1::DeleteLimitRequest { limit_id: victim.limit_id.clone(), ..Default::default() },
                "LIMIT_NOT_FOUND",
            ),
        // Plans belong to nobody, and name no organization.
        case("/tenancy.v1.PlanService/CreatePlan"),
        case("/tenancy.v1.PlanService/GetPlan"),
        case("/tenancy.v1.PlanService/ListPlans"),
        case("/tenancy.v1.PlanService/UpdatePlan"),
        case("/tenancy.v1.PlanService/ArchivePlan"),
        // Nor do the rules of the rate limit service.
        case("/tenancy.v1.RateLimitDomainService/CreateRateLimitDomain"),
        case("/tenancy.v1.RateLimitDomainService/DeleteRateLimitDomain"),
        case("/tenancy.v1.RateLimitDomainService/GetRateLimitDomain"),
        case("/tenancy.v1.RateLimitDomainService/ListRateLimitDomains"),
        case("/tenancy.v1.RateLimitDomainService/UpdateRateLimitDomain"),
        case("/tenancy.v1.PlanService/GetEntitlements")
            .organization(v1::GetEntitlementsRequest { organization_id: organization_id() }),
    ]
}
