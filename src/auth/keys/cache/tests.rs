//! What the cache answers, remembers and forgets. `races` has the concurrent half.

use std::sync::atomic::Ordering;

use self::world::*;
use super::*;
use crate::auth::keys::{
    key::PlainKey,
    testing::{key, sibling},
};

mod races;
mod world;

fn world() -> Arc<World> {
    World::new(KeyCacheConfig::default())
}

#[tokio::test]
async fn a_key_is_loaded_and_verified_once() {
    let world = world();
    world.put(&key(1), 1);
    assert_eq!(world.warm(&key(1)), None);
    for _ in 0..10 {
        assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
        assert_eq!(world.warm(&key(1)), Some(Seen::Current(1)));
    }
    assert_eq!(world.work(), (1, 1));
}

#[tokio::test]
async fn facts_expire_and_proofs_do_not() {
    let world = world();
    world.put(&key(1), 1);
    for seconds in 0..10 {
        world.put(&key(1), seconds);
        let at = u64::try_from(seconds).unwrap() * 31_000;
        let seen: Seen = world.verify_at(&key(1), at, 0).await.unwrap().into();
        assert_eq!(seen, Seen::Current(seconds));
    }
    assert_eq!(world.work(), (10, 1));
    assert!(world.cache.warm(&key(1).parsed(), world.at(9 * 31_000 + 30_000), wall(0)).is_some());
    assert!(world.cache.warm(&key(1).parsed(), world.at(9 * 31_000 + 30_001), wall(0)).is_none());
}

#[tokio::test]
async fn an_absence_is_remembered_shortly_and_can_be_invalidated() {
    let world = world();
    for _ in 0..10 {
        assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Unknown);
        assert_eq!(world.warm(&key(1)), Some(Seen::Unknown));
    }
    assert_eq!(world.work(), (1, 0));
    assert!(world.cache.warm(&key(1).parsed(), world.at(5_000), wall(0)).is_some());
    assert!(world.cache.warm(&key(1).parsed(), world.at(5_001), wall(0)).is_none());
    world.put(&key(1), 1);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Unknown);
    world.cache.invalidate(&key(1).parsed().lookup());
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
    assert_eq!(world.cache.size().absences, 0);
}

#[tokio::test]
async fn every_invalidation_that_concerns_a_key_forgets_its_facts() {
    let world = world();
    let concerning: [&dyn Fn(); 3] = [
        &|| world.cache.invalidate(&key(1).parsed().lookup()),
        &|| world.cache.invalidate_organization(&ORGANIZATION),
        &|| world.cache.invalidate_all(),
    ];
    for (version, invalidate) in concerning.into_iter().enumerate() {
        world.put(&key(1), version);
        invalidate();
        assert_eq!(world.warm(&key(1)), None);
        assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(version));
    }
    assert_eq!(world.work(), (3, 1), "proofs survive");
}

#[tokio::test]
async fn a_rotation_voids_proofs_and_grace_lasts_until_its_end() {
    let world = world();
    let (old, new) = (key(1), sibling(&key(1), 2));
    let lookup = old.parsed().lookup();
    world.put(&old, 1);
    assert_eq!(world.verify(&old).await.unwrap(), Seen::Current(1));
    assert_eq!(world.verify(&new).await.unwrap(), Seen::Wrong);

    world.put_rotated(&new, Some((&old, 60)), 2);
    world.cache.invalidate(&lookup);
    let before = world.work().1;
    assert_eq!(world.verify(&old).await.unwrap(), Seen::Previous(2), "the proof still counts");
    assert_eq!(world.work().1, before);
    assert_eq!(world.verify(&new).await.unwrap(), Seen::Current(2), "the disproof does not");
    let verdict = |key: PlainKey, seconds| {
        let world = &world;
        async move { Seen::from(world.verify_at(&key, 0, seconds).await.unwrap()) }
    };
    assert_eq!(verdict(key(1), 59).await, Seen::Previous(2));
    assert_eq!(verdict(key(1), 60).await, Seen::Wrong);
    assert_eq!(world.warm(&old), Some(Seen::Previous(2)), "at second 0");
    assert_eq!(verdict(sibling(&key(1), 2), 60).await, Seen::Current(2));

    world.put(&new, 3);
    world.cache.invalidate(&lookup);
    assert_eq!(world.verify(&old).await.unwrap(), Seen::Wrong, "without grace");
    assert_eq!(world.verify(&new).await.unwrap(), Seen::Current(3));
}

