//! A replica: its book, its clock, what it knows, and who waits.

use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::check::{MILLI, SECOND};
use super::world::{Event, World};
use crate::quota::book::Book;
use crate::quota::decision::{Applied, Charge, Mode};
use crate::quota::ledger::{Answer, Request};

#[derive(Debug)]
pub struct Replica {
    pub id: Uuid,
    pub incarnation: u64,
    pub state: State,
    pub book: Book,
    /// What its clock said at `base`, and by how many millionths it is fast.
    offset: i64,
    base: i64,
    fast: i64,
    pub paused_until: i64,
    pub cut_until: i64,
    pub known: Vec<Arc<Applied>>,
    pub as_of: i64,
    /// When it last could hear of changes.
    pub heard: i64,
    /// By account, the number of the question that is under way.
    asking: Vec<Option<u64>>,
    pub waiting: Vec<Waiting>,
    /// When they are woken at the latest.
    pub wake_at: i64,
    pub is_sweeping: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Up,
    Leaving,
    Down,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub amount: u64,
    pub mode: Mode,
    /// When it asked first.
    pub since: Option<i64>,
    /// It will put back what it is given.
    pub repents: bool,
}

/// A message to the database.
#[derive(Clone, Debug)]
pub struct Question {
    pub replica: usize,
    pub incarnation: u64,
    pub account: usize,
    pub sent_at: i64,
    pub sent: i64,
    pub request: Request,
}

impl Replica {
    pub fn new(rng: &mut StdRng, base: i64, accounts: usize) -> Self {
        Self {
            id: Uuid::from_u128(rng.random()),
            incarnation: 0,
            state: State::Down,
            book: Book::default(),
            offset: if rng.random_bool(0.5) { 0 } else { rng.random_range(1..1_000_000 * SECOND) },
            base,
            fast: rng.random_range(-200..=200),
            paused_until: 0,
            cut_until: 0,
            known: Vec::new(),
            as_of: 0,
            heard: 0,
            asking: vec![None; accounts],
            waiting: Vec::new(),
            wake_at: i64::MAX,
            is_sweeping: false,
        }
    }

    pub fn tick(&self, now: i64) -> i64 {
        let passed = now - self.base;
        self.offset + passed + passed * self.fast / 1_000_000
    }

    /// How long until its clock says so, and a little more.
    pub fn until(&self, now: i64, tick: i64) -> i64 {
        let wait = (tick - self.tick(now)).max(0);
        wait + wait / 4_000 + 10
    }
}

impl World {
    /// A new process, on some machine, under a new id.
    pub fn start(&mut self, replica: usize) {
        if self.is_cut(replica) {
            let wait = self.random(MILLI, SECOND);
            return self.after(wait, Event::Start(replica));
        }
        let before = &self.replicas[replica];
        let (incarnation, cut_until) = (before.incarnation + 1, before.cut_until);
        let fresh = Replica::new(&mut self.rng, self.now, self.keys.len());
        self.replicas[replica] =
            Replica { incarnation, cut_until, state: State::Up, known: self.policy(), as_of: self.now, ..fresh };
        self.trace(|| format!("r{replica} starts: {:?}", self.replicas[replica]));
    }

    pub fn crash(&mut self, replica: usize) {
        let who = &mut self.replicas[replica];
        // Messages to it are for an incarnation that is no more.
        (who.incarnation, who.state) = (who.incarnation + 1, State::Down);
        who.waiting.clear();
        let wait = self.random(MILLI, 5 * SECOND);
        self.after(wait, Event::Start(replica));
    }

    /// Tells and asks the ledger about an account, unless it is being asked.
    pub fn send(&mut self, replica: usize, account: usize) {
        let (now, key) = (self.now, self.keys[account]);
        let who = &mut self.replicas[replica];
        let (tick, id, leave) = (who.tick(now), who.id, who.state == State::Leaving);
        let Some(request) = who.book.question(tick, id, &key, leave) else { return };
        who.asking[account] = Some(request.sequence);
        let question = Question { replica, incarnation: who.incarnation, account, sent_at: now, sent: tick, request };
        let timeout = self.scenario.timeout;
        if self.is_cut(replica) {
            // Some failures are seen at once, some are not.
            let wait = if self.rng.random_bool(0.5) { self.random(100, 10 * MILLI) } else { timeout };
            return self.after(wait, Event::GiveUp(question));
        }
        self.after(timeout, Event::GiveUp(question.clone()));
        if !self.is_lost() {
            let delay = self.random(100, self.scenario.delay);
            self.after(delay, Event::Arrive(question));
        } else if self.rng.random_bool(0.5) {
            let late = self.random(0, 10 * SECOND);
            self.after(timeout + late, Event::Arrive(question));
        }
    }

