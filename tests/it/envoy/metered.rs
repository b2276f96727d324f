//! What was let through becomes usage when the Envoy logs it: once each, with what it came to, and of nobody else.

use tenancy::auth::permission::Permission;
use tokio::task::JoinSet;

use crate::envoy::harness::{Ask, Bootstrap, Envoy, Guest, Stage, Version, front, program, stage, with_routes};
use crate::harness::{Wire, eventually};
use crate::quota::support::monthly;

#[tokio::test]
async fn what_is_recorded_equals_what_was_sent() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::limited(&stage.world, "equals", 40).await;
    let mut requests = JoinSet::new();
    for number in 0..60 {
        // An id that a client chose, the same for all, is not the identity of anything.
        let ask = guest.get("/call").header("x-request-id", "11111111-1111-4111-8111-111111111111");
        let version = if number % 2 == 0 { Version::Http1 } else { Version::Http2 };
        requests.spawn(async move { ask.send(stage.envoy.address, version).await.status });
    }
    let statuses = requests.join_all().await;
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((passed, statuses.iter().filter(|status| **status == 429).count()), (40, 20), "{statuses:?}");
    guest.records("calls", "40", 40).await;
    assert_eq!(guest.used("calls").await, 40);
}

#[tokio::test]
async fn every_source_of_an_amount_is_recorded() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "sources").await;
    for _ in 0..3 {
        assert_eq!(guest.gets("/recorded?tokens=1.5&bytes=10000", &stage.envoy).await.status, 200);
    }
    // An error of the application is a request like another.
    assert_eq!(guest.gets("/recorded?status=500", &stage.envoy).await.status, 500);
    guest.records("calls", "4", 4).await;
    guest.records("tokens", "4.5", 3).await;
    let (bytes, events) = guest.recorded("bytes").await;
    assert!(events == 4 && (30_000..40_000).contains(&bytes.parse::<u32>().unwrap()), "{bytes} in {events}");
    assert_eq!(guest.recorded("time").await.1, 4);
}

#[tokio::test]
async fn tokens_of_a_response_header_settle_what_was_reserved() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "tokens").await;
    guest.limit(&stage.world.operator(), monthly("tokens", 1000)).await;
    // Less than the 100 that were reserved, more, and as much where the application does not say.
    let mut total = 0;
    for (query, tokens, sent) in
        [("?tokens=42", 42, 1), ("?tokens=250", 250, 2), ("", 100, 3), ("?tokens=many", 100, 4)]
    {
        let answer = guest.gets(&format!("/reserved{query}"), &stage.envoy).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        total += tokens;
        guest.records("tokens", &total.to_string(), sent).await;
        eventually("it is settled", || async { guest.used("tokens").await == total }).await;
    }
    guest.records("calls", "4", 4).await;
}

#[tokio::test]
async fn tokens_of_a_grpc_trailer_settle_what_was_reserved() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "trailer").await;
    guest.limit(&stage.world.operator(), monthly("tokens", 100)).await;
    let wire = Wire::connect(stage.envoy.address).await;
    let headers = [("x-api-key", guest.tenant.key.as_str())];
    wire.try_call("/reserved/app.v1.App/Do?trailer=7", &headers, b"").await.unwrap().outcome.unwrap();
    guest.records("tokens", "7", 1).await;
    eventually("it is settled", || async { guest.used("tokens").await == 7 }).await;
}

#[tokio::test]
async fn while_a_reservation_is_open_it_holds_its_amount() {
    let Some(stage) = stage().await else { return };
    let guest = Guest::new(&stage.world, "open").await;
    guest.limit(&stage.world.operator(), monthly("tokens", 250)).await;
    // The application answers after a while; until then 100 are held for each.
    let slow = guest.get("/reserved?tokens=1&delay=1500");
    let mut open = JoinSet::new();
    for _ in 0..2 {
        let slow = slow.clone();
        open.spawn(async move { slow.send(stage.envoy.address, Version::Http1).await.status });
    }
    eventually("both are under way", || async { stage.upstream.seen("/reserved") >= 2 }).await;
    eventually("both hold their amount", || async { guest.used("tokens").await == 200 }).await;
    assert_eq!(guest.gets("/reserved?tokens=1", &stage.envoy).await.status, 429);
    assert_eq!(open.join_all().await, [200, 200]);
    eventually("they are settled", || async { guest.used("tokens").await == 2 }).await;
    assert_eq!(guest.gets("/reserved?tokens=1", &stage.envoy).await.status, 200);
}

