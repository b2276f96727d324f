//! What is left of invitations to a person who was erased: that somebody was invited.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::error::Error;
use crate::ids::{InvitationId, OrganizationId};
use crate::model::user::{User, email_key};
use crate::repository::audit_event::{self, Happened};
use crate::repository::invitation::RESOURCE;
use crate::repository::scope::PlatformScope;

/// Erases the address of a locked user from all invitations to it, and from those that they accepted; what nobody answered
/// is revoked. An invitation to an address that they had before is not known to be theirs.
///
/// Before the user's own row is changed: whoever accepts one of these invitations holds its row, and then wants the user's.
pub async fn forget(scope: &mut PlatformScope, user: &User, now: DateTime<Utc>) -> Result<(), Error> {
    let erased = sqlx::query!(
        r#"UPDATE tenancy.invitations
           SET email = invitation_id::text || '@erased.invalid', update_time = $3, revision = revision + 1,
               status = CASE status WHEN 'pending' THEN 'revoked' ELSE status END
           WHERE email_key = $1 OR accept_user_id = $2
           RETURNING organization_id AS "organization_id: OrganizationId", invitation_id AS "invitation_id: InvitationId",
               status"#,
        email_key(&user.profile.email),
        user.user_id.uuid(),
        now
    )
    .fetch_all(&mut *scope)
    .await?;
    for invitation in erased {
        let id = invitation.invitation_id.to_string();
        let happened = Happened { at: now, action: "invitations.erase", resource_type: RESOURCE, resource_id: &id };
        let after = json!({"invitation_id": id, "status": invitation.status, "erased": true});
        audit_event::record_of(scope, invitation.organization_id, happened, None::<&()>, Some(&after)).await?;
    }
    Ok(())
}
