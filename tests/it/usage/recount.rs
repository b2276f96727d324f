//! `QueryUsage` against a recount in memory: random events, random questions, by seed.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use tenancy::model::usage::quarter;
use tenancy::proto::v1::{self, MeterAggregation as Aggregation};

use crate::harness::{Client, World};
use crate::usage::support::{drift, event, fates, timestamp};

const AGGREGATIONS: [Aggregation; 7] = [
    Aggregation::Count,
    Aggregation::Sum,
    Aggregation::Min,
    Aggregation::Max,
    Aggregation::Avg,
    Aggregation::Latest,
    Aggregation::UniqueCount,
];

/// An event as the test knows it. Properties that an event lacks are empty text.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    at: DateTime<Utc>,
    quantity: Decimal,
    subject: &'static str,
    model: &'static str,
    region: &'static str,
    /// No key of the meter's groups.
    user: &'static str,
}

impl Known {
    fn property(&self, name: &str) -> &'static str {
        match name {
            "model" => self.model,
            "region" => self.region,
            _ => self.user,
        }
    }
}

fn pick(rng: &mut StdRng, of: &[&'static str]) -> &'static str {
    of[rng.random_range(0..of.len())]
}

fn known(rng: &mut StdRng, id: String, start: DateTime<Utc>) -> Known {
    // Some at the same time, some on the edges of quarters.
    let at = match rng.random_range(0..4) {
        0 => start + TimeDelta::minutes(15 * rng.random_range(0..192)),
        1 => start + TimeDelta::hours(rng.random_range(0..48)),
        _ => start + TimeDelta::milliseconds(rng.random_range(0..48 * 3_600_000)),
    };
    Known {
        id,
        at,
        quantity: Decimal::new(rng.random_range(0..100_000), rng.random_range(0..5)),
        subject: pick(rng, &["", "ada", "bob", "eve"]),
        model: pick(rng, &["", "small", "large"]),
        region: pick(rng, &["", "eu", "us"]),
        user: pick(rng, &["", "1", "2", "3"]),
    }
}

fn to_proto(known: &Known, meter: &str) -> v1::UsageEvent {
    let given = [("model", known.model), ("region", known.region), ("user", known.user)];
    let fields = given
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), Value { kind: Some(Kind::StringValue(value.to_owned())) }));
    v1::UsageEvent {
        meter: meter.into(),
        quantity: known.quantity.to_string(),
        subject: known.subject.into(),
        properties: Some(Struct { fields: fields.collect() }),
        ..event(&known.id, known.at)
    }
}

/// The figure of events, as text.
fn figure(aggregation: Aggregation, events: &[&Known]) -> String {
    let quantities = || events.iter().map(|event| event.quantity);
    let text = |value: Option<Decimal>| value.map(|value| value.normalize().to_string()).unwrap_or_default();
    match aggregation {
        Aggregation::Count => events.len().to_string(),
        Aggregation::Sum => text(Some(quantities().sum())),
        Aggregation::Min => text(quantities().min()),
        Aggregation::Max => text(quantities().max()),
        Aggregation::Avg => {
            let average = quantities().sum::<Decimal>().checked_div(Decimal::from(events.len()));
            // As Postgres rounds: half away from zero.
            text(
                average
                    .map(|mean| mean.round_dp_with_strategy(9, rust_decimal::RoundingStrategy::MidpointAwayFromZero)),
            )
        }
        Aggregation::Latest => {
            let id = |event: &Known| tenancy::model::usage::EventId::read("id", &event.id).unwrap().uuid();
            text(events.iter().max_by_key(|event| (event.at, id(event))).map(|event| event.quantity))
        }
        Aggregation::UniqueCount => events.iter().map(|event| event.user).collect::<BTreeSet<_>>().len().to_string(),
        Aggregation::Unspecified => panic!("no aggregation"),
    }
}

/// A line of an answer: the total, its number of events, and the points by their start.
type Line = (String, i64, Vec<(i64, String, i64)>);

fn counted(aggregation: Aggregation, events: &[&Known], boundaries: &[DateTime<Utc>]) -> Line {
    let points = boundaries.windows(2).filter_map(|pair| {
        let within: Vec<&Known> =
            events.iter().copied().filter(|event| (pair[0]..pair[1]).contains(&event.at)).collect();
        let count = i64::try_from(within.len()).unwrap();
        (count > 0).then(|| (pair[0].timestamp_millis(), figure(aggregation, &within), count))
    });
    (figure(aggregation, events), i64::try_from(events.len()).unwrap(), points.collect())
}

fn line(total: String, event_count: i64, points: Vec<v1::UsagePoint>) -> Line {
    let points = points.into_iter().map(|point| {
        let start = point.start_time.unwrap();
        (start.seconds * 1000 + i64::from(start.nanos / 1_000_000), point.value, point.event_count)
    });
    (total, event_count, points.collect())
}

async fn create_meters(client: &Client) {
    for aggregation in AGGREGATIONS {
        let meter = v1::Meter {
            key: aggregation.as_str_name().to_lowercase(),
            display_name: "Any".into(),
            aggregation: aggregation.into(),
            group_by: vec!["model".into(), "region".into()],
            value_property: if aggregation == Aggregation::UniqueCount { "user".into() } else { String::new() },
            ..v1::Meter::default()
        };
        let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
        client.meters().create_meter(request).await.unwrap();
    }
}

/// Whether an event is what a query asks for, but for its time.
fn is_asked_for(query: &v1::QueryUsageRequest, event: &Known) -> bool {
    (query.subject.is_empty() || event.subject == query.subject)
        && (!query.group_by_subject || !event.subject.is_empty())
        && query
            .filters
            .iter()
            .all(|filter| filter.values.iter().any(|value| value == event.property(&filter.property)))
}

