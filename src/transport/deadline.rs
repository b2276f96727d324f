//! Ends requests at their deadline: the caller's `grpc-timeout`, or ours where there is none or it is longer.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::HeaderName;
use tonic::Status;

use crate::clock::Clock;
use crate::deadline;
use crate::error::Error;
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::{ended, goes_on, led};

/// The header that says how long the caller waits.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The layer.
#[derive(Clone, Debug)]
pub struct Deadline {
    /// The time.
    pub clock: Clock,
    /// The longest a request may take, and what it gets without a `grpc-timeout`.
    pub longest: Duration,
}

impl Middleware for Deadline {
    async fn handle<N: Next>(&self, request: Request, next: &N) -> Response {
        // What cannot be read is no timeout; the specification calls for ignoring it.
        let asked = request.http.headers().get(TIMEOUT).and_then(|value| value.to_str().ok()).and_then(parse);
        let time = asked.map_or(self.longest, |asked| asked.min(self.longest));
        let streams = request.is_stream;
        let came = request.at.instant;
        // Tokio's timers know nothing of what a test added.
        let began = tokio::time::Instant::from_std(came.checked_sub(self.clock.ahead()).unwrap_or(came));
        // Pinned here, so that what is inside is not moved into each of the futures around it.
        let mut work = std::pin::pin!(deadline::scope(came + time, next.run(request)));
        // What is answered from memory is answered at once, and needs no timer.
        let outcome = match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            Poll::Ready(response) => Ok(response),
            Poll::Pending => tokio::time::timeout_at(began + time, work).await,
        };
        match outcome {
            // Our limit is for the beginning of a stream. It goes on as long as its caller asked for, or for good.
            Ok(response) if streams && goes_on(&response) => match asked.and_then(|asked| began.checked_add(asked)) {
                Some(deadline) => until(response, deadline),
                None => response,
            },
            Ok(response) => response,
            Err(_) => Status::from(Error::DeadlineExceeded).into_http(),
        }
    }
}

/// The stream, ended at the deadline.
fn until(response: Response, deadline: tokio::time::Instant) -> Response {
    led(response, |pieces| {
        stream::unfold(Some(pieces), move |pieces| async move {
            let mut pieces = pieces?;
            match tokio::time::timeout_at(deadline, pieces.next()).await {
                Ok(piece) => Some((piece?, Some(pieces))),
                Err(_) => Some((ended(&Error::DeadlineExceeded.into()), None)),
            }
        })
    })
}

/// Reads `<1 to 8 digits><unit>`, the unit being one of H, M, S, m, u, n.
fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_hours(99_999_999)));
        for bad in ["", "m", "250", "-1S", "123456789S", "1é", "1x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
