//! `cargo bench --bench query`: how long a query of usage takes with many events stored, over gRPC.
//!
//! A month by day, of a tenant at random: from aggregates alone, and with raw events at the end of a range that ends now.
//! First with 100 tenants and 10 million events of the last month, then with ten times the tenants beside them, which have
//! as many events again. The rows are put into the tables as the writer would have left them, by SQL.

mod support;

use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use prost_types::Timestamp;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tenancy::proto::v1;
use tenancy::proto::v1::meter_service_client::MeterServiceClient;
use tenancy::proto::v1::usage_service_client::UsageServiceClient;
use tonic::transport::Channel;

use crate::support::Failure;
use crate::support::cpu::threads;
use crate::support::load::{Outcome, Pace, Work, run};
use crate::support::report;
use crate::support::server::{Server, keyed};

const EVENTS: usize = 10_000_000;
const DAYS: i64 = 30;
/// How many tenants there are in all, and how many of them query: the same ones, at both stages.
const STAGES: [usize; 2] = [100, 1000];
const QUERYING: usize = 100;
const CONNECTIONS: u32 = 4;
const ROUND: Duration = Duration::from_secs(8);

fn main() -> Result<(), Failure> {
    let (server, superuser) = Server::start(&[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&server, superuser))?;
    drop(runtime);
    server.stop()
}

/// What is asked: a month by day.
#[derive(Clone, Copy)]
enum Case {
    /// Up to the last quarter of an hour.
    Aggregates,
    /// Up to now.
    Edges,
}

const CASES: [(Case, &str); 2] = [(Case::Aggregates, "aggregates alone"), (Case::Edges, "up to now: raw events too")];

/// The processor time of the serving threads so far.
fn serving() -> Duration {
    (0..report::cores()).filter_map(|number| threads(&format!("serve-{number}"))).sum()
}

struct Asker {
    usage: UsageServiceClient<Channel>,
    operator: String,
    organizations: Vec<String>,
    next: usize,
    start: DateTime<Utc>,
    case: Case,
    clock: tenancy::clock::Clock,
}

impl Work for Asker {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        // A step that is prime to their number comes past all of them.
        self.next = (self.next + 37) % self.organizations.len();
        let end = match self.case {
            Case::Aggregates => self.start + TimeDelta::days(DAYS),
            Case::Edges => self.clock.now(),
        };
        let request = v1::QueryUsageRequest {
            organization_id: self.organizations[self.next].clone(),
            meter: "calls".into(),
            start_time: Some(timestamp(self.start)),
            end_time: Some(timestamp(end)),
            bucket: v1::UsageBucket::Day.into(),
            time_zone: "Europe/Rome".into(),
            ..Default::default()
        };
        let reply = self.usage.query_usage(keyed(request, &self.operator)?).await?.into_inner();
        if reply.event_count == 0 || reply.points.len() < usize::try_from(DAYS)? {
            return Err(format!("{} events in {} points", reply.event_count, reply.points.len()).into());
        }
        Ok(Some(1))
    }
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default() }
}

