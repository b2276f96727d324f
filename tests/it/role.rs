//! `RoleService`, over the wire: roles, who may make and give them, and when they are in force.

mod force;
mod grants;

use futures_util::future::join_all;
use prost_types::FieldMask;
use tenancy::auth::permission::Permissions;
use tenancy::model::member::Role;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, Tenant, World, refused};

/// A role as it would be created.
pub fn role(key: &str, permissions: &[&str]) -> v1::Role {
    v1::Role {
        key: key.into(),
        display_name: key.to_uppercase(),
        permissions: permissions.iter().map(ToString::to_string).collect(),
        ..v1::Role::default()
    }
}

/// Creates a role of the client's own organization.
pub async fn create(client: &Client, role: v1::Role) -> Result<v1::Role, Status> {
    let request = v1::CreateRoleRequest { role: Some(role), ..Default::default() };
    Ok(client.roles().create_role(request).await?.into_inner().role.unwrap())
}

async fn get(client: &Client, key: &str) -> Result<v1::Role, Status> {
    let request = v1::GetRoleRequest { key: key.into(), ..Default::default() };
    Ok(client.roles().get_role(request).await?.into_inner().role.unwrap())
}

/// Changes a role. The etag of `role` counts.
pub async fn update(client: &Client, role: v1::Role, path: &str) -> Result<v1::Role, Status> {
    let update_mask = Some(FieldMask { paths: vec![path.into()] });
    let request = v1::UpdateRoleRequest { role: Some(role), update_mask };
    Ok(client.roles().update_role(request).await?.into_inner().role.unwrap())
}

/// Deletes a role.
pub async fn delete(client: &Client, key: &str, etag: &str) -> Result<(), Status> {
    let request = v1::DeleteRoleRequest { key: key.into(), etag: etag.into(), ..Default::default() };
    client.roles().delete_role(request).await.map(drop)
}

async fn list(client: &Client, page_size: i32) -> Vec<v1::Role> {
    let (mut roles, mut request) = (Vec::new(), v1::ListRolesRequest { page_size, ..Default::default() });
    loop {
        let page = client.roles().list_roles(request.clone()).await.unwrap().into_inner();
        roles.extend(page.roles);
        if page.next_page_token.is_empty() {
            return roles;
        }
        request.page_token = page.next_page_token;
    }
}

/// Changes a member: their role where `role` names one, and what is beside it.
pub async fn change(client: &Client, member: v1::Member, paths: &[&str]) -> Result<v1::Member, Status> {
    let update_mask = Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
    let request = v1::UpdateMemberRequest { member: Some(member), update_mask };
    Ok(client.members().update_member(request).await?.into_inner().member.unwrap())
}

/// A member as a change of role would have them.
pub fn with_role(user_id: &str, role: &str) -> v1::Member {
    v1::Member { user_id: user_id.into(), role: role.into(), ..v1::Member::default() }
}

/// A member as a change of what is beside the role would have them.
pub fn with_permissions(user_id: &str, extra: &[&str], denied: &[&str]) -> v1::Member {
    let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    v1::Member {
        user_id: user_id.into(),
        extra_permissions: strings(extra),
        denied_permissions: strings(denied),
        ..v1::Member::default()
    }
}

/// The paths of [`with_permissions`].
pub const PERMISSIONS: &[&str] = &["extra_permissions", "denied_permissions"];

