//! Ownership that is handed over: by its owner or the platform, in one step.

use tenancy::proto::v1;
use tonic::Code;

use super::{NOBODY, deactivate, members, recorded, suspend, transfer};
use crate::harness::{World, refused};
use crate::role::{PERMISSIONS, change, create, role, with_permissions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_hands_over_in_one_step() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (owner, next) = (tenant.member(&world, "a", "owner").await, tenant.member(&world, "b", "viewer").await);
    change(&tenant.client, with_permissions(&next, &["audit.read"], &["usage.read"]), PERMISSIONS).await.unwrap();
    let client = tenant.client.clone().acting(&owner);
    let reply = transfer(&client, &tenant, (&next, "", "")).await.unwrap();
    let (to, from) = (reply.owner.unwrap(), reply.former_owner.unwrap());
    assert_eq!((&to.user_id, &*to.role, &from.user_id, &*from.role), (&next, "owner", &owner, "admin"));
    assert_eq!((to.extra_permissions.len(), to.denied_permissions.len()), (0, 0));
    assert_eq!((recorded(&tenant, &owner).await, recorded(&tenant, &next).await), (2, 3));
    // It is theirs no more.
    let refusal = refused(transfer(&client, &tenant, (&next, "", "")).await);
    assert!(refusal.is(Code::PermissionDenied, "OWNER_REQUIRED"), "{refusal:?}");

    // By the platform, to one who is an owner already, for a role of the organization's own.
    create(&tenant.client, role("founder", &["usage.read"])).await.unwrap();
    let third = tenant.member(&world, "c", "owner").await;
    let reply = transfer(&world.operator(), &tenant, (&third, &next, "founder")).await.unwrap();
    assert_eq!((&*reply.owner.unwrap().role, &*reply.former_owner.unwrap().role), ("owner", "founder"));
    assert_eq!(members(&world, &tenant, "owner").await, [third]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_owner_hands_over_and_only_what_is_theirs() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let (a, b) = (tenant.member(&world, "a", "owner").await, tenant.member(&world, "b", "owner").await);
    let admin = tenant.member(&world, "admin", "admin").await;
    let theirs = other.member(&world, "theirs", "viewer").await;
    let (by_a, operator) = (tenant.client.clone().acting(&a), world.operator());
    for (client, from) in [
        (&tenant.client, ""),
        (&tenant.client, &*a),
        (&tenant.client.clone().acting(&admin), ""),
        (&tenant.client.clone().acting(&admin), &a),
        (&operator.clone().acting(&admin), ""),
        // Another owner's.
        (&by_a, &b),
    ] {
        let refusal = refused(transfer(client, &tenant, (&admin, from, "")).await);
        assert!(refusal.is(Code::PermissionDenied, "OWNER_REQUIRED"), "{refusal:?}");
    }
    for (to, from, role, fields) in
        [(&*a, "", "", &["user_id"][..]), ("x", "y", "owner", &["user_id", "former_owner_id", "former_owner_role"])]
    {
        let refusal = refused(transfer(&by_a, &tenant, (to, from, role)).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == fields, "{refusal:?}");
    }
    assert_eq!(refused(transfer(&operator, &tenant, (&admin, "", "")).await).fields, ["former_owner_id"]);
    let refusal = refused(transfer(&operator, &tenant, (&a, &admin, "")).await);
    assert!(refusal.is(Code::FailedPrecondition, "NOT_AN_OWNER"), "{refusal:?}");
    for nobody in [NOBODY, &theirs] {
        let refusal = refused(transfer(&by_a, &tenant, (nobody, "", "")).await);
        assert!(refusal.is(Code::NotFound, "MEMBER_NOT_FOUND"), "{refusal:?}");
    }
    let refusal = refused(transfer(&by_a, &tenant, (&admin, "", "nosuch")).await);
    assert!(refusal.is(Code::NotFound, "ROLE_NOT_FOUND"), "{refusal:?}");

    // To whom nobody can act for, nothing is handed over.
    suspend(&tenant.client, &tenant, &admin, "").await.unwrap();
    let refusal = refused(transfer(&by_a, &tenant, (&admin, "", "")).await);
    assert!(refusal.is(Code::FailedPrecondition, "MEMBER_SUSPENDED"), "{refusal:?}");
    let gone = tenant.member(&world, "gone", "viewer").await;
    deactivate(&world, &gone).await;
    let refusal = refused(transfer(&by_a, &tenant, (&gone, "", "")).await);
    assert!(refusal.is(Code::FailedPrecondition, "USER_DEACTIVATED"), "{refusal:?}");
    let mut owners = members(&world, &tenant, "owner").await;
    owners.sort();
    assert_eq!(owners, [a, b]);
    let request = v1::ListMembersRequest::default();
    let listed = other.client.members().list_members(request).await.unwrap().into_inner().members;
    assert_eq!((listed.len(), &*listed[0].role), (1, "viewer"));
}
