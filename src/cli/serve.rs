//! `tenancy` without a command: serves until it is told to stop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, Running};
use crate::cli::connect::{connect, start_embedded};
use crate::cli::{CliError, first_start, runtime};
use crate::clock::Clock;
use crate::config::{DatabaseConfig, ServeConfig};
use crate::repository::database::Database;
use crate::repository::embedded::Embedded;
use crate::telemetry;

/// How often the embedded Postgres is looked after.
const LOOK: Duration = Duration::from_millis(200);

/// Serves until Ctrl-C or SIGTERM, drains, and stops the embedded Postgres.
pub fn run(config: &ServeConfig, database: &DatabaseConfig) -> Result<(), CliError> {
    config.check(database.database_url.is_none())?;
    let metrics = telemetry::metrics()?;
    let embedded = start_embedded(database)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let clock = Clock::system();
        let mut config = config.clone();
        let mut connected = connect(database, embedded).await?;
        if let Some(embedded) = &connected.embedded {
            if config.sealing_keys()?.is_none() {
                config.token_encryption_key = Some(first_start::token_encryption_key(embedded.data_dir())?);
            }
            let database = Database::new(connected.options.clone(), clock.clone());
            first_start::prepare(&database, &clock, embedded.data_dir()).await?;
            database.close().await;
        }
        let mut running = app::start(&config, connected.options.clone(), clock.clone(), metrics).await?;
        tracing::info!(grpc = %running.grpc, admin = %running.admin, tls = config.tls_certificate.is_some(), "serving");
        if config.tls_certificate.is_none() && !running.grpc.ip().is_loopback() {
            tracing::warn!(
                "gRPC is served in clear, and not to this machine only: keys can be read on the way, unless a mesh or a \
                 proxy does TLS; see TENANCY_TLS_CERTIFICATE"
            );
        }
        if config.tls_client_ca.is_some() && config.sidecar_spiffe_ids.is_empty() {
            tracing::warn!("client certificates let nobody in: TENANCY_SIDECAR_SPIFFE_IDS is empty");
        }
        if config.sealing_keys()?.is_none() {
            tracing::info!("no tokens are issued: TENANCY_TOKEN_ENCRYPTION_KEY is not set");
        }
        if let Some(embedded) = &connected.embedded {
            first_start::welcome(&running, &clock, embedded.data_dir(), &mut std::io::stdout())?;
        }
        let outcome = until_stopped(&mut running, connected.embedded.as_mut()).await;
        if let Some(embedded) = connected.embedded {
            embedded.stop()?;
        }
        outcome
    })
}

async fn until_stopped(running: &mut Running, mut embedded: Option<&mut Embedded>) -> Result<(), CliError> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            outcome = running.ended() => return Ok(outcome?),
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(embedded) = embedded.as_deref_mut()
            && embedded.has_exited()
        {
            tracing::error!("the embedded Postgres died; starting it again");
            if let Err(error) = tokio::task::block_in_place(|| embedded.restart()) {
                tracing::error!(%error, "it did not start; trying again");
            }
        }
    }
    tracing::info!("draining");
    running.stop();
    // Whoever is told twice does not want to wait.
    tokio::select! {
        outcome = running.ended() => Ok(outcome?),
        _ = interrupt.recv() => Err("stopped before requests in flight had ended".into()),
        _ = terminate.recv() => Err("stopped before requests in flight had ended".into()),
    }
}
