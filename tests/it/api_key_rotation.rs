//! `ApiKeyService`, over the wire: new secrets, the grace of old ones, and the end of a key.

use std::time::Duration;

use tenancy::proto::v1;
use tonic::Code;

use crate::harness::keys::{create, get, knock, revoke, rotate, seconds_from_now, secret_key, update};
use crate::harness::{Tenant, World, refused};

const REQUEST_ID: &str = "018f6d2e-0000-7000-8000-000000000001";

/// A key of the tenant that may read its organization, and its text.
async fn key(tenant: &Tenant) -> (v1::ApiKey, String) {
    create(&tenant.client, secret_key(&["organizations.read"])).await.unwrap()
}

/// Which of these the service lets in; fails unless the others are refused as invalid.
async fn working(world: &World, secrets: &[&String]) -> Vec<bool> {
    let mut working = Vec::new();
    for secret in secrets {
        let outcome = knock(&world.client(secret)).await;
        working.push(outcome.is_ok());
        if outcome.is_err() {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::Unauthenticated, "API_KEY_INVALID"), "{refusal:?}");
        }
    }
    working
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_work_until_the_grace_ends() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, first) = key(&tenant).await;
    assert_eq!(working(&world, &[&first]).await, [true]);
    let until = seconds_from_now(&world, 60);
    let (rotated, second) = rotate(&tenant.client, &key.api_key_id, Some(60)).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(second[..24], first[..24], "the same key by its lookup id");
    assert_ne!(rotated.etag, key.etag);
    assert_eq!((&rotated.redacted_key, &rotated.scopes), (&key.redacted_key, &key.scopes));
    let end = rotated.previous_secret_expire_time.unwrap();
    assert!((end.seconds, end.nanos) >= (until.seconds, until.nanos) && end.seconds <= until.seconds + 30, "{end:?}");
    assert_eq!(working(&world, &[&first, &second]).await, [true, true]);

    world.clock.advance(Duration::from_secs(91));
    assert_eq!(working(&world, &[&first, &second]).await, [false, true]);
    assert_eq!(get(&tenant.client, &key.api_key_id).await.unwrap().previous_secret_expire_time, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_grace_unless_the_request_says_otherwise() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, first) = key(&tenant).await;
    let day = seconds_from_now(&world, 86_400);
    let (rotated, second) = rotate(&tenant.client, &key.api_key_id, None).await.unwrap();
    let end = rotated.previous_secret_expire_time.unwrap();
    assert!((day.seconds..day.seconds + 60).contains(&end.seconds), "{end:?}");
    assert_eq!(working(&world, &[&first, &second]).await, [true, true]);

    let (_, third) = rotate(&tenant.client, &key.api_key_id, None).await.unwrap();
    assert_eq!(working(&world, &[&first, &second, &third]).await, [false, true, true], "the second ended the first");
    let (rotated, fourth) = rotate(&tenant.client, &key.api_key_id, Some(0)).await.unwrap();
    assert_eq!(rotated.previous_secret_expire_time, None);
    assert_eq!(working(&world, &[&second, &third, &fourth]).await, [false, false, true], "no grace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_grace_outlives_the_key() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let hour = Some(seconds_from_now(&world, 3600));
    let wanted = v1::ApiKey { expire_time: hour, ..secret_key(&["organizations.read"]) };
    let (key, first) = create(&tenant.client, wanted).await.unwrap();
    let (rotated, second) = rotate(&tenant.client, &key.api_key_id, Some(86_400)).await.unwrap();
    assert_eq!((rotated.previous_secret_expire_time, rotated.expire_time), (hour, hour));

    // An earlier end of the key takes the grace with it, and a later one does not bring it back.
    let minute = Some(seconds_from_now(&world, 60));
    let earlier =
        update(&tenant.client, v1::ApiKey { expire_time: minute, ..rotated }, &["expire_time"]).await.unwrap();
    assert_eq!(earlier.previous_secret_expire_time, minute);
    let never = update(&tenant.client, v1::ApiKey { expire_time: None, ..earlier }, &["expire_time"]).await.unwrap();
    assert_eq!(never.previous_secret_expire_time, minute);
    assert_eq!(working(&world, &[&first, &second]).await, [true, true]);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(working(&world, &[&first, &second]).await, [false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graces_out_of_bounds() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, first) = key(&tenant).await;
    for (seconds, nanos) in
        [(-1, 0), (0, -1), (1, -1), (0, 1_000_000_000), (30 * 86_400, 1_000_000), (i64::MAX, 0), (i64::MIN, 0)]
    {
        let request = v1::RotateApiKeyRequest {
            api_key_id: key.api_key_id.clone(),
            grace_period: Some(prost_types::Duration { seconds, nanos }),
            ..Default::default()
        };
        let refusal = refused(tenant.client.api_keys().rotate_api_key(request).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{seconds} {nanos}: {refusal:?}");
        assert_eq!(refusal.fields, ["grace_period"]);
    }
    let (rotated, _) = rotate(&tenant.client, &key.api_key_id, Some(30 * 86_400)).await.unwrap();
    assert!(rotated.previous_secret_expire_time.is_some());
    assert_eq!(working(&world, &[&first]).await, [true]);
    for id in ["", "nonsense"] {
        let refusal = refused(rotate(&tenant.client, id, None).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["api_key_id"], "{refusal:?}");
    }
    let refusal = refused(rotate(&tenant.client, REQUEST_ID, None).await);
    assert!(refusal.is(Code::NotFound, "API_KEY_NOT_FOUND"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_rotation_shows_no_secret_and_rotates_once() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, first) = key(&tenant).await;
    let request = v1::RotateApiKeyRequest {
        api_key_id: key.api_key_id.clone(),
        etag: key.etag.clone(),
        request_id: REQUEST_ID.into(),
        ..Default::default()
    };
    let call = async |request: v1::RotateApiKeyRequest| {
        tenant.client.api_keys().rotate_api_key(request).await.map(tonic::Response::into_inner)
    };
    let at_once = futures_util::future::join_all((0..6).map(|_| call(request.clone()))).await;
    let replies: Vec<_> = at_once.into_iter().map(Result::unwrap).collect();
    let shown: Vec<_> = replies.iter().filter(|reply| !reply.secret.is_empty()).collect();
    assert_eq!(shown.len(), 1, "one secret");
    for reply in &replies {
        assert_eq!(reply.api_key, replies[0].api_key);
        assert_eq!(reply.secret.is_empty(), reply.secret_omitted_reason == "SECRET_ALREADY_SHOWN");
    }
    assert_eq!(get(&tenant.client, &key.api_key_id).await.unwrap(), replies[0].api_key.clone().unwrap());
    assert_eq!(working(&world, &[&first, &shown[0].secret]).await, [true, true], "rotated once");

    let other = v1::RotateApiKeyRequest { etag: String::new(), ..request.clone() };
    let refusal = refused(call(other).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    let stale = v1::RotateApiKeyRequest { request_id: String::new(), ..request };
    assert!(refused(call(stale).await).is(Code::Aborted, "ETAG_MISMATCH"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_at_once_leave_the_last_two_secrets() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, first) = key(&tenant).await;
    let rotations = (0..6).map(|_| rotate(&tenant.client, &key.api_key_id, None));
    let rotated = futures_util::future::join_all(rotations).await.into_iter().map(Result::unwrap);
    let mut rotated: Vec<(u64, String)> = rotated
        .map(|(key, secret)| {
            (key.etag.trim_matches('"').bytes().fold(0, |sum, byte| sum * 256 + u64::from(byte)), secret)
        })
        .collect();
    rotated.sort();
    let mut secrets: Vec<&String> = vec![&first];
    secrets.extend(rotated.iter().map(|(_, secret)| secret));
    assert_eq!(working(&world, &secrets).await.iter().filter(|works| **works).count(), 2);
    let last = get(&tenant.client, &key.api_key_id).await.unwrap();
    let (_, newest) = rotate(&tenant.client, &key.api_key_id, None).await.unwrap();
    assert_ne!(get(&tenant.client, &key.api_key_id).await.unwrap().etag, last.etag);
    secrets.push(&newest);
    let works = working(&world, &secrets).await;
    assert_eq!(works.iter().filter(|works| **works).count(), 2);
    assert_eq!(works.last(), Some(&true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_gone_for_good() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, first) = key(&tenant).await;
    let (rotated, second) = rotate(&tenant.client, &key.api_key_id, None).await.unwrap();
    let request = v1::RevokeApiKeyRequest { api_key_id: key.api_key_id.clone(), etag: key.etag, ..Default::default() };
    let refusal = refused(tenant.client.api_keys().revoke_api_key(request).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    let revoked = revoke(&tenant.client, &key.api_key_id).await.unwrap();
    assert_eq!(revoked.status(), v1::ApiKeyStatus::Revoked);
    assert!(revoked.revoke_time.is_some() && revoked.etag != rotated.etag);
    for secret in [&first, &second] {
        let refusal = refused(knock(&world.client(secret)).await);
        assert!(refusal.is(Code::Unauthenticated, "API_KEY_REVOKED"), "{refusal:?}");
    }
    // Twice changes nothing, and neither does anything else.
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(revoke(&tenant.client, &key.api_key_id).await.unwrap(), revoked);
    let again = v1::ApiKey { disabled: false, display_name: "again".into(), ..revoked.clone() };
    for outcome in [
        rotate(&tenant.client, &key.api_key_id, None).await.map(|rotated| rotated.0),
        update(&tenant.client, again, &["display_name"]).await,
    ] {
        assert!(refused(outcome).is(Code::FailedPrecondition, "API_KEY_REVOKED"));
    }
    assert_eq!(get(&tenant.client, &key.api_key_id).await.unwrap(), revoked);
    let request =
        v1::ListAuditEventsRequest { filter: format!("resource_id = \"{}\"", key.api_key_id), ..Default::default() };
    let events = tenant.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let mut actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["keys.create", "keys.revoke", "keys.rotate"], "what was refused left no trace");
}
