//! Reservations: settled once, on any replica, with what was really used.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tenancy::proto::v1;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{World, eventually, refused};
use crate::quota::asks::{check, commit, limited, monthly, release, reservation, reserve, take, used};
use crate::usage::support::create_meter;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reserved_is_used_until_it_is_settled() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10)]).await.client;
    let reserved = reserve(&client, reservation(6)).await;
    assert!(reserved.decision.as_ref().unwrap().allowed);
    assert!((100..4096).contains(&reserved.reservation_id.len()));
    let left = reserved.expire_time.unwrap().seconds - world.clock.now().timestamp();
    assert!((58..=60).contains(&left), "{left}");
    let seen = check(&client, 0).await.limits.remove(0);
    assert_eq!((seen.used, seen.reserved, seen.remaining), (6, 6, 4));

    let denied = reserve(&client, reservation(5)).await;
    assert!(!denied.decision.unwrap().allowed && denied.reservation_id.is_empty() && denied.expire_time.is_none());

    assert_eq!(commit(&client, &reserved.reservation_id, 2).await.unwrap(), (2, 0));
    eventually("the rest is given back", || async {
        let seen = check(&client, 0).await.limits.remove(0);
        (seen.used, seen.reserved, seen.remaining) == (2, 0, 8)
    })
    .await;
    // Settled again: the same reply, whatever the amount.
    assert_eq!(commit(&client, &reserved.reservation_id, 6).await.unwrap(), (2, 0));
    assert_eq!(release(&client, &reserved.reservation_id).await.unwrap(), 2);
    assert_eq!(used(&client).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_was_reserved_is_overage_and_never_refused() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10)]).await.client;
    let reserved = reserve(&client, reservation(10)).await;
    assert_eq!(commit(&client, &reserved.reservation_id, 25).await.unwrap(), (25, 15));
    assert_eq!(commit(&client, &reserved.reservation_id, 25).await.unwrap(), (25, 15));
    eventually("the overage is seen", || async { check(&client, 0).await.limits[0].overage == 15 }).await;
    assert!(!take(&client, 1).await.allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_settled_once_whichever_replica_is_asked() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let replica = World::on(world.database.clone(), &[]).await;
    let clients = [tenant.client.clone(), replica.client(&tenant.key)];
    let reserved = reserve(&clients[0], reservation(100)).await;
    let mut settling = JoinSet::new();
    for number in 0..20 {
        let (client, id) = (clients[number % 2].clone(), reserved.reservation_id.clone());
        let amount = i64::try_from(number).unwrap() + 40;
        settling.spawn(async move {
            match number {
                5 | 10 => release(&client, &id).await.unwrap(),
                _ => commit(&client, &id, amount).await.unwrap().0,
            }
        });
    }
    let settled = settling.join_all().await;
    assert!(settled.iter().all(|amount| *amount == settled[0]), "{settled:?}");
    // What was given back can be used once, by both together.
    let left = 100 - settled[0];
    let admitted = AtomicI64::new(0);
    // A denial may come early, while what was given back is on its way.
    eventually("what is left is used up", || async {
        for client in &clients {
            admitted.fetch_add(take(client, 1).await.granted, Ordering::SeqCst);
        }
        admitted.load(Ordering::SeqCst) >= left
    })
    .await;
    for client in &clients {
        assert!(!take(client, 1).await.allowed, "and no more");
    }
    assert_eq!(admitted.into_inner(), left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_expired_stays_used() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10)]).await.client;
    let ttl = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let settled = reserve(&client, v1::ReserveQuotaRequest { ttl, ..reservation(4) }).await;
    let left = reserve(&client, v1::ReserveQuotaRequest { ttl, ..reservation(4) }).await;
    assert_eq!(commit(&client, &settled.reservation_id, 1).await.unwrap(), (1, 0));
    world.clock.advance(Duration::from_secs(6));
    for refusal in [
        refused(commit(&client, &left.reservation_id, 1).await),
        refused(release(&client, &left.reservation_id).await.map(|settled| (settled, 0))),
    ] {
        assert!(refusal.is(Code::FailedPrecondition, "RESERVATION_EXPIRED"), "{refusal:?}");
    }
    assert_eq!(commit(&client, &settled.reservation_id, 3).await.unwrap(), (1, 0), "as it was settled before");
    eventually("what was settled is given back, and no more", || async {
        let seen = check(&client, 0).await.limits.remove(0);
        (seen.used, seen.reserved) == (5, 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_one_and_anothers_are_none() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let other = world.tenant("other").await;
    create_meter(&other.client, "calls", v1::MeterAggregation::Sum).await;
    let id = reserve(&tenant.client, reservation(4)).await.reservation_id;
    let last = if id.ends_with('A') { "B" } else { "A" };
    let forged = format!("{}{last}", &id[..id.len() - 1]);
    let front = format!("B{}", &id[1..]);
    for wrong in ["", "x", "not base64!", &forged, &front, &id[..id.len() - 4], &"A".repeat(10_000)] {
        let refusal = refused(commit(&tenant.client, wrong, 1).await);
        assert!(refusal.is(Code::InvalidArgument, "RESERVATION_INVALID"), "{wrong}: {refusal:?}");
    }
    let refusal = refused(commit(&other.client, &id, 1).await);
    assert!(refusal.is(Code::InvalidArgument, "RESERVATION_INVALID"), "{refusal:?}");
    let refusal = refused(release(&other.client, &id).await);
    assert!(refusal.is(Code::InvalidArgument, "RESERVATION_INVALID"), "{refusal:?}");
    assert_eq!(release(&tenant.client, &id).await.unwrap(), 0);
    eventually("all is given back", || async { take(&tenant.client, 10).await.allowed }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_reservation_is_the_same_one() {
    let world = World::start().await;
    let client = limited(&world, [monthly(10)]).await.client;
    let ask = || v1::ReserveQuotaRequest { operation_id: "a".into(), ..reservation(4) };
    let first = reserve(&client, ask()).await;
    assert_eq!(reserve(&client, ask()).await, first);
    assert_eq!(used(&client).await, 4);
    let other = v1::ReserveQuotaRequest { ttl: Some(prost_types::Duration { seconds: 9, nanos: 0 }), ..ask() };
    let refusal = refused(client.quotas().reserve_quota(other).await);
    assert!(refusal.is(Code::InvalidArgument, "OPERATION_ID_REUSED"), "{refusal:?}");
}
