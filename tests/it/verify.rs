//! `VerifyApiKey`: every answer, to whom, and from where.

use std::time::Duration;

use rand::rngs::SysRng;
use tenancy::auth::keys::key::{ParsedKey, PlainKey};
use tenancy::auth::keys::kind::ApiKeyKind;
use tenancy::auth::permission::Permission::{KeysVerify, UsageWrite};
use tenancy::proto::v1;
use tenancy::proto::v1::VerificationCode as Answer;
use tonic::Code;

use crate::harness::keys::{
    create, operate, publishable_key, revoke, rotate, seconds_from_now, secret_key, settled, update, verify,
};
use crate::harness::{Client, Tenant, World, eventually, refused};

fn bare(code: Answer) -> v1::VerifyApiKeyResponse {
    v1::VerifyApiKeyResponse { code: code.into(), ..Default::default() }
}

async fn asked(client: &Client, key: &str, permission: &str, origin: &str) -> Answer {
    let request = v1::VerifyApiKeyRequest {
        api_key: key.into(),
        permission: permission.into(),
        origin: origin.into(),
        ..Default::default()
    };
    client.api_keys().verify_api_key(request).await.unwrap().into_inner().code()
}

/// Waits for the answer: an organization's change reaches the caches by the change log.
async fn answered(client: &Client, key: &str, expected: Answer) {
    eventually("the answer", || async move { asked(client, key, "", "").await == expected }).await;
}

