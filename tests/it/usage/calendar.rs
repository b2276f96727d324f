//! `QueryUsage`, over the wire: buckets follow the clock on the wall, across daylight saving and in zones of half and
//! quarter hours. The expected figures come from putting each quarter of an hour into its bucket by itself.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike as _, Offset as _, TimeDelta, Timelike as _, Utc};
use chrono_tz::{America, Asia, Australia, Europe, Tz};
use prost_types::FieldMask;
use rust_decimal::Decimal;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;

use crate::harness::{Client, World};
use crate::usage::support::{create_meter, drift, event, fates, timestamp};

const QUARTER: TimeDelta = TimeDelta::minutes(15);

/// Start, end, number of events, sum.
type Point = (DateTime<Utc>, DateTime<Utc>, i64, Decimal);

/// An event: when, how much.
type Sent = (DateTime<Utc>, Decimal);

/// When the zone's clock was changed within the last year.
fn changes(zone: Tz, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let offset = |at: DateTime<Utc>| zone.offset_from(at);
    let hours = (2 * 24..390 * 24).rev().map(|hours| quarter(now) - TimeDelta::hours(hours));
    hours.filter(|at| offset(*at) != offset(*at + TimeDelta::hours(1))).collect()
}

trait OffsetFrom {
    fn offset_from(self, at: DateTime<Utc>) -> i32;
}

impl OffsetFrom for Tz {
    fn offset_from(self, at: DateTime<Utc>) -> i32 {
        at.with_timezone(&self).offset().fix().local_minus_utc()
    }
}

/// What is the same at all times of one bucket and of no other.
fn bucket(at: DateTime<Utc>, unit: v1::UsageBucket, zone: Tz) -> (i32, u32, u32, u32, i32) {
    let local = at.with_timezone(&zone);
    match unit {
        // Two o'clock comes twice, once by each offset.
        v1::UsageBucket::Hour => (local.year(), local.month(), local.day(), local.hour(), zone.offset_from(at)),
        v1::UsageBucket::Day => (local.year(), local.month(), local.day(), 0, 0),
        _ => (local.year(), local.month(), 0, 0, 0),
    }
}

fn expected(events: &[Sent], range: [DateTime<Utc>; 2], unit: v1::UsageBucket, zone: Tz) -> Vec<Point> {
    let [start, end] = range;
    let mut points: Vec<Point> = Vec::new();
    let mut at = start;
    while at < end {
        let same = at > start && bucket(at, unit, zone) == bucket(at - QUARTER, unit, zone);
        if !same {
            points.push((at, at, 0, Decimal::ZERO));
        }
        at += QUARTER;
        points.last_mut().unwrap().1 = at;
    }
    for (at, quantity) in events {
        if let Some(point) = points.iter_mut().find(|point| point.0 <= *at && *at < point.1) {
            point.2 += 1;
            point.3 += quantity;
        }
    }
    points.retain(|point| point.2 > 0);
    points
}

async fn ask(client: &Client, range: [DateTime<Utc>; 2], unit: v1::UsageBucket, zone: &str) -> v1::QueryUsageResponse {
    let request = v1::QueryUsageRequest {
        meter: "bytes".into(),
        start_time: Some(timestamp(range[0])),
        end_time: Some(timestamp(range[1])),
        bucket: unit.into(),
        time_zone: zone.into(),
        ..Default::default()
    };
    client.usage().query_usage(request).await.unwrap().into_inner()
}

fn read(reply: &v1::QueryUsageResponse) -> Vec<Point> {
    let at = |at: Option<prost_types::Timestamp>| DateTime::from_timestamp(at.unwrap().seconds, 0).unwrap();
    let point = |point: &v1::UsagePoint| {
        (at(point.start_time), at(point.end_time), point.event_count, point.value.parse().unwrap())
    };
    reply.points.iter().map(point).collect()
}

