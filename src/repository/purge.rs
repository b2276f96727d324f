//! The end of deleted organizations.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::scope::PlatformScope;

/// The organizations whose purge time has come, a hundred at the most.
pub async fn due(scope: &mut PlatformScope, now: DateTime<Utc>) -> Result<Vec<OrganizationId>, Error> {
    let due = sqlx::query_scalar!(
        "SELECT organization_id FROM tenancy.organizations WHERE purge_time <= $1 ORDER BY purge_time LIMIT 100",
        now
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(due.into_iter().map(OrganizationId::from).collect())
}

/// Removes everything of an organization if its purge is still due; tells whether it was.
pub async fn purge(scope: &mut PlatformScope, id: OrganizationId, now: DateTime<Utc>) -> Result<bool, Error> {
    let purged = sqlx::query_scalar!(r#"SELECT tenancy.purge_organization($1, $2) AS "purged!""#, id.uuid(), now)
        .fetch_one(&mut *scope)
        .await?;
    if purged {
        let name = id.to_string();
        let happened =
            Happened { at: now, action: "organizations.purge", resource_type: "organization", resource_id: &name };
        audit_event::record(scope, happened, None::<&()>, None::<&()>).await?;
        changes::announce(scope, &Change::Organization(id)).await?;
    }
    Ok(purged)
}
