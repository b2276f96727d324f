//! `cargo bench --bench usage`: how fast usage is recorded, beside what Postgres itself can do, in one run on one machine.
//!
//! - (a) `COPY` of the same rows into the same table with its primary key, by one connection: the limit. No aggregates.
//! - (b) `RecordUsage` over gRPC, with its aggregates and its dedupe: batches of 1, 100 and 1000 events on 1 to 64
//!   connections, one request at a time each.
//! - (d) an `INSERT` a transaction on 32 connections, no aggregates: what a naive service does at its best.
//! - (e) latency at half of the load that (b) reached.
//!
//! Disks differ from minute to minute, so only ratios within one run mean anything: (a) and (d) are measured before and
//! after the rest, and their mean counts. Everything runs in this process, so the load costs the service some of the
//! processor.

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tenancy::proto::v1;
use tenancy::proto::v1::meter_service_client::MeterServiceClient;
use tenancy::proto::v1::usage_service_client::UsageServiceClient;
use tonic::transport::Channel;

use crate::support::Failure;
use crate::support::load::{Outcome, Pace, Work, run};
use crate::support::report;
use crate::support::server::{Server, keyed};

const TENANTS: usize = 16;
const COPIED: u64 = 100_000;
/// Events of a request, connections, the most events of the round.
const CASES: &[(u64, u64, u64)] = &[
    (1, 1, 20_000),
    (1, 8, 40_000),
    (1, 64, 60_000),
    (100, 1, 100_000),
    (100, 8, 150_000),
    (100, 64, 150_000),
    (1000, 1, 150_000),
    (1000, 4, 200_000),
    (1000, 16, 200_000),
    (1000, 64, 256_000),
];
const NAIVE_CONNECTIONS: u32 = 32;
/// The most time of one round.
const ROUND: Duration = Duration::from_secs(4);

/// A tenant's organization, key and meter.
struct Tenant {
    organization_id: String,
    key: String,
    meter_id: String,
}

/// The benchmark at work.
struct Bench {
    server: Server,
    superuser: PgPool,
    tenants: Vec<Tenant>,
    base: DateTime<Utc>,
    /// How many rounds there were: each has ids and an hour of its own.
    rounds: u64,
}

fn main() -> Result<(), Failure> {
    let (server, superuser) = Server::start(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = runtime.block_on(measure(server, superuser))?;
    drop(runtime);
    server.stop()
}

async fn measure(server: Server, superuser: PgConnectOptions) -> Result<Server, Failure> {
    let superuser = PgPoolOptions::new()
        .min_connections(NAIVE_CONNECTIONS)
        .max_connections(NAIVE_CONNECTIONS)
        .connect_with(superuser)
        .await?;
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        tenants.push(tenant(&server, &format!("tenant-{number}")).await?);
    }
    let base = server.clock.now() - TimeDelta::days(2);
    let mut bench = Bench { server, superuser, tenants, base, rounds: 0 };

    // Once for nothing: pools fill, files grow.
    bench.copy().await?;
    let mut limits = vec![bench.copy().await?];
    let mut naive = vec![bench.naive().await?];
    let mut recorded = Vec::new();
    for &(size, connections, most) in CASES {
        let outcome = bench.record(size, connections, most, Pace::Closed).await?;
        println!("{size} x {connections}: {:.0} events/s", outcome.rate());
        recorded.push((size, connections, outcome));
    }
    let mut halved = Vec::new();
    for (size, connections) in [(1, 64), (100, 8), (1000, 16)] {
        let full = recorded.iter().find(|case| (case.0, case.1) == (size, connections)).ok_or("no such case")?;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let interval = Duration::from_secs_f64(2.0 * (size * connections) as f64 / full.2.rate());
        let outcome = bench.record(size, connections, u64::MAX, Pace::Every(interval)).await?;
        halved.push((size, connections, outcome));
    }
    limits.push(bench.copy().await?);
    naive.push(bench.naive().await?);
    bench.check(recorded.iter().chain(&halved).map(|case| case.2.done).sum()).await?;
    tell(&limits, &naive, &recorded, &halved)?;
    bench.superuser.close().await;
    Ok(bench.server)
}

