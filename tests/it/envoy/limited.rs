//! Envoy's rate limit filter, which asks our rate limit service: the descriptors come from what ext_authz said.

use tenancy::proto::v1;
use tonic::Code;

use crate::envoy::harness::{Ask, Guest, Stage, Version, program, stage};
use crate::harness::{Wire, eventually};
use crate::quota::support::{monthly, rolling};

fn per_minute(calls: i64) -> v1::LimitRule {
    v1::LimitRule { window: rolling(v1::WindowUnit::Minute), ..monthly("calls", calls) }
}

#[tokio::test]
async fn metadata_of_ext_authz_names_the_tenant_that_is_limited() {
    let Some(stage) = stage().await else { return };
    let (guest, other) =
        (Guest::limited(&stage.world, "limited", 2).await, Guest::limited(&stage.world, "limited-too", 1).await);
    for (who, statuses) in [(&guest, [200, 200, 429]), (&other, [200, 429, 429])] {
        for status in statuses {
            assert_eq!(who.gets("/limited", &stage.envoy).await.status, status);
        }
    }
    assert_eq!(guest.used("calls").await, 2);
}

#[tokio::test]
async fn a_refusal_has_rate_limit_headers_retry_after_and_our_body() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "headers").await;
    guest.limit(&stage.world.operator(), per_minute(3)).await;
    for version in [Version::Http1, Version::Http2, Version::Http1] {
        let answer = guest.get("/limited").send(stage.envoy.address, version).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-limit"), Some("3, 3;w=60;name=\"calls\""));
        assert_eq!(answer.header("retry-after"), None);
    }
    let answer = guest.gets("/limited", &stage.envoy).await;
    assert_eq!((answer.status, answer.reason().as_str()), (429, "LIMIT_EXCEEDED"), "raw_body");
    assert_eq!(answer.header("x-ratelimit-limit"), Some("3, 3;w=60;name=\"calls\""));
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"));
    let reset: u64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    // A rolling minute forgets in steps of a 1/32 of it.
    assert!((1..=62).contains(&reset) && (1..=62).contains(&retry_after), "{reset}, {retry_after}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn what_the_rate_limit_filter_refuses_is_logged_and_no_usage() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "refused-later").await;
    guest.limit(&stage.world.operator(), monthly("calls", 1)).await;
    guest.limit(&stage.world.operator(), monthly("tokens", 1000)).await;
    // ext_authz let all three through, and reserved tokens for them.
    for status in [200, 429, 429] {
        assert_eq!(guest.gets("/refused-later?tokens=7", &stage.envoy).await.status, status);
    }
    guest.records("tokens", "7", 1).await;
    guest.records("bytes", "1", 1).await;
    eventually("what was reserved for the others is given back", || async { guest.used("tokens").await == 7 }).await;
    assert_eq!(guest.recorded("tokens").await.1, 1);
}

#[tokio::test]
async fn rate_limited_as_resource_exhausted_is_code_8_of_grpc() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "exhausted", 1).await;
    let wire = Wire::connect(stage.envoy.address).await;
    let headers = [("x-api-key", guest.tenant.key.as_str())];
    wire.try_call("/limited/app.v1.App/Do", &headers, b"").await.unwrap().outcome.unwrap();
    let status = wire.try_call("/limited/app.v1.App/Do", &headers, b"").await.unwrap().outcome.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
}

#[tokio::test]
async fn without_the_option_a_limited_grpc_request_is_unavailable() {
    if program().is_none() {
        return;
    }
    let line = "              rate_limited_as_resource_exhausted: true\n";
    let stage = Stage::with(|bootstrap| bootstrap.replaced(line, "")).await;
    let guest = Guest::limited(&stage.world, "unavailable", 0).await;
    let wire = Wire::connect(stage.envoy.address).await;
    let headers = [("x-api-key", guest.tenant.key.as_str())];
    let status = wire.try_call("/limited/app.v1.App/Do", &headers, b"").await.unwrap().outcome.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the reason for the line: {status:?}");
}

