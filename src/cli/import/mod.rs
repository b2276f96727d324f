//! `tenancy import`: organizations, users, teams and members from a file, sent by a client like any other.
//!
//! What is there already as the file has it stays and is told apart, so that a file can be imported again: after an
//! interruption, or because it grew. So there is no need for `request_id`s, whose replies the service would keep a day long.
//!
//! Memory is bounded for a file of any size: a thread reads one window of rows ahead of the one that is sent.

mod csv;
mod foreseen;
mod importer;
mod members;
mod organizations;
mod reader;
mod report;
mod row;
mod service;
mod teams;
mod users;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::client::lines::Lines;
use crate::cli::client::progress::Progress;
use crate::cli::client::{self, Input};
use crate::cli::import::importer::Importer;
use crate::cli::import::reader::{Reader, Window};
use crate::cli::import::report::Report;
use crate::cli::import::row::Defaults;
use crate::cli::import::service::Service;
use crate::cli::{CliError, runtime};

pub use crate::cli::import::row::Kind;

/// What to import, and where to.
#[derive(Args, Clone, Debug)]
pub struct Import {
    /// The file [default: standard input]
    pub file: Option<PathBuf>,

    /// The service, as http://host:port or https://host:port
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    pub url: String,

    /// A file with the key, instead of TENANCY_API_KEY
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// What the file is [default: by its ending, or its first line]
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// What the rows are that do not say their type
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: Option<Kind>,

    /// The organization of the teams and members that name none, by id or slug
    #[arg(long, value_name = "ID|SLUG", default_value = "")]
    pub organization: String,

    /// Create the users of members who do not exist yet; they stay also when the membership is refused
    #[arg(long)]
    pub create_users: bool,

    /// Check everything, say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Leave out the rows that begin before this line, as an import says that was interrupted
    #[arg(long, value_name = "LINE", default_value_t = 1)]
    pub from_line: u64,

    /// Write all refused rows into this file, as NDJSON: line, type, reason, message
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Of an export: a user whose address another user has here is that one, in all that is restored but in texts, such as
    /// the subjects of usage
    #[arg(long)]
    pub map_users: bool,

    /// How long to send a request again that does not succeed, as when the service restarts
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    pub patience: Duration,
}

/// What some programs begin a file in UTF-8 with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How the rows are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A line with the names of the columns, then the rows
    Csv,
    /// A JSON object a line
    Ndjson,
}

/// Runs the command, until Ctrl-C.
pub fn run(command: &Import, input: Input) -> Result<(), CliError> {
    let key = client::key(command.key_file.as_deref())?;
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        let interrupted = tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stopper.cancel();
            }
        });
        let outcome = import(command, &key, input, &mut std::io::stdout(), stop).await;
        interrupted.abort();
        outcome
    })
}

/// Imports until the end or until `stop`, and writes what became of the rows.
///
/// Errors: rows that were refused, a file that cannot be read, a service that refused or was away too long; where it says so,
/// the import can go on from a line.
pub async fn import(
    command: &Import,
    key: &str,
    input: Input,
    out: &mut impl Write,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let mut lines = Lines::new(input.reader);
    let mut first = Vec::new();
    // Blocks, while there is nothing else to do.
    let mut is_whole = lines.next(&mut first)?;
    if first.starts_with(BYTE_ORDER_MARK) {
        first.drain(..BYTE_ORDER_MARK.len());
    }
    while is_whole.is_some() && first.trim_ascii().is_empty() {
        is_whole = lines.next(&mut first)?;
    }
    let format = command.format.unwrap_or_else(|| guess(command, &first));
    let defaults = Defaults { kind: command.kind, organization: command.organization.clone() };
    let mut report = Report::new(command.report.as_deref())?;
    let progress = Progress::new(input.bytes);
    let importer = Importer::new(command, Service::new(command, key, stop, &progress)?);

    let (windows, receiver) = mpsc::channel(1);
    let first = is_whole.map(|is_whole| (first, is_whole));
    let reader = Reader::new(lines, first, format, defaults, command.from_line);
    // Not joined: when nothing more can be done, it may wait for standard input for ever.
    thread::Builder::new().name("import".into()).spawn(move || reader.run(&windows))?;

    let outcome = send(command, &importer, receiver, &mut report, &progress).await;
    progress.finish();
    report.unjudged = *importer.unjudged.lock().unwrap_or_else(PoisonError::into_inner);
    report.write(command.dry_run, out)?;
    outcome?;
    let (refused, tense) = (report.refused(), if command.dry_run { "would be" } else { "were" });
    match refused {
        0 => Ok(()),
        1 if command.dry_run => Err("1 row would be refused".into()),
        1 => Err("1 row was refused".into()),
        rows => Err(format!("{rows} rows {tense} refused").into()),
    }
}

/// Sends window after window.
async fn send(
    command: &Import,
    importer: &Importer<'_>,
    mut windows: mpsc::Receiver<Result<Window, String>>,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), CliError> {
    while let Some(window) = windows.recv().await {
        let window = window?;
        let (first, offset) = (window.first.max(command.from_line), window.offset);
        let fates = importer
            .window(window)
            .await
            .map_err(|why| format!("{why}; what was done stays done: continue with --from-line {first}"))?;
        report.count(fates)?;
        progress.reached(offset, report.rows());
    }
    Ok(())
}

/// What the file is by its ending, or by how it begins.
fn guess(command: &Import, first: &[u8]) -> Format {
    let ending = command.file.as_ref().and_then(|file| file.extension()).map(OsStr::to_ascii_lowercase);
    match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("csv") => Format::Csv,
        Some("ndjson" | "jsonl" | "json") => Format::Ndjson,
        _ if first.trim_ascii_start().starts_with(b"{") => Format::Ndjson,
        _ => Format::Csv,
    }
}
