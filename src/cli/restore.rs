//! What `tenancy import` does with a file that `tenancy export` wrote: all of it, as it was, or nothing. As the owner of the
//! schema, since no login of the service may write all that an organization has.
//!
//! The file is read once, and no further than a batch ahead, so it can be of any size and come from standard input. That it
//! is whole shows at its end, and only then is anything kept.

mod lines;
mod rows;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Cursor, Read, Write};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::client::Input;
use crate::cli::connect::{self, start_embedded};
use crate::cli::restore::lines::Lines;
use crate::cli::restore::rows::Restorer;
use crate::cli::{CliError, runtime};
use crate::clock::Clock;
use crate::config::{DatabaseConfig, calendar};
use crate::error::Error;
use crate::model::portable::{Header, Line};
use crate::repository::portable::owner::Owner;
use crate::repository::portable::restore::{self, Clash, MeterMatch, Restored};

/// The most that is read to see what a file is.
const FIRST: u64 = 64 << 10;

/// How often partitions are tried for, half a second apart, while somebody is in the way.
const ATTEMPTS: u32 = 20;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It could not be done.
    #[error(transparent)]
    Domain(#[from] Error),
    /// A line that is none of an export, or not of this one.
    #[error("line {line}: {message}")]
    Line {
        /// Which.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// The end is missing.
    #[error("the file ends after line {0} without the end of an export: it was cut off")]
    CutOff(u64),
    /// It is not what was exported.
    #[error("the file was changed after it was exported: {0}")]
    Changed(String),
    /// Users whose addresses or identities are others' here.
    #[error("{}", clashes(.0))]
    Users(Vec<Clash>),
    /// Platform-wide meters that are not the same here.
    #[error("{}", mismatches(.0))]
    Meters(Vec<MeterMatch>),
    /// It could not be read, or what was done could not be told.
    #[error("the file could not be read: {0}")]
    Input(#[from] io::Error),
}

/// Whether the input begins as an export does; it is still to be read from its begin.
pub fn is_export(input: &mut Input) -> io::Result<bool> {
    let mut first = Vec::new();
    let mut reader = BufReader::new(std::mem::replace(&mut input.reader, Box::new(io::empty())));
    // Blocks until there is a line, while there is nothing else to do.
    (&mut reader).take(FIRST).read_until(b'\n', &mut first)?;
    let is_export = serde_json::from_slice::<Value>(&first).is_ok_and(|line| line.get("tenancy_export").is_some());
    input.reader = Box::new(Cursor::new(first).chain(reader));
    Ok(is_export)
}

/// Restores a file in the database that the configuration names, ours or another.
pub fn run(input: Input, database: &DatabaseConfig, retention: Duration, map_users: bool) -> Result<(), CliError> {
    // Where the owner is named, there is a Postgres that is not ours.
    let embedded = if database.migration_url.is_some() { None } else { start_embedded(database)? };
    runtime()?.block_on(async {
        let owner = Owner::new(&connect::owner(database, embedded.as_ref()).await?);
        let here = Here { owner: &owner, retention: calendar(retention), map_users };
        let outcome = restore(input.reader, input.bytes, &here, &Clock::system(), &mut io::stdout()).await;
        owner.close().await;
        if let Some(embedded) = embedded {
            embedded.stop()?;
        }
        Ok(outcome?)
    })
}

/// Where to, and how.
#[derive(Debug)]
pub struct Here<'a> {
    /// The owner of the schema.
    pub owner: &'a Owner,
    /// How long raw events are kept here.
    pub retention: TimeDelta,
    /// Whether a user of the file whose address another user has here is that one.
    pub map_users: bool,
}

/// Restores what is read, and writes what it was.
pub async fn restore(
    input: impl Read,
    bytes: Option<u64>,
    here: &Here<'_>,
    clock: &Clock,
    out: &mut impl Write,
) -> Result<(), RestoreError> {
    let mut lines = Lines::new(input);
    let first = lines.next()?.ok_or(RestoreError::CutOff(0))?;
    let header = Header::parse(&first).map_err(|message| RestoreError::Line { line: 1, message })?;
    let kept_since = clock.now() - here.retention;
    prepare(here.owner, &header, kept_since).await?;

    // Draws on stderr, and nothing where that is no terminal.
    let bar = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {msg} {eta}") {
        bar.set_style(style);
    }
    let mut scope = here.owner.restore(header.organization.organization_id).await?;
    restore::check(&mut scope, &header).await?;
    let events_since = restore::events_since(&mut scope, kept_since).await?;
    let mut rows = Restorer::new(scope, events_since, here.map_users).await?;
    let end = loop {
        let sum = lines.sum();
        let Some(text) = lines.next()? else { return Err(RestoreError::CutOff(lines.number())) };
        let wrong = |message| RestoreError::Line { line: lines.number(), message };
        match Line::parse(&text).map_err(wrong)? {
            Line::Row(row) => rows.take(&row, lines.number()).await?,
            Line::End(end) if end.sha256 != sum.hex() => {
                return Err(RestoreError::Changed("its lines do not have the sum that its end has".into()));
            }
            Line::End(end) => break end,
        }
        bar.set_position(lines.offset());
    };
    if lines.next()?.is_some() {
        return Err(RestoreError::Changed(format!("line {} comes after its end", lines.number())));
    }
    let (mut scope, mut tally) = rows.finish().await?;
    if tally.read != end.rows {
        return Err(RestoreError::Changed("it has not as many rows as its end says".into()));
    }
    let hours = restore::fold_hours(&mut scope, &header).await?;
    if hours > 0 {
        tally.written.insert(restore::HOURS.to_owned(), hours);
    }
    let slug = header.organization.slug;
    let restored = Restored { slug: slug.clone(), exported_at: header.exported_at, rows: tally.written };
    restore::finish(&mut scope, &restored, clock.now()).await?;
    scope.commit().await?;
    bar.finish_and_clear();
    summary(out, &slug, &end.rows, &restored.rows)?;
    Ok(())
}

