//! `tenancy export`: all that one organization has, as NDJSON. On the database and not over gRPC, as what is in the file, the
//! hashes of keys among it, is nobody's to ask for.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use futures_util::TryStreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::cli::operator::find_organization;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::portable::{End, Sum};
use crate::repository::database::Database;
use crate::repository::portable::{self, export};
use crate::repository::scope::Purpose;

/// The job's name in what is written down of its scopes.
const JOB: &str = "tenancy export";

/// What to export, and where to.
#[derive(Args, Clone, Debug)]
pub struct Export {
    /// The organization, by id or slug
    #[arg(value_name = "ID|SLUG")]
    pub organization: String,

    /// A new file, readable by its owner alone [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Why an export failed. What was written of it has no end, so nobody takes it for a whole one.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It could not go on.
    #[error(transparent)]
    Domain(#[from] Error),
    /// It could not be written.
    #[error("{place}: {source}")]
    Output {
        /// Where to.
        place: String,
        /// Why.
        source: io::Error,
    },
}

/// Exports to the file, or to standard output.
pub async fn run(command: &Export, database: &Database, clock: &Clock) -> Result<(), ExportError> {
    let organization_id = find_organization(&command.organization, database).await?;
    let Some(path) = &command.output else {
        return write(organization_id, database, clock, "standard output", io::stdout()).await.map(|_| ());
    };
    let place = path.display().to_string();
    let failed = |source| ExportError::Output { place: place.clone(), source };
    // Never over another file, whose readers would be readers of this one.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let outcome = write(organization_id, database, clock, &place, &file).await;
    let outcome = outcome.and_then(|rows| file.sync_all().map_err(failed).map(|()| rows));
    match outcome {
        Ok(rows) => {
            eprintln!("{}: {rows} rows of {} in {place}", JOB, command.organization);
            Ok(())
        }
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Exports an organization; returns how many rows it has.
pub async fn write(
    organization_id: OrganizationId,
    database: &Database,
    clock: &Clock,
    place: &str,
    out: impl Write,
) -> Result<u64, ExportError> {
    let mut scope = database.snapshot(&Permitted::system(organization_id, JOB)).await?;
    let header = export::header(&mut scope, clock.now()).await?;
    let tables = portable::tables(&mut scope).await?;
    let mut file = Lines::new(place, out);
    file.line(&header)?;

    // Of the same moment, by the platform: a tenant does not see all that its members are.
    let moment = export::moment(&mut scope).await?;
    let permitted = PermittedPlatform::system(JOB);
    let mut platform = database.platform_snapshot(&permitted, Purpose::ExportOrganization, &moment).await?;
    file.rows("users", export::users(&mut platform, organization_id).await?).await?;
    platform.rollback().await?;
    for meter in export::meters(&mut scope, &tables).await? {
        file.row("platform_meters", &meter)?;
    }
    for table in &tables {
        file.rows(&table.name, export::rows(&mut scope, table)).await?;
    }
    scope.rollback().await?;
    file.finish()
}

/// The file on its way out.
struct Lines<'a, W: Write> {
    place: &'a str,
    out: BufWriter<W>,
    rows: BTreeMap<String, u64>,
    sum: Sum,
    bar: ProgressBar,
}

impl<'a, W: Write> Lines<'a, W> {
    fn new(place: &'a str, out: W) -> Self {
        // Draws on stderr, and nothing where that is no terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} rows {msg} {elapsed}") {
            bar.set_style(style);
        }
        Self { place, out: BufWriter::new(out), rows: BTreeMap::new(), sum: Sum::default(), bar }
    }

    async fn rows(&mut self, table: &str, mut rows: export::Rows<'_>) -> Result<(), ExportError> {
        self.bar.set_message(table.to_owned());
        while let Some(row) = rows.try_next().await? {
            self.row(table, &row)?;
        }
        Ok(())
    }

    /// A row, which is JSON already. The table's name is of letters and underscores.
    fn row(&mut self, table: &str, row: &str) -> Result<(), ExportError> {
        *self.rows.entry(table.to_owned()).or_default() += 1;
        self.bar.inc(1);
        self.put(&format!("{{\"table\":\"{table}\",\"row\":{row}}}\n"))
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), ExportError> {
        let text = serde_json::to_string(line).map_err(Error::internal)?;
        self.put(&format!("{text}\n"))
    }

    fn put(&mut self, line: &str) -> Result<(), ExportError> {
        self.sum.add(line);
        self.out.write_all(line.as_bytes()).map_err(|error| self.failed(error))
    }

    fn finish(mut self) -> Result<u64, ExportError> {
        let sha256 = self.sum.hex();
        let rows = std::mem::take(&mut self.rows);
        let count = rows.values().sum();
        self.line(&End { end: true, rows, sha256 })?;
        self.out.flush().map_err(|error| self.failed(error))?;
        self.bar.finish_and_clear();
        Ok(count)
    }

    fn failed(&self, source: io::Error) -> ExportError {
        ExportError::Output { place: self.place.to_owned(), source }
    }
}
