//! The outcome, for people and for programs.

use serde_json::{Value, json};

use crate::control::Seen;
use crate::processes::PARTS;
use crate::support::load::Outcome;
use crate::support::{Failure, report};
use crate::{CALLERS, Measured, NAIVE_CALLS, TENANTS};

/// The latencies that are shown: so many of a thousand did not exceed them.
const SHOWN: [u64; 3] = [500, 990, 999];

/// Prints the tables and writes `target/bench-usage.json`.
pub fn tell(
    limits: &[Outcome],
    naive: &[Outcome],
    served: &[Outcome],
    kinds: &[(&str, &[Measured])],
) -> Result<(), Failure> {
    let rates = |outcomes: &[Outcome]| outcomes.iter().map(Outcome::rate).collect::<Vec<f64>>();
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / f64::from(u32::try_from(rates.len()).unwrap_or(1));
    let (limit_rates, naive_rates, served_rates) = (rates(limits), rates(naive), rates(served));
    let (limit, single) = (mean(&limit_rates), mean(&naive_rates));

    let figures = |rate: f64, outcome: Option<&Outcome>| {
        let latency = |per_mille| outcome.map_or("-".into(), |outcome| format!("{:.2}", outcome.latency_ms(per_mille)));
        let rates = [format!("{rate:.0}"), format!("{:.2}", rate / limit), format!("{:.2}", rate / single)];
        [rates.to_vec(), vec![latency(500), latency(990), latency(999)]].concat()
    };
    let plain = |name: &str, rate: f64, outcome: Option<&Outcome>| {
        [vec![name.to_owned()], figures(rate, outcome), vec!["-".into(); PARTS.len() + 1]].concat()
    };
    let row = |what: &str, measured: &Measured| {
        let micros = measured.micros.map(|micros| format!("{micros:.1}")).to_vec();
        let memory = measured.resident.map(|megabytes| format!("{megabytes:.0}")).join(" > ");
        let name = vec![format!("{what} {}", measured.case.name())];
        [name, figures(measured.outcome.rate(), Some(&measured.outcome)), micros, vec![memory]].concat()
    };
    let mut rows = vec![
        plain("(a) COPY, 1 connection, no aggregates", limit, None),
        plain("(d) INSERT a transaction, 32 connections", single, naive.last()),
        plain(&format!("(d) behind gRPC {}", NAIVE_CALLS.name()), mean(&served_rates), served.last()),
    ];
    for (what, all) in kinds {
        rows.extend(all.iter().map(|measured| row(what, measured)));
    }
    println!("\n{} cores, {TENANTS} tenants; load and service in one process.", report::cores());
    println!(
        "Events of a request x connections x requests at a time on each, of which (c) counts the time between two \
         acknowledgements, and else the latency is given; processor time in us an event. Half of a load comes from {CALLERS} \
         times as many callers."
    );
    let columns = ["", "events/s", "of (a)", "of (d)", "p50 ms", "p99 ms", "p999 ms"];
    report::table(&[&columns[..], &PARTS, &["RSS MB"]].concat(), &rows);

    let mut controls = Vec::new();
    for (what, measured) in kinds.iter().flat_map(|(what, all)| all.iter().map(move |measured| (what, measured))) {
        let Some(Seen { sleep, sync, stolen, idle }) = &measured.control else { continue };
        let mut row = vec![format!("{what} {}", measured.case.name()), format!("{:.0} %", idle * 100.0)];
        row.push(format!("{:.1} %", stolen * 100.0));
        row.extend([sleep, sync].iter().flat_map(|seen| SHOWN.map(|per_mille| format!("{:.2}", seen.ms(per_mille)))));
        controls.push(row);
    }
    println!(
        "What the machine alone did meanwhile: the processor time that was idle, and that its host took, a \
         sleep of 1 ms, and the write and sync of a page of 8 KB, in ms."
    );
    report::table(&["beside", "idle", "stolen", "sleep p50", "p99", "p999", "sync p50", "p99", "p999"], &controls);

    let case = |measured: &Measured| -> Value {
        let outcome = &measured.outcome;
        json!({
            "batch": measured.case.events, "connections": measured.case.connections, "streams": measured.case.streams,
            "events_per_second": outcome.rate(), "of_copy": outcome.rate() / limit, "of_naive": outcome.rate() / single,
            "p50_ms": outcome.latency_ms(500), "p99_ms": outcome.latency_ms(990), "p999_ms": outcome.latency_ms(999),
            "cpu_us_per_event": PARTS.into_iter().zip(measured.micros).collect::<std::collections::BTreeMap<_, _>>(),
            "resident_mb": measured.resident,
            "control_idle": measured.control.as_ref().map(|seen| seen.idle),
            "control_stolen": measured.control.as_ref().map(|seen| seen.stolen),
            "control_sleep_ms": measured.control.as_ref().map(|seen| SHOWN.map(|per_mille| seen.sleep.ms(per_mille))),
            "control_sync_ms": measured.control.as_ref().map(|seen| SHOWN.map(|per_mille| seen.sync.ms(per_mille))),
        })
    };
    let cases: std::collections::BTreeMap<_, Vec<_>> =
        kinds.iter().map(|(what, all)| (*what, all.iter().map(case).collect())).collect();
    let report = json!({
        "cores": report::cores(), "tenants": TENANTS,
        "copy_events_per_second": limit_rates, "naive_events_per_second": naive_rates,
        "naive_calls_per_second": served_rates,
        "cases": cases,
    });
    report::json("usage", &report)
}
