//! Owners: who makes and unmakes them, and that one always remains.

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::Code;

use super::{add, deactivate, members, remove, set_role, user};
use crate::harness::{Client, Tenant, World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_are_the_owners_affair() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let second = tenant.member(&world, "second", "owner").await;
    let admin = tenant.member(&world, "admin", "admin").await;
    let new = user(&world, "new").await;
    for client in [&tenant.client, &tenant.client.clone().acting(&admin), &world.operator().acting(&admin)] {
        for outcome in [
            add(client, &tenant, &new, "owner").await.map(drop),
            // Also oneself, and one who is an owner already.
            set_role(client, &tenant, &admin, "owner", "").await.map(drop),
            set_role(client, &tenant, &second, "owner", "").await.map(drop),
            set_role(client, &tenant, &second, "admin", "").await.map(drop),
            remove(client, &tenant, &second, "").await,
        ] {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::PermissionDenied, "OWNER_REQUIRED"), "{refusal:?}");
        }
    }
    let mut owners = members(&world, &tenant, "owner").await;
    owners.sort();
    assert_eq!(owners, [owner.clone(), second.clone()]);

    for client in [&tenant.client.clone().acting(&owner), &world.operator()] {
        add(client, &tenant, &new, "owner").await.unwrap();
        set_role(client, &tenant, &new, "admin", "").await.unwrap();
        set_role(client, &tenant, &new, "owner", "").await.unwrap();
        remove(client, &tenant, &new, "").await.unwrap();
    }
    // What is not of owners, a key and an admin do.
    for client in [&tenant.client, &tenant.client.clone().acting(&admin)] {
        add(client, &tenant, &new, "viewer").await.unwrap();
        set_role(client, &tenant, &new, "admin", "").await.unwrap();
        remove(client, &tenant, &new, "").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_owner_stays() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let gone = tenant.member(&world, "gone", "owner").await;
    deactivate(&world, &gone).await;
    for client in [&tenant.client.clone().acting(&owner), &world.operator()] {
        for outcome in
            [remove(client, &tenant, &owner, "").await, set_role(client, &tenant, &owner, "admin", "").await.map(drop)]
        {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::FailedPrecondition, "LAST_OWNER"), "{refusal:?}");
        }
    }
    // One who is deactivated can go, down to the last.
    remove(&world.operator(), &tenant, &gone, "").await.unwrap();
    deactivate(&world, &owner).await;
    let refusal = refused(remove(&world.operator(), &tenant, &owner, "").await);
    assert!(refusal.is(Code::FailedPrecondition, "LAST_OWNER"), "{refusal:?}");
    let next = tenant.member(&world, "next", "owner").await;
    remove(&world.operator(), &tenant, &owner, "").await.unwrap();
    assert_eq!(members(&world, &tenant, "").await, [next]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_owners_that_go_at_once_one_stays() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let operators = [world.operator(), replica.operator()];
    let leave = async |client: &Client, tenant: &Tenant, user: &str, round: usize| {
        if round.is_multiple_of(2) {
            remove(client, tenant, user, "").await
        } else {
            set_role(client, tenant, user, "viewer", "").await.map(drop)
        }
    };
    for round in 0..8 {
        let tenant = world.tenant(&format!("acme-{round}")).await;
        let (a, b) = (tenant.member(&world, "a", "owner").await, tenant.member(&world, "b", "owner").await);
        // By the platform, and each by the other.
        let clients = if round < 4 {
            operators.clone()
        } else {
            [tenant.client.clone().acting(&b), replica.client(&tenant.key).acting(&a)]
        };
        let (first, second) =
            tokio::join!(leave(&clients[0], &tenant, &a, round), leave(&clients[1], &tenant, &b, round / 2));
        assert_eq!(u8::from(first.is_ok()) + u8::from(second.is_ok()), 1, "{first:?} {second:?}");
        let refusal = refused(first.and(second));
        let late = ["NOT_A_MEMBER", "PERMISSION_MISSING", "OWNER_REQUIRED"].contains(&refusal.reason.as_str());
        assert!(refusal.reason == "LAST_OWNER" || round >= 4 && late, "{refusal:?}");
        assert_eq!(members(&world, &tenant, "owner").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_an_owner_remains() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let mut users = vec![tenant.member(&world, "u0", "owner").await];
    for number in 1..4 {
        users.push(user(&world, &format!("u{number}")).await);
    }
    let mut callers = vec![tenant.client.clone(), world.operator(), replica.operator()];
    callers.extend(users.iter().map(|user| replica.client(&tenant.key).acting(user)));
    let seed = rand::random::<u64>();
    let mut random = StdRng::seed_from_u64(seed);
    for step in 0..40 {
        let doings = (0..6).map(|_| {
            let caller = callers[random.random_range(0..callers.len())].clone();
            let user = users[random.random_range(0..users.len())].clone();
            let role = ["owner", "owner", "admin", "viewer"][random.random_range(0..4)];
            let (doing, tenant) = (random.random_range(0..4), &tenant);
            async move {
                match doing {
                    0 => add(&caller, tenant, &user, role).await.map(drop),
                    1 => remove(&caller, tenant, &user, "").await,
                    _ => set_role(&caller, tenant, &user, role, "").await.map(drop),
                }
            }
        });
        let doings: Vec<_> = doings.collect();
        for refusal in join_all(doings).await.into_iter().filter(Result::is_err) {
            let refusal = refused(refusal);
            let known = [
                "LAST_OWNER",
                "OWNER_REQUIRED",
                "ALREADY_MEMBER",
                "MEMBER_NOT_FOUND",
                "NOT_A_MEMBER",
                "PERMISSION_MISSING",
            ];
            assert!(known.contains(&refusal.reason.as_str()), "seed {seed}, step {step}: {refusal:?}");
        }
        assert!(!members(&world, &tenant, "owner").await.is_empty(), "seed {seed}, step {step}");
    }
}
