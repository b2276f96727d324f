//! Answers for requests that wait on other runtimes, brought there together.
//!
//! To wake a task from outside its runtime is a system call, each time. To hand a bundle of answers to a task over there is
//! one for all of them: that task wakes the others, which is a push onto a list of its own thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::sync::{mpsc, oneshot};

/// What a runtime is to do for somebody outside.
type Work = Box<dyn FnOnce() + Send>;

/// Where work for each runtime is handed in. By the runtime's id and not by a sender in every reply, which both threads
/// would count. Not bounded by themselves: what they hold are requests that the queue had room for.
static HOMES: LazyLock<Mutex<HashMap<Id, mpsc::UnboundedSender<Work>>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The runtime for which this thread knows that it is in the list.
    static KNOWN: Cell<Option<Id>> = const { Cell::new(None) };
}

/// Who waits for an answer, and it.
type Answered<T> = (Reply<T>, T);

/// Who waits for an answer.
#[derive(Debug)]
pub struct Reply<T> {
    sender: oneshot::Sender<T>,
    /// Where they wait; `None` outside of runtimes.
    home: Option<Id>,
}

impl<T: Send + 'static> Reply<T> {
    /// For the answer to who calls this, and waits in the runtime that it calls from. An error is an answer that will never
    /// come.
    pub fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, answer) = oneshot::channel();
        (Self { sender, home: home() }, answer)
    }

    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Answers one.
    pub fn send(self, answer: T) {
        // An error is a caller who has gone.
        let _ = self.sender.send(answer);
    }

    /// Answers many.
    pub fn send_all(answered: impl IntoIterator<Item = Answered<T>>) {
        // There are a few runtimes: one for each serving thread.
        let mut bundles: Vec<(Option<Id>, Vec<Answered<T>>)> = Vec::new();
        for answered in answered {
            let home = answered.0.home;
            match bundles.iter_mut().find(|(id, _)| *id == home) {
                Some((_, bundle)) => bundle.push(answered),
                None => bundles.push((home, vec![answered])),
            }
        }
        for (home, bundle) in bundles {
            run(home, Box::new(move || bundle.into_iter().for_each(|(reply, answer)| reply.send(answer))));
        }
    }
}

/// The runtime of who calls this, which from now on takes work.
fn home() -> Option<Id> {
    let runtime = Handle::try_current().ok()?;
    let id = runtime.id();
    if KNOWN.get() != Some(id) {
        let mut homes = homes();
        // Those of runtimes that are no more.
        homes.retain(|_, home| !home.is_closed());
        homes.entry(id).or_insert_with(|| {
            let (sender, mut work) = mpsc::unbounded_channel::<Work>();
            runtime.spawn(async move {
                while let Some(work) = work.recv().await {
                    work();
                }
            });
            sender
        });
        KNOWN.set(Some(id));
    }
    Some(id)
}

/// Has a runtime do something; it is done here when there is none.
fn run(home: Option<Id>, work: Work) {
    let sender = home.and_then(|home| homes().get(&home).cloned());
    let undone = match sender {
        Some(sender) => sender.send(work).err().map(|refused| refused.0),
        None => Some(work),
    };
    if let Some(work) = undone {
        work();
    }
}

fn homes() -> MutexGuard<'static, HashMap<Id, mpsc::UnboundedSender<Work>>> {
    HOMES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn each_answer_finds_who_waits_for_it_on_whatever_runtime() {
        let (came, replies) = std::sync::mpsc::channel();
        let waiting: Vec<_> = (0..3)
            .map(|number| {
                let came = came.clone();
                thread::spawn(move || {
                    Builder::new_current_thread().build().unwrap().block_on(async {
                        let mut waiting = Vec::new();
                        for place in 0..10 {
                            let (reply, answer) = Reply::new();
                            came.send((reply, (number, place))).unwrap();
                            waiting.push(async move { assert_eq!(answer.await, Ok((number, place))) });
                        }
                        drop(came);
                        futures_util::future::join_all(waiting).await;
                    });
                })
            })
            .collect();
        drop(came);
        let mut answered: Vec<(Reply<(i32, i32)>, _)> = replies.iter().collect();
        answered.sort_by_key(|(_, answer)| answer.1);
        Reply::send_all(answered);
        for thread in waiting {
            thread.join().unwrap();
        }
    }

    /// Tells on which thread it was dropped, which of an answer is the thread that sends it, when nobody waits for it.
    #[derive(Debug)]
    struct Dropped(std::sync::mpsc::Sender<thread::ThreadId>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[test]
    fn answers_are_sent_where_who_waits_is() {
        let (told, dropped) = std::sync::mpsc::channel();
        let (came, replies) = std::sync::mpsc::channel();
        let (ended, end) = oneshot::channel();
        let home = thread::spawn(move || {
            Builder::new_current_thread().build().unwrap().block_on(async {
                (0..3).for_each(|_| came.send(Reply::new().0).unwrap());
                drop(came);
                end.await.unwrap();
            });
        });
        Reply::send_all(replies.iter().map(|reply| (reply, Dropped(told.clone()))).collect::<Vec<_>>());
        drop(told);
        assert_eq!(dropped.iter().collect::<Vec<_>>(), [home.thread().id(); 3]);
        ended.send(()).unwrap();
        home.join().unwrap();
    }

    #[test]
    fn a_runtime_that_is_no_more_keeps_nobody() {
        let runtime = || Builder::new_current_thread().build().unwrap();
        let (reply, answer) = runtime().block_on(async { Reply::new() });
        Reply::send_all([(reply, 1)]);
        // Another one on the same thread.
        assert_eq!(runtime().block_on(answer), Ok(1));
        runtime().block_on(async {
            let (reply, answer) = Reply::new();
            assert!(!reply.is_closed());
            Reply::send_all([(reply, 2)]);
            assert_eq!(answer.await, Ok(2));
            let (reply, answer) = Reply::<i32>::new();
            drop(answer);
            assert!(reply.is_closed());
        });
    }
}
