//! `MemberService`, over the wire.

mod batch;
mod owners;
mod sequences;
mod suspension;
mod transfer;

use std::time::Duration;

use futures_util::future::join_all;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, Tenant, World, eventually, refused};

const NEVER_STALE: &[&str] = &["--cache-lifetime", "1h"];
const REQUEST_ID: &str = "018f6d2e-0000-7000-8000-000000000001";
const NOBODY: &str = "018f6d2e-0000-7000-8000-00000000dead";

async fn user(world: &World, name: &str) -> String {
    let user = v1::User { email: format!("{name}@example.com"), display_name: name.into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id
}

async fn add(client: &Client, tenant: &Tenant, user_id: &str, role: &str) -> Result<v1::Member, Status> {
    let request = v1::AddMemberRequest {
        organization_id: tenant.id.clone(),
        user_id: user_id.into(),
        role: role.into(),
        ..Default::default()
    };
    Ok(client.members().add_member(request).await?.into_inner().member.unwrap())
}

async fn get(client: &Client, tenant: &Tenant, user_id: &str) -> Result<v1::Member, Status> {
    let request = v1::GetMemberRequest { organization_id: tenant.id.clone(), user_id: user_id.into() };
    Ok(client.members().get_member(request).await?.into_inner().member.unwrap())
}

async fn set_role(
    client: &Client,
    tenant: &Tenant,
    user_id: &str,
    role: &str,
    etag: &str,
) -> Result<v1::Member, Status> {
    let request = v1::UpdateMemberRoleRequest {
        organization_id: tenant.id.clone(),
        user_id: user_id.into(),
        role: role.into(),
        etag: etag.into(),
    };
    Ok(client.members().update_member_role(request).await?.into_inner().member.unwrap())
}

async fn remove(client: &Client, tenant: &Tenant, user_id: &str, etag: &str) -> Result<(), Status> {
    let request =
        v1::RemoveMemberRequest { organization_id: tenant.id.clone(), user_id: user_id.into(), etag: etag.into() };
    let removed = client.members().remove_member(request).await?.into_inner().member.unwrap();
    assert_eq!((removed.status(), removed.user_id.as_str()), (v1::MemberStatus::Removed, user_id));
    Ok(())
}

async fn suspend(client: &Client, tenant: &Tenant, user_id: &str, etag: &str) -> Result<v1::Member, Status> {
    let request = v1::SuspendMemberRequest {
        organization_id: tenant.id.clone(),
        user_id: user_id.into(),
        reason: "on leave".into(),
        etag: etag.into(),
    };
    Ok(client.members().suspend_member(request).await?.into_inner().member.unwrap())
}

async fn reactivate(client: &Client, tenant: &Tenant, user_id: &str, etag: &str) -> Result<v1::Member, Status> {
    let request =
        v1::ReactivateMemberRequest { organization_id: tenant.id.clone(), user_id: user_id.into(), etag: etag.into() };
    Ok(client.members().reactivate_member(request).await?.into_inner().member.unwrap())
}

/// Hands over: (to whom, from whom where that is named, what that one becomes).
async fn transfer(
    client: &Client,
    tenant: &Tenant,
    (to, from, role): (&str, &str, &str),
) -> Result<v1::TransferOwnershipResponse, Status> {
    let request = v1::TransferOwnershipRequest {
        organization_id: tenant.id.clone(),
        user_id: to.into(),
        former_owner_id: from.into(),
        former_owner_role: role.into(),
    };
    Ok(client.members().transfer_ownership(request).await?.into_inner())
}

async fn list(client: &Client, request: v1::ListMembersRequest) -> Result<v1::ListMembersResponse, Status> {
    Ok(client.members().list_members(request).await?.into_inner())
}

/// The users of the members in a role, newest first, as they really are.
async fn members(world: &World, tenant: &Tenant, role: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT user_id::text FROM tenancy.members WHERE organization_id = $1::uuid AND (role = $2 OR $2 = '')
         ORDER BY create_time DESC, user_id DESC",
    )
    .bind(&tenant.id)
    .bind(role)
    .fetch_all(&world.database.superuser)
    .await
    .unwrap()
}

async fn limit(world: &World, tenant: &Tenant, limit: i32) {
    let organization = v1::Organization {
        organization_id: tenant.id.clone(),
        member_limit: Some(limit),
        ..v1::Organization::default()
    };
    let request = v1::UpdateOrganizationRequest {
        organization: Some(organization),
        update_mask: Some(prost_types::FieldMask { paths: vec!["member_limit".into()] }),
        validate_only: false,
    };
    world.operator().organizations().update_organization(request).await.unwrap();
}

async fn deactivate(world: &World, user_id: &str) {
    let request = v1::DeactivateUserRequest { user_id: user_id.into(), ..Default::default() };
    world.operator().users().deactivate_user(request).await.unwrap();
}

