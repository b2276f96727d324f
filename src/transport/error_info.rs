//! Sees to it that every error leaves with exactly one ErrorInfo, also those that tonic makes itself before a service
//! is reached: an unknown method, a message that is too large or cannot be read.

use futures_util::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::status::{DOMAIN, short};
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::{Piece, end, ended, goes_on, led};

/// The layer.
#[derive(Clone, Copy, Debug)]
pub struct WithErrorInfo;

impl Middleware for WithErrorInfo {
    async fn handle<N: Next>(&self, request: Request, next: &N) -> Response {
        let streams = request.is_stream;
        let response = next.run(request).await;
        match Status::from_header_map(response.headers()) {
            Some(status) if lacks_info(&status) => explain(&status).into_http(),
            _ if streams && goes_on(&response) => led(response, |pieces| pieces.map(with_info)),
            _ => response,
        }
    }
}

/// The same piece; with an ErrorInfo where it ends the reply with an error.
fn with_info(piece: Piece) -> Piece {
    match end(&piece).filter(lacks_info) {
        Some(status) => ended(&explain(&status)),
        None => piece,
    }
}

/// Whatever carries details was made by status.rs.
fn lacks_info(status: &Status) -> bool {
    status.code() != Code::Ok && status.details().is_empty()
}

fn explain(status: &Status) -> Status {
    let (code, reason) = match status.code() {
        // tonic's word for a message over the limit; gRPC's is RESOURCE_EXHAUSTED.
        Code::OutOfRange => (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        Code::Unimplemented => (Code::Unimplemented, "METHOD_NOT_FOUND"),
        // tonic says INTERNAL for bytes that are not the message; the fault is the caller's.
        Code::Internal => (Code::InvalidArgument, "MALFORMED_MESSAGE"),
        Code::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        Code::Cancelled => (Code::Cancelled, "CANCELLED"),
        code => (code, "REQUEST_REFUSED"),
    };
    Status::with_error_details(code, short(status.message()), ErrorDetails::with_error_info(reason, DOMAIN, []))
}
