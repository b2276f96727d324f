//! The world: its one true time, what is to happen when, and the database.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::check::{MILLI, Record, SECOND};
use super::replica::{Question, Replica, State, Waiting};
use super::scenario::Scenario;
use crate::ids::{LimitId, MeterId};
use crate::model::limit::{Maker, SubjectKind, Terms};
use crate::quota::decision::{AccountKey, Applied, Change, Source};
use crate::quota::ledger::{Account, Answer, Lifetime};
use crate::quota::slots::{Calendar, slot};

/// More events than any run has: one that does not come to rest has a bug.
const MOST_EVENTS: usize = 200_000;

/// What happens. `usize` first: the replica; its incarnation follows.
#[derive(Clone, Debug)]
pub enum Event {
    Phase(usize),
    Ask(usize, Waiting),
    Retry(usize, u64, i64),
    Sweep(usize, u64),
    Arrive(Question),
    Reply(Question, i64, Answer),
    GiveUp(Question),
    Recall(usize, u64, usize),
    Policy(usize, u64),
    PutBack(usize, u64, Vec<(usize, usize)>),
    Start(usize),
    Trouble,
    ChangeLimit,
    Correct,
    LeaveAll,
}

#[derive(Debug)]
pub struct World {
    pub scenario: Scenario,
    pub rng: StdRng,
    pub now: i64,
    queue: BTreeMap<(i64, u64), Event>,
    count: u64,
    pub keys: Vec<AccountKey>,
    pub accounts: Vec<Account>,
    pub records: Vec<Record>,
    pub replicas: Vec<Replica>,
    /// Until then the database does not answer.
    pub outage_until: i64,
    pub failure: Option<String>,
    pub traced: bool,
    pub tally: Tally,
}

/// What came of the asks.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub admitted: u64,
    pub denied: u64,
    pub waited: u64,
    pub exchanges: u64,
}

impl Tally {
    pub const fn add(&mut self, other: Self) {
        self.admitted += other.admitted;
        self.denied += other.denied;
        self.waited += other.waited;
        self.exchanges += other.exchanges;
    }
}

impl World {
    pub fn new(scenario: Scenario, mut rng: StdRng, traced: bool) -> Self {
        let kinds = [SubjectKind::Organization, SubjectKind::ApiKey];
        let meter_id = MeterId::from(Uuid::from_u128(rng.random()));
        let keys: Vec<_> = scenario
            .limits
            .iter()
            .zip(kinds)
            .map(|((window, _), subject_kind)| AccountKey {
                subject_kind,
                subject_id: Uuid::from_u128(rng.random()),
                meter_id,
                window: *window,
            })
            .collect();
        let start = scenario.start;
        let records = scenario.limits.iter().map(|(window, terms)| Record {
            window: *window,
            ahead: scenario.ahead,
            truth: vec![(i64::MIN, terms.clone())],
            admissions: Vec::new(),
        });
        let mut world = Self {
            records: records.collect(),
            accounts: keys.iter().map(|key| Account::new(key.window)).collect(),
            keys,
            now: start,
            queue: BTreeMap::new(),
            count: 0,
            replicas: Vec::new(),
            outage_until: 0,
            failure: None,
            traced,
            tally: Tally::default(),
            scenario,
            rng,
        };
        for _ in 0..world.scenario.replicas {
            let replica = Replica::new(&mut world.rng, start, world.keys.len());
            world.replicas.push(replica);
        }
        for replica in 0..world.scenario.replicas {
            world.start(replica);
        }
        world
    }

