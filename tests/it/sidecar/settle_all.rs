//! Many reservations settled at once: as if one by one, in few transactions, whatever is among them and whoever does it too.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tenancy::error::Error;
use tenancy::metering::catalog::Catalog;
use tenancy::proto::v1;
use tenancy::quota::decisions::{Decisions, Settled};
use tenancy::quota::engine::Engine;
use tenancy::quota::policies::Policies;
use tenancy::quota::reservation::{Reservation, Settlement};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::{Tenant, World, eventually};
use crate::quota::asks::{limit, limited, monthly, quota, reservation, reserve};
use crate::sidecar::logs::signing_key;
use crate::usage::support::create_meter;

/// Decisions beside the service's own, as of another replica.
fn decisions(world: &World) -> (Decisions, DropGuard) {
    let (database, lifetime) = (world.running.database.clone(), Duration::from_secs(30));
    let catalog = Arc::new(Catalog::new(database.clone(), world.clock.clone(), lifetime));
    let policies = Policies::new(database.clone(), world.clock.clone(), catalog, lifetime);
    let (engine, exchanger) = Engine::new(database, world.clock.clone(), policies, lifetime);
    let stop = CancellationToken::new();
    tokio::spawn(exchanger.run(stop.clone()));
    (Decisions::new(engine, world.clock.clone()), stop.drop_guard())
}

async fn reserved(tenant: &Tenant, key: &[u8; 32], amount: i64) -> Reservation {
    let reserved = reserve(&tenant.client, reservation(amount)).await;
    Reservation::verify(&reserved.reservation_id, key).unwrap()
}

/// So much was settled, now or before; or `None`: it had expired.
fn told(outcomes: Vec<Result<Settled, Error>>) -> Vec<Option<(i64, i64, bool)>> {
    let told = |outcome| match outcome {
        Ok(Settled { settlement: Settlement { settled, overage }, before }) => Some((settled, overage, before)),
        Err(Error::FailedPrecondition { reason: "RESERVATION_EXPIRED", .. }) => None,
        Err(error) => panic!("{error}"),
    };
    outcomes.into_iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_as_if_one_by_one() {
    let world = World::start().await;
    let (decisions, _stop) = decisions(&world);
    let key = signing_key(&world.database).await;
    let mut found = Vec::new();
    for slug in ["one", "all"] {
        let tenants = [world.tenant(&format!("{slug}-a")).await, world.tenant(&format!("{slug}-b")).await];
        let mut reservations = Vec::new();
        for tenant in &tenants {
            create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
            limit(&world, tenant, monthly(1000)).await;
            for _ in 0..6 {
                reservations.push(reserved(tenant, &key, 10).await);
            }
        }
        let (a, b) = reservations.split_at(6);
        let before = decisions.settle_all(&[(a[4].clone(), 1)], world.clock.now()).await;
        assert_eq!(told(before), [Some((1, 0, false))]);
        let late =
            |of: &Reservation| Reservation { expire_time: world.clock.now() - TimeDelta::seconds(1), ..of.clone() };
        // Of two organizations in turn, repeated with other amounts, settled before, expired, and both.
        let settlements = [
            (b[0].clone(), 3),
            (a[0].clone(), 10),
            (b[1].clone(), 25),
            (a[0].clone(), 4),
            (a[1].clone(), 0),
            (b[0].clone(), 3),
            (a[4].clone(), 9),
            (late(&a[5]), 2),
            (late(&a[4]), 2),
            (b[2].clone(), 0),
            (b[0].clone(), 7),
        ];
        let outcomes = if slug == "all" {
            decisions.settle_all(&settlements, world.clock.now()).await
        } else {
            let mut outcomes = Vec::new();
            for settlement in settlements {
                outcomes.extend(decisions.settle_all(&[settlement], world.clock.now()).await);
            }
            outcomes
        };
        // 3 + 25 + 0 and three as reserved; 10 + 0 + 1 and three as reserved.
        for (tenant, used) in tenants.iter().zip([10 + 1 + 3 * 10, 3 + 25 + 3 * 10]) {
            eventually(&format!("{used} are used"), || async { quota(&tenant.client).await[0].used == used }).await;
        }
        found.push(told(outcomes));
    }
    assert_eq!(found[0], found[1]);
    let expected = [
        Some((3, 0, false)),
        Some((10, 0, false)),
        Some((25, 15, false)),
        Some((10, 0, true)),
        Some((0, 0, false)),
        Some((3, 0, true)),
        Some((1, 0, true)),
        None,
        Some((1, 0, true)),
        Some((0, 0, false)),
        Some((3, 0, true)),
    ];
    assert_eq!(found[1], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_that_settle_the_same_settle_it_once() {
    let world = World::start().await;
    let key = signing_key(&world.database).await;
    let tenant = limited(&world, [monthly(1_000_000)]).await;
    let mut settlements = Vec::new();
    for number in 0..300_u64 {
        settlements.push((reserved(&tenant, &key, 10).await, number % 21));
    }
    let replicas = [decisions(&world), decisions(&world)];
    let mut settling = JoinSet::new();
    for number in 0..6 {
        let (decisions, mut settlements) = (replicas[number % 2].0.clone(), settlements.clone());
        let now = world.clock.now();
        settlements.rotate_left(number * 47);
        if number % 3 == 0 {
            settlements.reverse();
        }
        settling.spawn(async move { told(decisions.settle_all(&settlements, now).await) });
    }
    let outcomes: Vec<_> = settling.join_all().await.into_iter().flatten().map(Option::unwrap).collect();
    assert_eq!(outcomes.len(), 1800);
    assert_eq!(outcomes.iter().filter(|(.., before)| !before).count(), 300, "each once");
    let used: u64 = settlements.iter().map(|(_, actual)| actual).sum();
    eventually("that is what was used", || async {
        quota(&tenant.client).await[0].used == i64::try_from(used).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_fault_leaves_the_others_alone() {
    let world = World::start().await;
    let (decisions, _stop) = decisions(&world);
    let key = signing_key(&world.database).await;
    let tenant = limited(&world, [monthly(1000)]).await;
    let mut settlements = Vec::new();
    for _ in 0..9 {
        settlements.push((reserved(&tenant, &key, 10).await, 1));
    }
    let bad = settlements[4].0.id;
    let sql = format!("ALTER TABLE tenancy.quota_operations ADD CONSTRAINT faulty CHECK (operation_id <> '{bad}')");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&world.database.superuser).await.unwrap();
    let outcomes = decisions.settle_all(&settlements, world.clock.now()).await;
    for (at, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), at != 4, "{at}: {outcome:?}");
    }
    eventually("the others are settled", || async { quota(&tenant.client).await[0].used == 8 + 10 }).await;
}