    pub fn reply(&mut self, question: Question, ledger: i64, answer: Answer) {
        let Question { replica, account, sent, request, .. } = question;
        let (now, key) = (self.now, self.keys[account]);
        let who = &mut self.replicas[replica];
        if who.asking[account] != Some(request.sequence) {
            // It was given up.
            return;
        }
        who.asking[account] = None;
        let tick = who.tick(now);
        let consequence = who.book.answered(&key, (sent, tick), ledger, &request, &answer);
        self.trace(|| format!("r{replica} a{account} heard {consequence:?}"));
        if consequence.again {
            self.send(replica, account);
        }
        if consequence.recall {
            for other in (0..self.replicas.len()).filter(|other| *other != replica) {
                if !self.is_lost() {
                    let (delay, incarnation) = (self.random(300, 5 * MILLI), self.replicas[other].incarnation);
                    self.after(delay, Event::Recall(other, incarnation, account));
                }
            }
        }
        self.retry(replica);
        self.leave_further(replica);
    }

    pub fn give_up(&mut self, question: &Question) {
        let (now, account, replica) = (self.now, question.account, question.replica);
        let who = &mut self.replicas[replica];
        if who.asking[account] != Some(question.request.sequence) {
            return;
        }
        who.asking[account] = None;
        let tick = who.tick(now);
        who.book.failed(&self.keys[account], tick);
        self.trace(|| format!("r{replica} a{account} gives up"));
        self.retry(replica);
    }

    pub fn recalled(&mut self, replica: usize, account: usize) {
        let (now, key) = (self.now, self.keys[account]);
        let who = &mut self.replicas[replica];
        let tick = who.tick(now);
        if who.book.recall(&key, tick) {
            self.trace(|| format!("r{replica} a{account} hands back"));
            self.send(replica, account);
        }
    }

    pub fn sweep(&mut self, replica: usize) {
        let who = &mut self.replicas[replica];
        if who.book.is_empty() && who.waiting.is_empty() {
            who.is_sweeping = false;
            return;
        }
        let (tick, incarnation) = (who.tick(self.now), who.incarnation);
        let due = who.book.due(tick, who.state == State::Leaving, 0).0;
        for account in 0..self.keys.len() {
            if due.contains(&self.keys[account]) {
                self.send(replica, account);
            }
        }
        self.after(SECOND, Event::Sweep(replica, incarnation));
        self.leave_further(replica);
    }

    /// Shuts down in order.
    pub fn leave(&mut self, replica: usize) {
        let who = &mut self.replicas[replica];
        if who.state == State::Up {
            who.state = State::Leaving;
            who.waiting.clear();
            for account in 0..self.keys.len() {
                self.send(replica, account);
            }
            self.leave_further(replica);
        }
    }

    fn leave_further(&mut self, replica: usize) {
        let who = &mut self.replicas[replica];
        if who.state == State::Leaving && who.book.is_empty() {
            (who.state, who.incarnation) = (State::Down, who.incarnation + 1);
            self.trace(|| format!("r{replica} has left"));
        }
    }

    pub fn read_policy(&mut self, replica: usize) {
        let (now, policy) = (self.now, self.policy());
        if self.is_cut(replica) {
            let (wait, incarnation) = (self.random(0, SECOND / 2), self.replicas[replica].incarnation);
            return self.after(wait, Event::Policy(replica, incarnation));
        }
        let who = &mut self.replicas[replica];
        // Its counters learn with the next decision.
        (who.known, who.as_of) = (policy, now);
        self.retry(replica);
    }

    pub fn put_back(&mut self, replica: usize, charges: &[(usize, usize)]) {
        let mut given = Vec::new();
        for (account, place) in charges {
            let admission = &mut self.records[*account].admissions[*place];
            admission.is_unsettled = false;
            let amount = std::mem::take(&mut admission.amount);
            given.push(Charge { account: self.keys[*account], slot: admission.slot, amount });
        }
        self.trace(|| format!("r{replica} puts back {given:?}"));
        self.replicas[replica].book.put_back(&given);
    }
}
