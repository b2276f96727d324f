//! `cargo bench --bench usage [-- <part of a case's name>]`: how fast usage is recorded, beside what Postgres itself can
//! do, in one run on one machine.
//!
//! - (a) `COPY` of the same rows into the same table with its primary key, by one connection: the limit. No aggregates.
//! - (b) `RecordUsage` over gRPC, with its aggregates and its dedupe: batches of 1, 100 and 1000 events on 1 to 64
//!   connections, one request at a time each, and single events by 8 at a time each, as a channel has that is shared.
//! - (c) `StreamUsage`, one stream a connection, with up to 16 messages at a time not acknowledged.
//! - (d) a prepared `INSERT` a transaction on 32 connections, no aggregates: what a naive service does at its best. And the
//!   same behind a gRPC call: what it does for those who call it.
//! - (e) latency at half of the load that (b) reached, counted from when each request was due, after some seconds of that
//!   load; and whether the memory of the process stays as it is. The same of COPY with a transaction for as many rows, and of
//!   (d): what Postgres alone does at half of what it can. Beside each a control: how late the machine alone makes a sleep, and
//!   the sync of a page, what of its processors is idle, and what its host took.
//!
//! Disks differ from minute to minute, so only ratios within one run mean anything: (a) and (d) are measured before and
//! after the rest, and their mean counts. Everything runs in this process, so the load costs the service some of the
//! processor: its client is a lean one, on a thread of its own, and the table tells what every part took per event.

mod support;

#[path = "usage/control.rs"]
mod control;
#[path = "usage/grpc.rs"]
mod grpc;
#[path = "usage/naive.rs"]
mod naive;
#[path = "usage/processes.rs"]
mod processes;
#[path = "usage/tell.rs"]
mod tell;
#[path = "usage/work.rs"]
mod work;

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tenancy::proto::v1;
use tenancy::proto::v1::meter_service_client::MeterServiceClient;

use crate::control::{Control, Seen};
use crate::grpc::Method;
use crate::processes::{PARTS, resident_mb, spent_by_part};
use crate::support::Failure;
use crate::support::latencies::Latencies;
use crate::support::load::{Outcome, Pace, Work, run};
use crate::support::server::{Server, keyed};
use crate::work::{Alone, Batches, By, Producer, Rows, Streamer, TenantIds, copy};

const TENANTS: usize = 16;
const COPIED: u64 = 100_000;
/// What is measured at full load, and whether at half of it too.
const CASES: &[(Case, bool)] = &[
    (Case { events: 1, connections: 1, streams: 1 }, false),
    (Case { events: 1, connections: 8, streams: 1 }, false),
    (Case { events: 1, connections: 64, streams: 1 }, true),
    (Case { events: 1, connections: 64, streams: 8 }, true),
    (Case { events: 1, connections: 64, streams: 32 }, false),
    (Case { events: 1, connections: 64, streams: 64 }, false),
    (Case { events: 100, connections: 1, streams: 1 }, false),
    (Case { events: 100, connections: 8, streams: 1 }, true),
    (Case { events: 100, connections: 64, streams: 1 }, false),
    (Case { events: 1000, connections: 1, streams: 1 }, false),
    (Case { events: 1000, connections: 4, streams: 1 }, false),
    (Case { events: 1000, connections: 16, streams: 1 }, true),
    (Case { events: 1000, connections: 64, streams: 1 }, false),
];
/// What is streamed: `streams` are messages that wait for their acknowledgement.
const STREAMED: &[Case] = &[
    Case { events: 1, connections: 64, streams: 16 },
    Case { events: 100, connections: 8, streams: 8 },
    Case { events: 1000, connections: 1, streams: 8 },
    Case { events: 1000, connections: 4, streams: 4 },
    Case { events: 1000, connections: 16, streams: 4 },
];
const NAIVE_CONNECTIONS: u32 = 32;
const NAIVE: Case = Case { events: 1, connections: NAIVE_CONNECTIONS as u64, streams: 1 };
/// What is measured without a service at half of its load too.
const ALONE: &[(By, Case)] = &[(By::Insert, NAIVE), (By::Copy, Case { events: 1000, connections: 16, streams: 1 })];
/// How the naive service is called: as many at once as it needs.
const NAIVE_CALLS: Case = Case { events: 1, connections: 64, streams: 8 };
/// How long a round at full load takes.
const ROUND: Duration = Duration::from_secs(4);
/// How long half of it goes on before it is measured: what full load left to write out is not its.
const SETTLE: Duration = Duration::from_secs(6);
/// How long one at half load: a stall of 100 ms, which this machine has now and then, is less than a hundredth of it.
const HALF_ROUND: Duration = Duration::from_mins(1);
/// Half of the load comes from so many times the callers, each as much more seldom: who waits for an answer is no reason for
/// another to be sent late, as it would be where one of few callers had to come back first.
const CALLERS: u64 = 4;

