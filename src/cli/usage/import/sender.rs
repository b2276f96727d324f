//! Sends messages on a stream, and again on another one when it broke, until each is acknowledged.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use crate::cli::CliError;
use crate::cli::client::progress::Progress;
use crate::cli::client::{BACK_OFF, Credential, is_final, told};
use crate::cli::usage::import::Import;
use crate::cli::usage::import::lines::Batch;
use crate::cli::usage::import::summary::Summary;
use crate::proto::v1::usage_service_client::UsageServiceClient;
use crate::proto::v1::{StreamUsageRequest, StreamUsageResponse, UsageEventStatus};

/// The most messages that are not acknowledged: they are kept to be sent again.
const WINDOW: usize = 8;
/// How long the service may take to end a stream on which everything is acknowledged.
const CLOSING: Duration = Duration::from_secs(2);
/// How often a message is made of events that were UNAVAILABLE before their lines are given up.
const TRIES: u32 = 10;

/// Sends messages.
pub struct Sender {
    endpoint: Endpoint,
    credential: Credential,
    organization: String,
    patience: Duration,
    /// In the order of their sequences.
    unacknowledged: VecDeque<Message>,
    sequence: i64,
    has_ended: bool,
    /// Why it ended before the end of the file.
    fault: Option<io::Error>,
    /// When something was last acknowledged.
    progressed: Instant,
}

struct Message {
    sequence: i64,
    batch: Batch,
    tries: u32,
}

impl Sender {
    /// A sender with nothing sent.
    pub fn new(endpoint: Endpoint, key: &str, command: &Import) -> Result<Self, CliError> {
        Ok(Self {
            endpoint,
            credential: Credential::new(key)?,
            organization: command.organization.clone(),
            patience: command.patience,
            unacknowledged: VecDeque::new(),
            sequence: 0,
            has_ended: false,
            fault: None,
            progressed: Instant::now(),
        })
    }

    /// Sends all that comes. What is not acknowledged at an error is counted as unknown.
    pub async fn run(
        &mut self,
        mut batches: mpsc::Receiver<io::Result<Batch>>,
        summary: &mut Summary,
        progress: &Progress,
    ) -> Result<(), CliError> {
        self.progressed = Instant::now();
        let mut wait = BACK_OFF.0;
        loop {
            let began = self.progressed;
            let error: CliError = match self.stream(&mut batches, summary, progress).await {
                Ok(()) => match self.fault.take() {
                    None => return Ok(()),
                    Some(fault) => format!("the file cannot be read to its end: {fault}").into(),
                },
                Err(status) if is_final(&status) => told(&status).into(),
                Err(status) if self.progressed.elapsed() >= self.patience => {
                    format!("nothing was acknowledged for {:.0?}: {}", self.patience, told(&status)).into()
                }
                Err(status) => {
                    if self.progressed > began {
                        wait = BACK_OFF.0;
                    }
                    progress.tell(&format!("{}; trying again in {wait:.1?}", told(&status)));
                    sleep(wait).await;
                    wait = (wait * 2).min(BACK_OFF.1);
                    continue;
                }
            };
            let unknown = self.unacknowledged.iter().map(|message| message.batch.lines.len() as u64).sum();
            summary.unknown = Some(unknown);
            return Err(error);
        }
    }

    /// One stream: first what was sent on the last one, then what comes.
    async fn stream(
        &mut self,
        batches: &mut mpsc::Receiver<io::Result<Batch>>,
        summary: &mut Summary,
        progress: &Progress,
    ) -> Result<(), Status> {
        let (messages, mut acknowledgements) = self.open().await?;
        let mut sent = 0;
        loop {
            if self.has_ended && self.unacknowledged.is_empty() {
                // So that the service sees a stream that ended well. All that counts is known, however that goes.
                drop(messages);
                let _ = tokio::time::timeout(CLOSING, acknowledgements.message()).await;
                return Ok(());
            }
            let unsent = self.unacknowledged.get(sent);
            let reads = !self.has_ended && unsent.is_none() && self.unacknowledged.len() < WINDOW;
            tokio::select! {
                place = messages.reserve(), if unsent.is_some() => {
                    // A place that is not to be had is a stream that has ended; it says why.
                    if let (Ok(place), Some(message)) = (place, unsent) {
                        place.send(self.request(message));
                        sent += 1;
                    } else {
                        acknowledgements.message().await?;
                        return Err(ended());
                    }
                }
                batch = batches.recv(), if reads => match batch {
                    None => self.has_ended = true,
                    Some(Ok(batch)) => self.push(batch, summary),
                    Some(Err(fault)) => (self.has_ended, self.fault) = (true, Some(fault)),
                },
                acknowledgement = acknowledgements.message() => {
                    let acknowledgement = acknowledgement?.ok_or_else(ended)?;
                    self.settle(acknowledgement, summary, progress).await?;
                    sent = sent.saturating_sub(1);
                }
            }
        }
    }

    async fn open(&self) -> Result<(mpsc::Sender<StreamUsageRequest>, Streaming<StreamUsageResponse>), Status> {
        let channel = self.endpoint.connect().await.map_err(|error| Status::unavailable(causes(&error)))?;
        let (messages, receiver) = mpsc::channel(1);
        let outgoing = stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
            Some((receiver.recv().await?, receiver))
        });
        let request = self.credential.request(outgoing);
        let acknowledgements = UsageServiceClient::new(channel).stream_usage(request).await?;
        Ok((messages, acknowledgements.into_inner()))
    }

    fn request(&self, message: &Message) -> StreamUsageRequest {
        StreamUsageRequest {
            organization_id: self.organization.clone(),
            sequence: message.sequence,
            events: message.batch.events.clone(),
        }
    }

    fn push(&mut self, mut batch: Batch, summary: &mut Summary) {
        for (line, why) in batch.wrong.drain(..) {
            summary.reject(line, "INVALID_LINE", &why);
        }
        self.enqueue(batch, 0);
    }

    fn enqueue(&mut self, batch: Batch, tries: u32) {
        if !batch.events.is_empty() {
            self.sequence += 1;
            self.unacknowledged.push_back(Message { sequence: self.sequence, batch, tries });
        }
    }

    /// Counts what became of the oldest message.
    async fn settle(
        &mut self,
        acknowledgement: StreamUsageResponse,
        summary: &mut Summary,
        progress: &Progress,
    ) -> Result<(), Status> {
        let is_next = |message: &mut Message| {
            message.sequence == acknowledgement.sequence && message.batch.lines.len() == acknowledgement.results.len()
        };
        let Some(Message { batch, tries, .. }) = self.unacknowledged.pop_front_if(is_next) else {
            return Err(Status::internal("an acknowledgement of another message than the next"));
        };
        let mut again = Batch { offset: batch.offset, ..Batch::default() };
        for ((line, event), result) in batch.lines.into_iter().zip(batch.events).zip(&acknowledgement.results) {
            if result.status() == UsageEventStatus::Unavailable && tries < TRIES {
                again.lines.push(line);
                again.events.push(event);
            } else {
                summary.count(line, result);
            }
        }
        if again.events.is_empty() {
            self.progressed = Instant::now();
            progress.reached(again.offset, summary.lines());
        } else {
            // Some organizations' share could not be written just now.
            sleep(BACK_OFF.0 * 2_u32.pow(tries.min(5))).await;
            self.enqueue(again, tries + 1);
        }
        Ok(())
    }
}

fn ended() -> Status {
    Status::unavailable("the service ended the stream")
}

/// An error and what it comes from: tonic's own text is no more than "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
