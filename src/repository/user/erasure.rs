//! Erasing a person: what is known of them goes, also from the records of what was done to them; that it was done stays.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::model::user::{User, UserStatus, tombstone};
use crate::repository::audit_event::{self, Happened};
use crate::repository::changes::{self, Change};
use crate::repository::invitation;
use crate::repository::scope::PlatformScope;
use crate::repository::user::RESOURCE;

/// Erases a locked user, and tells the caches.
pub async fn erase(scope: &mut PlatformScope, before: &User, now: DateTime<Utc>) -> Result<User, Error> {
    invitation::erasure::forget(scope, before, now).await?;
    let profile = tombstone(before.user_id);
    let revision = sqlx::query_scalar!(
        "UPDATE tenancy.users
         SET email = $2, display_name = $3, avatar_uri = $4, locale = $5, status = 'erased', erase_time = $6,
             identity_provider = '', external_id = '', settings = '{}', default_organization_id = NULL,
             update_time = $6, revision = revision + 1
         WHERE user_id = $1 RETURNING revision",
        before.user_id.uuid(),
        profile.email,
        profile.display_name,
        profile.avatar_uri,
        profile.locale,
        now
    )
    .fetch_one(&mut *scope)
    .await?;
    let id = before.user_id.to_string();
    // The records keep who did what and when.
    sqlx::query!("SELECT tenancy.erase_user_records($1)", before.user_id.uuid()).execute(&mut *scope).await?;
    // Replies that are kept for repeated requests spell the person out; those of tenants go with their day.
    sqlx::query!(
        "DELETE FROM tenancy.platform_idempotent_requests
         WHERE method LIKE '/tenancy.v1.UserService/%' AND position(convert_to($1, 'UTF8') IN reply) > 0",
        id
    )
    .execute(&mut *scope)
    .await?;
    let after = User { profile, status: UserStatus::Erased, revision, update_time: now, ..before.clone() };
    let happened = Happened { at: now, action: "users.erase", resource_type: RESOURCE, resource_id: &id };
    audit_event::record_of_platform(scope, happened, None::<&User>, Some(&after)).await?;
    changes::announce(scope, &Change::User(after.user_id)).await?;
    Ok(after)
}
