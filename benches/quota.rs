//! `cargo bench --bench quota`: what a decision costs beside a call that does nothing, and beside the naive exact way, in
//! one run with the same client, connections and streams; and what a million counters take.
//!
//! - floor: an empty call of tonic's own server without a layer, on as many threads with a runtime each as the service has;
//!   and the same call on connections that are served as the service's are.
//! - layers: an empty call through the service's own layers, without a key.
//! - the rest: with a key, which is verified from memory.
//! - naive: an UPDATE in Postgres for each decision, on one row and on a thousand.
//!
//! Rounds alternate, and the median of each counts. The service, its Postgres and the load share the cores.

mod support;

#[path = "quota/calls.rs"]
mod calls;
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

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tenancy::clock::Clock;

use crate::calls::{ROUNDS, STREAMS, load, round, serving};
use crate::setup::Targets;
use crate::support::load::Pace;
use crate::support::server::Server;
use crate::support::{Failure, report};
use crate::tell::{Halved, Measured, Naive};

/// Connections of the cases that are compared with everything, and of the others.
const REFERENCE: usize = 4;
const OTHERS: [usize; 3] = [1, 2, 32];

fn main() -> Result<(), Failure> {
    if memory::answer()? {
        return Ok(());
    }
    // First, while the machine is ours.
    let mut memory = Vec::new();
    for (number, spread) in memory::SPREADS.into_iter().enumerate() {
        let taken = memory::measure(number)?;
        println!("{}: {taken}", spread.name);
        memory.push((spread.name, taken));
    }
    if std::env::args().any(|argument| argument == "memory") {
        return Ok(());
    }
    let floors = [floor::serve(report::cores())?, floor::serve_bare(report::cores())?];
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
    let Targets { floor, bare, layers, check, consume_one, consume_two, verify } = targets;
    let mut cases = Vec::new();
    let mut case = |name, connections, targets| cases.push(Measured::new(name, connections, STREAMS, targets));
    case("floor: an empty call of tonic's server", REFERENCE, floor);
    case("an empty call on connections of ours", REFERENCE, bare);
    case("an empty call through the layers", REFERENCE, layers);
    case("VerifyApiKey", REFERENCE, verify);
    case("CheckQuota, two limits", REFERENCE, check);
    case("ConsumeQuota, one limit", REFERENCE, consume_one);
    case("ConsumeQuota, two limits", REFERENCE, consume_two);
    for connections in OTHERS {
        case("floor: an empty call of tonic's server", connections, floor);
        case("an empty call on connections of ours", connections, bare);
        case("ConsumeQuota, two limits", connections, consume_two);
    }
    for number in 0..=ROUNDS {
        for case in &mut cases {
            let before = serving();
            // Once for nothing: every key is verified, every lease granted, every buffer has its size.
            let most = if number == 0 { Duration::from_millis(500) } else { round() };
            let outcome = load(clock, case.targets, case.connections, Pace::Closed, most)?;
            if number > 0 {
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

async fn decide_naively(clock: &Clock, superuser: PgConnectOptions) -> Result<[Naive; 2], Failure> {
    let pool = naive::prepare(superuser).await?;
    let mut found = [Naive::new("naive: UPDATE of one row"), Naive::new("naive: UPDATE of a thousand rows")];
    for number in 0..=ROUNDS {
        for (naive, rows) in found.iter_mut().zip([1, 1000]) {
            let outcome = naive::measure(clock, &pool, rows, round()).await?;
            if number > 0 {
                naive.add(outcome);
            }
        }
    }
    pool.close().await;
    Ok(found)
}
