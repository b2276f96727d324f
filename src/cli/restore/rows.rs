//! Rows on their way into the database: collected by table, with the ids that platform-wide meters, and where that is
//! wanted users, have here; and written in batches.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};

use crate::cli::restore::RestoreError;
use crate::ids::UserId;
use crate::model::portable::Row;
use crate::repository::portable::owner::RestoreScope;
use crate::repository::portable::restore::{self, Batch, Clash};
use crate::repository::portable::{self, Table};

/// A batch is written when it has so many rows or bytes.
const ROWS: usize = 1_000;
const BYTES: usize = 1 << 20;

/// Who is not the organization's, and comes first.
const USERS: &str = "users";
/// Found here, not written.
const METERS: &str = "platform_meters";

/// How many rows there were of each table, in the file and into the database.
#[derive(Debug, Default)]
pub struct Tally {
    pub read: BTreeMap<String, u64>,
    pub written: BTreeMap<String, u64>,
}

/// Rows that wait to be written: of one table, and with the same columns.
#[derive(Debug, Default)]
struct Pending {
    table: String,
    columns: Vec<String>,
    rows: usize,
    /// A JSON array without its end.
    json: String,
}

/// Takes rows and writes them.
#[derive(Debug)]
pub struct Restorer {
    scope: RestoreScope,
    events_since: DateTime<Utc>,
    /// The organization's id as JSON.
    organization: String,
    tables: HashMap<String, Table>,
    /// The ids of platform-wide meters, as JSON: in the file, and here.
    meters: HashMap<String, String>,
    /// The same of users, where the file's is taken for the one here who has the address.
    users: HashMap<String, String>,
    map_users: bool,
    clashes: Vec<Clash>,
    pending: Pending,
    tally: Tally,
}

impl Restorer {
    /// Into an organization that is not there yet.
    pub async fn new(
        mut scope: RestoreScope,
        events_since: DateTime<Utc>,
        map_users: bool,
    ) -> Result<Self, RestoreError> {
        let mut tables = portable::tables(&mut scope).await?;
        for name in [USERS, METERS] {
            tables.push(restore::shared(&mut scope, name).await?);
        }
        Ok(Self {
            organization: format!("\"{}\"", scope.organization_id()),
            scope,
            events_since,
            tables: tables.into_iter().map(|table| (table.name.clone(), table)).collect(),
            meters: HashMap::new(),
            users: HashMap::new(),
            map_users,
            clashes: Vec::new(),
            pending: Pending::default(),
            tally: Tally::default(),
        })
    }

    /// Takes a row of the file, which is written now or later.
    pub async fn take(&mut self, row: &Row<'_>, line: u64) -> Result<(), RestoreError> {
        let wrong = |message: String| RestoreError::Line { line, message };
        let Some(table) = self.tables.get(&*row.table) else {
            return Err(wrong(format!("this version has no table {:?} of an organization", row.table)));
        };
        if let Some(column) = row.row.keys().find(|column| !table.has(column)) {
            return Err(wrong(format!("the table {} of this version has no column {column:?}", row.table)));
        }
        // The policies refuse it too, but not to a login that they do not bind.
        if table.has("organization_id") && row.row.get("organization_id").is_none_or(|id| id.get() != self.organization)
        {
            return Err(wrong(format!("a row of {} that is not the exported organization's", row.table)));
        }
        let pending = &self.pending;
        let is_other = pending.table != row.table || !pending.columns.iter().eq(row.row.keys());
        if is_other || pending.rows >= ROWS || pending.json.len() >= BYTES {
            self.write().await?;
            if self.pending.table != row.table {
                self.require_users()?;
            }
            self.pending.table.clone_from(&row.table.clone().into_owned());
            self.pending.columns = row.row.keys().cloned().collect();
        }
        let pending = &mut self.pending;
        for (place, (column, value)) in row.row.iter().enumerate() {
            let value = value.get();
            let here = match (pending.table.as_str(), column.as_str()) {
                (USERS | METERS, _) => None,
                (_, "meter_id") => self.meters.get(value),
                // Of limits and accounts, whoever it is that is limited: an id is nobody else's.
                (_, "subject_id") => self.users.get(value),
                (_, column) if is_user(column) => self.users.get(value),
                _ => None,
            };
            let lead = match (place, pending.rows) {
                (0, 0) => "[{",
                (0, _) => ",{",
                _ => ",",
            };
            pending.json.push_str(lead);
            pending.json.push_str(&serde_json::Value::from(column.as_str()).to_string());
            pending.json.push(':');
            pending.json.push_str(here.map_or(value, String::as_str));
        }
        pending.json.push('}');
        pending.rows += 1;
        *self.tally.read.entry(pending.table.clone()).or_default() += 1;
        Ok(())
    }

    /// Writes what waits.
    async fn write(&mut self) -> Result<(), RestoreError> {
        let Pending { table, columns, rows, json } = &mut self.pending;
        if *rows == 0 {
            return Ok(());
        }
        json.push(']');
        let Some(table) = self.tables.get(table) else { return Ok(()) };
        let batch = Batch { table, columns, rows: json };
        let written = match table.name.as_str() {
            METERS => {
                let found = restore::meters(&mut self.scope, batch.rows).await?;
                let (same, wrong): (Vec<_>, Vec<_>) = found.into_iter().partition(|meter| meter.same);
                if !wrong.is_empty() {
                    return Err(RestoreError::Meters(wrong));
                }
                let ids = same.into_iter().filter_map(|meter| Some((meter.theirs, meter.ours?)));
                self.meters.extend(ids.map(|(theirs, ours)| (format!("\"{theirs}\""), format!("\"{ours}\""))));
                0
            }
            USERS => {
                let clashes = restore::clashes(&mut self.scope, batch.rows).await?;
                let but: Vec<UserId> = clashes.iter().map(|clash| clash.user_id).collect();
                let (same, others): (Vec<_>, Vec<_>) =
                    clashes.into_iter().partition(|clash| self.map_users && clash.same_email);
                let ids = same.into_iter().map(|clash| (clash.user_id, clash.taken_by));
                self.users.extend(ids.map(|(theirs, ours)| (format!("\"{theirs}\""), format!("\"{ours}\""))));
                self.clashes.extend(others);
                restore::users(&mut self.scope, &batch, &but).await?
            }
            _ => restore::insert(&mut self.scope, &batch, self.events_since).await?,
        };
        *self.tally.written.entry(table.name.clone()).or_default() += written;
        (*rows, *json) = (0, String::new());
        Ok(())
    }

    /// Fails when users were not written, of all of whom it is known by then.
    fn require_users(&mut self) -> Result<(), RestoreError> {
        match std::mem::take(&mut self.clashes) {
            none if none.is_empty() => Ok(()),
            clashes => Err(RestoreError::Users(clashes)),
        }
    }

    /// Writes what is left; the scope is still to be committed.
    pub async fn finish(mut self) -> Result<(RestoreScope, Tally), RestoreError> {
        self.write().await?;
        self.require_users()?;
        Ok((self.scope, self.tally))
    }
}

/// Whether a column names a user.
fn is_user(column: &str) -> bool {
    column == "user_id" || column.ends_with("_user_id")
}
