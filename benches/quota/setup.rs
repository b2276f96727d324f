//! What is called: tenants with a plan and keys, made over the API, and the requests.

use std::net::SocketAddr;
use std::sync::Arc;

use prost_types::FieldMask;
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
/// Limited for the organization alone, and for the key too.
const ONE: &str = "one_limit";
const TWO: &str = "two_limits";

/// What is called, of each kind one for every tenant.
#[derive(Debug)]
pub struct Targets {
    pub floor: Vec<Arc<Target>>,
    pub bare: Vec<Arc<Target>>,
    pub layers: Vec<Arc<Target>>,
    pub check: Vec<Arc<Target>>,
    pub consume_one: Vec<Arc<Target>>,
    pub consume_two: Vec<Arc<Target>>,
    pub verify: Vec<Arc<Target>>,
}

/// Makes them.
pub async fn targets(server: &Server, service: SocketAddr, [floor, bare]: [SocketAddr; 2]) -> Result<Targets, Failure> {
    let channel = server.connect().await?;
    let mut meters = MeterServiceClient::new(channel.clone());
    for key in [ONE, TWO] {
        let meter = v1::Meter {
            key: key.into(),
            display_name: key.into(),
            aggregation: v1::MeterAggregation::Sum.into(),
            ..v1::Meter::default()
        };
        let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
        meters.create_meter(keyed(request, &server.operator)?).await?;
    }
    let rules = [
        monthly(ONE, v1::SubjectKind::Organization),
        monthly(TWO, v1::SubjectKind::Organization),
        monthly(TWO, v1::SubjectKind::ApiKey),
    ];
    let limits = rules.map(|rule| v1::PlanLimit { rule: Some(rule), ..v1::PlanLimit::default() }).to_vec();
    let plan = v1::Plan { key: PLAN.into(), display_name: PLAN.into(), limits, ..v1::Plan::default() };
    let request = v1::CreatePlanRequest { plan: Some(plan), ..Default::default() };
    PlanServiceClient::new(channel.clone()).create_plan(keyed(request, &server.operator)?).await?;

    let health = frame(&HealthCheckRequest::default())?;
    let to = |address, path, key: &str, request, check: Check| {
        Arc::new(Target { address, path, key: key.to_owned(), request, check })
    };
    let health_path = "/grpc.health.v1.Health/Check";
    let mut targets = Targets {
        floor: vec![to(floor, health_path, "", health.clone(), is_serving)],
        bare: vec![to(bare, health_path, "", health.clone(), is_serving)],
        layers: vec![to(service, health_path, "", health, is_serving)],
        check: Vec::new(),
        consume_one: Vec::new(),
        consume_two: Vec::new(),
        verify: Vec::new(),
    };
    let mut organizations = OrganizationServiceClient::new(channel);
    for number in 0..TENANTS {
        let (organization_id, key) = server.tenant(&format!("tenant-{number}"), &["quota.consume"]).await?;
        let organization = v1::Organization { organization_id, plan: PLAN.into(), ..v1::Organization::default() };
        let update_mask = Some(FieldMask { paths: vec!["plan".into()] });
        let request =
            v1::UpdateOrganizationRequest { organization: Some(organization), update_mask, ..Default::default() };
        organizations.update_organization(keyed(request, &server.operator)?).await?;

        let consume = |meter: &str| v1::ConsumeQuotaRequest { meter: meter.into(), amount: 1, ..Default::default() };
        let path = "/tenancy.v1.QuotaService/ConsumeQuota";
        targets.consume_one.push(to(service, path, &key, frame(&consume(ONE))?, is_allowed));
        targets.consume_two.push(to(service, path, &key, frame(&consume(TWO))?, is_allowed));
        let check = v1::CheckQuotaRequest { meter: TWO.into(), amount: 1, ..Default::default() };
        let path = "/tenancy.v1.QuotaService/CheckQuota";
        targets.check.push(to(service, path, &key, frame(&check)?, is_allowed));
        let verify = v1::VerifyApiKeyRequest { api_key: key, ..Default::default() };
        let path = "/tenancy.v1.ApiKeyService/VerifyApiKey";
        targets.verify.push(to(service, path, &server.operator, frame(&verify)?, is_serving));
    }
    Ok(targets)
}

fn monthly(meter: &str, subject_kind: v1::SubjectKind) -> v1::LimitRule {
    v1::LimitRule {
        meter: meter.into(),
        subject_kind: subject_kind.into(),
        window: Some(v1::Window { unit: v1::WindowUnit::Month.into(), rolling: false }),
        amount: Some(AMPLE),
        ..v1::LimitRule::default()
    }
}

/// The first field is 1: SERVING of a health check, VALID of a key.
fn is_serving(reply: &[u8]) -> bool {
    reply.starts_with(&[8, 1])
}

/// The first field is a message whose first field is 1: a decision that admits.
fn is_allowed(reply: &[u8]) -> bool {
    let length = reply.iter().skip(1).take_while(|byte| **byte >= 0x80).count() + 1;
    reply.get(1 + length..).is_some_and(is_serving)
}