/// Looks whether it can be restored, and makes the partitions that the events need.
async fn prepare(owner: &Owner, header: &Header, kept_since: DateTime<Utc>) -> Result<(), Error> {
    let mut attempt = 0;
    loop {
        let mut scope = owner.restore(header.organization.organization_id).await?;
        restore::check(&mut scope, header).await?;
        let Some(events) = header.events else { return Ok(()) };
        let since = restore::events_since(&mut scope, kept_since).await?;
        match restore::make_partitions(&mut scope, events, since).await {
            Err(Error::Conflict) if attempt < ATTEMPTS => attempt += 1,
            outcome => {
                outcome?;
                return scope.commit().await;
            }
        }
        scope.rollback().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn summary(
    out: &mut impl Write,
    slug: &str,
    exported: &BTreeMap<String, u64>,
    written: &BTreeMap<String, u64>,
) -> io::Result<()> {
    writeln!(out, "{slug} is restored")?;
    for (table, rows) in exported {
        let missing = rows - written.get(table).copied().unwrap_or_default();
        let rest = match (table.as_str(), missing) {
            (_, 0) => String::new(),
            ("users", missing) => format!(", {missing} of them were here already"),
            ("platform_meters", _) => ", found here by their keys".to_owned(),
            ("usage_events", missing) => {
                format!(", {missing} of them past their retention here and left out; what they add up to is restored")
            }
            (_, missing) => format!(", {missing} of them left out"),
        };
        writeln!(out, "{rows:>10} {table}{rest}")?;
    }
    out.flush()
}

fn clashes(clashes: &[Clash]) -> String {
    let mut text =
        "these users of the file have an address or an identity that is another user's here; change the one or \
                    the other, or take them for one where it is the address (--map-users):"
            .to_owned();
    for Clash { user_id, email, taken_by, same_email } in clashes {
        let what = if *same_email { "" } else { ", by the identity" };
        let _ = write!(text, "\n  {email}: {user_id} in the file, {taken_by} here{what}");
    }
    text
}

fn mismatches(meters: &[MeterMatch]) -> String {
    let mut text = "the organization uses platform-wide meters that are not the same here; create what is missing \
                    (MeterService/CreateMeter by an operator), with the definition that the file has:"
        .to_owned();
    for meter in meters {
        let what = if meter.ours.is_some() { "counts something else here" } else { "is missing" };
        let _ = write!(text, "\n  {}: {what}", meter.key);
    }
    text
}
