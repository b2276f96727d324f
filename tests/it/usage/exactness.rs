//! I5: whatever is sent twice, at once, to whichever replica, across connections that break, is in the events and in
//! every figure exactly once.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::PgPool;
use tenancy::clock::Clock;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, World, eventually, refused};
use crate::usage::support::{create_grouped_meter, drift, event, fate, record, stored, timestamp};

/// One of each kind, grouped by the size.
const METERS: [(&str, v1::MeterAggregation); 7] = [
    ("calls", v1::MeterAggregation::Count),
    ("bytes", v1::MeterAggregation::Sum),
    ("least", v1::MeterAggregation::Min),
    ("most", v1::MeterAggregation::Max),
    ("mean", v1::MeterAggregation::Avg),
    ("last", v1::MeterAggregation::Latest),
    ("users", v1::MeterAggregation::UniqueCount),
];
const PRODUCERS: u64 = 8;
const REQUESTS: usize = 30;

/// An event as it was sent, by which tenant, and its fate.
type Told = (usize, v1::UsageEvent, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_counts_once_on_two_replicas() {
    let seed: u64 = std::env::var("TENANCY_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("TENANCY_TEST_SEED={seed}");
    // Clocks jump below, and deadlines go by them.
    let flags = &["--request-timeout", "1h"];
    let world = World::start_with(flags).await;
    let other = World::on(world.database.clone(), flags).await;
    let mut tenants = Vec::new();
    for slug in ["one", "two", "three"] {
        let tenant = world.tenant(slug).await;
        for (key, aggregation) in METERS {
            create_grouped_meter(&tenant.client, key, aggregation, &["size"]).await;
        }
        tenants.push([tenant.client, other.client(&tenant.key)]);
    }
    let base = quarter(world.clock.now()) - TimeDelta::hours(3);
    let producers = (0..PRODUCERS).map(|number| {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number));
        let clocks = [world.clock.clone(), other.clock.clone()];
        tokio::spawn(produce(rng, tenants.clone(), base, clocks, world.database.superuser.clone()))
    });
    let producers: Vec<_> = producers.collect();
    let mut told: Vec<Told> = Vec::new();
    for producer in producers {
        told.extend(producer.await.unwrap());
    }

    let recorded = consistent(&told);
    assert_eq!(stored(&world.database).await, i64::try_from(recorded).unwrap(), "seed {seed}");
    assert_eq!(drift(&world.database).await, 0, "seed {seed}");
    for clients in &tenants {
        for client in clients {
            figures_are_a_recount(client, &world.database.superuser, base).await;
        }
    }
}

/// Sends batches, each as often as it takes to be answered, and now and then once more.
async fn produce(
    mut rng: StdRng,
    tenants: Vec<[Client; 2]>,
    base: DateTime<Utc>,
    clocks: [Clock; 2],
    superuser: PgPool,
) -> Vec<Told> {
    let mut told = Vec::new();
    for _ in 0..REQUESTS {
        // So long after a repeated event none is expected any more.
        clocks[rng.random_range(0..2)].advance(Duration::from_secs(11));
        let tenant = rng.random_range(0..tenants.len());
        let events: Vec<_> = (0..rng.random_range(1..40)).map(|_| random(&mut rng, base)).collect();
        for _ in 0..rng.random_range(1..=2) {
            let client = &tenants[tenant][rng.random_range(0..2)];
            let breaks = rng.random_range(0..6) == 0;
            let (results, ()) = tokio::join!(until_answered(client, &events), async {
                if breaks {
                    break_a_writer(&superuser).await;
                }
            });
            told.extend(events.iter().zip(&results).map(|(event, result)| (tenant, event.clone(), fate(result))));
        }
    }
    told
}

/// A retry until there is an answer, as a producer has it who must not lose anything.
async fn until_answered(client: &Client, events: &[v1::UsageEvent]) -> Vec<v1::UsageEventResult> {
    let answer = std::sync::Mutex::new(Vec::new());
    eventually("the batch is answered", async || match record(client, events.to_vec()).await {
        Ok(results) => {
            *answer.lock().unwrap() = results;
            true
        }
        outcome => {
            let refusal = refused(outcome);
            assert!([Code::Unavailable, Code::Aborted].contains(&refusal.code), "{refusal:?}");
            false
        }
    })
    .await;
    answer.into_inner().unwrap()
}

/// Ends a connection that has written something in a transaction that goes on, wherever in it that is.
async fn break_a_writer(superuser: &PgPool) {
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename <> current_user AND backend_xid IS NOT NULL LIMIT 1",
    )
    .execute(superuser)
    .await
    .unwrap();
}

