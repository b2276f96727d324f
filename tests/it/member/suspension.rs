//! Members who are suspended: nobody acts for them, and an owner who is does not count.

use futures_util::future::join_all;
use tenancy::proto::v1;
use tenancy::worker::last_used;
use tonic::Code;

use super::{add, deactivate, get, list, members, reactivate, recorded, remove, set_role, suspend};
use crate::harness::{World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_suspended_stays_a_member_whom_nobody_acts_for() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let ida = tenant.member(&world, "ida", "admin").await;
    add(&world.operator(), &other, &ida, "viewer").await.unwrap();
    let before = get(&tenant.client, &tenant, &ida).await.unwrap();
    assert_eq!((before.status(), &before.suspend_time), (v1::MemberStatus::Active, &None));
    assert!(refused(suspend(&tenant.client, &tenant, &ida, "r99").await).is(Code::Aborted, "ETAG_MISMATCH"));

    let suspended = suspend(&tenant.client, &tenant, &ida, &before.etag).await.unwrap();
    assert_eq!((suspended.status(), &*suspended.suspend_reason), (v1::MemberStatus::Suspended, "on leave"));
    assert!(suspended.suspend_time.is_some() && suspended.etag != before.etag);
    assert_eq!(get(&tenant.client, &tenant, &ida).await.unwrap(), suspended);
    assert_eq!(suspend(&tenant.client, &tenant, &ida, "").await.unwrap(), suspended, "twice changes nothing");
    assert_eq!(recorded(&tenant, &ida).await, 2);
    let refusal = refused(get(&tenant.client.clone().acting(&ida), &tenant, &ida).await);
    assert!(refusal.is(Code::PermissionDenied, "MEMBER_SUSPENDED"), "{refusal:?}");
    // Elsewhere they are who they were.
    get(&other.client.clone().acting(&ida), &other, &ida).await.unwrap();
    let request = v1::ListUserOrganizationsRequest { user_id: ida.clone(), ..Default::default() };
    let listed = world.operator().users().list_user_organizations(request).await.unwrap().into_inner().organizations;
    let statuses: Vec<_> = listed.iter().map(|belonging| (&*belonging.slug, belonging.member_status())).collect();
    assert_eq!(statuses, [("other", v1::MemberStatus::Active), ("acme", v1::MemberStatus::Suspended)]);

    let bob = tenant.member(&world, "bob", "viewer").await;
    for (filter, expected) in [
        ("status = \"SUSPENDED\"", &[&ida][..]),
        ("status = \"ACTIVE\"", &[&bob]),
        ("status = \"SUSPENDED\" AND role = \"viewer\"", &[]),
    ] {
        let request = v1::ListMembersRequest { filter: filter.into(), ..Default::default() };
        let listed = list(&tenant.client, request).await.unwrap().members;
        let listed: Vec<&String> = listed.iter().map(|member| &member.user_id).collect();
        assert_eq!(listed, expected, "{filter}");
    }

    let active = reactivate(&tenant.client, &tenant, &ida, &suspended.etag).await.unwrap();
    assert_eq!((active.status(), &*active.suspend_reason, &active.suspend_time), (v1::MemberStatus::Active, "", &None));
    assert_eq!(reactivate(&tenant.client, &tenant, &ida, "").await.unwrap(), active);
    assert_eq!(recorded(&tenant, &ida).await, 3);
    get(&tenant.client.clone().acting(&ida), &tenant, &ida).await.unwrap();
    let request = v1::SuspendMemberRequest { user_id: "x".into(), reason: "x".repeat(501), ..Default::default() };
    let refusal = refused(tenant.client.members().suspend_member(request).await);
    assert_eq!(refusal.fields, ["user_id", "reason"]);

    // When somebody acted for them is known, and no change of the membership.
    last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    let seen = get(&tenant.client, &tenant, &ida).await.unwrap();
    assert!(seen.last_activity_time.is_some() && seen.etag == active.etag);
    assert_eq!(get(&tenant.client, &tenant, &bob).await.unwrap().last_activity_time, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_active_owner_is_not_suspended() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let second = tenant.member(&world, "second", "owner").await;
    let gone = tenant.member(&world, "gone", "owner").await;
    let admin = tenant.member(&world, "admin", "admin").await;
    for client in [&tenant.client, &tenant.client.clone().acting(&admin)] {
        for outcome in [suspend(client, &tenant, &second, "").await, reactivate(client, &tenant, &second, "").await] {
            assert!(refused(outcome).is(Code::PermissionDenied, "OWNER_REQUIRED"));
        }
    }
    deactivate(&world, &gone).await;
    suspend(&tenant.client.clone().acting(&owner), &tenant, &second, "").await.unwrap();
    // Neither of the two others stands in.
    for client in [&tenant.client.clone().acting(&owner), &world.operator()] {
        for outcome in [
            suspend(client, &tenant, &owner, "").await.map(drop),
            set_role(client, &tenant, &owner, "admin", "").await.map(drop),
            remove(client, &tenant, &owner, "").await,
        ] {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::FailedPrecondition, "LAST_OWNER"), "{refusal:?}");
        }
    }
    // One in name only can go.
    remove(&world.operator(), &tenant, &gone, "").await.unwrap();
    reactivate(&world.operator(), &tenant, &second, "").await.unwrap();
    suspend(&tenant.client.clone().acting(&second), &tenant, &owner, "").await.unwrap();
    remove(&tenant.client.clone().acting(&second), &tenant, &owner, "").await.unwrap();
    assert_eq!(members(&world, &tenant, "owner").await, [second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_who_suspend_each_other_one_remains() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    for round in 0..8 {
        let tenant = world.tenant(&format!("acme-{round}")).await;
        let (a, b) = (tenant.member(&world, "a", "owner").await, tenant.member(&world, "b", "owner").await);
        let (by_a, by_b) = (tenant.client.clone().acting(&a), replica.client(&tenant.key).acting(&b));
        // Both know of themselves, so that no look-up comes in between.
        join_all([get(&by_a, &tenant, &a), get(&by_b, &tenant, &b)]).await;
        let demote = round % 2 == 1;
        let by_b = async {
            if demote {
                set_role(&by_b, &tenant, &a, "viewer", "").await
            } else {
                suspend(&by_b, &tenant, &a, "").await
            }
        };
        let (first, second) = tokio::join!(suspend(&by_a, &tenant, &b, ""), by_b);
        assert_eq!(u8::from(first.is_ok()) + u8::from(second.is_ok()), 1, "{first:?} {second:?}");
        let refusal = refused(first.and(second));
        let late = ["LAST_OWNER", "MEMBER_SUSPENDED", "PERMISSION_MISSING", "OWNER_REQUIRED"];
        assert!(late.contains(&refusal.reason.as_str()), "{refusal:?}");
        let active: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tenancy.members WHERE organization_id = $1::uuid AND role = 'owner' AND status = 'active'",
        )
        .bind(&tenant.id)
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
        assert_eq!(active, 1);
    }
}
