//! A cache of facts that requests need: loaded once however many ask, short-lived, and true to the change log.

use std::future::Future;
use std::hash::Hash;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// Facts by their key, at most `capacity` of them, none older than `lifetime`.
#[derive(Debug)]
pub struct Facts<K, V> {
    entries: Cache<K, (V, Instant)>,
    /// Moves with every invalidation: a fill that began before one is used by its own request, but not kept.
    generation: AtomicU64,
    /// Makes "has the generation moved? keep it" one step.
    keeping: Mutex<()>,
    lifetime: Duration,
}

impl<K: Eq + Hash + Clone, V: Clone> Facts<K, V> {
    /// An empty cache.
    #[must_use]
    pub fn new(capacity: usize, lifetime: Duration) -> Self {
        Self { entries: Cache::new(capacity), generation: AtomicU64::new(0), keeping: Mutex::new(()), lifetime }
    }

    /// The facts if they are here and young enough. Never waits.
    #[must_use]
    pub fn peek(&self, key: &K, now: Instant) -> Option<V> {
        let (value, loaded) = self.entries.get(key)?;
        (now.saturating_duration_since(loaded) < self.lifetime).then_some(value)
    }

    /// The facts, from here or by `load`; several that ask for the same at once wait for one load. When the one that
    /// loads gives up, the next one takes over.
    pub async fn get<E, F>(&self, key: &K, now: Instant, load: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        self.get_if(key, now, |_| true, load).await
    }

    /// The same, loaded at `since` or later: for who must not believe that something is absent because it was.
    pub async fn get_since<E, F>(&self, key: &K, since: Instant, now: Instant, load: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        self.get_if(key, now, |loaded| loaded >= since, load).await
    }

    async fn get_if<E, F>(
        &self,
        key: &K,
        now: Instant,
        condition: impl Fn(Instant) -> bool,
        load: impl FnOnce() -> F,
    ) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let good = |loaded: Instant| now.saturating_duration_since(loaded) < self.lifetime && condition(loaded);
        match self.entries.get(key) {
            Some((value, loaded)) if good(loaded) => Ok(value),
            // Boxed: a load is a transaction, and its state would be part of every future that asks here. Those are made
            // and moved for each request: measured, a fifth of what a request cost was such copies.
            _ => Box::pin(self.fill(key, now, good, load)).await,
        }
    }

    async fn fill<E, F>(
        &self,
        key: &K,
        now: Instant,
        good: impl Fn(Instant) -> bool,
        load: impl FnOnce() -> F,
    ) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let guard = loop {
            self.entries.remove_if(key, |(_, loaded)| !good(*loaded));
            match self.entries.get_value_or_guard_async(key).await {
                Ok((value, loaded)) if good(loaded) => return Ok(value),
                // Loaded by one that began to ask earlier.
                Ok(_) => {}
                Err(guard) => break guard,
            }
        };
        let generation = self.generation.load(Ordering::SeqCst);
        let value = load().await?;
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Ordering::SeqCst) == generation {
            let _ = guard.insert((value.clone(), now));
        }
        Ok(value)
    }

    /// Forgets one.
    pub fn invalidate(&self, key: &K) {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.entries.remove(key);
    }

    /// Forgets those that the condition holds for.
    pub fn invalidate_where(&self, condition: impl Fn(&K) -> bool) {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.entries.retain(|key, _| !condition(key));
    }

    /// Forgets all.
    pub fn invalidate_all(&self) {
        self.invalidate_where(|_| true);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;
    use crate::clock::Clock;

    const LIFETIME: Duration = Duration::from_secs(30);

    fn facts() -> (Arc<Facts<u32, u32>>, Instant) {
        (Arc::new(Facts::new(100, LIFETIME)), Clock::system().instant())
    }

    async fn get(facts: &Facts<u32, u32>, now: Instant, loaded: u32) -> u32 {
        facts.get(&1, now, || async { Ok::<_, Infallible>(loaded) }).await.unwrap()
    }

    #[tokio::test]
    async fn facts_are_kept_for_their_lifetime() {
        let (facts, now) = facts();
        assert_eq!(facts.peek(&1, now), None);
        assert_eq!(get(&facts, now, 1).await, 1);
        let young = now + LIFETIME.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!((get(&facts, young, 2).await, facts.peek(&1, young)), (1, Some(1)));
        assert_eq!(facts.peek(&1, now + LIFETIME), None);
        assert_eq!(get(&facts, now + LIFETIME, 3).await, 3);
        let since = facts.get_since(&1, now + LIFETIME * 2, now + LIFETIME, || async { Ok::<_, Infallible>(4) }).await;
        assert_eq!(since, Ok(4), "loaded too early for who asks");
    }

    #[tokio::test]
    async fn a_failed_load_is_not_remembered() {
        let (facts, now) = facts();
        assert_eq!(facts.get(&1, now, || async { Err("away") }).await, Err("away"));
        assert_eq!(get(&facts, now, 1).await, 1);
    }

    #[tokio::test]
    async fn a_load_that_began_before_an_invalidation_is_not_kept() {
        let invalidations: [fn(&Facts<u32, u32>); 3] =
            [|facts| facts.invalidate(&1), |facts| facts.invalidate_where(|key| *key == 1), Facts::invalidate_all];
        for invalidate in invalidations {
            let (facts, now) = facts();
            let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let early = tokio::spawn({
                let (facts, begun, go_on) = (Arc::clone(&facts), Arc::clone(&begun), Arc::clone(&go_on));
                async move {
                    let load = || async {
                        begun.notify_one();
                        go_on.notified().await;
                        Ok::<_, Infallible>(1)
                    };
                    facts.get(&1, now, load).await
                }
            });
            begun.notified().await;
            invalidate(&facts);
            go_on.notify_one();
            assert_eq!(early.await.unwrap(), Ok(1), "its own request began before as well");
            assert_eq!(facts.peek(&1, now), None);
            assert_eq!(get(&facts, now, 2).await, 2);
        }
    }

    #[tokio::test]
    async fn many_that_ask_at_once_wait_for_one_load() {
        let (facts, now) = facts();
        let loads = AtomicUsize::new(0);
        let ask = || {
            facts.get(&1, now, || async {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(u32::try_from(loads.fetch_add(1, Ordering::SeqCst)).unwrap())
            })
        };
        let asked = futures_util::future::join_all((0..10).map(|_| ask())).await;
        assert!(asked.iter().all(|outcome| *outcome == Ok(0)), "{asked:?}");
    }
}
