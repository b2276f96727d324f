//! Composes pools, caches, services and workers; starts them in order and drains them in the reverse one.

mod issuing;
mod parts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::app::parts::Parts;
use crate::auth::authenticator::Authenticator;
use crate::auth::directory::Directory;
use crate::auth::gate::Gate;
use crate::auth::keys::argon_pool::{ArgonPool, ArgonPoolConfig};
use crate::auth::keys::cache::{KeyCache, KeyCacheConfig};
use crate::auth::keys::stored_hash::HashCost;
use crate::auth::last_used::LastUsed;
use crate::auth::layer::Authenticate;
use crate::clock::Clock;
use crate::config::{ServeConfig, calendar};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::recorder::{Accepted, Recorder};
use crate::metering::writer::{Writer, WriterOptions};
use crate::quota::decisions::Decisions;
use crate::quota::engine::Engine;
use crate::quota::policies::Policies;
use crate::quota::rules::Rules;
use crate::repository::allowance::Allowance;
use crate::repository::database::{Database, DatabaseOptions};
use crate::repository::migrate::{self, Unfit};
use crate::service::{self, Ingredients, Shared};
use crate::sidecar;
use crate::sidecar::access_log::Deliveries;
use crate::sidecar::pending::Pending;
use crate::transport::admin::{self, Admin};
use crate::transport::layers::{self, LayerOptions};
use crate::transport::middleware::Next;
use crate::transport::serve::{self, ConnectionOptions};
use crate::transport::tls::{Tls, TlsError, TlsFiles};
use crate::worker::changes::{Caches, Follower};
use crate::worker::token_keys;
use crate::worker::upkeep::{self, UpkeepOptions};
use crate::worker::{health, histograms, last_used as last_uses};

/// Why the service did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database, or how it is logged in to, is not fit.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Something could not be read or written.
    #[error(transparent)]
    Repository(#[from] Error),
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A thread or a generator that the system refused, or argon2 parameters that are out of range.
    #[error("cannot start: {0}")]
    Start(String),
    /// Certificates that are not there, or not good.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A part ended that should have gone on.
    #[error("{part} stopped by itself: {why}")]
    Stopped {
        /// Which part.
        part: &'static str,
        /// What is known.
        why: String,
    },
}

/// A running service.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served; useful when port 0 was asked for.
    pub grpc: SocketAddr,
    /// Where the admin port is.
    pub admin: SocketAddr,
    /// The database that it works with.
    pub database: Database,
    /// The uses of keys that are not written yet.
    pub last_used: Arc<LastUsed>,
    /// The requests of sidecars whose access log has not come.
    pub pending: Pending,
    stop: CancellationToken,
    supervisor: JoinHandle<Result<(), AppError>>,
    /// Ends the serving threads, which no runtime takes down with it, when this is dropped without a stop.
    _life: DropGuard,
}

impl Running {
    /// Asks the service to drain and stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the service has stopped, because it was asked to or because a part of it failed.
    pub async fn ended(&mut self) -> Result<(), AppError> {
        match (&mut self.supervisor).await {
            Ok(outcome) => outcome,
            Err(error) => Err(AppError::Stopped { part: "the supervisor", why: error.to_string() }),
        }
    }
}

