//! What waits for the writers: bounded, and taken from in turns, so that one tenant's flood delays nobody else.
//!
//! One queue for all writers, and an organization is with one of them at a time: within a replica no two transactions
//! wait for each other's aggregates. When the next batch is taken is in `pace`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::metering::batch::{Candidate, Verdict};
use crate::metering::pace::{Pace, PaceOptions};
use crate::metering::replies::Reply;

/// One request's candidates; they are recorded in one transaction.
#[derive(Debug)]
pub struct Job {
    /// Whose they are.
    pub organization_id: OrganizationId,
    /// The candidates.
    pub candidates: Vec<Candidate>,
    /// Who waits for what becomes of them. Dropped without an answer when the writer dies.
    pub reply: Reply<Answer>,
    /// Since when.
    pub queued_at: Instant,
}

/// What became of candidates, in their order; and they themselves, for who made them to drop: memory that another thread
/// gives back is slow to take again.
pub type Answer = Result<(Vec<Verdict>, Vec<Candidate>), Error>;

/// How much waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Events.
    pub events: usize,
    /// Bytes in memory, roughly.
    pub bytes: usize,
}

impl Load {
    fn of(job: &Job) -> Self {
        let bytes = job.candidates.iter().map(|candidate| candidate.event.bytes()).sum();
        Self { events: job.candidates.len(), bytes }
    }

    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Self) {
        self.events -= other.events;
        self.bytes -= other.bytes;
    }
}

/// How the queue is bounded and taken from.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most that waits.
    pub capacity: Load,
    /// The most events of a batch, unless a single job has more.
    pub batch_events: usize,
    /// The most organizations of a batch.
    pub batch_organizations: usize,
    /// The events that an organization may put into a batch before the next one has its turn.
    pub turn_events: usize,
    /// When the next batch is taken.
    pub pace: PaceOptions,
}

/// Why a job was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no room, or the organization has its share of it.
    Full,
    /// The writer stops.
    Closed,
}

/// The queue of the writers.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    lines: HashMap<OrganizationId, Line>,
    /// The organizations that have a line and are with no writer, in the order of their turns.
    turns: VecDeque<OrganizationId>,
    /// Everything that waits.
    load: Load,
    /// What is ready are the events of `turns`.
    pace: Pace,
    /// The organizations that are with a writer.
    taken: HashSet<OrganizationId>,
    open: bool,
}

/// A batch. Its organizations are this writer's until it is dropped.
#[derive(Debug)]
pub struct Taken<'a> {
    /// The jobs.
    pub jobs: Vec<Job>,
    organizations: HashSet<OrganizationId>,
    queue: &'a Queue,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.lock().release(&self.organizations);
    }
}

