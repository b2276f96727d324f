//! I6 across installations: what replicas of the origin were granted is not granted again, also while they go on spending it.

use tenancy::clock::Clock;
use tenancy::proto::v1;
use tenancy::repository::database::{Database, DatabaseOptions};

use crate::harness::{Client, World, eventually, options};
use crate::portable::support::{exported, exported_by, restored};
use crate::quota::asks::{limited, monthly, take};
use crate::quota::support::{calendar, rolling};

/// Takes one at a time until nothing is left; how many there were. On a busy machine the ledger may answer late, which is no
/// refusal for want of units.
async fn exhaust(client: &Client) -> i64 {
    let mut admitted = 0;
    for _ in 0..10_000 {
        let decision = take(client, 1).await;
        if decision.reason == "LIMIT_EXCEEDED" {
            return admitted;
        }
        admitted += decision.granted;
    }
    panic!("there is no end of it after {admitted}");
}

/// The same of a replica that cannot ask the ledger: until it is refused.
async fn exhaust_held(client: &Client) -> i64 {
    let mut admitted = 0;
    while take(client, 1).await.allowed {
        admitted += 1;
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_unit_is_spent_on_both_sides() {
    use v1::WindowUnit::{Day, Lifetime, Month};
    for window in [calendar(Month), calendar(Lifetime), rolling(Day)] {
        let (origin, destination) = (World::start().await, World::start().await);
        let acme = limited(&origin, [v1::LimitRule { window, ..monthly(400) }]).await;
        for _ in 0..120 {
            assert!(take(&acme.client, 1).await.allowed);
        }
        // The origin goes on with what it holds, and hears nothing any more: what is granted after an export is not in it.
        origin.database.cut().await;
        let connect = (*origin.database.superuser.connect_options()).clone();
        let database = Database::new(DatabaseOptions { connect, ..options(&origin.database) }, Clock::system());
        let file = exported_by(&database, &acme.id).await;
        restored(&destination, &file).await.unwrap();
        let moved = destination.client(&acme.key);
        let here = exhaust(&moved).await;
        let there = exhaust_held(&acme.client).await;
        origin.database.restore().await;
        assert!(here > 0 && there > 0, "{there} of what was granted, {here} of what was not");
        assert!(120 + there + here <= 400, "{there} there after 120, {here} here");
        assert!(!take(&moved, 1).await.allowed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_was_stopped_leaves_exactly_the_rest() {
    let (mut origin, destination) = (World::start().await, World::start().await);
    let acme = limited(&origin, [monthly(100)]).await;
    for _ in 0..30 {
        assert!(take(&acme.client, 1).await.allowed);
    }
    // It hands back what it held.
    origin.running.stop();
    origin.running.ended().await.unwrap();
    let origin = World::on(origin.database.clone(), &[]).await;
    let file = exported(&origin, &acme.id).await;
    restored(&destination, &file).await.unwrap();
    let moved = destination.client(&acme.key);
    let request = v1::GetQuotaRequest { meter: "calls".into(), ..Default::default() };
    let there = origin.client(&acme.key).quotas().get_quota(request.clone()).await.unwrap().into_inner();
    let mut here = None;
    eventually("the key is known", || async { moved.quotas().get_quota(request.clone()).await.is_ok() }).await;
    here.replace(moved.quotas().get_quota(request).await.unwrap().into_inner());
    assert_eq!(there.limits[0].used, 30);
    assert_eq!(Some(there), here);
    assert_eq!(exhaust(&moved).await, 70);
}
