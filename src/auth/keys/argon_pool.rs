//! The threads that argon2 runs on: few, so that a flood of bad keys leaves cores for everything
//! else, and apart from the async runtime, which a millisecond of arithmetic would stall.
//!
//! What may wait, and in which order it runs, is `argon_queue`'s business.

use std::{
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    argon_queue::{Admission, FairQueue, QueueBounds},
    hashing::{HashSalt, HashingError, Scratch},
    key::{LookupId, ParsedKey, PlainKey},
    overload::{Bottleneck, Overloaded},
    stored_hash::{HashCost, SecretHash},
};

/// How a pool is built.
#[derive(Clone, Copy, Debug)]
pub struct ArgonPoolConfig {
    /// Threads; each keeps the memory of one hash.
    pub threads: NonZeroUsize,
    /// Parameters of new hashes. Stored ones are verified with their own.
    pub cost: HashCost,
    /// Jobs that may wait.
    pub bounds: QueueBounds,
}

impl Default for ArgonPoolConfig {
    /// Half of the cores; 1,024 waiting jobs (0.6 s on one thread at the default cost), and 4 for
    /// one lookup id: it has two good keys at most, during a rotation, and each is verified once at
    /// a time.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            threads: NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN),
            cost: HashCost::DEFAULT,
            bounds: QueueBounds { total: 1024, per_lookup: 4 },
        }
    }
}

/// Why there is no answer. None of them says anything about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// argon2 itself failed.
    #[error(transparent)]
    Hashing(#[from] HashingError),
    /// The pool is shutting down, or argon2 panicked.
    #[error("the argon2 thread went away")]
    Stopped,
}

/// The pool. Dropping it drops what waits, lets running hashes finish and joins the threads, which
/// takes as long as one hash.
#[derive(Debug)]
pub struct ArgonPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    config: ArgonPoolConfig,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a job was queued and when the pool closes.
    changed: Condvar,
    runs: AtomicU64,
}

#[derive(Debug)]
struct State {
    queue: FairQueue<Job>,
    closed: bool,
}

/// The key is on the heap and wiped with the job; a job moves about, and moving an array would
/// leave copies behind.
#[derive(Debug)]
struct Job {
    key: PlainKey,
    work: Work,
}

type Answer<A> = oneshot::Sender<Result<A, PoolError>>;

#[derive(Debug)]
enum Work {
    Verify(SecretHash, Answer<bool>),
    Hash(HashSalt, Answer<SecretHash>),
}

