//! `tenancy usage import`: a file of CloudEvents, sent through StreamUsage by a client like any other. What was not
//! acknowledged is sent again, on a new connection; an event has an identity, so it counts once however often it is sent.
//!
//! Memory is bounded for a file of any size: a thread reads no further than the few messages that are not acknowledged.

mod cloud_event;
mod lines;
mod sender;
mod summary;

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;

use crate::cli::CliError;
use crate::cli::client::progress::Progress;
use crate::cli::client::{Input, endpoint};
use crate::cli::usage::import::lines::Reader;
use crate::cli::usage::import::sender::Sender;
use crate::cli::usage::import::summary::Summary;

/// What to import, and where to.
#[derive(Args, Clone, Debug)]
pub struct Import {
    /// The file [default: standard input]
    pub file: Option<PathBuf>,

    /// The service, as http://host:port or https://host:port
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    pub url: String,

    /// A file with the API key, instead of TENANCY_API_KEY
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// The key of the meter of all events, instead of their type
    #[arg(long, value_name = "KEY")]
    pub meter: Option<String>,

    /// The organization of the events that name none, by id or slug
    #[arg(long, value_name = "ID|SLUG", default_value = "")]
    pub organization: String,

    /// How long to try again while nothing is acknowledged, as when the service restarts
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    pub patience: Duration,
}

/// Sends the events and writes what became of them.
///
/// Errors: lines that were not recorded, a service that refused or was away too long, a file that cannot be read.
pub async fn run(command: &Import, key: &str, input: Input, out: &mut impl Write) -> Result<(), CliError> {
    let endpoint = endpoint(&command.url)?;
    // Two messages ahead of the sender.
    let (batches, receiver) = mpsc::channel(2);
    let progress = Progress::new(input.bytes);
    let reader = Reader::new(input.reader, command.meter.clone());
    // Not joined: when the sender has given up, it may wait for standard input for ever.
    thread::Builder::new().name("import".into()).spawn(move || reader.run(&batches))?;

    let mut summary = Summary::default();
    let mut sender = Sender::new(endpoint, key, command)?;
    let outcome = sender.run(receiver, &mut summary, &progress).await;
    progress.finish();
    summary.write(out)?;
    outcome?;
    match summary.not_recorded() {
        0 => Ok(()),
        1 => Err("1 line was not recorded".into()),
        lines => Err(format!("{lines} lines were not recorded").into()),
    }
}
