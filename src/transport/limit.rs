//! Bounds the requests in flight, and the streams that are open. One too many is refused at once: a queue would only
//! grow older.
//!
//! A stream is a request in flight until its reply begins; from then on it counts among the streams, or a few thousand
//! idle ones would lock out everybody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::error::Error;
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::{goes_on, led};

/// The layer.
#[derive(Clone, Debug)]
pub struct Limit {
    requests: Arc<InFlight>,
    streams: Arc<Semaphore>,
}

/// How many requests are in flight. A semaphore would take a lock for each that leaves, for whoever might wait: nobody does.
#[derive(Debug)]
struct InFlight {
    most: usize,
    now: AtomicUsize,
}

/// A request in flight, until it is dropped.
struct Place<'a>(&'a InFlight);

impl InFlight {
    /// `None`: there are as many as there may be.
    fn enter(&self) -> Option<Place<'_>> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        let place = Place(self);
        (before < self.most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limit {
    /// At most `requests` in flight and `streams` open at once, on all connections together.
    #[must_use]
    pub fn new(requests: usize, streams: usize) -> Self {
        Self {
            requests: Arc::new(InFlight { most: requests, now: AtomicUsize::new(0) }),
            streams: Arc::new(Semaphore::new(streams)),
        }
    }
}

impl Middleware for Limit {
    async fn handle<N: Next>(&self, request: Request, next: &N) -> Response {
        let Some(_place) = self.requests.enter() else {
            return refusal("TOO_MANY_REQUESTS", "too many requests are in flight", Duration::from_millis(200));
        };
        if !request.is_stream {
            return next.run(request).await;
        }
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            return refusal("TOO_MANY_STREAMS", "too many streams are open", Duration::from_secs(1));
        };
        let response = next.run(request).await;
        if !goes_on(&response) {
            return response;
        }
        led(response, |pieces| {
            pieces.inspect(move |_| {
                // Free when the stream is dropped.
                let _held = &place;
            })
        })
    }
}

fn refusal(reason: &'static str, message: &'static str, retry_after: Duration) -> Response {
    Status::from(Error::Overloaded { reason, message, retry_after }).into_http()
}
