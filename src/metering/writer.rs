//! The writer of usage: group commit. Requests that come while a transaction is under way share the next one, so the
//! cost of a commit is divided by all that wait for it, and who is alone does not wait.
//!
//! A few tasks take from one queue, and an organization is with one of them at a time: within a replica no two
//! transactions wait for each other's aggregates. Between replicas, rows are locked in one order. See `pace`
//! for how many are at work: one under a light load, so that it does all of it in few transactions.
//!
//! A reply is sent after the commit, never before. When rows cannot be written, the batch is halved until the fault is
//! alone: by organization first, then by request.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, Histogram};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::deadline;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::metering::batch::Batch;
use crate::metering::known_series::KnownSeries;
use crate::metering::queue::{Job, Limits, Load, Queue, Refused};
use crate::metering::repeats::Repeats;
use crate::metering::replies::Reply;
use crate::model::usage::{NamedSeries, tally};
use crate::repository::database::Database;
use crate::repository::error::unreachable;
use crate::repository::scope::IngestScope;
use crate::repository::usage::ingest::{self, Entry, Inserted, PARTITION_MISSING, SeriesKey};

pub use crate::metering::batch::{Candidate, Verdict};
pub use crate::metering::pace::PaceOptions;

/// How often a transaction that lost against others is tried, in all.
const ATTEMPTS: u32 = 5;
/// The longest wait for a verdict; less when the request's deadline comes before.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// The most organizations of a transaction: the policies look for each row's organization in lists of them.
const BATCH_ORGANIZATIONS: usize = 64;
/// The most events of a batch that may be configured: their sum is exact, see `Tally`.
const MOST_BATCH_EVENTS: usize = 50_000;

/// How the writer works.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// How many transactions may be under way; each has a connection of the main pool while it is.
    pub writers: usize,
    /// The most events that wait, of all writers together. Beyond, requests are refused with `INGEST_OVERLOADED`.
    pub queue_events: usize,
    /// The most bytes that they hold in memory, roughly.
    pub queue_bytes: usize,
    /// The most events of one transaction, unless a single request has more.
    pub batch_events: usize,
    /// The most events that one organization puts into a transaction while others wait.
    pub turn_events: usize,
    /// How long events wait for others.
    pub pace: PaceOptions,
    /// How long, when the service stops, what waits may take to be committed. What is left then is refused.
    pub drain: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            // Where Postgres has the same processors, more than these make each other's transactions slower.
            writers: std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 4),
            queue_events: 100_000,
            queue_bytes: 128 << 20,
            batch_events: 2000,
            turn_events: 500,
            pace: PaceOptions::default(),
            drain: Duration::from_secs(10),
        }
    }
}

/// Where events are handed in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    known: Arc<KnownSeries>,
    repeats: Arc<Repeats>,
    database: Database,
    clock: Clock,
    told: Arc<Told>,
}

/// What is told of every batch and every request: by its name each would be searched for.
struct Told {
    queue_events: Gauge,
    batch_events: Histogram,
    commit_seconds: Histogram,
    queue_seconds: Histogram,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

/// What commits them: to be run once, beside the service.
#[derive(Debug)]
pub struct WriterTask {
    writer: Writer,
    writers: usize,
    drain: Duration,
}

impl Writer {
    /// A writer, and the task without which it only queues. Counts, so the recorder of metrics must be installed before.
    #[must_use]
    pub fn new(database: Database, clock: Clock, options: WriterOptions) -> (Self, WriterTask) {
        let limits = Limits {
            capacity: Load { events: options.queue_events, bytes: options.queue_bytes },
            batch_events: options.batch_events.min(MOST_BATCH_EVENTS),
            batch_organizations: BATCH_ORGANIZATIONS,
            turn_events: options.turn_events,
            pace: options.pace,
        };
        let told = Told {
            queue_events: metrics::gauge!("tenancy_usage_queue_events"),
            batch_events: metrics::histogram!("tenancy_usage_batch_events"),
            commit_seconds: metrics::histogram!("tenancy_usage_commit_seconds"),
            queue_seconds: metrics::histogram!("tenancy_usage_queue_seconds"),
        };
        let (queue, known) = (Arc::new(Queue::new(limits)), Arc::new(KnownSeries::new()));
        let repeats = Arc::default();
        let writer = Self { queue, known, repeats, database, clock, told: Arc::new(told) };
        (writer.clone(), WriterTask { writer, writers: options.writers.max(1), drain: options.drain })
    }

