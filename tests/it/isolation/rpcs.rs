//! I4: every RPC of the descriptors, with every sort of wrong key. The list is the descriptors' own, so an RPC without a
//! case fails here.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use sqlx::AssertSqlSafe;
use tenancy::auth::permission::{METHODS, Permission, Permissions};
use tenancy::model::member::Role;
use tenancy::proto::{FILE_DESCRIPTOR_SET, v1};
use tenancy::transport::stream::STREAMS;
use tenancy::worker::health;
use tonic::Code;

use crate::harness::{Client, RawReply, World, raw, refused};
use crate::isolation::cases::{Case, Furnished, cases};

/// The paths of all RPCs that we serve besides health and reflection, by the descriptors, and whether their reply is a stream.
fn described() -> BTreeMap<String, bool> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files =
        set.file.iter().filter(|file| ["tenancy.", "envoy."].iter().any(|ours| file.package().starts_with(ours)));
    files
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .flat_map(|(package, service)| {
            let path = move |method: &str| format!("/{package}.{}/{method}", service.name());
            service.method.iter().map(move |method| (path(method.name()), method.server_streaming()))
        })
        .collect()
}

fn paths<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    paths.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_described_rpc_has_a_permission_a_case_and_its_health() {
    let world = World::start().await;
    let victim = Furnished::create(&world, "victim").await;
    let streams: BTreeSet<String> =
        described().into_iter().filter(|(_, is_stream)| *is_stream).map(|(path, _)| path).collect();
    let ours = STREAMS.iter().copied().filter(|path| !path.starts_with("/grpc."));
    assert_eq!(streams, paths(ours), "transport/stream.rs");
    let described: BTreeSet<String> = described().into_keys().collect();
    assert!(described.len() >= 108);
    assert_eq!(described, paths(METHODS.iter().map(|(path, _)| *path)), "auth/permission.rs");
    assert_eq!(described, paths(cases(&victim).iter().map(|case| case.path)), "isolation/cases.rs");
    let services: BTreeSet<&str> = described.iter().map(|path| path[1..].split('/').next().unwrap()).collect();
    assert_eq!(services, health::SERVICES.iter().copied().collect(), "worker/health.rs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_good_key_nothing_is_served() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut wrong = tenant.key.clone();
    // A good checksum on a wrong secret takes more than one changed letter, so: another key's secret half.
    let other = world.tenant("other").await.key;
    wrong.replace_range(24.., &other[24..]);
    for (path, _) in METHODS {
        let expect = async |client: Client, reason: &str| {
            let refusal = refused(raw(&client, path, Vec::new()).await);
            assert!(refusal.is(Code::Unauthenticated, reason), "{path}: {refusal:?}");
        };
        expect(world.anonymous(), "CREDENTIALS_MISSING").await;
        expect(world.client("garbage"), "API_KEY_MALFORMED").await;
        expect(world.client(&wrong), "API_KEY_MALFORMED").await;
        expect(world.client(&unknown_key()), "API_KEY_INVALID").await;
        expect(world.client(&tenant.key).key(&other), "CREDENTIALS_AMBIGUOUS").await;
        expect(world.anonymous().header("authorization", "Basic x"), "CREDENTIALS_MALFORMED").await;
    }
}

/// Well-formed, and nobody's.
fn unknown_key() -> String {
    use tenancy::auth::keys::{key::PlainKey, kind::ApiKeyKind};
    let key = PlainKey::generate(ApiKeyKind::SecretLive, &mut rand::rngs::SysRng).unwrap();
    key.parsed().expose().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_permission_no_rpc_is_served() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut clients = BTreeMap::new();
    for (path, permission) in METHODS {
        if !clients.contains_key(permission) {
            let others = |for_tenants: bool| -> Vec<Permission> {
                let held = |other: &Permission| other != permission && (!for_tenants || other.for_tenants());
                Permission::ALL.iter().copied().filter(held).collect()
            };
            let keys = [tenant.with_scopes(&world, &others(true)).await, world.service(&others(false), &[]).await];
            clients.insert(*permission, keys);
        }
        for client in &clients[permission] {
            let refusal = refused(raw(client, path, Vec::new()).await);
            assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{path}: {refusal:?}");
        }
    }
}

/// Everything of the victim, table by table, as text.
async fn belongings(world: &World, victim: &Furnished) -> BTreeMap<String, Vec<String>> {
    let superuser = &world.database.superuser;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
         WHERE c.relnamespace = 'tenancy'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    let mut belongings = BTreeMap::new();
    for table in tables {
        let sql =
            format!("SELECT t::text FROM tenancy.{table} t WHERE organization_id = '{}' ORDER BY 1", victim.tenant.id);
        belongings.insert(table, sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(superuser).await.unwrap());
    }
    let sql = format!("SELECT t::text FROM tenancy.users t WHERE user_id = '{}'", victim.user_id);
    belongings.insert("users".into(), sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(superuser).await.unwrap());
    belongings
}

fn check(case: &Case, what: &str, reply: RawReply, expected: (Code, &str)) {
    let refusal = refused(reply);
    // What takes a permission that no tenant holds is refused for that, before anything is looked up.
    let platform_only = Permission::of_method(case.path).is_some_and(|(_, permission)| !permission.for_tenants());
    let expected = if platform_only { (Code::PermissionDenied, "PERMISSION_MISSING") } else { expected };
    assert!(refusal.is(expected.0, expected.1), "{}, {what}: {refusal:?}, expected {expected:?}", case.path);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rpc_reaches_another_tenant() {
    let world = World::start().await;
    let victim = Furnished::create(&world, "victim").await;
    let attacker = Furnished::create(&world, "attacker").await;
    let acting = attacker.tenant.client.clone().acting(&attacker.user_id);
    let before = belongings(&world, &victim).await;

    for case in cases(&victim) {
        let not_found = (Code::NotFound, "ORGANIZATION_NOT_FOUND");
        for (who, client) in [("a key", &attacker.tenant.client), ("an owner", &acting)] {
            if let Some(request) = &case.organization {
                check(&case, who, raw(client, case.path, request.clone()).await, not_found);
            }
            if let Some((request, reason)) = &case.resource {
                let code = if *reason == "NOT_THAT_USER" { Code::PermissionDenied } else { Code::NotFound };
                check(&case, who, raw(client, case.path, request.clone()).await, (code, reason));
            }
        }
    }
    assert_eq!(before, belongings(&world, &victim).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_key_stays_on_its_list() {
    let world = World::start().await;
    let victim = Furnished::create(&world, "victim").await;
    let attacker = Furnished::create(&world, "attacker").await;
    let service = world.service(Permission::ALL, &[&attacker.tenant.id]).await;
    let before = belongings(&world, &victim).await;
    for case in cases(&victim) {
        let Some(request) = case.organization.clone() else { continue };
        // UpdateUser by a key that acts for nobody is the platform's affair, which a key with a list has no part in.
        let expected = if case.path.ends_with("/UpdateUser") {
            (Code::PermissionDenied, "PLATFORM_KEY_REQUIRED")
        } else {
            (Code::NotFound, "ORGANIZATION_NOT_FOUND")
        };
        let refusal = refused(raw(&service, case.path, request).await);
        assert!(refusal.is(expected.0, expected.1), "{}: {refusal:?}", case.path);
    }
    for path in ["/tenancy.v1.OrganizationService/CreateOrganization", "/tenancy.v1.UserService/ListUsers"] {
        let request = v1::CreateOrganizationRequest {
            organization: Some(v1::Organization {
                slug: "mine".into(),
                display_name: "Mine".into(),
                ..v1::Organization::default()
            }),
            ..Default::default()
        };
        let request = if path.ends_with("ListUsers") { Vec::new() } else { request.encode_to_vec() };
        let refusal = refused(raw(&service, path, request).await);
        assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{path}: {refusal:?}");
    }
    let listed = service.organizations().list_organizations(v1::ListOrganizationsRequest::default()).await.unwrap();
    let listed: Vec<String> =
        listed.into_inner().organizations.into_iter().map(|organization| organization.organization_id).collect();
    assert_eq!(listed, std::slice::from_ref(&attacker.tenant.id));
    assert_eq!(before, belongings(&world, &victim).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_may_no_more_than_their_role() {
    let world = World::start().await;
    let furnished = Furnished::create(&world, "acme").await;
    for role in [Role::Viewer, Role::Member, Role::Admin, Role::Owner] {
        let user = furnished.tenant.member(&world, &format!("a-{role}"), role.as_str()).await;
        // A key of its own: an admin may revoke the tenant's first one, and the case does.
        let all: Vec<Permission> = Permission::ALL.iter().copied().filter(|held| held.for_tenants()).collect();
        let key = furnished.tenant.with_scopes(&world, &all).await.acting(&user);
        let service = world.service(Permission::ALL, &[]).await.acting(&user);
        for case in cases(&furnished) {
            let Some(request) = case.organization else { continue };
            let (_, permission) = Permission::of_method(case.path).unwrap();
            for client in [&key, &service] {
                // What it may do it may still do wrong; only the refusal for the want of a permission counts.
                let denied = raw(client, case.path, request.clone())
                    .await
                    .is_err_and(|status| refused::<()>(Err(status)).is(Code::PermissionDenied, "PERMISSION_MISSING"));
                assert_eq!(denied, !Permissions::of_role(role).contains(permission), "{role}: {}", case.path);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_key_verifies_as_unknown() {
    let world = World::start().await;
    let victim = world.tenant("victim").await;
    let attacker = world.tenant("attacker").await;
    let verify = async |client: &Client, key: &str| {
        let request = v1::VerifyApiKeyRequest { api_key: key.into(), ..Default::default() };
        client.api_keys().verify_api_key(request).await.unwrap().into_inner()
    };
    let unknown =
        v1::VerifyApiKeyResponse { code: v1::VerificationCode::NotFound.into(), ..v1::VerifyApiKeyResponse::default() };
    assert_eq!(verify(&attacker.client, &victim.key).await, unknown);
    let service = world.service(&[Permission::KeysVerify], &[&attacker.id]).await;
    assert_eq!(verify(&service, &victim.key).await, unknown);
    assert_eq!(verify(&service, &attacker.key).await.code(), v1::VerificationCode::Valid);
    assert_eq!(verify(&victim.client, &victim.key).await.code(), v1::VerificationCode::Valid);
}
