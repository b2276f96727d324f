//! `RecordUsage`, over the wire: each event has its own fate.

use std::time::Duration;

use chrono::TimeDelta;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tenancy::proto::v1;

use crate::harness::{Tenant, World};
use crate::usage::support::{create_meter, drift, event, fates, record, stored, timestamp};

async fn metered(world: &World) -> Tenant {
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Sum).await;
    create_meter(&tenant.client, "bytes", v1::MeterAggregation::Sum).await;
    tenant
}

/// Properties of one number, of a text, or of none.
fn properties<const N: usize>(fields: [(&str, Kind); N]) -> Option<Struct> {
    let fields = fields.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
    Some(Struct { fields: fields.into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_event_does_not_sink_the_rest() {
    let world = World::start().await;
    let client = metered(&world).await.client;
    let now = world.clock.now();
    let anonymous = || v1::UsageEvent { event_id: String::new(), ..event("", now) };
    let events = vec![
        event("a", now),
        event("a", now),
        v1::UsageEvent { quantity: "2".into(), ..event("a", now) },
        event("a", now - TimeDelta::seconds(1)),
        v1::UsageEvent { quantity: "many".into(), ..event("b", now) },
        v1::UsageEvent { meter: "unknown".into(), ..event("b", now) },
        v1::UsageEvent { occurred_at: None, ..event("c", now) },
        anonymous(),
        anonymous(),
        v1::UsageEvent { occurred_at: None, ..anonymous() },
        event("d", now - TimeDelta::days(36)),
        event("", now - TimeDelta::days(36)),
        event("e", now + TimeDelta::minutes(6)),
        event("f", now + TimeDelta::minutes(4)),
        event("g", now - TimeDelta::days(34)),
    ];
    let expected = [
        "RECORDED",
        "DUPLICATE",
        "CONFLICT",
        "RECORDED",
        "INVALID_FIELD",
        "METER_NOT_FOUND",
        "INVALID_FIELD",
        "RECORDED",
        "RECORDED",
        "RECORDED",
        "EVENT_TOO_OLD",
        "EVENT_TOO_OLD",
        "EVENT_IN_FUTURE",
        "RECORDED",
        "RECORDED",
    ];
    assert_eq!(fates(&client, events.clone()).await, expected);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (7, 0));

    let again = fates(&client, events).await;
    for (position, (first, second)) in expected.into_iter().zip(&again).enumerate() {
        let expected = match first {
            // Without an identity it cannot be known again.
            "RECORDED" if (7..10).contains(&position) => "RECORDED",
            "RECORDED" => "DUPLICATE",
            other => other,
        };
        assert_eq!(second, expected, "the retry of event {position}");
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (10, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let tenant = metered(&world).await;
    let now = world.clock.now();
    let nested = (0..4)
        .fold(Kind::NumberValue(1.0), |inner, _| Kind::StructValue(properties([("x", inner)]).unwrap_or_default()));
    let good = || event("a", now);
    let seconds = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let mut wrong = vec![
        ("event_id", v1::UsageEvent { event_id: "x".repeat(129), ..good() }),
        ("event_id", v1::UsageEvent { event_id: "a\nb".into(), ..good() }),
        ("meter", v1::UsageEvent { meter: String::new(), ..good() }),
        ("meter", v1::UsageEvent { meter: "Not A Key".into(), ..good() }),
        ("meter", v1::UsageEvent { meter: tenant.id.clone(), ..good() }),
        ("occurred_at", v1::UsageEvent { occurred_at: None, ..good() }),
        ("occurred_at", v1::UsageEvent { occurred_at: seconds(i64::MAX, 0), ..good() }),
        ("occurred_at", v1::UsageEvent { occurred_at: seconds(i64::MIN, 0), ..good() }),
        ("occurred_at", v1::UsageEvent { occurred_at: seconds(0, -1), ..good() }),
        ("occurred_at", v1::UsageEvent { occurred_at: seconds(0, 1_000_000_000), ..good() }),
        ("subject", v1::UsageEvent { subject: "x".repeat(129), ..good() }),
        ("subject", v1::UsageEvent { subject: "a\0b".into(), ..good() }),
    ];
    for quantity in ["-1", "+1", "1e3", ".5", "5.", " 1", "1,5", "NaN", "1000000000000000", "0.0000000001"] {
        wrong.push(("quantity", v1::UsageEvent { quantity: quantity.into(), ..good() }));
    }
    for given in [
        properties([("x", Kind::StringValue("x".repeat(4096)))]),
        properties([("x", nested)]),
        properties([("x", Kind::NumberValue(f64::NAN))]),
        properties([("x", Kind::StringValue("\0".into()))]),
        properties([("\0", Kind::NumberValue(1.0))]),
    ] {
        wrong.push(("properties", v1::UsageEvent { properties: given, ..good() }));
    }
    let events = wrong.iter().map(|(_, event)| event.clone()).chain([good()]).collect();
    let results = record(&tenant.client, events).await.unwrap();
    for ((field, event), result) in wrong.iter().zip(&results) {
        assert_eq!((result.status(), result.reason.as_str()), (v1::UsageEventStatus::Rejected, "INVALID_FIELD"));
        assert!(result.message.starts_with(&format!("{field} ")), "{event:?}: {}", result.message);
        assert_eq!(result.event_id, event.event_id, "as it was sent");
    }
    assert_eq!(results.last().unwrap().status(), v1::UsageEventStatus::Recorded);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (1, 0));
}

/// What makes another event of one.
type Change = fn(v1::UsageEvent) -> v1::UsageEvent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_payload_is_a_conflict_whichever_field_differs() {
    let world = World::start().await;
    let client = metered(&world).await.client;
    let now = world.clock.now();
    let first = |id: &str| v1::UsageEvent {
        quantity: "1.5".into(),
        subject: "ada".into(),
        properties: properties([("size", Kind::NumberValue(3.0))]),
        ..event(id, now)
    };
    let changes: [(&str, Change); 6] = [
        ("meter", |event| v1::UsageEvent { meter: "bytes".into(), ..event }),
        ("quantity", |event| v1::UsageEvent { quantity: "1.500000001".into(), ..event }),
        ("subject", |event| v1::UsageEvent { subject: "grace".into(), ..event }),
        ("no subject", |event| v1::UsageEvent { subject: String::new(), ..event }),
        ("properties", |event| v1::UsageEvent { properties: properties([("size", Kind::NumberValue(4.0))]), ..event }),
        ("no properties", |event| v1::UsageEvent { properties: None, ..event }),
    ];
    for (what, change) in changes {
        let in_one_batch = vec![first(what), change(first(what)), first(what)];
        assert_eq!(fates(&client, in_one_batch).await, ["RECORDED", "CONFLICT", "DUPLICATE"], "{what}");
        assert_eq!(fates(&client, vec![change(first(what)), first(what)]).await, ["CONFLICT", "DUPLICATE"], "{what}");
    }
    let results = record(&client, vec![event("meter", now)]).await.unwrap();
    assert!(!results[0].message.is_empty(), "a developer is told");
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (6, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_is_compared_by_its_meaning() {
    let world = World::start().await;
    let client = metered(&world).await.client;
    // The identity has whole milliseconds.
    let now = world.clock.now();
    let sent = |quantity: &str, given: Option<Struct>| v1::UsageEvent {
        quantity: quantity.into(),
        properties: given,
        ..event("a", now)
    };
    let number = |value| Kind::NumberValue(value);
    let both = || properties([("big", number(1e16)), ("text", Kind::StringValue("\\u0000 is no NUL".into()))]);
    let turned = properties([("text", Kind::StringValue("\\u0000 is no NUL".into())), ("big", number(1e16))]);
    let mut fine = sent("1.500", both());
    fine.occurred_at = Some(timestamp(tenancy::model::usage::whole_milliseconds(now) + TimeDelta::microseconds(999)));
    for (event, expected) in [
        (sent("1.5", both()), "RECORDED"),
        (fine, "DUPLICATE"),
        (sent("01.50", turned), "DUPLICATE"),
        (sent("1.5", properties([("big", number(1e16))])), "CONFLICT"),
        (v1::UsageEvent { event_id: "b".into(), ..sent("1", None) }, "RECORDED"),
        (v1::UsageEvent { event_id: "b".into(), ..sent("", Some(Struct::default())) }, "DUPLICATE"),
    ] {
        assert_eq!(fates(&client, vec![event.clone()]).await, [expected], "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_known_again_however_old() {
    let world = World::start().await;
    let client = metered(&world).await.client;
    let now = world.clock.now();
    assert_eq!(fates(&client, vec![event("a", now)]).await, ["RECORDED"]);
    world.clock.advance(Duration::from_hours(40 * 24));
    let year_one = prost_types::Timestamp { seconds: -62_135_596_800, nanos: 0 };
    let year_9999 = prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 };
    let events = vec![
        event("a", now),
        v1::UsageEvent { subject: "ada".into(), ..event("a", now) },
        event("never sent", now),
        v1::UsageEvent { occurred_at: Some(year_one), ..event("a", now) },
        v1::UsageEvent { occurred_at: Some(year_9999), ..event("a", now) },
    ];
    let expected = ["DUPLICATE", "CONFLICT", "EVENT_TOO_OLD", "EVENT_TOO_OLD", "EVENT_IN_FUTURE"];
    assert_eq!(fates(&client, events).await, expected);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_identity_gets_one_and_counts_each_time() {
    let world = World::start().await;
    let client = metered(&world).await.client;
    let now = world.clock.now();
    let events = vec![event("", now), event("", now), v1::UsageEvent { occurred_at: None, ..event("", now) }];
    let mut ids: Vec<_> = record(&client, events).await.unwrap().into_iter().map(|result| result.event_id).collect();
    assert!(ids.iter().all(|id| uuid::Uuid::try_parse(id).unwrap().get_version_num() == 7), "{ids:?}");
    // What the server chose is an identity like any other.
    let chosen = v1::UsageEvent { event_id: ids[0].clone(), ..event("", now) };
    assert_eq!(fates(&client, vec![chosen]).await, ["DUPLICATE"]);
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), stored(&world.database).await, drift(&world.database).await), (3, 3, 0));
}
