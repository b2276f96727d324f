//! `InvitationService`.
//!
//! Whoever is invited is looked up nowhere but among the organization's own members, so that an answer tells nothing of who
//! else uses the platform. [`issuing`] makes invitations, one as many; [`answering`] is what becomes of them.

mod answering;
mod issuing;

use tonic::{Request, Response, Status};

use crate::auth::gate::deny_when_closed;
use crate::auth::invitation::Token;
use crate::auth::principal::{Caller, Permitted};
use crate::error::{Error, Violation};
use crate::filter::Filter;
use crate::ids::InvitationId;
use crate::model::etag;
use crate::model::invitation::{Invitation, InvitationStatus, Inviter, MOST_AT_ONCE};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::invitation_service_server::InvitationService;
use crate::repository::allowance::Allowance;
use crate::repository::invitation::{self, Narrow};
use crate::repository::scope::TenantScope;
use crate::repository::{member, organization};
use crate::service::convert::invitation as convert;
use crate::service::member::of_role;
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Invitations {
    /// What it works with.
    pub shared: Shared,
    /// How often somebody may invite.
    pub allowance: Allowance,
}

#[tonic::async_trait]
impl InvitationService for Invitations {
    async fn create_invitation(
        &self,
        request: Request<v1::CreateInvitationRequest>,
    ) -> Result<Response<v1::CreateInvitationResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let new = convert::new_invitation(request.invitation.unwrap_or_default());
        let new = new.map_err(|error| error.within("invitation"))?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let mut issued = self.issue(&mut scope, &permitted, vec![Ok(new)], now).await?;
        let one = issued.results.pop().ok_or_else(|| Error::internal("an invitation without a result"))??;
        let mut reply = v1::CreateInvitationResponse {
            invitation: Some(convert::to_proto(one.invitation.clone(), now)),
            delivery: None,
            delivery_omitted_reason: idempotency::ALREADY_SHOWN.into(),
        };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        reply.delivery = Some(issued.letterhead.delivery(&one));
        reply.delivery_omitted_reason.clear();
        Ok(Response::new(reply))
    }

    async fn batch_create_invitations(
        &self,
        request: Request<v1::BatchCreateInvitationsRequest>,
    ) -> Result<Response<v1::BatchCreateInvitationsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        if !(1..=MOST_AT_ONCE).contains(&request.invitations.len()) {
            let rule = format!("must be 1 to {MOST_AT_ONCE} invitations");
            return Err(Error::from(Violation::new("invitations", rule)).into());
        }
        let wanted = request.invitations.into_iter().map(convert::new_invitation).collect();
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let issued = self.issue(&mut scope, &permitted, wanted, now).await?;
        let result = |one: &Result<issuing::Issued, Error>| match one {
            Ok(one) => v1::InvitationResult {
                invitation: Some(convert::to_proto(one.invitation.clone(), now)),
                delivery_omitted_reason: idempotency::ALREADY_SHOWN.into(),
                ..v1::InvitationResult::default()
            },
            Err(error) => convert::refused(error),
        };
        let mut reply = v1::BatchCreateInvitationsResponse { results: issued.results.iter().map(result).collect() };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        for (result, one) in reply.results.iter_mut().zip(&issued.results) {
            if let Ok(one) = one {
                result.delivery = Some(issued.letterhead.delivery(one));
                result.delivery_omitted_reason.clear();
            }
        }
        Ok(Response::new(reply))
    }

    async fn get_invitation(
        &self,
        request: Request<v1::GetInvitationRequest>,
    ) -> Result<Response<v1::GetInvitationResponse>, Status> {
        let (caller, request) = open(request)?;
        let id: InvitationId = request.invitation_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = invitation::get(&mut scope, id).await?;
        Ok(Response::new(v1::GetInvitationResponse { invitation: Some(self.to_proto(found)) }))
    }

    async fn get_invitation_by_token(
        &self,
        request: Request<v1::GetInvitationByTokenRequest>,
    ) -> Result<Response<v1::GetInvitationByTokenResponse>, Status> {
        let (caller, request) = open(request)?;
        let token: Token = request.token.parse()?;
        let permitted = self.permit(&caller, &token).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let organization = organization::get(&mut scope).await?;
        deny_when_closed(&organization)?;
        // Locked: who asks while somebody answers is told what the answer was.
        let found = invitation::lock_presented(&mut scope, &token).await?;
        let inviter = inviter_name(&mut scope, &found.inviter).await?;
        let delivery = convert::delivery(&organization, &inviter, &found, "");
        Ok(Response::new(v1::GetInvitationByTokenResponse {
            invitation: Some(self.to_proto(found)),
            delivery: Some(delivery),
        }))
    }

    async fn list_invitations(
        &self,
        request: Request<v1::ListInvitationsRequest>,
    ) -> Result<Response<v1::ListInvitationsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let filter = Filter::parse(&request.filter, &["email", "status"])?;
        let narrow = Narrow {
            status: filter.get_as("status", convert::read_status)?,
            email: filter.get("email").map(str::to_owned),
            role: None,
        };
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        let mut found = invitation::list(&mut scope, &narrow, now, &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.invitation_id.uuid() });
        let invitations = found.into_iter().map(|found| convert::to_proto(found, now)).collect();
        Ok(Response::new(v1::ListInvitationsResponse { invitations, next_page_token }))
    }

    async fn resend_invitation(
        &self,
        request: Request<v1::ResendInvitationRequest>,
    ) -> Result<Response<v1::ResendInvitationResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let id: InvitationId = request.invitation_id.parse()?;
        let ttl = convert::ttl("ttl", request.ttl).map_err(Error::from)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let organization = organization::lock(&mut scope).await?;
        let before = locked(&mut scope, &permitted, id, &request.etag).await?;
        before.require_unanswered()?;
        self.take_one(&mut scope, &permitted, now).await?;
        let token = Token::generate(before.organization_id, id)?;
        let after = Invitation { expire_time: now + ttl, ..before.clone() };
        let saved = invitation::save(&mut scope, "invitations.resend", &before, after, Some(token.hash()), now).await?;
        let mut reply = v1::ResendInvitationResponse {
            invitation: Some(convert::to_proto(saved.clone(), now)),
            delivery: None,
            delivery_omitted_reason: idempotency::ALREADY_SHOWN.into(),
        };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        let inviter = invitation::inviter(&scope);
        let inviter = inviter_name(&mut scope, &inviter).await?;
        scope.commit().await?;
        reply.delivery = Some(convert::delivery(&organization, &inviter, &saved, token.expose()));
        reply.delivery_omitted_reason.clear();
        Ok(Response::new(reply))
    }

    async fn revoke_invitation(
        &self,
        request: Request<v1::RevokeInvitationRequest>,
    ) -> Result<Response<v1::RevokeInvitationResponse>, Status> {
        let (caller, request) = open(request)?;
        let id: InvitationId = request.invitation_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        organization::lock(&mut scope).await?;
        let before = locked(&mut scope, &permitted, id, &request.etag).await?;
        if before.status == InvitationStatus::Revoked {
            return Ok(Response::new(v1::RevokeInvitationResponse { invitation: Some(self.to_proto(before)) }));
        }
        before.require_unanswered()?;
        let after = Invitation { status: InvitationStatus::Revoked, ..before.clone() };
        let now = self.shared.clock.now();
        let saved = invitation::save(&mut scope, "invitations.revoke", &before, after, None, now).await?;
        scope.commit().await?;
        Ok(Response::new(v1::RevokeInvitationResponse { invitation: Some(self.to_proto(saved)) }))
    }

    async fn accept_invitation(
        &self,
        request: Request<v1::AcceptInvitationRequest>,
    ) -> Result<Response<v1::AcceptInvitationResponse>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.accept(&caller, request).await?))
    }

    async fn decline_invitation(
        &self,
        request: Request<v1::DeclineInvitationRequest>,
    ) -> Result<Response<v1::DeclineInvitationResponse>, Status> {
        let (caller, request) = open(request)?;
        let declined = self.decline(&caller, &request.token).await?;
        Ok(Response::new(v1::DeclineInvitationResponse { invitation: Some(self.to_proto(declined)) }))
    }
}

