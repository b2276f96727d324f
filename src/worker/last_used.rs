//! Writes when keys were last used, and when somebody last acted for a member.
//!
//! A crash loses the last half minute of it; that is what a last-used time is worth, and why it is not in the audit.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::auth::last_used::{LastUsed, Notes};
use crate::auth::principal::PermittedPlatform;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{api_key_use, member_activity, platform_key};

/// How often what was noted is written.
const INTERVAL: Duration = Duration::from_secs(30);

/// The most keys or members of tenants written in one transaction.
const BATCH: usize = 1000;

/// When something of a tenant was last used.
type Use<T> = (OrganizationId, T, DateTime<Utc>);

/// Writes what was noted. What cannot be written now is noted again for the next time.
pub async fn run_once(last_used: &LastUsed, database: &Database) -> Result<(), Error> {
    let Notes { tenants, platform, members } = last_used.take();
    let uses = sorted(&tenants);
    let activity = sorted(&members);
    let written = async {
        for batch in uses.chunks(BATCH) {
            let mut scope = database.ingest(organizations(batch)).await?;
            api_key_use::write(&mut scope, batch).await?;
            scope.commit().await?;
        }
        for batch in activity.chunks(BATCH) {
            let mut scope = database.ingest(organizations(batch)).await?;
            member_activity::write(&mut scope, batch).await?;
            scope.commit().await?;
        }
        if !platform.is_empty() {
            let mut scope = database.platform(&PermittedPlatform::system("last_used"), Purpose::PlatformKeys).await?;
            platform_key::write_uses(&mut scope, &platform).await?;
            scope.commit().await?;
        }
        Ok(())
    }
    .await;
    if written.is_err() {
        // Writing a use twice does no harm.
        last_used.put_back(Notes { tenants, platform, members });
    }
    written
}

/// Goes on until `shutdown`, and writes once more then.
pub async fn run(last_used: &LastUsed, database: &Database, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => {}
        }
        if let Err(error) = run_once(last_used, database).await {
            tracing::warn!(%error, "the last uses of keys could not be written");
        }
        if shutdown.is_cancelled() {
            return;
        }
    }
}

/// In the order of the rows' keys, so that replicas that write the same rows do not deadlock.
fn sorted<T: Copy + Ord>(noted: &HashMap<(OrganizationId, T), DateTime<Utc>>) -> Vec<Use<T>> {
    let mut uses: Vec<Use<T>> = noted.iter().map(|((organization, id), at)| (*organization, *id, *at)).collect();
    uses.sort_unstable();
    uses
}

fn organizations<T>(batch: &[Use<T>]) -> Vec<OrganizationId> {
    let mut organizations: Vec<_> = batch.iter().map(|(organization, ..)| *organization).collect();
    organizations.dedup();
    organizations
}
