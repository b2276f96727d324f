//! The commands of `tenancy`.

#![expect(
    clippy::doc_link_with_quotes,
    clippy::doc_markdown,
    reason = "these comments are the help texts, where backticks would show"
)]

pub mod client;
pub mod connect;
pub mod demo;
pub mod export;
pub mod first_start;
pub mod import;
pub mod migrate;
pub mod operator;
pub mod ratelimit;
pub mod restore;
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
    /// Import organizations, users, teams and members from a CSV or NDJSON file, over gRPC
    ///
    /// Each row is an organization, a user, a team or a member. NDJSON has a JSON object a line, with its type:
    ///
    ///   {"type":"organization","slug":"acme","display_name":"Acme"}
    ///   {"type":"user","email":"ida@acme.example","display_name":"Ida"}
    ///   {"type":"team","organization":"acme","path":"Engineering/Backend Squad"}
    ///   {"type":"member","organization":"acme","email":"ida@acme.example","role":"member",
    ///    "teams":["Engineering/Backend Squad"]}
    ///
    /// CSV begins with the names of its columns, the same fields; a column type, or --type for all rows:
    ///
    ///   email,role,teams
    ///   ida@acme.example,member,Engineering/Backend Squad;Product
    ///
    /// Fields; those with * are required:
    ///   organization  slug* display_name* plan contact_email billing_email time_zone billing_anchor_day
    ///                 currency locale date_format branding labels member_limit settings
    ///   user          email* display_name* avatar_uri locale identity settings
    ///   team          path* organization description labels
    ///   member        role*, email* or user_id*, organization teams (display_name for --create-users)
    ///
    /// organization is a slug or an id; without it --organization or the key's own. A path has the names
    /// from the root down; \/ is a slash within a name. In CSV an empty cell says nothing; inner
    /// objects have columns such as branding.logo_uri, branding.primary_color, identity.provider and
    /// identity.subject; labels are key=value, separated by semicolons, as teams are (\; is one within
    /// a name); settings are a JSON object.
    ///
    /// A row may refer to rows before it. What is there already as a row has it stays as it is and
    /// counts as unchanged, so a file can be imported again; of a user that is the address (and the
    /// identity, where the row has one), of a member the role: teams they are not in yet they join. What
    /// is there otherwise is refused (SLUG_TAKEN, EMAIL_TAKEN, TEAM_NAME_TAKEN, ALREADY_MEMBER); nothing is
    /// ever overwritten.
    ///
    /// The key comes from TENANCY_API_KEY or --key-file: an operator's; or a service's with, as far as
    /// there are such rows, organizations.create and organizations.read, users.create, teams.create
    /// and teams.read, members.add with users.read for addresses and teams.members for teams. A
    /// tenant's own key imports teams, and members by user_id.
    ///
    /// The exit status is 0 when no row was refused.
    ///
    /// A file that tenancy export wrote is restored instead: whole or not at all, on the database, as the owner of its schema
    /// (TENANCY_MIGRATION_URL, or the embedded Postgres while no server runs). That takes no key, and none of the
    /// options but --map-users.
    #[command(verbatim_doc_comment)]
    Import(import::Import),
    /// Export all that one organization has, as NDJSON: a file to be kept like a backup, which import restores
    Export(export::Export),
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
        Some(Command::Import(command)) => {
            let mut input = client::open(command.file.as_deref())?;
            if restore::is_export(&mut input)? {
                return restore::run(input, &cli.database, cli.serve.usage_retention, command.map_users);
            }
            import::run(&command, input)
        }
        Some(Command::Export(command)) => connect::with_database(&cli.database, async |database| {
            export::run(&command, &database, &Clock::system()).await
        }),
        Some(Command::Demo) => connect::with_database(&cli.database, async |database| {
            demo::run(&database, &Clock::system(), &mut std::io::stdout()).await
        }),
    }
}

/// The runtime of everything but the serving threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
