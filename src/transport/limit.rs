//! Bounds the requests in flight. One too many is refused at once: a queue would only grow older.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Status;

use crate::error::Error;
use crate::transport::middleware::{Middleware, Next, Request, Response};

/// The layer.
#[derive(Clone, Debug)]
pub struct Limit(Arc<Semaphore>);

impl Limit {
    /// At most `requests` at once, on all connections together.
    #[must_use]
    pub fn new(requests: usize) -> Self {
        Self(Arc::new(Semaphore::new(requests)))
    }
}

impl Middleware for Limit {
    async fn handle<N: Next>(&self, request: Request, mut next: N) -> Response {
        let Ok(_place) = self.0.try_acquire() else {
            let overloaded = Error::Overloaded {
                reason: "TOO_MANY_REQUESTS",
                message: "too many requests are in flight",
                retry_after: Duration::from_millis(200),
            };
            return Status::from(overloaded).into_http();
        };
        next.run(request).await
    }
}