#[tokio::test]
async fn an_old_key_first_seen_during_the_grace_is_proven_by_the_previous_hash() {
    let world = world();
    let (old, new, bad) = (key(1), sibling(&key(1), 2), sibling(&key(1), 3));
    world.put_rotated(&new, Some((&old, 60)), 1);
    assert_eq!(world.verify(&old).await.unwrap(), Seen::Previous(1));
    assert_eq!(world.verify(&bad).await.unwrap(), Seen::Wrong);
    let before = world.work();
    for _ in 0..10 {
        assert_eq!(world.verify(&bad).await.unwrap(), Seen::Wrong);
        assert_eq!(world.verify_at(&bad, 0, 61).await.map(Seen::from).unwrap(), Seen::Wrong);
    }
    assert_eq!(world.work(), before, "a disproof of both holds for the one that is left");
}

#[tokio::test]
async fn one_bad_key_costs_one_run_and_many_evict_no_proof() {
    let config = KeyCacheConfig { records: 64, disproofs: 64, ..KeyCacheConfig::default() };
    let world = World::new(config);
    world.put(&key(1), 1);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
    for _ in 0..100 {
        assert_eq!(world.verify(&sibling(&key(1), 2)).await.unwrap(), Seen::Wrong);
    }
    assert_eq!(world.work(), (1, 2));
    for seed in 0..2_000 {
        assert_eq!(world.verify(&sibling(&key(1), 1_000 + seed)).await.unwrap(), Seen::Wrong);
        assert_eq!(world.warm(&key(1)), Some(Seen::Current(1)));
    }
    assert!(world.cache.size().disproofs <= 64);
    assert_eq!(world.cache.size().proofs, 1);
}

#[tokio::test]
async fn made_up_lookup_ids_evict_no_record() {
    let config = KeyCacheConfig { records: 64, absences: 64, ..KeyCacheConfig::default() };
    let world = World::new(config);
    world.put(&key(1), 1);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
    for seed in 0..2_000 {
        assert_eq!(world.verify(&key(1_000 + seed)).await.unwrap(), Seen::Unknown);
    }
    assert_eq!(world.warm(&key(1)), Some(Seen::Current(1)));
    assert!(world.cache.size().absences <= 64);
    assert_eq!(world.cache.size().records, 1);
}

#[tokio::test]
async fn a_loaders_error_is_passed_on_and_not_remembered() {
    let world = world();
    world.put(&key(1), 1);
    world.down.store(true, Ordering::SeqCst);
    let Err(VerifyError::Load(error)) = world.verify(&key(1)).await else { panic!() };
    assert_eq!(*error, Down);
    world.down.store(false, Ordering::SeqCst);
    assert_eq!(world.verify(&key(1)).await.unwrap(), Seen::Current(1));
}

#[tokio::test]
async fn no_lifetime_means_a_load_for_each_call_and_still_an_answer() {
    let none = Duration::ZERO;
    let config = KeyCacheConfig { record_lifetime: none, ..KeyCacheConfig::default() };
    let world = World::new(config);
    world.put(&key(1), 1);
    for at in 0..5 {
        let seen: Seen = world.verify_at(&key(1), at, 0).await.unwrap().into();
        assert_eq!(seen, Seen::Current(1));
    }
    assert_eq!(world.work(), (5, 1));
}

#[test]
fn the_cache_may_be_shared_and_its_futures_sent() {
    fn shared<T: Send + Sync>() {}
    fn sent(_: impl Send) {}
    shared::<KeyCache<String, std::io::Error>>();
    let world = world();
    let (key, load) = (key(1), |_| async { Ok(None) });
    sent(world.cache.verify(&key.parsed(), world.at(0), wall(0), load));
}
