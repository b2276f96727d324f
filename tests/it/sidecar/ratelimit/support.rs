//! What the tests of rate limits share: rules, descriptors, and short questions.

use tenancy::auth::permission::Permission;
use tenancy::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tenancy::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use tenancy::proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus};
use tenancy::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tenancy::proto::v1;
use tenancy::proto::v1::rate_limit_rule::Limit;
use tonic::Status;

use crate::harness::{Client, World};

/// The domain of most tests.
pub const EDGE: &str = "edge";

/// A sidecar that may ask for all organizations.
pub async fn sidecar(world: &World) -> Client {
    world.service(&[Permission::Sidecar], &[]).await
}

/// A rule without a limit.
pub fn rule(key: &str, value: &str) -> v1::RateLimitRule {
    v1::RateLimitRule { key: key.into(), value: value.into(), ..v1::RateLimitRule::default() }
}

/// A rule with so many in a unit.
pub fn own(key: &str, value: &str, requests_per_unit: u32, unit: v1::RateLimitUnit) -> v1::RateLimitRule {
    let limit = v1::RateLimit { requests_per_unit, unit: unit.into(), unlimited: false };
    v1::RateLimitRule { limit: Some(Limit::RateLimit(limit)), ..rule(key, value) }
}

/// So many a day.
pub fn daily(key: &str, value: &str, requests: u32) -> v1::RateLimitRule {
    own(key, value, requests, v1::RateLimitUnit::Day)
}

/// A rule without any limit at all.
pub fn unlimited(key: &str, value: &str) -> v1::RateLimitRule {
    let limit = v1::RateLimit { unlimited: true, ..v1::RateLimit::default() };
    v1::RateLimitRule { limit: Some(Limit::RateLimit(limit)), ..rule(key, value) }
}

/// A rule that leads to the limits of a tenant.
pub fn of_tenant(key: &str, meter: &str, tenant_key: &str) -> v1::RateLimitRule {
    let limit = v1::TenantRateLimit { meter: meter.into(), tenant_key: tenant_key.into() };
    v1::RateLimitRule { limit: Some(Limit::TenantLimit(limit)), ..rule(key, "") }
}

/// A domain with these rules, for the wire.
pub fn domain(name: &str, rules: Vec<v1::RateLimitRule>) -> v1::RateLimitDomain {
    v1::RateLimitDomain { domain: name.into(), rules, ..v1::RateLimitDomain::default() }
}

/// Creates a domain.
pub async fn create(client: &Client, created: v1::RateLimitDomain) -> Result<v1::RateLimitDomain, Status> {
    let request = v1::CreateRateLimitDomainRequest { rate_limit_domain: Some(created), ..Default::default() };
    Ok(client.rate_limit_domains().create_rate_limit_domain(request).await?.into_inner().rate_limit_domain.unwrap())
}

/// Replaces the rules of a domain.
pub async fn update(client: &Client, changed: v1::RateLimitDomain) -> Result<v1::RateLimitDomain, Status> {
    let request = v1::UpdateRateLimitDomainRequest { rate_limit_domain: Some(changed), ..Default::default() };
    Ok(client.rate_limit_domains().update_rate_limit_domain(request).await?.into_inner().rate_limit_domain.unwrap())
}

/// A domain as it is.
pub async fn get(client: &Client, name: &str) -> Result<v1::RateLimitDomain, Status> {
    let request = v1::GetRateLimitDomainRequest { domain: name.into() };
    Ok(client.rate_limit_domains().get_rate_limit_domain(request).await?.into_inner().rate_limit_domain.unwrap())
}

/// A service with the domain [`EDGE`], and a sidecar of it.
pub async fn with_rules(rules: Vec<v1::RateLimitRule>) -> (World, Client) {
    let world = World::start().await;
    create(&world.operator(), domain(EDGE, rules)).await.unwrap();
    let sidecar = sidecar(&world).await;
    (world, sidecar)
}

/// A descriptor of these entries.
pub fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entries = entries.iter().map(|(key, value)| Entry { key: (*key).into(), value: (*value).into() }).collect();
    RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }
}

/// The same that takes so much.
pub fn taking(entries: &[(&str, &str)], hits: u64) -> RateLimitDescriptor {
    RateLimitDescriptor { hits_addend: Some(hits), ..descriptor(entries) }
}

/// The same that gives so much back.
pub fn giving_back(entries: &[(&str, &str)], hits: u64) -> RateLimitDescriptor {
    RateLimitDescriptor { is_negative_hits: true, ..taking(entries, hits) }
}

/// The same with a limit of its own.
pub fn bringing(entries: &[(&str, &str)], requests_per_unit: u32, unit: i32) -> RateLimitDescriptor {
    RateLimitDescriptor { limit: Some(RateLimitOverride { requests_per_unit, unit }), ..descriptor(entries) }
}

/// Asks in the domain [`EDGE`].
pub async fn ask(client: &Client, descriptors: Vec<RateLimitDescriptor>) -> Result<RateLimitResponse, Status> {
    let request = RateLimitRequest { domain: EDGE.into(), descriptors, hits_addend: 0 };
    Ok(client.rate_limits().should_rate_limit(request).await?.into_inner())
}

/// Asks about one descriptor; whether it is admitted, and its status.
pub async fn one(client: &Client, descriptor: RateLimitDescriptor) -> (bool, DescriptorStatus) {
    let reply = ask(client, vec![descriptor]).await.unwrap();
    assert_eq!(reply.statuses.len(), 1, "{reply:?}");
    let status = reply.statuses[0].clone();
    assert_eq!(reply.overall_code, status.code, "{reply:?}");
    (admitted(&reply), status)
}

/// Whether Envoy lets the request through. UNKNOWN would be taken for that, and is never said.
pub fn admitted(reply: &RateLimitResponse) -> bool {
    match reply.overall_code() {
        Code::Ok => true,
        Code::OverLimit => false,
        Code::Unknown => panic!("{reply:?}"),
    }
}

/// How many single hits of a descriptor are admitted one after the other.
pub async fn exhaust(client: &Client, entries: &[(&str, &str)]) -> u32 {
    let mut count = 0;
    while one(client, descriptor(entries)).await.0 {
        count += 1;
        assert!(count < 10_000, "there is no end to it");
    }
    count
}