async fn recorded(tenant: &Tenant, key: &str) -> Vec<String> {
    let filter = format!("resource_type = \"role\" AND resource_id = \"{key}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let events = tenant.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    events.into_iter().rev().map(|event| event.action).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_made_changed_and_deleted() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let created = create(client, role("billing", &["usage.read", "members.read"])).await.unwrap();
    assert_eq!((created.organization_id.as_str(), created.built_in), (tenant.id.as_str(), false));
    assert_eq!(created.permissions, ["members.read", "usage.read"], "in the order of the vocabulary");
    assert_eq!(get(client, "billing").await.unwrap(), created);
    let refusal = refused(create(client, role("billing", &[])).await);
    assert!(refusal.is(Code::AlreadyExists, "ROLE_TAKEN") && refusal.fields == ["role.key"], "{refusal:?}");
    // Another tenant's of the same name is another one.
    create(&other.client, role("billing", &["audit.read"])).await.unwrap();
    assert_eq!(get(client, "billing").await.unwrap(), created);

    let changed = v1::Role { description: "Pays.".into(), ..created.clone() };
    let changed = update(client, changed, "description").await.unwrap();
    assert_eq!((changed.description.as_str(), &changed.permissions), ("Pays.", &created.permissions));
    assert_ne!(changed.etag, created.etag);
    for outcome in
        [update(client, created.clone(), "*").await.map(drop), delete(client, "billing", &created.etag).await]
    {
        assert!(refused(outcome).is(Code::Aborted, "ETAG_MISMATCH"));
    }

    let ida = tenant.member(&world, "ida", "billing").await;
    let refusal = refused(delete(client, "billing", "").await);
    assert!(refusal.is(Code::FailedPrecondition, "ROLE_IN_USE"), "{refusal:?}");
    change(client, with_role(&ida, "viewer"), &["role"]).await.unwrap();
    delete(client, "billing", &changed.etag).await.unwrap();
    let gone = [
        get(client, "billing").await.map(drop),
        delete(client, "billing", "").await,
        update(client, role("billing", &[]), "description").await.map(drop),
        change(client, with_role(&ida, "billing"), &["role"]).await.map(drop),
    ];
    for outcome in gone {
        assert!(refused(outcome).is(Code::NotFound, "ROLE_NOT_FOUND"));
    }
    assert_eq!(recorded(&tenant, "billing").await, ["roles.create", "roles.update", "roles.delete"]);
    assert_eq!(recorded(&other, "billing").await, ["roles.create"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_organization_has_the_built_in_ones() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for key in ["one", "two", "three"] {
        create(&tenant.client, role(key, &["usage.read"])).await.unwrap();
        world.clock.advance(std::time::Duration::from_millis(2));
    }
    for page_size in [0, 1, 3, 4] {
        let keys: Vec<String> = list(&tenant.client, page_size).await.into_iter().map(|role| role.key).collect();
        assert_eq!(keys, ["owner", "admin", "member", "viewer", "three", "two", "one"]);
    }
    for (listed, built_in) in list(&tenant.client, 0).await.iter().zip(Role::ALL) {
        let permissions: Vec<String> = Permissions::of_role(built_in).iter().map(|held| held.to_string()).collect();
        assert_eq!((&listed.permissions, listed.built_in), (&permissions, true));
        assert_eq!(get(&tenant.client, &listed.key).await.unwrap(), *listed);
        for outcome in [
            update(&tenant.client, listed.clone(), "permissions").await.map(drop),
            delete(&tenant.client, &listed.key, "").await,
        ] {
            assert!(refused(outcome).is(Code::FailedPrecondition, "ROLE_BUILT_IN"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (wrong, field) in [
        (role("owner", &[]), "role.key"),
        (role("No", &[]), "role.key"),
        (role("x", &[]), "role.key"),
        (role("ok", &["usage.read", "root"]), "role.permissions[1]"),
        (role("ok", &["usage.read", "usage.read"]), "role.permissions[1]"),
        // Only the platform's, only the owners'.
        (role("ok", &["organizations.create"]), "role.permissions[0]"),
        (role("ok", &["users.act_as"]), "role.permissions[0]"),
        (v1::Role { display_name: String::new(), ..role("ok", &[]) }, "role.display_name"),
    ] {
        // The platform may give everything, and yet not that.
        let mut by_operator = wrong.clone();
        by_operator.organization_id.clone_from(&tenant.id);
        for outcome in [create(&tenant.client, wrong).await, create(&world.operator(), by_operator).await] {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == [field], "{refusal:?}");
        }
    }
    let request_id = "018f6d2e-0000-7000-8000-000000000001";
    let request = v1::CreateRoleRequest { role: Some(role("ok", &["usage.read"])), request_id: request_id.into() };
    let repeated = (0..4).map(|_| {
        let (mut roles, request) = (tenant.client.roles(), request.clone());
        async move { roles.create_role(request).await.unwrap().into_inner() }
    });
    let replies = join_all(repeated).await;
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    assert_eq!(recorded(&tenant, "ok").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_two_hundred_at_the_most() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    sqlx::query(
        "INSERT INTO tenancy.roles (organization_id, key, display_name, permissions, create_time, update_time)
         SELECT $1::uuid, 'role-' || number, 'A role', '{}', now(), now() FROM generate_series(1, 199) number",
    )
    .bind(&tenant.id)
    .execute(&world.database.superuser)
    .await
    .unwrap();
    let clients = [tenant.client.clone(), replica.client(&tenant.key)];
    let keys: Vec<String> = (0..6).map(|number| format!("late-{number}")).collect();
    let creates = keys.iter().enumerate().map(|(number, key)| create(&clients[number % 2], role(key, &[])));
    let (made, refusals): (Vec<_>, Vec<_>) = join_all(creates).await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), list(&tenant.client, 1000).await.len()), (1, 204));
    for refusal in refusals {
        assert!(refused(refusal).is(Code::FailedPrecondition, "ROLES_EXHAUSTED"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_goes_while_it_is_given_is_had_or_gone() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let ida = tenant.member(&world, "ida", "viewer").await;
    let other = replica.client(&tenant.key);
    for round in 0..8 {
        let key = format!("role-{round}");
        create(&tenant.client, role(&key, &["usage.read"])).await.unwrap();
        let (given, deleted) =
            tokio::join!(change(&tenant.client, with_role(&ida, &key), &["role"]), delete(&other, &key, ""));
        match (given, deleted) {
            (Ok(member), Err(refusal)) => {
                assert_eq!(member.role, key);
                assert!(refused::<()>(Err(refusal)).is(Code::FailedPrecondition, "ROLE_IN_USE"));
            }
            (Err(refusal), Ok(())) => assert!(refused::<()>(Err(refusal)).is(Code::NotFound, "ROLE_NOT_FOUND")),
            both => panic!("{both:?}"),
        }
    }
}
