//! Gets a command its database: the one it is told, or one of our own.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::cli::{CliError, runtime};
use crate::clock::Clock;
use crate::config::DatabaseConfig;
use crate::error::Error;
use crate::repository::database::{Database, DatabaseOptions};
use crate::repository::embedded::{self, Embedded};
use crate::repository::migrate::{self, Provision};

/// The longest a statement may run.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A database to work with, migrated where that is ours to do.
#[expect(missing_debug_implementations, reason = "sqlx shows passwords in it")]
pub struct Connected {
    /// How to reach it.
    pub options: DatabaseOptions,
    /// The Postgres of our own, if it is one: to be stopped at the end.
    pub embedded: Option<Embedded>,
}

/// Starts the embedded Postgres where no `DATABASE_URL` is set. Blocks, so it comes before the runtime.
pub fn start_embedded(config: &DatabaseConfig) -> Result<Option<Embedded>, CliError> {
    if config.database_url.is_some() {
        return Ok(None);
    }
    let options = embedded::Options { data_dir: config.data_dir.clone(), ..embedded::Options::default() };
    Ok(Some(embedded::start(&options)?))
}

/// Migrates as far as it is ours to do, and tells how to reach the database.
pub async fn connect(config: &DatabaseConfig, embedded: Option<Embedded>) -> Result<Connected, CliError> {
    let connect = match (&config.database_url, &embedded) {
        (Some(url), _) => {
            if let Some(owner) = &config.migration_url {
                migrate::migrate(owner, Some(url.get_username())).await?;
            }
            url.clone()
        }
        (None, Some(embedded)) => provision(embedded).await?.service,
        (None, None) => return Err("neither DATABASE_URL nor an embedded Postgres".into()),
    };
    let options = DatabaseOptions {
        connect: connect.application_name("tenancy"),
        connect_platform: config.platform_database_url.clone().map(|url| url.application_name("tenancy-platform")),
        max_connections: config.database_connections,
        acquire_timeout: config.database_wait,
        statement_timeout: STATEMENT_TIMEOUT,
    };
    Ok(Connected { options, embedded })
}

/// The login of the owner of the schema, which is brought up to date: what few commands do that no login of the service may.
pub async fn owner(config: &DatabaseConfig, embedded: Option<&Embedded>) -> Result<PgConnectOptions, CliError> {
    if let Some(embedded) = embedded {
        return Ok(provision(embedded).await?.owner);
    }
    let owner = config.migration_url.clone().ok_or("set TENANCY_MIGRATION_URL to a login that owns the schema")?;
    migrate::migrate(&owner, None).await?;
    Ok(owner)
}

/// Makes the logins of an embedded Postgres where they are missing.
async fn provision(embedded: &Embedded) -> Result<Provision, Error> {
    let superuser = PgConnectOptions::new_without_pgpass()
        .host(&embedded.socket_dir().to_string_lossy())
        .port(embedded.port())
        .username(embedded.superuser())
        .password(embedded.superuser_password());
    migrate::provision(&superuser, embedded.superuser_password()).await
}

/// Runs a command on the database, started and stopped around it where it is our own.
pub fn with_database<E: Into<CliError>>(
    config: &DatabaseConfig,
    command: impl AsyncFnOnce(Database) -> Result<(), E>,
) -> Result<(), CliError> {
    let embedded = start_embedded(config)?;
    runtime()?.block_on(async {
        let connected = connect(config, embedded).await?;
        let database = Database::new(connected.options, Clock::system());
        migrate::check_fitness(&database).await?;
        let outcome = command(database.clone()).await.map_err(Into::into);
        database.close().await;
        if let Some(embedded) = connected.embedded {
            embedded.stop()?;
        }
        outcome
    })
}
