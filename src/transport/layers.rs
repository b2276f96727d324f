//! The layers, in their order. The outermost is first; a test asserts what the order is for.

use std::time::Duration;

use tower::ServiceBuilder;

use crate::auth::layer::Authenticate;
use crate::clock::Clock;
use crate::transport::context::RequestContext;
use crate::transport::deadline::Deadline;
use crate::transport::dispatch::Dispatch;
use crate::transport::error_info::WithErrorInfo;
use crate::transport::limit::Limit;
use crate::transport::middleware::{Around, Next};
use crate::transport::panic::CatchPanic;

/// What the layers are told.
#[derive(Clone, Copy, Debug)]
pub struct LayerOptions {
    /// The longest a request may take.
    pub longest_request: Duration,
    /// The most requests in flight.
    pub requests_in_flight: usize,
    /// The most streams that are open.
    pub streams: usize,
}

/// Puts the layers around the services.
#[must_use]
pub fn around(services: Dispatch, authenticate: Authenticate, options: LayerOptions, clock: &Clock) -> impl Next {
    ServiceBuilder::new()
        // First, so that whatever happens below has an id, is logged with it, and is counted.
        .layer(Around(RequestContext::new(clock.clone())))
        // Below it, so that the id is known; above everything that may answer without an ErrorInfo.
        .layer(Around(WithErrorInfo))
        // A panic is one request's misfortune, not its connection's; the layers above still count it.
        .layer(Around(CatchPanic))
        // Before the limit: a request that is refused needs no time, and one that is let in must end.
        .layer(Around(Deadline { clock: clock.clone(), longest: options.longest_request }))
        // Before authentication, which may cost a database read and an argon2 run.
        .layer(Around(Limit::new(options.requests_in_flight, options.streams)))
        // Last: nothing reaches a service without a caller.
        .layer(Around(authenticate))
        .service(services)
}