/// What waits of one organization.
#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<(Job, Load)>,
    load: Load,
    /// The events it may still put into batches: deficit round robin, so that large jobs get no more than small ones.
    credit: usize,
    /// Its turn was cut short by the end of a batch: it goes on in the next one, with the credit it has.
    resumes: bool,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            lines: HashMap::new(),
            turns: VecDeque::new(),
            load: Load::default(),
            pace: Pace::new(limits.pace),
            taken: HashSet::new(),
            open: true,
        };
        Self { limits, state: Mutex::new(state), arrived: Notify::new() }
    }

    /// Puts a job at the end of its organization's line.
    ///
    /// An organization may hold as much as it leaves free: alone half of the queue, with `n` others that press as hard
    /// one part in `n + 2`. So there is room for whoever comes, however hard the others press.
    pub fn push(&self, job: Job) -> Result<(), Refused> {
        let (load, capacity) = (Load::of(&job), self.limits.capacity);
        let mut state = self.lock();
        if !state.open {
            return Err(Refused::Closed);
        }
        let held = state.lines.get(&job.organization_id).map(|line| line.load).unwrap_or_default();
        let has_room = |held: usize, new: usize, all: usize, capacity: usize| {
            capacity.checked_sub(all + new).is_some_and(|free| held + new <= free)
        };
        if !has_room(held.events, load.events, state.load.events, capacity.events)
            || !has_room(held.bytes, load.bytes, state.load.bytes, capacity.bytes)
        {
            return Err(Refused::Full);
        }
        state.load.add(load);
        let organization_id = job.organization_id;
        let line = state.lines.entry(organization_id).or_default();
        line.load.add(load);
        line.jobs.push_back((job, load));
        let is_first = line.jobs.len() == 1;
        if state.taken.contains(&organization_id) {
            // Its writer looks for more when it is done.
            return Ok(());
        }
        if is_first {
            state.turns.push_back(organization_id);
        }
        state.pace.add(load.events);
        let calls = state.pace.calls();
        drop(state);
        if calls {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for jobs and takes a batch of them; `None` when the queue is closed and nothing is left that is not with
    /// another writer. Any number of writers call this, each when its last batch is dropped.
    pub async fn next(&self) -> Option<Taken<'_>> {
        loop {
            // Made before the look, so that it hears of what comes after.
            let arrived = self.arrived.notified();
            let watched = {
                let mut state = self.lock();
                if state.pace.look() || !state.open {
                    let (jobs, organizations) = state.take(self.limits);
                    if !jobs.is_empty() {
                        let calls = state.pace.calls();
                        drop(state);
                        if calls {
                            self.arrived.notify_one();
                        }
                        return Some(Taken { jobs, organizations, queue: self });
                    }
                }
                if !state.open && state.pace.ready() == 0 {
                    return None;
                }
                state.pace.watch()
            };
            match watched {
                Some(due) => {
                    // Either way it looks again: what it watched may be with another writer.
                    let _ = tokio::time::timeout_at(due, arrived).await;
                    self.lock().pace.watched();
                }
                None => arrived.await,
            }
        }
    }

    /// How much waits.
    pub fn load(&self) -> Load {
        self.lock().load
    }

    /// Takes no more jobs; what waits can still be taken.
    pub fn close(&self) {
        self.lock().open = false;
        self.arrived.notify_waiters();
    }

    /// Takes no more jobs, and out all that wait.
    pub fn close_and_empty(&self) -> Vec<Job> {
        let mut state = self.lock();
        state.open = false;
        state.turns.clear();
        state.load = Load::default();
        let ready = state.pace.ready();
        state.pace.remove(ready);
        state.lines.drain().flat_map(|(_, line)| line.jobs).map(|(job, _)| job).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives back organizations; those that have a line have a turn again.
    fn release(&mut self, organizations: &HashSet<OrganizationId>) {
        for organization_id in organizations {
            self.taken.remove(organization_id);
            let Some(line) = self.lines.get(organization_id) else { continue };
            self.pace.add(line.load.events);
            if line.resumes {
                self.turns.push_front(*organization_id);
            } else {
                self.turns.push_back(*organization_id);
            }
        }
        self.pace.end();
    }

    /// Takes jobs in turns until the batch is full or nothing is ready. Jobs whose caller has gone are left out: nobody
    /// was told that they are recorded. The organizations of the batch are taken with it.
    fn take(&mut self, limits: Limits) -> (Vec<Job>, HashSet<OrganizationId>) {
        let mut batch = Vec::new();
        let mut events = 0;
        let mut organizations = HashSet::new();
        while let Some(organization_id) = self.turns.pop_front() {
            let Some(line) = self.lines.get_mut(&organization_id) else { continue };
            if !std::mem::take(&mut line.resumes) {
                line.credit += limits.turn_events.max(1);
            }
            let mut is_full = false;
            while let Some((job, load)) = line.jobs.front() {
                let is_wanted = !job.reply.is_closed();
                if is_wanted {
                    is_full = !batch.is_empty()
                        && (events + load.events > limits.batch_events
                            || organizations.len() >= limits.batch_organizations
                                && !organizations.contains(&organization_id));
                    if is_full || load.events > line.credit {
                        break;
                    }
                }
                let Some((job, load)) = line.jobs.pop_front() else { break };
                line.load.remove(load);
                self.load.remove(load);
                self.pace.remove(load.events);
                if is_wanted {
                    line.credit -= load.events;
                    events += load.events;
                    organizations.insert(organization_id);
                    batch.push(job);
                }
            }
            if line.jobs.is_empty() {
                self.lines.remove(&organization_id);
            } else if is_full {
                line.resumes = true;
                self.turns.push_front(organization_id);
            } else {
                self.turns.push_back(organization_id);
            }
            if is_full {
                break;
            }
        }
        if !batch.is_empty() {
            self.pace.begin(events);
            self.turns.retain(|organization_id| !organizations.contains(organization_id));
            for organization_id in &organizations {
                self.pace.remove(self.lines.get(organization_id).map_or(0, |line| line.load.events));
            }
            self.taken.extend(&organizations);
        }
        (batch, organizations)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
