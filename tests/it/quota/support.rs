//! What the tests of quotas share: rules for the wire, and short calls.

use prost_types::FieldMask;
use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, refused};
use tonic::Code;

/// A calendar window.
pub fn calendar(unit: v1::WindowUnit) -> Option<v1::Window> {
    Some(v1::Window { unit: unit.into(), rolling: false })
}

/// A rolling window.
pub fn rolling(unit: v1::WindowUnit) -> Option<v1::Window> {
    Some(v1::Window { unit: unit.into(), rolling: true })
}

/// So much of a meter in a month, for the organization.
pub fn monthly(meter: &str, amount: i64) -> v1::LimitRule {
    v1::LimitRule {
        meter: meter.into(),
        subject_kind: v1::SubjectKind::Organization.into(),
        window: calendar(v1::WindowUnit::Month),
        amount: Some(amount),
        ..v1::LimitRule::default()
    }
}

/// A rule with every field that there is.
pub fn full(meter: &str) -> v1::LimitRule {
    v1::LimitRule {
        subject_kind: v1::SubjectKind::ApiKey.into(),
        window: rolling(v1::WindowUnit::Minute),
        amount: Some(1_000_000_000),
        burst: 1_000_000_000,
        enforcement: v1::LimitEnforcement::Soft.into(),
        shadow: true,
        fallback: v1::LimitFallback::Deny.into(),
        alert_percents: vec![1, 50, 90, 100, 1000],
        ..monthly(meter, 0)
    }
}

/// The rule as it is returned: HARD where nothing was said.
pub fn returned(rule: v1::LimitRule) -> v1::LimitRule {
    let enforcement = match rule.enforcement() {
        v1::LimitEnforcement::Unspecified => v1::LimitEnforcement::Hard,
        named => named,
    };
    v1::LimitRule { enforcement: enforcement.into(), ..rule }
}

/// A mask of these fields.
pub fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() })
}

/// A plan with these limits.
pub fn plan(key: &str, rules: Vec<v1::LimitRule>) -> v1::Plan {
    v1::Plan {
        key: key.into(),
        display_name: key.to_uppercase(),
        limits: rules.into_iter().map(|rule| v1::PlanLimit { rule: Some(rule), ..v1::PlanLimit::default() }).collect(),
        ..v1::Plan::default()
    }
}

pub async fn create_plan(client: &Client, plan: v1::Plan) -> Result<v1::Plan, Status> {
    let request = v1::CreatePlanRequest { plan: Some(plan), ..Default::default() };
    Ok(client.plans().create_plan(request).await?.into_inner().plan.unwrap())
}

pub async fn get_plan(client: &Client, plan: &str, version: i64) -> Result<v1::Plan, Status> {
    let request = v1::GetPlanRequest { plan: plan.into(), version };
    Ok(client.plans().get_plan(request).await?.into_inner().plan.unwrap())
}

pub async fn update_plan(client: &Client, plan: v1::Plan, paths: &[&str]) -> Result<v1::Plan, Status> {
    let request = v1::UpdatePlanRequest { plan: Some(plan), update_mask: mask(paths) };
    Ok(client.plans().update_plan(request).await?.into_inner().plan.unwrap())
}

pub async fn archive_plan(client: &Client, plan: &str, etag: &str) -> Result<v1::Plan, Status> {
    let request = v1::ArchivePlanRequest { plan: plan.into(), etag: etag.into() };
    Ok(client.plans().archive_plan(request).await?.into_inner().plan.unwrap())
}

/// A limit of the organization, or with an empty one of the caller's own.
pub fn limit(organization: &str, rule: v1::LimitRule) -> v1::Limit {
    v1::Limit { organization_id: organization.into(), rule: Some(rule), ..v1::Limit::default() }
}

pub async fn create_limit(client: &Client, limit: v1::Limit) -> Result<v1::Limit, Status> {
    let request = v1::CreateLimitRequest { limit: Some(limit), ..Default::default() };
    Ok(client.limits().create_limit(request).await?.into_inner().limit.unwrap())
}

pub async fn update_limit(client: &Client, limit: v1::Limit, paths: &[&str]) -> Result<v1::Limit, Status> {
    let request = v1::UpdateLimitRequest { limit: Some(limit), update_mask: mask(paths) };
    Ok(client.limits().update_limit(request).await?.into_inner().limit.unwrap())
}

/// The fields that a refusal names, sorted.
pub fn wrong_fields<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Vec<String> {
    let refusal = refused(outcome);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    let mut fields = refusal.fields;
    fields.sort();
    fields
}
