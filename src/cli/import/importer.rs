//! Sends the rows of a window: first the organizations, then the users, then the teams, then the members, so that a row may
//! refer to those before it whatever their order is. Rows of one organization are sent in their order, of several at once.

use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use indexmap::IndexMap;
use tonic::Status;

use crate::cli::client::told;
use crate::cli::import::Import;
use crate::cli::import::foreseen::Foreseen;
use crate::cli::import::reader::Window;
use crate::cli::import::report::{Done, Fate, Refusal};
use crate::cli::import::row::{Kind, Row};
use crate::cli::import::service::{Failure, Service, reason};
use crate::cli::import::teams::Tree;

/// How many calls wait for the service at once.
const AT_ONCE: usize = 8;

/// The rows of a batch at most, as the service has it.
pub const BATCH: usize = 500;

/// Sends rows.
#[derive(Debug)]
pub struct Importer<'a> {
    pub(super) service: Service<'a>,
    /// Members' users are created where they are missing.
    pub(super) creates_users: bool,
    /// What would be created; `None` unless nothing is to be.
    pub(super) foreseen: Option<Foreseen>,
    /// The teams of organizations, as far as they were needed.
    pub(super) trees: Mutex<HashMap<String, Tree>>,
    /// Rows that a dry run cannot judge to the end.
    pub(super) unjudged: Mutex<u64>,
}

/// A part of a window, of rows that are sent one after the other.
pub type Lane<T> = Vec<(u64, T)>;

impl<'a> Importer<'a> {
    /// With nothing sent.
    pub fn new(command: &Import, service: Service<'a>) -> Self {
        Self {
            service,
            creates_users: command.create_users,
            foreseen: command.dry_run.then(Foreseen::default),
            trees: Mutex::new(HashMap::new()),
            unjudged: Mutex::new(0),
        }
    }

    /// Whether nothing is to be changed.
    pub const fn is_dry(&self) -> bool {
        self.foreseen.is_some()
    }

    /// Sends a window. What became of each row, in any order. Error: why no more can be done; what was sent is done then, and
    /// is found unchanged by who sends the window again.
    pub async fn window(&self, window: Window) -> Result<Vec<Fate>, String> {
        let mut organizations: IndexMap<String, Lane<_>> = IndexMap::new();
        let mut users = Vec::new();
        let mut teams: IndexMap<String, Lane<_>> = IndexMap::new();
        let mut members: IndexMap<String, Lane<_>> = IndexMap::new();
        for (line, row) in window.rows {
            match row {
                Row::Organization(row) => organizations.entry(row.slug.clone()).or_default().push((line, *row)),
                Row::User(row) => users.push((line, *row)),
                Row::Team(row) => teams.entry(row.organization.clone()).or_default().push((line, row)),
                Row::Member(row) => members.entry(row.organization.clone()).or_default().push((line, row)),
            }
        }
        let mut fates: Vec<Fate> = window.refused.into_iter().map(Fate::Refused).collect();
        fates.extend(all(organizations.into_values().map(|lane| self.organizations(lane))).await?);
        fates.extend(self.users(users).await?);
        fates.extend(all(teams.into_iter().map(|(organization, lane)| self.teams(organization, lane))).await?);
        fates.extend(all(members.into_iter().map(|(organization, lane)| self.members(organization, lane))).await?);
        Ok(fates)
    }
}

/// Some at once; all that became of them.
async fn all<F: Future<Output = Result<Vec<Fate>, String>>>(
    lanes: impl Iterator<Item = F>,
) -> Result<Vec<Fate>, String> {
    stream::iter(lanes).buffer_unordered(AT_ONCE).try_concat().await
}

/// A row that is as it should be.
pub const fn done(kind: Kind, done: Done) -> Fate {
    Fate::Done(kind, done)
}

/// A row that the service refused, in a batch or alone.
pub fn refused(line: u64, kind: Kind, reason: impl Into<String>, message: impl Into<String>) -> Fate {
    Fate::Refused(Refusal { line, kind: Some(kind), reason: reason.into(), message: message.into() })
}

/// The same by a status.
pub fn refused_by(line: u64, kind: Kind, status: &Status) -> Fate {
    refused(line, kind, reason(status), told(status))
}

/// What the service said of a message as a whole: a refusal, unless it ends all.
pub fn refusal(failure: Failure) -> Result<Box<Status>, String> {
    match failure {
        Failure::Refused(status) => Ok(status),
        Failure::Ended(why) => Err(why),
    }
}
