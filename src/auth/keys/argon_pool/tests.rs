//! The pool under floods, cancellation and shutdown. Order is asserted, never duration: jobs are
//! queued before the only thread starts.

use std::{future::poll_fn, pin::pin, task::Poll};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use super::*;
use crate::auth::keys::testing::{cheap, hash_of, key, sibling};

fn idle(total: usize) -> ArgonPool {
    ArgonPool::idle(ArgonPoolConfig {
        threads: NonZeroUsize::MIN,
        cost: cheap(),
        bounds: QueueBounds { total, per_lookup: 4 },
    })
}

type Answered = oneshot::Receiver<Result<bool, PoolError>>;

/// What [`ArgonPool::verify`] does before it waits.
fn queue(pool: &ArgonPool, key: &PlainKey, hash: &SecretHash) -> Result<Answered, PoolError> {
    let (answer, answered) = oneshot::channel();
    pool.submit(&key.parsed(), Work::Verify(*hash, answer))?;
    Ok(answered)
}

#[tokio::test]
async fn hashes_and_verifies() {
    let pool = idle(64);
    pool.spawn_threads().unwrap();
    let salt = HashSalt::generate(&mut StdRng::seed_from_u64(1)).unwrap();
    let hash = pool.hash(&key(1).parsed(), salt).await.unwrap();
    assert_eq!(pool.verify(&key(1).parsed(), &hash).await, Ok(true));
    assert_eq!(pool.verify(&key(2).parsed(), &hash).await, Ok(false));
    assert_eq!((pool.runs(), pool.depth()), (3, 0));
}

#[tokio::test]
async fn a_flood_for_one_key_is_refused_and_delays_another_by_one_job() {
    let pool = idle(64);
    let (attacked, good) = (key(1), key(2));
    let hash = hash_of(&attacked);
    let mut waiting = Vec::new();
    let mut refused = 0;
    for attempt in 0..3_000 {
        match queue(&pool, &sibling(&attacked, attempt), &hash) {
            Ok(answered) => waiting.push(("flood", answered)),
            Err(PoolError::Overloaded(overloaded)) => {
                assert_eq!(overloaded.bottleneck, Bottleneck::Argon2);
                assert!(overloaded.retry_after >= Duration::from_millis(10));
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 2_996);
    waiting.push(("good", queue(&pool, &good, &hash_of(&good)).unwrap()));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for (who, answered) in waiting {
        let order = Arc::clone(&order);
        tasks.spawn(async move {
            let answer = answered.await.unwrap();
            order.lock().unwrap().push((who, answer));
        });
    }
    tokio::task::yield_now().await;
    pool.spawn_threads().unwrap();
    tasks.join_all().await;
    let flood = ("flood", Ok(false));
    assert_eq!(*order.lock().unwrap(), [flood, ("good", Ok(true)), flood, flood, flood]);
}

#[tokio::test]
async fn a_displaced_job_is_told_that_it_was_overload() {
    let pool = idle(4);
    let (long, short) = (key(1), key(2));
    let jobs: Vec<_> = (0..4).map(|_| queue(&pool, &long, &hash_of(&long)).unwrap()).collect();
    let other = queue(&pool, &short, &hash_of(&short)).unwrap();
    pool.spawn_threads().unwrap();
    assert_eq!(other.await.unwrap(), Ok(true));
    for (number, job) in jobs.into_iter().enumerate() {
        match job.await.unwrap() {
            Err(PoolError::Overloaded(_)) => assert_eq!(number, 3, "the newest"),
            other => assert_eq!((number < 3, other), (true, Ok(true))),
        }
    }
}

#[tokio::test]
async fn jobs_whose_requester_has_gone_are_not_run() {
    let pool = idle(64);
    for seed in 0..20 {
        let (key, hash) = (key(seed), hash_of(&key(seed)));
        let parsed = key.parsed();
        let mut gone = pin!(pool.verify(&parsed, &hash));
        let pending = poll_fn(|context| Poll::Ready(gone.as_mut().poll(context).is_pending()));
        assert!(pending.await);
    }
    assert_eq!(pool.depth(), 20);
    pool.spawn_threads().unwrap();
    assert_eq!(pool.verify(&key(50).parsed(), &hash_of(&key(50))).await, Ok(true));
    assert_eq!(pool.runs(), 1);
}

#[tokio::test]
async fn shutdown_drops_what_waits_and_joins_the_threads() {
    let pool = idle(64);
    let shared = Arc::downgrade(&pool.shared);
    let waiting = queue(&pool, &key(1), &hash_of(&key(1))).unwrap();
    drop(pool);
    assert!(waiting.await.is_err(), "the sender was dropped, which is `Stopped`");
    assert!(shared.upgrade().is_none());

    let pool = idle(64);
    let shared = Arc::downgrade(&pool.shared);
    pool.spawn_threads().unwrap();
    assert_eq!(pool.verify(&key(1).parsed(), &hash_of(&key(1))).await, Ok(true));
    drop(pool);
    assert!(shared.upgrade().is_none(), "a thread outlived the pool");
}

#[test]
fn a_panic_inside_argon2_is_an_error() {
    let panicking = || -> Result<bool, HashingError> { panic!("for the test") };
    assert_eq!(guarded(panicking), Err(PoolError::Stopped));
    assert_eq!(guarded(|| Ok(true)), Ok(true));
}