    /// Hands in candidates of one organization and waits for what becomes of each, in their order.
    ///
    /// Errors: `INGEST_OVERLOADED` and `DATABASE_UNAVAILABLE`: nothing was recorded. `COMMIT_OUTCOME_UNKNOWN` and
    /// `DeadlineExceeded`: unknown. `USAGE_PARTITION_MISSING`, `Conflict`, `Internal`: nothing was recorded.
    pub async fn record(
        &self,
        organization_id: OrganizationId,
        candidates: Vec<Candidate>,
    ) -> Result<Vec<Verdict>, Error> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        if !self.database.is_reachable() {
            return Err(unreachable());
        }
        let (reply, verdicts) = Reply::new();
        let queued_at = self.clock.instant();
        self.queue.push(Job { organization_id, candidates, reply, queued_at }).map_err(|refused| {
            metrics::counter!("tenancy_usage_refused_requests_total").increment(1);
            match refused {
                Refused::Full => overloaded(),
                Refused::Closed => stopping(),
            }
        })?;
        match tokio::time::timeout(deadline::remaining(queued_at, LONGEST_WAIT), verdicts).await {
            Ok(Ok(answer)) => answer.map(|(verdicts, _)| verdicts),
            // The task died or was stopped while it had the job.
            Ok(Err(_)) => Err(unknown()),
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// One of the tasks: commits what is in the queue until that is closed and empty.
    async fn serve(self) {
        while let Some(mut taken) = self.queue.next().await {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            self.told.queue_events.set(self.queue.load().events as f64);
            self.settle(std::mem::take(&mut taken.jobs)).await;
        }
    }

    /// Gives every job its answer.
    async fn settle(&self, mut jobs: Vec<Job>) {
        // Neighbours are of one organization, so that halving parts organizations first.
        jobs.sort_by_key(|job| job.organization_id);
        let mut parts = vec![jobs];
        while let Some(mut jobs) = parts.pop() {
            match self.commit(&jobs).await {
                Ok(verdicts) => {
                    let answered = jobs.into_iter().zip(verdicts);
                    Reply::send_all(answered.map(|(job, verdicts)| (job.reply, Ok((verdicts, job.candidates)))));
                }
                Err(error) => match middle(&jobs).filter(|_| lies_in_the_rows(&error)) {
                    Some(middle) => {
                        tracing::warn!(%error, jobs = jobs.len(), "a batch of usage failed; halving it");
                        let second = jobs.split_off(middle);
                        parts.extend([second, jobs]);
                    }
                    None => jobs.into_iter().for_each(|job| refuse(job, &error)),
                },
            }
        }
    }

    /// Writes the jobs in one transaction; again when it lost against another one, or an event was there that was not expected
    /// to be.
    async fn commit(&self, jobs: &[Job]) -> Result<Vec<Vec<Verdict>>, Error> {
        let mut attempt = 1;
        loop {
            match self.transact(jobs).await {
                Err(Error::Conflict) if attempt < ATTEMPTS => {
                    metrics::counter!("tenancy_usage_retried_batches_total").increment(1);
                    tokio::time::sleep(Duration::from_millis(1 << attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn transact(&self, jobs: &[Job]) -> Result<Vec<Vec<Verdict>>, Error> {
        let began = self.clock.instant();
        let candidates =
            || jobs.iter().flat_map(|job| job.candidates.iter().map(move |candidate| (job.organization_id, candidate)));
        let mut organizations: Vec<_> = jobs.iter().map(|job| job.organization_id).collect();
        organizations.dedup();
        let batch = Batch::new(candidates());
        let entries = batch.to_insert();
        let new_series = self.known.unknown(&entries);

        // A task has one transaction at a time: one that hangs on a silent connection would keep everybody waiting, long
        // after the database is back. So it is given up with the database.
        let (scope, verdicts) = tokio::select! {
            written = self.write(organizations, &batch, &entries, &new_series) => written?,
            () = self.database.unreachable() => return Err(unreachable()),
        };
        tokio::select! {
            committed = scope.commit() => committed?,
            () = self.database.unreachable() => return Err(unknown()),
        }
        self.known.remember(new_series);

        #[expect(clippy::cast_precision_loss, reason = "a histogram")]
        self.told.batch_events.record(verdicts.len() as f64);
        self.told.commit_seconds.record(self.clock.instant().saturating_duration_since(began));
        let mut verdicts = verdicts.into_iter();
        Ok(jobs
            .iter()
            .map(|job| {
                self.told.queue_seconds.record(began.saturating_duration_since(job.queued_at));
                verdicts.by_ref().take(job.candidates.len()).collect()
            })
            .collect())
    }

    /// Everything of a transaction but its commit.
    async fn write(
        &self,
        organizations: Vec<OrganizationId>,
        batch: &Batch<'_>,
        entries: &[Entry<'_>],
        new_series: &BTreeMap<SeriesKey, NamedSeries>,
    ) -> Result<(IngestScope, Vec<Verdict>), Error> {
        let mut scope = self.database.ingest(organizations).await?;
        let now = self.clock.now();
        if !new_series.is_empty() {
            ingest::name_series(&mut scope, new_series).await?;
        }
        let mut tallies = tally(entries.iter().copied());
        let inserted = if self.repeats.are_expected(self.clock.instant()) {
            ingest::insert(&mut scope, entries, &tallies, now).await?
        } else {
            let inserted = ingest::insert_new(&mut scope, entries, &tallies, now).await;
            inserted.inspect_err(|error| {
                // Or it lost against another transaction: to expect what does not come costs little.
                if matches!(error, Error::Conflict) {
                    self.repeats.note(self.clock.instant());
                }
            })?;
            Inserted::All
        };
        if let Inserted::Only(keys) = &inserted {
            self.repeats.note(self.clock.instant());
            tallies = tally(entries.iter().copied().filter(|entry| keys.contains(&ingest::key(*entry))));
            ingest::insert(&mut scope, &[], &tallies, now).await?;
        }
        if !tallies.unique_values.is_empty() {
            ingest::insert_unique_values(&mut scope, &tallies).await?;
        }
        let to_compare = batch.to_compare(&inserted);
        let compared = match to_compare.as_slice() {
            [] => Vec::new(),
            entries => ingest::compare(&mut scope, entries).await?,
        };
        let verdicts = batch.verdicts(&inserted, compared)?;
        Ok((scope, verdicts))
    }
}

impl WriterTask {
    /// Runs the writer until `stop` is cancelled, then commits what waits and refuses what comes. However it ends, also
    /// when it is dropped, everything queued has been committed or refused.
    ///
    /// Error: `Internal` when one of the tasks died, after the others have committed what waited: the service must end,
    /// since a part of the organizations would have no writer.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let _last = RefuseOnDrop(Arc::clone(&self.writer.queue));
        let mut tasks = JoinSet::new();
        for _ in 0..self.writers {
            tasks.spawn(self.writer.clone().serve());
        }
        let mut death = None;
        tokio::select! {
            () = stop.cancelled() => {}
            // The queue is open, so it can only have panicked.
            ended = tasks.join_next() => death = Some(format!("{ended:?}")),
        }
        self.writer.queue.close();
        let drained = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    death = Some(error.to_string());
                }
            }
        };
        if tokio::time::timeout(self.drain, drained).await.is_err() {
            tracing::warn!("usage that was not committed in time is refused");
        }
        death.map_or(Ok(()), |death| Err(Error::internal(format!("a writer of usage died: {death}"))))
    }
}

/// Leaves no caller waiting for a writer that is no more.
struct RefuseOnDrop(Arc<Queue>);

impl Drop for RefuseOnDrop {
    fn drop(&mut self) {
        for job in self.0.close_and_empty() {
            refuse(job, &stopping());
        }
    }
}

fn refuse(job: Job, error: &Error) {
    job.reply.send(Err(error.clone()));
}

/// Whether leaving out some rows may help; otherwise it is the database that is not there, and everybody's fate.
fn lies_in_the_rows(error: &Error) -> bool {
    !matches!(error, Error::Unavailable { reason, .. } if *reason != PARTITION_MISSING)
}

/// Where to part jobs, which are sorted by organization: between two organizations if there are two.
fn middle(jobs: &[Job]) -> Option<usize> {
    let half = jobs.len() / 2;
    let parts = |at: &usize| jobs[at - 1].organization_id != jobs[*at].organization_id;
    let between = (1..jobs.len()).filter(parts).min_by_key(|at| at.abs_diff(half));
    between.or_else(|| (half > 0).then_some(half))
}

fn overloaded() -> Error {
    Error::Overloaded {
        reason: "INGEST_OVERLOADED",
        message: "more usage arrives than can be written; nothing of this batch was recorded",
        retry_after: Duration::from_millis(200),
    }
}

fn stopping() -> Error {
    Error::Unavailable {
        reason: "SHUTTING_DOWN",
        message: "this replica stops; nothing of this batch was recorded",
        retry_after: Duration::from_millis(200),
    }
}

fn unknown() -> Error {
    Error::Unavailable {
        reason: "COMMIT_OUTCOME_UNKNOWN",
        message: "the writer stopped while committing: the events may or may not have been recorded",
        retry_after: Duration::from_secs(1),
    }
}
