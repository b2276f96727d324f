//! What a seed stands for: how many replicas, which limits, and what goes wrong.

use chrono_tz::{Asia, Tz};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::check::{MILLI, SECOND};
use crate::model::limit::{Enforcement, Fallback, Terms, Unit, Window};

/// Midnight of the first of March 2026.
const MARCH: i64 = 1_772_323_200 * SECOND;

#[derive(Clone, Debug)]
pub struct Scenario {
    /// Nothing goes wrong.
    pub healthy: bool,
    pub replicas: usize,
    pub lifetime: i64,
    pub zone: Tz,
    pub ahead: i64,
    pub start: i64,
    pub limits: Vec<(Window, Terms)>,
    pub phases: usize,
    /// In each phase.
    pub asks: usize,
    /// The longest way of a message.
    pub delay: i64,
    pub lock_wait: i64,
    pub timeout: i64,
    /// How often a message is lost, or comes after its sender gave up.
    pub losses: f64,
    /// How many things go wrong in a phase, at the most.
    pub troubles: usize,
    /// How many limits are changed in a phase, at the most.
    pub changes: usize,
    /// How often what was consumed is corrected or put back.
    pub corrections: f64,
}

impl Scenario {
    /// Anything may go wrong.
    pub fn of_seed(seed: u64) -> (Self, StdRng) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (zone, ahead) = if rng.random_bool(0.7) { (Tz::UTC, 0) } else { (Asia::Kolkata, 19_800) };
        let healthy = rng.random_bool(0.2);
        let count = if rng.random_bool(0.4) { 2 } else { 1 };
        let limits: Vec<_> = (0..count)
            .map(|_| {
                let window = window(&mut rng);
                (window, terms(&mut rng, window))
            })
            .collect();
        let often = |rng: &mut StdRng, odds: f64, most: usize| {
            if !healthy && rng.random_bool(odds) { rng.random_range(1..=most) } else { 0 }
        };
        let scenario = Self {
            healthy,
            replicas: rng.random_range(1..=5),
            lifetime: rng.random_range(5..=60) * SECOND,
            zone,
            ahead,
            start: MARCH + rng.random_range(0..365 * 86_400) * SECOND + rng.random_range(0..SECOND),
            limits,
            phases: rng.random_range(2..=5),
            asks: rng.random_range(10..=60),
            delay: if healthy { 5 * MILLI } else { *[5, 5, 50, 400].choose(&mut rng).unwrap() * MILLI },
            lock_wait: if healthy { 2 * MILLI } else { *[2, 100, 1500].choose(&mut rng).unwrap() * MILLI },
            timeout: if healthy { SECOND } else { *[100, 500, 2000].choose(&mut rng).unwrap() * MILLI },
            losses: if healthy || rng.random_bool(0.3) { 0.0 } else { *[0.01, 0.1, 0.3].choose(&mut rng).unwrap() },
            troubles: often(&mut rng, 0.7, 3),
            changes: if rng.random_bool(0.4) { rng.random_range(1..=3) } else { 0 },
            corrections: if rng.random_bool(0.5) { 0.15 } else { 0.0 },
        };
        (scenario, rng)
    }

    /// How much older than the truth the knowledge may be that an admission rests on.
    pub const fn stale(&self) -> i64 {
        // The way of a change, and of a question under way that says what was granted before.
        if self.healthy { 2 * SECOND } else { 4 * SECOND + self.lifetime }
    }
}

fn window(rng: &mut StdRng) -> Window {
    let units = [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month];
    match rng.random_range(0..10) {
        0..4 => Window::Calendar(*units.choose(rng).unwrap()),
        4..6 => Window::Rolling(*[Unit::Hour, Unit::Day, Unit::Week].choose(rng).unwrap()),
        6..9 => Window::Rolling(*[Unit::Second, Unit::Minute].choose(rng).unwrap()),
        _ => Window::Lifetime,
    }
}

/// What a limit may say, before or after a change.
pub fn terms(rng: &mut StdRng, window: Window) -> Terms {
    let amount = match rng.random_range(0..20) {
        0 => rng.random_range(0..3),
        1..14 => rng.random_range(3..60),
        14..19 => rng.random_range(60..400),
        _ => 100_000,
    };
    let burst = if window.is_rate() && rng.random_bool(0.4) { rng.random_range(1..=amount.max(1) * 2) } else { 0 };
    let soft = !window.is_rate() && rng.random_bool(0.1);
    Terms {
        amount: (!rng.random_bool(0.02)).then_some(amount),
        burst,
        enforcement: if soft { Enforcement::Soft } else { Enforcement::Hard },
        shadow: rng.random_bool(0.1),
        fallback: match rng.random_range(0..8) {
            0 => Some(Fallback::Admit),
            1 => Some(Fallback::Deny),
            _ => None,
        },
        alert_percents: if rng.random_bool(0.2) { vec![50, 100] } else { Vec::new() },
    }
}
