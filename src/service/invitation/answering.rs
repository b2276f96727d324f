//! Answers to invitations, from the platform, which has authenticated who answers.

use crate::auth::gate::deny_when_closed;
use crate::auth::invitation::Token;
use crate::auth::principal::Caller;
use crate::error::Error;
use crate::ids::UserId;
use crate::model::invitation::{Invitation, InvitationStatus};
use crate::proto::v1;
use crate::repository::scope::TenantScope;
use crate::repository::team::member as team_member;
use crate::repository::{invitation, member, organization, user};
use crate::service::convert::invitation::{self as convert, Accepting};
use crate::service::convert::member as member_convert;
use crate::service::idempotency;
use crate::service::invitation::Invitations;

impl Invitations {
    /// Makes whom the token was sent to a member, with all that belongs to it, or nothing.
    pub(super) async fn accept(
        &self,
        caller: &Caller,
        mut request: v1::AcceptInvitationRequest,
    ) -> Result<v1::AcceptInvitationResponse, Error> {
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let token: Token = request.token.parse()?;
        let accepting = convert::accepting(&request.user_id, request.user, token.organization_id())?;
        let permitted = self.permit(caller, &token).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(reply);
        }
        let before = presented(&mut scope, &token).await?;
        before.require_open(now)?;
        let user_id = match accepting {
            Accepting::Known(user_id) => user_id,
            Accepting::New(new) => {
                let (profile, private) = *new;
                require_invited(&before, &profile.email)?;
                let user_id = UserId::new(now);
                user::invited::create(&mut scope, user_id, &profile, &private, now).await?;
                user_id
            }
        };
        let member = member::add(&mut scope, user_id, &before.role, now).await?;
        // Not before: to this scope the address of a user is visible from the membership on.
        require_invited(&before, &member.email)?;
        member::require_room(&mut scope, 0).await?;
        for team in &before.teams {
            team_member::add(&mut scope, team.team_id, user_id, team.role, now).await?;
        }
        let after = Invitation { status: InvitationStatus::Accepted, accept_user_id: Some(user_id), ..before.clone() };
        let saved = invitation::save(&mut scope, "invitations.accept", &before, after, None, now).await?;
        let reply = v1::AcceptInvitationResponse {
            invitation: Some(convert::to_proto(saved, now)),
            member: Some(member_convert::to_proto(member)),
        };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(reply)
    }

    /// Declines for whom the token was sent to.
    pub(super) async fn decline(&self, caller: &Caller, token: &str) -> Result<Invitation, Error> {
        let token: Token = token.parse()?;
        let permitted = self.permit(caller, &token).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        let before = presented(&mut scope, &token).await?;
        if before.status == InvitationStatus::Declined {
            return Ok(before);
        }
        before.require_open(now)?;
        let after = Invitation { status: InvitationStatus::Declined, ..before.clone() };
        let saved = invitation::save(&mut scope, "invitations.decline", &before, after, None, now).await?;
        scope.commit().await?;
        Ok(saved)
    }
}

/// The invitation of a token, locked with its organization, which must be open.
async fn presented(scope: &mut TenantScope, token: &Token) -> Result<Invitation, Error> {
    let organization = organization::lock(scope).await?;
    deny_when_closed(&organization)?;
    invitation::lock_presented(scope, token).await
}

/// Fails with `INVITATION_EMAIL_MISMATCH` for somebody else than whom the invitation was sent to.
fn require_invited(invitation: &Invitation, email: &str) -> Result<(), Error> {
    if invitation.is_for(email) {
        return Ok(());
    }
    Err(Error::PermissionDenied {
        reason: "INVITATION_EMAIL_MISMATCH",
        message: "the invitation was sent to another address than that of the user who accepts".into(),
    })
}
