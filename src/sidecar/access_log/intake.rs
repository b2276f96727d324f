//! Records messages of entries: who may tell of them, what they used, and what was reserved for them. Everything is safe to do
//! again, so that what fails for a reason that may pass is done again, for as long as is bearable.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::auth::gate::Gate;
use crate::auth::layer::Renewal;
use crate::auth::principal::{Caller, Permitted};
use crate::clock::Clock;
use crate::deadline;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::metering::recorder::{Fate, Recorder};
use crate::proto::envoy::data::accesslog::v3::HttpAccessLogEntry;
use crate::quota::decisions::{Decisions, Settled};
use crate::quota::reservation::Reservation;
use crate::sidecar::Ingredients;
use crate::sidecar::access_log::entry::{Entry, Finished};
use crate::sidecar::pending::Pending;

/// The most events of one organization that are handed in at once: as many as a transaction of the writer has.
const EVENTS: usize = 2000;
/// The longest that one try may take.
const TRY: Duration = Duration::from_secs(10);
/// The most messages whose reservations are settled at the same time, on all streams: others want connections too.
const SETTLING: usize = 3;
/// How long to wait before the next try: at first, and at most. Each wait is twice the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often a fault of ours is tried, in all: it may lie in what is recorded, and would hold up the others.
const ATTEMPTS: u32 = 3;

/// Records messages.
#[derive(Debug)]
pub struct Intake {
    gate: Gate,
    decisions: Decisions,
    recorder: Recorder,
    pending: Pending,
    clock: Clock,
    patience: Duration,
    settling: Semaphore,
}

/// The requests of a message that are still to be recorded.
#[derive(Debug)]
pub struct Batch {
    /// When it came.
    at: DateTime<Utc>,
    shares: Vec<Share>,
    /// What is to be settled, of organizations that the caller may tell of.
    settlements: Vec<(Reservation, u64)>,
}

/// The requests of one organization.
#[derive(Debug)]
struct Share {
    organization_id: OrganizationId,
    permitted: Option<Permitted>,
    finished: Vec<Finished>,
}

impl Batch {
    /// Reads the entries of a message that came at `at`; nothing is asked or recorded yet.
    #[must_use]
    pub fn read(entries: &[HttpAccessLogEntry], key: &[u8; 32], at: DateTime<Utc>) -> Self {
        let (mut ignored, mut forged, mut unreadable) = (0, 0, 0);
        let mut shares: BTreeMap<OrganizationId, Vec<Finished>> = BTreeMap::new();
        for entry in entries {
            match Entry::read(entry, key) {
                Entry::Ignored => ignored += 1,
                Entry::Forged => forged += 1,
                Entry::Finished(finished) => {
                    unreadable += finished.unreadable;
                    shares.entry(finished.admission.organization_id()).or_default().push(*finished);
                }
            }
        }
        count("ignored", ignored);
        count("refused", forged);
        metrics::counter!("tenancy_access_log_unreadable_total").increment(unreadable.into());
        let share = |(organization_id, finished)| Share { organization_id, permitted: None, finished };
        Self { at, shares: shares.into_iter().map(share).collect(), settlements: Vec::new() }
    }
}

impl Intake {
    /// Describes the metrics too.
    #[must_use]
    pub fn new(ingredients: &Ingredients, patience: Duration) -> Self {
        metrics::describe_counter!(
            "tenancy_access_log_entries_total",
            "Entries of access logs by outcome: recorded; duplicate, recorded before; ignored, not the end of a request of a \
             tenant; refused, of no organization that the sidecar may tell of, or of no meter; lost, as the database was away."
        );
        metrics::describe_counter!(
            "tenancy_access_log_lost_total",
            "Entries of access logs that came here and could not be recorded, as the database was away for too long."
        );
        metrics::describe_counter!(
            "tenancy_access_log_settlements_total",
            "Reservations of logged requests by outcome: settled; before, settled already; expired; lost."
        );
        metrics::describe_counter!(
            "tenancy_access_log_unreadable_total",
            "Amounts that a log should have had, such as a header of the reply, and had not: what was reserved counts."
        );
        let Ingredients { shared, decisions, recorder, pending, .. } = ingredients;
        Self {
            gate: shared.gate.clone(),
            decisions: decisions.clone(),
            recorder: recorder.clone(),
            pending: pending.clone(),
            clock: shared.clock.clone(),
            patience,
            settling: Semaphore::new(SETTLING),
        }
    }

