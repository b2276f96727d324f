//! What is called: an Envoy's questions about requests of tenants, and the same in two calls.

use std::net::SocketAddr;
use std::sync::Arc;

use prost_types::{Duration, FieldMask};
use tenancy::proto::envoy::config::core::v3::address::Address as SocketOrPipe;
use tenancy::proto::envoy::config::core::v3::{Address, SocketAddress};
use tenancy::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tenancy::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use tenancy::proto::envoy::service::auth::v3::attribute_context::http_request::HeadersEntry;
use tenancy::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use tenancy::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tenancy::proto::envoy::service::ratelimit::v3::RateLimitRequest;
use tenancy::proto::v1;
use tenancy::proto::v1::meter_service_client::MeterServiceClient;
use tenancy::proto::v1::organization_service_client::OrganizationServiceClient;
use tenancy::proto::v1::plan_service_client::PlanServiceClient;
use tonic_health::pb::HealthCheckRequest;

use crate::support::Failure;
use crate::support::server::{Server, keyed};
use crate::wire::{Check, Target, frame};

const TENANTS: usize = 16;
/// More than any bench consumes: what a limit admits at the most.
const AMPLE: i64 = 1_000_000_000_000_000;
const PLAN: &str = "bench";
const METER: &str = "calls";

/// The headers of a request as a browser behind a load balancer sends it, but for the key.
const HEADERS: [(&str, &str); 24] = [
    (":authority", "api.example.com"),
    (":method", "GET"),
    (":path", "/v1/projects/8f14e45f/documents?page_size=50&order_by=create_time"),
    (":scheme", "https"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-US,en;q=0.9,de;q=0.8"),
    ("cache-control", "no-cache"),
    ("content-type", "application/json"),
    ("cookie", "session=eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0; theme=dark; consent=analytics"),
    ("dnt", "1"),
    ("origin", "https://app.example.com"),
    ("pragma", "no-cache"),
    ("referer", "https://app.example.com/projects/8f14e45f"),
    ("sec-ch-ua", "\"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"macOS\""),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-site"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("user-agent", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "6a26a4ee-4a90-4d7b-afa2-ade23aee34b2"),
];

/// What is called, of each kind one for every tenant.
#[derive(Debug)]
pub struct Targets {
    pub floor: Vec<Arc<Target>>,
    pub bare: Vec<Arc<Target>>,
    pub layers: Vec<Arc<Target>>,
    pub limited: Vec<Arc<Target>>,
    pub check: Vec<Arc<Target>>,
    pub metered: Vec<Arc<Target>>,
    pub settled: Vec<Arc<Target>>,
    pub verify: Vec<Arc<Target>>,
    pub reserve: Vec<Arc<Target>>,
}

/// Makes them.
pub async fn targets(server: &Server, [floor, bare]: [SocketAddr; 2]) -> Result<Targets, Failure> {
    let channel = server.connect().await?;
    let meter = v1::Meter {
        key: METER.into(),
        display_name: METER.into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    MeterServiceClient::new(channel.clone()).create_meter(keyed(request, &server.operator)?).await?;
    let limits = [v1::SubjectKind::Organization, v1::SubjectKind::ApiKey].map(|subject_kind| v1::PlanLimit {
        rule: Some(v1::LimitRule {
            meter: METER.into(),
            subject_kind: subject_kind.into(),
            window: Some(v1::Window { unit: v1::WindowUnit::Month.into(), rolling: false }),
            amount: Some(AMPLE),
            ..v1::LimitRule::default()
        }),
        ..v1::PlanLimit::default()
    });
    let limits = limits.to_vec();
    let plan = v1::Plan { key: PLAN.into(), display_name: PLAN.into(), limits, ..v1::Plan::default() };
    let request = v1::CreatePlanRequest { plan: Some(plan), ..Default::default() };
    PlanServiceClient::new(channel.clone()).create_plan(keyed(request, &server.operator)?).await?;

    let service = server.running.grpc;
    let health = frame(&HealthCheckRequest::default())?;
    let to = |address, path, key: &str, request, check: Check| {
        Arc::new(Target { address, path, key: key.to_owned(), request, check })
    };
    let health_path = "/grpc.health.v1.Health/Check";
    let mut targets = Targets {
        floor: vec![to(floor, health_path, "", health.clone(), is_good)],
        bare: vec![to(bare, health_path, "", health.clone(), is_good)],
        layers: vec![to(service, health_path, "", health, is_good)],
        limited: Vec::new(),
        check: Vec::new(),
        metered: Vec::new(),
        settled: Vec::new(),
        verify: Vec::new(),
        reserve: Vec::new(),
    };
    let mut organizations = OrganizationServiceClient::new(channel);
    for number in 0..TENANTS {
        let (organization_id, key) = server.tenant(&format!("tenant-{number}"), &["quota.consume"]).await?;
        let path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
        targets.limited.push(to(service, path, &server.operator, frame(&descriptor(&organization_id))?, is_good));
        let organization = v1::Organization { organization_id, plan: PLAN.into(), ..v1::Organization::default() };
        let update_mask = Some(FieldMask { paths: vec!["plan".into()] });
        let request =
            v1::UpdateOrganizationRequest { organization: Some(organization), update_mask, ..Default::default() };
        organizations.update_organization(keyed(request, &server.operator)?).await?;

        let path = "/envoy.service.auth.v3.Authorization/Check";
        let asks = |route: &[(&str, &str)]| frame(&waiting(&key, route));
        targets.check.push(to(service, path, &server.operator, asks(&[])?, passes));
        targets.metered.push(to(service, path, &server.operator, asks(&[("meter", METER)])?, passes));
        let reserved = asks(&[("meter", METER), ("settle", "requests"), ("reserve_ttl", "1s")])?;
        targets.settled.push(to(service, path, &server.operator, reserved, passes));
        let verify = v1::VerifyApiKeyRequest { api_key: key.clone(), ..Default::default() };
        let path = "/tenancy.v1.ApiKeyService/VerifyApiKey";
        targets.verify.push(to(service, path, &server.operator, frame(&verify)?, is_good));
        let ttl = Some(Duration { seconds: 1, nanos: 0 });
        let reserve = v1::ReserveQuotaRequest { meter: METER.into(), amount: 1, ttl, ..Default::default() };
        let path = "/tenancy.v1.QuotaService/ReserveQuota";
        targets.reserve.push(to(service, path, &key, frame(&reserve)?, |reply| reply.len() > 100));
    }
    Ok(targets)
}

/// What an Envoy asks of a request of a tenant.
fn descriptor(tenant: &str) -> RateLimitRequest {
    let entry = |(key, value): (&str, &str)| Entry { key: key.into(), value: value.into() };
    let entries = [("tenant", tenant), ("meter", METER)].map(entry).to_vec();
    let descriptor = RateLimitDescriptor { entries, ..RateLimitDescriptor::default() };
    RateLimitRequest { domain: "edge".into(), descriptors: vec![descriptor], hits_addend: 0 }
}

/// What an Envoy says of a request of 25 headers.
fn waiting(key: &str, route: &[(&str, &str)]) -> CheckRequest {
    let texts = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let headers = HEADERS.iter().copied().chain([("x-api-key", key)]);
    let entry =
        |(name, value): (&str, &str)| HeadersEntry { key: name.to_owned().into(), value: value.to_owned().into() };
    let headers = headers.map(entry).collect();
    let http = HttpRequest {
        id: "7488823600515894791".into(),
        method: "GET".into(),
        path: HEADERS[2].1.into(),
        host: HEADERS[0].1.into(),
        headers,
        ..HttpRequest::default()
    };
    let address = SocketOrPipe::SocketAddress(SocketAddress { address: "203.0.113.7".into() });
    let attributes = AttributeContext {
        source: Some(Peer { address: Some(Address { address: Some(address) }) }),
        request: Some(Request { http: Some(http) }),
        context_extensions: route.iter().map(texts).collect(),
    };
    CheckRequest { attributes: Some(attributes) }
}

/// The first field is 1: SERVING of a health check, VALID of a key, OK of a rate limit.
fn is_good(reply: &[u8]) -> bool {
    reply.starts_with(&[8, 1])
}

/// The first field is an empty message: the status OK.
fn passes(reply: &[u8]) -> bool {
    reply.starts_with(&[10, 0])
}
