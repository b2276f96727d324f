//! The cache under concurrency: single flight, invalidation during loads and hashes, cancellation,
//! overload.

use std::sync::atomic::AtomicUsize;

use tokio::task::JoinSet;

use super::*;
use crate::auth::keys::{gate::GateBounds, overload::Bottleneck, testing::until};

/// Waits until so many loads have read their row.
async fn loads(world: &World, number: usize) {
    until(|| world.work().0 >= number).await;
}

fn verifying(world: &Arc<World>, key: PlainKey) -> impl Future<Output = Outcome> + use<> {
    let world = Arc::clone(world);
    async move { world.verify(&key).await }
}

type Outcome = Result<Seen, VerifyError<Down>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_are_one_load_and_one_argon2_run() {
    for seed in 0..30 {
        let world = World::new(KeyCacheConfig::default());
        world.put(&key(seed), 1);
        let mut calls = JoinSet::new();
        for _ in 0..200 {
            calls.spawn(verifying(&world, key(seed)));
        }
        for outcome in calls.join_all().await {
            assert_eq!(outcome.unwrap(), Seen::Current(1));
        }
        assert_eq!(world.work(), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_bad_keys_at_once_are_one_load_and_one_run_each() {
    let world = World::new(KeyCacheConfig::default());
    world.put(&key(1), 1);
    let mut calls = JoinSet::new();
    for call in 0..300 {
        calls.spawn(verifying(&world, sibling(&key(1), 10 + call % 3)));
    }
    for outcome in calls.join_all().await {
        assert_eq!(outcome.unwrap(), Seen::Wrong);
    }
    assert_eq!(world.work(), (1, 3));
}

/// Who has looked, found nothing, and boards after another flight has landed, must look again.
#[tokio::test]
async fn who_boards_late_finds_what_the_flight_before_brought() {
    let world = World::new(KeyCacheConfig::default());
    world.put(&key(1), 1);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
    assert_eq!(world.verify(&sibling(&key(1), 2)).await.unwrap(), Seen::Wrong);
    let before = world.work();
    let (cache, lookup, load) = (&world.cache, key(1).parsed().lookup(), |id| world.load(id));
    let Entry::Present(cached) = cache.load(lookup, world.at(0), &load).await.unwrap() else {
        panic!("the record is gone");
    };
    for key in [key(1), sibling(&key(1), 2)] {
        let digest = cache.proofs.digest(&key.parsed());
        cache.check(&key.parsed(), digest, &cached, wall(0)).await.unwrap();
    }
    assert_eq!(world.work(), before);
}

/// The race of I8: a load has read the row, the row changes, the change is announced, the load
/// returns what it has read.
async fn stale_fill(invalidate: impl Fn(&World), before: Option<Version>) {
    let world = World::new(KeyCacheConfig::default());
    if let Some(version) = before {
        world.put(&key(1), version);
    }
    world.held.send_replace(true);
    let early = tokio::spawn(verifying(&world, key(1)));
    loads(&world, 1).await;
    world.put(&key(1), 2);
    invalidate(&world);
    // Joins the stale load, and must not believe it.
    let late = tokio::spawn(verifying(&world, key(1)));
    tokio::task::yield_now().await;
    world.held.send_replace(false);
    assert_eq!(late.await.unwrap().unwrap(), Seen::Current(2));
    assert_eq!(early.await.unwrap().unwrap(), Seen::Current(2));
    assert_eq!(world.warm(&key(1)), Some(Seen::Current(2)));
    assert_eq!(world.work(), (2, 1));
}

#[tokio::test]
async fn a_load_that_began_before_an_invalidation_leaves_nothing_behind() {
    for before in [Some(1), None] {
        stale_fill(|world| world.cache.invalidate(&key(1).parsed().lookup()), before).await;
        stale_fill(|world| world.cache.invalidate_all(), before).await;
    }
    // An absence has no organization, so the creation of a key has to invalidate the key.
    stale_fill(|world| world.cache.invalidate_organization(&ORGANIZATION), Some(1)).await;
}

#[tokio::test]
async fn the_stale_value_is_not_served_even_when_nobody_loads_again() {
    let world = World::new(KeyCacheConfig::default());
    world.put(&key(1), 1);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
    world.cache.invalidate_all();
    world.held.send_replace(true);
    let call = tokio::spawn(verifying(&world, key(1)));
    loads(&world, 2).await;
    world.put(&key(1), 2);
    world.cache.invalidate(&key(1).parsed().lookup());
    world.held.send_replace(false);
    // Stop the caller as soon as the stale load has come back and before it tries again.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    call.abort();
    assert_ne!(world.warm(&key(1)), Some(Seen::Current(1)));
}

#[tokio::test]
async fn a_key_revoked_while_argon2_runs_is_not_let_through_with_old_facts() {
    let world = World::idle(KeyCacheConfig::default());
    world.put(&key(1), 1);
    let call = tokio::spawn(verifying(&world, key(1)));
    until(|| world.cache.pool().depth() == 1).await;
    world.put(&key(1), 2);
    world.cache.invalidate_organization(&ORGANIZATION);
    world.cache.pool().spawn_threads().unwrap();
    assert_eq!(call.await.unwrap().unwrap(), Seen::Current(2));
    assert_eq!(world.work(), (2, 1), "the proof still counts");
}

#[tokio::test]
async fn when_the_leader_of_an_argon2_run_is_dropped_a_waiter_takes_over() {
    let world = World::idle(KeyCacheConfig::default());
    world.put(&key(1), 1);
    let leader = tokio::spawn(verifying(&world, key(1)));
    until(|| world.cache.pool().depth() == 1).await;
    let waiter = tokio::spawn(verifying(&world, key(1)));
    tokio::task::yield_now().await;
    assert_eq!(world.cache.pool().depth(), 1, "one at a time");
    leader.abort();
    until(|| world.cache.pool().depth() == 2).await;
    world.cache.pool().spawn_threads().unwrap();
    assert_eq!(waiter.await.unwrap().unwrap(), Seen::Current(1));
    assert_eq!(world.work(), (1, 1), "the abandoned job was not run");
}

/// Writers commit a version, announce it, then publish it; a reader that starts afterwards must see
/// it or a later one. One reader in eight is cancelled on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_ever_answered_from_before_a_finished_invalidation() {
    let world = World::new(KeyCacheConfig::default());
    world.put(&key(1), 0);
    let published = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for reader in 0..8 {
        let (world, published) = (Arc::clone(&world), Arc::clone(&published));
        readers.spawn(async move {
            let key = key(1);
            let mut answers = 0;
            while published.load(Ordering::SeqCst) < 3_000 {
                let floor = published.load(Ordering::SeqCst);
                let call = world.verify(&key);
                let seen = if reader == 0 {
                    tokio::select! {
                        biased;
                        seen = call => seen,
                        () = tokio::task::yield_now() => continue,
                    }
                } else {
                    call.await
                };
                match seen.map_err(|error| error.to_string()) {
                    Ok(Seen::Current(version)) => assert!(version >= floor, "{version} < {floor}"),
                    Ok(other) => panic!("{other:?}"),
                    // Three versions within one call.
                    Err(error) => assert!(error.contains("overloaded"), "{error}"),
                }
                if let Some(Seen::Current(version)) = world.warm(&key) {
                    assert!(version >= floor, "{version} < {floor}");
                }
                answers += 1;
                tokio::task::yield_now().await;
            }
            answers
        });
    }
    for version in 1..=3_000 {
        world.put(&key(1), version);
        match version % 3 {
            0 => world.cache.invalidate(&key(1).parsed().lookup()),
            1 => world.cache.invalidate_organization(&ORGANIZATION),
            _ => world.cache.invalidate_all(),
        }
        published.store(version, Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
    assert!(readers.join_all().await.into_iter().sum::<usize>() > 100);
}

#[tokio::test]
async fn a_record_that_changes_at_every_load_ends_in_a_typed_refusal() {
    let world = World::new(KeyCacheConfig::default());
    world.put(&key(1), 1);
    let load = |lookup| {
        let world = &world;
        async move {
            let row = world.load(lookup).await;
            world.cache.invalidate(&lookup);
            row
        }
    };
    let outcome = world.cache.verify(&key(1).parsed(), world.at(0), wall(0), load).await;
    let Err(VerifyError::Overloaded(overloaded)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(overloaded.bottleneck, Bottleneck::Churn);
    assert_eq!(world.work(), (3, 0));
}

#[tokio::test]
async fn when_the_leader_of_a_load_is_dropped_a_waiter_takes_over() {
    let world = World::new(KeyCacheConfig::default());
    world.put(&key(1), 1);
    world.held.send_replace(true);
    let leader = tokio::spawn(verifying(&world, key(1)));
    loads(&world, 1).await;
    let mut waiters = JoinSet::new();
    for _ in 0..20 {
        waiters.spawn(verifying(&world, key(1)));
    }
    tokio::task::yield_now().await;
    leader.abort();
    loads(&world, 2).await;
    world.held.send_replace(false);
    for outcome in waiters.join_all().await {
        assert_eq!(outcome.unwrap(), Seen::Current(1));
    }
    assert_eq!(world.work(), (2, 1));
    assert!(world.cache.loads.is_empty() && world.cache.checks.is_empty());
}

#[tokio::test]
async fn a_failed_load_fails_all_who_wait_and_is_not_tried_by_each() {
    let world = World::new(KeyCacheConfig::default());
    world.down.store(true, Ordering::SeqCst);
    world.held.send_replace(true);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        calls.spawn(verifying(&world, key(1)));
    }
    loads(&world, 1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.held.send_replace(false);
    for outcome in calls.join_all().await {
        assert!(matches!(outcome, Err(VerifyError::Load(_))));
    }
    assert_eq!(world.work(), (1, 0));
}

#[tokio::test]
async fn a_flood_of_made_up_lookup_ids_is_refused_and_does_not_block_known_keys() {
    let unknown_loads = GateBounds { concurrent: 2, waiting: 3 };
    let world = World::new(KeyCacheConfig { unknown_loads, ..KeyCacheConfig::default() });
    world.put(&key(1), 1);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
    world.held.send_replace(true);
    let mut flood = JoinSet::new();
    for seed in 0..1_000 {
        flood.spawn(verifying(&world, key(1_000 + seed)));
    }
    loads(&world, 3).await;
    let mut refused = 0;
    while refused < 995 {
        match flood.join_next().await.unwrap().unwrap() {
            Err(VerifyError::Overloaded(overloaded)) => {
                assert_eq!(overloaded.bottleneck, Bottleneck::Loads);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // The known key's facts expire while the gate for unknown ones is full.
    let own = Arc::clone(&world);
    let known = tokio::spawn(async move { own.verify_at(&key(1), 31_000, 0).await.map(Seen::from) });
    loads(&world, 4).await;
    world.held.send_replace(false);
    assert_eq!(known.await.unwrap().unwrap(), Seen::Current(1));
    for outcome in flood.join_all().await {
        assert_eq!(outcome.unwrap(), Seen::Unknown);
    }
}
