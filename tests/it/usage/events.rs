//! `ListUsageEvents`: what was recorded, as it was sent.

use chrono::TimeDelta;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tenancy::model::usage::whole_milliseconds;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, World, refused};
use crate::usage::support::{create_meter, event, fates, record, timestamp};

async fn list(client: &Client, request: v1::ListUsageEventsRequest) -> v1::ListUsageEventsResponse {
    client.usage().list_usage_events(request).await.unwrap().into_inner()
}

fn ids(reply: &v1::ListUsageEventsResponse) -> Vec<&str> {
    reply.events.iter().map(|recorded| recorded.event.as_ref().unwrap().event_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_listed_as_they_were_sent() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let meter = create_meter(&client, "calls", v1::MeterAggregation::Sum).await;
    let at = whole_milliseconds(world.clock.now());
    let number = |value| Value { kind: Some(Kind::NumberValue(value)) };
    let sent = v1::UsageEvent {
        quantity: "1.25".into(),
        subject: "ada".into(),
        properties: Some(Struct { fields: [("tokens".to_owned(), number(7.5))].into() }),
        ..event("näme", at)
    };
    let before = world.clock.now();
    assert_eq!(fates(&client, vec![sent.clone()]).await, ["RECORDED"]);
    let nameless = v1::UsageEvent { meter: "calls".into(), ..Default::default() };
    let chosen = record(&client, vec![nameless]).await.unwrap().remove(0).event_id;

    let reply = list(&client, v1::ListUsageEventsRequest::default()).await;
    assert_eq!(ids(&reply), [chosen.as_str(), "näme"], "the latest first");
    let found = &reply.events[1];
    assert_eq!(found.event, Some(sent));
    assert_eq!((found.meter_id.as_str(), found.void_time), (meter.meter_id.as_str(), None));
    let record_time = found.record_time.unwrap();
    assert!(record_time.seconds >= before.timestamp(), "{record_time:?}");
    assert_eq!(reply.events[0].event.as_ref().unwrap().quantity, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_pages_and_narrows() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let calls = create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    create_meter(&client, "bytes", v1::MeterAggregation::Sum).await;
    let at = whole_milliseconds(world.clock.now()) - TimeDelta::days(20);
    let numbered = (0..12).map(|number| v1::UsageEvent {
        meter: if number % 3 == 0 { "bytes".into() } else { "calls".into() },
        subject: if number % 2 == 0 { "ada".into() } else { String::new() },
        // In several partitions, and two at a time.
        ..event(&number.to_string(), at + TimeDelta::days(number / 2 * 3))
    });
    assert_eq!(fates(&client, numbered.collect()).await, ["RECORDED"; 12]);

    let all = list(&client, v1::ListUsageEventsRequest::default()).await;
    let all = ids(&all).into_iter().map(ToOwned::to_owned).collect::<Vec<_>>();
    assert_eq!(all.len(), 12);
    let mut paged: Vec<String> = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListUsageEventsRequest { page_size: 5, page_token: token, ..Default::default() };
        let reply = list(&client, request).await;
        paged.extend(ids(&reply).into_iter().map(ToOwned::to_owned));
        token = reply.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all);

    let narrowed = |request| async { ids(&list(&client, request).await).len() };
    let of = |meter: &str, subject: &str| v1::ListUsageEventsRequest {
        meter: meter.into(),
        subject: subject.into(),
        ..Default::default()
    };
    assert_eq!(narrowed(of("bytes", "")).await, 4);
    assert_eq!(narrowed(of(&calls.meter_id, "ada")).await, 4);
    assert_eq!(narrowed(of("", "nobody")).await, 0);
    let ranged = v1::ListUsageEventsRequest {
        start_time: Some(timestamp(at + TimeDelta::days(3))),
        end_time: Some(timestamp(at + TimeDelta::days(9))),
        ..Default::default()
    };
    assert_eq!(narrowed(ranged).await, 4);

    let wrong = |request| async { client.usage().list_usage_events(request).await };
    let refusal = refused(wrong(of("nothing", "")).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "METER_NOT_FOUND"));
    let negative = v1::ListUsageEventsRequest { page_size: -1, ..Default::default() };
    let refusal = refused(wrong(negative).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}
