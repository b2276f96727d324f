//! Upkeep: partitions made ahead and dropped behind, deleted organizations purged, old request ids, changes and allowances
//! forgotten.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::principal::PermittedPlatform;
use crate::clock::Clock;
use crate::error::Error;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{allowance, changes, idempotency, purge, quota, upkeep};

/// How often it is done.
const INTERVAL: Duration = Duration::from_mins(10);

/// How far ahead partitions are made: a service that was down for weeks still finds the one it needs.
const AHEAD: TimeDelta = TimeDelta::days(28);

/// How long request ids are kept (AIP-155).
const REQUEST_IDS: TimeDelta = TimeDelta::hours(24);

/// How long operations on quotas are kept that happen once: a reservation may be settled for a day, and a day later that
/// is still known.
const OPERATIONS: TimeDelta = TimeDelta::hours(48);

/// How long changes are kept, in seconds; a replica that reads none for ten minutes starts anew.
const CHANGES_SECONDS: f64 = 3600.0;

/// How usage is kept.
#[derive(Clone, Copy, Debug)]
pub struct UpkeepOptions {
    /// How old an event may be when it is recorded.
    pub accepted_age: TimeDelta,
    /// How long raw events are kept.
    pub retention: TimeDelta,
}

/// Does all of it once. What fails does not keep the rest from being done; the first failure is returned.
pub async fn run_once(database: &Database, clock: &Clock, options: UpkeepOptions) -> Result<(), Error> {
    let outcomes = [
        make_partitions(database, clock, options).await,
        drop_partitions(database, clock, options).await,
        purge_organizations(database, clock).await,
        forget(database, clock).await,
    ];
    outcomes.into_iter().collect()
}

/// Makes the partitions that events of the next weeks need. Readers and writers go on meanwhile.
///
/// Error: `Conflict` when somebody else held the table for too long; nothing was made then.
pub async fn make_partitions(database: &Database, clock: &Clock, options: UpkeepOptions) -> Result<(), Error> {
    let mut scope = database.platform(&PermittedPlatform::system("upkeep"), Purpose::Upkeep).await?;
    let now = clock.now();
    let made = upkeep::create_usage_partitions(&mut scope, now - options.accepted_age, now + AHEAD).await?;
    scope.commit().await?;
    if !made.is_empty() {
        tracing::info!(?made, "usage partitions");
    }
    Ok(())
}

/// The same at start, before the first event, as often as it takes: the partition that it needs may be missing after weeks
/// without service. What is past its retention waits for [`run_once`], so that no reader keeps the service from starting.
///
/// Error: that of the last attempt, when none within `wait` did it.
pub async fn ensure_partitions(
    database: &Database,
    clock: &Clock,
    options: UpkeepOptions,
    wait: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + wait;
    loop {
        match make_partitions(database, clock, options).await {
            Err(error @ (Error::Conflict | Error::Unavailable { .. })) if Instant::now() < deadline => {
                tracing::warn!(%error, "the partitions of usage could not be made; it is tried again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Drops partitions past their retention. Apart, so that a reader in the way of a drop does not keep partitions from being
/// made.
async fn drop_partitions(database: &Database, clock: &Clock, options: UpkeepOptions) -> Result<(), Error> {
    let mut scope = database.platform(&PermittedPlatform::system("upkeep"), Purpose::Upkeep).await?;
    let dropped = upkeep::drop_usage_partitions(&mut scope, clock.now() - options.retention).await?;
    scope.commit().await?;
    if !dropped.is_empty() {
        tracing::info!(?dropped, "usage partitions past their retention");
    }
    Ok(())
}

async fn purge_organizations(database: &Database, clock: &Clock) -> Result<(), Error> {
    let permitted = PermittedPlatform::system("upkeep");
    let mut scope = database.platform(&permitted, Purpose::Upkeep).await?;
    let due = purge::due(&mut scope, clock.now()).await?;
    drop(scope);
    for organization in due {
        let mut scope = database.platform(&permitted, Purpose::Upkeep).await?;
        if purge::purge(&mut scope, organization, clock.now()).await? {
            scope.commit().await?;
            tracing::info!(%organization, "an organization was purged");
        }
    }
    Ok(())
}

async fn forget(database: &Database, clock: &Clock) -> Result<(), Error> {
    let permitted = PermittedPlatform::system("upkeep");
    let mut scope = database.platform(&permitted, Purpose::Upkeep).await?;
    idempotency::forget(&mut scope, clock.now() - REQUEST_IDS).await?;
    changes::prune(&mut scope, CHANGES_SECONDS).await?;
    allowance::forget(&mut scope, clock.now()).await?;
    quota::forget(&mut scope, clock.now(), clock.now() - OPERATIONS).await?;
    scope.commit().await
}

/// Goes on until `shutdown`. The first time was at start.
pub async fn run(database: &Database, clock: &Clock, options: UpkeepOptions, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = run_once(database, clock, options).await {
            tracing::warn!(%error, "upkeep failed; it is tried again");
        }
    }
}
