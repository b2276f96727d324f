//! The commands of `tenancy`.

#![expect(clippy::doc_markdown, reason = "these comments are the help texts, where backticks would show")]

pub mod connect;
pub mod demo;
pub mod first_start;
pub mod migrate;
pub mod operator;
pub mod ratelimit;
pub mod serve;
pub mod usage;

use clap::{Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{DatabaseConfig, LogConfig, ServeConfig};

/// The error of a command: shown to the user, exit status 1.
pub type CliError = Box<dyn std::error::Error + Send + Sync>;

/// Organizations, members, API keys, usage metering and quotas for a platform, over gRPC on Postgres.
#[derive(Parser)]
#[expect(missing_debug_implementations, reason = "sqlx shows passwords in its logins")]
#[command(version, about, max_term_width = 120)]
pub struct Cli {
    /// What to do; without a command it serves
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to serve
    #[command(flatten)]
    pub serve: ServeConfig,

    /// Where the data is
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// How logs are written
    #[command(flatten)]
    pub log: LogConfig,
}

/// What `tenancy` can do besides serving.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Bring the schema up to date, as its owner (TENANCY_MIGRATION_URL)
    Migrate(migrate::Migrate),
    /// Make, list and revoke the keys of operators and of the platform's services
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Import usage, and verify what is recorded
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// Import the rules of the rate limit service
    #[command(subcommand)]
    Ratelimit(ratelimit::RatelimitCommand),
    /// Load the demo data where it is missing, and print the keys it made
    Demo,
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<(), CliError> {
    crate::telemetry::log(&cli.log.log, cli.log.log_format)?;
    match cli.command {
        None => serve::run(&cli.serve, &cli.database),
        Some(Command::Migrate(command)) => migrate::run(&command, &cli.database),
        Some(Command::Operator(command)) => connect::with_database(&cli.database, async |database| {
            operator::run(command, &database, &Clock::system(), &mut std::io::stdout()).await
        }),
        Some(Command::Usage(command)) => usage::run(command, &cli.database),
        Some(Command::Ratelimit(command)) => ratelimit::run(command),
        Some(Command::Demo) => connect::with_database(&cli.database, async |database| {
            demo::run(&database, &Clock::system(), &mut std::io::stdout()).await
        }),
    }
}

/// The runtime of everything but the serving threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