/// Events of a request, connections, and requests at a time on each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    events: u64,
    connections: u64,
    streams: u64,
}

impl Case {
    fn name(self) -> String {
        let Self { events, connections, streams } = self;
        format!("{events} x {connections} x {streams}")
    }
}

/// A case as it went.
#[derive(Debug)]
pub struct Measured {
    case: Case,
    outcome: Outcome,
    /// The processor time that each part took for an event, in microseconds.
    micros: [f64; PARTS.len()],
    /// The memory of the process before and after, in megabytes.
    resident: [f64; 2],
    /// What the machine alone did meanwhile, at half load.
    control: Option<Seen>,
}

/// A tenant's organization, meter and key.
struct Tenant {
    ids: TenantIds,
    key: String,
}

/// The benchmark at work.
struct Bench<'a> {
    server: &'a Server,
    superuser: PgPool,
    naive_service: SocketAddr,
    tenants: Vec<Tenant>,
    base: DateTime<Utc>,
    /// How many rounds there were: each has ids and an hour of its own.
    rounds: u64,
}

fn main() -> Result<(), Failure> {
    let (server, superuser) = Server::start(&[])?;
    // The load has one thread, as much as it needs.
    let load = || -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(&server, superuser))
    };
    let measured = std::thread::scope(|scope| {
        let load = std::thread::Builder::new().name("load".into()).spawn_scoped(scope, load)?;
        load.join().unwrap_or_else(|_| Err("the load panicked".into()))
    });
    server.stop()?;
    measured
}

