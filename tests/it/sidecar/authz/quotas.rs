//! Quotas that are admitted in the same hop.

use std::time::Duration;

use tenancy::proto::v1;
use tenancy::sidecar::admission::Source;

use crate::harness::{Client, Tenant, World, admin, eventually};
use crate::quota::asks::{check, commit, limit, limited, monthly, monthly_of_key, used};
use crate::quota::support::{calendar, rolling};
use crate::sidecar::support::{Answer, Waiting, sidecar, with_key};
use crate::usage::support::create_meter;

/// A request of a tenant that takes one call.
fn call(tenant: &Tenant) -> Waiting {
    with_key(&tenant.key).route("meter", "calls")
}

/// Sends one after the other while they pass; returns how many did, and what came then.
async fn exhaust(envoy: &Client, request: &Waiting) -> (u64, crate::sidecar::support::Denied) {
    let mut passed = 0;
    loop {
        match request.clone().ask(envoy).await {
            Answer::Passed(_) => passed += 1,
            Answer::Denied(denied) => return (passed, denied),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_as_much_passes_as_there_is_and_a_denial_takes_nothing() {
    let world = World::start().await;
    let daily = v1::LimitRule { window: calendar(v1::WindowUnit::Day), ..monthly(5) };
    let tenant = limited(&world, [daily]).await;
    let envoy = sidecar(&world).await;
    let two = || call(&tenant).route("cost", "2");
    for left in ["3", "1"] {
        let passed = two().passes(&envoy).await;
        assert_eq!(passed.shown["x-ratelimit-limit"], "5, 5;w=86400");
        assert_eq!(passed.shown["x-ratelimit-remaining"], left);
        assert!((0..=86_400).contains(&passed.shown["x-ratelimit-reset"].parse::<i64>().unwrap()), "{passed:?}");
        assert_eq!((passed.shown.len(), passed.metadata("meter")), (3, Some("calls")));
    }
    let denied = two().denied(&envoy).await;
    assert!(denied.is(429, "LIMIT_EXCEEDED") && denied.message.contains("calls"), "{denied:?}");
    assert_eq!(denied.header("x-ratelimit-limit"), Some("5, 5;w=86400"));
    assert_eq!(denied.header("x-ratelimit-remaining"), Some("1"));
    let number = |name: &str| denied.header(name).unwrap().parse::<i64>().unwrap();
    assert!((1..=86_400).contains(&number("retry-after")) && number("x-ratelimit-reset") >= 0, "{denied:?}");
    assert_eq!(call(&tenant).passes(&envoy).await.shown["x-ratelimit-remaining"], "0");
    assert!(call(&tenant).denied(&envoy).await.is(429, "LIMIT_EXCEEDED"));
    assert_eq!(used(&tenant.client).await, 5);
    // A route without a meter takes nothing.
    with_key(&tenant.key).passes(&envoy).await;
    let denied = call(&tenant).header("content-type", "application/grpc").denied(&envoy).await;
    assert_eq!(denied.header("grpc-status"), Some("8"), "Envoy would make 14 of a 429: {denied:?}");
    assert!(denied.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_key_and_organization_admit_all_or_none() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10), monthly_of_key(3)]).await;
    let envoy = sidecar(&world).await;
    let (passed, denied) = exhaust(&envoy, &call(&tenant)).await;
    assert_eq!((passed, denied.reason.as_str()), (3, "LIMIT_EXCEEDED"));
    assert_eq!(denied.header("x-ratelimit-limit"), Some("3"), "of the limit that denied");
    let (_, another) =
        crate::harness::keys::create(&tenant.client, crate::harness::keys::secret_key(&["usage.write"])).await.unwrap();
    let (passed, _) = exhaust(&envoy, &with_key(&another).route("meter", "calls")).await;
    assert_eq!(passed, 3);
    let of_organization = check(&tenant.client, 0).await.limits;
    let organization = of_organization.iter().find(|limit| limit.amount == Some(10)).unwrap();
    assert_eq!(organization.used, 6, "what the key's limit denied was not taken from the organization");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_two_replicas_no_more_passes_than_there_is() {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = limited(&one, [monthly(200)]).await;
    let mut asking = tokio::task::JoinSet::new();
    for world in [&one, &two] {
        let envoy = sidecar(world).await;
        for _ in 0..4 {
            let (envoy, request) = (envoy.clone(), call(&tenant));
            asking.spawn(async move { exhaust(&envoy, &request).await.0 });
        }
    }
    assert_eq!(asking.join_all().await.into_iter().sum::<u64>(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_later_is_reserved_and_any_replica_settles_it() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10)]).await;
    let envoy = sidecar(&world).await;
    let ask = || call(&tenant).route("cost", "6").route("settle", "header:x-tokens").route("reserve_ttl", "90s");
    let passed = ask().passes(&envoy).await;
    let admission = passed.admission(&world).await;
    assert_eq!(admission.settle, Some(Source::ResponseHeader("x-tokens".into())));
    assert_eq!((admission.reservation.amount, admission.reservation.charges.len()), (6, 1));
    let left = admission.reservation.expire_time - world.clock.now();
    assert!((80..=90).contains(&left.num_seconds()), "{left}");
    assert_eq!((passed.metadata("settle"), passed.metadata("meter")), (Some("header:x-tokens"), Some("calls")));
    let seen = check(&tenant.client, 0).await.limits.remove(0);
    assert_eq!((seen.used, seen.reserved), (6, 6));
    assert!(ask().denied(&envoy).await.is(429, "LIMIT_EXCEEDED"));

    let replica = World::on(world.database.clone(), &[]).await;
    let reservation = passed.metadata("reservation").unwrap();
    assert_eq!(commit(&replica.client(&tenant.key), reservation, 2).await.unwrap(), (2, 0));
    assert_eq!(commit(&tenant.client, reservation, 5).await.unwrap(), (2, 0), "the first settlement holds");
    eventually("the rest is given back", || async { check(&tenant.client, 0).await.limits[0].used == 2 }).await;

    // What is not to be settled later stays taken, whoever tries.
    let passed = call(&tenant).route("cost", "3").passes(&envoy).await;
    commit(&tenant.client, passed.metadata("reservation").unwrap(), 0).await.unwrap();
    assert_eq!(used(&tenant.client).await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_advised_only_where_it_helps() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let rules = [
        ("second", v1::LimitRule { window: rolling(v1::WindowUnit::Second), ..monthly(1) }),
        ("blocked", monthly(0)),
        ("lifetime", v1::LimitRule { window: calendar(v1::WindowUnit::Lifetime), ..monthly(1) }),
        ("shadow", v1::LimitRule { shadow: true, ..monthly(0) }),
    ];
    for (meter, rule) in rules {
        create_meter(&tenant.client, meter, v1::MeterAggregation::Sum).await;
        limit(&world, &tenant, v1::LimitRule { meter: meter.into(), ..rule }).await;
    }
    let ask = |meter: &str| with_key(&tenant.key).route("meter", meter);
    let (passed, denied) = exhaust(&envoy, &ask("second")).await;
    assert!(passed >= 1 && denied.is(429, "LIMIT_EXCEEDED"), "{denied:?}");
    let retry_after = denied.header("retry-after").unwrap();
    assert!(["1", "2"].contains(&retry_after), "whole seconds, rounded up: {denied:?}");
    assert_eq!(denied.header("x-ratelimit-limit"), Some("1, 1;w=1"));
    assert_eq!(denied.header("x-ratelimit-reset"), Some(retry_after));
    let denied = ask("blocked").denied(&envoy).await;
    assert!(denied.is(429, "BLOCKED") && denied.header("retry-after").is_none(), "{denied:?}");
    let (passed, denied) = exhaust(&envoy, &ask("lifetime")).await;
    assert_eq!((passed, denied.status, denied.header("retry-after")), (1, 429, None));
    assert_eq!((denied.header("x-ratelimit-limit"), denied.header("x-ratelimit-reset")), (Some("1"), None));
    let denied = ask("lifetime").route("cost", "2").denied(&envoy).await;
    assert!(denied.is(429, "AMOUNT_TOO_LARGE"), "{denied:?}");
    let passed = ask("shadow").passes(&envoy).await;
    assert!(passed.shown.is_empty(), "a limit that is only tried is not told: {passed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_leases_are_used_up_and_then_it_is_503_and_no_429() {
    let world = World::start_with(&["--cache-lifetime", "1h"]).await;
    let tenant = limited(&world, [monthly(1_000)]).await;
    let envoy = sidecar(&world).await;
    create_meter(&tenant.client, "lenient", v1::MeterAggregation::Sum).await;
    let lenient = v1::LimitRule { meter: "lenient".into(), fallback: v1::LimitFallback::Admit.into(), ..monthly(10) };
    limit(&world, &tenant, lenient).await;
    // Often enough to be granted more than one at a time, so that something is left when the database goes.
    for _ in 0..50 {
        call(&tenant).passes(&envoy).await;
    }
    with_key(&tenant.key).route("meter", "lenient").passes(&envoy).await;
    world.clock.advance(Duration::from_millis(1));
    world.database.cut().await;
    let port = world.running.admin;
    eventually("the database is away", || async { admin(port, "/readyz").await.0 == 503 }).await;
    let (passed, denied) = exhaust(&envoy, &call(&tenant)).await;
    assert!(passed > 0 && passed < 950, "{passed}: some of it was granted");
    assert!(denied.is(503, "LEDGER_UNAVAILABLE"), "{denied:?}");
    assert!(denied.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    for _ in 0..20 {
        with_key(&tenant.key).route("meter", "lenient").passes(&envoy).await;
    }
    world.database.restore().await;
}
