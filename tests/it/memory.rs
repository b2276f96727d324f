//! What the process keeps in memory does not grow with what it has done.

use std::time::Duration;

use crate::harness::World;

/// Values of eight bytes that a histogram is told at a time, and how often.
const VALUES: u64 = 8_000_000;
const ROUNDS: u64 = 6;
/// Between them, longer than from one adding up to the next.
const PAUSE: Duration = Duration::from_secs(3);

/// What this process has resident, in bytes. The other tests are part of it, so what is told is much more than they need.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_histograms_are_told_is_not_kept_until_somebody_asks() {
    let _world = World::start().await;
    let told = metrics::histogram!("tenancy_test_seconds");
    let before = resident();
    for _ in 0..ROUNDS {
        (0..VALUES).for_each(|_| told.record(0.01));
        tokio::time::sleep(PAUSE).await;
    }
    let (more, all) = (resident().saturating_sub(before), ROUNDS * VALUES * 8);
    assert!(more < all * 2 / 3, "{more} bytes more, of {all} that histograms were told");
}
