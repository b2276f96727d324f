//! What routes need, and routes that say what nobody understands.

use prost_types::Value;
use prost_types::value::Kind;
use tenancy::proto::v1;
use tenancy::sidecar::admission::{Recording, Source};

use crate::harness::keys::{create, secret_key};
use crate::harness::{World, eventually};
use crate::quota::support::{plan, update_plan};
use crate::sidecar::support::{Answer, sidecar, waiting, with_key};
use crate::usage::support::create_meter;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_is_held_or_the_request_denied() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let (_, secret) = create(&tenant.client, secret_key(&["usage.read"])).await.unwrap();
    with_key(&secret).route("permission", "usage.read").passes(&envoy).await;
    let denied = with_key(&secret).route("permission", "usage.write").denied(&envoy).await;
    assert!(denied.is(403, "PERMISSION_MISSING") && denied.message.contains("usage.write"), "{denied:?}");
}

/// The free plan with these features.
async fn put(world: &World, features: &[(&str, Kind)]) {
    let features = features.iter().map(|(name, kind)| ((*name).to_owned(), Value { kind: Some(kind.clone()) }));
    let changed = v1::Plan { features: features.collect(), ..plan("free", vec![]) };
    update_plan(&world.operator(), changed, &["features"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_is_included_or_the_request_denied_also_right_after_a_change() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = &sidecar(&world).await;
    let asks = |feature: &str| with_key(&tenant.key).route("feature", feature);
    let denied = asks("sso").denied(envoy).await;
    assert!(denied.is(403, "FEATURE_NOT_INCLUDED") && denied.message.contains("sso"), "{denied:?}");
    let all = [
        ("sso", Kind::BoolValue(true)),
        ("audit", Kind::BoolValue(false)),
        ("seats", Kind::NumberValue(5.0)),
        ("regions", Kind::NumberValue(0.0)),
        ("support", Kind::StringValue("gold".into())),
        ("region", Kind::StringValue(String::new())),
    ];
    put(&world, &all).await;
    eventually("the change is heard of", || {
        let request = asks("sso");
        async move { matches!(request.ask(envoy).await, Answer::Passed(_)) }
    })
    .await;
    for feature in ["sso", "seats", "support"] {
        asks(feature).passes(envoy).await;
    }
    for feature in ["audit", "regions", "region", "other"] {
        assert!(asks(feature).denied(envoy).await.is(403, "FEATURE_NOT_INCLUDED"), "{feature}");
    }
    put(&world, &all[1..]).await;
    eventually("it is taken away", || {
        let request = asks("sso");
        async move { matches!(request.ask(envoy).await, Answer::Denied(denied) if denied.status == 403) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misconfigured_route_lets_nobody_through() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    let envoy = sidecar(&world).await;
    for (name, value) in [
        ("permision", "usage.read"),
        ("permission", "usage.destroy"),
        ("permission", "organizations.create"),
        ("feature", "S S O"),
        ("meter", "No Meter"),
        // Well said, but there is none.
        ("meter", "no.meter"),
        ("cost", "0"),
        ("cost", "many"),
        ("settle", "tokens"),
        ("reserve_ttl", "2d"),
        ("record", "calls"),
        ("optional", "maybe"),
        ("publishable", "any"),
    ] {
        let route = |request: crate::sidecar::support::Waiting| {
            let request = request.route("meter", "calls").route("settle", "requests");
            request.route("optional", "false").route(name, value)
        };
        let denied = route(with_key(&tenant.key)).denied(&envoy).await;
        assert!(denied.is(503, "ROUTE_MISCONFIGURED"), "{name}: {denied:?}");
        assert!(denied.message.contains(name), "it is named: {denied:?}");
        assert_eq!(denied.header("retry-after"), None, "waiting does not help");
        if value != "no.meter" {
            let nobodys = route(waiting()).route("optional", if name == "optional" { value } else { "true" });
            assert!(nobodys.denied(&envoy).await.is(503, "ROUTE_MISCONFIGURED"), "{name}: not even nobody");
        }
    }
    for name in ["cost", "settle", "reserve_ttl"] {
        let value = [("cost", "2"), ("settle", "requests"), ("reserve_ttl", "1m")];
        let value = value.iter().find(|(known, _)| *known == name).unwrap().1;
        let denied = with_key(&tenant.key).route(name, value).denied(&envoy).await;
        assert!(denied.is(503, "ROUTE_MISCONFIGURED") && denied.message.contains(name), "{name}: {denied:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_route_records_reaches_the_access_log() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    let envoy = sidecar(&world).await;
    let request = with_key(&tenant.key).route("meter", "calls").route("cost", "3");
    let passed = request.route("record", "bytes=bytes,tokens=header:x-tokens").passes(&envoy).await;
    let admission = passed.admission(&world).await;
    assert_eq!(admission.api_key.unwrap().to_string(), tenant.key_id);
    assert_eq!((admission.meter.as_deref(), admission.settle, admission.user), (Some("calls"), None, None));
    let recording = |meter: &str, source| Recording { meter: meter.into(), source };
    let expected = [recording("bytes", Source::Bytes), recording("tokens", Source::ResponseHeader("x-tokens".into()))];
    assert_eq!(admission.recordings, expected);
    assert_eq!((admission.reservation.amount, admission.reservation.charges.len()), (3, 0), "nothing is to be settled");
    let left = admission.reservation.expire_time - world.clock.now();
    assert!((590..=600).contains(&left.num_seconds()), "{left}");
    // Without a meter there is an identity all the same: the request is recorded under it.
    let passed = with_key(&tenant.key).route("record", "bytes=bytes").passes(&envoy).await;
    let admission = passed.admission(&world).await;
    assert_eq!((admission.meter, admission.recordings.len(), admission.reservation.amount), (None, 1, 0));
}
