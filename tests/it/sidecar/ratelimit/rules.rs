//! Descriptors that rules of their domain decide.

use std::time::Duration;

use tenancy::proto::envoy::service::ratelimit::v3::RateLimitRequest;
use tenancy::proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use tenancy::proto::v1;
use tonic::Code;

use super::support::{
    EDGE, admitted, ask, bringing, create, daily, descriptor, domain, exhaust, giving_back, of_tenant, one, own, rule,
    taking, unlimited, update, with_rules,
};
use crate::harness::{World, eventually, refused};
use crate::quota::asks::{limited, monthly};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rule_that_matches_best_counts_each_set_of_entries() {
    let nested = v1::RateLimitRule {
        rules: vec![daily("method", "POST", 2), daily("method", "", 4)],
        ..daily("path", "/v1/*", 3)
    };
    let exempt = rule("path", "/v1/status");
    let (_world, sidecar) = with_rules(vec![nested, exempt, daily("path", "", 1), daily("host", "a", 0)]).await;
    let counts = async |entries: &[(&str, &str)]| exhaust(&sidecar, entries).await;
    assert_eq!(counts(&[("path", "/v1/pay")]).await, 3);
    assert_eq!(counts(&[("path", "/v1/refund")]).await, 3, "each value counts for itself");
    assert_eq!(counts(&[("path", "/v1/pay"), ("method", "POST")]).await, 2);
    assert_eq!(counts(&[("path", "/v1/pay"), ("method", "GET")]).await, 4);
    assert_eq!(counts(&[("path", "/v1/pay"), ("method", "PUT")]).await, 4);
    assert_eq!(counts(&[("path", "/v2")]).await, 1);
    assert_eq!(counts(&[("host", "a")]).await, 0);
    // Nothing is said about these: as envoyproxy/ratelimit has it, they are not limited.
    for free in [
        &[("path", "/v1/status")][..],
        &[("host", "b")],
        &[("path", "/v1/pay"), ("method", "GET"), ("more", "")],
        &[("method", "GET")],
        &[("meter", "calls")],
    ] {
        for _ in 0..3 {
            let (is_admitted, status) = one(&sidecar, descriptor(free)).await;
            assert!(is_admitted && status.current_limit.is_none() && status.limit_remaining == 0, "{status:?}");
        }
    }
    let request =
        RateLimitRequest { domain: "other".into(), descriptors: vec![descriptor(&[("path", "/v2")])], hits_addend: 1 };
    assert!(admitted(&sidecar.rate_limits().should_rate_limit(request).await.unwrap().into_inner()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_says_what_envoy_makes_headers_of() {
    let named = v1::RateLimitRule { name: "pages".into(), ..own("path", "", 5, v1::RateLimitUnit::Hour) };
    let rules =
        vec![named, own("ip", "", 2, v1::RateLimitUnit::Minute), unlimited("path", "/free"), daily("no", "", 0)];
    let (world, sidecar) = with_rules(rules).await;
    let (is_admitted, status) = one(&sidecar, taking(&[("path", "/a")], 3)).await;
    let limit = status.current_limit.clone().unwrap();
    assert!(is_admitted);
    assert_eq!((limit.name.as_str(), limit.requests_per_unit, limit.unit()), ("pages", 5, Unit::Hour));
    assert_eq!(status.limit_remaining, 2);
    let left = 3600 - world.clock.now().timestamp() % 3600;
    let reset = status.duration_until_reset.unwrap().seconds;
    assert!((left - 5..=left).contains(&reset), "{reset} of {left}: until the hour ends in UTC");

    // A minute rolls: there is no end of a window, but a time after which it is worth asking.
    let (_, status) = one(&sidecar, descriptor(&[("ip", "1")])).await;
    assert_eq!((status.limit_remaining, status.duration_until_reset.unwrap().seconds), (1, 60));
    let reply = ask(&sidecar, vec![taking(&[("ip", "1")], 2)]).await.unwrap();
    assert!(!admitted(&reply));
    let again = reply.statuses[0].duration_until_reset.unwrap();
    assert!((1..=70).contains(&again.seconds), "{again:?}");
    let body: serde_json::Value = serde_json::from_slice(&reply.raw_body).unwrap();
    assert_eq!((&body["error"]["code"], &body["error"]["reason"]), (&429.into(), &"LIMIT_EXCEEDED".into()));
    let headers: Vec<_> = reply.response_headers_to_add.iter().map(|h| (h.key.as_str(), h.value.as_str())).collect();
    assert_eq!(headers, [("content-type", "application/json")]);

    let (is_admitted, status) = one(&sidecar, taking(&[("path", "/free")], 1_000_000)).await;
    assert!(is_admitted && status.current_limit.is_none() && status.limit_remaining == u32::MAX, "{status:?}");
    let (is_admitted, status) = one(&sidecar, descriptor(&[("no", "x")])).await;
    assert!(!is_admitted && status.duration_until_reset.unwrap().seconds <= 86_400, "{status:?}");
    let (is_admitted, _) = one(&sidecar, taking(&[("path", "/b")], 6)).await;
    assert!(!is_admitted, "more than is ever admitted");
    let (is_admitted, status) = one(&sidecar, taking(&[("path", "/b")], 5)).await;
    assert!(is_admitted && status.limit_remaining == 0, "and nothing was taken for it: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_are_per_descriptor_or_of_the_request_or_one() {
    let (_world, sidecar) = with_rules(vec![daily("a", "", 10)]).await;
    let of_request = async |hits_addend: u32, entries: &[(&str, &str)]| {
        let request = RateLimitRequest { domain: EDGE.into(), descriptors: vec![descriptor(entries)], hits_addend };
        sidecar.rate_limits().should_rate_limit(request).await.unwrap().into_inner().statuses[0].limit_remaining
    };
    let entries = &[("a", "x")];
    assert_eq!(of_request(0, entries).await, 9, "0 is 1 in a request");
    assert_eq!(of_request(4, entries).await, 5);
    let (is_admitted, status) = one(&sidecar, taking(entries, 0)).await;
    assert!(is_admitted && status.limit_remaining == 5, "0 of a descriptor only asks: {status:?}");
    assert_eq!(one(&sidecar, taking(entries, 5)).await.1.limit_remaining, 0);
    let (is_admitted, status) = one(&sidecar, taking(entries, 0)).await;
    assert!(!is_admitted && status.limit_remaining == 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn negative_hits_are_given_back() {
    let rate = own("rate", "", 10, v1::RateLimitUnit::Minute);
    let (_world, sidecar) = with_rules(vec![daily("day", "", 10), rate]).await;
    for key in ["day", "rate"] {
        let entries = &[(key, "x")];
        assert_eq!(exhaust(&sidecar, entries).await, 10);
        let (is_admitted, status) = one(&sidecar, giving_back(entries, 3)).await;
        assert!(is_admitted, "who gives back is not refused: {status:?}");
        eventually("three can be taken again", || async { one(&sidecar, taking(entries, 3)).await.0 }).await;
        assert_eq!(exhaust(&sidecar, entries).await, 0, "{key}: and no more than three");
        // Not more than was taken.
        assert!(one(&sidecar, giving_back(entries, 1_000_000)).await.0);
        eventually("all can be taken again", || async { one(&sidecar, taking(entries, 10)).await.0 }).await;
        assert_eq!(exhaust(&sidecar, entries).await, 0, "{key}: and no more than there was");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_can_bring_its_limit() {
    let (world, sidecar) = with_rules(vec![daily("a", "", 1), of_tenant("customer", "calls", "customer")]).await;
    let tenant = limited(&world, [monthly(1)]).await;
    let count = async |descriptor: tenancy::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor| {
        let mut count = 0;
        while one(&sidecar, descriptor.clone()).await.0 {
            count += 1;
        }
        count
    };
    let hour = 3;
    assert_eq!(count(bringing(&[("a", "x")], 3, hour)).await, 3, "in place of the rule's");
    assert_eq!(count(bringing(&[("a", "x")], 4, hour)).await, 4, "another limit counts apart");
    assert_eq!(count(bringing(&[("a", "y")], 3, hour)).await, 3, "as do other entries");
    assert_eq!(exhaust(&sidecar, &[("a", "x")]).await, 1, "and the rule's own");
    assert_eq!(count(bringing(&[("nothing", "said")], 2, hour)).await, 2, "where nothing else limits");
    let direct = [("tenant", tenant.slug.as_str()), ("meter", "calls")];
    assert_eq!(count(bringing(&direct, 5, hour)).await, 5, "in place of the tenant's");
    let by_id = [("tenant", tenant.id.as_str()), ("meter", "calls")];
    assert_eq!(count(bringing(&by_id, 5, hour)).await, 0, "the same tenant by its id");
    assert_eq!(exhaust(&sidecar, &direct).await, 1);
    assert_eq!(count(bringing(&[("customer", &tenant.slug)], 2, hour)).await, 2);
    assert_eq!(count(bringing(&[("tenant", "anonymous"), ("meter", "calls")], 5, hour)).await, 0, "nobody's");
    for unit in [0, 6, 9] {
        let refusal = refused(ask(&sidecar, vec![bringing(&[("a", "x")], 1, unit)]).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "a year is not supported: {refusal:?}");
        assert_eq!(refusal.fields, ["descriptors[0].limit.unit"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_mode_a_rule_only_reports() {
    let shadow = |rule: v1::RateLimitRule| v1::RateLimitRule { shadow_mode: true, ..rule };
    let of_tenant = shadow(of_tenant("tenant", "calls", ""));
    let (world, sidecar) = with_rules(vec![shadow(daily("a", "", 2)), of_tenant]).await;
    let tenant = limited(&world, [monthly(2)]).await;
    for entries in [&[("a", "x")][..], &[("tenant", &tenant.slug)]] {
        for remaining in [1, 0, 0, 0] {
            let (is_admitted, status) = one(&sidecar, descriptor(entries)).await;
            assert!(is_admitted && status.limit_remaining == remaining, "{entries:?}: {status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_can_replace_another_descriptors() {
    let named = |rule: v1::RateLimitRule, name: &str| v1::RateLimitRule { name: name.into(), ..rule };
    let burst = v1::RateLimitRule { replaces: vec!["all".into()], ..named(daily("path", "/bulk", 3), "bulk") };
    let (_world, sidecar) = with_rules(vec![named(daily("all", "", 1), "all"), burst]).await;
    let both = |path: &str| vec![descriptor(&[("all", "x")]), descriptor(&[("path", path)])];
    for _ in 0..3 {
        let reply = ask(&sidecar, both("/bulk")).await.unwrap();
        assert!(admitted(&reply) && reply.statuses[0].current_limit.is_none(), "{reply:?}");
    }
    assert!(!admitted(&ask(&sidecar, both("/bulk")).await.unwrap()));
    assert!(admitted(&ask(&sidecar, both("/other")).await.unwrap()), "not taken from before");
    assert!(!admitted(&ask(&sidecar, both("/other")).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_force_everywhere_within_a_second_and_forgets_nothing() {
    let (world, one_sidecar) = with_rules(vec![daily("a", "", 4)]).await;
    let replica = World::on(world.database.clone(), &[]).await;
    let other = super::support::sidecar(&replica).await;
    let entries = &[("a", "x")];
    assert!(one(&one_sidecar, taking(entries, 3)).await.0);
    assert!(!one(&other, taking(entries, 2)).await.0);

    update(&world.operator(), domain(EDGE, vec![daily("a", "", 6)])).await.unwrap();
    assert_eq!(one(&one_sidecar, taking(entries, 0)).await.1.limit_remaining, 3, "at once where it was made");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(one(&other, taking(entries, 2)).await.0, "three of six were taken");
    update(&world.operator(), domain(EDGE, vec![daily("a", "", 2)])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for sidecar in [&one_sidecar, &other] {
        assert!(!one(sidecar, descriptor(entries)).await.0, "five of two were taken");
    }
    let request = v1::DeleteRateLimitDomainRequest { domain: EDGE.into(), ..Default::default() };
    world.operator().rate_limit_domains().delete_rate_limit_domain(request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(one(&other, descriptor(entries)).await.0, "no rules, no limit");
    create(&world.operator(), domain(EDGE, vec![daily("a", "", 5)])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!one(&other, descriptor(entries)).await.0, "what was counted is counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_say_nothing_are_refused() {
    let (_world, sidecar) = with_rules(vec![daily("a", "", 4)]).await;
    let refusal = async |request: RateLimitRequest| refused(sidecar.rate_limits().should_rate_limit(request).await);
    let good =
        || RateLimitRequest { domain: EDGE.into(), descriptors: vec![descriptor(&[("a", "x")])], hits_addend: 1 };
    for (request, field) in [
        (RateLimitRequest { domain: String::new(), ..good() }, "domain"),
        (RateLimitRequest { descriptors: Vec::new(), ..good() }, "descriptors"),
        (RateLimitRequest { descriptors: vec![descriptor(&[])], ..good() }, "descriptors[0].entries"),
        (RateLimitRequest { descriptors: vec![descriptor(&[("", "x")])], ..good() }, "descriptors[0].entries"),
        (
            RateLimitRequest { descriptors: vec![taking(&[("a", "x")], u64::MAX)], ..good() },
            "descriptors[0].hits_addend",
        ),
    ] {
        let refusal = refusal(request).await;
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
        assert_eq!(refusal.fields, [field]);
    }
    assert_eq!(exhaust(&sidecar, &[("a", "x")]).await, 4, "none of them took anything");
}
