//! Envoy's access log service: the requests of tenants become usage, once each, and what was reserved for them is settled with
//! what they really took. `entry` reads an entry, `intake` records a message of them.
//!
//! # What is lost
//!
//! The protocol has no acknowledgements: an Envoy forgets an entry when it has written it to the stream. So what is on its way
//! can be lost, and how much that is at the most is:
//!
//! | what happens | what is lost |
//! |---|---|
//! | this service is told to stop, or a connection gets old | nothing that was read: it is recorded, for as long as `TENANCY_SHUTDOWN_GRACE`, and only then does the service end. What the Envoy writes while its stream ends; and what HTTP/2 held, where recording is behind |
//! | this service is killed | what came here and is not committed: of each stream [`MESSAGES`] messages or [`BYTES`], one message more, and the 1 MiB that HTTP/2 lets an Envoy send ahead; with a database that keeps up, the messages of the last few milliseconds |
//! | an Envoy is killed | what it has not sent: a second, or 16 KiB, of entries (`buffer_flush_interval`, `buffer_size_bytes`) |
//! | the database is away | nothing for as long as `TENANCY_ACCESS_LOG_PATIENCE`; after that what waits, counted by `tenancy_access_log_lost_total`, and for each of it what was reserved is recorded when the database is back (see `pending`). Meanwhile no more than the above is read, and the Envoy drops what it cannot send (its `logs_dropped`) |
//!
//! What is lost is never counted wrongly: its reservation stays used in the ledger, at the amount that was reserved.

mod entry;
mod intake;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::layer::Renewal;
use crate::clock::Clock;
use crate::deadline::{self, Ending};
use crate::error::Error;
use crate::proto::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use crate::proto::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use crate::proto::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use crate::sidecar::Ingredients;
use crate::sidecar::access_log::intake::{Batch, Intake};

pub use intake::is_transient;

/// While so many messages of a stream are being recorded, no other is read.
pub const MESSAGES: usize = 4;
/// The same in bytes: a stream holds one message more at the most.
pub const BYTES: usize = 8 << 20;
/// The largest message: an Envoy sends one as soon as it has 16 KiB, unless it is configured otherwise.
pub const LARGEST: usize = 4 << 20;
/// How often a stream on which nothing comes is asked whether its key is still good (I8).
const LOOK: Duration = Duration::from_millis(500);
/// The longest that asking may take.
const LOOKING: Duration = Duration::from_secs(10);
/// When a stream has to end: how long the next message may take to come, and how long reading goes on at the most.
const LAST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What is being recorded, on all streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deliveries {
    tasks: TaskTracker,
    runtime: Handle,
    patience: Duration,
}

impl Deliveries {
    /// None; they will run on the runtime that this is called on, and not on the threads that serve, which end with their
    /// connections. `patience` is how long one is tried while the database is away.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current(), patience }
    }

    /// Waits for `stop`, and then until all that came is recorded; not longer than `grace`.
    pub async fn run(self, stop: CancellationToken, grace: Duration) {
        stop.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(messages = self.tasks.len(), "access logs were not recorded in time, and are lost");
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }
}

/// The service.
#[derive(Clone, Debug)]
pub struct AccessLogs {
    intake: Arc<Intake>,
    deliveries: Deliveries,
    clock: Clock,
}

impl AccessLogs {
    /// The service. Describes the metrics too, so a recorder of them must be installed before.
    #[must_use]
    pub fn new(ingredients: &Ingredients) -> Self {
        let clock = ingredients.shared.clock.clone();
        let intake = Intake::new(ingredients, ingredients.deliveries.patience);
        Self { intake: Arc::new(intake), deliveries: ingredients.deliveries.clone(), clock }
    }
}

#[tonic::async_trait]
impl AccessLogService for AccessLogs {
    type StreamAccessLogsStream = BoxStream<'static, Result<StreamAccessLogsResponse, Status>>;

