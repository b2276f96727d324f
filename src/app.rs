//! Composes pools, caches, services and workers; starts them in order and drains them in the reverse one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

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
use crate::quota::engine::Engine;
use crate::quota::policies::Policies;
use crate::repository::database::{Database, DatabaseOptions};
use crate::repository::migrate::{self, Unfit};
use crate::service::{self, Ingredients, Shared};
use crate::transport::admin::{self, Admin};
use crate::transport::layers::{self, LayerOptions};
use crate::transport::serve::{self, ConnectionOptions};
use crate::worker::changes::{Caches, Follower};
use crate::worker::upkeep::{self, UpkeepOptions};
use crate::worker::{health, last_used as last_uses};

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
    let database = Database::new(database, clock.clone());
    wait_until_fit(&database, config.startup_wait).await?;
    let upkeep_options = UpkeepOptions {
        accepted_age: calendar(config.usage_accepted_age),
        retention: calendar(config.usage_retention),
    };
    upkeep::ensure_partitions(&database, &clock, upkeep_options, config.startup_wait).await?;

    let directory = Arc::new(Directory::new(database.clone(), clock.clone(), config.cache_lifetime));
    let keys = key_cache(config)?;
    let authenticator = Arc::new(Authenticator::new(keys, Arc::clone(&directory), database.clone(), clock.clone()));
    let last_used = Arc::new(LastUsed::default());
    let shared = Shared { database: database.clone(), gate: Gate::new(Arc::clone(&directory)), clock: clock.clone() };
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let catalog = Arc::new(Catalog::new(database.clone(), clock.clone(), config.cache_lifetime));
    let (writer, writer_task) = Writer::new(database.clone(), clock.clone(), WriterOptions::default());
    let accepted = Accepted { age: calendar(config.usage_accepted_age), ahead: calendar(config.usage_accepted_ahead) };
    let recorder = Recorder::new(Arc::clone(&catalog), writer, clock.clone(), accepted);
    let policies = Policies::new(database.clone(), clock.clone(), Arc::clone(&catalog), config.cache_lifetime);
    let (engine, exchanger) = Engine::new(database.clone(), clock.clone(), policies, config.cache_lifetime);
    let ingredients = Ingredients {
        shared,
        authenticator: Arc::clone(&authenticator),
        last_used: Arc::clone(&last_used),
        catalog: Arc::clone(&catalog),
        recorder,
        engine: engine.clone(),
        usage_retention: upkeep_options.retention,
        purge_after: calendar(config.purge_after),
    };
    let routes = service::routes(ingredients, health_service).map_err(|error| AppError::Start(error.to_string()))?;
    let authenticate = Authenticate {
        authenticator: Arc::clone(&authenticator),
        last_used: Arc::clone(&last_used),
        clock: clock.clone(),
    };
    let layer_options = LayerOptions {
        longest_request: config.request_timeout,
        requests_in_flight: usize::try_from(config.requests_in_flight).unwrap_or(usize::MAX),
        streams: usize::try_from(config.streams).unwrap_or(usize::MAX),
    };
    let service = layers::around(routes, authenticate, layer_options, &clock);

    let grpc = serve::bind(config.listen).map_err(|source| AppError::Listen { address: config.listen, source })?;
    let admin_listener = TcpListener::bind(config.admin_listen)
        .await
        .map_err(|source| AppError::Listen { address: config.admin_listen, source })?;
    let address = |address: std::io::Result<SocketAddr>| address.map_err(|error| AppError::Start(error.to_string()));
    let (grpc_address, admin_address) = (address(grpc.local_addr())?, address(admin_listener.local_addr())?);

    let life = CancellationToken::new();
    let tokens = Tokens { draining: life.child_token(), workers: life.child_token(), ports: life.child_token() };
    let mut serving = Parts::default();
    let connections = ConnectionOptions {
        keepalive: config.keepalive,
        max_age: config.connection_age,
        grace: config.shutdown_grace,
        max_streams: config.streams_per_connection,
    };
    let threads = config.threads.map_or_else(cores, usize::from);
    for (number, thread) in serve::Threads::seats(threads).into_iter().enumerate() {
        let listener = grpc.try_clone().map_err(|error| AppError::Start(error.to_string()))?;
        serving.thread(number, serve::run(listener, thread, service.clone(), connections, tokens.draining.clone()))?;
    }
    drop(grpc);
    serving.spawn("health", health::run(reporter, database.clone(), tokens.draining.clone()));

    let mut workers = Parts::default();
    let caches = Arc::new(Caches { authenticator, directory, catalog, engine });
    // Weakly, as they hold the database that tells them.
    let told = Arc::downgrade(&caches);
    database.tell(move |change| told.upgrade().into_iter().for_each(|caches| caches.apply(change)));
    let token = tokens.workers.clone();
    workers.try_spawn("the usage writer", async move { writer_task.run(token).await.map_err(std::io::Error::other) });
    workers.spawn("quotas", exchanger.run(tokens.workers.clone()));
    let follower = Follower::new(database.clone(), clock.clone(), caches);
    workers.spawn("the change log's follower", follower.run(tokens.workers.clone()));
    let (job, token) = ((database.clone(), clock), tokens.workers.clone());
    workers.spawn("upkeep", async move { upkeep::run(&job.0, &job.1, upkeep_options, token).await });
    let (job, notes, token) = (database.clone(), Arc::clone(&last_used), tokens.workers.clone());
    workers.spawn("last uses", async move { last_uses::run(&notes, &job, token).await });

    let mut ports = Parts::default();
    let admin = Admin { database: database.clone(), draining: tokens.draining.clone(), metrics };
    let token = tokens.ports.clone();
    ports.try_spawn("the admin port", async move { admin::run(admin_listener, admin, token).await });

    let stop = CancellationToken::new();
    let supervisor = tokio::spawn(supervise(stop.clone(), tokens, [serving, workers, ports], database.clone()));
    Ok(Running {
        grpc: grpc_address,
        admin: admin_address,
        database,
        last_used,
        stop,
        supervisor,
        _life: life.drop_guard(),
    })
}