/// How many records the audit has of what was done to a member.
async fn recorded(tenant: &Tenant, user_id: &str) -> usize {
    let filter = format!("resource_type = \"member\" AND resource_id = \"{user_id}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    tenant.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_be_added() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let ida = user(&world, "ida").await;
    let added = add(&tenant.client, &tenant, &ida, "viewer").await.unwrap();
    assert_eq!((&added.organization_id, &added.user_id, added.role.as_str()), (&tenant.id, &ida, "viewer"));
    assert_eq!((added.email.as_str(), added.display_name.as_str()), ("ida@example.com", "ida"));
    assert_eq!(get(&tenant.client, &tenant, &ida).await.unwrap(), added);

    let refusal = refused(add(&tenant.client, &tenant, NOBODY, "viewer").await);
    assert!(refusal.is(Code::NotFound, "USER_NOT_FOUND"), "{refusal:?}");
    let gone = user(&world, "gone").await;
    deactivate(&world, &gone).await;
    let refusal = refused(add(&tenant.client, &tenant, &gone, "viewer").await);
    assert!(refusal.is(Code::FailedPrecondition, "USER_DEACTIVATED"), "{refusal:?}");
    assert_eq!((members(&world, &tenant, "").await, recorded(&tenant, &gone).await), (vec![ida.clone()], 0));

    limit(&world, &tenant, 1).await;
    let late = user(&world, "late").await;
    let refusal = refused(add(&tenant.client, &tenant, &late, "viewer").await);
    assert!(refusal.is(Code::FailedPrecondition, "MEMBER_LIMIT_REACHED"), "{refusal:?}");
    assert_eq!((members(&world, &tenant, "").await, recorded(&tenant, &late).await), (vec![ida.clone()], 0));
    let refusal = refused(add(&tenant.client, &tenant, &ida, "admin").await);
    assert!(refusal.is(Code::AlreadyExists, "ALREADY_MEMBER") && refusal.fields == ["user_id"], "{refusal:?}");
    assert_eq!(get(&tenant.client, &tenant, &ida).await.unwrap(), added);

    let refusal = refused(add(&tenant.client, &tenant, "x", "Root").await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    assert_eq!(refusal.fields, ["user_id", "role"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_limit_get_in_at_once() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    limit(&world, &tenant, 3).await;
    tenant.member(&world, "first", "viewer").await;
    let users = join_all((0..8).map(async |number| user(&world, &format!("u{number}")).await)).await;
    let replicas = [tenant.client.clone(), replica.client(&tenant.key)];
    let adds = users.iter().enumerate().map(|(number, user)| add(&replicas[number % 2], &tenant, user, "member"));
    let (added, refusals): (Vec<_>, Vec<_>) = join_all(adds).await.into_iter().partition(Result::is_ok);
    assert_eq!((added.len(), members(&world, &tenant, "").await.len()), (2, 3));
    for refusal in refusals {
        let refusal = refused(refusal);
        assert!(refusal.is(Code::FailedPrecondition, "MEMBER_LIMIT_REACHED"), "{refusal:?}");
    }
    // Who leaves makes room.
    let left = added[0].as_ref().unwrap();
    remove(&tenant.client, &tenant, &left.user_id, &left.etag).await.unwrap();
    add(&tenant.client, &tenant, &left.user_id, "admin").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_addition_is_one_addition() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let request = v1::AddMemberRequest {
        user_id: user(&world, "ida").await,
        role: "member".into(),
        request_id: REQUEST_ID.into(),
        ..Default::default()
    };
    let again = (0..6).map(|_| {
        let (mut members, request) = (tenant.client.members(), request.clone());
        async move { members.add_member(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    assert_eq!(recorded(&tenant, &request.user_id).await, 1);
    let other = v1::AddMemberRequest { role: "viewer".into(), ..request.clone() };
    let refusal = refused(tenant.client.members().add_member(other).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    // A refused one claims nothing.
    let id = REQUEST_ID.replace("01", "02");
    let refused_one = v1::AddMemberRequest { user_id: NOBODY.into(), request_id: id.clone(), ..request.clone() };
    refused(tenant.client.members().add_member(refused_one).await);
    let another = v1::AddMemberRequest { user_id: user(&world, "bob").await, request_id: id, ..request };
    tenant.client.members().add_member(another).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_say_what_they_changed() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let ida = tenant.member(&world, "ida", "viewer").await;
    let theirs = other.member(&world, "bob", "viewer").await;
    let before = get(&tenant.client, &tenant, &ida).await.unwrap();
    assert_eq!(set_role(&tenant.client, &tenant, &ida, "viewer", &before.etag).await.unwrap(), before);
    assert_eq!(recorded(&tenant, &ida).await, 1);
    let after = set_role(&tenant.client, &tenant, &ida, "member", &before.etag).await.unwrap();
    assert_eq!((after.role.as_str(), &after.create_time), ("member", &before.create_time));
    assert_ne!((&after.etag, &after.update_time), (&before.etag, &before.update_time));
    assert_eq!(get(&tenant.client, &tenant, &ida).await.unwrap(), after);
    assert_eq!(recorded(&tenant, &ida).await, 2);
    for outcome in [
        set_role(&tenant.client, &tenant, &ida, "admin", &before.etag).await.map(drop),
        remove(&tenant.client, &tenant, &ida, &before.etag).await,
    ] {
        assert!(refused(outcome).is(Code::Aborted, "ETAG_MISMATCH"));
    }
    for nobody in [&theirs, NOBODY] {
        for outcome in [
            get(&tenant.client, &tenant, nobody).await.map(drop),
            set_role(&tenant.client, &tenant, nobody, "admin", "").await.map(drop),
            remove(&tenant.client, &tenant, nobody, "").await,
        ] {
            assert!(refused(outcome).is(Code::NotFound, "MEMBER_NOT_FOUND"));
        }
    }
    remove(&tenant.client, &tenant, &ida, &after.etag).await.unwrap();
    assert!(refused(get(&tenant.client, &tenant, &ida).await).is(Code::NotFound, "MEMBER_NOT_FOUND"));
    assert_eq!(members(&world, &other, "viewer").await, [theirs]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_in_force_on_every_replica() {
    let world = World::start_with(NEVER_STALE).await;
    let replica = World::on(world.database.clone(), NEVER_STALE).await;
    let tenant = world.tenant("acme").await;
    let ida = tenant.member(&world, "ida", "viewer").await;
    let clients = [tenant.client.clone().acting(&ida), replica.client(&tenant.key).acting(&ida)];
    let audit =
        async |client: &Client| match client.audit().list_audit_events(v1::ListAuditEventsRequest::default()).await {
            Ok(_) => String::new(),
            Err(status) => refused::<()>(Err(status)).reason,
        };
    for (role, expected) in [("", "PERMISSION_MISSING"), ("admin", ""), ("member", "PERMISSION_MISSING")] {
        if !role.is_empty() {
            set_role(&tenant.client, &tenant, &ida, role, "").await.unwrap();
        }
        for client in &clients {
            eventually("the role is in force", async || audit(client).await == expected).await;
        }
    }
    remove(&tenant.client, &tenant, &ida, "").await.unwrap();
    for client in &clients {
        eventually("nobody acts for who left", async || audit(client).await == "NOT_A_MEMBER").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_in_order_and_pages_by_key() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut users = Vec::new();
    for number in 0..7 {
        world.clock.advance(Duration::from_millis(2));
        users.push(user(&world, &format!("u{number}")).await);
    }
    // In another order than that of their ids.
    for at in [3, 0, 6, 1, 5, 2, 4] {
        add(&tenant.client, &tenant, &users[at], if at < 3 { "admin" } else { "viewer" }).await.unwrap();
    }
    // All but two joined at the same time, so that the order falls back on the ids.
    sqlx::query("UPDATE tenancy.members SET create_time = (SELECT min(create_time) FROM tenancy.members) WHERE user_id <> ALL ($1::uuid[])")
        .bind([users[4].clone(), users[2].clone()])
        .execute(&world.database.superuser)
        .await
        .unwrap();
    let expected: Vec<String> = [4, 2, 6, 5, 3, 1, 0].map(|at| users[at].clone()).into();
    let mut seen = Vec::new();
    let mut request = v1::ListMembersRequest { page_size: 2, ..Default::default() };
    loop {
        let page = list(&tenant.client, request.clone()).await.unwrap();
        seen.extend(page.members.into_iter().map(|member| member.user_id));
        if page.next_page_token.is_empty() {
            break;
        }
        // Who goes from a page already read moves nothing.
        remove(&tenant.client, &tenant, seen.last().unwrap(), "").await.unwrap();
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, expected);
    let foreign = v1::ListMembersRequest { filter: "role = \"admin\"".into(), ..request };
    assert_eq!(refused(list(&tenant.client, foreign).await).fields, ["page_token"]);

    for (role, expected) in [("admin", vec![0]), ("viewer", vec![4, 6, 3]), ("owner", vec![])] {
        let request = v1::ListMembersRequest { filter: format!("role = \"{role}\""), ..Default::default() };
        let listed = list(&tenant.client, request).await.unwrap().members;
        let listed: Vec<_> = listed.into_iter().map(|member| member.user_id).collect();
        assert_eq!(listed, expected.into_iter().map(|at: usize| users[at].clone()).collect::<Vec<_>>(), "{role}");
    }
    for (request, field) in [
        (v1::ListMembersRequest { filter: "role = \"Root\"".into(), ..Default::default() }, "filter"),
        (v1::ListMembersRequest { page_size: -1, ..Default::default() }, "page_size"),
        (v1::ListMembersRequest { page_token: "x".into(), ..Default::default() }, "page_token"),
    ] {
        let refusal = refused(list(&tenant.client, request).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == [field], "{refusal:?}");
    }
}