/// One of few identities, now and then with another payload than the last time.
fn random(rng: &mut StdRng, base: DateTime<Utc>) -> v1::UsageEvent {
    let id: u32 = rng.random_range(0..800);
    let name = if id.is_multiple_of(2) { uuid::Uuid::from_u128(id.into()).to_string() } else { format!("event {id}") };
    let size = |size: f64| {
        let value = Value { kind: Some(Kind::NumberValue(size)) };
        Some(Struct { fields: [("size".to_owned(), value)].into() })
    };
    let meter = usize::try_from(id).unwrap() % METERS.len();
    let mut event = v1::UsageEvent {
        meter: METERS[meter].0.into(),
        quantity: format!("{}.{:09}", id, id * 7),
        subject: ["", "ada", "grace"][usize::try_from(id % 3).unwrap()].into(),
        properties: if id.is_multiple_of(4) { size(id.into()) } else { None },
        ..event(&name, base + TimeDelta::seconds(10 * i64::from(id)))
    };
    if rng.random_range(0..5) == 0 {
        match rng.random_range(0..4) {
            0 => event.quantity = "1".into(),
            1 => event.subject = "eve".into(),
            2 => event.properties = size(0.5),
            _ => event.meter = METERS[(meter + 1) % METERS.len()].0.into(),
        }
    }
    if event.meter == "users" && event.subject.is_empty() {
        event.subject = "nobody".into();
    }
    event
}

/// Whether what the producers were told can all be true; returns how many events there are then.
///
/// Every batch was answered in the end, so each identity is stored. The answer that told of the first record of one may
/// be lost, but there are not two of them, and everybody was told of the same payload.
fn consistent(told: &[Told]) -> usize {
    let mut recorded = HashMap::new();
    let mut stored = HashMap::new();
    let mut seen = HashMap::<_, usize>::new();
    for (tenant, event, fate) in told {
        let identity = (*tenant, event.event_id.clone());
        *seen.entry(fate.as_str()).or_default() += 1;
        match fate.as_str() {
            "RECORDED" => assert!(recorded.insert(identity.clone(), event).is_none(), "new twice: {event:?}"),
            "DUPLICATE" => {}
            _ => continue,
        }
        assert_eq!(*stored.entry(identity).or_insert(event), event, "one payload was stored");
    }
    for (tenant, event, fate) in told {
        let identity = (*tenant, event.event_id.clone());
        // Whose stored payload nobody sent again after its answer was lost, conflicts with what is not known here.
        if let Some(stored) = stored.get(&identity)
            && fate == "CONFLICT"
        {
            assert_ne!(*stored, event);
        }
    }
    assert!(seen.len() == 3 && seen.values().all(|count| *count > 50), "the test tests all of it: {seen:?}");
    let mut identities: Vec<_> = told.iter().map(|(tenant, event, _)| (tenant, &event.event_id)).collect();
    identities.sort();
    identities.dedup();
    identities.len()
}

/// Compares what is answered with a count of the raw events, by meter, subject and hour.
async fn figures_are_a_recount(client: &Client, superuser: &PgPool, base: DateTime<Utc>) {
    for meter in ["calls", "bytes"] {
        let request = v1::GetMeterRequest { meter: meter.into(), ..Default::default() };
        let meter_id = client.meters().get_meter(request).await.unwrap().into_inner().meter.unwrap().meter_id;
        for subject in ["", "ada", "grace", "eve"] {
            let request = v1::QueryUsageRequest {
                meter: meter.into(),
                start_time: Some(timestamp(base)),
                end_time: Some(timestamp(base + TimeDelta::hours(4))),
                bucket: v1::UsageBucket::Hour.into(),
                subject: subject.into(),
                ..Default::default()
            };
            let reply = client.usage().query_usage(request).await.unwrap().into_inner();
            let recount: Vec<(i64, i64, String)> = sqlx::query_as(
                "SELECT extract(epoch FROM greatest(date_trunc('hour', occurred_at, 'UTC'), $3))::bigint, count(*),
                     CASE WHEN $4 THEN count(*)::text ELSE trim_scale(sum(quantity))::text END
                 FROM tenancy.usage_events WHERE meter_id = $1::uuid AND ($2 = '' OR subject = $2)
                 GROUP BY 1 ORDER BY 1",
            )
            .bind(&meter_id)
            .bind(subject)
            .bind(base)
            .bind(meter == "calls")
            .fetch_all(superuser)
            .await
            .unwrap();
            let answered: Vec<_> = reply
                .points
                .iter()
                .map(|point| (point.start_time.unwrap().seconds, point.event_count, point.value.clone()))
                .collect();
            assert_eq!(answered, recount, "{meter} of {subject:?}");
        }
    }
}
