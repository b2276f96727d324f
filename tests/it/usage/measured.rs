//! What a meter makes of an event, over the wire: its value, its filter, and that it is archived.

use chrono::TimeDelta;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tenancy::model::usage::quarter;
use tenancy::proto::v1;

use crate::harness::{Client, World};
use crate::usage::support::{drift, event, fate, fates, record, stored, timestamp};

async fn create(client: &Client, meter: v1::Meter) {
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    client.meters().create_meter(request).await.unwrap();
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

/// An event with these properties.
fn having(id: &str, at: chrono::DateTime<chrono::Utc>, fields: &[(&str, Kind)]) -> v1::UsageEvent {
    let fields = fields.iter().map(|(name, kind)| ((*name).to_owned(), Value { kind: Some(kind.clone()) }));
    v1::UsageEvent { properties: Some(Struct { fields: fields.collect() }), ..event(id, at) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_value_comes_from_the_property_that_the_meter_names() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let sum = v1::MeterAggregation::Sum.into();
    let meter = v1::Meter { key: "calls".into(), display_name: "Calls".into(), aggregation: sum, ..Default::default() };
    create(&client, v1::Meter { value_property: "tokens".into(), ..meter }).await;
    let at = quarter(world.clock.now()) - TimeDelta::minutes(30);
    let number = Kind::NumberValue;
    let events = vec![
        having("a", at, &[("tokens", number(12.0))]),
        having("b", at, &[("tokens", text("0.1"))]),
        having("c", at, &[("tokens", number(0.2))]),
        having("a", at, &[("tokens", text("12"))]),
        having("d", at, &[("tokens", text("many"))]),
        having("e", at, &[("others", number(1.0))]),
        having("f", at, &[("tokens", number(-1.0))]),
        v1::UsageEvent { quantity: "12".into(), ..having("g", at, &[("tokens", number(12.0))]) },
    ];
    let results = record(&client, events).await.unwrap();
    let found: Vec<_> = results.iter().map(fate).collect();
    let wrong = "INVALID_FIELD";
    // The same value written in another way is another payload.
    assert_eq!(found, ["RECORDED", "RECORDED", "RECORDED", "CONFLICT", wrong, wrong, wrong, wrong]);
    assert!(results[4].message.starts_with("properties.tokens "), "{}", results[4].message);
    assert!(results[7].message.starts_with("quantity "), "{}", results[7].message);
    let query = v1::QueryUsageRequest {
        meter: "calls".into(),
        start_time: Some(timestamp(at)),
        end_time: Some(timestamp(at + TimeDelta::minutes(15))),
        bucket: v1::UsageBucket::Hour.into(),
        ..Default::default()
    };
    assert_eq!(client.usage().query_usage(query).await.unwrap().into_inner().total, "12.3");
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_filter_leaves_events_out_and_an_archived_meter_takes_none() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let condition = |operator: v1::MeterConditionOperator, property: &str, value: &str| v1::MeterCondition {
        property: property.into(),
        operator: operator.into(),
        values: vec![value.into()],
    };
    let meter = v1::Meter {
        key: "calls".into(),
        display_name: "Calls".into(),
        aggregation: v1::MeterAggregation::Count.into(),
        filter: vec![
            condition(v1::MeterConditionOperator::In, "env", "prod"),
            condition(v1::MeterConditionOperator::NotIn, "internal", "true"),
        ],
        ..Default::default()
    };
    create(&client, meter).await;
    let at = world.clock.now();
    let sent = || {
        vec![
            having("a", at, &[("env", text("prod"))]),
            having("b", at, &[("env", text("dev"))]),
            having("c", at, &[("env", text("prod")), ("internal", Kind::BoolValue(true))]),
            having("d", at, &[("env", text("prod")), ("internal", Kind::BoolValue(false))]),
            event("e", at),
        ]
    };
    assert_eq!(fates(&client, sent()).await, ["RECORDED", "FILTERED", "FILTERED", "RECORDED", "FILTERED"]);
    assert_eq!(fates(&client, sent()).await, ["DUPLICATE", "FILTERED", "FILTERED", "DUPLICATE", "FILTERED"]);
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (2, 0));

    let request = v1::ArchiveMeterRequest { meter: "calls".into(), ..Default::default() };
    client.meters().archive_meter(request).await.unwrap();
    let after = [sent(), vec![having("f", at, &[("env", text("prod"))])]].concat();
    let found = fates(&client, after).await;
    assert_eq!(found, ["DUPLICATE", "FILTERED", "FILTERED", "DUPLICATE", "FILTERED", "METER_ARCHIVED"]);
    assert_eq!(stored(&world.database).await, 2);
}
