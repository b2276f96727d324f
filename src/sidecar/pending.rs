//! Requests that were let through and whose log has not come. When it does not come until the reservation expires, what was
//! reserved is what was used: the ledger has it so already, and the usage event is recorded here.
//!
//! The event has the identity that the log's would have: where the log came to another replica, or comes later, one of the two
//! is a duplicate, or with another amount a conflict, and the first stays.
//!
//! In memory, and bounded. What is open when the replica ends is left as it is: if its log never comes to any replica either,
//! the request stays in the ledger and is missing in the usage. Of a request without a meter nothing would be recorded, and what
//! a log alone would have told, such as bytes, is not made up.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Map;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::metering::recorder::{Fate, Recorder};
use crate::model::usage::Quantity;
use crate::sidecar::access_log::is_transient;
use crate::sidecar::admission::Admission;
use crate::sidecar::usage::{Amount, Request};

/// The most that are known; beyond, the oldest is given up.
const MOST: usize = 100_000;
/// How long after the expiry a log is waited for: it may be on its way.
const MARGIN: TimeDelta = TimeDelta::seconds(5);
/// How often is looked for those that are due.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most that are recorded at once.
const BATCH: usize = 1000;

/// The open requests of this replica. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pending(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recorder: Recorder,
    clock: Clock,
    most: usize,
    open: Mutex<Open>,
}

/// When one is due, and which.
type Due = (DateTime<Utc>, Uuid);

#[derive(Debug, Default)]
struct Open {
    due: HashMap<Uuid, DateTime<Utc>>,
    in_order: BTreeMap<Due, Waiting>,
}

/// What its event would be made of.
#[derive(Clone, Debug)]
struct Waiting {
    organization_id: OrganizationId,
    request: Request,
    meter: String,
    amount: u64,
}

impl Pending {
    /// None open. Describes the metrics too, so a recorder of them must be installed before.
    #[must_use]
    pub fn new(recorder: Recorder, clock: Clock) -> Self {
        Self::bounded(recorder, clock, MOST)
    }

    /// The same with another bound.
    #[must_use]
    pub fn bounded(recorder: Recorder, clock: Clock, most: usize) -> Self {
        metrics::describe_gauge!("tenancy_access_log_pending", "Requests whose access log has not come.");
        metrics::describe_counter!(
            "tenancy_access_log_pending_total",
            "Requests whose access log had not come when their reservation expired, by outcome: recorded, known (from \
             another replica), refused, dropped (there were too many)."
        );
        Self(Arc::new(Inner { recorder, clock, most, open: Mutex::default() }))
    }

    /// A request was let through: its log is awaited.
    pub fn open(&self, admission: &Admission) {
        let Some(meter) = admission.meter.clone() else { return };
        let waiting = Waiting {
            organization_id: admission.organization_id(),
            request: Request::of(admission, Map::new()),
            meter,
            amount: admission.reservation.amount,
        };
        self.put((admission.reservation.expire_time + MARGIN, admission.reservation.id), waiting);
    }

    /// Its log has come.
    pub fn closed(&self, id: Uuid) {
        let mut open = self.lock();
        if let Some(due) = open.due.remove(&id) {
            open.in_order.remove(&(due, id));
        }
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().due.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records those whose reservation expired some seconds ago. What cannot be recorded now stays open.
    ///
    /// Error: the last of those for which something stays open.
    pub async fn run_once(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        loop {
            let due = self.take();
            if due.is_empty() {
                break;
            }
            for (organization_id, due) in due {
                if let Err(error) = self.record(organization_id, &due).await {
                    if is_transient(&error) {
                        for (due, waiting) in due {
                            self.put(due, waiting);
                        }
                        outcome = Err(error);
                    } else {
                        tracing::error!(%error, %organization_id, requests = due.len(), "usage that was not logged could not be recorded");
                        count("refused", due.len());
                    }
                }
            }
            if outcome.is_err() {
                break;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("tenancy_access_log_pending").set(self.len() as f64);
        outcome
    }

    /// Goes on until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            if let Err(error) = self.run_once().await {
                tracing::warn!(%error, "usage that was not logged is not recorded yet");
            }
        }
    }

    async fn record(&self, organization_id: OrganizationId, due: &[(Due, Waiting)]) -> Result<(), Error> {
        let Inner { recorder, .. } = &*self.0;
        let meters = recorder.meters(organization_id, due.iter().map(|(_, waiting)| waiting.meter.as_str())).await?;
        let events = due.iter().filter_map(|(_, Waiting { request, meter, amount, .. })| {
            let amount = Amount { meter: meter.clone(), quantity: Quantity::whole(*amount)?, is_admitted: true };
            Some(request.event(&amount, &meters))
        });
        let permitted = Permitted::system(organization_id, "access_log");
        for fate in recorder.record(&permitted, events.collect()).await? {
            match fate {
                Fate::Recorded(_) => count("recorded", 1),
                Fate::Duplicate | Fate::Conflict => count("known", 1),
                Fate::Filtered | Fate::Rejected { .. } | Fate::Unavailable { .. } => count("refused", 1),
            }
        }
        Ok(())
    }

    /// Takes some that are due, by organization.
    fn take(&self) -> BTreeMap<OrganizationId, Vec<(Due, Waiting)>> {
        let now = self.0.clock.now();
        let mut open = self.lock();
        let mut taken: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for _ in 0..BATCH {
            let Some(first) = open.in_order.first_entry().filter(|first| first.key().0 <= now) else { break };
            let (due, waiting) = first.remove_entry();
            open.due.remove(&due.1);
            taken.entry(waiting.organization_id).or_default().push((due, waiting));
        }
        taken
    }

    fn put(&self, due: Due, waiting: Waiting) {
        let mut open = self.lock();
        if open.due.contains_key(&due.1) {
            return;
        }
        if open.due.len() >= self.0.most
            && let Some(((_, id), _)) = open.in_order.pop_first()
        {
            open.due.remove(&id);
            count("dropped", 1);
        }
        open.due.insert(due.1, due.0);
        open.in_order.insert(due, waiting);
    }

    /// A poisoned lock is taken all the same: nothing that runs under it panics half way.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(outcome: &'static str, requests: usize) {
    metrics::counter!("tenancy_access_log_pending_total", "outcome" => outcome).increment(requests as u64);
}
