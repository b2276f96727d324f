//! Tokens that are not ours, at our door and through an Envoy: each is refused, and says nothing of why but what its bearer
//! could know anyway.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};
use tenancy::auth::permission::METHODS;
use tonic::Code;

use super::{claims, issue, key_set, member, part};
use crate::harness::keys::knock;
use crate::harness::{World, raw, refused};
use crate::sidecar::support::{sidecar, waiting};

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token of these parts, signed by whom it pleases.
fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// The value with a field changed.
fn with(value: &Value, name: &str, field: Value) -> Value {
    let mut value = value.clone();
    value[name] = field;
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forgery_is_taken() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "viewer").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    let (header, said) = (part(&token, 0), claims(&token));
    let key = key_set(&world).await.remove(0);
    let public = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let theirs = |message: &[u8]| pair.sign(message).as_ref().to_vec();
    let hs256 =
        |key: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec();
    let pieces: Vec<&str> = token.split('.').collect();
    let joined = |header: &Value, claims: &Value| format!("{}.{}.{}", encoded(header), encoded(claims), pieces[2]);
    // Another installation of the same name, with a member of the same id: nothing but the key tells them apart.
    let elsewhere = World::start().await;
    let (other_tenant, other_user) = member(&elsewhere, "acme", "owner").await;
    let foreign = issue(&other_tenant.client, &other_user).await.unwrap();
    let unknown = json!("018f6d2e-0000-7000-8000-00000000dead");

    let forged = [
        ("by another key", "TOKEN_INVALID", signed(&header, &said, theirs)),
        ("by a key nobody knows", "TOKEN_INVALID", signed(&with(&header, "kid", unknown.clone()), &said, theirs)),
        ("of another installation", "TOKEN_INVALID", foreign),
        ("no kid", "TOKEN_INVALID", signed(&json!({"typ": "JWT", "alg": "EdDSA"}), &said, theirs)),
        ("a kid that is none", "TOKEN_INVALID", signed(&with(&header, "kid", json!("../../x")), &said, theirs)),
        ("the public key as a secret", "TOKEN_INVALID", {
            signed(&with(&header, "alg", json!("HS256")), &said, |message| hs256(&public, message))
        }),
        ("the set's text as a secret", "TOKEN_INVALID", {
            let secret = key["x"].as_str().unwrap();
            signed(&with(&header, "alg", json!("HS256")), &said, |message| hs256(secret.as_bytes(), message))
        }),
        ("another algorithm's name", "TOKEN_INVALID", joined(&with(&header, "alg", json!("RS256")), &said)),
        ("none", "TOKEN_MALFORMED", format!("{}.{}.", encoded(&with(&header, "alg", json!("none"))), pieces[1])),
        ("None", "TOKEN_MALFORMED", joined(&with(&header, "alg", json!("None")), &said)),
        ("no signature", "TOKEN_INVALID", format!("{}.{}.", pieces[0], pieces[1])),
        ("half a signature", "TOKEN_INVALID", token[..token.len() - 40].to_owned()),
        ("a header that is more", "TOKEN_INVALID", joined(&with(&header, "x", json!(1)), &said)),
        ("a key of its own", "TOKEN_INVALID", signed(&with(&header, "jwk", key.clone()), &said, theirs)),
        ("another user", "TOKEN_INVALID", joined(&header, &with(&said, "sub", unknown))),
        ("another organization", "TOKEN_INVALID", joined(&header, &with(&said, "tid", json!(other_tenant.id)))),
        ("more permissions", "TOKEN_INVALID", joined(&header, &with(&said, "permissions", json!(["members.add"])))),
        ("a longer life", "TOKEN_INVALID", joined(&header, &with(&said, "exp", json!(4_000_000_000_i64)))),
        ("another issuer", "TOKEN_INVALID", joined(&header, &with(&said, "iss", json!("evil")))),
        ("another audience", "TOKEN_INVALID", joined(&header, &with(&said, "aud", json!("evil")))),
        ("not yet", "TOKEN_INVALID", joined(&header, &with(&said, "nbf", json!(4_000_000_000_i64)))),
        ("past its end", "TOKEN_EXPIRED", joined(&header, &with(&said, "exp", json!(1)))),
        ("no end", "TOKEN_MALFORMED", joined(&header, &with(&said, "exp", json!("never")))),
        ("no claims", "TOKEN_MALFORMED", joined(&header, &json!({}))),
        ("two parts", "TOKEN_MALFORMED", format!("{}.{}", pieces[0], pieces[1])),
        ("four parts", "TOKEN_MALFORMED", format!("{token}.{}", pieces[2])),
        ("dots", "TOKEN_MALFORMED", "...".into()),
        ("a dot", "TOKEN_MALFORMED", ".".into()),
        ("a key with a dot", "TOKEN_MALFORMED", format!("{}.", tenant.key)),
        ("text", "TOKEN_MALFORMED", "a.b.c".into()),
        ("long", "TOKEN_MALFORMED", format!("{token}{}", "A".repeat(4096))),
    ];
    let envoy = sidecar(&world).await;
    for round in 0..2 {
        for (what, reason, token) in &forged {
            let refusal = refused(knock(&world.anonymous().token(token)).await);
            assert!(refusal.is(Code::Unauthenticated, reason), "{what}, {round}: {refusal:?}");
            let denied = waiting().header("authorization", &format!("Bearer {token}")).denied(&envoy).await;
            assert!(denied.is(401, reason), "{what}, {round}: {denied:?}");
        }
    }
    // The tools are sharp: with the right parts they make a good token again.
    assert_eq!(joined(&header, &said).split('.').count(), 3);
    let raw_parts = format!("{}.{}.{}", pieces[0], pieces[1], pieces[2]);
    knock(&world.anonymous().token(&raw_parts)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_refuses_a_forged_and_an_expired_token() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "owner").await;
    let token = issue(&tenant.client, &user).await.unwrap();
    let client = world.anonymous().token(&token);
    knock(&client).await.unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let forged = signed(&part(&token, 0), &claims(&token), |message| pair.sign(message).as_ref().to_vec());
    let forged = world.anonymous().token(&forged);
    for (path, _) in METHODS {
        let refusal = refused(raw(&forged, path, Vec::new()).await);
        assert!(refusal.is(Code::Unauthenticated, "TOKEN_INVALID"), "{path}: {refusal:?}");
    }
    world.clock.advance(Duration::from_secs(301));
    for (path, _) in METHODS {
        let refusal = refused(raw(&client, path, Vec::new()).await);
        assert!(refusal.is(Code::Unauthenticated, "TOKEN_EXPIRED"), "{path}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_issuer_is_not_taken_though_the_key_is_the_same() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "owner").await;
    let staging = World::on(world.database.clone(), &["--token-issuer", "staging"]).await;
    let token = issue(&staging.client(&tenant.key), &user).await.unwrap();
    knock(&staging.anonymous().token(&token)).await.unwrap();
    let refusal = refused(knock(&world.anonymous().token(&token)).await);
    assert!(refusal.is(Code::Unauthenticated, "TOKEN_INVALID"), "{refusal:?}");
}
