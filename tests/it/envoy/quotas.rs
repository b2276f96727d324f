//! Rate limit quotas, with deploy/envoy/rlqs.yaml: Envoys decide out of slices, and all of them together never admit more than
//! the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tokio::task::JoinSet;

use crate::envoy::harness::{Ask, Bootstrap, Envoy, Guest, Upstream, Version, program};
use crate::harness::{World, eventually};
use crate::quota::support::monthly;
use crate::usage::support::create_meter;

async fn envoy(world: &World, upstream: &Upstream, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Envoy {
    let bootstrap = Bootstrap::quotas(world.running.grpc, upstream.address);
    Envoy::start(&change(bootstrap), &world.service_key(&[Permission::Sidecar], &[]).await).await
}

/// A tenant with so many requests in a month, or without a limit, of the meter that the file names.
async fn guest(world: &World, slug: &str, requests: Option<i64>) -> Guest {
    let guest = Guest::new(world, slug).await;
    create_meter(&guest.tenant.client, "api.requests", v1::MeterAggregation::Count).await;
    if let Some(requests) = requests {
        guest.limit(&world.operator(), monthly("api.requests", requests)).await;
    }
    guest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_of_two_envoys_and_two_replicas_never_exceed_the_limit() {
    if program().is_none() {
        return;
    }
    let upstream = Upstream::start().await;
    let first = World::start().await;
    let second = World::on(first.database.clone(), &[]).await;
    let limit = 60;
    let guest = Arc::new(guest(&first, "sliced", Some(limit)).await);
    let (one, other) = tokio::join!(envoy(&first, &upstream, |same| same), envoy(&second, &upstream, |same| same));
    let (stop, passed) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicU32::new(0), AtomicU32::new(0)]));
    let mut callers = JoinSet::new();
    for (number, address) in [one.address, other.address].into_iter().enumerate() {
        let (guest, stop, passed) = (Arc::clone(&guest), Arc::clone(&stop), Arc::clone(&passed));
        callers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = guest.get("/any").send(address, Version::Http1).await;
                match answer.status {
                    200 => drop(passed[number].fetch_add(1, Ordering::Relaxed)),
                    // An Envoy says no more than that.
                    429 => assert_eq!((answer.header("retry-after"), answer.header("x-ratelimit-limit")), (None, None)),
                    _ => panic!("{answer:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let total = || passed.iter().map(|passed| i64::from(passed.load(Ordering::Relaxed))).sum::<i64>();
    eventually("both admit, and most of it is used", || async {
        assert!(total() <= limit, "{passed:?}");
        total() >= limit * 2 / 3 && passed.iter().all(|passed| passed.load(Ordering::Relaxed) > 0)
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert!(total() <= limit, "{passed:?}");
    eventually("the ledger knows of all of it", || async { guest.used("api.requests").await >= total() }).await;
    assert!(guest.used("api.requests").await <= limit);
    assert_eq!(upstream.seen("/any"), u64::try_from(total()).unwrap());
    guest.records("api.requests", &total().to_string(), total()).await;
    let nobody = Ask::get("/any").send(one.address, Version::Http1).await;
    assert_eq!((nobody.status, nobody.reason().as_str()), (401, "CREDENTIALS_MISSING"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tenancy_gone_what_was_assigned_is_enforced_on() {
    if program().is_none() {
        return;
    }
    // Without ext_authz, which would refuse all of them then; a client says which tenant it is.
    let without_authz = |bootstrap: Bootstrap| {
        bootstrap
            .replaced(
                "check_settings:\n                      context_extensions: {record: api.requests=requests}",
                "disabled: true",
            )
            .replaced("              - remove: x-tenant-id\n", "")
            .replaced("              - remove: x-api-key-id\n", "")
    };
    let upstream = Upstream::start().await;
    let mut world = World::start().await;
    let (free, sliced) = (guest(&world, "free-of-limits", None).await, guest(&world, "one-slice", Some(40)).await);
    let envoy = envoy(&world, &upstream, without_authz).await;
    let ask = async |guest: &Guest| {
        let ask = Ask::get("/any").header("x-tenant-id", &guest.tenant.id).header("x-api-key-id", &guest.tenant.key_id);
        ask.send(envoy.address, Version::Http1).await.status
    };
    for guest in [&free, &sliced] {
        assert_eq!(ask(guest).await, 429, "nothing passes before the first assignment");
        eventually("something is assigned", || async { ask(guest).await == 200 }).await;
    }
    world.running.stop();
    world.running.ended().await.unwrap();
    for _ in 0..100 {
        assert_eq!(ask(&free).await, 200);
    }
    let mut passed = 1;
    while ask(&sliced).await == 200 {
        passed += 1;
        assert!(passed <= 40, "the slice ends");
    }
}
