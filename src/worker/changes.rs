//! Keeps the caches true: follows the change log (I8), and notes on the way whether the database answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::auth::authenticator::Authenticator;
use crate::auth::directory::Directory;
use crate::auth::principal::PermittedPlatform;
use crate::clock::Clock;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::quota::engine::Engine;
use crate::quota::rules::Rules;
use crate::repository::changes::{self, Change, Reading};
use crate::repository::database::Database;
use crate::repository::error::unreachable;
use crate::repository::scope::Purpose;

/// How often the log is read, notified or not.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long a reading may take. Longer means that the database does not answer, however alive its socket looks.
const PATIENCE: Duration = Duration::from_secs(2);

/// After how long it is looked whether anybody is there at all: requests that wait meanwhile, with deadlines of a second
/// or two, are to hear of it in time.
const DOUBT: Duration = Duration::from_millis(300);

/// After how long without a reading everything is forgotten: well below the hour for which the log is kept.
const LOST: Duration = Duration::from_mins(10);

/// What must hear of changes.
#[derive(Clone, Debug)]
pub struct Caches {
    /// Keys.
    pub authenticator: Arc<Authenticator>,
    /// Organizations and memberships.
    pub directory: Arc<Directory>,
    /// Meters.
    pub catalog: Arc<Catalog>,
    /// Limits.
    pub engine: Engine,
    /// The rules of the rate limit service.
    pub rules: Arc<Rules>,
}

impl Caches {
    /// Forgets what a change made untrue.
    pub fn apply(&self, change: &Change) {
        self.authenticator.apply(change);
        self.directory.apply(change);
        self.catalog.apply(change);
        self.engine.apply(change);
        self.rules.apply(change);
    }

    fn forget_all(&self) {
        self.authenticator.forget_all();
        self.directory.forget_all();
        self.catalog.forget_all();
        self.engine.forget_all();
        self.rules.forget_all();
    }
}

/// Follows the log.
#[derive(Debug)]
pub struct Follower {
    database: Database,
    clock: Clock,
    caches: Arc<Caches>,
    /// Where to read from, what the last reading showed, and when that was.
    position: Option<(i64, HashSet<i64>, Instant)>,
}

impl Follower {
    /// Begins at the end of the log, with empty caches.
    #[must_use]
    pub const fn new(database: Database, clock: Clock, caches: Arc<Caches>) -> Self {
        Self { database, clock, caches, position: None }
    }

    /// Reads the log once and applies what is new.
    pub async fn run_once(&mut self) -> Result<(), Error> {
        let now = self.clock.instant();
        if self.position.as_ref().is_some_and(|(_, _, read)| now.saturating_duration_since(*read) > LOST) {
            self.position = None;
        }
        let reading = match self.read_or_doubt().await {
            Ok(reading) => reading,
            Err(error) => {
                self.database.set_reachable(false);
                return Err(error);
            }
        };
        self.database.set_reachable(true);
        match &self.position {
            // Whatever was cached before the first reading may have changed unseen.
            None => self.caches.forget_all(),
            Some((_, seen, _)) => {
                for (id, subject) in &reading.changes {
                    if !seen.contains(id) {
                        self.apply(subject);
                    }
                }
            }
        }
        let seen = reading.changes.iter().map(|(id, _)| *id).collect();
        self.position = Some((reading.horizon, seen, now));
        Ok(())
    }

    /// Reads, for as long as there is hope. A pool hides that nobody is there: it tries again until its time is over.
    async fn read_or_doubt(&self) -> Result<Reading, Error> {
        let mut reading = std::pin::pin!(tokio::time::timeout(PATIENCE, self.read()));
        let nobody_is_there = async {
            tokio::time::sleep(DOUBT).await;
            match self.database.knock().await {
                Ok(()) => std::future::pending().await,
                Err(error) => error,
            }
        };
        tokio::select! {
            reading = &mut reading => reading.unwrap_or_else(|_| Err(unreachable())),
            error = nobody_is_there => Err(error),
        }
    }

    async fn read(&self) -> Result<Reading, Error> {
        let permitted = PermittedPlatform::system("changes");
        let mut scope = self.database.platform(&permitted, Purpose::Changes).await?;
        let horizon = self.position.as_ref().map(|(horizon, _, _)| *horizon);
        changes::read(&mut scope, horizon).await
    }

    fn apply(&self, subject: &str) {
        match subject.parse() {
            Ok(change) => self.caches.apply(&change),
            Err(error) => {
                // Written by a newer version during a rollout: it may concern anything.
                tracing::warn!(%error, "a change is not understood; forgetting everything");
                self.caches.forget_all();
            }
        }
    }

    /// Goes on until `shutdown`: every 500 ms, and at once when notified.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let heard = Notify::new();
        let database = self.database.clone();
        // Side by side, so that a connection for notifications that cannot be had does not keep the log from being read.
        tokio::join!(self.follow(&heard, &shutdown), listen(&database, &heard, &shutdown));
    }

    async fn follow(&mut self, heard: &Notify, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.run_once().await {
                tracing::debug!(%error, "the change log could not be read");
            }
            tokio::select! {
                () = heard.notified() => {}
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}

/// Notes that something was heard, until `shutdown`. Only makes it quicker: the interval alone keeps the promise.
async fn listen(database: &Database, heard: &Notify, shutdown: &CancellationToken) {
    let listening = async {
        loop {
            if let Ok(mut listener) = changes::listen(database).await {
                while changes::wait(&mut listener).await.is_ok() {
                    heard.notify_one();
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = listening => {}
        () = shutdown.cancelled() => {}
    }
}
