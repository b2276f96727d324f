//! What a log survives, and what ends it.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Tenant, World, eventually, refused, waiting};
use crate::quota::asks::{limited, monthly};
use crate::sidecar::logs::{Admitting, Log, counted, log, sidecar, totals};
use crate::usage::support::{create_meter, drift, stored};
use crate::usage::verify::verify;

async fn prepared(world: &World) -> (Tenant, Admitting) {
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    let admitting = Admitting::new(world, &tenant).await;
    (tenant, admitting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_some_seconds_loses_nothing() {
    let world = World::start().await;
    let (_, admitting) = prepared(&world).await;
    let client = sidecar(&world, &[]).await;
    let stream = Log::open(&client).await.unwrap();
    stream.send(vec![admitting.entry(&admitting.admit(&world, 1))]).await;
    eventually("one is recorded", || async { stored(&world.database).await == 1 }).await;
    world.database.cut().await;
    // Four are being recorded; of what comes then only what HTTP/2 buffers is sent.
    for _ in 0..12 {
        assert!(stream.send((0..5).map(|_| admitting.entry(&admitting.admit(&world, 1))).collect()).await);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stored(&world.database).await, 1);
    world.database.restore().await;
    assert!(stream.send(vec![admitting.entry(&admitting.admit(&world, 1))]).await, "the stream goes on");
    stream.finish().await;
    assert_eq!(totals(&world.database).await["calls"], (62, 62.into()));
    assert_eq!(drift(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_outage_loses_what_waits_and_says_so_and_what_was_reserved_is_recorded_later() {
    let world = World::start_with(&["--access-log-patience", "1s"]).await;
    let (_, admitting) = prepared(&world).await;
    let client = sidecar(&world, &[]).await;
    let before = counted(&world, "tenancy_access_log_lost_total").await;
    // The organization is known, so that it is known who may tell of it.
    log(&client, vec![admitting.entry(&admitting.admit(&world, 1))]).await;
    let stream = Log::open(&client).await.unwrap();
    world.database.cut().await;
    let admission = admitting.admit(&world, 9);
    world.running.pending.open(&admission);
    assert!(stream.send(vec![admitting.entry(&admission), admitting.entry(&admitting.admit(&world, 8))]).await);
    // Other tests count as well.
    eventually("both are lost", || async { counted(&world, "tenancy_access_log_lost_total").await >= before + 2 })
        .await;
    assert_eq!(world.running.pending.len(), 2);
    world.database.restore().await;
    stream.finish().await;
    assert_eq!(totals(&world.database).await["calls"], (1, 1.into()));
    world.clock.advance(Duration::from_secs(70));
    eventually("they are recorded", || async { totals(&world.database).await["calls"] == (3, 18.into()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_records_all_that_came() {
    let mut world = World::start().await;
    let (_, admitting) = prepared(&world).await;
    let client = sidecar(&world, &[]).await;
    let superuser = world.database.superuser.clone();
    // It cannot be recorded until the lock is gone: only then is it known what was read.
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = Log::open(&client).await.unwrap();
        assert!(stream.send((0..7).map(|_| admitting.entry(&admitting.admit(&world, 1))).collect()).await);
        streams.push(stream);
    }
    waiting(&superuser, 1).await;
    // On the wire when the end comes.
    for stream in &streams {
        assert!(stream.send((0..7).map(|_| admitting.entry(&admitting.admit(&world, 1))).collect()).await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.running.stop();
    for stream in &mut streams {
        let refusal = refused(stream.end().await);
        assert!(refusal.is(Code::Unavailable, "SHUTTING_DOWN") && refusal.retry, "{refusal:?}");
    }
    // The Envoys have gone elsewhere, and what they sent is still being recorded.
    drop(streams);
    lock.rollback().await.unwrap();
    world.running.ended().await.unwrap();
    assert_eq!(totals(&world.database).await["calls"], (42, 42.into()));
    assert_eq!(drift(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_settles_all_that_came() {
    let mut world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let client = sidecar(&world, &[]).await;
    let admission = admitting.reserve(&tenant.client, 10, Duration::from_mins(1)).await;
    let superuser = world.database.superuser.clone();
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.quota_operations").execute(&mut *lock).await.unwrap();
    let mut stream = Log::open(&client).await.unwrap();
    assert!(stream.send(vec![admitting.entry_with_tokens(&admission, "4")]).await);
    waiting(&superuser, 1).await;
    world.running.stop();
    assert!(refused(stream.end().await).is(Code::Unavailable, "SHUTTING_DOWN"));
    drop(stream);
    tokio::time::sleep(Duration::from_secs(1)).await;
    lock.rollback().await.unwrap();
    world.running.ended().await.unwrap();
    let settled: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenancy.quota_operations").fetch_one(&superuser).await.unwrap();
    assert_eq!(settled, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_dies_takes_nothing_with_it_that_came() {
    let world = World::start().await;
    let (_, admitting) = prepared(&world).await;
    let superuser = &world.database.superuser;
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    let stream = Log::open(&sidecar(&world, &[]).await).await.unwrap();
    assert!(stream.send((0..9).map(|_| admitting.entry(&admitting.admit(&world, 1))).collect()).await);
    waiting(superuser, 1).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(200)).await;
    lock.rollback().await.unwrap();
    eventually("all are recorded", || async { stored(&world.database).await == 9 }).await;
    assert_eq!(verify(&world, &[]).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_read_than_is_being_recorded() {
    let world = World::start().await;
    let (_, admitting) = prepared(&world).await;
    let superuser = &world.database.superuser;
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    let stream = Log::open(&sidecar(&world, &[]).await).await.unwrap();
    let entry = admitting.entry(&admitting.admit(&world, 1));
    let mut padded = entry.clone();
    padded.common_properties.as_mut().unwrap().route_name = "x".repeat(1 << 20);
    // HTTP/2 takes a megabyte ahead of what is read, and this client some.
    let sending = async {
        let mut sent = 0;
        while sent < 40 && tokio::time::timeout(Duration::from_secs(2), stream.send(vec![padded.clone()])).await.is_ok()
        {
            sent += 1;
        }
        sent
    };
    let sent = sending.await;
    assert!((4..12).contains(&sent), "{sent} MiB were taken");
    lock.rollback().await.unwrap();
    assert!(stream.send(vec![entry]).await);
    stream.finish().await;
    assert_eq!(stored(&world.database).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_ends_the_stream_and_what_came_before_is_recorded() {
    let world = World::start().await;
    let (_, admitting) = prepared(&world).await;
    let client = sidecar(&world, &[]).await;
    let mut stream = Log::open(&client).await.unwrap();
    assert!(stream.send(vec![admitting.entry(&admitting.admit(&world, 1))]).await);
    let mut large = admitting.entry(&admitting.admit(&world, 1));
    large.common_properties.as_mut().unwrap().route_name = "x".repeat(5 << 20);
    stream.send(vec![large.clone()]).await;
    let refusal = refused(stream.end().await);
    assert!(refusal.is(Code::ResourceExhausted, "MESSAGE_TOO_LARGE"), "{refusal:?}");
    eventually("the first is recorded", || async { stored(&world.database).await == 1 }).await;
    // Just below, and all is well.
    large.common_properties.as_mut().unwrap().route_name = "x".repeat((4 << 20) - 2000);
    log(&client, vec![large]).await;
    assert_eq!(stored(&world.database).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_no_longer_good_ends_the_stream() {
    let world = World::start().await;
    let (tenant, _) = prepared(&world).await;
    let refusal = refused(Log::open(&tenant.client).await.map(drop));
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    let client = world.service(&[Permission::Sidecar], &[]).await;
    let mut stream = Log::open(&client).await.unwrap();
    let keys = crate::harness::keys::operate(&world, &["list"]).await.unwrap();
    // The newest of the platform's keys.
    let newest = keys.lines().filter_map(|line| line.split_whitespace().find(|word| word.len() == 36)).max().unwrap();
    crate::harness::keys::operate(&world, &["revoke", newest]).await.unwrap();
    let refusal = refused(stream.end().await);
    assert!(refusal.is(Code::Unauthenticated, "API_KEY_REVOKED"), "{refusal:?}");
}