/// An event in each quarter of an hour around the given times.
async fn record_around(client: &Client, times: &[DateTime<Utc>]) -> Vec<Sent> {
    let mut sent = Vec::new();
    for (round, change) in times.iter().enumerate() {
        let mut events = Vec::new();
        for number in 0..2 * 40 * 4_i32 {
            let at = *change - TimeDelta::hours(40) + QUARTER * number + TimeDelta::seconds(i64::from(number % 900));
            let quantity = Decimal::new(i64::from(number) + 1, 1);
            let event = v1::UsageEvent {
                meter: "bytes".into(),
                quantity: quantity.to_string(),
                ..event(&format!("{round}/{number}"), at)
            };
            events.push(event);
            sent.push((at, quantity));
        }
        assert!(fates(client, events).await.iter().all(|fate| fate == "RECORDED"));
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_days_and_months_follow_the_wall() {
    let flags = ["--usage-accepted-age", "400d", "--usage-retention", "500d", "--request-timeout", "60s"];
    let world = World::start_with(&flags).await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "bytes", v1::MeterAggregation::Sum).await;
    let now = world.clock.now();
    let (rome, lord_howe) = (changes(Europe::Rome, now), changes(Australia::Lord_Howe, now));
    let mut times = [rome, lord_howe].concat();
    times.sort();
    let sent = record_around(&client, &times).await;
    assert_eq!(drift(&world.database).await, 0);

    let whole = [quarter(now) - TimeDelta::days(395), quarter(now)];
    let clipped = [times[0] - TimeDelta::minutes(45), times[0] + TimeDelta::minutes(450)];
    let mut lengths = BTreeSet::new();
    for zone in [Europe::Rome, Australia::Lord_Howe, Asia::Kathmandu, Asia::Kolkata, America::St_Johns, Tz::UTC] {
        for unit in [v1::UsageBucket::Hour, v1::UsageBucket::Day, v1::UsageBucket::Month] {
            for range in [whole, clipped] {
                let reply = ask(&client, range, unit, zone.name()).await;
                let points = read(&reply);
                assert_eq!(points, expected(&sent, range, unit, zone), "{unit:?} in {zone}, {range:?}");
                let total: Decimal = points.iter().map(|point| point.3).sum();
                assert_eq!((reply.total, reply.time_zone), (total.normalize().to_string(), zone.name().to_owned()));
                if unit == v1::UsageBucket::Day && range == whole {
                    lengths.extend(points.iter().map(|point| (zone.name(), (point.1 - point.0).num_minutes())));
                }
            }
        }
    }
    for (zone, minutes) in [("Europe/Rome", [23 * 60, 25 * 60]), ("Australia/Lord_Howe", [23 * 60 + 30, 24 * 60 + 30])]
    {
        assert!(minutes.iter().all(|minutes| lengths.contains(&(zone, *minutes))), "{zone}: {lengths:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zone_is_the_organizations_unless_another_is_named() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "bytes", v1::MeterAggregation::Sum).await;
    let now = world.clock.now();
    let sent = record_around(&tenant.client, &[quarter(now) - TimeDelta::days(5)]).await;
    let range = [quarter(now) - TimeDelta::days(10), quarter(now)];
    for zone in [Tz::UTC, Asia::Kathmandu, America::St_Johns] {
        let request = v1::UpdateOrganizationRequest {
            organization: Some(v1::Organization { time_zone: zone.name().into(), ..v1::Organization::default() }),
            update_mask: Some(FieldMask { paths: vec!["time_zone".into()] }),
            validate_only: false,
        };
        tenant.client.organizations().update_organization(request).await.unwrap();
        for (named, meant) in [("", zone), ("Asia/Kolkata", Asia::Kolkata)] {
            for unit in [v1::UsageBucket::Hour, v1::UsageBucket::Day] {
                let reply = ask(&tenant.client, range, unit, named).await;
                assert_eq!(reply.time_zone, meant.name());
                assert_eq!(read(&reply), expected(&sent, range, unit, meant), "{unit:?} in {meant}");
            }
        }
    }
}
