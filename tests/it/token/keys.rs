//! The keys that tokens are signed with: one for all replicas, replaced in time, sealed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use serde_json::Value;
use tenancy::auth::tokens::sealing::SealingKeys;
use tenancy::proto::v1;
use tenancy::worker::token_keys::{self, KeyOptions};
use tonic::Code;

use super::{issue, key_set, member, part};
use crate::harness::keys::knock;
use crate::harness::{TOKEN_ENCRYPTION_KEY, World, clone_template, eventually, refused};

const DAY: Duration = Duration::from_hours(24);
const NINE_MINUTES_LEFT: Duration = Duration::from_mins(24 * 60 - 9);

fn options(sealing: &str) -> KeyOptions {
    KeyOptions { sealing: SealingKeys::parse(sealing).unwrap(), rotation: TimeDelta::days(30) }
}

/// What the worker of this replica does each minute.
async fn look_after(world: &World, sealing: &str) {
    token_keys::run_once(&world.running.database, &world.clock, &options(sealing)).await.unwrap();
}

fn ids(set: &[Value]) -> Vec<String> {
    set.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn signed_by(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_make_one_key() {
    let database = clone_template().await;
    let replicas = (0..4).map(|_| World::on(database.clone(), &[]));
    let replicas = futures_util::future::join_all(replicas).await;
    let sets = futures_util::future::join_all(replicas.iter().map(key_set)).await;
    assert_eq!(sets[0].len(), 1);
    assert!(sets.iter().all(|set| *set == sets[0]));
    // Each takes what another issues.
    let (tenant, user) = member(&replicas[0], "acme", "member").await;
    for issuer in &replicas {
        let token = issue(&issuer.client(&tenant.key), &user).await.unwrap();
        for verifier in &replicas {
            knock(&verifier.anonymous().token(&token)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_look_after_the_keys_at_once_one_makes_the_first() {
    let world = World::start_with(&["--token-encryption-key="]).await;
    let replica = World::on(world.database.clone(), &["--token-encryption-key="]).await;
    for round in 1..=5 {
        let at_once =
            [&world, &replica].into_iter().cycle().take(12).map(|world| look_after(world, TOKEN_ENCRYPTION_KEY));
        futures_util::future::join_all(at_once).await;
        let made: i64 =
            sqlx::query_scalar("SELECT count(*) FROM tenancy.platform_audit_events WHERE action = 'token_keys.create'")
                .fetch_one(&world.database.superuser)
                .await
                .unwrap();
        assert_eq!(made, round);
        sqlx::query("DELETE FROM tenancy.token_keys").execute(&world.database.superuser).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_published_before_it_signs_and_as_long_as_its_tokens_count() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    let first = ids(&key_set(&world).await);
    let token = issue(&tenant.client, &user).await.unwrap();
    assert_eq!(first, [signed_by(&token)]);
    world.clock.advance(DAY * 29);
    look_after(&world, TOKEN_ENCRYPTION_KEY).await;
    assert_eq!(ids(&key_set(&world).await), first, "nothing is due");

    // Nine minutes before its time the next one is there, and does not sign.
    world.clock.advance(NINE_MINUTES_LEFT);
    look_after(&world, TOKEN_ENCRYPTION_KEY).await;
    look_after(&world, TOKEN_ENCRYPTION_KEY).await;
    let both = ids(&key_set(&world).await);
    assert!(both.len() == 2 && both[1] == first[0], "{both:?}");
    let before = issue(&tenant.client, &user).await.unwrap();
    assert_eq!(signed_by(&before), first[0]);
    world.clock.advance(Duration::from_mins(11));
    let (old, new) = (before, issue(&tenant.client, &user).await.unwrap());
    assert_eq!(signed_by(&new), both[0]);
    knock(&world.anonymous().token(&new)).await.unwrap();
    // Eleven minutes old it has ended; a younger one of the former key would count.
    assert!(refused(knock(&world.anonymous().token(&old)).await).is(Code::Unauthenticated, "TOKEN_EXPIRED"));
    look_after(&world, TOKEN_ENCRYPTION_KEY).await;
    assert_eq!(ids(&key_set(&world).await), both, "the former stays");
    world.clock.advance(Duration::from_mins(61));
    look_after(&world, TOKEN_ENCRYPTION_KEY).await;
    assert_eq!(ids(&key_set(&world).await), both[..1], "until its last token can have ended");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.token_keys")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(left, 1);

    let request = v1::ListAuditEventsRequest { filter: "resource_type = \"token_key\"".into(), ..Default::default() };
    let events = world.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let mut actions: Vec<&str> = events.iter().map(|event| event.action.as_str()).collect();
    // Two of one millisecond have no order.
    actions.sort_unstable();
    assert_eq!(actions, ["token_keys.create", "token_keys.create", "token_keys.delete", "token_keys.retire"]);
    for event in events {
        assert_eq!(event.actor.as_ref().unwrap().r#type(), v1::AuditActorType::System);
        assert!(!format!("{event:?}").contains("_key\":"), "no key material: {event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_the_former_key_counts_after_the_change() {
    let world = World::start_with(&["--token-lifetime", "1h"]).await;
    let other = World::on(world.database.clone(), &[]).await;
    let (tenant, user) = member(&world, "acme", "member").await;
    world.clock.advance(DAY * 29 + NINE_MINUTES_LEFT);
    look_after(&world, TOKEN_ENCRYPTION_KEY).await;
    let token = issue(&tenant.client, &user).await.unwrap();
    world.clock.advance(Duration::from_mins(30));
    assert_ne!(signed_by(&issue(&tenant.client, &user).await.unwrap()), signed_by(&token));
    knock(&world.anonymous().token(&token)).await.unwrap();
    // A replica that has not heard of the new key by itself looks when it meets it: at once, with the first token.
    other.clock.advance(DAY * 30 + Duration::from_mins(21));
    let token = issue(&tenant.client, &user).await.unwrap();
    knock(&other.anonymous().token(&token)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_the_configuration_can_be_changed() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    let first = ids(&key_set(&world).await);
    let new = STANDARD.encode([9; 32]);
    let both = format!("{new},{TOKEN_ENCRYPTION_KEY}");
    let sealed = async || -> Vec<Vec<u8>> {
        let sealed = sqlx::query_scalar("SELECT sealed_private_key FROM tenancy.token_keys ORDER BY token_key_id");
        sealed.fetch_all(&world.database.superuser).await.unwrap()
    };
    let before = sealed().await;
    let second = World::on(world.database.clone(), &["--token-encryption-key", &both]).await;
    assert_eq!(ids(&key_set(&second).await), first, "sealed anew, and the same");
    assert_ne!(sealed().await, before);
    let third = World::on(world.database.clone(), &["--token-encryption-key", &new]).await;
    for replica in [&world, &second, &third] {
        let token = issue(&replica.client(&tenant.key), &user).await.unwrap();
        assert_eq!(signed_by(&token), first[0]);
        for verifier in [&world, &second, &third] {
            knock(&verifier.anonymous().token(&token)).await.unwrap();
        }
    }
    assert_eq!(sealed().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_nobody_can_open_is_replaced_and_given_up_in_time() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    let first = ids(&key_set(&world).await);
    let lost = STANDARD.encode([5; 32]);
    let other = World::on(world.database.clone(), &["--token-encryption-key", &lost]).await;
    let both = ids(&key_set(&other).await);
    assert!(both.len() == 2 && both.contains(&first[0]), "{both:?}");
    // What was issued before counts everywhere, and so does what each issues with its own.
    let theirs = issue(&other.client(&tenant.key), &user).await.unwrap();
    assert_ne!(signed_by(&theirs), signed_by(&token));
    let world_ = &world;
    eventually("both keys are known", || async move { key_set(world_).await.len() == 2 }).await;
    for verifier in [&world, &other] {
        for token in [&token, &theirs] {
            knock(&verifier.anonymous().token(token)).await.unwrap();
        }
    }
    // Nobody is left who could replace the first one.
    other.clock.advance(DAY * 30 + Duration::from_mins(11));
    look_after(&other, &lost).await;
    other.clock.advance(Duration::from_mins(62));
    look_after(&other, &lost).await;
    assert!(!ids(&key_set(&other).await).contains(&first[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_set_is_there_while_the_database_is_away() {
    let world = World::start().await;
    let set = key_set(&world).await;
    world.database.cut().await;
    world.clock.advance(Duration::from_secs(31));
    assert_eq!(key_set(&world).await, set, "for gateways that look just now");
    world.database.restore().await;
}
