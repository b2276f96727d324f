//! What the tests of decisions share: a tenant with a meter and limits, and short questions.

use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, Tenant, World};
use crate::quota::support;
use crate::usage::support::create_meter;

/// A tenant with the meter `calls`, and these limits on it, made by the platform.
pub async fn limited(world: &World, rules: impl IntoIterator<Item = v1::LimitRule>) -> Tenant {
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    for rule in rules {
        limit(world, &tenant, rule).await;
    }
    tenant
}

/// A limit by the platform, for each subject.
pub async fn limit(world: &World, tenant: &Tenant, rule: v1::LimitRule) -> v1::Limit {
    support::create_limit(&world.operator(), support::limit(&tenant.id, rule)).await.unwrap()
}

/// So many calls in a month, for all of the organization.
pub fn monthly(amount: i64) -> v1::LimitRule {
    support::monthly("calls", amount)
}

/// The same for each key.
pub fn monthly_of_key(amount: i64) -> v1::LimitRule {
    v1::LimitRule { subject_kind: v1::SubjectKind::ApiKey.into(), ..monthly(amount) }
}

/// So many calls.
pub fn calls(amount: i64) -> v1::ConsumeQuotaRequest {
    v1::ConsumeQuotaRequest { meter: "calls".into(), amount, ..Default::default() }
}

/// Consumes.
pub async fn consume(client: &Client, request: v1::ConsumeQuotaRequest) -> Result<v1::ConsumeQuotaResponse, Status> {
    Ok(client.quotas().consume_quota(request).await?.into_inner())
}

/// Consumes so many calls.
pub async fn take(client: &Client, amount: i64) -> v1::QuotaDecision {
    consume(client, calls(amount)).await.unwrap().decision.unwrap()
}

/// What a check of so many calls says.
pub async fn check(client: &Client, amount: i64) -> v1::QuotaDecision {
    let request = v1::CheckQuotaRequest { meter: "calls".into(), amount, ..Default::default() };
    client.quotas().check_quota(request).await.unwrap().into_inner().decision.unwrap()
}

/// How many calls the one limit has used, as this replica knows.
pub async fn used(client: &Client) -> i64 {
    let decision = check(client, 0).await;
    assert_eq!(decision.limits.len(), 1, "{decision:?}");
    decision.limits[0].used
}

/// The limits of a meter, as the ledger has them.
pub async fn quota(client: &Client) -> Vec<v1::QuotaLimit> {
    let request = v1::GetQuotaRequest { meter: "calls".into(), ..Default::default() };
    client.quotas().get_quota(request).await.unwrap().into_inner().limits
}

/// A reservation of so many calls.
pub fn reservation(amount: i64) -> v1::ReserveQuotaRequest {
    v1::ReserveQuotaRequest { meter: "calls".into(), amount, ..Default::default() }
}

/// Reserves.
pub async fn reserve(client: &Client, request: v1::ReserveQuotaRequest) -> v1::ReserveQuotaResponse {
    client.quotas().reserve_quota(request).await.unwrap().into_inner()
}

/// Settles a reservation: what it was settled with, and the overage.
pub async fn commit(client: &Client, reservation_id: &str, amount: i64) -> Result<(i64, i64), Status> {
    let request =
        v1::CommitQuotaRequest { reservation_id: reservation_id.into(), amount, organization_id: String::new() };
    let settled = client.quotas().commit_quota(request).await?.into_inner();
    Ok((settled.settled, settled.overage))
}

/// Settles a reservation with nothing: what it was settled with.
pub async fn release(client: &Client, reservation_id: &str) -> Result<i64, Status> {
    let request = v1::ReleaseQuotaRequest { reservation_id: reservation_id.into(), ..Default::default() };
    Ok(client.quotas().release_quota(request).await?.into_inner().settled)
}
