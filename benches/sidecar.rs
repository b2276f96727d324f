//! `cargo bench --bench sidecar`: what it costs to answer an Envoy, beside a call that does nothing; and whether one hop
//! that authenticates and reserves is cheaper than the two calls that do the same. In one run, with the same client,
//! connections and streams.
//!
//! - floor: an empty call of tonic's own server without a layer, on as many threads with a runtime each as the service has;
//!   and the same call on connections that are served as the service's are.
//! - layers: an empty call through the service's own layers, without a key.
//! - the rest: with the key of a sidecar, about requests with 25 headers of 16 tenants; all of it from memory.
//!
//! Rounds alternate, and the median of each counts. What counts is the processor time of the serving threads per call:
//! the service, its Postgres and the load share the cores.

mod support;

#[path = "quota/calls.rs"]
mod calls;
#[path = "quota/floor.rs"]
mod floor;
#[path = "sidecar/setup.rs"]
mod setup;
#[path = "quota/wire.rs"]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tenancy::clock::Clock;

use crate::calls::{ROUNDS, STREAMS, load, median, round, serving};
use crate::setup::Targets;
use crate::support::latencies::Latencies;
use crate::support::load::{Outcome, Pace};
use crate::support::server::Server;
use crate::support::{Failure, report};
use crate::wire::Target;

const CONNECTIONS: usize = 4;

/// A case: its name, what is called, and of each round the outcome and the processor time of a call in microseconds.
type Case<'a> = (&'static str, &'a [Arc<Target>], Vec<(Outcome, f64)>);

fn main() -> Result<(), Failure> {
    let floors = [floor::serve(report::cores())?, floor::serve_bare(report::cores())?];
    let (server, _) = Server::start(&[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let targets = runtime.block_on(setup::targets(&server, floors))?;
    drop(runtime);
    let cases = measure(&server.clock, &targets)?;
    let halved = halved(&server.clock, &targets, &cases)?;
    server.stop()?;
    tell(&cases, &halved)
}

fn measure<'a>(clock: &Clock, targets: &'a Targets) -> Result<Vec<Case<'a>>, Failure> {
    let Targets { floor, bare, layers, limited, check, metered, settled, verify, reserve } = targets;
    let mut cases: Vec<Case<'_>> = [
        ("floor: an empty call of tonic's server", floor),
        ("an empty call on connections of ours", bare),
        ("an empty call through the layers", layers),
        ("ShouldRateLimit, a tenant's meter", limited),
        ("Check, 25 headers", check),
        ("Check with a meter of two limits", metered),
        ("Check with a meter, reserved: one hop", settled),
        ("VerifyApiKey", verify),
        ("ReserveQuota", reserve),
    ]
    .map(|(name, targets)| (name, targets.as_slice(), Vec::new()))
    .into();
    for number in 0..=ROUNDS {
        for (_, targets, rounds) in &mut cases {
            // Once for nothing: every key is verified, every lease granted, every buffer has its size.
            let most = if number == 0 { Duration::from_millis(500) } else { round() };
            let before = serving();
            let outcome = load(clock, targets, CONNECTIONS, Pace::Closed, most)?;
            let spent = serving().saturating_sub(before);
            if number > 0 {
                #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
                let micros = spent.as_secs_f64() * 1e6 / outcome.done.max(1) as f64;
                rounds.push((outcome, micros));
            }
        }
    }
    Ok(cases)
}

/// The latencies of the one hop when the service is neither idle nor overrun: at half of what it can do.
fn halved(clock: &Clock, targets: &Targets, cases: &[Case<'_>]) -> Result<Latencies, Failure> {
    let (_, _, rounds) = cases.iter().find(|(name, ..)| name.ends_with("one hop")).ok_or("no such case")?;
    let rate = median(rounds.iter().map(|(outcome, _)| outcome.rate()));
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let interval = Duration::from_secs_f64(2.0 * (CONNECTIONS * STREAMS) as f64 / rate);
    Ok(load(clock, &targets.settled, CONNECTIONS, Pace::Every(interval), Duration::from_secs(5))?.latencies)
}

fn tell(cases: &[Case<'_>], halved: &Latencies) -> Result<(), Failure> {
    let micros = |(_, _, rounds): &Case<'_>| median(rounds.iter().map(|(_, micros)| *micros));
    let floor = cases.first().map(micros).ok_or("no case")?;
    let (mut rows, mut told) = (Vec::new(), Vec::new());
    for case in cases {
        let (name, _, rounds) = case;
        let rate = median(rounds.iter().map(|(outcome, _)| outcome.rate()));
        let p99 = median(rounds.iter().map(|(outcome, _)| outcome.latency_ms(990)));
        let cpu = micros(case);
        rows.push(vec![
            (*name).to_owned(),
            format!("{rate:.0}"),
            format!("{cpu:.1}"),
            format!("{:.2}", cpu / floor),
            format!("{p99:.2}"),
        ]);
        told.push(json!({ "case": name, "per_second": rate, "cpu_us": cpu, "of_floor": cpu / floor, "p99_ms": p99 }));
    }
    report::table(&["", "requests/s", "server CPU us", "of the floor", "p99 ms"], &rows);
    let [.., one_hop, verify, reserve] = cases else { return Err("no such cases".into()) };
    let (one, two) = (micros(one_hop), micros(verify) + micros(reserve));
    println!("one hop: {one:.1} us; two: {two:.1} us; {:.2} of it", one / two);
    let [p50, p99] = [500, 990].map(|per_mille| halved.ms(per_mille));
    println!("one hop at half of its load: p50 {p50:.2} ms, p99 {p99:.2} ms");
    let hops = json!({ "one_us": one, "two_us": two, "one_of_two": one / two, "half_load_p99_ms": p99 });
    report::json("sidecar", &json!({ "cores": report::cores(), "cases": told, "hops": hops }))
}
