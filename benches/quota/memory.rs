//! What a million counters take, each in a process that does nothing else, so that nothing was there before.

use std::process::Command;
use std::sync::Arc;

use tenancy::ids::OrganizationId;
use tenancy::model::limit::{MOST, SubjectKind, Unit, Window};
use tenancy::quota::decision::{Applied, Mode};
use tenancy::quota::desk::Desks;
use uuid::Uuid;

use crate::held::{Ledger, limit, of};
use crate::support::Failure;

/// In the environment of such a process: organizations, and keys of each.
const ASKED: &str = "TENANCY_BENCH_COUNTERS";

/// How the counters are spread: organizations, and keys of each.
pub const SPREADS: [(u128, u128); 2] = [(1_000, 1_000), (1_000_000, 1)];

/// What they take, in MiB.
pub fn measure((organizations, keys): (u128, u128)) -> Result<f64, Failure> {
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.env(ASKED, format!("{organizations} {keys}")).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().map_err(|_| format!("no figure: {text} {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Measures and prints it, if this is such a process.
pub fn answer() -> Result<bool, Failure> {
    let Ok(asked) = std::env::var(ASKED) else { return Ok(false) };
    let (organizations, keys) = asked.split_once(' ').ok_or("two numbers")?;
    let (organizations, keys): (u128, u128) = (organizations.parse()?, keys.parse()?);
    let month = limit(SubjectKind::ApiKey, Window::Calendar(Unit::Month), MOST);
    let desks = Desks::default();
    let before = resident_kib()?;
    for organization in 0..organizations {
        fill(&desks, Uuid::from_u128(organization).into(), keys, &month)?;
    }
    let grown = resident_kib()? - before;
    let counters: usize = desks.all().iter().map(|desk| desk.lock().book.len()).sum();
    if counters as u128 != organizations * keys {
        return Err(format!("{counters} counters").into());
    }
    println!("{}", grown / 1024.0);
    Ok(true)
}

fn fill(desks: &Desks, organization: OrganizationId, keys: u128, month: &Arc<Applied>) -> Result<(), Failure> {
    let desk = desks.of(organization);
    let mut state = desk.lock();
    let mut ledger = Ledger::default();
    for key in 0..keys {
        let limits = [of(month, Uuid::from_u128(organization.uuid().as_u128() << 64 | key))];
        if !ledger.supply(&mut state.book, &limits, 1, Mode::All) {
            return Err("it was not admitted".into());
        }
        // As it goes through the queue of the exchanger.
        state.queued.insert(limits[0].account);
        state.queued.remove(&limits[0].account);
        if state.queued.is_empty() {
            state.queued.shrink_to_fit();
        }
    }
    Ok(())
}

fn resident_kib() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().strip_suffix("kB").ok_or("another unit")?.trim().parse()?)
}