impl ArgonPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// The OS's, if it gives no thread; those already started are joined.
    pub fn start(config: ArgonPoolConfig) -> io::Result<Self> {
        let pool = Self::idle(config);
        pool.spawn_threads()?;
        Ok(pool)
    }

    /// A pool whose threads do not run yet, so that a test can arrange the queue before anything is
    /// taken from it.
    pub(super) fn idle(config: ArgonPoolConfig) -> Self {
        let state = State { queue: FairQueue::new(config.bounds, Job::is_abandoned), closed: false };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new(), runs: AtomicU64::new(0) };
        Self { shared: Arc::new(shared), threads: Mutex::default(), config }
    }

    /// The second half of [`start`](Self::start).
    pub(super) fn spawn_threads(&self) -> io::Result<()> {
        let cost = self.config.cost;
        for number in 0..self.config.threads.get() {
            let mut scratch = Scratch::new(cost).map_err(io::Error::other)?;
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(format!("argon2-{number}"));
            let thread = thread.spawn(move || {
                while let Some(job) = shared.next() {
                    shared.runs.fetch_add(1, Ordering::Relaxed);
                    job.run(&mut scratch, cost);
                }
            })?;
            lock(&self.threads).push(thread);
        }
        Ok(())
    }

    /// Whether `hash` was made of `key`.
    ///
    /// # Errors
    /// [`PoolError`]. A dropped future gives its place up.
    pub async fn verify(&self, key: &ParsedKey<'_>, hash: &SecretHash) -> Result<bool, PoolError> {
        let (answer, answered) = oneshot::channel();
        self.submit(key, Work::Verify(*hash, answer))?;
        answered.await.map_err(|_| PoolError::Stopped)?
    }

    /// Hashes a key for storage, with the pool's parameters.
    ///
    /// # Errors
    /// [`PoolError`]. A dropped future gives its place up.
    pub async fn hash(&self, key: &ParsedKey<'_>, salt: HashSalt) -> Result<SecretHash, PoolError> {
        let (answer, answered) = oneshot::channel();
        self.submit(key, Work::Hash(salt, answer))?;
        answered.await.map_err(|_| PoolError::Stopped)?
    }

    /// The parameters of new hashes; compare stored ones by [`SecretHash::needs_rehash`].
    #[must_use]
    pub const fn cost(&self) -> HashCost {
        self.config.cost
    }

    /// Jobs that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        lock(&self.shared.state).queue.len()
    }

    /// Hashes computed since the start.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.shared.runs.load(Ordering::Relaxed)
    }

    fn submit(&self, key: &ParsedKey<'_>, work: Work) -> Result<(), PoolError> {
        let lookup: LookupId = key.lookup();
        let job = Job { key: key.to_plain(), work };
        let mut state = lock(&self.shared.state);
        let admission = state.queue.push(lookup, job);
        let depth = state.queue.len();
        drop(state);
        let refused = match admission {
            Admission::Queued => None,
            Admission::Displaced(other) => {
                other.refuse(self.overloaded(depth));
                None
            }
            Admission::Refused(own) => Some(own),
        };
        if refused.is_some() {
            return Err(self.overloaded(depth).into());
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    /// What now waits will be done by then, more or less: measured durations would need a clock.
    fn overloaded(&self, depth: usize) -> Overloaded {
        let depth = u32::try_from(depth).unwrap_or(u32::MAX);
        let threads = u32::try_from(self.config.threads.get()).unwrap_or(u32::MAX);
        let wait = self.config.cost.nominal_duration().saturating_mul(depth) / threads;
        let retry_after = wait.clamp(Duration::from_millis(10), Duration::from_secs(1));
        Overloaded { bottleneck: Bottleneck::Argon2, retry_after }
    }
}

impl Drop for ArgonPool {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.shared.changed.notify_all();
        for thread in lock(&self.threads).drain(..) {
            // A thread does not panic: `Job::run` catches what argon2 might.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits for a job; none when the pool is closed.
    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.queue.pop() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Job {
    fn is_abandoned(&self) -> bool {
        match &self.work {
            Work::Verify(_, answer) => answer.is_closed(),
            Work::Hash(_, answer) => answer.is_closed(),
        }
    }

    /// A requester that has gone is nobody's concern, here and below.
    fn refuse(self, overloaded: Overloaded) {
        let _ = match self.work {
            Work::Verify(_, answer) => answer.send(Err(overloaded.into())).is_ok(),
            Work::Hash(_, answer) => answer.send(Err(overloaded.into())).is_ok(),
        };
    }

    fn run(self, scratch: &mut Scratch, cost: HashCost) {
        let key = self.key.parsed();
        match self.work {
            Work::Verify(hash, answer) => {
                let _ = answer.send(guarded(|| scratch.verify(&key, &hash)));
            }
            Work::Hash(salt, answer) => {
                let _ = answer.send(guarded(|| scratch.hash(&key, salt, cost)));
            }
        }
    }
}

/// A poisoned lock is taken all the same: nothing that runs under one panics half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A panic in argon2 must not take the thread with it: the pool would shrink for good. What it
/// leaves in the scratch memory does not matter, the next hash overwrites it.
fn guarded<A>(hash: impl FnOnce() -> Result<A, HashingError>) -> Result<A, PoolError> {
    match catch_unwind(AssertUnwindSafe(hash)) {
        Ok(done) => done.map_err(PoolError::Hashing),
        Err(_panic) => Err(PoolError::Stopped),
    }
}

#[cfg(test)]
mod tests;