    async fn stream_access_logs(
        &self,
        mut request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<Self::StreamAccessLogsStream>, Status> {
        let extensions = request.extensions_mut();
        let (Some(renewal), Some(ending)) = (extensions.remove::<Renewal>(), extensions.remove::<Ending>()) else {
            return Err(Error::internal("a stream came past the auth layer or the server").into());
        };
        // Without it nothing can be read, so that the stream had better begin later.
        let key = self.intake.signing_key().await?;
        let session = Session {
            service: self.clone(),
            renewal: Arc::new(renewal),
            ending: ending.0,
            key,
            messages: Arc::new(Semaphore::new(MESSAGES)),
            bytes: Arc::new(Semaphore::new(BYTES)),
        };
        let (ended, end) = oneshot::channel();
        // Not in the reply: what came is recorded, also when the Envoy is gone.
        self.deliveries.spawn(async move {
            // An error is an Envoy that is gone.
            let _ = ended.send(session.read(request.into_inner()).await);
        });
        let reply = stream::once(async {
            let end = end.await.unwrap_or_else(|_| Err(Error::internal("an access log ended by itself").into()));
            end.map(|()| StreamAccessLogsResponse {})
        });
        Ok(Response::new(reply.boxed()))
    }
}

/// One stream.
struct Session {
    service: AccessLogs,
    renewal: Arc<Renewal>,
    ending: CancellationToken,
    key: [u8; 32],
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Session {
    /// Reads until the end. Where the Envoy ends it, all is recorded by then; otherwise it had better go elsewhere at once.
    async fn read(self, mut incoming: Streaming<StreamAccessLogsMessage>) -> Result<(), Status> {
        let mut locked_out = std::pin::pin!(self.locked_out());
        loop {
            let next = async {
                // First, so that no more is read than is being recorded.
                let place = places(&self.messages, 1).await?;
                Ok::<_, Status>((incoming.message().await?, place))
            };
            let (message, place) = tokio::select! {
                biased;
                () = self.ending.cancelled() => break,
                error = locked_out.as_mut() => return Err(error.into()),
                next = next => next?,
            };
            let Some(message) = message else {
                drop(place);
                // Once all are free, all is recorded.
                drop(places(&self.messages, MESSAGES).await?);
                return Ok(());
            };
            self.take(message, place).await?;
        }
        self.read_last(incoming).await?;
        Err(ending().into())
    }

    /// Reads what has come already, or is just coming.
    async fn read_last(&self, mut incoming: Streaming<StreamAccessLogsMessage>) -> Result<(), Status> {
        let (next, all) = LAST;
        let until = Instant::now() + all;
        while let Ok(place) = timeout_at(until, places(&self.messages, 1)).await {
            let message = timeout_at((Instant::now() + next).min(until), incoming.message()).await;
            let Ok(Some(message)) = message.unwrap_or(Ok(None)) else { break };
            self.take(message, place?).await?;
        }
        Ok(())
    }

    /// Begins to record a message.
    async fn take(&self, message: StreamAccessLogsMessage, place: OwnedSemaphorePermit) -> Result<(), Status> {
        let size = places(&self.bytes, message.encoded_len().clamp(1, BYTES)).await?;
        let at = self.service.clock.now();
        // Of TCP connections nothing is read.
        let Some(LogEntries::HttpLogs(entries)) = message.log_entries else { return Ok(()) };
        let batch = Batch::read(&entries.log_entry, &self.key, at);
        let (intake, renewal) = (Arc::clone(&self.service.intake), Arc::clone(&self.renewal));
        self.service.deliveries.spawn(async move {
            let _held = (place, size);
            intake.record(&renewal, batch).await;
        });
        Ok(())
    }

    /// Waits until who sends this may not any more.
    async fn locked_out(&self) -> Error {
        loop {
            sleep(LOOK).await;
            let asked = deadline::scope(self.service.clock.instant() + LOOKING, Box::pin(self.renewal.caller())).await;
            match asked {
                // While the database is away, what was believed is asked for again: with the next message at the latest.
                Ok(_) => {}
                Err(error) if is_transient(&error) => {}
                Err(refusal) => return refusal,
            }
        }
    }
}

async fn places(of: &Arc<Semaphore>, count: usize) -> Result<OwnedSemaphorePermit, Status> {
    let count = u32::try_from(count).map_err(Error::internal)?;
    // It is never closed.
    Ok(Arc::clone(of).acquire_many_owned(count).await.map_err(Error::internal)?)
}

fn ending() -> Error {
    Error::Unavailable {
        reason: "SHUTTING_DOWN",
        message: "the replica stops or the connection is old: open the stream again",
        retry_after: Duration::from_millis(200),
    }
}
