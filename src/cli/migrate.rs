//! `tenancy migrate`.

use clap::Args;

use crate::cli::{CliError, runtime};
use crate::config::DatabaseConfig;
use crate::repository::migrate::migrate;

/// Arguments of `tenancy migrate`.
#[derive(Args, Debug)]
pub struct Migrate {
    /// The login that the service will use: it is granted the service's roles, and needs nothing else
    #[arg(long)]
    pub grant_to: Option<String>,
}

/// Migrates as the owner.
pub fn run(command: &Migrate, database: &DatabaseConfig) -> Result<(), CliError> {
    let owner = database.migration_url.as_ref().ok_or("set TENANCY_MIGRATION_URL to a login that owns the schema")?;
    runtime()?.block_on(migrate(owner, command.grant_to.as_deref()))?;
    println!("the schema is up to date");
    Ok(())
}
