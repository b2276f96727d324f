//! A control: how late the machine alone makes whoever sleeps, or syncs a file, while a load runs. What a load waits for
//! beyond that is the service's.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tenancy::clock::Clock;

use crate::support::Failure;
use crate::support::latencies::Latencies;

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
        Ok(Self { stop, sleeper, syncer })
    }

    /// Ends.
    pub fn stop(self) -> Result<Seen, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let sleep = self.sleeper.join().map_err(|_| "the sleeper panicked")?;
        let sync = self.syncer.join().map_err(|_| "the syncer panicked")??;
        Ok(Seen { sleep, sync })
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