async fn measure(server: &Server, superuser: PgConnectOptions) -> Result<(), Failure> {
    let superuser = PgPool::connect_with(superuser).await?;
    let meter = v1::Meter {
        key: "calls".into(),
        display_name: "Calls".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    let mut meters = MeterServiceClient::new(server.connect().await?);
    let created = meters.create_meter(keyed(request, &server.operator)?).await?.into_inner().meter.unwrap_or_default();
    let start = server.clock.now().duration_trunc(TimeDelta::minutes(15))? - TimeDelta::days(DAYS);

    let mut organizations = Vec::new();
    let mut found = Vec::new();
    for tenants in STAGES {
        let before = organizations.len();
        for number in before..tenants {
            organizations.push(server.tenant(&format!("tenant-{number}"), &["usage.read"]).await?.0);
        }
        fill(&superuser, &organizations[before..], &created.meter_id, start).await?;
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.usage_events").fetch_one(&superuser).await?;
        println!("{tenants} tenants, {stored} events stored");
        for (case, name) in CASES {
            // As fast as it goes, which also makes plans and reads pages; then moderately, since what is measured is the
            // query and not a queue before it.
            let mut fastest = 0.0;
            for pace in [Pace::Closed, Pace::Every(Duration::from_millis(40))] {
                let mut askers = Vec::new();
                for connection in 0..CONNECTIONS {
                    askers.push(Asker {
                        usage: UsageServiceClient::new(server.connect().await?),
                        operator: server.operator.clone(),
                        organizations: organizations[..QUERYING].to_vec(),
                        next: usize::try_from(connection)? * 7,
                        start,
                        case,
                        clock: server.clock.clone(),
                    });
                }
                let before = serving();
                let outcome = run(&server.clock, askers, pace, ROUND).await?;
                match pace {
                    Pace::Closed => fastest = outcome.rate(),
                    Pace::Every(_) => {
                        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
                        let served_us =
                            serving().saturating_sub(before).as_secs_f64() * 1e6 / outcome.done.max(1) as f64;
                        found.push(Found { tenants, stored, name, fastest, served_us, outcome });
                    }
                }
            }
        }
    }
    superuser.close().await;
    tell(&found)
}

/// Events of these tenants over the whole month, in the order of time as they would have come, and their aggregates.
async fn fill(
    superuser: &PgPool,
    organizations: &[String],
    meter_id: &str,
    start: DateTime<Utc>,
) -> Result<(), Failure> {
    let tenants = i64::try_from(organizations.len())?;
    let each_day = i64::try_from(EVENTS)? / tenants / DAYS;
    for day in 0..DAYS {
        sqlx::query(
            "INSERT INTO tenancy.usage_events
                 (organization_id, occurred_at, event_id, meter_id, quantity, recorded_at)
             SELECT o::uuid, at, gen_random_uuid(), $2::uuid, 1.5, at
             FROM generate_series(0, $4 - 1) AS n
             CROSS JOIN LATERAL date_trunc('milliseconds', $3 + n * (interval '1 day' / $4)) AS at
             CROSS JOIN unnest($1) AS o",
        )
        .bind(organizations)
        .bind(meter_id)
        .bind(start + TimeDelta::days(day))
        .bind(each_day)
        .execute(superuser)
        .await?;
    }
    sqlx::query(
        "INSERT INTO tenancy.usage_aggregates
             (organization_id, meter_id, series_id, bucket_start, event_count, quantity_sum)
         SELECT organization_id, meter_id, '00000000-0000-0000-0000-000000000000',
             date_bin('15 minutes', occurred_at, 'epoch') AS bucket, count(*), sum(quantity)
         FROM tenancy.usage_events WHERE organization_id = ANY ($1::text[]::uuid[]) GROUP BY 1, 2, 4",
    )
    .bind(organizations)
    .execute(superuser)
    .await?;
    sqlx::query(
        "INSERT INTO tenancy.usage_hours (organization_id, meter_id, series_id, bucket_start, event_count, quantity_sum)
         SELECT organization_id, meter_id, series_id, date_bin('1 hour', bucket_start, 'epoch') AS bucket, sum(event_count),
             sum(quantity_sum)
         FROM tenancy.usage_aggregates WHERE organization_id = ANY ($1::text[]::uuid[]) GROUP BY 1, 2, 3, 4
         ORDER BY bucket, organization_id",
    )
    .bind(organizations)
    .execute(superuser)
    .await?;
    // As autovacuum does in time.
    sqlx::query("VACUUM ANALYZE tenancy.usage_events, tenancy.usage_aggregates, tenancy.usage_hours")
        .execute(superuser)
        .await?;
    Ok(())
}

/// What was measured.
struct Found {
    tenants: usize,
    stored: i64,
    name: &'static str,
    /// Queries a second, when nothing waits.
    fastest: f64,
    /// Processor time of the serving threads a query, in microseconds.
    served_us: f64,
    /// At a moderate pace.
    outcome: Outcome,
}

fn tell(found: &[Found]) -> Result<(), Failure> {
    let row = |Found { tenants, stored, name, fastest, served_us, outcome }: &Found| {
        let name = format!("a month by day, {name}");
        let mut row = vec![name, tenants.to_string(), stored.to_string(), format!("{fastest:.0}")];
        row.push(format!("{served_us:.0}"));
        row.extend([500, 990, 999].map(|per_mille| format!("{:.2}", outcome.latency_ms(per_mille))));
        row
    };
    println!("\n{} cores; load, service and Postgres on them", report::cores());
    let header = ["", "tenants", "events stored", "queries/s at most", "server us", "p50 ms", "p99 ms", "p999 ms"];
    report::table(&header, &found.iter().map(row).collect::<Vec<_>>());
    let case = |Found { tenants, stored, name, fastest, served_us, outcome }: &Found| {
        json!({
            "case": name, "tenants": tenants, "events_stored": stored, "queries_per_second": fastest, "server_cpu_us": served_us,
            "p50_ms": outcome.latency_ms(500), "p99_ms": outcome.latency_ms(990), "p999_ms": outcome.latency_ms(999),
        })
    };
    report::json("query", &json!({ "cores": report::cores(), "cases": found.iter().map(case).collect::<Vec<_>>() }))
}
