//! A control: how late the machine alone makes whoever sleeps, or syncs a file, while a load runs, and what its host took of
//! its processors. What a load waits for beyond that is the service's.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tenancy::clock::Clock;

use crate::support::latencies::Latencies;
use crate::support::{Failure, report};

/// How long the sleeper sleeps at a time.
const SLEEP: Duration = Duration::from_millis(1);
/// How often a page is synced: seldom beside what a load syncs.
const SYNC: Duration = Duration::from_millis(20);
/// What is synced, a page of a commit, at a place that was written before: so is the log of a database.
const PAGE: [u8; 8192] = [1; 8192];
const PAGES: u64 = 512;

/// The control at work.
#[derive(Debug)]
pub struct Control {
    began: Instant,
    unused: [Duration; 2],
    stop: Arc<AtomicBool>,
    sleeper: JoinHandle<Latencies>,
    syncer: JoinHandle<Result<Latencies, std::io::Error>>,
}

/// What it saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of a sleep of one millisecond.
    pub sleep: Latencies,
    /// Of the sync of a page, where the temporary files are and so the bench's Postgres.
    pub sync: Latencies,
    /// The part of all processor time that the host gave to others. A thread that it holds up holds up whoever waits for it.
    pub stolen: f64,
    /// The part of it that nobody wanted.
    pub idle: f64,
}

impl Control {
    /// Begins.
    pub fn start(clock: &Clock) -> Result<Self, Failure> {
        let mut file = tempfile::tempfile()?;
        for _ in 0..PAGES {
            file.write_all(&PAGE)?;
        }
        file.sync_all()?;
        let stop = Arc::new(AtomicBool::new(false));
        let named = || thread::Builder::new().name("control".into());
        let (time, ended) = (clock.clone(), Arc::clone(&stop));
        let sleeper = named().spawn(move || sleep(&time, &ended))?;
        let (time, ended) = (clock.clone(), Arc::clone(&stop));
        let syncer = named().spawn(move || sync(&time, &file, &ended))?;
        let unused = unused().unwrap_or_default();
        Ok(Self { began: clock.instant(), unused, stop, sleeper, syncer })
    }

    /// Ends.
    pub fn stop(self, clock: &Clock) -> Result<Seen, Failure> {
        let all = (clock.instant() - self.began).as_secs_f64() * f64::from(u32::try_from(report::cores())?);
        let [idle_before, stolen_before] = self.unused;
        let [idle, stolen] = unused().unwrap_or_default();
        let part = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / all;
        self.stop.store(true, Ordering::Relaxed);
        let sleep = self.sleeper.join().map_err(|_| "the sleeper panicked")?;
        let sync = self.syncer.join().map_err(|_| "the syncer panicked")??;
        Ok(Seen { sleep, sync, stolen: part(stolen, stolen_before), idle: part(idle, idle_before) })
    }
}

fn sleep(clock: &Clock, stop: &AtomicBool) -> Latencies {
    let mut latencies = Latencies::default();
    while !stop.load(Ordering::Relaxed) {
        let began = clock.instant();
        thread::sleep(SLEEP);
        latencies.add(clock.instant() - began);
    }
    latencies
}

/// Counts from when each was due, as the load does: a long one is as bad for all that should have begun meanwhile.
fn sync(clock: &Clock, file: &File, stop: &AtomicBool) -> Result<Latencies, std::io::Error> {
    let mut latencies = Latencies::default();
    let mut due = clock.instant();
    for page in (0..PAGES).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(due.saturating_duration_since(clock.instant()));
        // Where it is not late, the timer's own lateness is not the disk's.
        let began = if clock.instant() > due + SYNC { due } else { clock.instant() };
        file.write_all_at(&PAGE, page * PAGE.len() as u64)?;
        file.sync_data()?;
        latencies.add(clock.instant() - began);
        due += SYNC;
    }
    Ok(latencies)
}

/// The processor time that our processors together have been idle so far, and that the host has given to others while we
/// wanted it.
fn unused() -> Option<[Duration; 2]> {
    /// A hundredth of a second, wherever Linux tells of them.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    // After "cpu": user, nice, system, idle, iowait, irq, softirq, steal.
    let ticks: Vec<u32> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|ticks| ticks.parse().ok()).collect();
    Some([TICK * (ticks.get(3)? + ticks.get(4)?), TICK * *ticks.get(7)?])
}
