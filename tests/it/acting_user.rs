//! `x-acting-user`, over the wire: who may act for whom, and with what.

use tenancy::auth::permission::{METHODS, Permission};
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, World, raw, refused};

const NOBODY: &str = "018f6d2e-0000-7000-8000-00000000dead";

async fn get(client: &Client, organization: &str) -> Result<v1::Organization, Status> {
    let request = v1::GetOrganizationRequest { organization_id: organization.into() };
    Ok(client.organizations().get_organization(request).await?.into_inner().organization.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_is_one_user_or_refused_by_every_rpc() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let user = tenant.member(&world, "ida", "owner").await;
    let service = world.service(Permission::ALL, &[]).await;
    for client in [&service, &world.operator()] {
        for (path, _) in METHODS {
            for wrong in [
                client.clone().acting(""),
                client.clone().acting("ida@acme.example.com"),
                client.clone().acting(&user.replace('-', "")),
                client.clone().acting(&format!("{user}, {user}")),
                client.clone().acting(&user).acting(&user),
            ] {
                let refusal = refused(raw(&wrong, path, Vec::new()).await);
                assert!(refusal.is(Code::InvalidArgument, "ACTING_USER_MALFORMED"), "{path}: {refusal:?}");
            }
        }
    }
    let refusal = refused(get(&tenant.client.clone().acting("x"), "").await);
    assert!(refusal.is(Code::InvalidArgument, "ACTING_USER_MALFORMED"), "{refusal:?}");
    get(&service.acting(&format!(" {user} ")), "acme").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_takes_the_permission() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let user = tenant.member(&world, "ida", "owner").await;
    let but = |for_tenants: bool| -> Vec<Permission> {
        let held = |held: &Permission| *held != Permission::UsersActAs && (!for_tenants || held.for_tenants());
        Permission::ALL.iter().copied().filter(held).collect()
    };
    for client in [tenant.with_scopes(&world, &but(true)).await, world.service(&but(false), &[]).await] {
        get(&client, "acme").await.unwrap();
        let acting = client.acting(&user);
        for (path, _) in METHODS {
            let refusal = refused(raw(&acting, path, Vec::new()).await);
            assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{path}: {refusal:?}");
        }
    }
    let acting_only = tenant.with_scopes(&world, &[Permission::UsersActAs]).await.acting(&user);
    let refusal = refused(get(&acting_only, "").await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishable_key_acts_for_nobody() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let user = tenant.member(&world, "ida", "owner").await;
    let api_key = v1::ApiKey {
        kind: v1::ApiKeyKind::PublishableTest.into(),
        display_name: "page".into(),
        scopes: vec!["organizations.read".into()],
        ..v1::ApiKey::default()
    };
    let request = v1::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
    let created = tenant.client.api_keys().create_api_key(request).await.unwrap().into_inner();
    let client = world.client(&created.secret);
    get(&client, "").await.unwrap();
    let refusal = refused(get(&client.acting(&user), "").await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_for_a_member_of_the_organization() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let (ours, theirs) = (acme.member(&world, "a", "viewer").await, other.member(&world, "b", "owner").await);
    let service = world.service(Permission::ALL, &[&acme.id]).await;
    for client in [&acme.client, &service, &world.operator()] {
        get(&client.clone().acting(&ours), "acme").await.unwrap();
        for stranger in [&*theirs, NOBODY] {
            let refusal = refused(get(&client.clone().acting(stranger), "acme").await);
            assert!(refusal.is(Code::PermissionDenied, "NOT_A_MEMBER"), "{refusal:?}");
        }
    }
    // Whose member the user is does not widen what the key sees.
    for client in [&acme.client, &service] {
        for user in [&ours, &theirs] {
            let refusal = refused(get(&client.clone().acting(user), "other").await);
            assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{refusal:?}");
        }
    }
    let refusal = refused(get(&world.operator().acting(&ours), "other").await);
    assert!(refusal.is(Code::PermissionDenied, "NOT_A_MEMBER"), "{refusal:?}");
    // Who acts for a user needs an organization, and is not the platform.
    let refusal = refused(get(&world.operator().acting(&ours), "").await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["organization_id"], "{refusal:?}");
    let outcome =
        service.acting(&ours).organizations().list_organizations(v1::ListOrganizationsRequest::default()).await;
    let refusal = refused(outcome);
    assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
}
