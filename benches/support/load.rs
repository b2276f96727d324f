//! Load: many at once that each wait for their answer, for a bounded time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tenancy::clock::Clock;

use crate::support::Failure;
use crate::support::latencies::Latencies;

/// What a load did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was done, such as events.
    pub done: u64,
    /// How long all of it took, from the first request to the last answer.
    pub took: Duration,
    /// How long each request took.
    pub latencies: Latencies,
}

impl Outcome {
    /// What was done in so much time, by requests of these latencies.
    pub fn new(done: u64, took: Duration, latencies: Latencies) -> Self {
        Self { done, took, latencies }
    }

    /// Done in a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let done = self.done as f64;
        done / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// The latency that so many of a thousand requests did not exceed, in milliseconds.
    pub fn latency_ms(&self, per_mille: u64) -> f64 {
        self.latencies.ms(per_mille)
    }
}

/// One of those that make the load: what it does next returns how much that was, or `None` at its end.
pub trait Work: Send + 'static {
    /// Does the next thing.
    fn next(&mut self) -> impl Future<Output = Result<Option<u64>, Failure>> + Send;

    /// Waits for what is still under way at the end, and returns how much that was.
    fn finish(&mut self) -> impl Future<Output = Result<u64, Failure>> + Send {
        std::future::ready(Ok(0))
    }
}

/// When the workers do what they do.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// One thing after the other, as fast as they are answered.
    Closed,
    /// One thing in so much time, answered or not: latency counts from when it was due.
    Every(Duration),
}

/// How exact a timer is.
const TICK: Duration = Duration::from_millis(1);

/// Has all the workers work at once, until they have nothing left or the time is up.
pub async fn run<W: Work>(clock: &Clock, workers: Vec<W>, pace: Pace, most: Duration) -> Result<Outcome, Failure> {
    let began = clock.instant();
    let mut tasks = tokio::task::JoinSet::new();
    let count = u32::try_from(workers.len())?;
    // Theirs together: buckets of their own for thousands of workers would be memory that grows while the service's is looked at.
    let latencies = Arc::new(Mutex::new(Latencies::default()));
    for (position, worker) in (0..).zip(workers) {
        // Evenly spread, not all in one moment.
        let first = match pace {
            Pace::Closed => began,
            Pace::Every(interval) => began + interval * position / count,
        };
        tasks.spawn(work(clock.clone(), worker, pace, first, began + most, Arc::clone(&latencies)));
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    let took = clock.instant() - began;
    let latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Outcome::new(done, took, latencies))
}

async fn work<W: Work>(
    clock: Clock,
    mut worker: W,
    pace: Pace,
    mut due: Instant,
    end: Instant,
    latencies: Arc<Mutex<Latencies>>,
) -> Result<u64, Failure> {
    let mut done = 0;
    loop {
        let start = match pace {
            Pace::Closed => clock.instant(),
            Pace::Every(_) if due <= clock.instant() => due,
            Pace::Every(_) => {
                tokio::time::sleep_until(due.into()).await;
                // The timer's own millisecond is not the service's. What it is late beyond that is the machine's, and counts.
                clock.instant().min(due + TICK)
            }
        };
        if start >= end {
            break;
        }
        let Some(more) = worker.next().await? else { break };
        done += more;
        latencies.lock().unwrap_or_else(PoisonError::into_inner).add(clock.instant() - start);
        if let Pace::Every(interval) = pace {
            due += interval;
        }
    }
    Ok(done + worker.finish().await?)
}
