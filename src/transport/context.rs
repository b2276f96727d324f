//! Gives every request its id, its place in the log and its metrics.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue};
use metrics::{Counter, Histogram, Unit, counter, histogram};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::about::About;
use crate::auth::permission::METHODS;
use crate::clock::Clock;
use crate::ids;
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::{end, goes_on, led};

/// The header that carries the id of a request, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The layer.
#[derive(Clone, Debug)]
pub struct RequestContext {
    clock: Clock,
    /// In the order of [`METHODS`].
    methods: Arc<[Meters]>,
    others: Meters,
}

/// The metrics of one method that every request touches, looked up once.
#[derive(Clone)]
struct Meters {
    method: &'static str,
    ok: Counter,
    seconds: Histogram,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.method)
    }
}

impl RequestContext {
    /// Describes the metrics too, so a recorder must be installed before.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        metrics::describe_counter!("tenancy_requests_total", "Requests by method and gRPC code; streams at their end.");
        metrics::describe_histogram!("tenancy_request_seconds", Unit::Seconds, "Time from the request to its reply.");
        let methods = METHODS.iter().map(|(path, _)| Meters::of(path)).collect();
        // Whatever else is asked for has one label, so that nobody can fill the memory with made up names.
        Self { clock, methods, others: Meters::of("other") }
    }
}

impl Meters {
    fn of(method: &'static str) -> Self {
        Self {
            method,
            ok: counter!("tenancy_requests_total", "method" => method, "code" => "Ok"),
            seconds: histogram!("tenancy_request_seconds", "method" => method),
        }
    }

    fn count(&self, status: &Status, about: &Arc<About>) {
        if status.code() == Code::Ok {
            return self.ok.increment(1);
        }
        let code = format!("{:?}", status.code());
        counter!("tenancy_requests_total", "method" => self.method, "code" => code).increment(1);
        about.within(|| tracing::debug!(code = ?status.code(), message = status.message(), "refused"));
    }
}

impl Middleware for RequestContext {
    async fn handle<N: Next>(&self, mut request: Request, next: &N) -> Response {
        let meters = request.method.and_then(|method| self.methods.get(method)).unwrap_or(&self.others);
        let streams = request.is_stream;
        let (id, header) = request_id(request.http.headers(), request.at.wall);
        request.id = Arc::clone(&id);
        let about = About::new(meters.method, id);

        let came = request.at.instant;
        // Pinned here, so that it is not moved into the future around it.
        let work = std::pin::pin!(next.run(request));
        let mut response = Arc::clone(&about).scope(work).await;
        let elapsed = self.clock.instant().saturating_duration_since(came);
        meters.seconds.record(elapsed.as_secs_f64());
        match Status::from_header_map(response.headers()) {
            Some(status) => meters.count(&status, &about),
            None if streams && goes_on(&response) => response = followed(response, meters.clone(), about),
            None => meters.ok.increment(1),
        }
        response.headers_mut().insert(REQUEST_ID, header);
        response
    }
}

/// A stream that is logged with its request's id and counted by how it ends.
fn followed(response: Response, meters: Meters, about: Arc<About>) -> Response {
    // Who goes away in the middle reads no trailers.
    let outcome = Outcome { status: Status::cancelled("the caller went away"), meters, about: Arc::clone(&about) };
    led(response, |pieces| {
        stream::unfold((pieces, outcome), move |(mut pieces, mut outcome)| {
            let next = async move {
                let piece = pieces.next().await?;
                if let Some(status) = end(&piece) {
                    outcome.status = status;
                }
                Some((piece, (pieces, outcome)))
            };
            Arc::clone(&about).scope(next)
        })
    })
}

/// How a stream ended, counted when it is dropped.
struct Outcome {
    status: Status,
    meters: Meters,
    about: Arc<About>,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.meters.count(&self.status, &self.about);
    }
}

/// The caller's `x-request-id` where that is 1 to 128 visible ASCII characters, else a new UUID; and the header that
/// tells it.
fn request_id(headers: &HeaderMap, now: DateTime<Utc>) -> (Arc<str>, HeaderValue) {
    let (id, mut header) = told(headers).unwrap_or_else(|| {
        let mut text = Uuid::encode_buffer();
        let id = &*ids::fleeting(now).hyphenated().encode_lower(&mut text);
        (Arc::from(id), HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("")))
    });
    // Not as it were a secret, but so that HPACK does not put what never comes again into its table, where it costs
    // both ends, and pushes out what does.
    header.set_sensitive(true);
    (id, header)
}

fn told(headers: &HeaderMap) -> Option<(Arc<str>, HeaderValue)> {
    let header = headers.get(REQUEST_ID)?;
    let id = header.to_str().ok()?;
    let is_fit = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_fit.then(|| (Arc::from(id), header.clone()))
}
