//! What was measured, as a table and as JSON.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::calls::median;
use crate::memory::Taken;
use crate::support::Failure;
use crate::support::latencies::Latencies;
use crate::support::load::Outcome;
use crate::support::report;
use crate::wire::Target;

/// A case, and its rounds.
#[derive(Debug)]
pub struct Measured<'a> {
    /// What it is.
    pub name: &'static str,
    /// Connections.
    pub connections: usize,
    /// What is called.
    pub targets: &'a [Arc<Target>],
    streams: usize,
    rounds: Vec<(Outcome, f64)>,
}

/// What the naive way did.
#[derive(Debug)]
pub struct Naive {
    name: &'static str,
    rounds: Vec<Outcome>,
}

/// What was measured at half of the load, all rounds together.
#[derive(Debug, Default)]
pub struct Halved {
    done: u64,
    took: Duration,
    latencies: Latencies,
}

impl<'a> Measured<'a> {
    /// A case without a round.
    pub fn new(name: &'static str, connections: usize, streams: usize, targets: &'a [Arc<Target>]) -> Self {
        Self { name, connections, targets, streams, rounds: Vec::new() }
    }

    /// Adds a round, in which the serving threads had so much processor time.
    pub fn add(&mut self, outcome: Outcome, spent: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let micros = spent.as_secs_f64() * 1e6 / outcome.done.max(1) as f64;
        self.rounds.push((outcome, micros));
    }

    /// Requests a second, in the round in the middle.
    pub fn rate(&self) -> f64 {
        median(self.rounds.iter().map(|(outcome, _)| outcome.rate()))
    }

    fn micros(&self) -> f64 {
        median(self.rounds.iter().map(|(_, micros)| *micros))
    }

    fn ms(&self, per_mille: u64) -> f64 {
        median(self.rounds.iter().map(|(outcome, _)| outcome.latency_ms(per_mille)))
    }
}

impl Naive {
    /// Without a round.
    pub const fn new(name: &'static str) -> Self {
        Self { name, rounds: Vec::new() }
    }

    /// Adds a round.
    pub fn add(&mut self, outcome: Outcome) {
        self.rounds.push(outcome);
    }

    fn rate(&self) -> f64 {
        median(self.rounds.iter().map(Outcome::rate))
    }

    fn ms(&self, per_mille: u64) -> f64 {
        median(self.rounds.iter().map(|outcome| outcome.latency_ms(per_mille)))
    }
}

impl Halved {
    /// Adds a round.
    pub fn add(&mut self, outcome: &Outcome) {
        self.done += outcome.done;
        self.took += outcome.took;
        self.latencies += &outcome.latencies;
    }

    fn rate(&self) -> f64 {
        Outcome::new(self.done, self.took, Latencies::default()).rate()
    }
}

/// Tells it.
pub fn tell(
    measured: &[Measured<'_>],
    halved: &[Halved; 2],
    naive: &[Naive; 2],
    memory: &[(&str, Taken)],
) -> Result<(), Failure> {
    let hot = naive[0].rate();
    let mut rows = Vec::new();
    let mut cases = Vec::new();
    for case in measured {
        // The floor with as many connections.
        let floor = measured.iter().find(|other| other.connections == case.connections).ok_or("no floor")?;
        let [rate, micros, p50, p99] = [case.rate(), case.micros(), case.ms(500), case.ms(990)];
        let [of_rate, of_micros, of_p99] = [rate / floor.rate(), micros / floor.micros(), p99 / floor.ms(990)];
        let mut row = vec![case.name.to_owned(), format!("{} x {}", case.connections, case.streams)];
        row.extend([format!("{rate:.0}"), format!("{of_rate:.2}"), format!("{:.1}", rate / hot)]);
        row.extend([format!("{micros:.1}"), format!("{of_micros:.2}")]);
        row.extend([p50, p99, of_p99].map(|figure| format!("{figure:.2}")));
        rows.push(row);
        cases.push(json!({
            "name": case.name, "connections": case.connections, "streams": case.streams,
            "requests_per_second": rate, "of_floor": of_rate, "of_naive": rate / hot,
            "server_cpu_us": micros, "cpu_of_floor": of_micros, "p50_ms": p50, "p99_ms": p99, "p99_of_floor": of_p99,
        }));
    }
    for case in naive {
        let [rate, p50, p99] = [case.rate(), case.ms(500), case.ms(990)];
        let mut row = vec![case.name.to_owned(), "32 x 1".to_owned(), format!("{rate:.0}"), "-".into()];
        row.extend([format!("{:.1}", rate / hot), "-".into(), "-".into(), format!("{p50:.2}"), format!("{p99:.2}")]);
        row.push("-".into());
        rows.push(row);
        cases.push(json!({ "name": case.name, "requests_per_second": rate, "p50_ms": p50, "p99_ms": p99 }));
    }
    println!("\n{} cores; load, service and Postgres on them", report::cores());
    let header = [
        "",
        "in flight",
        "requests/s",
        "of floor",
        "of naive",
        "server us",
        "of floor",
        "p50 ms",
        "p99 ms",
        "of floor",
    ];
    report::table(&header, &rows);
    let half = |(halved, name): (&Halved, &str)| {
        let mut row = vec![name.to_owned(), format!("{:.0}", halved.rate())];
        row.extend([500, 990, 999].map(|per_mille| format!("{:.2}", halved.latencies.ms(per_mille))));
        row
    };
    let named = halved.iter().zip(["floor", "ConsumeQuota, two limits"]);
    let header = ["at half of the load", "requests/s", "p50 ms", "p99 ms", "p999 ms"];
    report::table(&header, &named.map(half).collect::<Vec<_>>());
    for (name, taken) in memory {
        println!("counters of {name}: {taken}");
    }
    let halved = halved.each_ref().map(|halved| json!({ "p99_ms": halved.latencies.ms(990) }));
    let memory: Vec<_> = memory.iter().map(|(_, taken)| taken.sum()).collect();
    let report = json!({ "cores": report::cores(), "cases": cases, "half_load": halved, "counters_mib": memory });
    report::json("quota", &report)
}