async fn tenant(server: &Server, slug: &str) -> Result<Tenant, Failure> {
    let (organization_id, key) = server.tenant(slug, &["meters.create", "usage.write"]).await?;
    let meter = v1::Meter {
        key: "calls".into(),
        display_name: "Calls".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    let created = MeterServiceClient::new(server.connect().await?).create_meter(keyed(request, &key)?).await?;
    let meter_id = created.into_inner().meter.unwrap_or_default().meter_id;
    Ok(Tenant { organization_id, key, meter_id })
}

/// A request a time over a connection of its own.
struct Producer {
    usage: UsageServiceClient<Channel>,
    requests: std::vec::IntoIter<tonic::Request<v1::RecordUsageRequest>>,
}

impl Work for Producer {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        let Some(request) = self.requests.next() else { return Ok(None) };
        let results = self.usage.record_usage(request).await?.into_inner().results;
        match results.iter().find(|result| result.status() != v1::UsageEventStatus::Recorded) {
            Some(result) => Err(format!("not recorded: {result:?}").into()),
            None => Ok(Some(u64::try_from(results.len())?)),
        }
    }
}

/// A row a transaction.
struct Inserter {
    pool: PgPool,
    rows: std::vec::IntoIter<(uuid::Uuid, DateTime<Utc>, uuid::Uuid, uuid::Uuid)>,
}

impl Work for Inserter {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        let Some((organization_id, occurred_at, event_id, meter_id)) = self.rows.next() else { return Ok(None) };
        sqlx::query("INSERT INTO tenancy.usage_events VALUES ($1, $2, $3, $4, 1.5, $2)")
            .bind(organization_id)
            .bind(occurred_at)
            .bind(event_id)
            .bind(meter_id)
            .execute(&self.pool)
            .await?;
        Ok(Some(1))
    }
}

impl Bench {
    /// The id and time of a row of this round: ids scattered as those of producers, none twice; times ascending.
    fn row(&self, number: u64) -> (uuid::Uuid, DateTime<Utc>) {
        let seed = (self.rounds << 40) + number;
        let high = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let id =
            uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(seed)).to_be_bytes()).into_uuid();
        let hours = TimeDelta::hours(i64::try_from(self.rounds).unwrap_or_default());
        (id, self.base + hours + TimeDelta::milliseconds(i64::try_from(number).unwrap_or_default()))
    }

    fn tenant_of(&self, number: u64) -> &Tenant {
        &self.tenants[usize::try_from(number).unwrap_or_default() % TENANTS]
    }

    /// (a)
    async fn copy(&mut self) -> Result<Outcome, Failure> {
        self.rounds += 1;
        let mut rows = String::new();
        for number in 0..COPIED {
            let (id, at) = self.row(number);
            let Tenant { organization_id, meter_id, .. } = self.tenant_of(number);
            let at = at.to_rfc3339();
            writeln!(rows, "{organization_id}\t{at}\t{id}\t{meter_id}\t1.5\t{at}\t\t\\N\t\\N")?;
        }
        let mut connection = self.superuser.acquire().await?;
        let began = self.server.clock.instant();
        let mut copy = connection.copy_in_raw("COPY tenancy.usage_events FROM STDIN").await?;
        copy.send(rows.as_bytes()).await?;
        let done = copy.finish().await?;
        Ok(Outcome::new(done, self.server.clock.instant() - began, Vec::new()))
    }

    /// (d)
    async fn naive(&mut self) -> Result<Outcome, Failure> {
        self.rounds += 1;
        let mut inserters = Vec::new();
        for connection in 0..u64::from(NAIVE_CONNECTIONS) {
            let mut rows = Vec::new();
            for number in 0..4000 {
                let number = number * u64::from(NAIVE_CONNECTIONS) + connection;
                let (id, at) = self.row(number);
                let tenant = self.tenant_of(number);
                rows.push((tenant.organization_id.parse()?, at, id, tenant.meter_id.parse()?));
            }
            inserters.push(Inserter { pool: self.superuser.clone(), rows: rows.into_iter() });
        }
        run(&self.server.clock, inserters, Pace::Closed, ROUND).await
    }

    /// (b) and (e): so many events a request on so many connections, and about so many events at most.
    async fn record(&mut self, size: u64, connections: u64, most: u64, pace: Pace) -> Result<Outcome, Failure> {
        self.rounds += 1;
        let requests = match pace {
            Pace::Closed => most / size / connections,
            Pace::Every(interval) => u64::try_from(ROUND.as_nanos() / interval.as_nanos().max(1))? + 2,
        };
        let mut producers = Vec::new();
        for connection in 0..connections {
            let tenant = self.tenant_of(connection);
            let requests = (0..requests).map(|request| {
                let events = (0..size).map(|event| {
                    let (id, at) = self.row((request * connections + connection) * size + event);
                    v1::UsageEvent {
                        event_id: id.to_string(),
                        meter: "calls".into(),
                        quantity: "1.5".into(),
                        occurred_at: Some(prost_types::Timestamp {
                            seconds: at.timestamp(),
                            nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default(),
                        }),
                        ..v1::UsageEvent::default()
                    }
                });
                keyed(v1::RecordUsageRequest { events: events.collect(), ..Default::default() }, &tenant.key)
            });
            let requests = requests.collect::<Result<Vec<_>, _>>()?.into_iter();
            producers.push(Producer { usage: UsageServiceClient::new(self.server.connect().await?), requests });
        }
        run(&self.server.clock, producers, pace, ROUND).await
    }

    /// What was acknowledged is in the aggregates, once.
    async fn check(&self, acknowledged: u64) -> Result<(), Failure> {
        let counted: i64 = sqlx::query_scalar("SELECT sum(event_count)::bigint FROM tenancy.usage_aggregates")
            .fetch_one(&self.superuser)
            .await?;
        if u64::try_from(counted)? != acknowledged {
            return Err(format!("{acknowledged} events were acknowledged, {counted} were counted").into());
        }
        Ok(())
    }
}

