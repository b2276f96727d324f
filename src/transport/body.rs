//! The body of a request, read to its end also where nobody reads it.
//!
//! Whoever is refused is often refused before their message was read, or has come. HTTP/2 has the server reset such a call, and h2
//! takes what still comes for it then as an error of the connection's: after some thousand refusals it sends everybody on
//! it away, with `ENHANCE_YOUR_CALM`. A proxy has one connection for many callers, so that one of them with a wrong
//! key would cost the others theirs. So what is left of a body is read and forgotten, beside the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::runtime::Handle;

/// The most bytes that are read of what nobody wants: the longest message, and its prefix.
const MOST: usize = (4 << 20) + 5;

/// How long its sender may take. Most have sent it by the time they are refused, or stop when they hear of it; a stream that was
/// ended is as good as gone, and must not keep its connection from ending.
const LONGEST: Duration = Duration::from_secs(1);

/// A body whose rest is read when it is dropped.
#[derive(Debug)]
pub struct ReadToEnd<B: Unread>(Option<B>);

/// What a body must be for that.
pub trait Unread: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static> Unread for B {}

impl<B: Unread> ReadToEnd<B> {
    /// The body of a request that has just come.
    pub fn new(body: B) -> Self {
        Self(Some(body))
    }
}

impl<B: Unread> Body for ReadToEnd<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B: Unread> Drop for ReadToEnd<B> {
    fn drop(&mut self) {
        if let Some(body) = self.0.take().filter(|body| !body.is_end_stream())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(LONGEST, forget(body)));
        }
    }
}

/// Reads until the body's end, unless there is too much of it.
async fn forget(mut body: impl Unread) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MOST {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;

    use super::*;

    /// A body of so many frames of a kilobyte, of which it counts those that are read, and which then ends or does not.
    fn body(frames: usize, ends: bool) -> (impl Unread<Error = Infallible>, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let (count, held) = (Arc::clone(&read), Arc::clone(&read));
        let frame = move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Frame::data(Bytes::from_static(&[0; 1024])))
        };
        // A chain drops what has ended, and this one is to be held for as long as the body.
        let rest = stream::pending().take(usize::from(!ends)).inspect(move |_| drop(Arc::clone(&held)));
        (StreamBody::new(stream::iter(0..frames).map(frame).chain(rest)), read)
    }

    #[tokio::test]
    async fn what_is_left_is_read_but_not_for_ever() {
        for (frames, ends, expected) in [(10, true, 10), (10, false, 10), (10_000, true, 1 + MOST.div_ceil(1024))] {
            let (body, read) = body(frames, ends);
            let mut body = ReadToEnd::new(body);
            body.frame().await.unwrap().unwrap();
            drop(body);
            let forgotten = async {
                // The body has the others.
                while Arc::strong_count(&read) > 1 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(LONGEST * 30, forgotten).await.expect("it is given up");
            assert_eq!(read.load(Ordering::Relaxed), expected);
        }
    }
}
