//! When somebody last acted for the members of tenants.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::repository::scope::IngestScope;

/// Writes activity, each unless a later one is known. The scope must name the organizations.
pub async fn write(scope: &mut IngestScope, activity: &[(OrganizationId, UserId, DateTime<Utc>)]) -> Result<(), Error> {
    let organizations: Vec<Uuid> = activity.iter().map(|(organization, ..)| organization.uuid()).collect();
    let users: Vec<Uuid> = activity.iter().map(|(_, user, _)| user.uuid()).collect();
    let times: Vec<DateTime<Utc>> = activity.iter().map(|(.., at)| *at).collect();
    sqlx::query!(
        "INSERT INTO tenancy.member_activity AS m (organization_id, user_id, last_activity_time)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[])
         ON CONFLICT ON CONSTRAINT member_activity_pkey
         DO UPDATE SET last_activity_time = GREATEST(m.last_activity_time, excluded.last_activity_time)",
        &organizations,
        &users,
        &times
    )
    .execute(&mut *scope)
    .await?;
    Ok(())
}
