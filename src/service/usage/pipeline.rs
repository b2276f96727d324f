//! Messages in, acknowledgements out, in the same order and several at a time: as many as the bounds allow, and not one
//! more is read. Nothing is spawned: all of it lives in the reply, and ends with it.

use std::future::Future;
use std::pin::Pin;

use futures_util::stream::{self, FuturesOrdered, Stream, StreamExt as _};
use tonic::Status;

use crate::error::Error;

/// How much is not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Messages.
    pub messages: usize,
    /// Events.
    pub events: usize,
    /// Bytes on the wire.
    pub bytes: usize,
}

/// While so much or more is not acknowledged, nothing is read. So a stream holds one message more at the most, which is
/// at most 5000 events and 4 MiB.
///
/// Sixteen messages are plenty to fill the writer's next transaction while one is under way; ten thousand events are
/// five transactions of it.
pub const BOUNDS: Load = Load { messages: 16, events: 10_000, bytes: 8 << 20 };

/// What is being done for one message.
pub type Work<A> = Pin<Box<dyn Future<Output = Result<A, Error>> + Send>>;

/// Why no more is read.
pub type Stop = Pin<Box<dyn Future<Output = Error> + Send>>;

/// A message's work, and what it weighs until then.
type Weighed<A> = Pin<Box<dyn Future<Output = (Load, Result<A, Error>)> + Send>>;

struct Pipeline<I, T, A> {
    /// `None` when nothing more is read.
    incoming: Option<I>,
    take: T,
    stop: Stop,
    in_flight: FuturesOrdered<Weighed<A>>,
    load: Load,
    /// How the stream ends when everything is acknowledged.
    end: Option<Status>,
    is_over: bool,
}

/// The acknowledgements of the messages.
///
/// `take` begins the work for a message and says how much it weighs; an error of its, of the message's work, of
/// `incoming`, or `stop`, ends the stream: after what was taken before is acknowledged.
pub fn acknowledged<M, A: Send + 'static>(
    incoming: impl Stream<Item = Result<M, Status>> + Send + Unpin + 'static,
    take: impl FnMut(M) -> Result<(Load, Work<A>), Error> + Send + 'static,
    stop: Stop,
) -> impl Stream<Item = Result<A, Status>> + Send + 'static
where
    M: Send + 'static,
{
    let pipeline = Pipeline {
        incoming: Some(incoming),
        take,
        stop,
        in_flight: FuturesOrdered::new(),
        load: Load::default(),
        end: None,
        is_over: false,
    };
    stream::unfold(pipeline, |mut pipeline| async move { Some((pipeline.next().await?, pipeline)) })
}

impl<M, I, T, A> Pipeline<I, T, A>
where
    I: Stream<Item = Result<M, Status>> + Unpin,
    T: FnMut(M) -> Result<(Load, Work<A>), Error>,
    A: Send + 'static,
{
    async fn next(&mut self) -> Option<Result<A, Status>> {
        loop {
            let Self { incoming, stop, in_flight, load, .. } = self;
            let reads = incoming.is_some();
            let has_room = load.has_room();
            let message = async {
                match incoming {
                    Some(incoming) => incoming.next().await,
                    None => None,
                }
            };
            tokio::select! {
                // Acknowledgements first, as they make room; and a reason to stop before another message.
                biased;
                Some((of_message, outcome)) = in_flight.next(), if !self.is_over => {
                    self.load.remove(of_message);
                    return Some(outcome.map_err(|error| self.over(error)));
                }
                why = stop, if reads => self.end_with(Some(why.into())),
                message = message, if reads && has_room => match message {
                    Some(Ok(message)) => self.begin(message),
                    Some(Err(status)) => self.end_with(Some(status)),
                    None => self.end_with(None),
                },
                else => return self.end.take().map(Err),
            }
        }
    }

    fn begin(&mut self, message: M) {
        match (self.take)(message) {
            Ok((load, work)) => {
                self.load.add(load);
                self.in_flight.push_back(Box::pin(async move { (load, work.await) }));
            }
            Err(error) => self.end_with(Some(error.into())),
        }
    }

    /// Reads nothing more.
    fn end_with(&mut self, end: Option<Status>) {
        self.incoming = None;
        self.end = end;
    }

    /// Ends at once: what comes after a message that failed cannot be acknowledged.
    fn over(&mut self, error: Error) -> Status {
        self.end_with(None);
        self.in_flight = FuturesOrdered::new();
        self.is_over = true;
        error.into()
    }
}

impl Load {
    const fn has_room(self) -> bool {
        self.messages < BOUNDS.messages && self.events < BOUNDS.events && self.bytes < BOUNDS.bytes
    }

    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.events += other.events;
        self.bytes += other.bytes;
    }

    fn remove(&mut self, other: Self) {
        self.messages -= other.messages;
        self.events -= other.events;
        self.bytes -= other.bytes;
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