impl Invitations {
    fn to_proto(&self, invitation: Invitation) -> v1::Invitation {
        convert::to_proto(invitation, self.shared.clock.now())
    }

    /// Into the organization that a token names.
    async fn permit(&self, caller: &Caller, token: &Token) -> Result<Permitted, Error> {
        self.shared.gate.tenant(caller, &token.organization_id().to_string()).await
    }
}

/// An invitation of the locked organization, locked, as the caller last saw it. Errors: `OWNER_REQUIRED`,
/// `PRIVILEGE_ESCALATION`.
async fn locked(
    scope: &mut TenantScope,
    permitted: &Permitted,
    id: InvitationId,
    etag: &str,
) -> Result<Invitation, Error> {
    let before = invitation::lock(scope, id).await?;
    permitted.require_owner(before.role.is_owner())?;
    // The role of one that was answered may be gone.
    if before.status == InvitationStatus::Pending {
        permitted.require_held(of_role(scope, &before.role).await?)?;
    }
    etag::check(invitation::RESOURCE, etag, before.revision)?;
    Ok(before)
}

/// The name of the user who invited; empty for who is none, or no member any more.
async fn inviter_name(scope: &mut TenantScope, inviter: &Inviter) -> Result<String, Error> {
    let Some(user) = inviter.acting_user_id else { return Ok(String::new()) };
    match member::get(scope, user).await {
        Ok(member) => Ok(member.display_name),
        Err(Error::NotFound { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}
