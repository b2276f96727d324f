//! Where nothing goes wrong: nobody is refused early by more than is stated here, nobody waits, and no unit is lost.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::Again;
use super::check::{MILLI, SECOND};
use super::replica::Waiting;
use super::scenario::Scenario;
use super::world::{Event, World};
use crate::model::limit::{Enforcement, Terms, Unit, Window};
use crate::quota::decision::Mode;

/// A world with one limit, in which all replicas ask for 1 again and again.
fn world(seed: u64, window: Window, amount: u64, burst: u64, replicas: usize) -> World {
    let (scenario, _) = Scenario::of_seed(seed);
    let terms = Terms {
        amount: Some(amount),
        burst,
        enforcement: Enforcement::Hard,
        shadow: false,
        fallback: None,
        alert_percents: Vec::new(),
    };
    let scenario = Scenario {
        healthy: true,
        replicas,
        lifetime: 30 * SECOND,
        // Just after all windows turned.
        start: 1_772_323_200 * SECOND + 5 * MILLI,
        limits: vec![(window, terms)],
        delay: 5 * MILLI,
        lock_wait: 2 * MILLI,
        timeout: SECOND,
        losses: 0.0,
        ..scenario
    };
    World::new(scenario, StdRng::seed_from_u64(seed), super::told("TENANCY_SIMULATION_SEED") == Some(seed))
}

/// Evenly in the given time.
fn ask(world: &mut World, count: u64, length: i64) {
    for number in 0..count {
        let replica = world.random(0, world.replicas.len() as i64 - 1).unsigned_abs() as usize;
        let waiting = Waiting { amount: 1, mode: Mode::All, since: None, repents: false };
        world.after(length * number as i64 / count as i64, Event::Ask(replica, waiting));
    }
}

fn run(world: &mut World, seed: u64) {
    world.run();
    assert_eq!(world.failure, None, "seed {seed}");
}

#[test]
fn units_are_admitted_to_the_last_one_and_none_is_lost() {
    let windows = [
        Window::Calendar(Unit::Minute),
        Window::Calendar(Unit::Day),
        Window::Calendar(Unit::Month),
        Window::Rolling(Unit::Hour),
        Window::Rolling(Unit::Day),
        Window::Lifetime,
    ];
    for seed in 0..120 {
        let _again = Again(seed);
        let window = windows[seed as usize % windows.len()];
        let (amount, replicas) = ([7, 40, 150][seed as usize / 6 % 3], 1 + seed as usize / 18 % 5);
        let mut world = world(seed, window, amount, 0, replicas);
        let length = world.random(4, 50) * SECOND;
        ask(&mut world, amount * 3, length);
        world.after(length + 2 * SECOND, Event::LeaveAll);
        run(&mut world, seed);
        assert!(world.all_left());
        let admitted = world.records[0].admitted(world.now);
        let granted = world.accounts[0].granted(window, world.now);
        let what = format!("seed {seed}: {window:?} by {replicas} in {length}");
        assert_eq!((admitted, granted), (amount, amount), "{what}");
    }
}

#[test]
fn rates_are_admitted_but_for_a_stated_part() {
    for seed in 0..60 {
        let _again = Again(seed);
        let unit = [Unit::Second, Unit::Minute][seed as usize % 2];
        let (amount, replicas) = ([20, 100][seed as usize / 2 % 2], 1 + seed as usize / 4 % 5);
        let burst = if seed % 3 == 2 { amount / 2 } else { 0 };
        let mut world = world(seed, Window::Rolling(unit), amount, burst, replicas);
        let length = world.records[0].rolling().unwrap();
        // Four windows, of which the first one is to settle in.
        ask(&mut world, amount * 12, 4 * length);
        run(&mut world, seed);
        let start = world.scenario.start;
        let admitted = world.records[0].admitted_since(start + length);
        let part = admitted * 1000 / (3 * amount);
        // What was used is forgotten a step of 1/32, and 1/500 for the clocks, after the window; and a share that changes hands
        // is used by nobody meanwhile. Of a bucket, what a share holds is cut to whole units, and is full where nobody asks.
        let least = if burst > 0 { 600 } else { 950 };
        assert!(part >= least, "seed {seed}: {part} of 1000, {unit:?} {amount} burst {burst} by {replicas}");
    }
}
