//! Unary calls as they nearly always come: one message, whole, in one frame, not compressed.
//!
//! Tonic takes a unary call for a stream of one message: the body goes into three boxes, the message into a buffer and the reply
//! into another, and both are looked at for what may follow. For what is answered from memory that was a tenth of
//! the answer. Here such a call is answered directly; whatever comes otherwise is left to tonic, as it came, so that
//! there is one answer to everything that is out of the ordinary.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{StreamExt as _, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Body as _, Bytes, Frame};
use prost::Message;
use prost::bytes::{Buf as _, BufMut as _, BytesMut};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use crate::proto::reply::Reply;
use crate::transport::middleware::Response;

/// What goes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The longest message: tonic's limit, which it sees to itself.
const LONGEST: usize = 4 << 20;

/// The header that says how messages are compressed.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// A call that is out of the ordinary, as it came.
pub type Otherwise = http::Request<Body>;

/// The message of an ordinary call.
pub async fn read<T: Message + Default>(request: http::Request<Body>) -> Result<Result<T, Status>, Box<Otherwise>> {
    let (parts, mut body) = request.into_parts();
    let mut read = Vec::new();
    if !parts.headers.contains_key(ENCODING)
        && let Some(first) = body.frame().await
    {
        let message = first.as_ref().ok().and_then(Frame::data_ref).and_then(message);
        // Most say with the message that it was all; for the others it is waited.
        let end = if message.is_none() || body.is_end_stream() { None } else { body.frame().await };
        match (message, end) {
            (Some(message), None) => return Ok(T::decode(message).map_err(|error| Status::internal(error.to_string()))),
            (_, end) => read.extend([Some(first), end].into_iter().flatten()),
        }
    }
    let again = StreamBody::new(stream::iter(read).chain(BodyStream::new(body)));
    Err(Box::new(http::Request::from_parts(parts, Body::new(again))))
}

/// The message that a frame is, without its prefix; `None` for anything else.
fn message(frame: &Bytes) -> Option<Bytes> {
    let mut message = frame.clone();
    let is_whole = message.len() >= PREFIX
        && message.get_u8() == 0
        && usize::try_from(message.get_u32()).is_ok_and(|length| length == message.len() && length <= LONGEST);
    is_whole.then_some(message)
}

/// The reply to a call.
pub fn reply(outcome: Result<impl Reply, Status>) -> Response {
    let message = match outcome {
        Ok(message) => message,
        Err(status) => return status.into_http(),
    };
    let mut frame = BytesMut::with_capacity(PREFIX + message.room());
    frame.put_bytes(0, PREFIX);
    message.write(&mut frame);
    // Longer than four gigabytes is no message that anybody could have made here.
    let Ok(length) = u32::try_from(frame.len() - PREFIX) else {
        return Status::out_of_range("the reply is too long").into_http();
    };
    frame[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    let mut response = http::Response::new(Body::new(Replied(Left::Message(frame.freeze()))));
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// The body of a reply.
struct Replied(Left);

/// What is left of it.
enum Left {
    Message(Bytes),
    Trailers,
    Nothing,
}

impl hyper::body::Body for Replied {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(match std::mem::replace(&mut self.0, Left::Nothing) {
            Left::Message(message) => {
                self.0 = Left::Trailers;
                Some(Ok(Frame::data(message)))
            }
            Left::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                Some(Status::ok("").add_header(&mut trailers).map(|()| Frame::trailers(trailers)))
            }
            Left::Nothing => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Left::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Info = tonic_types::pb::ErrorInfo;

    /// A prefix and what follows it.
    fn framed(flag: u8, length: usize, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&[flag], &length[..], rest].concat()
    }

    fn request(frames: &[&[u8]], trailers: bool) -> http::Request<Body> {
        let mut frames: Vec<Result<_, Status>> =
            frames.iter().map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame)))).collect();
        if trailers {
            frames.push(Ok(Frame::trailers(HeaderMap::new())));
        }
        http::Request::new(Body::new(StreamBody::new(stream::iter(frames))))
    }

    #[tokio::test]
    async fn an_ordinary_call_is_read_and_any_other_stays_as_it_came() {
        let sent = Info { reason: "GOOD".into(), ..Info::default() };
        let bytes = sent.encode_to_vec();
        let whole = framed(0, bytes.len(), &bytes);
        let read_one = read::<Info>(request(&[&whole], false)).await.unwrap().unwrap();
        assert_eq!(read_one, sent);
        let empty = read::<Info>(request(&[&framed(0, 0, &[])], false)).await.unwrap().unwrap();
        assert_eq!(empty, Info::default());
        let wrong = read::<Info>(request(&[&framed(0, 1, &[0x0a])], false)).await.unwrap();
        assert_eq!(wrong.unwrap_err().code(), tonic::Code::Internal, "as tonic says");

        let (head, tail) = whole.split_at(7);
        let twice = [&whole[..], &whole[..]].concat();
        for (frames, trailers, what) in [
            (&[head, tail][..], false, "two frames"),
            (&[&whole[..]][..], true, "trailers"),
            (&[&whole[..], &whole[..]][..], false, "two messages"),
            (&[&twice[..]][..], false, "two messages in a frame"),
            (&[head][..], false, "less than it says"),
            (&[&framed(1, bytes.len(), &bytes)[..]][..], false, "compressed"),
            (&[&framed(0, LONGEST + 1, &bytes)[..]][..], false, "too long"),
            (&[&whole[..3]][..], false, "not even a prefix"),
            (&[][..], false, "nothing"),
        ] {
            let otherwise = read::<Info>(request(frames, trailers)).await.unwrap_err();
            let body = otherwise.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().is_some(), trailers, "{what}");
            assert_eq!(body.to_bytes(), frames.concat(), "{what}");
        }
        let mut compressed = request(&[&whole], false);
        compressed.headers_mut().insert(ENCODING, http::HeaderValue::from_static("gzip"));
        let otherwise = read::<Info>(compressed).await.unwrap_err();
        assert_eq!(otherwise.into_body().collect().await.unwrap().to_bytes(), whole);
    }

    #[tokio::test]
    async fn a_reply_is_a_message_and_its_end() {
        let sent = Info { reason: "GOOD".into(), ..Info::default() };
        let body = reply(Ok(sent.clone())).into_body().collect().await.unwrap();
        let trailers = body.trailers().unwrap();
        assert_eq!(Status::from_header_map(trailers).unwrap().code(), tonic::Code::Ok);
        let bytes = body.to_bytes();
        assert_eq!(bytes, framed(0, bytes.len() - PREFIX, &sent.encode_to_vec()));
        let refused = reply(Err::<Info, _>(Status::not_found("nobody")));
        assert_eq!(Status::from_header_map(refused.headers()).unwrap().code(), tonic::Code::NotFound);
    }
}
