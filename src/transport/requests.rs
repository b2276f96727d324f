//! The requests of a connection, worked on by the connection itself for as long as they need not wait.
//!
//! Hyper gives each request to an executor, and tokio's makes a task of it, with memory of its own, a place in the list of all
//! tasks and one in the queue. What is answered from memory is done when it was polled once, and needs none of that.
//! So a connection first reads all that has come, then polls each of these requests once, and then writes all replies
//! together; only what has to wait becomes a task.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use hyper::rt::Executor;

/// A request, from its first poll to its reply.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The requests that have come and were not begun: the executor of one connection.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Vec<Work>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Requests {
    fn execute(&self, work: F) {
        self.come().push(Box::pin(work));
    }
}

impl Requests {
    /// Drives the connection that has this executor. May be dropped and called again.
    pub async fn drive<C: Future>(&self, mut connection: Pin<&mut C>) -> C::Output {
        let mut begun = Vec::new();
        poll_fn(|context| {
            loop {
                let polled = connection.as_mut().poll(context);
                std::mem::swap(&mut begun, &mut *self.come());
                let is_idle = begun.is_empty();
                begun.drain(..).for_each(begin);
                // Otherwise there are replies to write.
                if is_idle || polled.is_ready() {
                    return polled;
                }
            }
        })
        .await
    }

    fn come(&self) -> MutexGuard<'_, Vec<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what can be done at once, and has a task do the rest.
fn begin(mut work: Work) {
    // Nobody is to be woken: a task polls again by itself first, with its own waker.
    let poll = || work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    // A panic that no layer caught ends the request, as it ends a task; the connection has others.
    if catch_unwind(AssertUnwindSafe(poll)).is_ok_and(|polled| polled.is_pending()) {
        tokio::spawn(work);
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Requests").field(&self.come().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::sync::{mpsc, oneshot};
    use tokio::task::try_id;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_is_done_at_once_and_what_waits_by_a_task() {
        let requests = Requests::default();
        let (answer, question) = oneshot::channel::<()>();
        let (done, mut told) = mpsc::unbounded_channel();
        let (ready, waiting) = (done.clone(), done);
        let mut work: Vec<Work> = vec![
            Box::pin(async { panic!("one request's misfortune") }),
            Box::pin(async move { ready.send(("ready", try_id())).unwrap() }),
            Box::pin(async move {
                question.await.unwrap();
                waiting.send(("waited", try_id())).unwrap();
            }),
        ];
        let mut polled = 0;
        let connection = poll_fn(|_| {
            polled += 1;
            work.drain(..).for_each(|work| requests.execute(work));
            // Nobody wakes it: it is polled again for the replies.
            if polled == 1 { Poll::Pending } else { Poll::Ready(told.try_recv()) }
        });
        let connection = std::pin::pin!(connection);
        let first = requests.drive(connection).await;
        assert_eq!(first, Ok(("ready", None)), "no task, and before the connection had its next turn");
        answer.send(()).unwrap();
        let (what, task) = told.recv().await.unwrap();
        assert_eq!(what, "waited");
        assert!(task.is_some());
    }

    #[tokio::test]
    async fn a_connection_that_ends_leaves_nothing_undone() {
        let requests = Requests::default();
        let (done, told) = oneshot::channel();
        let mut work = Some(async move { done.send(()).unwrap() });
        let connection = poll_fn(|_| {
            work.take().into_iter().for_each(|work| requests.execute(work));
            Poll::Ready(())
        });
        requests.drive(std::pin::pin!(connection)).await;
        told.await.unwrap();
    }
}
