//! Credentials that do not let a request through, and what their bearer is told.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::rngs::SysRng;
use tenancy::auth::keys::key::{ParsedKey, PlainKey};
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::keys::{create, operate, publishable_key, revoke, seconds_from_now, secret_key, settled, update};
use crate::harness::{World, taken_apart};
use crate::sidecar::support::{sidecar, waiting, with_key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicated_key_arrives_joined_by_a_comma_and_is_ambiguous() {
    let world = World::start().await;
    let key = world.tenant("acme").await.key;
    let other = world.tenant("other").await.key;
    let envoy = sidecar(&world).await;
    let bearer = format!("Bearer {key}");
    for request in [
        with_key(&key).header("x-api-key", &key),
        with_key(&key).header("x-api-key", &other),
        with_key(&key).header("x-api-key", ""),
        with_key(&key).header("authorization", &bearer),
        waiting().header("authorization", &bearer).header("authorization", &bearer),
        with_key(&key).raw().raw_header("x-api-key", other.as_bytes()),
        with_key(&key).raw().raw_header("X-API-KEY", b"\xff\xfe"),
        with_key(&key).raw().raw_header("authorization", bearer.as_bytes()),
    ] {
        let denied = request.clone().denied(&envoy).await;
        assert!(denied.is(401, "CREDENTIALS_AMBIGUOUS"), "{request:?}: {denied:?}");
        assert_eq!(denied.header("www-authenticate"), Some("Bearer realm=\"tenancy\", error=\"invalid_token\""));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_that_is_not_good() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let real = ParsedKey::parse(&tenant.key).unwrap();
    let guess = PlainKey::with_lookup(real.kind(), real.lookup(), &mut SysRng).unwrap();
    let operator = operate(&world, &["create", "--name", "op"]).await.unwrap();
    let service = operate(&world, &["create", "--name", "svc", "--scope", "sidecar"]).await.unwrap();
    for (reason, key) in [
        ("API_KEY_INVALID", guess.parsed().expose()),
        // The platform's keys are no tenant's; not even whether they are good is told.
        ("API_KEY_INVALID", operator.trim()),
        ("API_KEY_INVALID", service.trim()),
        ("API_KEY_MALFORMED", "secret"),
        ("API_KEY_MALFORMED", ""),
        ("API_KEY_MALFORMED", &format!("{}x", tenant.key)),
    ] {
        let denied = with_key(key).denied(&envoy).await;
        assert!(denied.is(401, reason), "{key}: {denied:?}");
        assert_eq!(denied.header("www-authenticate"), Some("Bearer realm=\"tenancy\", error=\"invalid_token\""));
        assert!(!format!("{denied:?}").contains(&tenant.id), "{denied:?}");
    }
    let denied =
        with_key(&tenant.key).raw().header("x-other", "b").raw_header("x-api-key", b"\xff").denied(&envoy).await;
    assert!(denied.is(401, "CREDENTIALS_AMBIGUOUS"), "{denied:?}");
    assert!(waiting().raw().raw_header("x-api-key", b"\xff").denied(&envoy).await.is(401, "API_KEY_MALFORMED"));
    assert!(waiting().header("authorization", "Basic eA==").denied(&envoy).await.is(401, "CREDENTIALS_MALFORMED"));
    let denied = waiting().denied(&envoy).await;
    assert!(denied.is(401, "CREDENTIALS_MISSING"), "{denied:?}");
    assert_eq!(denied.header("www-authenticate"), Some("Bearer realm=\"tenancy\""), "none was sent");

    let wanted = v1::ApiKey { expire_time: Some(seconds_from_now(&world, 60)), ..secret_key(&["usage.write"]) };
    let (key, secret) = create(&tenant.client, wanted).await.unwrap();
    with_key(&secret).passes(&envoy).await;
    let key = update(&tenant.client, v1::ApiKey { disabled: true, ..key }, &["disabled"]).await.unwrap();
    assert!(with_key(&secret).denied(&envoy).await.is(401, "API_KEY_DISABLED"));
    let key = update(&tenant.client, v1::ApiKey { disabled: false, ..key }, &["disabled"]).await.unwrap();
    world.clock.advance(Duration::from_secs(61));
    assert!(with_key(&secret).denied(&envoy).await.is(401, "API_KEY_EXPIRED"));
    revoke(&tenant.client, &key.api_key_id).await.unwrap();
    assert!(with_key(&secret).denied(&envoy).await.is(401, "API_KEY_REVOKED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_some_addresses_go_by_the_trusted_hop_and_never_by_x_forwarded_for() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let bound = v1::ApiKey {
        allowed_ip_ranges: vec!["203.0.113.0/24".into(), "2001:db8::/32".into(), "::ffff:198.51.100.7".into()],
        ..secret_key(&["usage.write"])
    };
    let (_, secret) = create(&tenant.client, bound).await.unwrap();
    for address in
        ["203.0.113.7", "203.0.113.255", "::ffff:203.0.113.7", "2001:db8:1::1", "198.51.100.7", "::ffff:198.51.100.7"]
    {
        with_key(&secret).from(address).passes(&envoy).await;
    }
    for address in
        ["203.0.114.7", "::ffff:203.0.114.7", "2001:db9::1", "198.51.100.8", "", "@/run/socket", "203.0.113.7:80"]
    {
        let denied = with_key(&secret).from(address).header("x-forwarded-for", "203.0.113.7").denied(&envoy).await;
        assert!(denied.is(403, "IP_NOT_ALLOWED"), "{address}: {denied:?}");
        assert!(!denied.message.contains("203.0.113"), "the list is not told: {denied:?}");
    }
    with_key(&tenant.key).from("").passes(&envoy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishable_keys_have_origins_and_methods() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let (_, public) = create(&tenant.client, publishable_key(&["https://a.example"])).await.unwrap();
    let from = |origin: &str, method: &str| with_key(&public).header("origin", origin).method(method);
    for method in ["GET", "HEAD", "OPTIONS"] {
        from("https://a.example", method).passes(&envoy).await;
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "get", "", "CONNECT"] {
        let denied = from("https://a.example", method).denied(&envoy).await;
        assert!(denied.is(403, "METHOD_NOT_ALLOWED_FOR_KEY"), "{method}: {denied:?}");
        with_key(&tenant.key).method(method).passes(&envoy).await;
    }
    from("https://a.example", "POST").route("publishable", "POST,PUT").passes(&envoy).await;
    let denied = from("https://a.example", "GET").route("publishable", "POST,PUT").denied(&envoy).await;
    assert!(denied.is(403, "METHOD_NOT_ALLOWED_FOR_KEY"), "{denied:?}");
    assert!(from("https://a.example", "GET").route("publishable", "").denied(&envoy).await.status == 403);
    for origin in ["https://b.example", "null", ""] {
        assert!(from(origin, "GET").denied(&envoy).await.is(403, "ORIGIN_NOT_ALLOWED"), "{origin}");
    }
    let two = from("https://a.example", "GET").header("origin", "https://b.example");
    assert!(two.denied(&envoy).await.is(403, "ORIGIN_NOT_ALLOWED"));
    let raw = from("https://a.example", "GET").raw().raw_header("origin", b"https://b.example");
    assert!(raw.denied(&envoy).await.is(403, "ORIGIN_NOT_ALLOWED"));
    assert!(with_key(&public).denied(&envoy).await.is(403, "ORIGIN_NOT_ALLOWED"), "from no page at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_is_told_in_grpc_and_with_the_right_code() {
    let world = World::start().await;
    let envoy = sidecar(&world).await;
    let denied = with_key("garbage").header("content-type", "application/grpc").denied(&envoy).await;
    assert_eq!(denied.code, Code::Unauthenticated);
    assert_eq!(denied.header("grpc-status"), Some("16"));
    // Envoy makes the body the message, so the reason is for machines where gRPC has it.
    let details = STANDARD_NO_PAD.decode(denied.header("grpc-status-details-bin").unwrap()).unwrap();
    let refusal = taken_apart(&Status::with_details(denied.code, "", details.into()));
    assert!(refusal.is(Code::Unauthenticated, "API_KEY_MALFORMED"), "{refusal:?}");
    let denied = with_key("garbage").header("content-type", "application/grpc-web").denied(&envoy).await;
    assert_eq!((denied.header("grpc-status"), denied.header("content-type")), (None, Some("application/json")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_the_request_as_the_envoy_does() {
    let world = World::start().await;
    let envoy = sidecar(&world).await;
    assert_eq!(waiting().denied(&envoy).await.request_id, "envoy-1");
    let ours = envoy.clone().header("x-request-id", "our-own");
    assert_eq!(waiting().without_id().denied(&ours).await.request_id, "our-own");
    let empty = tenancy::proto::envoy::service::auth::v3::CheckRequest::default();
    let reply = envoy.authorization().check(empty).await.unwrap().into_inner();
    let crate::sidecar::support::Answer::Denied(denied) = crate::sidecar::support::taken_apart(reply) else {
        panic!("what says nothing passed")
    };
    assert!(denied.is(401, "CREDENTIALS_MISSING"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_passes_nowhere_a_second_later() {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = one.tenant("acme").await;
    let (key, secret) = create(&tenant.client, secret_key(&["usage.write"])).await.unwrap();
    settled(&one, &tenant).await;
    let envoys = [sidecar(&one).await, sidecar(&two).await];
    for envoy in &envoys {
        with_key(&secret).passes(envoy).await;
    }
    revoke(&tenant.client, &key.api_key_id).await.unwrap();
    assert!(with_key(&secret).denied(&envoys[0]).await.is(401, "API_KEY_REVOKED"), "at once where it was revoked");
    let (envoy, secret) = (&envoys[1], &secret);
    crate::harness::eventually("the other replica has heard", || async move {
        matches!(with_key(secret).ask(envoy).await, crate::sidecar::support::Answer::Denied(_))
    })
    .await;
}
