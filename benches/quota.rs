//! `cargo bench --bench quota`: what a decision costs beside a call that does nothing, and beside the naive exact way, in
//! one run with the same client, connections and streams; and what a million counters take.
//!
//! - floor: an empty call of tonic without a layer, on as many threads as the service has, whose connections are served as
//!   the service's are; and the same call of tonic's own server.
//! - layers: an empty call through the service's own layers, without a key.
//! - the rest: with a key, which is verified from memory.
//! - naive: an UPDATE in Postgres for each decision, on one row and on a thousand.
//!
//! Rounds alternate, and the median of each counts. The service, its Postgres and the load share the cores.

mod support;

#[path = "quota/floor.rs"]
mod floor;
#[path = "quota/held.rs"]
mod held;
#[path = "quota/memory.rs"]
mod memory;
#[path = "quota/naive.rs"]
mod naive;
#[path = "quota/setup.rs"]
mod setup;
#[path = "quota/tell.rs"]
mod tell;
#[path = "quota/wire.rs"]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tenancy::clock::Clock;

use crate::setup::Targets;
use crate::support::latencies::Latencies;
use crate::support::load::{Outcome, Pace, run};
use crate::support::server::Server;
use crate::support::{Failure, cpu, report};
use crate::tell::{Halved, Measured, Naive};
use crate::wire::{Stream, Target};

/// Connections of the cases that are compared with everything, and of the others; and how many requests are in flight
/// on each.
const REFERENCE: usize = 4;
const OTHERS: [usize; 3] = [1, 2, 32];
const STREAMS: usize = 50;
const ROUNDS: usize = 5;

/// How long a round takes: shorter to try something.
fn round() -> Duration {
    let seconds = std::env::var("TENANCY_BENCH_ROUND").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

fn main() -> Result<(), Failure> {
    if memory::answer()? {
        return Ok(());
    }
    // First, while the machine is ours.
    let mut memory = Vec::new();
    for spread in memory::SPREADS {
        memory.push((spread, memory::measure(spread)?));
        println!("{} organizations x {} keys: {:.0} MiB", spread.0, spread.1, memory[memory.len() - 1].1);
    }
    if std::env::args().any(|argument| argument == "memory") {
        return Ok(());
    }
    let floors = [floor::serve(report::cores())?, floor::serve_tonic(report::cores())?];
    let (server, superuser) = Server::start(&[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let targets = runtime.block_on(setup::targets(&server, server.running.grpc, floors))?;
    let (measured, halved) = measure(&server.clock, &targets)?;
    let naive = runtime.block_on(decide_naively(&server.clock, superuser))?;
    drop(runtime);
    server.stop()?;
    tell::tell(&measured, &halved, &naive, &memory)
}

/// Everything at full load, and the two that matter at one pace.
fn measure<'a>(clock: &Clock, targets: &'a Targets) -> Result<(Vec<Measured<'a>>, [Halved; 2]), Failure> {
    let Targets { floor, tonic, layers, check, consume_one, consume_two, verify } = targets;
    let mut cases = Vec::new();
    let mut case = |name, connections, targets| cases.push(Measured::new(name, connections, STREAMS, targets));
    case("floor: an empty call of bare tonic", REFERENCE, floor);
    case("an empty call of tonic's own server", REFERENCE, tonic);
    case("an empty call through the layers", REFERENCE, layers);
    case("VerifyApiKey", REFERENCE, verify);
    case("CheckQuota, two limits", REFERENCE, check);
    case("ConsumeQuota, one limit", REFERENCE, consume_one);
    case("ConsumeQuota, two limits", REFERENCE, consume_two);
    for connections in OTHERS {
        case("floor: an empty call of bare tonic", connections, floor);
        case("ConsumeQuota, two limits", connections, consume_two);
    }
    for round in 0..=ROUNDS {
        for case in &mut cases {
            let before = serving();
            // Once for nothing: every key is verified, every lease granted, every buffer has its size.
            let most = if round == 0 { Duration::from_millis(500) } else { self::round() };
            let outcome = load(clock, case.targets, case.connections, Pace::Closed, most)?;
            if round > 0 {
                case.add(outcome, serving().saturating_sub(before));
            }
        }
    }
    // Latencies of a service that is not idle and not overrun: half of what it can do, and the floor at the same pace.
    let busy = cases.iter().find(|case| case.name.starts_with("ConsumeQuota, two")).ok_or("no such case")?;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let interval = Duration::from_secs_f64(2.0 * (REFERENCE * STREAMS) as f64 / busy.rate());
    let mut halved: [Halved; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (halved, targets) in halved.iter_mut().zip([floor, consume_two]) {
            halved.add(&load(clock, targets, REFERENCE, Pace::Every(interval), round())?);
        }
    }
    Ok((cases, halved))
}

/// The processor time of the serving threads so far, the floors' among them: only one of them is called at a time.
fn serving() -> Duration {
    let all = [floor::NAME, floor::TONIC, "serve-"].into_iter();
    all.flat_map(|name| (0..report::cores()).filter_map(move |number| cpu::threads(&format!("{name}{number}")))).sum()
}

/// The load: on as many threads as there are cores, each with its part of the connections.
fn load(
    clock: &Clock,
    targets: &[Arc<Target>],
    connections: usize,
    pace: Pace,
    most: Duration,
) -> Result<Outcome, Failure> {
    let threads = report::cores().min(connections);
    let part = |thread: usize| -> Result<Outcome, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut streams = Vec::new();
            for connection in (thread..connections).step_by(threads) {
                let address = targets.first().ok_or("nothing to call")?.address;
                let client = wire::connect(address).await?;
                for stream in 0..STREAMS {
                    let target = &targets[(connection * STREAMS + stream) % targets.len()];
                    streams.push(Stream::new(client.clone(), target)?);
                }
            }
            run(clock, streams, pace, most).await
        })
    };
    let outcomes = std::thread::scope(|scope| {
        let begin = |thread| std::thread::Builder::new().name("load".into()).spawn_scoped(scope, move || part(thread));
        let threads: Vec<_> = (0..threads).map(begin).collect();
        let ended = threads.into_iter().map(|thread| thread?.join().map_err(|_| "the load panicked")?);
        ended.collect::<Result<Vec<_>, Failure>>()
    })?;
    let mut latencies = Latencies::default();
    for outcome in &outcomes {
        latencies.merge(&outcome.latencies);
    }
    let took = outcomes.iter().map(|outcome| outcome.took).max().unwrap_or_default();
    Ok(Outcome::new(outcomes.iter().map(|outcome| outcome.done).sum(), took, latencies))
}

async fn decide_naively(clock: &Clock, superuser: PgConnectOptions) -> Result<[Naive; 2], Failure> {
    let pool = naive::prepare(superuser).await?;
    let mut found = [Naive::new("naive: UPDATE of one row"), Naive::new("naive: UPDATE of a thousand rows")];
    for round in 0..=ROUNDS {
        for (naive, rows) in found.iter_mut().zip([1, 1000]) {
            let outcome = naive::measure(clock, &pool, rows, self::round()).await?;
            if round > 0 {
                naive.add(outcome);
            }
        }
    }
    pool.close().await;
    Ok(found)
}
