//! Bad input, generated from the descriptors: whatever bytes an RPC gets, it answers OK or refuses with exactly one
//! ErrorInfo, and never calls it a fault of its own. A new RPC or field is covered as soon as it is described.

mod nasty;

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tenancy::auth::permission::{METHODS, Permission};
use tenancy::proto::{FILE_DESCRIPTOR_SET, v1};
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt as _};

use crate::harness::{Client, RawReply, World, raw, refused};
use crate::isolation::cases::{Furnished, cases};

/// The largest message that is read.
const LIMIT: usize = 4 << 20;

/// How many requests are in flight at once, so that the test takes seconds.
const AT_ONCE: usize = 8;

/// What is wrong with an answer, if something is.
fn fault(reply: &RawReply) -> Option<String> {
    let status = reply.as_ref().err()?;
    let details = status.get_error_details_vec();
    let infos =
        details.iter().filter(|detail| matches!(detail, ErrorDetail::ErrorInfo(info) if info.domain == "tenancy"));
    let blamed = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Aborted
            | Code::OutOfRange
            | Code::ResourceExhausted
    );
    (infos.count() != 1 || !blamed).then(|| format!("{:?} {:?}", status.code(), status.message()))
}

/// The service answers somebody who asks properly.
async fn healthy(client: &Client) {
    let request = v1::GetOrganizationRequest::default();
    client.organizations().get_organization(request).await.expect("the service still answers");
}

/// The input of every method, by its path.
fn input(pool: &DescriptorPool, path: &str) -> MessageDescriptor {
    let (service, method) = path[1..].split_once('/').unwrap();
    let service = pool.get_service_by_name(service).unwrap();
    service.methods().find(|described| described.name() == method).unwrap().input()
}

