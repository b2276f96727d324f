//! What the auth layer makes of the credentials of a request, over the wire.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::keys::{create, knock, operate, publishable_key, revoke, seconds_from_now, secret_key, update};
use crate::harness::{Client, World, eventually, refused};

#[track_caller]
fn unauthenticated<T: std::fmt::Debug>(outcome: Result<T, Status>, reason: &str) {
    let refusal = refused(outcome);
    assert!(refusal.is(Code::Unauthenticated, reason), "{reason}: {refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_in_one_header() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let key = tenant.key.as_str();
    let with = |headers: &[(&'static str, String)]| {
        headers.iter().fold(world.anonymous(), |client, (name, value)| client.header(name, value))
    };
    for good in [
        with(&[("authorization", format!("Bearer {key}"))]),
        with(&[("authorization", format!("bearer {key}"))]),
        with(&[("authorization", format!("BEARER   {key}"))]),
        with(&[("x-api-key", key.into())]),
    ] {
        assert_eq!(knock(&good).await.unwrap().slug, "acme");
    }
    let other = world.tenant("other").await.key;
    for (headers, reason) in [
        (vec![], "CREDENTIALS_MISSING"),
        (vec![("authorization", format!("Bearer {key}")), ("x-api-key", key.into())], "CREDENTIALS_AMBIGUOUS"),
        (vec![("authorization", format!("Bearer {key}")), ("x-api-key", String::new())], "CREDENTIALS_AMBIGUOUS"),
        (vec![("x-api-key", key.into()), ("x-api-key", key.into())], "CREDENTIALS_AMBIGUOUS"),
        (vec![("x-api-key", key.into()), ("x-api-key", other)], "CREDENTIALS_AMBIGUOUS"),
        (vec![("authorization", format!("Bearer {key}")); 2], "CREDENTIALS_AMBIGUOUS"),
        (vec![("authorization", "Basic dXNlcjpwYXNz".into())], "CREDENTIALS_MALFORMED"),
        (vec![("authorization", format!("Basic {key}"))], "CREDENTIALS_MALFORMED"),
        (vec![("authorization", key.into())], "CREDENTIALS_MALFORMED"),
        (vec![("authorization", String::new())], "CREDENTIALS_MALFORMED"),
        (vec![("authorization", "Basic x".into()), ("x-api-key", key.into())], "CREDENTIALS_MALFORMED"),
        (vec![("authorization", "Bearer ".into())], "API_KEY_MALFORMED"),
        (vec![("x-api-key", String::new())], "API_KEY_MALFORMED"),
        (vec![("x-api-key", "secret".into())], "API_KEY_MALFORMED"),
        (vec![("x-api-key", format!("{key}x"))], "API_KEY_MALFORMED"),
        (vec![("x-api-key", key.replacen("sk_test_", "sk_live_", 1))], "API_KEY_MALFORMED"),
        (vec![("x-api-key", format!("{key},{key}"))], "API_KEY_MALFORMED"),
    ] {
        unauthenticated(knock(&with(&headers)).await, reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_secret_is_told_why_it_does_not_work() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wanted = v1::ApiKey { expire_time: Some(seconds_from_now(&world, 60)), ..secret_key(&["organizations.read"]) };
    let (key, secret) = create(&tenant.client, wanted).await.unwrap();
    let client = world.client(&secret);
    knock(&client).await.unwrap();
    let key = update(&tenant.client, v1::ApiKey { disabled: true, ..key }, &["disabled"]).await.unwrap();
    assert_eq!(key.status(), v1::ApiKeyStatus::Disabled);
    unauthenticated(knock(&client).await, "API_KEY_DISABLED");
    let key = update(&tenant.client, v1::ApiKey { disabled: false, ..key }, &["disabled"]).await.unwrap();
    knock(&client).await.unwrap();

    // The end comes by itself, on a key that is warm.
    world.clock.advance(Duration::from_secs(15));
    knock(&client).await.unwrap();
    world.clock.advance(Duration::from_secs(46));
    unauthenticated(knock(&client).await, "API_KEY_EXPIRED");
    let later = Some(seconds_from_now(&world, 60));
    update(&tenant.client, v1::ApiKey { expire_time: later, ..key.clone() }, &["expire_time"]).await.unwrap();
    knock(&client).await.unwrap();
    revoke(&tenant.client, &key.api_key_id).await.unwrap();
    unauthenticated(knock(&client).await, "API_KEY_REVOKED");
    world.clock.advance(Duration::from_secs(61));
    unauthenticated(knock(&client).await, "API_KEY_REVOKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_organizations_keys_are_locked_out() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    knock(&tenant.client).await.unwrap();
    let organization_id = tenant.id.clone();
    let request = v1::SuspendOrganizationRequest { organization_id: organization_id.clone(), ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    let client = &tenant.client;
    eventually("the key is locked out", || async move { knock(client).await.is_err() }).await;
    let refusal = refused(knock(client).await);
    assert!(refusal.is(Code::PermissionDenied, "ORGANIZATION_SUSPENDED"), "{refusal:?}");
    let request = v1::ResumeOrganizationRequest { organization_id, ..Default::default() };
    world.operator().organizations().resume_organization(request).await.unwrap();
    eventually("the key works again", || async move { knock(client).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishable_key_works_from_its_origins_only() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let origins = &["https://app.example.com", "http://localhost:3000"];
    let (key, secret) = create(&tenant.client, publishable_key(origins)).await.unwrap();
    let from = |origin: &str| world.client(&secret).header("origin", origin);
    for origin in origins {
        knock(&from(origin)).await.unwrap();
    }
    let denied = |outcome| {
        let refusal = refused(outcome);
        assert!(refusal.is(Code::PermissionDenied, "ORIGIN_NOT_ALLOWED"), "{refusal:?}");
    };
    denied(knock(&world.client(&secret)).await);
    for origin in ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null", ""]
    {
        denied(knock(&from(origin)).await);
    }
    // Several origins are none: which one a proxy looked at is not known.
    denied(knock(&from("https://evil.example").header("origin", "https://app.example.com")).await);
    update(&tenant.client, v1::ApiKey { allowed_origins: Vec::new(), ..key }, &["allowed_origins"]).await.unwrap();
    knock(&world.client(&secret)).await.unwrap();
    // A secret key is not bound, wherever it is used from.
    knock(&tenant.client.clone().header("origin", "https://evil.example")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_works_from_its_addresses_only() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let bound = |ranges: &[&str]| v1::ApiKey {
        allowed_ip_ranges: ranges.iter().map(ToString::to_string).collect(),
        ..secret_key(&["organizations.read"])
    };
    let (key, secret) = create(&tenant.client, bound(&["127.0.0.0/8"])).await.unwrap();
    let client = world.client(&secret);
    knock(&client).await.unwrap();
    let elsewhere = v1::ApiKey { allowed_ip_ranges: vec!["203.0.113.0/24".into()], ..key };
    let key = update(&tenant.client, elsewhere, &["allowed_ip_ranges"]).await.unwrap();
    // What a client says of its address is nothing.
    for client in [client.clone(), client.clone().header("x-forwarded-for", "203.0.113.7")] {
        let refusal = refused(knock(&client).await);
        assert!(refusal.is(Code::PermissionDenied, "IP_NOT_ALLOWED"), "{refusal:?}");
    }
    let anywhere = v1::ApiKey { allowed_ip_ranges: Vec::new(), ..key };
    update(&tenant.client, anywhere, &["allowed_ip_ranges"]).await.unwrap();
    knock(&client).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acting_for_people() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (viewer, outsider) = (tenant.member(&world, "viewer", "viewer").await, world.tenant("other").await);
    let outsider = outsider.member(&world, "outsider", "owner").await;
    knock(&tenant.client.clone().acting(&viewer)).await.unwrap();
    let (_, publishable) = create(&tenant.client, publishable_key(&[])).await.unwrap();
    let bare = tenant.with_scopes(&world, &[Permission::OrganizationsRead]).await;
    let denied: [(Client, Code, &str); 6] = [
        (world.client(&publishable).acting(&viewer), Code::PermissionDenied, "PERMISSION_MISSING"),
        (bare.acting(&viewer), Code::PermissionDenied, "PERMISSION_MISSING"),
        (tenant.client.clone().acting(&outsider), Code::PermissionDenied, "NOT_A_MEMBER"),
        (tenant.client.clone().acting("somebody"), Code::InvalidArgument, "ACTING_USER_MALFORMED"),
        (tenant.client.clone().acting(""), Code::InvalidArgument, "ACTING_USER_MALFORMED"),
        (tenant.client.clone().acting(&viewer).acting(&viewer), Code::InvalidArgument, "ACTING_USER_MALFORMED"),
    ];
    for (client, code, reason) in denied {
        let refusal = refused(knock(&client).await);
        assert!(refusal.is(code, reason), "{reason}: {refusal:?}");
    }
    knock(&world.client(&publishable)).await.expect("for nobody it works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_key_at_the_door() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let key = operate(&world, &["create", "--name", "short", "--expires-in", "60s"]).await.unwrap();
    let client = world.client(key.trim());
    let read = async |client: &Client| {
        let request = v1::GetOrganizationRequest { organization_id: tenant.slug.clone() };
        client.organizations().get_organization(request).await
    };
    read(&client).await.unwrap();
    let refusal = refused(knock(&client).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["organization_id"], "{refusal:?}");
    world.clock.advance(Duration::from_secs(61));
    unauthenticated(read(&client).await, "API_KEY_EXPIRED");
}
