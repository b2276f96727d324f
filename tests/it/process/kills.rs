//! I5 and I11 under fire: the service, its Postgres, or both at once are killed at random moments, while producers record
//! events of every sort, repeat what was not answered and some of what was, and void. In the end each event that was
//! acknowledged is on record, and in every figure exactly once.
//!
//! `TENANCY_KILL_ROUNDS=60 cargo test --test it -- no_kill_loses --nocapture` prints a table of what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tenancy::model::usage::{hour, quarter, whole_milliseconds};
use tenancy::proto::v1;
use tenancy::repository::embedded::{self, Options};
use tokio::task::{JoinSet, block_in_place};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::database_down::random;
use crate::embedded::support;
use crate::harness::{Client, Tenant, eventually};
use crate::process::{Place, postmaster};
use crate::usage::support::{KINDS, create_meters_of_every_kind, drift_in, event, fate, model, record, void};

/// How many kills; a few where it is not set.
const ROUNDS: &str = "TENANCY_KILL_ROUNDS";

/// The producers' organizations.
const SLUGS: [&str; 3] = ["one", "two", "three"];

/// The identity of an event, and whose it is.
type Identity = (String, DateTime<Utc>, Uuid);

/// An event that was acknowledged.
#[derive(Clone, Debug)]
struct Known {
    event: v1::UsageEvent,
    at: DateTime<Utc>,
    voided: bool,
}

/// What a producer was told.
#[derive(Default, Debug)]
struct Ledger {
    events: BTreeMap<Identity, Known>,
    /// How often an event was answered to be one.
    duplicates: u64,
    /// How often a call was repeated since it had no answer.
    repeated: u64,
    /// What no kill explains.
    faults: Vec<String>,
}

impl Ledger {
    fn take<T>(&mut self, answer: Answer<T>) -> Option<T> {
        self.repeated += answer.repeated;
        answer.reply.map_err(|status| self.faults.push(format!("{status:?}"))).ok()
    }
}

struct Producer {
    tenant: Tenant,
    random: StdRng,
    ledger: Ledger,
    acknowledged: Arc<AtomicU64>,
}

impl Producer {
    async fn run(mut self, stop: CancellationToken) -> Ledger {
        while !stop.is_cancelled() {
            self.record().await;
            if self.random.random_range(0..3) == 0 {
                self.void().await;
            }
        }
        self.ledger
    }

    /// Events that are new, and some that were acknowledged long ago.
    async fn record(&mut self) {
        let mut sent: Vec<(Identity, Known)> =
            (0..self.random.random_range(1..=20)).map(|_| self.new_event()).collect();
        let new = sent.len();
        if self.random.random_range(0..3) == 0 {
            sent.extend(self.any());
        }
        let events: Vec<_> = sent.iter().map(|(_, known)| known.event.clone()).collect();
        // Now and then twice at once, as by a producer that lost its patience.
        let impatient = self.random.random_range(0..6) == 0;
        let call = || {
            let (client, events) = (self.tenant.client.clone(), events.clone());
            async move { record(&client, events).await }
        };
        let (first, second) =
            tokio::join!(persist(call), async { if impatient { Some(persist(call).await) } else { None } });
        let mut recorded = BTreeSet::new();
        for answer in [Some(first), second].into_iter().flatten() {
            let Some(results) = self.ledger.take(answer) else { continue };
            for (position, result) in results.iter().enumerate() {
                match fate(result).as_str() {
                    "RECORDED" if position < new && recorded.insert(position) => {}
                    "DUPLICATE" => self.ledger.duplicates += 1,
                    other => self.ledger.faults.push(format!("{other}: {:?}", sent[position])),
                }
            }
        }
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.ledger.events.extend(sent);
    }

    async fn void(&mut self) {
        let Some(((slug, at, id), _)) = self.any() else { return };
        let answer = persist(|| {
            let client = self.tenant.client.clone();
            async move { void(&client, &id.to_string(), at).await }
        })
        .await;
        if self.ledger.take(answer).is_some() {
            self.ledger.events.get_mut(&(slug, at, id)).unwrap().voided = true;
        }
    }

    fn any(&mut self) -> Option<(Identity, Known)> {
        let length = self.ledger.events.len();
        let nth = (length > 0).then(|| self.random.random_range(0..length))?;
        self.ledger.events.iter().nth(nth).map(|(identity, known)| (identity.clone(), known.clone()))
    }

