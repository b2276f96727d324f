//! What the process keeps in memory does not grow with what it has done.

use std::time::Duration;

use crate::harness::World;

/// What a histogram is told at a time, how often, and what one value takes as it is kept, in bytes.
const VALUES: u64 = 8_000_000;
const ROUNDS: usize = 6;
const VALUE: u64 = 16;
/// Between them, longer than from one adding up to the next.
const PAUSE: Duration = Duration::from_secs(3);

/// What this process has resident, in bytes; the other tests are part of it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_histograms_are_told_is_not_kept_until_somebody_asks() {
    let _world = World::start().await;
    let told = metrics::histogram!("tenancy_test_seconds");
    let mut grown = [0; ROUNDS];
    for grown in &mut grown {
        let before = resident();
        (0..VALUES).for_each(|_| told.record(0.01));
        tokio::time::sleep(PAUSE).await;
        *grown = resident().saturating_sub(before);
    }
    // What is kept makes it grow in each round; room that was made for the first one, and other tests, in some.
    let least = grown.into_iter().min().unwrap();
    assert!(least < VALUES * VALUE / 2, "bytes more in each round: {grown:?}");
}
