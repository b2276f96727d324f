//! I6 under fire: three replicas over one Postgres decide for concurrent callers, while replicas are killed and started
//! again, stopped for longer than their leases last, and Postgres is killed. No window ever has more than its limit, and in
//! the end all is admitted but what was lost with replicas that died.
//!
//! `TENANCY_QUOTA_ROUNDS=40 cargo test --test it -- no_kill_admits --nocapture` prints a table of what happened.

mod caller;
mod check;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::PgPool;
use tempfile::TempDir;
use tenancy::proto::v1;
use tenancy::repository::embedded::Embedded;
use tokio::task::{JoinSet, block_in_place};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::database_down::random;
use crate::embedded::support;
use crate::harness::{Client, Tenant, eventually};
use crate::process::refusals::url;
use crate::process::{Place, Process};
use crate::quota::support::{create_limit, limit};
use crate::usage::support::create_meter;
use caller::{Caller, Progress, Said};
use check::Case;

/// How many kills and stops; a few where it is not set.
const ROUNDS: &str = "TENANCY_QUOTA_ROUNDS";

const REPLICAS: usize = 3;

/// How long a lease lasts, and the longest pause.
const LIFETIME: &str = "2s";
const LONGEST_PAUSE: u64 = 4_000;

/// What is done to them.
const DEEDS: [&str; 4] =
    ["kills of a replica", "stops of a replica beyond its leases", "shorter stops of a replica", "kills of Postgres"];

/// Those that do not turn are as large as is about used up by the end.
fn cases(rounds: u32) -> Vec<Case> {
    use v1::SubjectKind::{ApiKey, Organization, User};
    use v1::WindowUnit::{Hour, Lifetime, Minute, Month, Second};
    let case = |meter, kind, unit, rolling, amount, burst| Case { meter, kind, unit, rolling, amount, burst };
    let rounds = i64::from(rounds);
    vec![
        case("month", Organization, Month, false, 300 * rounds, 0),
        case("seats", Organization, Lifetime, false, 150 * rounds, 0),
        // Two at once: each user's is soon used up, and what it denies is not to be charged to the other one.
        case("both", Organization, Hour, true, 200 * rounds, 0),
        case("both", User, Lifetime, false, 100, 0),
        case("minute", ApiKey, Minute, false, 250, 0),
        case("second", ApiKey, Second, false, 20, 0),
        case("rate", Organization, Minute, true, 300, 0),
        case("fast", Organization, Second, true, 20, 0),
        case("bucket", Organization, Minute, true, 120, 30),
        case("spurt", Organization, Second, true, 12, 8),
    ]
}

/// The replicas and their Postgres.
struct Cluster {
    replicas: Vec<(Place, Option<Process>)>,
    database_url: String,
    superuser: PgPool,
    // Before its directory.
    postgres: Embedded,
    _directory: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let (directory, postgres, database) = support::provisioned(120).await;
        let mut cluster = Self {
            replicas: (0..REPLICAS).map(|_| (Place::new(), None)).collect(),
            database_url: url(&database.service),
            superuser: database.superuser,
            postgres,
            _directory: directory,
        };
        for replica in 0..REPLICAS {
            cluster.launch(replica);
        }
        cluster.ready().await;
        cluster
    }

    fn launch(&mut self, replica: usize) {
        let (place, process) = &mut self.replicas[replica];
        let mut command = place.server(&["--cache-lifetime", LIFETIME, "--database-connections", "6"]);
        command.env("DATABASE_URL", &self.database_url);
        *process = Some(place.run(command));
    }

    async fn ready(&self) {
        for (place, _) in &self.replicas {
            place.ready().await;
        }
    }

    fn send(&self, replica: usize, signal: Signal) {
        self.replicas[replica].1.as_ref().unwrap().send(signal);
    }

    /// A client of each replica.
    fn clients(&self) -> Vec<Client> {
        let endpoint = |place: &Place| Endpoint::from_shared(format!("http://{}", place.grpc)).unwrap();
        self.replicas.iter().map(|(place, _)| Client::new(endpoint(place).connect_lazy())).collect()
    }

    fn operator(&self) -> Client {
        let mut command = self.replicas[0].0.command(&["operator", "create", "--name", "test"]);
        let output = block_in_place(|| command.env("DATABASE_URL", &self.database_url).output()).unwrap();
        assert!(output.status.success(), "{output:?}");
        self.clients()[0].clone().key(String::from_utf8(output.stdout).unwrap().trim())
    }

    async fn deed(&mut self, deed: usize, random: &mut StdRng) {
        let replica = random.random_range(0..REPLICAS);
        let pause = |from, to, random: &mut StdRng| Duration::from_millis(random.random_range(from..to));
        match deed {
            0 => {
                self.replicas[replica].1.take().unwrap().kill();
                tokio::time::sleep(pause(0, 500, random)).await;
                self.launch(replica);
            }
            1 | 2 => {
                let (from, to) = if deed == 1 { (2_100, LONGEST_PAUSE) } else { (10, 1_900) };
                self.send(replica, Signal::SIGSTOP);
                tokio::time::sleep(pause(from, to, random)).await;
                self.send(replica, Signal::SIGCONT);
            }
            _ => {
                support::send(self.postgres.pid(), Signal::SIGKILL);
                tokio::time::sleep(pause(0, 2_500, random)).await;
                block_in_place(|| self.postgres.restart()).unwrap();
            }
        }
    }

    /// Orderly: what they hold is given back.
    async fn stop(&mut self) {
        for replica in 0..REPLICAS {
            self.send(replica, Signal::SIGTERM);
        }
        for (_, process) in &mut self.replicas {
            let (code, said) = process.take().unwrap().ended().await;
            assert_eq!(code, Some(0), "{said}");
        }
    }

    /// Of the accounts of a window: what was granted, and of that what nobody said to have used, by meter.
    async fn ledger(&self, kind: &str) -> BTreeMap<String, (i64, i64)> {
        let sql = "SELECT m.key, sum(a.granted)::bigint, sum(u.unspent)::bigint
            FROM tenancy.quota_accounts a JOIN tenancy.meters m USING (organization_id, meter_id), LATERAL (
                SELECT coalesce(sum((h ->> 'granted')::bigint - (h ->> 'used')::bigint), 0) AS unspent
                FROM jsonb_path_query(a.state, '$.slices.slots[*].holders[*]') h
            ) u WHERE a.window_kind = $1 AND a.subject_kind = 'organization' GROUP BY m.key";
        // Connections that died with Postgres are in the pool.
        eventually("the superuser connects", || async {
            sqlx::query("SELECT 1").execute(&self.superuser).await.is_ok()
        })
        .await;
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(sql).bind(kind).fetch_all(&self.superuser).await.unwrap();
        rows.into_iter().map(|(meter, granted, unspent)| (meter, (granted, unspent))).collect()
    }
}

