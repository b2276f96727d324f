//! Tests of the pipeline: its order, its bounds, its ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::Semaphore;
use tonic::Code;

use super::*;

const ONE: Load = Load { messages: 1, events: 1, bytes: 1 };

fn fault() -> Error {
    Error::Conflict
}

fn never() -> Stop {
    Box::pin(std::future::pending())
}

/// Numbers without end.
fn flood() -> impl Stream<Item = Result<usize, Status>> + Send + Unpin {
    stream::iter(0..).map(Ok)
}

async fn collected<A>(acknowledged: impl Stream<Item = Result<A, Status>>) -> (Vec<A>, Option<Code>) {
    let mut acknowledged = std::pin::pin!(acknowledged);
    let mut all = Vec::new();
    while let Some(next) = acknowledged.next().await {
        match next {
            Ok(one) => all.push(one),
            Err(status) => {
                assert!(acknowledged.next().await.is_none(), "an error is the end");
                return (all, Some(status.code()));
            }
        }
    }
    (all, None)
}

#[tokio::test]
async fn acknowledgements_come_in_the_order_of_the_messages() {
    let incoming = stream::iter((0..40_u64).map(Ok));
    let take = |number: u64| {
        let work: Work<u64> = Box::pin(async move {
            // The later, the sooner done.
            tokio::time::sleep(Duration::from_millis(40 - number)).await;
            Ok(number)
        });
        Ok((ONE, work))
    };
    let (all, end) = collected(acknowledged(incoming, take, never())).await;
    assert_eq!((all, end), ((0..40).collect(), None));
}

#[tokio::test]
async fn no_more_is_read_than_the_bounds_allow() {
    let weights = [
        (ONE, BOUNDS.messages),
        (Load { messages: 1, events: 5000, bytes: 1 }, 2),
        (Load { messages: 1, events: 4999, bytes: 1 }, 3),
        (Load { messages: 1, events: 1, bytes: 4 << 20 }, 2),
        (Load { messages: 1, events: 1, bytes: 100 << 20 }, 1),
    ];
    for (load, expected) in weights {
        let (taken, room) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (seen, gate) = (Arc::clone(&taken), Arc::clone(&room));
        let take = move |number: usize| {
            seen.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            let work: Work<usize> = Box::pin(async move {
                gate.acquire_owned().await.map_err(|_| fault())?.forget();
                Ok(number)
            });
            Ok((load, work))
        };
        let mut acknowledged = Box::pin(acknowledged(flood(), take, never()));
        let waited = tokio::time::timeout(Duration::from_millis(20), acknowledged.next()).await;
        assert!(waited.is_err(), "nothing is done yet");
        assert_eq!(taken.load(Ordering::SeqCst), expected, "{load:?}");
        room.add_permits(1);
        assert_eq!(acknowledged.next().await.unwrap().unwrap(), 0);
        let waited = tokio::time::timeout(Duration::from_millis(20), acknowledged.next()).await;
        assert!(waited.is_err());
        assert_eq!(taken.load(Ordering::SeqCst), expected + 1, "one is acknowledged, one more is read");
    }
}

#[tokio::test]
async fn what_was_taken_is_acknowledged_before_the_end() {
    let work = |number: usize| -> Work<usize> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(number)
        })
    };
    // The producer's fault, found at once.
    let take = move |number: usize| if number == 3 { Err(fault()) } else { Ok((ONE, work(number))) };
    assert_eq!(collected(acknowledged(flood(), take, never())).await, (vec![0, 1, 2], Some(Code::Aborted)));
    // A connection that breaks.
    let incoming = stream::iter([Ok(0), Ok(1), Err(Status::cancelled("gone")), Ok(2)]);
    let all = acknowledged(incoming, move |number| Ok((ONE, work(number))), never());
    assert_eq!(collected(all).await, (vec![0, 1], Some(Code::Cancelled)));
    // A reason to stop, while nothing comes.
    let incoming = stream::iter([Ok(0), Ok(1)]).chain(stream::pending());
    let stop: Stop = Box::pin(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        fault()
    });
    let all = acknowledged(incoming, move |number| Ok((ONE, work(number))), stop);
    assert_eq!(collected(all).await, (vec![0, 1], Some(Code::Aborted)));
}

#[tokio::test]
async fn nothing_is_acknowledged_after_a_message_that_failed() {
    let take = |number: usize| {
        let work: Work<usize> = Box::pin(async move { if number == 2 { Err(fault()) } else { Ok(number) } });
        Ok((ONE, work))
    };
    assert_eq!(collected(acknowledged(flood(), take, never())).await, (vec![0, 1], Some(Code::Aborted)));
}
