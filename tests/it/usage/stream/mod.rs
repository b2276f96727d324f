//! `StreamUsage`: acknowledgements, and when they come; what ends a stream in `ends`; what bounds it in `bounds`.

mod bounds;
mod ends;

use std::time::Duration;

use futures_util::stream;
use tenancy::proto::v1;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::harness::{Client, World, eventually, waiting};
use crate::usage::support::{create_meter, events, fate, stored};

/// One side of a stream.
pub struct Producer {
    messages: mpsc::Sender<v1::StreamUsageRequest>,
    acknowledgements: Streaming<v1::StreamUsageResponse>,
}

impl Producer {
    pub async fn open(client: &Client) -> Result<Self, Status> {
        let (messages, receiver) = mpsc::channel(1);
        let outgoing = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let acknowledgements = client.usage().stream_usage(outgoing).await?.into_inner();
        Ok(Self { messages, acknowledgements })
    }

    /// Sends a message; false when the stream has ended.
    pub async fn send(&self, sequence: i64, events: Vec<v1::UsageEvent>) -> bool {
        self.messages.send(v1::StreamUsageRequest { sequence, events, ..Default::default() }).await.is_ok()
    }

    /// The next acknowledgement: its sequence and the fates.
    pub async fn acknowledgement(&mut self) -> Result<Option<(i64, Vec<String>)>, Status> {
        let next = timeout(Duration::from_secs(30), self.acknowledgements.message()).await.expect("30 s are enough")?;
        Ok(next.map(|next| (next.sequence, next.results.iter().map(fate).collect())))
    }

    /// Why it ended, everything that came before left aside.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.acknowledgement().await?.is_some() {}
        Ok(())
    }

    /// Nothing more is sent.
    pub fn close(self) -> Streaming<v1::StreamUsageResponse> {
        self.acknowledgements
    }
}

/// A tenant with a meter, and its client.
async fn prepared(world: &World) -> Client {
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_come_in_order_and_the_stream_ends_well() {
    let world = World::start().await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let producer = Producer::open(&client).await.unwrap();
    let mut acknowledgements = {
        // Nothing is read meanwhile: the producer need not wait for what it sent.
        for number in 0..15 {
            let mut batch = events(&number.to_string(), 10, now);
            batch[3].meter = "unknown".into();
            assert!(producer.send(number * 7, batch).await);
        }
        producer.close()
    };
    for number in 0..15 {
        let next = acknowledgements.message().await.unwrap().unwrap();
        assert_eq!(next.sequence, number * 7);
        let fates: Vec<String> = next.results.iter().map(fate).collect();
        let expected = |at: usize| if at == 3 { "METER_NOT_FOUND" } else { "RECORDED" };
        assert_eq!(fates, (0..10).map(expected).collect::<Vec<_>>());
        assert_eq!(next.results[9].event_id, format!("{number}/9"));
    }
    assert!(acknowledgements.message().await.unwrap().is_none());
    assert_eq!(stored(&world.database).await, 15 * 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_share_a_transaction_and_are_acknowledged_after_it() {
    let world = World::start().await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let superuser = &world.database.superuser;
    let mut producer = Producer::open(&client).await.unwrap();
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("LOCK TABLE tenancy.usage_aggregates").execute(&mut *lock).await.unwrap();
    for number in 0..8 {
        assert!(producer.send(number, events(&number.to_string(), 5, now)).await);
    }
    waiting(superuser, 1).await;
    let early = timeout(Duration::from_millis(500), producer.acknowledgement()).await;
    assert!(early.is_err(), "acknowledged before the commit: {early:?}");
    lock.rollback().await.unwrap();
    for number in 0..8 {
        assert_eq!(producer.acknowledgement().await.unwrap(), Some((number, vec!["RECORDED".to_owned(); 5])));
        assert!(stored(&world.database).await >= (number + 1) * 5, "what is acknowledged is there");
    }
    let transactions: i64 = sqlx::query_scalar("SELECT count(DISTINCT recorded_at) FROM tenancy.usage_events")
        .fetch_one(superuser)
        .await
        .unwrap();
    assert!(transactions < 8, "several messages are in flight, and share a commit: {transactions}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_broken_stream_counts_once() {
    let world = World::start().await;
    let client = prepared(&world).await;
    let now = world.clock.now();
    let producer = Producer::open(&client).await.unwrap();
    for number in 0..3 {
        assert!(producer.send(number, events(&number.to_string(), 4, now)).await);
    }
    eventually("all of it is stored", || async { stored(&world.database).await == 12 }).await;
    // Broken off, and no acknowledgement was read.
    drop(producer);
    let mut producer = Producer::open(&client).await.unwrap();
    for number in 0..4 {
        assert!(producer.send(number, events(&number.to_string(), 4, now)).await);
        let fate = if number < 3 { "DUPLICATE" } else { "RECORDED" };
        assert_eq!(producer.acknowledgement().await.unwrap(), Some((number, vec![fate.to_owned(); 4])));
    }
    assert_eq!(stored(&world.database).await, 16);
    let counted: i64 = sqlx::query_scalar(
        "SELECT sum(event_count)::bigint FROM tenancy.usage_aggregates
         WHERE series_id = '00000000-0000-0000-0000-000000000000'",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(counted, 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_may_name_another_organization() {
    let world = World::start().await;
    let (one, two) = (world.tenant("one").await, world.tenant("two").await);
    for tenant in [&one, &two] {
        create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    }
    let mut producer = Producer::open(&world.operator()).await.unwrap();
    for (sequence, organization_id) in [(1, &one.id), (2, &two.slug), (3, &one.slug)] {
        let events = events("same", 1, world.clock.now());
        let message = v1::StreamUsageRequest { sequence, organization_id: organization_id.clone(), events };
        producer.messages.send(message).await.unwrap();
        assert_eq!(producer.acknowledgement().await.unwrap(), Some((sequence, vec!["RECORDED".to_owned()])));
    }
    assert_eq!(stored(&world.database).await, 3);
}
