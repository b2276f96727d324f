//! Tenancy is killed or stopped under the requests of an Envoy, and started again: nobody passes meanwhile, everybody
//! afterwards, and what is lost of the access log is what our documentation says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::envoy::harness::{Bootstrap, Envoy, Guest, Upstream, Version, program, with_routes};
use crate::harness::{Client, Tenant, eventually};
use crate::process::Place;

/// What callers saw.
#[derive(Debug, Default)]
struct Seen {
    /// When requests passed.
    passed: Mutex<Vec<Instant>>,
    /// How many were told to come back.
    away: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn passed(&self) -> usize {
        self.passed.lock().unwrap().len()
    }

    /// Waits until so many more have passed.
    async fn more(&self, more: usize) {
        let goal = self.passed() + more;
        eventually("requests pass", || async { self.passed() >= goal }).await;
    }

    /// How many passed in the last so long before a moment, and after it.
    fn around(&self, moment: Instant, before: Duration) -> usize {
        self.passed.lock().unwrap().iter().filter(|at| **at + before > moment && **at < moment + before).count()
    }
}

/// Asks until told to stop. Every answer is one of two.
async fn call(guest: Arc<Guest>, envoy: SocketAddr, seen: Arc<Seen>) {
    while !seen.stop.load(Ordering::Relaxed) {
        let answer = guest.get("/recorded").send(envoy, Version::Http1).await;
        match answer.status {
            200 => seen.passed.lock().unwrap().push(Instant::now()),
            503 => {
                seen.away.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            _ => panic!("{answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_tenancy_is_away_requests_are_503_and_what_it_was_told_is_not_lost() {
    if program().is_none() {
        return;
    }
    let place = Place::new();
    let (operator, sidecar) = (place.platform_key(&[]), place.platform_key(&["--scope", "sidecar"]));
    let mut process = place.start();
    place.ready().await;
    let channel = Endpoint::from_shared(format!("http://{}", place.grpc)).unwrap().connect_lazy();
    let anonymous = Client::new(channel);
    let tenant = Tenant::create_by(&anonymous.clone().key(&operator), &anonymous, "restarts").await;
    let guest = Arc::new(Guest::of(tenant).await);
    let upstream = Upstream::start().await;
    let envoy = Envoy::start(&with_routes(Bootstrap::shipped(place.grpc, upstream.address)), &sidecar).await;

    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        let before = settled(&guest).await;
        let seen = Arc::new(Seen::default());
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            callers.spawn(call(Arc::clone(&guest), envoy.address, Arc::clone(&seen)));
        }
        seen.more(400).await;
        process.send(signal);
        let (code, said) = process.ended().await;
        assert!(signal == Signal::SIGKILL || code == Some(0), "{said}");
        let ended = Instant::now();
        let (away, passed) = (seen.away.load(Ordering::Relaxed), upstream.seen("/recorded"));
        eventually("requests are 503", || async { seen.away.load(Ordering::Relaxed) > away + 20 }).await;
        assert!(
            upstream.seen("/recorded") <= passed + 4,
            "only those that were let through before reach the application"
        );
        process = place.start();
        place.ready().await;
        seen.more(400).await;
        seen.stop.store(true, Ordering::Relaxed);
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
        // What the Envoy had not sent, and what was on its way. The bound in bytes is far above what comes in a second.
        let (sent, bound) = (seen.passed(), seen.around(ended, Duration::from_secs(1)));
        let recorded = settled(&guest).await - before;
        println!("{signal}: {sent} passed, {} lost, the bound is {bound}", sent.saturating_sub(recorded));
        assert!(
            (sent.saturating_sub(bound)..=sent).contains(&recorded),
            "{signal}: {recorded} of {sent}, bound {bound}"
        );
    }
    assert_eq!(envoy.counter("access_logs.grpc_access_log.logs_dropped").await, 0);
}

/// How many are recorded, once no more come.
async fn settled(guest: &Guest) -> usize {
    let mut recorded = None;
    loop {
        let now = guest.recorded("calls").await.1;
        if recorded == Some(now) {
            return usize::try_from(now).unwrap();
        }
        recorded = Some(now);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
