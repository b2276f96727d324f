//! `tenancy demo`.

use std::io::Write;

use crate::cli::CliError;
use crate::clock::Clock;
use crate::demo;
use crate::repository::database::Database;

/// Loads the demo and prints the keys it made.
pub async fn run(database: &Database, clock: &Clock, out: &mut impl Write) -> Result<(), CliError> {
    let keys = demo::load(database, clock).await?;
    if keys.is_empty() {
        writeln!(out, "the demo is loaded; its keys were shown when they were made")?;
    }
    for key in keys {
        writeln!(out, "{:<16}{}", key.organization, key.secret)?;
    }
    Ok(())
}