#[tokio::test]
async fn a_fault_is_500_with_failure_mode_deny_and_lets_all_pass_without() {
    let Some(shared) = stage().await else { return };
    let guest = Guest::new(&shared.world, "faulty").await;
    // A meter that there is not: our service answers with an error, and not OK with UNKNOWN.
    assert_eq!(guest.gets("/faulty", &shared.envoy).await.status, 500);
    assert_eq!(shared.upstream.seen("/faulty"), 0);
    let open = Stage::with(|bootstrap| bootstrap.replaced("failure_mode_deny: true", "failure_mode_deny: false")).await;
    let guest = Guest::new(&open.world, "faulty").await;
    assert_eq!(guest.gets("/faulty", &open.envoy).await.status, 200, "the reason for the line");
}

#[tokio::test]
async fn without_a_ledger_nobody_passes() {
    if program().is_none() {
        return;
    }
    let stage = Stage::with(|bootstrap| bootstrap).await;
    let guest = Guest::limited(&stage.world, "ledger", 5).await;
    // The key is known, and the limits are; but nothing of them was granted yet.
    assert_eq!(guest.gets("/known", &stage.envoy).await.status, 200);
    stage.world.database.cut().await;
    for path in ["/limited", "/call"] {
        let answer = guest.gets(path, &stage.envoy).await;
        assert!([500, 503].contains(&answer.status), "{path}: {answer:?}");
    }
    assert_eq!(stage.upstream.seen("/limited") + stage.upstream.seen("/call"), 0);
    stage.world.database.restore().await;
    eventually("it comes back", || async { guest.gets("/limited", &stage.envoy).await.status == 200 }).await;
}

#[tokio::test]
async fn where_metadata_is_missing_default_value_decides_between_refusal_and_no_question() {
    let Some(stage) = stage().await else { return };
    // Of nobody, so ext_authz says of no tenant. With a default value we are asked about a tenant that there is not.
    let answer = Ask::get("/optional/limited").send(stage.envoy.address, Version::Http1).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    // Without, we are not asked at all, and it passes.
    let answer = Ask::get("/optional/unlimited").send(stage.envoy.address, Version::Http1).await;
    assert_eq!(answer.status, 200, "the reason for default_value: {answer:?}");
    let guest = Guest::limited(&stage.world, "default", 1).await;
    for status in [200, 429] {
        assert_eq!(guest.gets("/optional/unlimited", &stage.envoy).await.status, status, "of a tenant it is limited");
    }
}

#[tokio::test]
async fn several_descriptors_take_all_or_nothing() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "together", 10).await;
    guest.limit(&stage.world.operator(), monthly("tokens", 2)).await;
    let statuses = async |times: usize| {
        let mut statuses = Vec::new();
        for _ in 0..times {
            statuses.push(guest.gets("/limited-twice", &stage.envoy).await.status);
        }
        statuses
    };
    assert_eq!(statuses(4).await, [200, 200, 429, 429]);
    assert_eq!((guest.used("calls").await, guest.used("tokens").await), (2, 2));
}

#[tokio::test]
async fn each_descriptor_has_its_own_hits_addend() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "addends", 7).await;
    guest.limit(&stage.world.operator(), monthly("tokens", 1000)).await;
    for status in [200, 200, 429] {
        assert_eq!(guest.gets("/addends", &stage.envoy).await.status, status);
    }
    assert_eq!((guest.used("calls").await, guest.used("tokens").await), (6, 40));
}

#[tokio::test]
async fn apply_on_stream_done_takes_what_the_application_said_afterwards() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "afterwards").await;
    guest.limit(&stage.world.operator(), monthly("tokens", 100)).await;
    assert_eq!(guest.gets("/afterwards?tokens=30", &stage.envoy).await.status, 200);
    eventually("the 30 are taken, by a second call", || async { guest.used("tokens").await == 30 }).await;
    assert_eq!(guest.gets("/afterwards?tokens=60", &stage.envoy).await.status, 200);
    eventually("90 are taken", || async { guest.used("tokens").await == 90 }).await;
}

#[tokio::test]
async fn a_request_can_bring_a_limit_of_its_own() {
    let Some(stage) = stage().await else { return };
    // The route's metadata says two an hour, in place of what the tenant has.
    let guest = Guest::limited(&stage.world, "overridden", 100).await;
    for status in [200, 200, 429] {
        let answer = guest.gets("/overridden", &stage.envoy).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.header("x-ratelimit-limit").unwrap().starts_with("2, 2;w=3600"), "{answer:?}");
    }
    assert_eq!(guest.used("calls").await, 0);
}