async fn measure(server: &Server, postgres: PgConnectOptions) -> Result<(), Failure> {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let superuser = PgPoolOptions::new()
        .min_connections(NAIVE_CONNECTIONS)
        .max_connections(NAIVE_CONNECTIONS * u32::try_from(CALLERS)?)
        .connect_with(postgres.clone())
        .await?;
    let mut tenants = Vec::new();
    for number in 0..TENANTS {
        tenants.push(tenant(server, &format!("tenant-{number}")).await?);
    }
    let base = server.clock.now() - TimeDelta::days(3);
    let meters = tenants.iter().map(|tenant| (tenant.ids.organization, tenant.ids.meter)).collect();
    let naive_service = naive::serve(postgres, NAIVE_CONNECTIONS, meters).await?;
    let mut bench = Bench { server, superuser, naive_service, tenants, base, rounds: 0 };

    // Once for nothing: pools fill, files grow.
    bench.copy().await?;
    let mut limits = vec![bench.copy().await?];
    let mut naive = vec![bench.alone(By::Insert, NAIVE, Pace::Closed, ROUND).await?.outcome];
    let mut naive_called = vec![bench.naive_calls().await?];
    let (mut recorded, mut halved, mut settled) = (Vec::new(), Vec::new(), 0);
    for &(case, at_half) in CASES.iter().filter(|(case, _)| case.name().contains(&wanted)) {
        let full = bench.record(case, Pace::Closed, ROUND).await?;
        println!("{}: {:.0} events/s", case.name(), full.outcome.rate());
        if at_half {
            let (callers, pace) = half_of(&full);
            settled += bench.record(callers, pace, SETTLE).await?.outcome.done;
            halved.push(Measured { case, ..bench.record(callers, pace, HALF_ROUND).await? });
        }
        recorded.push(full);
    }
    let mut streamed = Vec::new();
    for &case in STREAMED.iter().filter(|case| case.name().contains(&wanted)) {
        let full = bench.stream(case).await?;
        println!("streamed, {}: {:.0} events/s", case.name(), full.outcome.rate());
        streamed.push(full);
    }
    let mut alone = Vec::new();
    for &(by, case) in ALONE.iter().filter(|(_, case)| case.name().contains(&wanted)) {
        let full = bench.alone(by, case, Pace::Closed, ROUND).await?;
        println!("{by:?} alone, {}: {:.0} events/s", case.name(), full.outcome.rate());
        let (callers, pace) = half_of(&full);
        bench.alone(by, callers, pace, SETTLE).await?;
        alone.push(Measured { case, ..bench.alone(by, callers, pace, HALF_ROUND).await? });
    }
    limits.push(bench.copy().await?);
    naive.push(bench.alone(By::Insert, NAIVE, Pace::Closed, ROUND).await?.outcome);
    naive_called.push(bench.naive_calls().await?);
    let measured = recorded.iter().chain(&halved).chain(&streamed);
    bench.check(settled + measured.map(|measured| measured.outcome.done).sum::<u64>()).await?;
    bench.superuser.close().await;
    tell::tell(
        &limits,
        &naive,
        &naive_called,
        &[
            ("(b) RecordUsage", &recorded),
            ("(c) StreamUsage", &streamed),
            ("(e) at half load", &halved),
            ("(e) Postgres alone at half of its", &alone),
        ],
    )
}

/// Half of a load: from whom, and at which pace.
fn half_of(full: &Measured) -> (Case, Pace) {
    let Case { events, connections, streams } = full.case;
    let callers = Case { streams: streams * CALLERS, ..full.case };
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let at_once = (events * connections * callers.streams) as f64;
    (callers, Pace::Every(Duration::from_secs_f64(2.0 * at_once / full.outcome.rate())))
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
    Ok(Tenant { ids: TenantIds { organization: organization_id.parse()?, meter: meter_id.parse()? }, key })
}

