//! Requests that do not pass: what their client sees, over HTTP and gRPC.

use std::time::Duration;

use tenancy::proto::v1;
use tokio::time::Instant;
use tonic::Code;

use crate::envoy::harness::{Answer, Ask, Guest, Version, stage};
use crate::harness::{Wire, eventually, keys};

/// What every denial has: JSON, which no cache keeps, with the id that the log has.
fn is_denial(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let error = &answer.json()["error"];
    assert_eq!(error["code"], status);
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    assert!(error["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{error}");
}

#[tokio::test]
async fn a_denial_shows_status_and_body() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "denials", 1).await;
    assert_eq!(guest.gets("/call", &stage.envoy).await.status, 200);
    for version in [Version::Http1, Version::Http2] {
        let ask = async |ask: Ask| ask.send(stage.envoy.address, version).await;
        let missing = ask(Ask::get("/known")).await;
        is_denial(&missing, 401, "CREDENTIALS_MISSING");
        assert_eq!(missing.header("www-authenticate"), Some("Bearer realm=\"tenancy\""));
        let invalid = ask(Ask::get("/known").key("sk_test_nonsense")).await;
        is_denial(&invalid, 401, "API_KEY_MALFORMED");
        let challenge = invalid.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        is_denial(&ask(guest.get("/featured")).await, 403, "FEATURE_NOT_INCLUDED");

        let limited = ask(guest.get("/call")).await;
        is_denial(&limited, 429, "LIMIT_EXCEEDED");
        let seconds: u64 = limited.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=32 * 24 * 3600).contains(&seconds), "{seconds}");
        assert_eq!(limited.header("x-ratelimit-remaining"), Some("0"));
        assert!(limited.header("x-ratelimit-limit").unwrap().starts_with('1'), "{limited:?}");

        // A route that says what there is not, is not open by mistake, and its operator learns what is wrong.
        let wrong = ask(guest.get("/wrong")).await;
        is_denial(&wrong, 503, "ROUTE_MISCONFIGURED");
    }
    assert_eq!(
        stage.upstream.seen("/wrong") + stage.upstream.seen("/featured"),
        0,
        "nothing of it reached the application"
    );
}

#[tokio::test]
async fn a_denial_of_grpc_is_http_200_with_a_code() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "grpc-denials", 1).await;
    let wire = Wire::connect(stage.envoy.address).await;
    let key = ("x-api-key", guest.tenant.key.as_str());
    wire.try_call("/call/app.v1.App/Do", &[key], b"").await.unwrap().outcome.unwrap();
    for (path, headers, code) in [
        ("/known/app.v1.App/Do", vec![], Code::Unauthenticated),
        ("/known/app.v1.App/Do", vec![("x-api-key", "sk_test_nonsense")], Code::Unauthenticated),
        ("/featured/app.v1.App/Do", vec![key], Code::PermissionDenied),
        ("/wrong/app.v1.App/Do", vec![key], Code::Unavailable),
        ("/call/app.v1.App/Do", vec![key], Code::ResourceExhausted),
    ] {
        let status = wire.try_call(path, &headers, b"").await.unwrap().outcome.unwrap_err();
        assert_eq!(status.code(), code, "{path}: {status:?}");
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_within_a_second() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "revoked").await;
    assert_eq!(guest.gets("/known", &stage.envoy).await.status, 200);
    keys::revoke(&guest.tenant.client, &guest.tenant.key_id).await.unwrap();
    let revoked = Instant::now();
    eventually("the key is refused", || async { guest.gets("/known", &stage.envoy).await.status == 401 }).await;
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_within_a_second() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "suspended-tenant").await;
    assert_eq!(guest.gets("/known", &stage.envoy).await.status, 200);
    let request = v1::SuspendOrganizationRequest {
        organization_id: guest.tenant.id.clone(),
        reason: "unpaid".into(),
        ..Default::default()
    };
    stage.world.operator().organizations().suspend_organization(request).await.unwrap();
    let suspended = Instant::now();
    eventually("its key is refused", || async { guest.gets("/known", &stage.envoy).await.status == 403 }).await;
    assert!(suspended.elapsed() < Duration::from_secs(1), "{:?}", suspended.elapsed());
    is_denial(&guest.gets("/known", &stage.envoy).await, 403, "ORGANIZATION_SUSPENDED");
}
