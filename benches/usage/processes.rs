//! What the processes take: Postgres's processor time, our memory.

use std::path::Path;
use std::time::Duration;

use crate::support::cpu::{is_named, spent, threads};

/// The processor time that the processes of this name have had so far whose parent's parent we are: Postgres's own.
pub fn grandchildren(name: &str) -> Duration {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|process| process.path());
    let named = processes.filter(|process| is_named(process, name));
    let ours = named.filter(|process| {
        let between = parent(process).map(|id| Path::new("/proc").join(id));
        between.and_then(|path| parent(&path)).is_some_and(|id| id == std::process::id().to_string())
    });
    ours.filter_map(|process| spent(&process)).sum()
}

fn parent(process: &Path) -> Option<String> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // After the name, which may hold anything: state, parent.
    stat.rsplit_once(") ")?.1.split(' ').nth(1).map(ToOwned::to_owned)
}

/// The memory that this process has resident, in megabytes.
pub fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

/// The processor time of everybody so far, in the order of [`PARTS`].
pub fn spent_by_part() -> [Duration; 4] {
    let ours = |names: &[&str]| names.iter().filter_map(|name| threads(name)).sum();
    // Threads are named by their first 15 bytes.
    [
        ours(&["load"]),
        ours(&["serve-0", "serve-1", "serve-2", "serve-3"]),
        ours(&["tokio-rt-worker"]),
        grandchildren("postgres"),
    ]
}

/// Who shares the machine: the load, the serving threads, the writers and workers, Postgres.
pub const PARTS: [&str; 4] = ["load", "serve", "write", "Postgres"];