/// What is told to stop, one after the other.
struct Tokens {
    draining: CancellationToken,
    workers: CancellationToken,
    ports: CancellationToken,
}

/// Parts that run until they are told to stop, by name. A panic is an end like another, and seen.
#[derive(Default)]
struct Parts(JoinSet<(&'static str, Result<(), String>)>);

impl Parts {
    fn spawn(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            work.await;
            (part, Ok(()))
        });
    }

    fn try_spawn(&mut self, part: &'static str, work: impl Future<Output = std::io::Result<()>> + Send + 'static) {
        self.0.spawn(async move { (part, work.await.map_err(|error| error.to_string())) });
    }

    /// Runs the work on a thread with a runtime of its own: measured, an empty call costs half of what it does on the
    /// multi-threaded runtime, whose workers hand tasks to each other.
    fn thread(
        &mut self,
        number: usize,
        work: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) -> Result<(), AppError> {
        let start = |error: std::io::Error| AppError::Start(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("serve-{number}"))
            .spawn(move || {
                let _ = ended.send(runtime.block_on(work));
            })
            .map_err(start)?;
        self.try_spawn("a serving thread", async move {
            end.await.unwrap_or_else(|_| Err(std::io::Error::other("it panicked")))
        });
        Ok(())
    }

    /// The first part that ends although nobody told it to. A part that has ended well while draining counts too.
    async fn first_end(&mut self) -> AppError {
        match self.0.join_next().await {
            Some(ended) => AppError::from_end(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits for all; the first failure counts.
    async fn all(&mut self) -> Result<(), AppError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.0.join_next().await {
            if !matches!(ended, Ok((_, Ok(())))) && outcome.is_ok() {
                outcome = Err(AppError::from_end(ended));
            }
        }
        outcome
    }
}

impl AppError {
    fn from_end(ended: Result<(&'static str, Result<(), String>), JoinError>) -> Self {
        match ended {
            Ok((part, Ok(()))) => Self::Stopped { part, why: "it ended".into() },
            Ok((part, Err(why))) => Self::Stopped { part, why },
            Err(error) => Self::Stopped { part: "a part", why: error.to_string() },
        }
    }
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
