//! The cases of invitations, and one that is open.

use tenancy::proto::v1;

use super::{Case, Furnished, case};
use crate::harness::Tenant;

/// An open invitation into a team; its id and its token.
pub async fn invitation(tenant: &Tenant, team_id: &str) -> (String, String) {
    let request = v1::CreateInvitationRequest { invitation: Some(new(team_id)), ..Default::default() };
    let created = tenant.client.invitations().create_invitation(request).await.unwrap().into_inner();
    (created.invitation.unwrap().invitation_id, created.delivery.unwrap().token)
}

fn new(team_id: &str) -> v1::NewInvitation {
    v1::NewInvitation {
        email: "invited@example.com".into(),
        role: "viewer".into(),
        teams: vec![v1::InvitationTeam { team_id: team_id.into(), ..v1::InvitationTeam::default() }],
        ttl: None,
    }
}

/// The cases, for a victim.
pub fn cases(victim: &Furnished) -> Vec<Case> {
    let theirs = || victim.tenant.id.clone();
    let (invitation_id, token) = (|| victim.invitation_id.clone(), || victim.token.clone());
    let create = |organization_id: String| v1::CreateInvitationRequest {
        organization_id,
        invitation: Some(new(&victim.team_id)),
        ..Default::default()
    };
    let batch = |organization_id: String| v1::BatchCreateInvitationsRequest {
        organization_id,
        invitations: vec![new(&victim.team_id)],
        ..Default::default()
    };
    let get = |organization_id: String| v1::GetInvitationRequest { organization_id, invitation_id: invitation_id() };
    let resend = |organization_id: String| v1::ResendInvitationRequest {
        organization_id,
        invitation_id: invitation_id(),
        ..Default::default()
    };
    let revoke = |organization_id: String| v1::RevokeInvitationRequest {
        organization_id,
        invitation_id: invitation_id(),
        ..Default::default()
    };
    let (own, missing) = (String::new, "INVITATION_NOT_FOUND");
    vec![
        case("/tenancy.v1.InvitationService/CreateInvitation")
            .organization(create(theirs()))
            .resource(create(own()), "TEAM_NOT_FOUND"),
        // Of one in the caller's own organization, the result says that there is no such team.
        case("/tenancy.v1.InvitationService/BatchCreateInvitations").organization(batch(theirs())),
        case("/tenancy.v1.InvitationService/GetInvitation").organization(get(theirs())).resource(get(own()), missing),
        case("/tenancy.v1.InvitationService/ListInvitations")
            .organization(v1::ListInvitationsRequest { organization_id: theirs(), ..Default::default() }),
        case("/tenancy.v1.InvitationService/ResendInvitation")
            .organization(resend(theirs()))
            .resource(resend(own()), missing),
        case("/tenancy.v1.InvitationService/RevokeInvitation")
            .organization(revoke(theirs()))
            .resource(revoke(own()), missing),
        // The token names the organization.
        case("/tenancy.v1.InvitationService/GetInvitationByToken")
            .organization(v1::GetInvitationByTokenRequest { token: token() }),
        case("/tenancy.v1.InvitationService/AcceptInvitation").organization(v1::AcceptInvitationRequest {
            token: token(),
            user_id: victim.user_id.clone(),
            ..Default::default()
        }),
        case("/tenancy.v1.InvitationService/DeclineInvitation")
            .organization(v1::DeclineInvitationRequest { token: token() }),
    ]
}