/// A tenant with the limits.
async fn tenant(cluster: &Cluster, cases: &[Case]) -> Tenant {
    let operator = cluster.operator();
    let tenant = Tenant::create_by(&operator, &cluster.clients()[0], "acme").await;
    for (number, case) in cases.iter().enumerate() {
        if cases[..number].iter().all(|before| before.meter != case.meter) {
            create_meter(&tenant.client, case.meter, v1::MeterAggregation::Sum).await;
        }
        create_limit(&operator, limit(&tenant.id, case.rule())).await.unwrap();
    }
    tenant
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_admits_more_than_a_limit() {
    let rounds: u32 = std::env::var(ROUNDS).map_or(4, |rounds| rounds.parse().unwrap());
    let mut random = random();
    let mut cluster = Cluster::start().await;
    let cases = cases(rounds);
    let tenant = tenant(&cluster, &cases).await;
    let clients: Vec<Client> = cluster.clients().into_iter().map(|client| client.key(&tenant.key)).collect();
    let meters: Vec<_> = cases.iter().map(|case| case.meter).collect();
    let (stop, progress) = (CancellationToken::new(), Arc::new(Progress::default()));
    let mut callers = JoinSet::new();
    for number in 0..4 * REPLICAS {
        let caller = Caller {
            // Some stay where they are, whatever becomes of that replica.
            clients: if number % 4 == 0 { clients.clone() } else { vec![clients[number % REPLICAS].clone()] },
            meters: meters.clone(),
            random: StdRng::seed_from_u64(random.random()),
            patient: number % 2 == 0,
            progress: Arc::clone(&progress),
            said: Said::default(),
        };
        callers.spawn(caller.run(stop.clone()));
    }
    let mut deeds = [0_u32; DEEDS.len()];
    for round in 0..rounds {
        progress.round.store(u64::from(round), Ordering::Relaxed);
        progress.more(random.random_range(100..1_000)).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        // Each of them in any run.
        let deed = if round < 4 { round as usize } else { random.random_range(0..DEEDS.len()) };
        deeds[deed] += 1;
        cluster.deed(deed, &mut random).await;
    }
    cluster.ready().await;
    progress.more(300).await;
    stop.cancel();
    let mut said = Said::default();
    for of_one in callers.join_all().await {
        said.add(of_one);
    }
    for case in cases.iter().filter(|case| case.drains()) {
        caller::drain(&clients, case.meter, &mut said).await;
    }
    cluster.stop().await;
    compare(&cluster, &cases, deeds, &said).await;
}

/// Holds what was admitted against the limits and the ledger, and prints it.
async fn compare(cluster: &Cluster, cases: &[Case], deeds: [u32; DEEDS.len()], said: &Said) {
    let mut table = String::from(
        "| limit | amount + burst | the most admitted in a window | lost | at most |\n|---|---:|---:|---:|---:|\n",
    );
    let mut faults = said.faults.clone();
    for case in cases {
        let (most, limit) = (case.most(&said.notes), case.amount + case.burst);
        write!(table, "| {} | {limit} | {most} |", case.name()).unwrap();
        if most > limit {
            faults.push(format!("{most} were admitted of {limit}: {case:?}"));
        }
        if !case.drains() {
            writeln!(table, " | |").unwrap();
            continue;
        }
        // Nobody asked for more than these, and all that was left was asked for.
        let unknown = said.unknown.get(case.meter).copied().unwrap_or(0);
        let (granted, unspent) = cluster.ledger(&case.window_kind()).await[case.meter];
        let lost = limit - most;
        writeln!(table, " {lost} | {unspent} + {unknown} |").unwrap();
        if granted != limit {
            faults.push(format!("of {limit} only {granted} were granted in the end: {case:?}"));
        }
        if lost > unspent + unknown {
            faults.push(format!("{lost} were lost, and dead replicas had {unspent}, {unknown} unknown: {case:?}"));
        }
    }
    for (what, number) in DEEDS.into_iter().zip(deeds.map(i64::from)).chain([
        ("decisions that admitted", i64::try_from(said.notes.len()).unwrap()),
        ("decisions that denied", said.denied),
        ("of them for want of the ledger", said.away),
        ("calls refused for want of the database", said.refused),
        ("calls without an answer", said.unanswered),
    ]) {
        writeln!(table, "| {what} | {number} | | | |").unwrap();
    }
    println!("\n{table}");
    if !faults.is_empty() {
        cluster.replicas.iter().for_each(|(place, _)| place.print_errors());
    }
    let some: Vec<_> = faults.iter().take(9).collect();
    assert!(faults.is_empty(), "{} faults, such as {some:#?}", faults.len());
}