impl Bench<'_> {
    /// The rows of a new round.
    fn rows(&mut self) -> Rows {
        self.rounds += 1;
        Rows { round: self.rounds, base: self.base }
    }

    fn tenant_of(&self, number: u64) -> &Tenant {
        &self.tenants[usize::try_from(number).unwrap_or_default() % TENANTS]
    }

    /// (a)
    async fn copy(&mut self) -> Result<Outcome, Failure> {
        let (rows, mut lines) = (self.rows(), String::new());
        for number in 0..COPIED {
            rows.copied(number, self.tenant_of(number).ids, &mut lines);
        }
        let mut connection = self.superuser.acquire().await?;
        let began = self.server.clock.instant();
        let done = copy(&mut connection, &lines).await?;
        Ok(Outcome::new(done, self.server.clock.instant() - began, Latencies::default()))
    }

    /// (d), and (a) in small transactions.
    async fn alone(&mut self, by: By, case: Case, pace: Pace, time: Duration) -> Result<Measured, Failure> {
        let (rows, mut all) = (self.rows(), Vec::new());
        // A connection of Postgres does one thing at a time.
        let connections = case.connections * case.streams;
        for place in 0..connections {
            let connection = self.superuser.acquire().await?;
            let next = place * case.events..(place + 1) * case.events;
            all.push(Alone {
                connection,
                by,
                rows,
                tenant: self.tenant_of(place).ids,
                next,
                step: connections * case.events,
            });
        }
        self.measured(case, all, pace, time).await
    }

    /// (d), called.
    async fn naive_calls(&mut self) -> Result<Outcome, Failure> {
        let all = self.producers(NAIVE_CALLS, self.naive_service, |tenant| tenant.ids.organization.to_string()).await?;
        run(&self.server.clock, all, Pace::Closed, ROUND).await
    }

    /// (b) and (e)
    async fn record(&mut self, case: Case, pace: Pace, time: Duration) -> Result<Measured, Failure> {
        let all = self.producers(case, self.server.running.grpc, |_| String::new()).await?;
        self.measured(case, all, pace, time).await
    }

    /// Those who call `RecordUsage` there.
    async fn producers(
        &mut self,
        case: Case,
        address: SocketAddr,
        named: fn(&Tenant) -> String,
    ) -> Result<Vec<Producer>, Failure> {
        let rows = self.rows();
        let producers = case.connections * case.streams;
        let mut connected = Vec::new();
        for place in 0..case.connections {
            let tenant = self.tenant_of(place);
            let path = "/tenancy.v1.UsageService/RecordUsage";
            connected.push((Method::connect(address, path, &tenant.key).await?, named(tenant)));
        }
        // Those who come one after the other are of several connections and tenants, as they are for COPY alone.
        let callers = (0..producers).zip(connected.iter().cycle());
        let all = callers.map(|(place, (method, organization_id))| Producer {
            method: method.clone(),
            organization_id: organization_id.clone(),
            batches: Batches::new(rows, (place, producers), case.events),
        });
        Ok(all.collect())
    }

    /// (c)
    async fn stream(&mut self, case: Case) -> Result<Measured, Failure> {
        let rows = self.rows();
        let mut all = Vec::new();
        for place in 0..case.connections {
            let key = &self.tenant_of(place).key;
            let path = "/tenancy.v1.UsageService/StreamUsage";
            let stream = Method::connect(self.server.running.grpc, path, key).await?.open();
            let batches = Batches::new(rows, (place, case.connections), case.events);
            all.push(Streamer { stream, batches, window: case.streams, sent: 0, acknowledged: 0 });
        }
        self.measured(case, all, Pace::Closed, ROUND).await
    }

    /// Runs the work, and looks at what it cost.
    async fn measured<W: Work>(
        &self,
        case: Case,
        work: Vec<W>,
        pace: Pace,
        time: Duration,
    ) -> Result<Measured, Failure> {
        let (spent, resident) = (spent_by_part(), resident_mb().unwrap_or_default());
        let control = match pace {
            Pace::Closed => None,
            Pace::Every(_) => Some(Control::start(&self.server.clock)?),
        };
        let outcome = run(&self.server.clock, work, pace, time).await?;
        let control = control.map(|control| control.stop(&self.server.clock)).transpose()?;
        let mut micros = [0.0; PARTS.len()];
        for ((micros, before), after) in micros.iter_mut().zip(spent).zip(spent_by_part()) {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let events = outcome.done.max(1) as f64;
            *micros = after.saturating_sub(before).as_secs_f64() * 1e6 / events;
        }
        Ok(Measured { case, outcome, micros, resident: [resident, resident_mb().unwrap_or_default()], control })
    }

    /// What was acknowledged is in the aggregates, once: by the quarter of an hour, and by the hour.
    async fn check(&self, acknowledged: u64) -> Result<(), Failure> {
        for sum in [
            "SELECT sum(event_count)::bigint FROM tenancy.usage_aggregates",
            "SELECT sum(event_count)::bigint FROM tenancy.usage_hours",
        ] {
            let counted: i64 = sqlx::query_scalar(sum).fetch_one(&self.superuser).await?;
            if u64::try_from(counted)? != acknowledged {
                return Err(format!("{acknowledged} events were acknowledged, {counted} were counted: {sum}").into());
            }
        }
        Ok(())
    }
}
