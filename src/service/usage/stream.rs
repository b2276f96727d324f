//! `StreamUsage`: what is done with each message, and what ends a stream besides its producer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::auth::layer::Renewal;
use crate::auth::principal::Caller;
use crate::clock::Clock;
use crate::deadline;
use crate::error::{Error, Violation};
use crate::proto::v1;
use crate::service::usage::intake::{Batch, Intake};
use crate::service::usage::pipeline::{Load, Stop, Work};

/// How often a stream on which nothing comes is asked whether its key is still good (I8).
const LOOK: Duration = Duration::from_millis(500);
/// The longest that one try to record a message may take, as the writer's own limit.
const MESSAGE: Duration = Duration::from_mins(1);
/// How long to wait for room in the writer's queue: at first, and at most. Each wait is twice the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// One stream.
#[derive(Debug)]
pub struct Session {
    /// Takes events in.
    pub intake: Arc<Intake>,
    /// The time.
    pub clock: Clock,
    /// Who sends it.
    pub renewal: Renewal,
    /// Cancelled when the stream has to end.
    pub ending: CancellationToken,
    /// The one organization of the last message that had no more than one.
    pub last_organization: Mutex<Option<String>>,
}

impl Session {
    /// Begins the work for a message. `last` is the sequence of the one before.
    pub fn take(
        self: &Arc<Self>,
        last: &mut Option<i64>,
        message: v1::StreamUsageRequest,
    ) -> Result<(Load, Work<v1::StreamUsageResponse>), Error> {
        let load = Load { messages: 1, events: message.events.len(), bytes: message.encoded_len() };
        let v1::StreamUsageRequest { organization_id, sequence, events } = message;
        if last.is_some_and(|last| sequence <= last) {
            return Err(Violation::new("sequence", "must be larger than that of the message before").into());
        }
        *last = Some(sequence);
        let session = Arc::clone(self);
        let only = events.iter().all(|event| event.organization_id.is_empty()).then(|| organization_id.clone());
        let batch = Batch::read(organization_id, events)?;
        let work = async move {
            let results = session.record(batch).await?;
            if only.is_some() {
                *session.last_organization.lock().unwrap_or_else(PoisonError::into_inner) = only;
            }
            Ok(v1::StreamUsageResponse { sequence, results })
        };
        Ok((load, Box::pin(work)))
    }

    /// Records a message, however long the queue is full.
    async fn record(&self, mut batch: Batch) -> Result<Vec<v1::UsageEventResult>, Error> {
        let (mut wait, longest) = BACK_OFF;
        loop {
            // The caller anew at every try: it may have waited for long.
            let tried = async {
                let caller = self.caller().await?;
                self.intake.record(&caller, &mut batch).await;
                Ok::<_, Error>(())
            };
            self.within(tried).await?;
            if !batch.is_overloaded() {
                return batch.reply();
            }
            metrics::counter!("tenancy_usage_stream_waits_total").increment(1);
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(longest),
                () = self.ending.cancelled() => return Err(ending()),
            }
        }
    }

    /// Waits for a reason to read no more.
    pub fn stop(self: &Arc<Self>) -> Stop {
        let session = Arc::clone(self);
        Box::pin(async move {
            tokio::select! {
                () = session.ending.cancelled() => ending(),
                error = session.locked_out() => error,
            }
        })
    }

    /// Waits until who sends this may not any more.
    async fn locked_out(&self) -> Error {
        loop {
            sleep(LOOK).await;
            match self.within(self.look()).await {
                // While the database is away, what was believed is asked for again: with the next message at the latest.
                Ok(()) | Err(Error::Unavailable { .. } | Error::DeadlineExceeded | Error::Internal(_)) => {}
                Err(refusal) => return refusal,
            }
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let caller = self.caller().await?;
        let organization = self.last_organization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What the platform's own keys may depends on no organization's state.
        if let Some(organization) = organization.filter(|_| !caller.is_platform()) {
            self.intake.gate.tenant(&caller, &organization).await?;
        }
        Ok(())
    }

    async fn caller(&self) -> Result<Caller, Error> {
        // What it takes for a key that is not in memory are kilobytes, which a stream need not carry for all its life.
        Box::pin(self.renewal.caller()).await
    }

    /// As a request with a deadline of its own: the pools and the statements ask for it.
    fn within<F: Future>(&self, work: F) -> TaskLocalFuture<Instant, F> {
        deadline::scope(self.clock.instant() + MESSAGE, work)
    }
}

fn ending() -> Error {
    Error::Unavailable {
        reason: "SHUTTING_DOWN",
        message: "the replica stops or the connection is old: open the stream again, and send what is not acknowledged",
        retry_after: Duration::from_millis(200),
    }
}
