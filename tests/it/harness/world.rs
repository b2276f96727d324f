//! A running service on a database of its own.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use clap::Parser as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tenancy::app::{self, Running};
use tenancy::auth::permission::Permission;
use tenancy::cli::{Cli, Command, operator};
use tenancy::clock::Clock;
use tenancy::config::ServeConfig;
use tenancy::repository::database::{Database, DatabaseOptions};
use tenancy::telemetry;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Client, Cloned, Tenant, clone_template};

/// A running service.
#[derive(Debug)]
pub struct World {
    /// The service.
    pub running: Running,
    /// Its database.
    pub database: Cloned,
    /// Its time, which a test can advance.
    pub clock: Clock,
    channel: Channel,
    operator_key: String,
}

impl World {
    /// Starts a service on a new database.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::on(clone_template().await, flags).await
    }

    /// Starts another replica on a database that is there.
    pub async fn on(database: Cloned, flags: &[&str]) -> Self {
        Self::after(database, Duration::ZERO, flags).await
    }

    /// Starts another replica whose clock is ahead, as after a time without service.
    pub async fn after(database: Cloned, ahead: Duration, flags: &[&str]) -> Self {
        let clock = Clock::adjustable();
        clock.advance(ahead);
        let options = options(&database);
        let running = app::start(&config(flags), options, clock.clone(), metrics()).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc)).unwrap();
        let channel = endpoint.connect_lazy();
        let operator_key = platform_key(&running.database, &clock, &[]).await;
        Self { running, database, clock, channel, operator_key }
    }

    /// A client without a key.
    pub fn anonymous(&self) -> Client {
        Client::new(self.channel.clone())
    }

    /// A client with a key.
    pub fn client(&self, key: &str) -> Client {
        self.anonymous().key(key)
    }

    /// An operator's key.
    pub fn operator_key(&self) -> &str {
        &self.operator_key
    }

    /// A client with an operator's key.
    pub fn operator(&self) -> Client {
        self.client(&self.operator_key)
    }

    /// A client with a service key of these permissions, for all organizations or for those given.
    pub async fn service(&self, permissions: &[Permission], organizations: &[&str]) -> Client {
        self.client(&self.service_key(permissions, organizations).await)
    }

    /// The key of such a client.
    pub async fn service_key(&self, permissions: &[Permission], organizations: &[&str]) -> String {
        let mut arguments = Vec::new();
        for permission in permissions {
            arguments.extend(["--scope", permission.as_str()]);
        }
        for organization in organizations {
            arguments.extend(["--organization", organization]);
        }
        platform_key(&self.running.database, &self.clock, &arguments).await
    }

    /// A new tenant with a key that may do all that a tenant may.
    pub async fn tenant(&self, slug: &str) -> Tenant {
        Tenant::create(self, slug).await
    }
}

/// Makes a key of the platform by the command that operators use.
async fn platform_key(database: &Database, clock: &Clock, arguments: &[&str]) -> String {
    let cli = Cli::parse_from(["tenancy", "operator", "create", "--name", "test"].iter().chain(arguments));
    let Some(Command::Operator(command)) = cli.command else { panic!("another command") };
    let mut output = Vec::new();
    operator::run(command, database, clock, &mut output).await.unwrap();
    String::from_utf8(output).unwrap().trim().to_owned()
}

/// How a test's service reaches its database.
pub fn options(database: &Cloned) -> DatabaseOptions {
    DatabaseOptions {
        connect: database.service.clone(),
        connect_platform: None,
        max_connections: 10,
        acquire_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(30),
    }
}

fn config(flags: &[&str]) -> ServeConfig {
    let defaults = ["tenancy", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--threads", "1"];
    let mut config = Cli::parse_from(defaults.iter().chain(flags)).serve;
    config.token_encryption_key.get_or_insert_with(|| TOKEN_ENCRYPTION_KEY.parse().unwrap());
    config
}

/// What the keys of tokens are sealed with, where a test says nothing else: `--token-encryption-key=` for nothing.
pub const TOKEN_ENCRYPTION_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The recorder is the process's, so all services of a run share it.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| telemetry::metrics().unwrap()).clone()
}

/// Waits for a condition, generously: what is asserted is that it comes true, not how fast this machine is.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let comes_true = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // Also of a condition that itself does not end.
    let outcome = tokio::time::timeout(Duration::from_mins(1), comes_true).await;
    assert!(outcome.is_ok(), "it did not come true within a minute: {what}");
}
