//! `tenancy usage`: what is done with usage from the command line.

pub mod import;
pub mod verify;

use clap::Subcommand;

use crate::cli::{CliError, client, connect, runtime};
use crate::config::DatabaseConfig;

/// Import usage, and verify what is recorded
#[derive(Subcommand, Clone, Debug)]
pub enum UsageCommand {
    /// Record the usage in a file of CloudEvents, over gRPC
    ///
    /// The file has one CloudEvents 1.0 event a line, in JSON (structured mode):
    ///
    ///   {"specversion":"1.0","id":"7f3e","source":"/gateway","type":"api.calls","time":"2026-11-05T10:00:00Z",
    ///    "subject":"ida","quantity":"3","data":{"region":"eu"}}
    ///
    /// type is the key of the meter. source and id together are the event's identity, so time is
    /// required, and a file can be imported again: what is there counts once. subject is the
    /// subject, data (an object) the properties.
    ///
    /// Two extension attributes: quantity, a decimal as a string or a number; and organizationid,
    /// the UUID or slug of the organization. Without it, --organization or the key's own.
    ///
    /// The API key comes from TENANCY_API_KEY or --key-file, and takes usage.write.
    ///
    /// The exit status is 0 when every line was recorded, was there before, or is left out by its
    /// meter's filter.
    #[command(verbatim_doc_comment)]
    Import(import::Import),
    /// Recount every figure from the raw events that are kept, and report what differs; the exit status is 1 if anything
    /// does. Right also while the service records
    Verify(verify::Verify),
}

/// Runs a command.
pub fn run(command: UsageCommand, database: &DatabaseConfig) -> Result<(), CliError> {
    match command {
        UsageCommand::Import(command) => {
            let key = client::key(command.key_file.as_deref())?;
            let input = client::open(command.file.as_deref())?;
            runtime()?.block_on(import::run(&command, &key, input, &mut std::io::stdout()))
        }
        UsageCommand::Verify(wanted) => connect::with_database(database, async |database| {
            verify::run(&wanted, &database, &mut std::io::stdout()).await
        }),
    }
}
