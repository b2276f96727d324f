//! What is asked when, and what goes wrong meanwhile.

use rand::RngExt as _;

use super::check::{MILLI, SECOND};
use super::replica::{State, Waiting};
use super::scenario::terms;
use super::world::{Event, World};
use crate::quota::decision::Mode;

impl World {
    /// Some time of asking, and then a time without.
    pub fn phase(&mut self, number: usize) {
        if number == self.scenario.phases {
            // Troubles are over by then.
            return self.after(SECOND, Event::LeaveAll);
        }
        let length = match self.rng.random_range(0..4) {
            0 => self.random(10 * MILLI, 300 * MILLI),
            1 | 2 => self.random(300 * MILLI, 5 * SECOND),
            _ => self.random(5 * SECOND, 90 * SECOND),
        };
        for _ in 0..self.scenario.asks {
            let (replica, waiting) = self.any_ask();
            let wait = self.random(0, length);
            self.after(wait, Event::Ask(replica, waiting));
        }
        let scatter = |world: &mut Self, count: usize, event: Event| {
            for _ in 0..count {
                let wait = world.random(0, length);
                world.after(wait, event.clone());
            }
        };
        let (troubles, changes) = (self.scenario.troubles, self.scenario.changes);
        let troubles = self.rng.random_range(0..=troubles);
        scatter(self, troubles, Event::Trouble);
        let changes = self.rng.random_range(0..=changes);
        scatter(self, changes, Event::ChangeLimit);
        let corrections = if self.scenario.corrections > 0.0 { self.scenario.asks / 6 } else { 0 };
        scatter(self, corrections, Event::Correct);
        let wait = self.until_next_phase(length);
        self.after(wait, Event::Phase(number + 1));
    }

    fn any_ask(&mut self) -> (usize, Waiting) {
        let replica = self.rng.random_range(0..self.replicas.len());
        let amount = match self.rng.random_range(0..10) {
            0..6 => 1,
            6..9 => self.rng.random_range(2..6),
            _ => self.rng.random_range(0..60),
        };
        let mode = match self.rng.random_range(0..10) {
            0..7 => Mode::All,
            7..9 => Mode::BestEffort,
            _ => Mode::Check,
        };
        let odds = self.scenario.corrections;
        let repents = odds > 0.0 && self.rng.random_bool(odds);
        (replica, Waiting { amount, mode, since: None, repents })
    }

    /// Often just before a window turns.
    fn until_next_phase(&mut self, length: i64) -> i64 {
        let account = self.rng.random_range(0..self.records.len());
        let record = &self.records[account];
        let (end, rolling) = (self.now + length, record.rolling());
        let turn = record.next_turn(end).filter(|turn| *turn > end);
        match (self.rng.random_range(0..4), turn) {
            (0 | 1, Some(turn)) => (turn - self.now - self.random(-SECOND / 2, 2 * SECOND)).max(length),
            (2, _) => length + self.random(0, rolling.unwrap_or(100 * SECOND)),
            _ => length + self.random(0, 20 * SECOND),
        }
    }

    pub fn change_limit(&mut self) {
        let account = self.rng.random_range(0..self.records.len());
        let window = self.keys[account].window;
        let mut new = terms(&mut self.rng, window);
        // Mostly only the amount changes.
        if self.rng.random_bool(0.6) {
            let old = self.records[account].truth.last().unwrap().1.clone();
            new = crate::model::limit::Terms { amount: new.amount, ..old };
        }
        self.trace(|| format!("a{account} {window:?} changes to {new:?}"));
        self.records[account].truth.push((self.now, new));
        for replica in 0..self.replicas.len() {
            // The change log is read each half second.
            let (wait, incarnation) = (self.random(0, SECOND), self.replicas[replica].incarnation);
            self.after(wait, Event::Policy(replica, incarnation));
        }
    }

    pub fn trouble(&mut self) {
        let replica = self.rng.random_range(0..self.replicas.len());
        let long = 3 * self.scenario.lifetime;
        let long = match self.rng.random_range(0..3) {
            0 => self.random(MILLI, SECOND),
            1 => self.random(SECOND, 10 * SECOND),
            _ => self.random(SECOND, long),
        };
        let until = self.now + long;
        let trouble = self.rng.random_range(0..6);
        self.trace(|| format!("r{replica} trouble {trouble} for {long}"));
        match trouble {
            0 => self.outage_until = until,
            1 => self.replicas[replica].cut_until = until,
            2 | 3 => self.replicas[replica].paused_until = until,
            4 if self.replicas[replica].state == State::Up => self.crash(replica),
            5 if self.replicas[replica].state == State::Up => {
                self.leave(replica);
                self.after(long.min(10 * SECOND), Event::Start(replica));
            }
            _ => {}
        }
    }
}
