//! When a writer begins its next transaction, and who looks after what waits for one. A transaction costs about as much as
//! forty of its events (measured), so:
//!
//! - A second one beside the first is begun only when it is worth that, or when something has waited for long.
//! - When none is under way, the next one waits a moment for as many events as the last one had. Callers that were
//!   answered together come back together, and the first of them would otherwise have a transaction to itself while all
//!   others wait for its end. Who is alone never waits: he is as many as last time. Nor does who comes so long after that he is
//!   none of them.
//! - Those who came during the last one are not taken for those who come back, as long as all of them together are fewer
//!   than forty. So where callers are few, and come in their own time, there are fewer transactions.

use std::time::Duration;

use tokio::time::Instant;

/// How long events wait for others.
#[derive(Clone, Copy, Debug)]
pub struct PaceOptions {
    /// So many events are worth a transaction beside those under way. Fewer wait until one of these ends,
    pub worth_events: usize,
    /// but no longer than this.
    pub patience: Duration,
    /// How long the first who is ready waits for those who come back, when no transaction is under way,
    pub gather: Duration,
    /// until so many events are ready, or as many as the last one had.
    pub gather_events: usize,
}

impl Default for PaceOptions {
    fn default() -> Self {
        Self {
            worth_events: 500,
            patience: Duration::from_millis(5),
            gather: Duration::from_millis(1),
            gather_events: 40,
        }
    }
}

/// The pace of the writers of one queue.
#[derive(Debug)]
pub struct Pace {
    options: PaceOptions,
    /// The events that could be in a transaction,
    ready: usize,
    /// and since when there have been some.
    ready_since: Instant,
    /// The transactions under way.
    under_way: usize,
    /// When the last one ended,
    ended: Instant,
    /// and how many events are waited for since: as many as it had, or more.
    expected: usize,
    alarm: Alarm,
}

/// Who looks after what is ready. A wake a job would cost more than the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alarm {
    /// Nobody.
    Off,
    /// A writer was called and is about to look.
    Called,
    /// A writer waits until it is due.
    Watched,
}

impl Pace {
    /// With nothing ready.
    pub fn new(options: PaceOptions) -> Self {
        let now = Instant::now();
        Self { options, ready: 0, ready_since: now, under_way: 0, ended: now, expected: 0, alarm: Alarm::Off }
    }

    /// The events that could be in a transaction.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// So many more could be.
    pub fn add(&mut self, events: usize) {
        if self.ready == 0 {
            self.ready_since = Instant::now();
        }
        self.ready += events;
    }

    /// So many no longer.
    pub fn remove(&mut self, events: usize) {
        self.ready -= events;
    }

    /// Whether a writer is to be called: one is needed to take what is ready, or to watch how long it waits.
    pub fn calls(&mut self) -> bool {
        let calls = self.ready > 0
            && match self.alarm {
                Alarm::Off => true,
                Alarm::Called => false,
                Alarm::Watched => self.is_worth_it(),
            };
        if calls {
            self.alarm = Alarm::Called;
        }
        calls
    }

    /// A writer looks: whether it is to begin a transaction.
    pub fn look(&mut self) -> bool {
        if self.alarm == Alarm::Called {
            self.alarm = Alarm::Off;
        }
        self.ready > 0 && (self.is_worth_it() || self.due() <= Instant::now())
    }

    /// A writer has nothing to begin now: until when it watches what is ready, if nobody else does. Afterwards, and when it is
    /// called before, it has [watched](Self::watched) and looks again.
    pub fn watch(&mut self) -> Option<Instant> {
        if self.ready == 0 || self.alarm != Alarm::Off {
            return None;
        }
        self.alarm = Alarm::Watched;
        Some(self.due())
    }

    /// The writer that watched does so no longer.
    pub fn watched(&mut self) {
        if self.alarm == Alarm::Watched {
            self.alarm = Alarm::Off;
        }
    }

    /// A transaction of so many events begins.
    pub fn begin(&mut self, events: usize) {
        self.under_way += 1;
        self.expected = events;
    }

    /// One ends, and what it kept from being ready has been added. Its writer looks next.
    pub fn end(&mut self) {
        self.under_way -= 1;
        if self.under_way == 0 {
            self.expected = self.expected.max(self.options.gather_events.min(self.expected + self.ready));
            self.ended = Instant::now();
            // Whoever watches would do so until the patience ends, which is too late now.
            self.watched();
        }
    }

    fn is_worth_it(&self) -> bool {
        self.ready >= self.options.worth_events || self.under_way == 0 && self.ready >= self.expected
    }

    /// When what is ready is taken, however little that is.
    fn due(&self) -> Instant {
        let PaceOptions { patience, gather, .. } = self.options;
        let patient_until = self.ready_since + patience;
        if self.under_way > 0 {
            patient_until
        } else if self.ready_since > self.ended + patience {
            // So long after, it is not one of those who come back.
            self.ready_since
        } else {
            // Many answers take longer than that to arrive and bring back their callers: it counts from the first of these. Who
            // has waited while all writers were at work does not wait for them as well.
            patient_until.min(self.ready_since.max(self.ended) + gather)
        }
    }
}
