//! Voids beside everything else: in any order with records and duplicates, and at the same time from two replicas.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use tenancy::model::usage::{hour, quarter, whole_milliseconds};
use tenancy::proto::v1;
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Client, Cloned, World, refused};
use crate::usage::support::{KINDS, create_meters_of_every_kind, drift, event, fates, model, stored, void};

const SUBJECTS: [&str; 3] = ["ada", "grace", "eve"];
const GROUPS: [&str; 2] = ["x", "y"];

fn seed() -> u64 {
    let seed = std::env::var("TENANCY_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("TENANCY_TEST_SEED={seed}");
    seed
}

/// What a test sends, and can count by itself.
#[derive(Clone, PartialEq, Debug)]
struct Sent {
    id: Uuid,
    at: DateTime<Utc>,
    kind: &'static str,
    subject: &'static str,
    group: &'static str,
    quantity: Decimal,
}

impl Sent {
    fn random(rng: &mut StdRng, base: DateTime<Utc>, seconds: i64) -> Self {
        let kind = KINDS.choose(rng).unwrap().0;
        // The meter of distinct subjects wants one.
        let subjects = if kind == "unique_count" { &SUBJECTS[..] } else { &["", "ada", "grace"] };
        Self {
            id: Uuid::from_u128(rng.random()),
            at: base + TimeDelta::seconds(rng.random_range(0..seconds)),
            kind,
            subject: subjects.choose(rng).unwrap(),
            group: GROUPS.choose(rng).unwrap(),
            quantity: Decimal::new(rng.random_range(0..100), 1).normalize(),
        }
    }

    fn event(&self) -> v1::UsageEvent {
        v1::UsageEvent {
            meter: self.kind.into(),
            quantity: self.quantity.to_string(),
            subject: self.subject.into(),
            properties: model(self.group),
            ..event(&self.id.to_string(), self.at)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voids_on_two_replicas_beside_ingest_in_one_quarter() {
    voids_beside_ingest(TimeDelta::zero()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voids_on_two_replicas_beside_ingest_in_the_quarters_of_one_hour() {
    voids_beside_ingest(TimeDelta::minutes(15)).await;
}

/// Each of four producers records and voids so much later than the one before it, all of them within an hour.
async fn voids_beside_ingest(apart: TimeDelta) {
    let seed = seed();
    let world = World::start().await;
    let other = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let clients = [tenant.client.clone(), other.client(&tenant.key)];
    create_meters_of_every_kind(&clients[0]).await;
    // One hour, so that all meet in the same rows.
    let base = hour(world.clock.now()) - TimeDelta::hours(1);
    let producers: Vec<_> = (0..4_u8)
        .map(|number| {
            let (clients, mut rng) = (clients.clone(), StdRng::seed_from_u64(seed.wrapping_add(number.into())));
            let base = base + apart * number.into();
            tokio::spawn(async move {
                let (mut voided, mut recorded) = (HashSet::new(), 0);
                for _ in 0..25 {
                    let sent: Vec<Sent> =
                        (0..rng.random_range(1..20)).map(|_| Sent::random(&mut rng, base, 900)).collect();
                    let client = clients.choose(&mut rng).unwrap();
                    let told = fates(client, sent.iter().map(Sent::event).collect()).await;
                    assert!(told.iter().all(|fate| fate == "RECORDED"), "{told:?}");
                    recorded += sent.len();
                    let victims: Vec<&Sent> = sent.iter().filter(|_| rng.random_range(0..4) == 0).collect();
                    // Each from both replicas at once, some of them while they are sent again.
                    let voids = victims.iter().flat_map(|sent| clients.iter().map(move |client| (client, sent)));
                    let voids =
                        voids.map(async |(client, sent)| void(client, &sent.id.to_string(), sent.at).await.unwrap());
                    let again = fates(client, sent.iter().map(Sent::event).collect());
                    let (replies, again) = tokio::join!(futures_util::future::join_all(voids), again);
                    assert!(replies.chunks(2).all(|pair| pair[0] == pair[1]), "one void, seen by both");
                    assert!(again.iter().all(|fate| fate == "DUPLICATE"), "{again:?}");
                    voided.extend(victims.iter().map(|sent| sent.id));
                }
                (voided, recorded)
            })
        })
        .collect();
    let (mut voided, mut recorded) = (0, 0);
    for producer in producers {
        let (voids, events) = producer.await.unwrap();
        voided += voids.len();
        recorded += events;
    }
    assert!(voided > 50, "{voided}");
    let count = async |sql: &'static str| -> usize {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&world.database.superuser).await.unwrap();
        usize::try_from(count).unwrap()
    };
    assert_eq!(usize::try_from(stored(&world.database).await).unwrap(), recorded, "seed {seed}");
    assert_eq!(count("SELECT count(*) FROM tenancy.usage_voids").await, voided);
    let audited = count("SELECT count(*) FROM tenancy.audit_events WHERE action = 'usage_events.void'").await;
    assert_eq!(audited, voided, "each once");
    let whole = "SELECT sum(event_count)::bigint FROM tenancy.usage_aggregates
                 WHERE series_id = '00000000-0000-0000-0000-000000000000'";
    assert_eq!(count(whole).await, recorded - voided, "seed {seed}");
    assert_eq!(drift(&world.database).await, 0, "seed {seed}");
}

/// A row of the figures, by names: meter, subject, group, quarter of an hour.
type Place = (String, String, Vec<String>, i64);
/// Number, sum, least, greatest, latest, and how many distinct values; empty for what the meter does not ask for.
type Figures = (i64, [String; 5]);

/// What memory says the tables must hold.
fn expected(events: &BTreeMap<(DateTime<Utc>, Uuid), (Sent, bool)>) -> BTreeMap<Place, Figures> {
    let mut places: BTreeMap<Place, Vec<&Sent>> = BTreeMap::new();
    for (sent, _) in events.values().filter(|(_, voided)| !voided) {
        let group = vec![sent.group.to_owned()];
        let mut names = vec![(String::new(), vec![]), (String::new(), group.clone())];
        if !sent.subject.is_empty() {
            names.push((sent.subject.to_owned(), group));
        }
        for (subject, groups) in names {
            let place = (sent.kind.to_owned(), subject, groups, quarter(sent.at).timestamp());
            places.entry(place).or_default().push(sent);
        }
    }
    let figures = |kind: &str, all: Vec<&Sent>| -> Figures {
        let quantities = || all.iter().map(|sent| sent.quantity);
        let only = |of: &str, value: Option<Decimal>| {
            value.filter(|_| kind == of).map(|value| value.normalize().to_string()).unwrap_or_default()
        };
        let values: BTreeSet<&str> = all.iter().map(|sent| sent.subject).collect();
        let sum = quantities().sum::<Decimal>().normalize().to_string();
        let latest = all.iter().max_by_key(|sent| (sent.at, sent.id)).map(|sent| sent.quantity);
        let unique = if kind == "unique_count" { values.len().to_string() } else { String::new() };
        let number = i64::try_from(all.len()).unwrap();
        (
            number,
            [sum, only("min", quantities().min()), only("max", quantities().max()), only("latest", latest), unique],
        )
    };
    places.into_iter().map(|(place, all)| (place.clone(), figures(&place.0, all))).collect()
}

async fn found(database: &Cloned) -> BTreeMap<Place, Figures> {
    type Row = (String, String, Vec<String>, i64, i64, Vec<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT m.key, coalesce(s.subject, ''), coalesce(s.group_values, '{}'),
             extract(epoch FROM a.bucket_start)::bigint, a.event_count,
             ARRAY[trim_scale(a.quantity_sum)::text, coalesce(trim_scale(a.quantity_min)::text, ''),
                 coalesce(trim_scale(a.quantity_max)::text, ''), coalesce(trim_scale(a.latest_quantity)::text, ''),
                 coalesce((SELECT nullif(count(*), 0)::text FROM tenancy.usage_unique_values u
                     WHERE (u.organization_id, u.meter_id, u.series_id, u.bucket_start)
                         = (a.organization_id, a.meter_id, a.series_id, a.bucket_start)), '')]
         FROM tenancy.usage_aggregates a JOIN tenancy.meters m USING (organization_id, meter_id)
         LEFT JOIN tenancy.usage_series s USING (organization_id, meter_id, series_id)",
    )
    .fetch_all(&database.superuser)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(key, subject, groups, bucket, count, figures)| {
            ((key, subject, groups, bucket), (count, figures.try_into().unwrap()))
        })
        .collect()
}

/// Sends events anew, again, or with another payload; returns the fates that memory expects.
fn remember(events: &mut BTreeMap<(DateTime<Utc>, Uuid), (Sent, bool)>, sent: &[Sent]) -> Vec<&'static str> {
    sent.iter()
        .map(|sent| match events.get(&(sent.at, sent.id)) {
            Some((stored, _)) if stored == sent => "DUPLICATE",
            Some(_) => "CONFLICT",
            None => {
                events.insert((sent.at, sent.id), (sent.clone(), false));
                "RECORDED"
            }
        })
        .collect()
}

async fn check(client: &Client, sent: &[Sent], expected: Vec<&'static str>, seed: u64) {
    let told = fates(client, sent.iter().map(Sent::event).collect()).await;
    assert_eq!(told, expected, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_of_records_duplicates_and_voids_is_what_memory_says() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meters_of_every_kind(&client).await;
    let base = whole_milliseconds(quarter(world.clock.now()) - TimeDelta::hours(2));
    let mut events = BTreeMap::new();
    for step in 0..300 {
        let known: Vec<Sent> = events.values().map(|(sent, _): &(Sent, bool)| sent.clone()).collect();
        match rng.random_range(0..10) {
            // Many at the same second, so that identities decide which is the latest.
            0..3 => {
                let sent: Vec<_> = (0..rng.random_range(1..12)).map(|_| Sent::random(&mut rng, base, 1000)).collect();
                let expected = remember(&mut events, &sent);
                check(&client, &sent, expected, seed).await;
            }
            3 | 4 if !known.is_empty() => {
                let sent: Vec<_> = (0..rng.random_range(1..6))
                    .map(|_| {
                        let mut sent = known.choose(&mut rng).unwrap().clone();
                        sent.quantity += Decimal::from(rng.random_range(0..2));
                        sent
                    })
                    .collect();
                let expected = remember(&mut events, &sent);
                check(&client, &sent, expected, seed).await;
            }
            5.. if !known.is_empty() => {
                let sent = known.choose(&mut rng).unwrap();
                void(&client, &sent.id.to_string(), sent.at).await.unwrap();
                events.get_mut(&(sent.at, sent.id)).unwrap().1 = true;
            }
            _ => {
                let refusal = refused(void(&client, &Uuid::from_u128(rng.random()).to_string(), base).await);
                assert!(refusal.is(Code::NotFound, "USAGE_EVENT_NOT_FOUND"), "{refusal:?}");
            }
        }
        if step % 10 == 9 {
            assert_eq!(found(&world.database).await, expected(&events), "seed {seed}, step {step}");
        }
    }
    assert_eq!(drift(&world.database).await, 0, "seed {seed}");
    let voided = events.values().filter(|(_, voided)| *voided).count();
    assert!(voided > 60 && events.len() > voided, "{voided} of {}", events.len());
}