async fn suspend(world: &World, tenant: &Tenant) {
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_key_is_told_all_about() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wanted = v1::ApiKey {
        labels: [("team".to_owned(), "core".to_owned())].into(),
        expire_time: Some(seconds_from_now(&world, 3600)),
        ..secret_key(&["usage.write", "usage.read"])
    };
    let (key, secret) = create(&tenant.client, wanted).await.unwrap();
    let expected = v1::VerifyApiKeyResponse {
        code: Answer::Valid.into(),
        api_key_id: key.api_key_id.clone(),
        organization_id: tenant.id.clone(),
        organization_slug: "acme".into(),
        plan: "free".into(),
        kind: key.kind,
        scopes: key.scopes.clone(),
        labels: key.labels.clone(),
        expire_time: key.expire_time,
    };
    for client in [tenant.client.clone(), world.operator(), world.service(&[KeysVerify], &["acme"]).await] {
        assert_eq!(verify(&client, &secret).await.unwrap(), expected, "cold or warm");
        assert_eq!(verify(&client, &secret).await.unwrap(), expected);
    }
    let (_, newer) = rotate(&tenant.client, &key.api_key_id, Some(60)).await.unwrap();
    assert_eq!(verify(&tenant.client, &secret).await.unwrap(), expected, "in its grace");
    assert_eq!(verify(&tenant.client, &newer).await.unwrap(), expected);
    // To be asked about is to be used.
    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    let found = crate::harness::keys::get(&tenant.client, &key.api_key_id).await.unwrap();
    assert!(found.last_used_time.is_some());
    world.clock.advance(Duration::from_secs(91));
    assert_eq!(verify(&tenant.client, &secret).await.unwrap(), bare(Answer::NotFound), "past its grace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_key_of_the_callers_sight_is_not_found() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let real = ParsedKey::parse(&other.key).unwrap();
    let guess = PlainKey::with_lookup(real.kind(), real.lookup(), &mut SysRng).unwrap();
    let made_up = PlainKey::generate(ApiKeyKind::SecretLive, &mut SysRng).unwrap();
    let (guess, made_up) = (guess.parsed().expose(), made_up.parsed().expose());
    let operators = operate(&world, &["create", "--name", "op"]).await.unwrap();
    let services = operate(&world, &["create", "--name", "svc", "--scope", "keys.verify"]).await.unwrap();
    assert!(operators.starts_with("op_") && services.starts_with("svc_"));
    let confined = world.service(&[KeysVerify], &["acme"]).await;
    for client in [&tenant.client, &confined] {
        assert_eq!(verify(client, &tenant.key).await.unwrap().code(), Answer::Valid);
        for key in [&other.key, guess, made_up, operators.trim(), services.trim()] {
            assert_eq!(verify(client, key).await.unwrap(), bare(Answer::NotFound));
        }
    }
    for client in [world.operator(), world.service(&[KeysVerify], &[]).await] {
        assert_eq!(verify(&client, &other.key).await.unwrap().code(), Answer::Valid, "seen by who sees everything");
        for key in [guess, made_up, operators.trim(), services.trim()] {
            assert_eq!(verify(&client, key).await.unwrap(), bare(Answer::NotFound));
        }
    }
    // A key of another tenant is not found whatever is wrong with it.
    revoke(&other.client, &other.key_id).await.unwrap();
    assert_eq!(verify(&tenant.client, &other.key).await.unwrap(), bare(Answer::NotFound));
    suspend(&world, &other).await;
    assert_eq!(verify(&confined, &other.key).await.unwrap(), bare(Answer::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_malformed() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let key = &tenant.key;
    let changed = format!("{}{}", &key[..key.len() - 1], if key.ends_with('a') { 'b' } else { 'a' });
    let other_kind = key.replacen("sk_test_", "sk_live_", 1);
    for garbage in ["", " ", "secret", "sk_test_", &key[1..], &key[..key.len() - 1], &changed, &other_kind] {
        assert_eq!(verify(&tenant.client, garbage).await.unwrap(), bare(Answer::Malformed), "{garbage}");
    }
    assert_eq!(verify(&tenant.client, &"ä".repeat(256)).await.unwrap(), bare(Answer::Malformed));
    let refusal = refused(verify(&tenant.client, &"x".repeat(257)).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["api_key"], "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_that_applies_is_told() {
    let world = World::start().await;
    let (tenant, asker) = (world.tenant("acme").await, world.operator());
    let wanted = v1::ApiKey { expire_time: Some(seconds_from_now(&world, 60)), ..secret_key(&["usage.write"]) };
    let (key, secret) = create(&tenant.client, wanted).await.unwrap();
    assert_eq!(asked(&asker, &secret, "usage.write", "").await, Answer::Valid);
    assert_eq!(asked(&asker, &secret, "usage.read", "").await, Answer::InsufficientPermission);
    let explained =
        v1::VerifyApiKeyRequest { api_key: secret.clone(), permission: "usage.read".into(), ..Default::default() };
    let explained = asker.api_keys().verify_api_key(explained).await.unwrap().into_inner();
    assert_eq!((&explained.api_key_id, explained.scopes), (&key.api_key_id, vec!["usage.write".into()]));

    suspend(&world, &tenant).await;
    answered(&asker, &secret, Answer::OrganizationSuspended).await;
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(asked(&asker, &secret, "usage.read", "").await, Answer::Expired);
    let change = |key: v1::ApiKey| v1::ApiKey { organization_id: "acme".into(), ..key };
    let disabled = change(v1::ApiKey { disabled: true, ..key.clone() });
    update(&asker, disabled, &["disabled"]).await.unwrap();
    assert_eq!(asked(&asker, &secret, "usage.read", "").await, Answer::Disabled);
    let request =
        v1::RevokeApiKeyRequest { organization_id: "acme".into(), api_key_id: key.api_key_id, ..Default::default() };
    asker.api_keys().revoke_api_key(request).await.unwrap();
    assert_eq!(asked(&asker, &secret, "usage.read", "").await, Answer::Revoked);

    // A deleted organization has no keys any more.
    let request = v1::DeleteOrganizationRequest { organization_id: "acme".into(), ..Default::default() };
    asker.organizations().delete_organization(request).await.unwrap();
    answered(&asker, &secret, Answer::NotFound).await;
    assert_eq!(verify(&asker, &secret).await.unwrap(), bare(Answer::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_and_origins() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (_, public) = create(&tenant.client, publishable_key(&["https://a.example"])).await.unwrap();
    for (permission, origin, expected) in [
        ("", "https://a.example", Answer::Valid),
        ("usage.write", "https://a.example", Answer::Valid),
        ("", "", Answer::InsufficientPermission),
        ("", "https://b.example", Answer::InsufficientPermission),
        ("keys.read", "https://a.example", Answer::InsufficientPermission),
        ("organizations.create", "https://a.example", Answer::InsufficientPermission),
    ] {
        assert_eq!(asked(&tenant.client, &public, permission, origin).await, expected, "{permission} {origin}");
    }
    assert_eq!(asked(&tenant.client, &tenant.key, "keys.read", "https://b.example").await, Answer::Valid);
    for permission in ["usage.destroy", "*", "USAGE.WRITE", "usage.write "] {
        let request =
            v1::VerifyApiKeyRequest { api_key: public.clone(), permission: permission.into(), ..Default::default() };
        let refusal = refused(tenant.client.api_keys().verify_api_key(request).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["permission"], "{refusal:?}");
    }
    // Who acts for somebody needs an organization, and the right there.
    let viewer = tenant.member(&world, "viewer", "viewer").await;
    let refusal = refused(verify(&tenant.client.clone().acting(&viewer), &public).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    let refusal = refused(verify(&world.operator().acting(&viewer), &public).await);
    assert!(refusal.is(Code::InvalidArgument, "ACTING_USER_WITHOUT_ORGANIZATION"), "{refusal:?}");
    let refusal = refused(verify(&world.service(&[UsageWrite], &[]).await, &public).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let bound = v1::ApiKey { allowed_ip_ranges: vec!["203.0.113.0/24".into()], ..secret_key(&["usage.write"]) };
    let (_, secret) = create(&tenant.client, bound).await.unwrap();
    let asked = async |client_ip: &str, permission: &str| {
        let request = v1::VerifyApiKeyRequest {
            api_key: secret.clone(),
            client_ip: client_ip.into(),
            permission: permission.into(),
            ..Default::default()
        };
        tenant.client.api_keys().verify_api_key(request).await.map(|reply| reply.into_inner().code())
    };
    for (client_ip, expected) in [
        ("203.0.113.7", Answer::Valid),
        ("::ffff:203.0.113.7", Answer::Valid),
        ("203.0.114.7", Answer::IpNotAllowed),
        ("::1", Answer::IpNotAllowed),
        ("", Answer::IpNotAllowed),
    ] {
        assert_eq!(asked(client_ip, "").await.unwrap(), expected, "{client_ip}");
    }
    assert_eq!(asked("203.0.113.7", "usage.read").await.unwrap(), Answer::InsufficientPermission);
    let refusal = refused(asked("203.0.113.0/24", "").await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["client_ip"], "{refusal:?}");
    // A key without a list is good from everywhere.
    let request =
        v1::VerifyApiKeyRequest { api_key: tenant.key.clone(), client_ip: "192.0.2.1".into(), ..Default::default() };
    assert_eq!(tenant.client.api_keys().verify_api_key(request).await.unwrap().into_inner().code(), Answer::Valid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_verification_needs_no_database() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let sidecar = world.service(&[KeysVerify], &[]).await;
    let (_, seen) = create(&tenant.client, secret_key(&["usage.write"])).await.unwrap();
    let (_, never_seen) = create(&tenant.client, secret_key(&["usage.write"])).await.unwrap();
    settled(&world, &tenant).await;
    let expected = verify(&sidecar, &seen).await.unwrap();
    assert_eq!(expected.code(), Answer::Valid);

    world.database.cut().await;
    for _ in 0..20 {
        assert_eq!(verify(&sidecar, &seen).await.unwrap(), expected);
        assert_eq!(asked(&sidecar, &seen, "usage.read", "").await, Answer::InsufficientPermission);
        assert_eq!(verify(&sidecar, "garbage").await.unwrap(), bare(Answer::Malformed));
        let refusal = refused(verify(&sidecar, &never_seen).await);
        assert!(refusal.is(Code::Unavailable, "DATABASE_UNAVAILABLE") && refusal.retry, "{refusal:?}");
    }
    world.database.restore().await;
    let (sidecar, never_seen) = (&sidecar, &never_seen);
    eventually("the database is asked again", || async move {
        verify(sidecar, never_seen).await.is_ok_and(|reply| reply.code() == Answer::Valid)
    })
    .await;
}
