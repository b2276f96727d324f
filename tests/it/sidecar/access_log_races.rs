//! Entries in any order, any number of times, on any stream and replica: the totals are exact.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use tenancy::proto::envoy::data::accesslog::v3::HttpAccessLogEntry;
use tenancy::proto::v1;
use tenancy::sidecar::admission::{Admission, recordings};
use tokio::task::JoinSet;

use crate::harness::{Client, World, eventually};
use crate::quota::asks::{limit, monthly, quota};
use crate::sidecar::logs::{Admitting, Log, sidecar, totals};
use crate::usage::support::{create_meter, drift, stored};
use crate::usage::verify::verify;

const REQUESTS: usize = 60;

/// What a tenant's requests come to.
#[derive(Default)]
struct Expected {
    calls: Decimal,
    used: i64,
}

/// Requests of a tenant, some of them settled below, at or above what was reserved.
async fn requests(world: &World, admitting: &Admitting, random: &mut StdRng) -> (Vec<HttpAccessLogEntry>, Expected) {
    let mut expected = Expected::default();
    let mut entries = Vec::new();
    for number in 0..REQUESTS {
        let settles = number % 3 > 0;
        let admission = if settles {
            let client = world.client(&admitting.tenant.key);
            admitting.reserve(&client, 10, Duration::from_mins(2)).await
        } else {
            admitting.admit(world, 10)
        };
        let admission = Admission { recordings: recordings("io=bytes,n=requests").unwrap(), ..admission };
        let tokens = Decimal::new(random.random_range(0..3000), 2);
        if settles {
            expected.calls += tokens;
            expected.used += i64::try_from(tokens.ceil()).unwrap();
        } else {
            expected.calls += Decimal::TEN;
        }
        entries.push(admitting.entry_with_tokens(&admission, &tokens.to_string()));
    }
    (entries, expected)
}

/// Sends entries in messages of random sizes.
async fn stream(client: Client, entries: Vec<HttpAccessLogEntry>, mut random: StdRng) {
    let stream = Log::open(&client).await.unwrap();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let (some, others) = rest.split_at(random.random_range(1..20).min(rest.len()));
        assert!(stream.send(some.to_vec()).await);
        rest = others;
    }
    stream.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shuffled_and_repeated_on_two_replicas_all_of_it_counts_once() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let mut random = StdRng::seed_from_u64(4);
    let mut all = Vec::new();
    let mut tenants = Vec::new();
    for slug in ["one", "two", "three"] {
        let tenant = world.tenant(slug).await;
        for (meter, aggregation) in [
            ("calls", v1::MeterAggregation::Sum),
            ("io", v1::MeterAggregation::Sum),
            ("n", v1::MeterAggregation::Count),
        ] {
            create_meter(&tenant.client, meter, aggregation).await;
        }
        limit(&world, &tenant, monthly(100_000)).await;
        let admitting = Admitting::new(&world, &tenant).await;
        let (entries, expected) = requests(&world, &admitting, &mut random).await;
        all.extend(entries);
        tenants.push((tenant, expected));
    }
    let clients = [sidecar(&world, &[]).await, sidecar(&replica, &[]).await];
    let mut streams = JoinSet::new();
    for number in 0..4 {
        // Each entry on two streams at least, one a replica, and some of them twice on one.
        let mut entries: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(at, _)| number < 2 || at % 2 == 0)
            .map(|(_, entry)| entry.clone())
            .collect();
        let more: Vec<_> = (0..40).map(|_| all[random.random_range(0..all.len())].clone()).collect();
        entries.extend(more);
        entries.shuffle(&mut random);
        streams.spawn(stream(clients[number % 2].clone(), entries, StdRng::seed_from_u64(random.random())));
    }
    streams.join_all().await;

    let requests = i64::try_from(3 * REQUESTS).unwrap();
    let found = totals(&world.database).await;
    let calls: Decimal = tenants.iter().map(|(_, expected)| expected.calls).sum();
    let expected: BTreeMap<String, (i64, Decimal)> =
        [("calls", calls), ("io", (requests * 4123).into()), ("n", requests.into())]
            .map(|(meter, sum)| (meter.to_owned(), (requests, sum.normalize())))
            .into();
    assert_eq!(found, expected);
    for (tenant, expected) in &tenants {
        eventually("the ledger has what was used, and no more or less", || async {
            quota(&tenant.client).await[0].used == expected.used
        })
        .await;
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (3 * requests, 0));
    assert_eq!(verify(&world, &[]).await.1, 0);
}