fn random_query(rng: &mut StdRng, aggregation: Aggregation, start: DateTime<Utc>) -> v1::QueryUsageRequest {
    let minute = |rng: &mut StdRng| TimeDelta::minutes(rng.random_range(0..49 * 60));
    // Half of the ranges are on quarters of an hour.
    let cut = |rng: &mut StdRng, at: DateTime<Utc>| if rng.random_bool(0.5) { quarter(at) } else { at };
    let (one, other) = (start + minute(rng), start + minute(rng));
    let (from, to) = (cut(rng, one.min(other)), cut(rng, one.max(other) + TimeDelta::milliseconds(16 * 60_000 + 7)));
    let bucket = [v1::UsageBucket::Minute, v1::UsageBucket::Hour, v1::UsageBucket::Day, v1::UsageBucket::Month];
    let group_by = [&[] as &[&str], &["model"], &["region"], &["region", "model"]];
    let subject = if rng.random_bool(0.3) { pick(rng, &["ada", "nobody"]) } else { "" };
    let mut filters = Vec::new();
    for property in ["model", "region", "user"] {
        if rng.random_bool(0.2) {
            let values = if rng.random_bool(0.5) { vec!["small", "us", "1"] } else { vec!["", "eu", "2"] };
            let values = values.into_iter().map(ToOwned::to_owned).collect();
            filters.push(v1::UsageFilter { property: property.into(), values });
        }
    }
    v1::QueryUsageRequest {
        meter: aggregation.as_str_name().to_lowercase(),
        start_time: Some(timestamp(from)),
        end_time: Some(timestamp(to)),
        bucket: bucket[rng.random_range(0..bucket.len())].into(),
        subject: subject.into(),
        time_zone: pick(rng, &["UTC", "Asia/Kathmandu", "America/St_Johns", "Asia/Kolkata", "Australia/Lord_Howe"])
            .into(),
        group_by: group_by[rng.random_range(0..group_by.len())].iter().map(ToString::to_string).collect(),
        group_by_subject: subject.is_empty() && rng.random_bool(0.3),
        filters,
        ..Default::default()
    }
}

/// The boundaries as the product cuts them; their own tests are where they are cut.
fn boundaries(query: &v1::QueryUsageRequest) -> Vec<DateTime<Utc>> {
    use tenancy::metering::buckets::{self, Unit};
    let unit = match query.bucket() {
        v1::UsageBucket::Minute => Unit::Minute,
        v1::UsageBucket::Hour => Unit::Hour,
        v1::UsageBucket::Day => Unit::Day,
        _ => Unit::Month,
    };
    let time = |at: Option<prost_types::Timestamp>| {
        let at = at.unwrap();
        DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).unwrap()).unwrap()
    };
    let zone = query.time_zone.parse().unwrap();
    buckets::boundaries(time(query.start_time), time(query.end_time), unit, zone, 10_000).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_equals_a_recount() {
    let world = World::start().await;
    let start = quarter(world.clock.now()) - TimeDelta::days(4);
    for seed in 0..3 {
        let client = world.tenant(&format!("seed-{seed}")).await.client;
        create_meters(&client).await;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut events: BTreeMap<usize, Vec<Known>> = BTreeMap::new();
        let mut sent = Vec::new();
        for number in 0..700 {
            let at = rng.random_range(0..AGGREGATIONS.len());
            let mut known = known(&mut rng, number.to_string(), start);
            if AGGREGATIONS[at] == Aggregation::UniqueCount && known.user.is_empty() {
                known.user = "1";
            }
            sent.push(to_proto(&known, &AGGREGATIONS[at].as_str_name().to_lowercase()));
            events.entry(at).or_default().push(known);
        }
        for batch in sent.chunks(100) {
            let found = fates(&client, batch.to_vec()).await;
            assert_eq!(found, ["RECORDED"; 100]);
        }
        assert_eq!(drift(&world.database).await, 0);
        for number in 0..60 {
            let at = number % AGGREGATIONS.len();
            let (aggregation, events) = (AGGREGATIONS[at], &events[&at]);
            let query = random_query(&mut rng, aggregation, start);
            let boundaries = boundaries(&query);
            let range = boundaries[0]..*boundaries.last().unwrap();
            let asked: Vec<&Known> =
                events.iter().filter(|event| range.contains(&event.at) && is_asked_for(&query, event)).collect();
            let key = |event: &Known| {
                let properties: Vec<&str> = query.group_by.iter().map(|name| event.property(name)).collect();
                (properties, if query.group_by_subject { event.subject } else { "" })
            };
            let keys: BTreeSet<_> = asked.iter().map(|event| key(event)).collect();
            let is_grouped = !query.group_by.is_empty() || query.group_by_subject;
            let expected: Vec<_> = keys
                .into_iter()
                .filter(|_| is_grouped)
                .map(|wanted| {
                    let of: Vec<&Known> = asked.iter().copied().filter(|event| key(event) == wanted).collect();
                    (wanted, counted(aggregation, &of, &boundaries))
                })
                .collect();

            let reply = client.usage().query_usage(query.clone()).await.unwrap().into_inner();
            let whole = line(reply.total, reply.event_count, reply.points);
            assert_eq!(whole, counted(aggregation, &asked, &boundaries), "seed {seed}: {query:?}");
            let groups: Vec<_> = reply
                .groups
                .iter()
                .map(|group| {
                    let properties: Vec<&str> = query.group_by.iter().map(|name| &*group.properties[name]).collect();
                    let points = group.points.clone();
                    ((properties, group.subject.as_str()), line(group.total.clone(), group.event_count, points))
                })
                .collect();
            assert_eq!(groups, expected, "seed {seed}: {query:?}");
        }
    }
}
