//! Requests whose log never comes: what was reserved is recorded, once, whoever else knows of it.

use std::time::Duration;

use tenancy::sidecar::admission::Admission;
use tenancy::sidecar::pending::Pending;

use crate::harness::{World, eventually};
use crate::quota::asks::{limited, monthly, quota};
use crate::sidecar::logs::{Admitting, counted, events, log, sidecar, totals};
use crate::usage::support::{drift, stored};
use crate::usage::verify::verify;

const TTL: Duration = Duration::from_secs(30);
/// Past the expiry, and past what is waited for a log that is on its way.
const LATER: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_log_never_comes_counts_as_reserved() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let pending = &world.running.pending;
    let admission = admitting.reserve(&tenant.client, 10, TTL).await;
    pending.open(&admission);
    pending.run_once().await.unwrap();
    assert_eq!((pending.len(), stored(&world.database).await), (1, 0), "its log may come");
    world.clock.advance(TTL + Duration::from_secs(2));
    pending.run_once().await.unwrap();
    assert_eq!(pending.len(), 1, "its log may be on its way");
    world.clock.advance(Duration::from_secs(4));
    eventually("the worker has recorded it", || async { stored(&world.database).await == 1 }).await;
    let event = events(&world.database).await.remove(0);
    assert_eq!((event.0, event.2, event.3), (admission.reservation.id.to_string(), "10".into(), tenant.key_id.clone()));
    assert_eq!((pending.len(), quota(&tenant.client).await[0].used), (0, 10));
    // Late after all: it changes nothing.
    log(&sidecar(&world, &[]).await, vec![admitting.entry_with_tokens(&admission, "3")]).await;
    assert_eq!(totals(&world.database).await["calls"], (1, 10.into()));
    assert_eq!((quota(&tenant.client).await[0].used, drift(&world.database).await), (10, 0));
    assert_eq!(verify(&world, &[]).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_closes_it_whichever_replica_it_comes_to() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = limited(&world, [monthly(100)]).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let pending = &world.running.pending;
    let (here, there) =
        (admitting.reserve(&tenant.client, 10, TTL).await, admitting.reserve(&tenant.client, 10, TTL).await);
    let same = Admission { settle: None, ..admitting.admit(&world, 7) };
    for admission in [&here, &there, &same] {
        pending.open(admission);
    }
    log(&sidecar(&world, &[]).await, vec![admitting.entry_with_tokens(&here, "1")]).await;
    assert_eq!(pending.len(), 2, "the log came here");
    let entries = vec![admitting.entry_with_tokens(&there, "2"), admitting.entry(&same)];
    log(&sidecar(&replica, &[]).await, entries).await;
    assert_eq!(pending.len(), 2, "nobody has told us");
    world.clock.advance(LATER.max(Duration::from_secs(70)));
    eventually("all are closed", || async { pending.is_empty() }).await;
    pending.run_once().await.unwrap();
    assert_eq!(totals(&world.database).await["calls"], (3, 10.into()), "the logs were there first");
    let known = "tenancy_access_log_pending_total{outcome=\"known\"}";
    eventually("the two were known", || async { counted(&world, known).await >= 2 }).await;
    assert_eq!(drift(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_it_stays_open() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let pending = &world.running.pending;
    world.database.cut().await;
    pending.open(&admitting.admit(&world, 3));
    world.clock.advance(LATER.max(Duration::from_secs(70)));
    assert!(pending.run_once().await.is_err());
    assert_eq!(pending.len(), 1);
    world.database.restore().await;
    eventually("it is recorded", || async { pending.is_empty() && stored(&world.database).await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_not_more_than_so_many() {
    let world = World::start().await;
    let tenant = limited(&world, []).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let recorder = {
        use tenancy::metering::catalog::Catalog;
        use tenancy::metering::recorder::{Accepted, Recorder};
        use tenancy::metering::writer::{Writer, WriterOptions};
        let database = world.running.database.clone();
        let catalog = Catalog::new(database.clone(), world.clock.clone(), TTL);
        let (writer, _) = Writer::new(database, world.clock.clone(), WriterOptions::default());
        Recorder::new(catalog.into(), writer, world.clock.clone(), Accepted::default())
    };
    let pending = Pending::bounded(recorder, world.clock.clone(), 10);
    let mut all = Vec::new();
    for _ in 0..15 {
        let admission = admitting.admit(&world, 1);
        pending.open(&admission);
        pending.open(&admission);
        all.push(admission);
    }
    pending.open(&Admission { meter: None, ..admitting.admit(&world, 1) });
    assert_eq!(pending.len(), 10);
    // The oldest were given up.
    for admission in &all[..5] {
        pending.closed(admission.reservation.id);
    }
    assert_eq!(pending.len(), 10);
    for admission in &all[5..] {
        pending.closed(admission.reservation.id);
    }
    assert!(pending.is_empty());
    assert!(counted(&world, "tenancy_access_log_pending_total{outcome=\"dropped\"}").await >= 5);
}