    fn new_event(&mut self) -> (Identity, Known) {
        let random = &mut self.random;
        // Of few quarters of an hour, so that all meet in the same rows.
        let at = whole_milliseconds(Utc::now()) - Duration::from_millis(random.random_range(0..1_800_000));
        let id = uuid::Builder::from_random_bytes(random.random()).into_uuid();
        let event = v1::UsageEvent {
            meter: KINDS.choose(random).unwrap().0.into(),
            quantity: random.random_range(0..1000_u32).to_string(),
            subject: (*["ada", "grace", "eve"].choose(random).unwrap()).into(),
            properties: model(["x", "y"].choose(random).unwrap()),
            ..event(&id.to_string(), at)
        };
        ((self.tenant.slug.clone(), at, id), Known { event, at, voided: false })
    }
}

/// What a call came to, and how often it was repeated.
struct Answer<T> {
    reply: Result<T, Status>,
    repeated: u64,
}

/// Repeats a call until it is answered: well, or in a way that no kill explains.
async fn persist<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> Answer<T> {
    let mut repeated = 0;
    loop {
        let reply = call().await;
        let explained = reply.as_ref().is_err_and(|status| {
            // Without our details it is the client's own: the connection broke.
            status.get_details_error_info().is_none()
                || [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded].contains(&status.code())
        });
        if !explained {
            return Answer { reply, repeated };
        }
        repeated += 1;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn client(grpc: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{grpc}")).unwrap().timeout(Duration::from_secs(20));
    Client::new(endpoint.connect_lazy())
}

/// What is killed how often.
const VICTIMS: [&str; 3] = ["the service", "Postgres", "both at once"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_loses_an_event_or_counts_it_twice() {
    let rounds: u32 = std::env::var(ROUNDS).map_or(6, |rounds| rounds.parse().unwrap());
    let place = Place::new();
    let operator = client(place.grpc).key(&place.operator_key());
    let mut random = random();
    let mut process = place.start();
    place.ready().await;
    let (stop, acknowledged) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut producers = JoinSet::new();
    for slug in SLUGS {
        let tenant = Tenant::create_by(&operator, &client(place.grpc), slug).await;
        create_meters_of_every_kind(&tenant.client).await;
        for _ in 0..2 {
            let producer = Producer {
                tenant: Tenant { client: client(place.grpc).key(&tenant.key), ..tenant.clone() },
                random: StdRng::seed_from_u64(random.random()),
                ledger: Ledger::default(),
                acknowledged: Arc::clone(&acknowledged),
            };
            producers.spawn(producer.run(stop.clone()));
        }
    }

    let progress = async |more: u64| {
        let goal = acknowledged.load(Ordering::Relaxed) + more;
        eventually("requests are answered", || async { acknowledged.load(Ordering::Relaxed) >= goal }).await;
    };
    let mut kills = [0_u32; 3];
    for round in 0..rounds {
        progress(random.random_range(1..40)).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
        // Each of them in any run.
        let victim = if round < 3 { round as usize } else { random.random_range(0..3) };
        kills[victim] += 1;
        if victim > 0 {
            let running = || postmaster(&place.data).filter(|pid| support::runs(*pid));
            eventually("Postgres runs", || async { running().is_some() }).await;
            support::send(running().unwrap(), Signal::SIGKILL);
        }
        if victim != 1 {
            process.kill();
            process = place.start();
        }
    }
    progress(30).await;
    stop.cancel();
    let mut all = Ledger::default();
    while let Some(ledger) = producers.join_next().await {
        let ledger = ledger.unwrap();
        all.events.extend(ledger.events);
        all.faults.extend(ledger.faults);
        all.duplicates += ledger.duplicates;
        all.repeated += ledger.repeated;
    }
    process.send(Signal::SIGINT);
    let (code, said) = process.ended().await;
    assert_eq!(code, Some(0), "{said}");

    // As an operator would ask.
    let verified = block_in_place(|| place.command(&["usage", "verify"]).output()).unwrap();
    let verified = (verified.status.code(), String::from_utf8(verified.stdout).unwrap());
    compare(&place, kills, all, &verified).await;
}

/// Compares what was acknowledged with what is there, prints both, and fails for any difference.
async fn compare(place: &Place, kills: [u32; 3], all: Ledger, verified: &(Option<i32>, String)) {
    let options = Options { data_dir: Some(place.data.clone()), offline: true, ..Options::default() };
    let postgres = block_in_place(|| embedded::start(&options)).unwrap();
    let superuser = PgConnectOptions::new_without_pgpass()
        .host(&postgres.socket_dir().to_string_lossy())
        .port(postgres.port())
        .username(postgres.superuser())
        .password(postgres.superuser_password())
        .database("tenancy");
    let superuser = PgPoolOptions::new().max_connections(1).connect_with(superuser).await.unwrap();

    let acknowledged: BTreeSet<&Identity> = all.events.keys().collect();
    let stored = identities(&superuser, "usage_events").await;
    let lost = acknowledged.iter().filter(|identity| !stored.contains(**identity)).count();
    let strange = stored.iter().filter(|identity| !acknowledged.contains(identity)).count();
    let voided: BTreeSet<Identity> =
        all.events.iter().filter(|(_, known)| known.voided).map(|(identity, _)| identity.clone()).collect();
    let voids_are = identities(&superuser, "usage_voids").await == voided;
    let (missing, surplus) = against_memory(&superuser, &all).await;
    let audited: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenancy.audit_events WHERE action = 'usage_events.void'")
            .fetch_one(&superuser)
            .await
            .unwrap();
    let drift = drift_in(&superuser).await;
    superuser.close().await;
    block_in_place(|| postgres.stop()).unwrap();

    let mut table = String::from("| | |\n|---|---:|\n");
    for (victim, kills) in VICTIMS.into_iter().zip(kills) {
        writeln!(table, "| kills of {victim} | {kills} |").unwrap();
    }
    for (what, number) in [
        ("events acknowledged", all.events.len()),
        ("calls repeated for want of an answer", usize::try_from(all.repeated).unwrap()),
        ("events answered to be duplicates", usize::try_from(all.duplicates).unwrap()),
        ("events voided", voided.len()),
        ("acknowledged events lost from the raw events", lost),
        ("acknowledged events lost from the figures", missing),
        ("events counted twice", surplus),
        ("events on record that nobody was acknowledged", strange),
        ("figures that a recount differs from", usize::try_from(drift).unwrap()),
    ] {
        writeln!(table, "| {what} | {number} |").unwrap();
    }
    println!("\n{table}\ntenancy usage verify: {}", verified.1);
    let some: Vec<_> = all.faults.iter().take(9).collect();
    assert!(some.is_empty(), "{} answers that no kill explains, such as {some:#?}", all.faults.len());
    assert_eq!((lost, missing, surplus, strange, drift), (0, 0, 0, 0, 0));
    assert!(voids_are && usize::try_from(audited) == Ok(voided.len()), "each void once: {audited} records");
    assert!(verified.0 == Some(0) && verified.1.ends_with(" organizations, 0 differences\n"), "{verified:?}");
}

/// Of the producers' organizations; there are others, with the data of the demo.
async fn identities(superuser: &PgPool, table: &str) -> BTreeSet<Identity> {
    let sql = format!(
        "SELECT o.slug, e.occurred_at, e.event_id FROM tenancy.{table} e JOIN tenancy.organizations o USING (organization_id)
         WHERE o.slug = ANY ($1)"
    );
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(SLUGS).fetch_all(superuser).await;
    rows.unwrap().into_iter().collect()
}

/// How many acknowledged events the figures lack, and how many they have too much, by organization, meter, and quarter of an
/// hour or hour: each event is looked for in both.
async fn against_memory(superuser: &PgPool, all: &Ledger) -> (usize, usize) {
    type Place = (String, String, String, DateTime<Utc>);
    let mut expected: BTreeMap<Place, i64> = BTreeMap::new();
    for ((slug, ..), known) in all.events.iter().filter(|(_, known)| !known.voided) {
        for (width, bucket) in [("quarter", quarter(known.at)), ("hour", hour(known.at))] {
            let place = (width.to_owned(), slug.clone(), known.event.meter.clone(), bucket);
            *expected.entry(place).or_default() += 1;
        }
    }
    let rows: Vec<(String, String, String, DateTime<Utc>, i64)> = sqlx::query_as(
        "SELECT a.width, o.slug, m.key, a.bucket_start, a.event_count
         FROM (SELECT 'quarter' AS width, a.* FROM tenancy.usage_aggregates a
             UNION ALL SELECT 'hour', h.* FROM tenancy.usage_hours h) AS a
         JOIN tenancy.organizations o USING (organization_id) JOIN tenancy.meters m USING (organization_id, meter_id)
         WHERE a.series_id = '00000000-0000-0000-0000-000000000000' AND o.slug = ANY ($1)",
    )
    .bind(SLUGS)
    .fetch_all(superuser)
    .await
    .unwrap();
    let found: BTreeMap<Place, i64> =
        rows.into_iter().map(|(width, slug, key, bucket, count)| ((width, slug, key, bucket), count)).collect();
    let places: BTreeSet<&Place> = expected.keys().chain(found.keys()).collect();
    let differences = places
        .into_iter()
        .map(|place| found.get(place).copied().unwrap_or_default() - expected.get(place).copied().unwrap_or_default());
    let (surplus, missing): (Vec<i64>, Vec<i64>) = differences.partition(|difference| *difference > 0);
    let sum = |of: Vec<i64>| usize::try_from(of.into_iter().sum::<i64>().abs()).unwrap();
    (sum(missing), sum(surplus))
}