/// Starts the service; returns once it serves.
pub async fn start(
    config: &ServeConfig,
    database: DatabaseOptions,
    clock: Clock,
    metrics: PrometheusHandle,
) -> Result<Running, AppError> {
    let (tls, certificates) = tls_files(config).map(TlsFiles::open).transpose()?.unzip();
    let database = Database::new(database, clock.clone());
    wait_until_fit(&database, config.startup_wait).await?;
    let upkeep_options =
        UpkeepOptions { accepted_age: accepted(config).age, retention: calendar(config.usage_retention) };
    upkeep::ensure_partitions(&database, &clock, upkeep_options, config.startup_wait).await?;

    let directory = Arc::new(Directory::new(database.clone(), clock.clone(), config.cache_lifetime));
    let keys = key_cache(config)?;
    let (issuing, key_options) = issuing::compose(config, &database, &clock).await?;
    let known = Arc::clone(&directory);
    let authenticator =
        Arc::new(Authenticator::new(keys, Arc::clone(&issuing), known, database.clone(), clock.clone()));
    let last_used = Arc::new(LastUsed::default());
    let gate = Gate::new(Arc::clone(&directory), Arc::clone(&last_used), clock.clone());
    let shared = Shared { database: database.clone(), gate, clock: clock.clone() };
    let catalog = Arc::new(Catalog::new(database.clone(), clock.clone(), config.cache_lifetime));
    let (writer, writer_task) = Writer::new(database.clone(), clock.clone(), WriterOptions::default());
    let recorder = Recorder::new(Arc::clone(&catalog), writer, clock.clone(), accepted(config));
    let policies = Policies::new(database.clone(), clock.clone(), Arc::clone(&catalog), config.cache_lifetime);
    let (engine, exchanger) = Engine::new(database.clone(), clock.clone(), policies, config.cache_lifetime);
    let decisions = Decisions::new(engine.clone(), clock.clone());
    let pending = Pending::new(recorder.clone(), clock.clone());
    let deliveries = Deliveries::new(config.access_log_patience);
    let rules = Arc::new(Rules::new(database.clone(), clock.clone(), config.cache_lifetime));
    let sidecars = sidecar::Ingredients {
        shared: shared.clone(),
        authenticator: Arc::clone(&authenticator),
        last_used: Arc::clone(&last_used),
        decisions: decisions.clone(),
        recorder: recorder.clone(),
        credential_headers: config.sidecar_credential_headers.clone().into(),
        pending: pending.clone(),
        deliveries: deliveries.clone(),
        rules: Arc::clone(&rules),
    };
    let ingredients = Ingredients {
        shared,
        authenticator: Arc::clone(&authenticator),
        last_used: Arc::clone(&last_used),
        catalog: Arc::clone(&catalog),
        recorder,
        decisions: decisions.clone(),
        usage_retention: upkeep_options.retention,
        purge_after: calendar(config.purge_after),
        organizations: Allowance::organizations(config.organizations_per_hour),
        invitations: Allowance::invitations(config.invitations_per_hour),
    };
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let mut services =
        service::services(ingredients, health_service).map_err(|error| AppError::Start(error.to_string()))?;
    sidecar::mount(&mut services, sidecars);
    let authenticate = Authenticate {
        authenticator: Arc::clone(&authenticator),
        last_used: Arc::clone(&last_used),
        workloads: config.sidecar_spiffe_ids.clone(),
        clock: clock.clone(),
    };
    let service = layers::around(services.dispatch(), authenticate, layer_options(config), &clock);

    let Bound { grpc, grpc_address, admin: admin_listener, admin_address } = bind(config).await?;

    let life = CancellationToken::new();
    let tokens = Tokens { draining: life.child_token(), workers: life.child_token(), ports: life.child_token() };
    let mut serving = serve_on_threads(config, &grpc, tls.as_ref(), (&service, &clock), &tokens.draining)?;
    drop(grpc);
    if let Some(certificates) = certificates {
        serving.spawn("the certificates' follower", certificates.run(tokens.draining.clone()));
    }
    // Before the workers end, who write what they record.
    serving.spawn("access logs", deliveries.run(tokens.draining.clone(), config.shutdown_grace));
    serving.spawn("health", health::run(reporter, database.clone(), tokens.draining.clone()));

    let mut workers = Parts::default();
    let caches = Arc::new(Caches { authenticator, directory, catalog, engine, rules });
    // Weakly, as they hold the database that tells them.
    let told = Arc::downgrade(&caches);
    database.tell(move |change| told.upgrade().into_iter().for_each(|caches| caches.apply(change)));
    let token = tokens.workers.clone();
    workers.try_spawn("the usage writer", async move { writer_task.run(token).await.map_err(std::io::Error::other) });
    workers.spawn("pending access logs", pending.clone().run(tokens.workers.clone()));
    workers.spawn("quotas", exchanger.run(tokens.workers.clone()));
    let follower = Follower::new(database.clone(), clock.clone(), caches);
    workers.spawn("the change log's follower", follower.run(tokens.workers.clone()));
    let (job, token) = ((database.clone(), clock.clone()), tokens.workers.clone());
    workers.spawn("upkeep", async move { upkeep::run(&job.0, &job.1, upkeep_options, token).await });
    if let Some(options) = key_options {
        let (job, token) = ((database.clone(), clock), tokens.workers.clone());
        workers.spawn("keys for tokens", async move { token_keys::run(&job.0, &job.1, &options, token).await });
    }
    let (job, notes, token) = (database.clone(), Arc::clone(&last_used), tokens.workers.clone());
    workers.spawn("last uses", async move { last_uses::run(&notes, &job, token).await });
    let (told, token) = (metrics.clone(), tokens.workers.clone());
    workers.spawn("histograms", async move { histograms::run(&told, token).await });

    let mut ports = Parts::default();
    let admin = Admin { database: database.clone(), draining: tokens.draining.clone(), metrics, tokens: issuing };
    ports.try_spawn("the admin port", admin::run(admin_listener, admin, tokens.ports.clone()));

    let stop = CancellationToken::new();
    let supervisor = tokio::spawn(supervise(stop.clone(), tokens, [serving, workers, ports], database.clone()));
    let (grpc, admin) = (grpc_address, admin_address);
    Ok(Running { grpc, admin, database, last_used, pending, stop, supervisor, _life: life.drop_guard() })
}

