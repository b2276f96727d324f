//! `StreamAccessLogs`: what entries become, and what they do not.

use std::time::Duration;

use serde_json::json;
use tenancy::proto::envoy::config::core::v3::Node;
use tenancy::proto::envoy::data::accesslog::v3::AccessLogType;
use tenancy::proto::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use tenancy::proto::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;
use tenancy::proto::v1;
use tenancy::sidecar::admission::{Admission, recordings};

use crate::harness::{Tenant, World, eventually};
use crate::quota::asks::{check, limited, monthly, quota};
use crate::sidecar::logs::{Admitting, Log, counted, events, log, sidecar, signing_key, totals};
use crate::usage::support::{create_meter, drift, stored};
use crate::usage::verify::verify;

const MINUTE: Duration = Duration::from_mins(1);

async fn tenant(world: &World, slug: &str) -> Tenant {
    let tenant = world.tenant(slug).await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    tenant
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_becomes_an_event_of_each_of_its_meters() {
    let world = World::start().await;
    let tenant = tenant(&world, "acme").await;
    for meter in ["in", "out", "io", "tokens", "unlogged"] {
        create_meter(&tenant.client, meter, v1::MeterAggregation::Sum).await;
    }
    create_meter(&tenant.client, "n", v1::MeterAggregation::Count).await;
    create_meter(&tenant.client, "slowest", v1::MeterAggregation::Max).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let all = "n=requests,in=request_bytes,out=response_bytes,io=bytes,slowest=milliseconds,tokens=header:x-tokens,\
               unlogged=header:x-other";
    let admission = Admission { recordings: recordings(all).unwrap(), ..admitting.admit(&world, 7) };
    log(&sidecar(&world, &[]).await, vec![admitting.entry_with_tokens(&admission, "12.25")]).await;

    let id = admission.reservation.id;
    let properties = json!({"method": "GET", "response_code": 200, "route": "api"});
    let event = |meter: &str, quantity: &str| {
        let id = if meter == "calls" { id.to_string() } else { format!("{id}/{meter}") };
        (id, meter.to_owned(), quantity.to_owned(), tenant.key_id.clone(), properties.clone())
    };
    let expected = [
        ("calls", "7"),
        ("in", "120"),
        ("io", "4123"),
        ("n", "1"),
        ("out", "4003"),
        ("slowest", "250"),
        ("tokens", "12.25"),
    ];
    assert_eq!(events(&world.database).await, expected.map(|(meter, quantity)| event(meter, quantity)));
    let times: Vec<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar("SELECT DISTINCT occurred_at FROM tenancy.usage_events")
            .fetch_all(&world.database.superuser)
            .await
            .unwrap();
    assert_eq!(times, [admission.time()]);
    assert_eq!(drift(&world.database).await, 0);
    assert_eq!(verify(&world, &[]).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_is_the_subject_where_there_is_one() {
    let world = World::start().await;
    let tenant = tenant(&world, "acme").await;
    let admitting = Admitting::new(&world, &tenant).await;
    let user = uuid::Uuid::from_u128(42);
    let admission = Admission { user: Some(user), ..admitting.admit(&world, 1) };
    log(&sidecar(&world, &[]).await, vec![admitting.entry(&admission)]).await;
    assert_eq!(events(&world.database).await[0].3, user.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_twice_counts_once() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let replica = World::on(world.database.clone(), &[]).await;
    let client = sidecar(&world, &[]).await;
    let mut entries = Vec::new();
    for tokens in ["2", "3"] {
        let admission = admitting.reserve(&tenant.client, 10, MINUTE).await;
        entries.push(admitting.entry_with_tokens(&admission, tokens));
    }
    let twice = [entries.clone(), entries.clone()].concat();
    let stream = Log::open(&client).await.unwrap();
    assert!(stream.send(twice.clone()).await && stream.send(entries.clone()).await);
    stream.finish().await;
    log(&client, entries.clone()).await;
    log(&sidecar(&replica, &[]).await, twice).await;
    assert_eq!(totals(&world.database).await["calls"], (2, 5.into()));
    eventually("both are settled, once", || async { quota(&tenant.client).await[0].used == 5 }).await;
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_end_of_a_tenants_request_is_ignored() {
    let world = World::start().await;
    let tenant = tenant(&world, "acme").await;
    let admitting = Admitting::new(&world, &tenant).await;
    let client = sidecar(&world, &[]).await;
    let mut entries = Vec::new();
    for number in (0..=14).filter(|number| *number != AccessLogType::DownstreamEnd as i32) {
        let mut entry = admitting.entry(&admitting.admit(&world, 1));
        let common = entry.common_properties.as_mut().unwrap();
        common.access_log_type = number;
        common.intermediate_log_entry = true;
        entries.push(entry);
    }
    // Nobody was let through by us: no metadata, or none of ours.
    let mut foreign = admitting.entry(&admitting.admit(&world, 1));
    foreign.common_properties.as_mut().unwrap().metadata = None;
    entries.extend([foreign, tenancy::proto::envoy::data::accesslog::v3::HttpAccessLogEntry::default()]);
    // Said to be by us, and is not: signed by somebody else.
    let forger = Admitting { key: [7; 32], tenant: tenant.clone() };
    entries.push(forger.entry(&forger.admit(&world, 1)));
    let stream = Log::open(&client).await.unwrap();
    assert!(stream.send(entries).await);
    // A message of nothing, one of TCP connections (its field is none that we read), and one that says who sends it.
    assert!(stream.send_message(StreamAccessLogsMessage::default()).await);
    let node = Some(Node { id: "a".into(), cluster: "b".into() });
    let identifier = Some(Identifier { node, log_name: "c".into() });
    assert!(stream.send_message(StreamAccessLogsMessage { identifier, log_entries: None }).await);
    let good = admitting.admit(&world, 3);
    assert!(stream.send(vec![admitting.entry(&good)]).await);
    stream.finish().await;
    assert_eq!(totals(&world.database).await["calls"], (1, 3.into()));
    // An older Envoy does not say when it writes an entry.
    let old = admitting.admit(&world, 4);
    let mut entry = admitting.entry(&old);
    entry.common_properties.as_mut().unwrap().access_log_type = AccessLogType::NotSet.into();
    log(&client, vec![entry]).await;
    assert_eq!(totals(&world.database).await["calls"], (2, 7.into()));
    for outcome in ["recorded", "ignored", "refused"] {
        let line = format!("tenancy_access_log_entries_total{{outcome=\"{outcome}\"}}");
        assert!(counted(&world, &line).await > 0, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_is_settled_with_what_was_used() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let client = sidecar(&world, &[]).await;
    let figures = async || {
        let limit = quota(&tenant.client).await.remove(0);
        (limit.used, limit.overage, check(&tenant.client, 0).await.limits[0].reserved)
    };
    // Less, as much, more, a fraction, and what cannot be read: what was reserved.
    let mut used = 0;
    for (tokens, settled, recorded) in
        [("4", 4, "4"), ("10", 10, "10"), ("15", 15, "15"), ("2.1", 3, "2.1"), ("many", 10, "10")]
    {
        let admission = admitting.reserve(&tenant.client, 10, MINUTE).await;
        assert_eq!(figures().await.2, 10, "{tokens}");
        log(&client, vec![admitting.entry_with_tokens(&admission, tokens)]).await;
        used += settled;
        eventually(&format!("{tokens} is settled as {settled}"), || async {
            let (now, _, reserved) = figures().await;
            (now, reserved) == (used, 0)
        })
        .await;
        let id = admission.reservation.id.to_string();
        let event = events(&world.database).await.into_iter().find(|event| event.0 == id).unwrap();
        assert_eq!(event.2, recorded);
    }
    assert_eq!(totals(&world.database).await["calls"].1.to_string(), "41.1");
    assert_eq!(drift(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_expired_reservation_the_usage_is_recorded_all_the_same() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let admitting = Admitting::new(&world, &tenant).await;
    let admission = admitting.reserve(&tenant.client, 10, Duration::from_secs(5)).await;
    world.clock.advance(Duration::from_secs(6));
    log(&sidecar(&world, &[]).await, vec![admitting.entry_with_tokens(&admission, "4")]).await;
    assert_eq!(totals(&world.database).await["calls"], (1, 4.into()));
    assert_eq!(quota(&tenant.client).await[0].used, 10, "what was reserved stays used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amounts_are_where_the_meter_looks_for_them() {
    let world = World::start().await;
    let tenant = tenant(&world, "acme").await;
    let meter = |key: &str, property: &str, aggregation: v1::MeterAggregation| v1::Meter {
        key: key.into(),
        display_name: key.into(),
        aggregation: aggregation.into(),
        value_property: property.into(),
        group_by: vec!["route".into()],
        ..v1::Meter::default()
    };
    let filtered = v1::Meter {
        filter: vec![v1::MeterCondition {
            property: "method".into(),
            operator: v1::MeterConditionOperator::In.into(),
            values: vec!["POST".into()],
        }],
        ..meter("posts", "", v1::MeterAggregation::Sum)
    };
    for meter in [
        meter("by_property", "tokens", v1::MeterAggregation::Sum),
        meter("by_code", "response_code", v1::MeterAggregation::Max),
        meter("methods", "method", v1::MeterAggregation::UniqueCount),
        meter("callers", "", v1::MeterAggregation::UniqueCount),
        filtered,
    ] {
        let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
        tenant.client.meters().create_meter(request).await.unwrap();
    }
    let admitting = Admitting::new(&world, &tenant).await;
    let all =
        "by_property=header:x-tokens,by_code=requests,methods=requests,callers=requests,posts=requests,none=requests";
    let admission = Admission { recordings: recordings(all).unwrap(), ..admitting.admit(&world, 1) };
    log(&sidecar(&world, &[]).await, vec![admitting.entry_with_tokens(&admission, "9.5")]).await;
    let found: Vec<_> = events(&world.database).await.into_iter().map(|event| (event.1, event.2)).collect();
    let expected = [("by_code", "200"), ("by_property", "9.5"), ("callers", "1"), ("calls", "1"), ("methods", "1")];
    assert_eq!(found, expected.map(|(meter, quantity)| (meter.to_owned(), quantity.to_owned())));
    assert_eq!(drift(&world.database).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_tells_only_of_the_organizations_of_its_key() {
    let world = World::start().await;
    let (one, two) = (tenant(&world, "one").await, tenant(&world, "two").await);
    let (first, second) = (Admitting::new(&world, &one).await, Admitting::new(&world, &two).await);
    let entries: Vec<_> =
        (0..4).map(|number| [&first, &second][number % 2]).map(|of| of.entry(&of.admit(&world, 5))).collect();
    log(&sidecar(&world, &[&one.id]).await, entries.clone()).await;
    let of_organization = async |id: &str| -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM tenancy.usage_events WHERE organization_id::text = $1")
            .bind(id)
            .fetch_one(&world.database.superuser)
            .await
            .unwrap()
    };
    assert_eq!((of_organization(&one.id).await, of_organization(&two.id).await), (2, 0));
    // Nor does it settle for them.
    log(&sidecar(&world, &[]).await, entries).await;
    assert_eq!((of_organization(&one.id).await, of_organization(&two.id).await), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_entries_say_is_bounded() {
    let world = World::start().await;
    let tenant = tenant(&world, "acme").await;
    let admitting = Admitting { key: signing_key(&world.database).await, tenant };
    let admission = Admission { settle: Some("header:x-tokens".parse().unwrap()), ..admitting.admit(&world, 6) };
    let mut entry = admitting.entry_with_tokens(&admission, &"9".repeat(1 << 20));
    let common = entry.common_properties.as_mut().unwrap();
    common.route_name = "\0ä".repeat(100_000);
    entry.request.as_mut().unwrap().request_body_bytes = u64::MAX;
    entry.request.as_mut().unwrap().request_method = 4711;
    log(&sidecar(&world, &[]).await, vec![entry]).await;
    let event = events(&world.database).await.remove(0);
    assert_eq!((event.2.as_str(), event.4["route"].as_str().unwrap()), ("6", "ä".repeat(128).as_str()));
}
