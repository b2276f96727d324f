//! Several callers who want the same thing at the same time have it made once.
//!
//! Nothing is kept: when the work is done its flight is closed, and who comes later starts another
//! one (or finds the result in a cache). A flight's result is shared, failures included: when the
//! database is down, a hundred waiters must not try it one after the other.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

/// The flights that are under way, by what they are to find out.
#[derive(Debug)]
pub struct Flights<K: Eq + Hash, V> {
    open: Mutex<HashMap<K, Arc<OnceCell<V>>>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    /// None under way.
    #[must_use]
    pub fn new() -> Self {
        Self { open: Mutex::new(HashMap::new()) }
    }

    /// Joins the flight for `key`, or starts one with `work`.
    ///
    /// A caller that is dropped (its deadline passed) does not take the others down: if it was the
    /// one working, one of them starts over with its own `work`.
    pub async fn run<F, Fut>(&self, key: K, work: F) -> V
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = V>,
    {
        let seat = self.board(key);
        seat.cell.get_or_init(work).await.clone()
    }

    /// How many flights are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn board(&self, key: K) -> Seat<'_, K, V> {
        let cell = Arc::clone(lock(&self.open).entry(key.clone()).or_default());
        Seat { flights: self, key, cell }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// One caller's part in a flight. Closes the flight when it has landed, or when nobody is left.
struct Seat<'a, K: Eq + Hash, V> {
    flights: &'a Flights<K, V>,
    key: K,
    cell: Arc<OnceCell<V>>,
}

impl<K: Eq + Hash, V> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        let mut open = lock(&self.flights.open);
        let Some(cell) = open.get(&self.key) else {
            return;
        };
        // Another flight for the same key may be in the air if this one has been closed before.
        let is_this = Arc::ptr_eq(cell, &self.cell);
        // Boarding needs the lock, so the count cannot grow now; the map holds one of two.
        let is_last = Arc::strong_count(&self.cell) <= 2;
        if is_this && (is_last || self.cell.initialized()) {
            open.remove(&self.key);
        }
    }
}

/// A poisoned lock is taken all the same: nothing that runs under it panics half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{sync::Notify, task::JoinSet};

    use super::*;
    use crate::auth::keys::testing::until;

    #[tokio::test]
    async fn a_hundred_callers_make_it_once_and_leave_nothing_behind() {
        let (flights, runs) = (Arc::new(Flights::new()), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
            callers.spawn(async move {
                let work = || async {
                    tokio::task::yield_now().await;
                    runs.fetch_add(1, Ordering::SeqCst)
                };
                flights.run("key", work).await
            });
        }
        assert!(callers.join_all().await.into_iter().all(|value| value == 0));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(flights.is_empty());
        assert_eq!(flights.run("key", || async { 7 }).await, 7, "a landed flight is not joined");
    }

    #[tokio::test]
    async fn when_the_one_who_works_is_dropped_another_takes_over() {
        let flights = Arc::new(Flights::new());
        let leader = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.run("key", std::future::pending).await }
        });
        until(|| !flights.is_empty()).await;
        let boarded = Arc::new(Notify::new());
        let waiter = tokio::spawn({
            let (flights, boarded) = (Arc::clone(&flights), Arc::clone(&boarded));
            async move {
                // On one thread, nobody runs between this and the first poll of the flight.
                boarded.notify_one();
                flights.run("key", || async { "of the waiter" }).await
            }
        });
        boarded.notified().await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        assert_eq!(waiter.await.unwrap(), "of the waiter");
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_that_everyone_left_is_closed() {
        let flights = Arc::new(Flights::<_, ()>::new());
        let mut tasks = JoinSet::new();
        for _ in 0..3 {
            let flights = Arc::clone(&flights);
            tasks.spawn(async move { flights.run("key", std::future::pending).await });
        }
        until(|| !flights.is_empty()).await;
        tasks.shutdown().await;
        assert!(flights.is_empty());
    }
}