type Case = (u64, u64, Outcome);

fn tell(limits: &[Outcome], naive: &[Outcome], recorded: &[Case], halved: &[Case]) -> Result<(), Failure> {
    let rates = |outcomes: &[Outcome]| outcomes.iter().map(Outcome::rate).collect::<Vec<f64>>();
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / f64::from(u32::try_from(rates.len()).unwrap_or(1));
    let (limit_rates, naive_rates) = (rates(limits), rates(naive));
    let (limit, single) = (mean(&limit_rates), mean(&naive_rates));
    let row = |name: String, rate: f64, latency: Option<&Outcome>| {
        let latency = |per_mille| latency.map_or("-".into(), |outcome| format!("{:.2}", outcome.latency_ms(per_mille)));
        let figures = [format!("{rate:.0}"), format!("{:.2}", rate / limit), format!("{:.2}", rate / single)];
        [vec![name], figures.to_vec(), vec![latency(500), latency(990), latency(999)]].concat()
    };
    let mut rows = vec![
        row("(a) COPY, 1 connection, no aggregates".into(), limit, None),
        row("(d) INSERT a transaction, 32 connections, no aggregates".into(), single, naive.last()),
    ];
    for (size, connections, outcome) in recorded {
        let name = format!("(b) RecordUsage, batches of {size}, {connections} connections");
        rows.push(row(name, outcome.rate(), Some(outcome)));
    }
    for (size, connections, outcome) in halved {
        let name = format!("(e) the same at half load, batches of {size}, {connections} connections");
        rows.push(row(name, outcome.rate(), Some(outcome)));
    }
    println!("\n{} cores, {TENANTS} tenants; load and service in one process", report::cores());
    report::table(&["", "events/s", "of (a)", "of (d)", "p50 ms", "p99 ms", "p999 ms"], &rows);
    let case = |(size, connections, outcome): &Case| -> Value {
        json!({
            "batch": size, "connections": connections, "events_per_second": outcome.rate(),
            "of_copy": outcome.rate() / limit, "of_naive": outcome.rate() / single,
            "p50_ms": outcome.latency_ms(500), "p99_ms": outcome.latency_ms(990), "p999_ms": outcome.latency_ms(999),
        })
    };
    let report = json!({
        "cores": report::cores(), "tenants": TENANTS,
        "copy_events_per_second": limit_rates, "naive_events_per_second": naive_rates,
        "record": recorded.iter().map(case).collect::<Vec<_>>(),
        "half_load": halved.iter().map(case).collect::<Vec<_>>(),
    });
    report::json("usage", &report)
}
