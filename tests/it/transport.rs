//! The way of a request through the layers, seen from the wire: deadlines, limits, broken connections, ids, health,
//! reflection, metrics, old connections and the drain.

mod connections;
mod pieces;
mod refused;
mod tls;
mod workloads;

use std::net::SocketAddr;

use prost::Message as _;
use prost_types::FieldMask;
use tenancy::proto::v1;
use tenancy::worker::health::SERVICES;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

use crate::harness::{Client, Lock, Tenant, Wire, World, admin, refused, taken_apart, waiting};

const UPDATE: &str = "/tenancy.v1.OrganizationService/UpdateOrganization";
const GET: &str = "/tenancy.v1.OrganizationService/GetOrganization";

/// Renames the key's own organization: takes the lock of its row.
fn rename() -> v1::UpdateOrganizationRequest {
    v1::UpdateOrganizationRequest {
        organization: Some(v1::Organization { display_name: "Renamed".into(), ..v1::Organization::default() }),
        update_mask: Some(FieldMask { paths: vec!["display_name".into()] }),
        validate_only: false,
    }
}

async fn organization(client: &Client) -> v1::Organization {
    let request = v1::GetOrganizationRequest::default();
    client.organizations().get_organization(request).await.unwrap().into_inner().organization.unwrap()
}

/// How many audit records there are, as the superuser sees them.
async fn audited(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM tenancy.audit_events").fetch_one(&world.database.superuser).await.unwrap()
}

