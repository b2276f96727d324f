//! The service is killed under a stream of access logs, and the loss is compared with the bound that `sidecar::access_log`
//! states: what was on its way. Nothing that had been recorded is lost, and nothing counts twice though all is logged again.

use std::time::Duration;

use prost::Message as _;
use sqlx::ConnectOptions as _;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tenancy::sidecar::access_log::MESSAGES;
use tonic::transport::Endpoint;

use crate::harness::{Client, World, eventually};
use crate::process::Place;
use crate::sidecar::logs::{Admitting, Log, log, sidecar};
use crate::usage::support::{create_meter, drift, stored};
use crate::usage::verify::verify;

/// Entries of a message, about as many as an Envoy sends at once.
const ENTRIES: usize = 20;
/// What HTTP/2 lets a client send ahead of what is read, and what this client takes ahead of that, in bytes.
const AHEAD: usize = 2 << 20;
/// Messages until the kill, and the pause after each: faster than they can be recorded, and slower.
const ROUNDS: [(usize, Duration); 2] = [(500, Duration::ZERO), (100, Duration::from_millis(15))];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_loses_no_more_of_a_log_than_was_on_its_way() {
    // Another replica, which is not killed.
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let (key, place) = (world.service_key(&[Permission::Sidecar], &[]).await, Place::new());
    // A directory of sockets is no host of a URL.
    let service = &world.database.service;
    let mut url = service.clone().host("localhost").to_url_lossy();
    url.query_pairs_mut().append_pair("host", service.get_host());
    let start = || {
        let mut command = place.server(&[]);
        command.env("DATABASE_URL", url.as_str());
        place.run(command)
    };
    let (mut all, mut lost, mut bound) = (Vec::new(), Vec::new(), 0);
    for (messages, pause) in ROUNDS {
        let process = start();
        place.ready().await;
        let channel = Endpoint::from_shared(format!("http://{}", place.grpc)).unwrap().connect_lazy();
        let stream = Log::open(&Client::new(channel).key(&key)).await.unwrap();
        let before = all.len();
        for _ in 0..messages {
            let entries: Vec<_> = (0..ENTRIES).map(|_| admitting.entry(&admitting.admit(&world, 1))).collect();
            assert!(stream.send(entries.clone()).await);
            all.extend(entries);
            tokio::time::sleep(pause).await;
        }
        process.kill();
        let recorded = usize::try_from(stored(&world.database).await).unwrap();
        let gone: usize = lost.iter().map(|(_, lost)| lost).sum();
        lost.push((all.len() - before, all.len() - recorded - gone));
        // And the message in the client's hand.
        bound = ENTRIES * (MESSAGES + 2) + AHEAD / all[0].encoded_len();
    }
    println!("entries sent and lost by a kill: {lost:?}; at most {bound} each");
    assert!(lost.iter().all(|(_, lost)| *lost <= bound), "{lost:?}, {bound} at the most");
    assert!(lost.iter().all(|(sent, lost)| lost < sent), "something was recorded: {lost:?}");
    // All of it again, elsewhere: what was lost counts, and nothing twice.
    let client = sidecar(&world, &[]).await;
    for entries in all.chunks(500) {
        log(&client, entries.to_vec()).await;
    }
    let expected = i64::try_from(all.len()).unwrap();
    eventually("each counts once", || async { stored(&world.database).await == expected }).await;
    assert_eq!((drift(&world.database).await, verify(&world, &[]).await.1), (0, 0));
}