    /// What reservations are signed with.
    pub async fn signing_key(&self) -> Result<[u8; 32], Error> {
        self.decisions.engine().signing_key().await
    }

    /// Records a message. What cannot be for as long as our patience is lost.
    pub async fn record(&self, renewal: &Renewal, mut batch: Batch) {
        let began = Instant::now();
        let (mut wait, longest) = BACK_OFF;
        let mut faults = 0;
        loop {
            let work = deadline::scope(self.clock.instant() + TRY, Box::pin(self.attempt(renewal, &mut batch)));
            // The database may be silent: what it did not answer is asked again.
            let outcome = timeout(TRY, work).await.unwrap_or(Err(Error::DeadlineExceeded));
            let Err(error) = outcome else { return };
            if !is_transient(&error) {
                faults += 1;
            }
            if faults >= ATTEMPTS || began.elapsed() + wait > self.patience {
                return self.give_up(batch, &error);
            }
            sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// Records what is open of a message. Error: why something still is.
    async fn attempt(&self, renewal: &Renewal, batch: &mut Batch) -> Result<(), Error> {
        let permitted = self.permit(renewal, batch).await;
        let Batch { at, shares, settlements } = batch;
        let mut recording: FuturesUnordered<BoxFuture<'_, Result<(), Error>>> = FuturesUnordered::new();
        for share in shares.iter_mut() {
            recording.push(Box::pin(self.record_share(share)));
        }
        let recorded = async {
            let mut outcome = Ok(());
            while let Some(of_share) = recording.next().await {
                outcome = outcome.and(of_share);
            }
            outcome
        };
        let (recorded, settled) = futures_util::join!(recorded, self.settle(settlements, *at));
        drop(recording);
        shares.retain(|share| !share.finished.is_empty());
        permitted.and(recorded).and(settled)
    }

    /// Lets the caller into the organizations that it tells of, as far as it may. Error: why it is not known whether it may.
    async fn permit(&self, renewal: &Renewal, batch: &mut Batch) -> Result<(), Error> {
        let Batch { shares, settlements, .. } = batch;
        if shares.iter().all(|share| share.permitted.is_some()) {
            return Ok(());
        }
        // What it takes for a key that is not in memory are kilobytes.
        let caller = match Box::pin(renewal.caller()).await {
            Err(error) if !is_refusal(&error) => return Err(error),
            caller => caller,
        };
        let mut outcome = Ok(());
        for share in shares.iter_mut().filter(|share| share.permitted.is_none()) {
            match self.enter(caller.as_ref(), share.organization_id).await {
                Ok(permitted) => {
                    for finished in &mut share.finished {
                        self.pending.closed(finished.request.id);
                        settlements.extend(finished.settlement.take());
                    }
                    share.permitted = Some(permitted);
                }
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(%error, organization_id = %share.organization_id, "access logs are refused");
                    count("refused", share.finished.len());
                    share.finished.clear();
                }
                Err(error) => outcome = Err(error),
            }
        }
        shares.retain(|share| !share.finished.is_empty());
        outcome
    }

    async fn enter(
        &self,
        caller: Result<&Caller, &Error>,
        organization_id: OrganizationId,
    ) -> Result<Permitted, Error> {
        self.gate.tenant(caller.map_err(Error::clone)?, &organization_id.to_string()).await
    }

    /// Records what is open of an organization's requests, some at a time.
    async fn record_share(&self, share: &mut Share) -> Result<(), Error> {
        let Some(permitted) = &share.permitted else { return Ok(()) };
        while !share.finished.is_empty() {
            let mut events = 0;
            let fits = |finished: &&Finished| {
                events += finished.amounts.len();
                events <= EVENTS
            };
            let some = share.finished.iter().take_while(fits).count().max(1);
            let some = &share.finished[..some];
            let mut keys = Vec::with_capacity(events);
            for finished in some {
                keys.extend(finished.amounts.iter().map(|amount| amount.meter.as_str()));
            }
            let meters = self.recorder.meters(share.organization_id, keys.into_iter()).await?;
            let drafts = some
                .iter()
                .flat_map(|finished| finished.amounts.iter().map(|amount| finished.request.event(amount, &meters)))
                .collect();
            let mut fates = self.recorder.record(permitted, drafts).await?.into_iter();
            for finished in some {
                count(outcome(fates.by_ref().take(finished.amounts.len())), 1);
            }
            let done = some.len();
            share.finished.drain(..done);
        }
        Ok(())
    }

    /// Settles; what cannot be now stays. Error: why something does.
    async fn settle(&self, settlements: &mut Vec<(Reservation, u64)>, at: DateTime<Utc>) -> Result<(), Error> {
        if settlements.is_empty() {
            return Ok(());
        }
        let turn = self.settling.acquire().await.map_err(Error::internal)?;
        let outcomes = self.decisions.settle_all(settlements, at).await;
        drop(turn);
        let mut outcome = Ok(());
        let mut outcomes = outcomes.into_iter();
        settlements.retain(|_| {
            let settled = match outcomes.next() {
                Some(Ok(Settled { before: false, .. })) => "settled",
                Some(Ok(Settled { before: true, .. })) => "before",
                Some(Err(error)) if is_refusal(&error) => "expired",
                Some(Err(error)) => {
                    outcome = Err(error);
                    return true;
                }
                None => return true,
            };
            count_settlements(settled, 1);
            false
        });
        outcome
    }

    fn give_up(&self, batch: Batch, error: &Error) {
        let Batch { shares, settlements, .. } = batch;
        let entries: usize = shares.iter().map(|share| share.finished.len()).sum();
        tracing::warn!(%error, entries, settlements = settlements.len(), "access logs are lost");
        count("lost", entries);
        metrics::counter!("tenancy_access_log_lost_total").increment(entries as u64);
        count_settlements("lost", settlements.len());
        // What was reserved stays used; so it is what is recorded, once that can be.
        for finished in shares.iter().filter(|share| share.permitted.is_some()).flat_map(|share| &share.finished) {
            self.pending.open(&finished.admission);
        }
    }
}

/// Whether it may pass by itself.
#[must_use]
pub const fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::Overloaded { .. } | Error::Conflict | Error::DeadlineExceeded)
}

/// Whether it is neither that nor a fault of ours.
const fn is_refusal(error: &Error) -> bool {
    !is_transient(error) && !matches!(error, Error::Internal(_))
}

/// What became of a request, by its events.
fn outcome(fates: impl Iterator<Item = Fate>) -> &'static str {
    let rank = |fate: Fate| match fate {
        Fate::Recorded(_) => 3,
        Fate::Duplicate | Fate::Conflict => 2,
        Fate::Rejected { .. } | Fate::Unavailable { .. } => 1,
        Fate::Filtered => 0,
    };
    ["ignored", "refused", "duplicate", "recorded"][fates.map(rank).max().unwrap_or(0)]
}

fn count(outcome: &'static str, entries: usize) {
    metrics::counter!("tenancy_access_log_entries_total", "outcome" => outcome).increment(entries as u64);
}

fn count_settlements(outcome: &'static str, settlements: usize) {
    metrics::counter!("tenancy_access_log_settlements_total", "outcome" => outcome).increment(settlements as u64);
}