#[tokio::test]
async fn only_the_last_entry_of_a_request_counts() {
    if program().is_none() {
        return;
    }
    // With this an Envoy logs a request at its beginning, too.
    let log_at_the_beginning = |bootstrap: Bootstrap| {
        let line = "          use_remote_address: true\n";
        let options = "          access_log_options: {flush_access_log_on_new_request: true}\n";
        bootstrap.replaced(line, &format!("{line}{options}"))
    };
    let stage = Stage::with(log_at_the_beginning).await;
    let guest = Guest::new(&stage.world, "last").await;
    for _ in 0..5 {
        assert_eq!(guest.gets("/recorded?bytes=5000", &stage.envoy).await.status, 200);
    }
    guest.records("calls", "5", 5).await;
    // The first entry of a request would have fewer.
    let (bytes, _) = guest.recorded("bytes").await;
    assert!(bytes.parse::<u32>().unwrap() > 25_000, "{bytes}");
    let written = stage.envoy.counter("access_logs.grpc_access_log.logs_written").await;
    assert!(written >= 5, "{written}");
}

#[tokio::test]
async fn a_key_in_initial_metadata_would_not_be_evaluated_for_access_logs() {
    if program().is_none() {
        return;
    }
    // What one would write first: it works for ext_authz, and the access log sends `%ENVIRONMENT(…)%` as it stands.
    let stage = Stage::with(|bootstrap| {
        let filter = "        - name: envoy.filters.http.header_mutation\n";
        let nowhere = "          disabled: true\n";
        let metadata = |indent: &str| {
            format!(
                "{indent}initial_metadata: [{{key: authorization, value: \"Bearer %ENVIRONMENT(TENANCY_SIDECAR_KEY)%\"}}]\n"
            )
        };
        let (authz, log) = ("                timeout: 2s\n                envoy_grpc", "                grpc_service:\n                  envoy_grpc");
        bootstrap
            .replaced(filter, &format!("{filter}{nowhere}"))
            .replaced(authz, &format!("{}{authz}", metadata("                ")))
            .replaced(log, &format!("                grpc_service:\n{}                  envoy_grpc", metadata("                  ")))
    })
    .await;
    let guest = Guest::new(&stage.world, "metadata").await;
    assert_eq!(guest.gets("/recorded", &stage.envoy).await.status, 200, "ext_authz is let in");
    // What another Envoy, with the shipped file, logged later, is recorded; and that one's is not.
    let shipped = front(&stage.world, &stage.upstream, |bootstrap| bootstrap).await;
    assert_eq!(guest.gets("/recorded", &shipped).await.status, 200);
    guest.records("calls", "1", 1).await;
    assert!(stage.envoy.counter("access_logs.grpc_access_log.logs_written").await > 0, "it was sent");
}

#[tokio::test]
async fn a_sidecar_of_one_tenant_lets_no_other_in() {
    let Some(stage) = stage().await else { return };
    let (mine, other) = (Guest::new(&stage.world, "bound").await, Guest::new(&stage.world, "unbound").await);
    let key = stage.world.service_key(&[Permission::Sidecar], &[&mine.tenant.id]).await;
    let bootstrap = Bootstrap::shipped(stage.world.running.grpc, stage.upstream.address);
    let envoy = Envoy::start(&with_routes(bootstrap), &key).await;
    assert_eq!(mine.gets("/recorded", &envoy).await.status, 200);
    assert_eq!(other.gets("/recorded", &envoy).await.status, 401);
    mine.records("calls", "1", 1).await;
    let nobody = Ask::get("/recorded").send(envoy.address, Version::Http1).await;
    assert_eq!(nobody.reason(), "CREDENTIALS_MISSING");
    assert_eq!(other.recorded("calls").await.1, 0);
}
