//! `cargo bench --bench verify`: what the verification of a warm key costs beside a call that does nothing, in one run,
//! with the same client, connections and streams.
//!
//! - bare: `grpc.health.v1.Health/Check` of tonic's own server, without a layer: the floor of the protocol.
//! - floor: the same call through the service and all of its layers.
//! - verify: `VerifyApiKey` by an operator, of 100 keys in turn, all seen before: two verifications a call,
//!   since the caller presents a key too.
//!
//! Every server has one thread, so a rate is that of a core, and the load has another. Rounds alternate, and the median
//! of each counts; latencies are those at half of that load. Where Linux tells, the processor time of the serving thread is given too: it does not depend on what
//! else the machine does.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tenancy::proto::v1;
use tenancy::proto::v1::api_key_service_client::ApiKeyServiceClient;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::Failure;
use crate::support::cpu;
use crate::support::load::{Outcome, Pace, Work, run};
use crate::support::report;
use crate::support::server::{Server, keyed};

const CONNECTIONS: usize = 8;
const STREAMS: usize = 16;
const KEYS: usize = 100;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);

/// One of the things that are compared, and the thread that serves it.
const KINDS: [(&str, &str); 3] = [
    ("bare tonic, Health/Check", "bare"),
    ("floor: Health/Check through all layers", "serve-0"),
    ("VerifyApiKey, warm", "serve-0"),
];

fn main() -> Result<(), Failure> {
    let bare = bare()?;
    let (server, _) = Server::start(&["--threads", "1"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&server, bare))?;
    drop(runtime);
    server.stop()
}

/// tonic's server on a thread of its own, until the process ends.
fn bare() -> Result<SocketAddr, Failure> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("bare".into()).spawn(move || {
        runtime.block_on(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener)?).with_nodelay(Some(true));
            let (_reporter, health) = tonic_health::server::health_reporter();
            tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming).await?;
            Ok::<_, Failure>(())
        })
    })?;
    Ok(address)
}

/// One stream of calls.
enum Caller {
    Health(HealthClient<Channel>),
    Verify { client: ApiKeyServiceClient<Channel>, caller: String, keys: Vec<String>, next: usize },
}

impl Work for Caller {
    async fn next(&mut self) -> Result<Option<u64>, Failure> {
        match self {
            Self::Health(client) => {
                client.check(HealthCheckRequest::default()).await?;
            }
            Self::Verify { client, caller, keys, next } => {
                *next = (*next + 1) % keys.len();
                let request = v1::VerifyApiKeyRequest { api_key: keys[*next].clone(), ..Default::default() };
                let reply = client.verify_api_key(keyed(request, caller)?).await?.into_inner();
                if reply.code() != v1::VerificationCode::Valid {
                    return Err(format!("not valid: {reply:?}").into());
                }
            }
        }
        Ok(Some(1))
    }
}

async fn measure(server: &Server, bare: SocketAddr) -> Result<(), Failure> {
    let mut keys = Vec::new();
    for number in 0..KEYS {
        keys.push(server.tenant(&format!("tenant-{number}"), &["usage.write"]).await?.1);
    }
    let endpoint = Endpoint::from_shared(format!("http://{bare}"))?.tcp_nodelay(true);
    let mut bares = Vec::new();
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        bares.push(endpoint.connect().await?);
        channels.push(server.connect().await?);
    }
    let callers = |kind: usize| -> Vec<Caller> {
        let channel = |stream: usize| [&bares, &channels][kind.min(1)][stream % CONNECTIONS].clone();
        let caller = |stream: usize| match kind {
            2 => Caller::Verify {
                client: ApiKeyServiceClient::new(channel(stream)),
                caller: server.operator.clone(),
                keys: keys.clone(),
                next: stream,
            },
            _ => Caller::Health(HealthClient::new(channel(stream))),
        };
        (0..CONNECTIONS * STREAMS).map(caller).collect()
    };
    // Once for nothing: every key is verified, every buffer has its size.
    for kind in 0..KINDS.len() {
        run(&server.clock, callers(kind), Pace::Closed, ROUND / 3).await?;
    }
    let mut outcomes: [Vec<(Outcome, Option<f64>)>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (kind, outcomes) in outcomes.iter_mut().enumerate() {
            let before = cpu::threads(KINDS[kind].1);
            let outcome = run(&server.clock, callers(kind), Pace::Closed, ROUND).await?;
            let spent = before.zip(cpu::threads(KINDS[kind].1)).map(|(before, after)| after.saturating_sub(before));
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let micros = spent.map(|spent| spent.as_secs_f64() * 1e6 / outcome.done.max(1) as f64);
            outcomes.push((outcome, micros));
        }
    }
    let outcomes = outcomes.map(median);
    let mut halved = Vec::new();
    for (kind, (outcome, _)) in outcomes.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let interval = Duration::from_secs_f64(2.0 * (CONNECTIONS * STREAMS) as f64 / outcome.rate());
        halved.push(run(&server.clock, callers(kind), Pace::Every(interval), ROUND).await?);
    }
    tell(&outcomes, &halved)
}

/// The outcome in the middle.
fn median(mut outcomes: Vec<(Outcome, Option<f64>)>) -> (Outcome, Option<f64>) {
    outcomes.sort_by(|a, b| a.0.rate().total_cmp(&b.0.rate()));
    outcomes.swap_remove(outcomes.len() / 2)
}

fn tell(outcomes: &[(Outcome, Option<f64>); 3], halved: &[Outcome]) -> Result<(), Failure> {
    let floor = outcomes[1].0.rate();
    let mut rows = Vec::new();
    let mut cases = Vec::new();
    for (((name, _), (outcome, micros)), half) in KINDS.iter().zip(outcomes).zip(halved) {
        let [p50, p99, p999] = [500, 990, 999].map(|per_mille| half.latency_ms(per_mille));
        let mut row =
            vec![(*name).to_owned(), format!("{:.0}", outcome.rate()), format!("{:.2}", outcome.rate() / floor)];
        row.push(micros.map_or("-".into(), |micros| format!("{micros:.1}")));
        row.extend([p50, p99, p999].map(|latency| format!("{latency:.2}")));
        rows.push(row);
        cases.push(json!({
            "name": name, "requests_per_second": outcome.rate(), "of_floor": outcome.rate() / floor,
            "server_cpu_us": micros, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999,
        }));
    }
    println!("\n{} cores, one of them serves; {CONNECTIONS} connections of {STREAMS} streams each", report::cores());
    report::table(&["", "requests/s", "of floor", "server us", "p50 ms", "p99 ms", "p999 ms"], &rows);
    report::json("verify", &json!({ "cores": report::cores(), "cases": cases }))
}