/// The refusal that a key gets; who lacks the permission hears of that first.
fn expected(path: &str, platform: bool, otherwise: (Code, &'static str)) -> (Code, &'static str) {
    let (_, permission) = Permission::of_method(path).unwrap();
    if platform || permission.for_tenants() { otherwise } else { (Code::PermissionDenied, "PERMISSION_MISSING") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let garbage: [&[u8]; 5] = [
        &[0xff; 64],
        // A length beyond the end, a field number of zero, a group that nobody opened, a varint without an end.
        &[0x0a, 0x7f],
        &[0x00, 0x00],
        &[0x0c],
        &[0x08, 0xff, 0xff, 0xff],
    ];
    for (path, _) in METHODS {
        for (platform, client) in [(true, world.operator()), (false, tenant.client.clone())] {
            for bytes in garbage {
                let refusal = refused(raw(&client, path, bytes.to_vec()).await);
                let (code, reason) = expected(path, platform, (Code::InvalidArgument, "MALFORMED_MESSAGE"));
                assert!(refusal.is(code, reason), "{path}: {bytes:x?}: {refusal:?}");
            }
        }
    }
    healthy(&tenant.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_refused_as_too_large() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (path, _) in METHODS {
        for (platform, client) in [(true, world.operator()), (false, tenant.client.clone())] {
            let refusal = refused(raw(&client, path, vec![0; LIMIT + 1]).await);
            let (code, reason) = expected(path, platform, (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
            assert!(refusal.is(code, reason), "{path}: {refusal:?}");
        }
    }
    // An unknown field is skipped, so that this is a message of exactly the limit.
    let unknown_field = |size: usize| {
        let mut bytes = vec![0xfa, 0x3f];
        prost_reflect::prost::encode_length_delimiter(size - 6, &mut bytes).unwrap();
        bytes.resize(size, 0);
        bytes
    };
    let path = "/tenancy.v1.OrganizationService/GetOrganization";
    raw(&tenant.client, path, unknown_field(LIMIT)).await.expect("the limit itself is allowed");
    healthy(&tenant.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_message_is_an_answer_or_a_refusal() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (path, _) in METHODS {
        for client in [world.operator(), tenant.client.clone()] {
            let reply = raw(&client, path, Vec::new()).await;
            assert_eq!(fault(&reply), None, "{path}");
        }
    }
    healthy(&tenant.client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_method_is_not_found() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let paths = [
        "/tenancy.v1.OrganizationService/Nonsense",
        "/tenancy.v1.Nonsense/GetOrganization",
        "/tenancy.v2.OrganizationService/GetOrganization",
        "/tenancy.v1.OrganizationService/GetOrganization/",
        "/tenancy.v1.OrganizationService/getOrganization",
        "/grpc.health.v1.Health/Nonsense",
        "/grpc.reflection.v1.ServerReflection/Nonsense",
        "/",
        "/%2e%2e/",
        "/tenancy.v1.OrganizationService//GetOrganization",
    ];
    for path in paths {
        for client in [world.anonymous(), world.operator(), tenant.client.clone(), world.client("garbage")] {
            let refusal = refused(raw(&client, path, Vec::new()).await);
            assert!(refusal.is(Code::Unimplemented, "METHOD_NOT_FOUND"), "{path}: {refusal:?}");
        }
    }
    healthy(&tenant.client).await;
}

/// Sends every message and returns what was wrong with the answers.
async fn send(client: &Client, path: &'static str, messages: Vec<(String, Vec<u8>)>) -> BTreeSet<String> {
    let calls = messages.into_iter().map(|(what, message)| async move {
        let reply = raw(client, path, message).await;
        fault(&reply).map(|fault| format!("{path}: {what}: {fault}"))
    });
    stream::iter(calls).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_withstands_every_nasty_value() {
    let world = World::start().await;
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut faults = BTreeSet::new();
    let mut sent = 0;
    for (number, (path, _)) in METHODS.iter().enumerate() {
        // A tenant of its own for each: some methods suspend, delete or revoke what they are sent.
        let furnished = Furnished::create(&world, &format!("acme-{number}")).await;
        let scopes: Vec<Permission> = Permission::ALL.iter().copied().filter(|held| held.for_tenants()).collect();
        let tenant = furnished.tenant.with_scopes(&world, &scopes).await;
        let input = input(&pool, path);
        let good = nasty::good(path, &furnished)
            .or_else(|| cases(&furnished).into_iter().find(|case| case.path == *path)?.organization);
        let good = DynamicMessage::decode(input.clone(), good.unwrap_or_default().as_slice()).unwrap();
        // The tenant first: the operator may suspend or delete it for good.
        for client in [tenant, world.operator()] {
            for base in [&good, &DynamicMessage::new(input.clone())] {
                let messages = nasty::messages(base);
                sent += messages.len();
                faults.extend(send(&client, path, messages).await);
            }
        }
    }
    println!("{sent} requests");
    let list: Vec<&str> = faults.iter().map(String::as_str).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), list.join("\n"));
    healthy(&world.tenant("alive").await.client).await;
    raw(&world.operator(), "/tenancy.v1.OrganizationService/ListOrganizations", Vec::new()).await.unwrap();
}

#[test]
fn the_values_reach_every_field_of_every_request() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    for (path, _) in METHODS {
        let input = input(&pool, path);
        let whats: Vec<String> =
            nasty::messages(&DynamicMessage::new(input.clone())).into_iter().map(|(what, _)| what).collect();
        for field in input.fields() {
            let prefix = field.name();
            assert!(whats.iter().any(|what| what.starts_with(prefix)), "{path}: {prefix}");
        }
    }
    let event = nasty::messages(&DynamicMessage::new(input(&pool, "/tenancy.v1.UsageService/RecordUsage")));
    for what in ["events[].properties.fields{}", "events[].properties.fields{}.list_value.values[].string_value"] {
        assert!(event.iter().any(|(found, _)| found.starts_with(what)), "{what}");
    }
}

#[test]
fn a_status_without_details_is_a_fault() {
    assert!(fault(&Err(Status::invalid_argument("bare"))).is_some());
    assert!(fault(&Err(tenancy::error::Error::internal("ours").into())).is_some());
    assert!(fault(&Err(tenancy::error::Error::not_found("key", "x").into())).is_none());
}
