//! What bounds a stream: how much of it is held, how many there are, and what it does when the queue is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tenancy::proto::v1;
use tokio::time::timeout;
use tonic::{Code, Streaming};

use super::{Producer, prepared};
use crate::harness::{Client, World, eventually, refused, waiting};
use crate::usage::support::{events, fate, fill, record};

/// Sends the same message as often as it is let; how often it was asked for one, and the acknowledgements.
async fn flood(
    client: &Client,
    events: Vec<v1::UsageEvent>,
    most: i64,
) -> (Arc<AtomicUsize>, Streaming<v1::StreamUsageResponse>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let messages = stream::iter(0..most).map(move |sequence| {
        count.fetch_add(1, Ordering::SeqCst);
        v1::StreamUsageRequest { sequence, events: events.clone(), ..Default::default() }
    });
    (asked, client.usage().stream_usage(messages).await.unwrap().into_inner())
}

/// The number once it does not grow any more.
async fn settled(number: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    while last != number.load(Ordering::SeqCst) {
        last = number.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_held_back_at_its_source() {
    let world = World::start().await;
    let client = prepared(&world).await;
    let mut lock = world.database.superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    // Some 400 KiB a message.
    let mut batch = events("x", 2500, world.clock.now());
    for event in &mut batch {
        event.subject = "s".repeat(120);
    }
    let (asked, mut acknowledgements) = flood(&client, batch, 60).await;
    waiting(&world.database.superuser, 1).await;
    let held = settled(&asked).await;
    // Four are taken, which are 10,000 events; the rest is in the windows of HTTP/2 (1 MiB) and with the client itself.
    assert!((4..=12).contains(&held), "{held} messages left the producer");
    lock.rollback().await.unwrap();
    for sequence in 0..12 {
        assert_eq!(acknowledgements.message().await.unwrap().unwrap().sequence, sequence);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_no_acknowledgements_is_not_read_either() {
    let world = World::start().await;
    let client = prepared(&world).await;
    // Acknowledgements as large as they come, of events that cost nothing: some 500 KiB each.
    let mut batch = events(&"i".repeat(120), 2500, world.clock.now());
    for event in &mut batch {
        event.meter = "unknown".into();
    }
    let (asked, acknowledgements) = flood(&client, batch, 200).await;
    let held = settled(&asked).await;
    assert!(held < 40, "{held} messages left the producer, and not one acknowledgement was read");
    // Others are not held up by it, on the same connection.
    let other = timeout(Duration::from_secs(10), record(&client, events("other", 1, world.clock.now()))).await;
    other.expect("the connection is not blocked").unwrap();
    drop(acknowledgements);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_limited_and_take_no_place_of_requests() {
    let world = World::start_with(&["--streams", "2", "--requests-in-flight", "1"]).await;
    let client = prepared(&world).await;
    let mut open = vec![Producer::open(&client).await.unwrap(), Producer::open(&client).await.unwrap()];
    let refusal = refused(Producer::open(&client).await.map(drop));
    assert!(refusal.is(Code::ResourceExhausted, "TOO_MANY_STREAMS") && refusal.retry, "{refusal:?}");
    record(&client, events("unary", 1, world.clock.now())).await.unwrap();
    open.pop();
    eventually("there is room again", || async { Producer::open(&client).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_a_stream_wait() {
    let world = World::start_with(&["--request-timeout", "60s"]).await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let superuser = &world.database.superuser;
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    let requests = fill(&client, superuser, now).await;

    let mut producer = Producer::open(&client).await.unwrap();
    producer.send(1, events("streamed", 5000, now)).await;
    let early = timeout(Duration::from_millis(700), producer.acknowledgement()).await;
    assert!(early.is_err(), "it neither fails nor is acknowledged: {early:?}");
    lock.rollback().await.unwrap();
    let (sequence, fates) = producer.acknowledgement().await.unwrap().unwrap();
    assert!(sequence == 1 && fates.iter().all(|fate| fate == "RECORDED"));
    for results in requests.join_all().await {
        assert!(results.unwrap().iter().all(|result| fate(result) == "RECORDED"));
    }
}