/// The threads that serve gRPC, each with a clone of the socket.
fn serve_on_threads(
    config: &ServeConfig,
    grpc: &std::net::TcpListener,
    tls: Option<&Tls>,
    (service, clock): (&impl Next, &Clock),
    draining: &CancellationToken,
) -> Result<Parts, AppError> {
    let mut serving = Parts::default();
    let threads = config.threads.map_or_else(cores, usize::from);
    for (number, thread) in serve::Threads::seats(threads).into_iter().enumerate() {
        let listener = grpc.try_clone().map_err(|error| AppError::Start(error.to_string()))?;
        let options = connection_options(config, tls.cloned(), clock);
        serving.thread(number, serve::run(listener, thread, service.clone(), options, draining.clone()))?;
    }
    Ok(serving)
}

fn accepted(config: &ServeConfig) -> Accepted {
    Accepted { age: calendar(config.usage_accepted_age), ahead: calendar(config.usage_accepted_ahead) }
}

fn layer_options(config: &ServeConfig) -> LayerOptions {
    LayerOptions {
        longest_request: config.request_timeout,
        requests_in_flight: usize::try_from(config.requests_in_flight).unwrap_or(usize::MAX),
        streams: usize::try_from(config.streams).unwrap_or(usize::MAX),
    }
}

fn connection_options(config: &ServeConfig, tls: Option<Tls>, clock: &Clock) -> ConnectionOptions {
    ConnectionOptions {
        clock: clock.clone(),
        keepalive: config.keepalive,
        max_age: config.connection_age,
        grace: config.shutdown_grace,
        max_streams: config.streams_per_connection,
        tls,
    }
}

/// Where the certificates are; `None`: gRPC is served in clear.
fn tls_files(config: &ServeConfig) -> Option<TlsFiles> {
    let (certificate, key) = config.tls_certificate.clone().zip(config.tls_key.clone())?;
    Some(TlsFiles { certificate, key, client_ca: config.tls_client_ca.clone() })
}

/// The sockets, and where they are.
struct Bound {
    grpc: std::net::TcpListener,
    grpc_address: SocketAddr,
    admin: TcpListener,
    admin_address: SocketAddr,
}

async fn bind(config: &ServeConfig) -> Result<Bound, AppError> {
    let grpc = serve::bind(config.listen).map_err(|source| AppError::Listen { address: config.listen, source })?;
    let admin = TcpListener::bind(config.admin_listen)
        .await
        .map_err(|source| AppError::Listen { address: config.admin_listen, source })?;
    let address = |address: std::io::Result<SocketAddr>| address.map_err(|error| AppError::Start(error.to_string()));
    let (grpc_address, admin_address) = (address(grpc.local_addr())?, address(admin.local_addr())?);
    Ok(Bound { grpc, grpc_address, admin, admin_address })
}

/// What is told to stop, one after the other.
struct Tokens {
    draining: CancellationToken,
    workers: CancellationToken,
    ports: CancellationToken,
}

/// Waits for `stop` or for a part that fails, then ends everything in order: requests first, then the workers whose
/// results they wait for, then the ports that tell how it goes, then the pools.
async fn supervise(
    stop: CancellationToken,
    tokens: Tokens,
    [mut serving, mut workers, mut ports]: [Parts; 3],
    database: Database,
) -> Result<(), AppError> {
    let mut outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = serving.first_end() => Err(error),
        error = workers.first_end() => Err(error),
        error = ports.first_end() => Err(error),
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "stopping");
    }
    for (token, parts) in [(tokens.draining, &mut serving), (tokens.workers, &mut workers), (tokens.ports, &mut ports)]
    {
        token.cancel();
        let ended = parts.all().await;
        outcome = outcome.and(ended);
    }
    database.close().await;
    outcome
}

/// A database that is not there yet is waited for; one that is not fit is not.
async fn wait_until_fit(database: &Database, wait: Duration) -> Result<(), AppError> {
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        match migrate::check_fitness(database).await {
            Err(Unfit::Database(error @ Error::Unavailable { .. })) if tokio::time::Instant::now() < deadline => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

fn key_cache(config: &ServeConfig) -> Result<KeyCache<crate::auth::authenticator::KeyFacts, Error>, AppError> {
    let start = |error: &dyn std::fmt::Display| AppError::Start(error.to_string());
    let defaults = ArgonPoolConfig::default();
    let pool = ArgonPool::start(ArgonPoolConfig {
        cost: HashCost::new(config.argon2_memory_kib, config.argon2_passes, 1).map_err(|error| start(&error))?,
        threads: config
            .argon2_threads
            .and_then(|threads| std::num::NonZeroUsize::new(threads.into()))
            .unwrap_or(defaults.threads),
        ..defaults
    })
    .map_err(|error| start(&error))?;
    let cache = KeyCacheConfig { record_lifetime: config.cache_lifetime, ..KeyCacheConfig::default() };
    KeyCache::new(cache, Arc::new(pool), &mut rand::rngs::SysRng).map_err(|error| start(&error))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
