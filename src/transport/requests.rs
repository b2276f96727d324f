//! The requests of a connection, worked on by the connection itself.
//!
//! Hyper gives each request to an executor, and tokio's makes a task of it: with memory of its own, a place in the list of all
//! tasks, and one in the queue whenever it is woken. But a connection and its requests never leave their thread
//! ([`crate::app`] gives each a runtime of its own), so tasks would let nothing run beside anything else. Here
//! a connection reads all that has come, polls each new request, which is all that it takes to answer from memory, and
//! keeps those that have to wait. Many of them that are woken together, as those are that waited for one commit, wake it
//! once, and their replies are written together.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;

/// A request, from its first poll to its reply.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The requests of one connection. Those that were not answered go with it, as hyper would have it.
#[derive(Default)]
pub struct Requests {
    come: Come,
    waiting: FuturesUnordered<Work>,
    /// How many more of those that come are not tried, as one before them had to wait.
    untried: u8,
}

/// How many requests of a connection are taken to be like one that had to wait. To try one for nothing costs a poll, and
/// not to try one that is answered at once, a piece of memory.
const ALIKE: u8 = 15;

/// Those that have come and were not begun: the executor of the connection.
#[derive(Clone, Default)]
pub struct Come(Arc<Mutex<Vec<Work>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Come {
    fn execute(&self, work: F) {
        self.lock().push(Box::pin(work));
    }
}

impl Come {
    fn lock(&self) -> MutexGuard<'_, Vec<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// What the connection is to hand its requests to.
    pub fn executor(&self) -> Come {
        self.come.clone()
    }

    /// Drives the connection that has this executor, and its requests. May be dropped and called again.
    pub async fn drive<C: Future>(&mut self, mut connection: Pin<&mut C>) -> C::Output {
        let mut begun = Vec::new();
        poll_fn(|context| {
            loop {
                self.go_on(context);
                let polled = connection.as_mut().poll(context);
                std::mem::swap(&mut begun, &mut *self.come.lock());
                let is_idle = begun.is_empty();
                begun.drain(..).for_each(|work| self.begin(work));
                // Otherwise there are replies to write.
                if is_idle || polled.is_ready() {
                    return polled;
                }
            }
        })
        .await
    }

    /// Does of a new request what can be done at once. Nobody is to be woken: where it has to wait, it is polled once more.
    fn begin(&mut self, mut work: Work) {
        if self.untried > 0 {
            self.untried -= 1;
            return self.waiting.push(work);
        }
        let poll = || work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // A panic that no layer caught ends the request, as it ends a task; the connection has others.
        if catch_unwind(AssertUnwindSafe(poll)).is_ok_and(|polled| polled.is_pending()) {
            self.untried = ALIKE;
            self.waiting.push(work);
        }
    }

    /// Polls the requests that were woken, and those that have just begun to wait.
    fn go_on(&mut self, context: &mut Context<'_>) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.waiting.poll_next_unpin(context))) {
                // One is done, or was ended by a panic.
                Ok(Poll::Ready(Some(()))) | Err(_) => {}
                Ok(Poll::Ready(None) | Poll::Pending) => return,
            }
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Come {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Come").field(&self.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot, watch};
    use tokio::task::yield_now;

    use super::*;

    /// A connection that brings this work, and then waits to be told to end.
    fn connection(come: Come, work: Vec<Work>, mut end: oneshot::Receiver<()>) -> impl Future<Output = usize> {
        let (mut work, mut polls) = (Some(work), 0);
        poll_fn(move |context| {
            polls += 1;
            work.take().into_iter().flatten().for_each(|work| come.execute(work));
            Pin::new(&mut end).poll(context).map(|_| polls)
        })
    }

    #[tokio::test]
    async fn what_is_ready_is_done_at_once_and_what_waits_when_it_is_woken() {
        let mut requests = Requests::default();
        let (done, mut told) = mpsc::unbounded_channel();
        let (answer, question) = oneshot::channel::<()>();
        let (ready, waiting) = (done.clone(), done);
        let work: Vec<Work> = vec![
            Box::pin(async { panic!("one request's misfortune") }),
            Box::pin(async move {
                ready.send("ready").unwrap();
            }),
            Box::pin(async move {
                question.await.unwrap();
                waiting.send("waited").unwrap();
            }),
            Box::pin(async {
                yield_now().await;
                panic!("another's")
            }),
        ];
        let (end, ended) = oneshot::channel();
        let connection = std::pin::pin!(connection(requests.executor(), work, ended));
        let told = async {
            assert_eq!(told.recv().await, Some("ready"));
            assert!(told.is_empty());
            answer.send(()).unwrap();
            assert_eq!(told.recv().await, Some("waited"));
            end.send(()).unwrap();
        };
        tokio::join!(requests.drive(connection), told);
    }

    #[tokio::test]
    async fn many_that_are_woken_together_wake_their_connection_once() {
        let mut requests = Requests::default();
        let (commit, committed) = watch::channel(false);
        let (done, mut told) = mpsc::unbounded_channel();
        let request = |_| {
            let (mut committed, done) = (committed.clone(), done.clone());
            let work = async move {
                committed.wait_for(|it| *it).await.unwrap();
                done.send(()).unwrap();
            };
            Box::pin(work) as Work
        };
        let (end, ended) = oneshot::channel();
        let connection = std::pin::pin!(connection(requests.executor(), (0..100).map(request).collect(), ended));
        let told = async {
            commit.send(true).unwrap();
            for _ in 0..100 {
                told.recv().await.unwrap();
            }
            end.send(()).unwrap();
        };
        let (polls, ()) = tokio::join!(requests.drive(connection), told);
        assert!(polls < 10, "one by one it was {polls} times");
    }

    #[tokio::test]
    async fn a_connection_that_ends_takes_with_it_what_waits() {
        let (mut requests, (held, dropped)) = (Requests::default(), oneshot::channel::<()>());
        let (done, told) = oneshot::channel();
        let work: Vec<Work> = vec![
            Box::pin(async move { done.send(()).unwrap() }),
            Box::pin(async move {
                let _held = held;
                std::future::pending::<()>().await;
            }),
        ];
        let (end, ended) = oneshot::channel();
        end.send(()).unwrap();
        let connection = std::pin::pin!(connection(requests.executor(), work, ended));
        requests.drive(connection).await;
        told.await.expect("what had come was begun");
        drop(requests);
        dropped.await.unwrap_err();
    }
}
