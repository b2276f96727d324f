//! Keys that are exchanged for tokens.

use prost_types::Duration;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use super::{claims, exchange, permissions};
use crate::harness::keys::{create, get, knock, publishable_key, revoke, rotate, seconds_from_now, secret_key, update};
use crate::harness::{World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_becomes_a_token_that_may_do_what_the_key_may() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let gateway = world.service(&[Permission::TokensExchange], &[]).await;
    let scopes = ["organizations.read", "usage.write", "users.act_as", "tokens.issue", "tokens.exchange"];
    let (key, secret) = create(&tenant.client, secret_key(&scopes)).await.unwrap();
    let request = v1::ExchangeApiKeyRequest { api_key: secret.clone(), ..Default::default() };
    let exchanged = gateway.tokens().exchange_api_key(request).await.unwrap().into_inner();
    assert_eq!((&exchanged.organization_id, &exchanged.api_key_id), (&tenant.id, &key.api_key_id));
    let said = claims(&exchanged.token);
    for (name, expected) in [("kind", "api_key"), ("sub", &*key.api_key_id), ("tid", &tenant.id), ("org", "acme")] {
        assert_eq!(said[name], expected, "{said}");
    }
    assert!(said.get("role").is_none() && said["key"] == secret[8..24], "{said}");
    assert_eq!(permissions(&exchanged.token), ["organizations.read", "usage.write"]);
    knock(&world.anonymous().token(&exchanged.token)).await.unwrap();
    let request = v1::ExchangeApiKeyRequest {
        api_key: secret,
        permissions: vec!["usage.write".into()],
        lifetime: Some(Duration { seconds: 10, nanos: 0 }),
    };
    let exchanged = gateway.tokens().exchange_api_key(request).await.unwrap().into_inner();
    assert_eq!(permissions(&exchanged.token), ["usage.write"]);
    let refusal = refused(knock(&world.anonymous().token(&exchanged.token)).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    assert!(get(&tenant.client, &key.api_key_id).await.unwrap().last_used_time.is_some(), "it counts as used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_good_key_of_a_visible_tenant_is_not_exchanged() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let gateway = world.service(&[Permission::TokensExchange], &[&tenant.id]).await;
    let not_found = async |client, key: &str| {
        let refusal = refused(exchange(client, key).await);
        assert!(refusal.is(Code::NotFound, "API_KEY_NOT_FOUND") && !refusal.message.contains(key), "{refusal:?}");
    };
    exchange(&gateway, &tenant.key).await.unwrap();
    exchange(&tenant.client, &tenant.key).await.unwrap();
    for client in [&gateway, &tenant.client] {
        not_found(client, &other.key).await;
        not_found(client, world.operator_key()).await;
        not_found(client, &world.service_key(&[Permission::UsageRead], &[]).await).await;
        not_found(client, "garbage").await;
    }
    let precondition = async |key: &str, reason: &str| {
        let refusal = refused(exchange(&gateway, key).await);
        assert!(refusal.is(Code::FailedPrecondition, reason) && !refusal.message.contains(key), "{refusal:?}");
    };
    let (_, public) = create(&tenant.client, publishable_key(&[])).await.unwrap();
    precondition(&public, "API_KEY_NOT_EXCHANGEABLE").await;
    let wanted = v1::ApiKey { allowed_ip_ranges: vec!["10.0.0.0/8".into()], ..secret_key(&["usage.read"]) };
    let (_, bound) = create(&tenant.client, wanted).await.unwrap();
    precondition(&bound, "API_KEY_NOT_EXCHANGEABLE").await;
    let (key, secret) = create(&tenant.client, secret_key(&["usage.read"])).await.unwrap();
    let key = update(&tenant.client, v1::ApiKey { disabled: true, ..key }, &["disabled"]).await.unwrap();
    precondition(&secret, "API_KEY_DISABLED").await;
    revoke(&tenant.client, &key.api_key_id).await.unwrap();
    precondition(&secret, "API_KEY_REVOKED").await;
    // The caller's own credential is another matter: UNAUTHENTICATED is about that one alone.
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    precondition(&tenant.key, "ORGANIZATION_SUSPENDED").await;
    not_found(&gateway, &other.key).await;
    let request = v1::ExchangeApiKeyRequest {
        api_key: "x".repeat(257),
        permissions: vec!["root".into()],
        lifetime: Some(Duration { seconds: -1, nanos: 0 }),
    };
    let refusal = refused(gateway.tokens().exchange_api_key(request).await);
    assert_eq!(refusal.fields, ["api_key", "lifetime", "permissions[0]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_key_or_with_the_grace_of_its_secret() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let end = seconds_from_now(&world, 90);
    let wanted = v1::ApiKey { expire_time: Some(end), ..secret_key(&["organizations.read"]) };
    let (key, secret) = create(&tenant.client, wanted).await.unwrap();
    let token = exchange(&tenant.client, &secret).await.unwrap();
    assert_eq!(claims(&token)["exp"], end.seconds);
    rotate(&tenant.client, &key.api_key_id, Some(40)).await.unwrap();
    let old = exchange(&tenant.client, &secret).await.unwrap();
    let left = claims(&old)["exp"].as_i64().unwrap() - world.clock.now().timestamp();
    assert!((30..=40).contains(&left), "{left}");
    // Until then the token of the old secret, which the first one is too, works like that secret.
    for token in [&token, &old] {
        knock(&world.anonymous().token(token)).await.unwrap();
    }
    world.clock.advance(std::time::Duration::from_secs(41));
    for (token, reason) in [(&token, "TOKEN_REVOKED"), (&old, "TOKEN_EXPIRED")] {
        let refusal = refused(knock(&world.anonymous().token(token)).await);
        assert!(refusal.is(Code::Unauthenticated, reason), "{refusal:?}");
    }
}
