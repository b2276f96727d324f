//! Calls over the wire from as many threads as there are cores, and what they cost the threads that serve.

use std::sync::Arc;
use std::time::Duration;

use tenancy::clock::Clock;

use crate::floor;
use crate::support::latencies::Latencies;
use crate::support::load::{Outcome, Pace, run};
use crate::support::{Failure, cpu, report};
use crate::wire::{self, Stream, Target};

/// How many requests are in flight on each connection.
pub const STREAMS: usize = 50;
/// Rounds of each case; the one in the middle counts.
pub const ROUNDS: usize = 5;

/// How long a round takes: shorter to try something.
pub fn round() -> Duration {
    let seconds = std::env::var("TENANCY_BENCH_ROUND").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(2.0))
}

/// The processor time of the serving threads so far, the floors' among them: only one of them is called at a time.
pub fn serving() -> Duration {
    let all = [floor::NAME, floor::BARE, "serve-"].into_iter();
    all.flat_map(|name| (0..report::cores()).filter_map(move |number| cpu::threads(&format!("{name}{number}")))).sum()
}

/// The load: on as many threads as there are cores, each with its part of the connections.
pub fn load(
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
        latencies += &outcome.latencies;
    }
    let took = outcomes.iter().map(|outcome| outcome.took).max().unwrap_or_default();
    Ok(Outcome::new(outcomes.iter().map(|outcome| outcome.done).sum(), took, latencies))
}

/// The figure in the middle.
pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
