//! Turns a panic into an answer: one request's misfortune is not its connection's.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt as _, StreamExt as _};
use tonic::Status;

use crate::error::Error;
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::{ended, goes_on, led};

/// The layer.
#[derive(Clone, Copy, Debug)]
pub struct CatchPanic;

impl Middleware for CatchPanic {
    async fn handle<N: Next>(&self, request: Request, next: &N) -> Response {
        let streams = request.is_stream;
        // What the request held is dropped with it: scopes roll back, locks of ours recover from poison.
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) if streams && goes_on(&response) => led(response, |pieces| {
                let pieces = AssertUnwindSafe(pieces).catch_unwind();
                pieces.map(|piece| piece.unwrap_or_else(|panic| ended(&answer(&*panic))))
            }),
            Ok(response) => response,
            Err(panic) => answer(&*panic).into_http(),
        }
    }
}

fn answer(panic: &(dyn Any + Send)) -> Status {
    Error::internal(format!("panic: {}", text(panic))).into()
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of unknown kind")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;
    use tonic::body::Body;
    use tonic_types::StatusExt as _;
    use tower::{Layer as _, service_fn};

    use super::*;
    use crate::clock::Clock;
    use crate::transport::middleware::{Around, Arrival};
    use crate::transport::peer::Peer;

    async fn asked(path: &str) -> Response {
        let service = service_fn(|request: http::Request<Body>| async move {
            match request.uri().path() {
                "/text" => panic!("a secret"),
                "/format" => panic!("a {}", "secret"),
                "/other" => std::panic::panic_any(7),
                _ => Ok::<_, Infallible>(Response::new(Body::empty())),
            }
        });
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        Around(CatchPanic).layer(service).run(Arrival::new(request, Peer::default(), Clock::system().moment())).await
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_that_tells_nothing() {
        for path in ["/text", "/format", "/other"] {
            let status = Status::from_header_map(asked(path).await.headers()).unwrap();
            assert_eq!(status.code(), Code::Internal);
            assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
            assert!(!status.message().contains("secret"), "{status:?}");
        }
        assert!(Status::from_header_map(asked("/fine").await.headers()).is_none());
    }
}
