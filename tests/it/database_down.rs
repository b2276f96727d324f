//! The database goes away under load, and comes back: killed, or alive and silent. What was acknowledged is there, once
//! (I5, I11); what cannot be done is answered in time; the service recovers by itself.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use tenancy::repository::embedded::Embedded;
use tokio::task::block_in_place;
use tonic::Code;
use tonic_health::ServingStatus;

use crate::embedded::support;
use crate::harness::{Expect, Load, Target, World, admin, eventually, taken_apart, unavailable, verify};
use crate::transport::health;

/// What the rounds of the tests that kill are drawn from; set it to repeat a run.
const SEED: &str = "TENANCY_TEST_SEED";

/// A service on a Postgres of its own.
struct Outage {
    world: World,
    target: Target,
    // Before its directory.
    postgres: Embedded,
    _directory: TempDir,
}

impl Outage {
    async fn prepare() -> Self {
        let (directory, postgres, database) = support::provisioned(50).await;
        let world = World::on(database, &[]).await;
        let target = Target::new(world.running.grpc, world.operator_key()).await;
        Self { world, target, postgres, _directory: directory }
    }

    /// Waits until every sign says that the service serves, or that it does not.
    async fn shows(&self, serving: bool) {
        let (status, ready) = if serving { (ServingStatus::Serving, 200) } else { (ServingStatus::NotServing, 503) };
        let (grpc, port) = (self.world.running.grpc, self.world.running.admin);
        eventually(&format!("/readyz is {ready}"), || async { admin(port, "/readyz").await.0 == ready }).await;
        for service in ["", "tenancy.v1.UsageService"] {
            eventually(&format!("health is {status:?}"), || async {
                health(grpc, service).await.unwrap() as i32 == status as i32
            })
            .await;
        }
        // The process is alive all the time: nobody should restart it.
        assert_eq!(admin(port, "/livez").await.0, 200);
    }

    /// Every sort of call is answered that the database is away.
    async fn refuses(&self) {
        for (path, outcome) in self.target.probe().await {
            let status = outcome.expect_err(path);
            assert!(unavailable(&status), "{path}: {status:?}");
        }
    }

    async fn serves(&self) {
        for (path, outcome) in self.target.probe().await {
            outcome.expect(path);
        }
    }
}

pub fn random() -> StdRng {
    let seed = std::env::var(SEED).map_or(17, |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    StdRng::seed_from_u64(seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_loses_nothing_acknowledged() {
    let mut outage = Outage::prepare().await;
    let mut random = random();
    let load = Load::start(outage.target.clone(), Expect::Outage, random.random());
    for _ in 0..4 {
        load.progress(random.random_range(1..60)).await;
        support::send(outage.postgres.pid(), Signal::SIGKILL);
        outage.shows(false).await;
        outage.refuses().await;
        block_in_place(|| outage.postgres.restart()).unwrap();
        outage.shows(true).await;
        outage.serves().await;
    }
    load.progress(30).await;
    let ledger = load.finish().await;
    // The pool of the test has connections that died with Postgres.
    let superuser = outage.world.database.superuser.clone();
    eventually("the superuser connects", || async { sqlx::query("SELECT 1").execute(&superuser).await.is_ok() }).await;
    verify(&superuser, &outage.target.organization_id, ledger).await;
}

/// The processes of a Postgres, stopped; they go on when this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(postmaster: u32) -> Self {
        let pid = |pid: u32| Pid::from_raw(pid.try_into().unwrap());
        let stop = |pid: Pid| kill(pid, Signal::SIGSTOP).unwrap();
        // First, so that it makes no more.
        stop(pid(postmaster));
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let children: Vec<Pid> = children.split_whitespace().map(|child| pid(child.parse().unwrap())).collect();
        // One that has just ended is no more.
        let stopped = children.into_iter().filter(|child| kill(*child, Signal::SIGSTOP).is_ok());
        Self(stopped.chain([pid(postmaster)]).collect())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_silent_is_noticed_and_met_again() {
    let outage = Outage::prepare().await;
    for _ in 0..2 {
        outage.serves().await;
        let stopped = Stopped::stop(outage.postgres.pid());
        // Nobody knows yet: the first ones wait as long as they may.
        for (path, outcome) in outage.target.probe().await {
            let refusal = taken_apart(&outcome.expect_err(path));
            let expected = matches!(refusal.code, Code::Unavailable | Code::DeadlineExceeded);
            assert!(expected, "{path}: {refusal:?}");
        }
        outage.shows(false).await;
        outage.refuses().await;
        drop(stopped);
        outage.shows(true).await;
        outage.serves().await;
    }
}
