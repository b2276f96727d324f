//! How streams of rate limit quotas begin and end: who may open one, what locks out, and what bounds them.

use std::time::Duration;

use tenancy::proto::v1;
use tonic::Code;

use super::quota_envoy::{Envoy, State, calls, id, sidecar};
use crate::harness::certificates::{Authority, Files, client};
use crate::harness::{World, eventually, taken_apart};
use crate::quota::asks::{limited, monthly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_organization_is_refused_without_a_report() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100_000)]).await;
    let mut envoy = Envoy::of(&world).await;
    let bucket = calls(&tenant.id);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    assert!(matches!(envoy.state(&bucket), State::Tokens(_)));
    let request = v1::SuspendOrganizationRequest {
        organization_id: tenant.id.clone(),
        reason: "unpaid".into(),
        ..v1::SuspendOrganizationRequest::default()
    };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    let (envoy, bucket) = (&tokio::sync::Mutex::new(envoy), &bucket);
    eventually("it is refused", || async move {
        let mut envoy = envoy.lock().await;
        envoy.listen();
        envoy.state(bucket) == State::Deny
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_key_opens_no_stream_and_a_workload_does() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let refusal = Envoy::open(&tenant.client, &world.clock).await.map(|_| ()).unwrap_err();
    assert!(taken_apart(&refusal).is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");

    let authority = Authority::new();
    let files = Files::new(&authority.server(), &authority);
    let replica = files.serve(world.database.clone(), "spiffe://prod/*").await;
    let identity = authority.client(&["spiffe://prod/gateway"]);
    let workload = client(replica.running.grpc, &authority, Some(&identity));
    let mut envoy = Envoy::open(&workload, &replica.clock).await.unwrap();
    let bucket = calls(&tenant.id);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    assert!(matches!(envoy.state(&bucket), State::Tokens(_)));
    // Longer than between two looks at who it is.
    tokio::time::sleep(Duration::from_secs(1)).await;
    envoy.report().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_ends_streams_and_another_replica_goes_on() {
    let mut world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = limited(&replica, [monthly(100)]).await;
    let bucket = calls(&tenant.id);
    let mut envoy = Envoy::of(&world).await;
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    assert!(envoy.request(&bucket));
    world.running.stop();
    envoy.ended().await.expect("politely");
    assert!(envoy.request(&bucket), "it goes on with what it has");
    world.running.ended().await.unwrap();
    let mut envoy = envoy.reopen(&sidecar(&replica).await).await;
    envoy.report().await.unwrap();
    assert!(envoy.request(&bucket));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_buckets_end_the_stream() {
    let world = World::start().await;
    let mut envoy = Envoy::of(&world).await;
    for number in 0..10_001 {
        envoy.request(&id(&[("n", &number.to_string())]));
    }
    let refusal = taken_apart(&envoy.report().await.unwrap_err());
    assert!(refusal.is(Code::ResourceExhausted, "TOO_MANY_BUCKETS"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_nobody_uses_is_abandoned() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100_000)]).await;
    let mut envoy = Envoy::of(&world).await;
    let bucket = calls(&tenant.id);
    envoy.request(&bucket);
    envoy.report().await.unwrap();
    let mut rounds = 0;
    while envoy.knows(&bucket) {
        world.clock.advance(Duration::from_secs(30));
        envoy.report().await.unwrap();
        rounds += 1;
        assert!(rounds < 60, "it is never abandoned");
    }
    assert!(rounds >= 20, "after ten minutes: {rounds}");
    // And subscribes again. A question to the ledger whose time was up as the clock jumped makes it away for a moment: what is
    // refused for that is looked at again within five seconds.
    envoy.request(&bucket);
    for _ in 0..20 {
        envoy.report().await.unwrap();
        if matches!(envoy.state(&bucket), State::Tokens(_)) {
            return;
        }
        world.clock.advance(Duration::from_secs(5));
    }
    panic!("it is not served again: {:?}", envoy.state(&bucket));
}