    /// Until nothing happens any more, or something is wrong.
    pub fn run(&mut self) {
        let mut events = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            assert!(at >= self.now);
            self.now = at;
            self.happen(event);
            events += 1;
            if events > MOST_EVENTS {
                self.fail("it does not come to rest".to_owned());
            }
            if self.failure.is_some() {
                return;
            }
        }
    }

    pub fn after(&mut self, wait: i64, event: Event) {
        self.count += 1;
        self.queue.insert((self.now + wait.max(0), self.count), event);
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    pub fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            let past = self.now - self.scenario.start;
            println!("{:>7}.{:06} {}", past / SECOND, past % SECOND, what());
        }
    }

    pub fn random(&mut self, least: i64, most: i64) -> i64 {
        self.rng.random_range(least..=most.max(least))
    }

    fn happen(&mut self, event: Event) {
        // A replica that is paused, or is not there yet, hears of it later, or never.
        if let Some((replica, incarnation)) = event.whom() {
            let who = &self.replicas[replica];
            if incarnation.is_some_and(|incarnation| incarnation != who.incarnation) {
                return;
            }
            if who.paused_until > self.now {
                let wait = who.paused_until - self.now + self.random(0, 20 * MILLI);
                return self.after(wait, event);
            }
        }
        match event {
            Event::Phase(number) => self.phase(number),
            Event::Ask(replica, waiting) => self.ask(replica, waiting),
            Event::Retry(replica, _, at) => self.wake(replica, at),
            Event::Sweep(replica, _) => self.sweep(replica),
            Event::Arrive(question) => self.arrive(question),
            Event::Reply(question, ledger, answer) => self.reply(question, ledger, answer),
            Event::GiveUp(question) => self.give_up(&question),
            Event::Recall(replica, _, account) => self.recalled(replica, account),
            Event::Policy(replica, _) => self.read_policy(replica),
            Event::PutBack(replica, _, charges) => self.put_back(replica, &charges),
            Event::Start(replica) => self.start(replica),
            Event::Trouble => self.trouble(),
            Event::ChangeLimit => self.change_limit(),
            Event::Correct => self.correct(),
            Event::LeaveAll => (0..self.replicas.len()).for_each(|replica| self.leave(replica)),
        }
    }

    /// A question comes to the database, and is answered in one moment: its transaction.
    fn arrive(&mut self, question: Question) {
        if self.is_cut(question.replica) {
            return self.trace(|| format!("lost {:?}", question.request));
        }
        let Question { account, replica, sent_at, .. } = question;
        // The clock of a statement is read before it waits for the lock.
        let waited = self.random(0, self.scenario.lock_wait);
        let now = (self.now - waited).max(sent_at);
        let window = self.keys[account].window;
        let calendar = Calendar { zone: self.scenario.zone, anchor_day: 1 };
        let lifetime = Lifetime(self.scenario.lifetime);
        let (slot, request) = (slot(window, now, calendar), &question.request);
        let answer = self.accounts[account].exchange(window, now, slot, lifetime, request);
        self.tally.exchanges += 1;
        self.trace(|| format!("r{replica} a{account} exchange at -{}: {request:?} -> {answer:?}", self.now - now));
        self.trace(|| format!("         {:?}", self.accounts[account]));
        self.check_granted(account);
        if !self.is_lost() {
            let delay = self.random(100, self.scenario.delay);
            self.after(delay, Event::Reply(question, now, answer));
        }
    }

    /// What the database holds against the ceiling.
    fn check_granted(&mut self, account: usize) {
        let record = &self.records[account];
        let granted = self.accounts[account].granted(record.window, self.now);
        let highest = record.truth.iter().filter_map(|(_, terms)| terms.amount).max();
        if record.always_hard() && highest.is_some_and(|highest| granted > highest) {
            self.fail(format!("a{account}: {granted} are granted of {highest:?}"));
        }
    }

    /// Whether a message goes astray.
    pub fn is_lost(&mut self) -> bool {
        let losses = self.scenario.losses;
        losses > 0.0 && self.rng.random_bool(losses)
    }

    /// Whether a replica and the database cannot hear each other.
    pub fn is_cut(&self, replica: usize) -> bool {
        self.now < self.outage_until || self.now < self.replicas[replica].cut_until
    }

    /// What the limits say now, for who reads them.
    pub fn policy(&mut self) -> Vec<Arc<Applied>> {
        let read = |(record, key): (&Record, &AccountKey)| {
            let terms: Terms = record.truth.last().map(|(_, terms)| terms.clone()).unwrap();
            Arc::new(Applied {
                limit_id: LimitId::from(key.subject_id),
                source: Source::Limit(Maker::Platform),
                meter: Arc::from("requests"),
                meter_id: key.meter_id,
                subject_kind: key.subject_kind,
                window: key.window,
                terms,
            })
        };
        self.records.iter().zip(&self.keys).map(read).collect()
    }

    /// Somebody consumed less, or more, than was charged.
    fn correct(&mut self) {
        let account = self.rng.random_range(0..self.records.len());
        let window = self.keys[account].window;
        if self.rng.random_bool(0.2) && !self.scenario.healthy {
            let change = Change::Overage(self.rng.random_range(1..5));
            self.accounts[account].correct(self.now, None, change);
            return self.trace(|| format!("a{account} {change:?}"));
        }
        let count = self.records[account].admissions.len();
        if count == 0 || window.is_rate() {
            return;
        }
        let place = count - 1 - self.rng.random_range(0..count.min(20));
        let admission = self.records[account].admissions[place];
        if admission.amount == 0 || admission.is_unsettled {
            return;
        }
        let amount = self.rng.random_range(1..=admission.amount);
        let slot = Some(admission.slot);
        if self.accounts[account].correct(self.now, slot, Change::Refund(amount)) {
            self.trace(|| format!("a{account} refund {amount} of {admission:?}"));
            self.records[account].admissions[place].amount -= amount;
        }
    }

    /// Whether all that was to happen did.
    pub fn all_left(&self) -> bool {
        self.replicas.iter().all(|replica| replica.state == State::Down)
    }
}

impl Event {
    fn whom(&self) -> Option<(usize, Option<u64>)> {
        match self {
            Self::Ask(replica, _) => Some((*replica, None)),
            Self::Retry(replica, incarnation, _)
            | Self::Sweep(replica, incarnation)
            | Self::Recall(replica, incarnation, _)
            | Self::Policy(replica, incarnation)
            | Self::PutBack(replica, incarnation, _) => Some((*replica, Some(*incarnation))),
            Self::Reply(question, ..) | Self::GiveUp(question) => Some((question.replica, Some(question.incarnation))),
            Self::Phase(_)
            | Self::Arrive(_)
            | Self::Start(_)
            | Self::Trouble
            | Self::ChangeLimit
            | Self::Correct
            | Self::LeaveAll => None,
        }
    }
}
