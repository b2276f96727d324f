//! A healthy cluster is exact: however callers spread over the replicas, the amount is admitted, and nothing more or less.
//! Nobody is refused while a unit is left on whichever replica: it is handed back while the call waits.

use tenancy::proto::v1;
use tokio::task::JoinSet;

use crate::harness::{Client, World};
use crate::quota::asks::{limit, monthly, take};
use crate::quota::support::{calendar, rolling};
use crate::usage::support::create_meter;

/// The windows of units; those of a second and a minute forget while the test runs.
fn windows() -> [(&'static str, Option<v1::Window>); 3] {
    use v1::WindowUnit::{Day, Lifetime, Month};
    [("month", calendar(Month)), ("lifetime", calendar(Lifetime)), ("rolling-day", rolling(Day))]
}

/// Replicas of one service.
async fn replicas(count: usize) -> Vec<World> {
    let mut worlds = vec![World::start().await];
    while worlds.len() < count {
        worlds.push(World::on(worlds[0].database.clone(), &[]).await);
    }
    worlds
}

/// A new tenant with so much in a window; a client of its on each replica.
async fn clients(worlds: &[World], slug: &str, window: Option<v1::Window>, amount: i64) -> Vec<Client> {
    let tenant = worlds[0].tenant(slug).await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    limit(&worlds[0], &tenant, v1::LimitRule { window, ..monthly(amount) }).await;
    worlds.iter().map(|world| world.client(&tenant.key)).collect()
}

/// Takes one at a time until refused; returns how many there were.
async fn exhaust(client: Client) -> i64 {
    let mut admitted = 0;
    loop {
        let decision = take(&client, 1).await;
        if !decision.allowed {
            assert_eq!((decision.reason.as_str(), decision.granted), ("LIMIT_EXCEEDED", 0), "{decision:?}");
            return admitted;
        }
        admitted += decision.granted;
    }
}

/// Callers on all replicas at once, each until it is refused for the first time.
async fn race(count: usize) {
    let worlds = replicas(count).await;
    for (slug, window) in windows() {
        for amount in [7, 1_000] {
            let clients = clients(&worlds, &format!("{slug}-{amount}"), window, amount).await;
            let mut callers = JoinSet::new();
            for client in clients.iter().cycle().take(4 * count) {
                callers.spawn(exhaust(client.clone()));
            }
            let admitted: i64 = callers.join_all().await.into_iter().sum();
            assert_eq!(admitted, amount, "{slug} on {count} replicas");
            for client in &clients {
                assert!(!take(client, 1).await.allowed, "{slug}, {amount} on {count} replicas");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_admit_exactly_the_amount() {
    race(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_admit_exactly_the_amount() {
    race(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_answered_rightly_by_whichever_replica() {
    let worlds = replicas(3).await;
    for (slug, window) in windows() {
        let few = clients(&worlds, slug, window, 10).await;
        for call in 0..16 {
            let decision = take(&few[call % 3], 1).await;
            assert_eq!(decision.allowed, call < 10, "{slug}, call {call}: {decision:?}");
        }

        // What others hold is gathered for one large call: they give up all of what they did not use.
        let many = clients(&worlds, &format!("{slug}-many"), window, 1_000).await;
        for client in &many {
            assert!(take(client, 1).await.allowed);
        }
        let decision = take(&many[0], 997).await;
        assert!(decision.allowed, "{slug}: {decision:?}");
        for client in &many {
            assert!(!take(client, 1).await.allowed, "{slug}");
        }
    }
}
