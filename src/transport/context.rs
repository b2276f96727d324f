//! Gives every request its id, its log span and its metrics.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use metrics::{Counter, Histogram, Unit, counter, histogram};
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};

use crate::auth::permission::METHODS;
use crate::clock::Clock;
use crate::ids;
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::{end, goes_on, is_stream, led};

/// The header that carries the id of a request, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the caller's `x-request-id` where that is 1 to 128 visible ASCII characters, else a new UUID.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// The layer.
#[derive(Clone, Debug)]
pub struct RequestContext {
    clock: Clock,
    methods: Arc<HashMap<&'static str, Meters>>,
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
        let methods = METHODS.iter().map(|(path, _)| (*path, Meters::of(path))).collect();
        // Whatever else is asked for has one label, so that nobody can fill the memory with made up names.
        Self { clock, methods: Arc::new(methods), others: Meters::of("other") }
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

    fn count(&self, status: &Status, span: &Span) {
        if status.code() == Code::Ok {
            return self.ok.increment(1);
        }
        let code = format!("{:?}", status.code());
        counter!("tenancy_requests_total", "method" => self.method, "code" => code).increment(1);
        span.in_scope(|| tracing::debug!(code = ?status.code(), message = status.message(), "refused"));
    }
}

impl Middleware for RequestContext {
    async fn handle<N: Next>(&self, mut request: Request, next: &mut N) -> Response {
        let meters = self.methods.get(request.uri().path()).unwrap_or(&self.others);
        let streams = is_stream(request.uri().path());
        let (id, header) = self.request_id(&request);
        request.extensions_mut().insert(RequestId(Arc::clone(&id)));
        let span = tracing::info_span!("request", method = meters.method, request_id = %id, organization_id = tracing::field::Empty);

        let start = self.clock.instant();
        // Pinned here, so that it is not moved into the future around it.
        let work = std::pin::pin!(next.run(request));
        let mut response = work.instrument(span.clone()).await;
        let elapsed = self.clock.instant().saturating_duration_since(start);
        meters.seconds.record(elapsed.as_secs_f64());
        match Status::from_header_map(response.headers()) {
            Some(status) => meters.count(&status, &span),
            None if streams && goes_on(&response) => response = followed(response, meters.clone(), span),
            None => meters.ok.increment(1),
        }
        response.headers_mut().insert(REQUEST_ID, header);
        response
    }
}

/// A stream that is logged with its request's id and counted by how it ends.
fn followed(response: Response, meters: Meters, span: Span) -> Response {
    // Who goes away in the middle reads no trailers.
    let outcome = Outcome { status: Status::cancelled("the caller went away"), meters, span: span.clone() };
    led(response, |pieces| {
        stream::unfold((pieces, outcome), move |(mut pieces, mut outcome)| {
            let next = async move {
                let piece = pieces.next().await?;
                if let Some(status) = end(&piece) {
                    outcome.status = status;
                }
                Some((piece, (pieces, outcome)))
            };
            next.instrument(span.clone())
        })
    })
}

/// How a stream ended, counted when it is dropped.
struct Outcome {
    status: Status,
    meters: Meters,
    span: Span,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.meters.count(&self.status, &self.span);
    }
}

impl RequestContext {
    fn request_id(&self, request: &Request) -> (Arc<str>, HeaderValue) {
        if let Some(header) = request.headers().get(REQUEST_ID)
            && let Ok(id) = header.to_str()
            && (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return (Arc::from(id), header.clone());
        }
        let id = ids::fleeting(self.clock.now()).to_string();
        let header = HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static(""));
        (Arc::from(id), header)
    }
}
