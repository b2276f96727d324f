//! Writes when keys were last used.
//!
//! A crash loses the last half minute of it; that is what a last-used time is worth, and why it is not in the audit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::auth::last_used::{LastUsed, Notes};
use crate::auth::principal::PermittedPlatform;
use crate::error::Error;
use crate::ids::{ApiKeyId, OrganizationId};
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{api_key_use, platform_key};

/// How often what was noted is written.
const INTERVAL: Duration = Duration::from_secs(30);

/// The most keys of tenants written in one transaction.
const BATCH: usize = 1000;

/// A use of a tenant's key.
type Use = (OrganizationId, ApiKeyId, DateTime<Utc>);

/// Writes what was noted. What cannot be written now is noted again for the next time.
pub async fn run_once(last_used: &LastUsed, database: &Database) -> Result<(), Error> {
    let Notes { tenants, platform } = last_used.take();
    let mut uses: Vec<Use> = tenants.iter().map(|((organization, key), at)| (*organization, *key, *at)).collect();
    // In the order of the key, so that replicas that write the same rows do not deadlock.
    uses.sort_unstable();
    let written = async {
        for batch in uses.chunks(BATCH) {
            let mut scope = database.ingest(organizations(batch)).await?;
            api_key_use::write(&mut scope, batch).await?;
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
        last_used.put_back(Notes { tenants, platform });
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

fn organizations(batch: &[Use]) -> Vec<OrganizationId> {
    let mut organizations: Vec<_> = batch.iter().map(|(organization, ..)| *organization).collect();
    organizations.dedup();
    organizations
}
