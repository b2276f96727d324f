//! Requests that pass: what the application sees of them, and what the client is told.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;

use crate::envoy::harness::{Ask, Guest, Version, stage};
use crate::harness::{Wire, eventually, keys};

#[tokio::test]
async fn a_key_becomes_the_tenant() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "becomes").await;
    for version in [Version::Http1, Version::Http2] {
        let answer = guest.get("/known/deep?x=1").send(stage.envoy.address, version).await;
        let upstream = |name| answer.upstream(name);
        assert_eq!(upstream("x-tenant-id"), Some(guest.tenant.id.clone()), "{version:?}");
        assert_eq!(upstream("x-tenant-slug").as_deref(), Some("becomes"));
        assert_eq!(upstream("x-tenant-plan").as_deref(), Some("free"));
        assert_eq!(upstream("x-api-key-id"), Some(guest.tenant.key_id.clone()));
        let permissions = upstream("x-tenant-permissions").unwrap();
        let permissions: Vec<_> = permissions.split(' ').collect();
        assert!(permissions.contains(&"usage.read") && permissions.contains(&"usage.write"), "{permissions:?}");
        // A key has no user and no role.
        assert_eq!((upstream("x-user-id"), upstream("x-tenant-role")), (None, None));
        assert_eq!(answer.json()["path"], "/known/deep");
    }
}

#[tokio::test]
async fn the_credential_never_reaches_the_application() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "credential").await;
    let bearer = format!("Bearer {}", guest.tenant.key);
    for (path, ask) in [
        ("/known", Ask::get("/known").key(&guest.tenant.key)),
        ("/known", Ask::get("/known").header("authorization", &bearer)),
        ("/optional", Ask::get("/optional").header("authorization", &bearer)),
        ("/call", Ask::get("/call").header("authorization", &bearer)),
    ] {
        let ask = ask.header("x-acting-user", "somebody");
        let answer = ask.send(stage.envoy.address, Version::Http1).await;
        assert_eq!(answer.upstream("x-tenant-id"), Some(guest.tenant.id.clone()), "{path}");
        for header in ["authorization", "x-api-key", "x-acting-user"] {
            assert_eq!(answer.upstream(header), None, "{path}: {header}");
        }
        assert!(!answer.text().contains(&guest.tenant.key), "{answer:?}");
    }
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "grpc-passes", 2).await;
    let wire = Wire::connect(stage.envoy.address).await;
    let reply = wire.try_call("/call/app.v1.App/Do", &[("x-api-key", &guest.tenant.key)], b"").await.unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&reply.outcome.unwrap()).unwrap();
    assert_eq!(seen["version"], "HTTP/2.0");
    let headers = seen["headers"].as_array().unwrap();
    assert!(headers.iter().any(|header| header[0] == "x-tenant-id" && header[1] == guest.tenant.id), "{seen}");
    assert_eq!(reply.headers["x-ratelimit-remaining"], "1");
}

#[tokio::test]
async fn a_route_says_in_its_context_what_it_needs() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "context", 11).await;
    // `meter` and `cost`: 5, 5 and 1 of 11.
    for (path, remaining) in [("/five", "6"), ("/five", "1"), ("/call", "0")] {
        let answer = guest.gets(path, &stage.envoy).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining), "{path}");
    }
    assert_eq!(guest.gets("/call", &stage.envoy).await.status, 429);
    // `permission`.
    assert_eq!(guest.gets("/permitted", &stage.envoy).await.status, 200);
    let api_key = v1::ApiKey { organization_id: guest.tenant.id.clone(), ..keys::secret_key(&["usage.write"]) };
    let (_, other) = keys::create(&stage.world.operator(), api_key).await.unwrap();
    let answer = Ask::get("/permitted").key(&other).send(stage.envoy.address, Version::Http1).await;
    assert_eq!((answer.status, answer.reason().as_str()), (403, "PERMISSION_MISSING"));
    assert!(answer.text().contains(Permission::UsageRead.as_str()), "{answer:?}");
    // `publishable`: which methods a page's key may use.
    let page =
        v1::ApiKey { organization_id: guest.tenant.id.clone(), ..keys::publishable_key(&["https://app.example.com"]) };
    let (_, page) = keys::create(&stage.world.operator(), page).await.unwrap();
    for (method, origin, outcome) in [
        (http::Method::GET, "https://app.example.com", (200, "")),
        (http::Method::POST, "https://app.example.com", (200, "")),
        (http::Method::DELETE, "https://app.example.com", (403, "METHOD_NOT_ALLOWED_FOR_KEY")),
        (http::Method::GET, "https://evil.example.com", (403, "ORIGIN_NOT_ALLOWED")),
    ] {
        let ask = Ask::new(method.clone(), "/published").key(&page).header("origin", origin);
        let answer = ask.send(stage.envoy.address, Version::Http1).await;
        assert_eq!(answer.status, outcome.0, "{method} {origin}: {answer:?}");
        if outcome.0 != 200 {
            assert_eq!(answer.reason(), outcome.1, "{method} {origin}");
        }
    }
}

#[tokio::test]
async fn several_limits_admit_all_or_charge_none() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "all-or-none", 10).await;
    let of_key =
        v1::LimitRule { subject_kind: v1::SubjectKind::ApiKey.into(), ..crate::quota::support::monthly("calls", 7) };
    guest.limit(&stage.world.operator(), of_key).await;
    // 5 of 7 and of 10; 5 more are too many for the key, and not charged to the organization either.
    eventually("both limits are in force", || async { guest.gets("/five", &stage.envoy).await.status == 429 }).await;
}

#[tokio::test]
async fn a_request_is_of_nobody_only_where_that_is_optional() {
    let Some(stage) = stage().await else { return };
    let nobody = |path: &str| Ask::get(path);
    let answer = nobody("/optional").send(stage.envoy.address, Version::Http1).await;
    for header in ["x-tenant-id", "x-tenant-slug", "x-tenant-plan", "x-tenant-permissions", "x-api-key-id"] {
        assert_eq!(answer.upstream(header), None, "{header}");
    }
    for path in ["/known", "/call", "/reserved"] {
        let answer = nobody(path).send(stage.envoy.address, Version::Http1).await;
        assert_eq!((answer.status, answer.reason().as_str()), (401, "CREDENTIALS_MISSING"), "{path}");
    }
    // A bad key is no absent one.
    let answer = nobody("/optional").key("sk_test_bad").send(stage.envoy.address, Version::Http1).await;
    assert_eq!(answer.status, 401, "{answer:?}");
}
