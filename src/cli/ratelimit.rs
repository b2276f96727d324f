//! `tenancy ratelimit`: the rules of the rate limit service from the command line.

pub mod import;

use clap::Subcommand;

use crate::cli::{CliError, client, runtime};

/// Import the rules of the rate limit service
#[derive(Subcommand, Clone, Debug)]
pub enum RatelimitCommand {
    /// Create rate limit domains from files of envoyproxy/ratelimit, over gRPC
    ///
    /// Each file is one domain, as in the static configuration of envoyproxy/ratelimit:
    ///
    ///   domain: edge
    ///   descriptors:
    ///     - key: path
    ///       value: /v1/*
    ///       rate_limit: {unit: minute, requests_per_unit: 600}
    ///     - key: tenant
    ///       rate_limit: {meter: api.requests}
    ///
    /// The second rule is an extension: the limits of the tenant that the entry names, by UUID or
    /// slug, on that meter decide (tenant_key: another entry names it). What a file says that is not
    /// supported is refused, and then nothing is done for any file.
    ///
    /// A second and a minute are rolling windows; hour, day, week and month are the calendar's, in
    /// UTC.
    ///
    /// The key comes from TENANCY_API_KEY or --key-file: an operator's, or a service's that may
    /// rate_limits.read and rate_limits.write. Importing the same again changes nothing.
    #[command(verbatim_doc_comment)]
    Import(import::Import),
}

/// Runs a command.
pub fn run(command: RatelimitCommand) -> Result<(), CliError> {
    match command {
        RatelimitCommand::Import(command) => {
            let key = client::key(command.key_file.as_deref())?;
            runtime()?.block_on(import::run(&command, &key, &mut std::io::stdout()))
        }
    }
}