/// A service, a tenant of it, and a second replica with flags. What the first one sets up is not bound by them.
async fn replica(flags: &[&str]) -> (World, Tenant, World) {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let replica = World::on(world.database.clone(), flags).await;
    (world, tenant, replica)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_deadline_is_kept() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let superuser = &world.database.superuser;
    let (before, audit) = (organization(&tenant.client).await, audited(&world).await);
    let lock = Lock::organization(superuser, &tenant.id).await;
    let wire = Wire::connect(world.running.grpc).await;
    for timeout in ["0n", "1m", "1000000u"] {
        let reply = wire.call(UPDATE, &[("x-api-key", &tenant.key), ("grpc-timeout", timeout)], rename()).await;
        let refusal = taken_apart(&reply.outcome.unwrap_err());
        assert!(refusal.is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{timeout}: {refusal:?}");
    }
    // Nobody goes on for a caller who has gone, although the row is still held.
    waiting(superuser, 0).await;
    lock.free().await;
    assert_eq!((organization(&tenant.client).await, audited(&world).await), (before, audit));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_deadline_the_services_own_is_kept() {
    let (world, tenant, replica) = replica(&["--request-timeout", "1s"]).await;
    let superuser = &world.database.superuser;
    let (before, audit) = (organization(&tenant.client).await, audited(&world).await);
    let lock = Lock::organization(superuser, &tenant.id).await;
    let wire = Wire::connect(replica.running.grpc).await;
    // One that is longer or makes no sense does not help.
    for timeout in [None, Some("1H"), Some("soon")] {
        let mut headers = vec![("x-api-key", tenant.key.as_str())];
        headers.extend(timeout.map(|timeout| ("grpc-timeout", timeout)));
        let refusal = taken_apart(&wire.call(UPDATE, &headers, rename()).await.outcome.unwrap_err());
        assert!(refusal.is(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{timeout:?}: {refusal:?}");
    }
    waiting(superuser, 0).await;
    lock.free().await;
    assert_eq!((organization(&tenant.client).await, audited(&world).await), (before, audit));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_too_many_is_refused_at_once() {
    let (world, tenant, replica) = replica(&["--requests-in-flight", "1"]).await;
    let superuser = &world.database.superuser;
    let client = replica.client(&tenant.key);
    let lock = Lock::organization(superuser, &tenant.id).await;
    let blocked = tokio::spawn({
        let client = client.clone();
        async move { client.organizations().update_organization(rename()).await }
    });
    waiting(superuser, 1).await;
    let wire = Wire::connect(replica.running.grpc).await;
    let reply = wire.call(GET, &[("x-api-key", &tenant.key)], v1::GetOrganizationRequest::default()).await;
    // The id is the outermost layer's: who asks for help has it whatever refused.
    assert!(!reply.request_id().is_empty());
    let refusal = taken_apart(&reply.outcome.unwrap_err());
    assert!(refusal.is(Code::ResourceExhausted, "TOO_MANY_REQUESTS") && refusal.retry, "{refusal:?}");
    // Before the key is looked at: a flood of bad ones is no load.
    let request = v1::GetOrganizationRequest::default();
    let refusal = refused(replica.client("garbage").organizations().get_organization(request).await);
    assert!(refusal.is(Code::ResourceExhausted, "TOO_MANY_REQUESTS"), "{refusal:?}");
    // The replica is full, not ill.
    assert_eq!(admin(replica.running.admin, "/readyz").await.0, 200);

    lock.free().await;
    blocked.await.unwrap().unwrap();
    assert_eq!(organization(&client).await.display_name, "Renamed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_an_id() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wire = Wire::connect(world.running.grpc).await;
    let get = v1::GetOrganizationRequest::default();
    let longest = "x".repeat(128);
    for id in ["order-17", "!", &longest] {
        let reply = wire.call(GET, &[("x-api-key", &tenant.key), ("x-request-id", id)], get.clone()).await;
        assert_eq!(reply.request_id(), id);
        reply.outcome.unwrap();
        let refusal = wire.call(GET, &[("x-request-id", id)], get.clone()).await;
        assert_eq!(refusal.request_id(), id);
        assert_eq!(refusal.outcome.unwrap_err().code(), Code::Unauthenticated);
    }
    let mut seen = Vec::new();
    for bad in [None, Some(""), Some("a b"), Some("\u{e9}"), Some("x".repeat(129).as_str())] {
        let mut headers = vec![("x-api-key", tenant.key.as_str())];
        headers.extend(bad.map(|bad| ("x-request-id", bad)));
        let reply = wire.call(GET, &headers, get.clone()).await;
        uuid::Uuid::parse_str(reply.request_id()).unwrap();
        seen.push(reply.request_id().to_owned());
    }
    let unknown = wire.call("/tenancy.v1.Nonsense/Get", &[], ()).await;
    seen.push(unknown.request_id().to_owned());
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6, "each has its own");

    // It leads from an answer to the audit.
    let id = [("x-api-key", tenant.key.as_str()), ("x-request-id", "the-rename")];
    wire.call(UPDATE, &id, rename()).await.outcome.unwrap();
    let audit = tenant.client.audit().list_audit_events(v1::ListAuditEventsRequest::default()).await.unwrap();
    assert!(audit.into_inner().audit_events.iter().any(|event| event.request_id == "the-rename"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_without_a_key_for_each_service() {
    let world = World::start().await;
    for service in SERVICES.iter().chain(&[""]) {
        assert_eq!(health(world.running.grpc, service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    let refusal = refused(health(world.running.grpc, "tenancy.v1.Nonsense").await);
    assert_eq!(refusal.code, Code::NotFound);
}

/// The health of a service.
pub async fn health(address: SocketAddr, service: &str) -> Result<ServingStatus, tonic::Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect_lazy());
    let reply = client.check(HealthCheckRequest { service: service.to_owned() }).await?;
    Ok(reply.into_inner().status())
}

/// Asks the reflection service of one version for the services, and for the file of a symbol.
macro_rules! reflect {
    ($version:ident, $address:expr) => {{
        use $version::server_reflection_client::ServerReflectionClient;
        use $version::server_reflection_request::MessageRequest;
        use $version::server_reflection_response::MessageResponse;
        let ask = async |question: MessageRequest| {
            let request = $version::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", $address)).unwrap();
            let mut client = ServerReflectionClient::new(endpoint.connect_lazy());
            let stream = futures_util::stream::iter([request]);
            let mut replies = client.server_reflection_info(stream).await.unwrap().into_inner();
            replies.message().await.unwrap().unwrap().message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
            panic!("no list");
        };
        let symbol = MessageRequest::FileContainingSymbol("tenancy.v1.UsageService".into());
        let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else { panic!("no file") };
        let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        (names, files.file_descriptor_proto)
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_of_both_versions_needs_no_key() {
    let world = World::start().await;
    let answers = [reflect!(reflection, world.running.grpc), reflect!(reflection_alpha, world.running.grpc)];
    for (services, files) in answers {
        for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
            assert!(services.iter().any(|name| name == service), "{service}: {services:?}");
        }
        let files = files.iter().map(|file| prost_types::FileDescriptorProto::decode(file.as_slice()).unwrap());
        let names: Vec<String> = files.map(|file| file.name().to_owned()).collect();
        assert!(names.iter().any(|name| name.ends_with("tenancy/v1/usage.proto")), "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_tells_how_it_goes() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    organization(&tenant.client).await;
    let wire = Wire::connect(world.running.grpc).await;
    wire.call(GET, &[], ()).await.outcome.unwrap_err();
    wire.call("/made.up/Name", &[], ()).await.outcome.unwrap_err();

    assert_eq!(admin(world.running.admin, "/livez").await, (200, "ok\n".into()));
    assert_eq!(admin(world.running.admin, "/readyz").await, (200, "ok\n".into()));
    let (status, metrics) = admin(world.running.admin, "/metrics").await;
    assert_eq!(status, 200);
    let counted = |method: &str, code: &str| {
        let label = |line: &str, name: &str, value: &str| line.contains(&format!("{name}=\"{value}\""));
        let mut lines = metrics.lines().filter(|line| line.starts_with("tenancy_requests_total{"));
        lines.any(|line| label(line, "method", method) && label(line, "code", code) && !line.ends_with(" 0"))
    };
    assert!(counted(GET, "Ok") && counted(GET, "Unauthenticated") && counted("other", "Unimplemented"), "{metrics}");
    // A name that somebody made up is no label.
    assert!(!metrics.contains("made.up"));
    assert!(metrics.contains("tenancy_request_seconds"));
}
