//! Calls whose reply is a stream: it begins at once and goes on for as long as both sides like. What a layer does with
//! other replies, it does with the frames of such a one as they come, by what is here.

use futures_util::stream::Stream;
use http_body_util::{BodyStream, StreamBody};
use hyper::body::{Bytes, Frame};
use tonic::Status;
use tonic::body::Body;

use crate::transport::middleware::Response;

/// The RPCs whose reply is a stream; a test compares ours with the descriptors.
pub const STREAMS: &[&str] = &[
    "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
    "/envoy.service.rate_limit_quota.v3.RateLimitQuotaService/StreamRateLimitQuotas",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/tenancy.v1.UsageService/StreamUsage",
];

/// What a reply is made of: messages, and trailers at the end.
pub type Piece = Result<Frame<Bytes>, Status>;

/// Whether the reply of this RPC is a stream.
#[must_use]
pub fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Whether the reply has not ended with its headers: a refusal has.
#[must_use]
pub fn goes_on(response: &Response) -> bool {
    Status::from_header_map(response.headers()).is_none()
}

/// The reply with its pieces led through `through`.
pub fn led<S>(response: Response, through: impl FnOnce(BodyStream<Body>) -> S) -> Response
where
    S: Stream<Item = Piece> + Send + 'static,
{
    response.map(|body| Body::new(StreamBody::new(through(BodyStream::new(body)))))
}

/// How a reply ended, where this piece is its end.
#[must_use]
pub fn end(piece: &Piece) -> Option<Status> {
    match piece {
        Ok(frame) => Status::from_header_map(frame.trailers_ref()?),
        Err(status) => Some(status.clone()),
    }
}

/// The end of a reply with this status.
pub fn ended(status: &Status) -> Piece {
    let mut trailers = http::HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
