//! What waits for one writer: bounded, and taken from in turns, so that one tenant's flood delays nobody else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::metering::batch::{Candidate, Verdict};

/// One request's candidates; they are recorded in one transaction.
#[derive(Debug)]
pub struct Job {
    /// Whose they are.
    pub organization_id: OrganizationId,
    /// The candidates.
    pub candidates: Vec<Candidate>,
    /// Who waits for what becomes of them. Dropped without an answer when the writer dies.
    pub reply: oneshot::Sender<Result<Vec<Verdict>, Error>>,
    /// Since when.
    pub queued_at: Instant,
}

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
}

/// Why a job was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no room, or the organization has its share of it.
    Full,
    /// The writer stops.
    Closed,
}

/// The queue of one writer.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    lines: HashMap<OrganizationId, Line>,
    /// The organizations that have a line, in the order of their turns.
    turns: VecDeque<OrganizationId>,
    load: Load,
    open: bool,
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
        let state = State { lines: HashMap::new(), turns: VecDeque::new(), load: Load::default(), open: true };
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
        if line.jobs.len() == 1 {
            state.turns.push_back(organization_id);
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for jobs and takes a batch of them; `None` when the queue is closed and empty. One writer calls this.
    pub async fn next(&self) -> Option<Vec<Job>> {
        loop {
            {
                let mut state = self.lock();
                let batch = state.take(self.limits);
                if !batch.is_empty() {
                    return Some(batch);
                }
                if !state.open {
                    return None;
                }
            }
            // A permit is kept when a job came since the look above.
            self.arrived.notified().await;
        }
    }

    /// How much waits.
    pub fn load(&self) -> Load {
        self.lock().load
    }

    /// Takes no more jobs; what waits can still be taken.
    pub fn close(&self) {
        self.lock().open = false;
        self.arrived.notify_one();
    }

    /// Takes no more jobs, and out all that wait.
    pub fn close_and_empty(&self) -> Vec<Job> {
        let mut state = self.lock();
        state.open = false;
        state.turns.clear();
        state.load = Load::default();
        state.lines.drain().flat_map(|(_, line)| line.jobs).map(|(job, _)| job).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes jobs in turns until the batch is full or nothing waits. Jobs whose caller has gone are left out: nobody was
    /// told that they are recorded.
    fn take(&mut self, limits: Limits) -> Vec<Job> {
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
        batch
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
