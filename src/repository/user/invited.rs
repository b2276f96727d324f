//! Users whom an invitation makes: the one way in which a tenant's scope creates any.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::{OrganizationId, UserId};
use crate::model::user::{Private, Profile, User, UserStatus};
use crate::repository::audit_event::{self, Happened};
use crate::repository::error::constraint;
use crate::repository::scope::TenantScope;
use crate::repository::user::{RESOURCE, Whole, email_taken, private};

/// Creates a user whom the scope's organization invited: the address must have an invitation that is pending, or row level
/// security refuses it. The scope does not see the user before they are a member. Errors: `EMAIL_TAKEN`, `IDENTITY_TAKEN`.
pub async fn create(
    scope: &mut TenantScope,
    user_id: UserId,
    profile: &Profile,
    private: &Private,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let identity = private.identity.as_ref();
    sqlx::query!(
        "INSERT INTO tenancy.users (user_id, email, display_name, avatar_uri, locale, identity_provider, external_id, settings,
             default_organization_id, create_time, update_time)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
        user_id.uuid(),
        profile.email,
        profile.display_name,
        profile.avatar_uri,
        profile.locale,
        identity.map_or("", |identity| identity.provider.as_str()),
        identity.map_or("", |identity| identity.subject.as_str()),
        private.settings,
        private.default_organization_id.map(OrganizationId::uuid),
        now
    )
    .execute(&mut *scope)
    .await
    .map_err(|error| match constraint(&error) {
        Some("users_email_key") => email_taken(&profile.email),
        Some("users_identity_key") => private::identity_taken(identity),
        _ => error.into(),
    })?;
    let user = User {
        user_id,
        profile: profile.clone(),
        status: UserStatus::Active,
        revision: 1,
        create_time: now,
        update_time: now,
    };
    let id = user_id.to_string();
    let happened = Happened { at: now, action: "users.create", resource_type: RESOURCE, resource_id: &id };
    let whole = Whole { user: &user, private };
    audit_event::record_of_platform(scope, happened, None::<&Whole>, Some(&whole)).await
}
