//! `InvitationService`, over the wire.

mod answers;
mod batches;
mod creation;
mod demo;
mod lists;
mod privileges;
mod races;
mod rates;

use prost_types::Duration;
use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, Tenant, World};

const REQUEST_ID: &str = "018f6d2e-0000-7000-8000-000000000001";
const NOBODY: &str = "018f6d2e-0000-7000-8000-00000000dead";

/// An invitation to be made, to nobody's team.
fn new(email: &str, role: &str) -> v1::NewInvitation {
    v1::NewInvitation { email: email.into(), role: role.into(), ..v1::NewInvitation::default() }
}

fn into_team(team_id: &str, role: v1::TeamRole) -> v1::InvitationTeam {
    v1::InvitationTeam { team_id: team_id.into(), role: role.into(), ..v1::InvitationTeam::default() }
}

fn days(days: i64) -> Option<Duration> {
    Some(Duration { seconds: days * 86_400, nanos: 0 })
}

/// Invites into the client's own organization.
async fn invite(client: &Client, invitation: v1::NewInvitation) -> Result<v1::CreateInvitationResponse, Status> {
    let request = v1::CreateInvitationRequest { invitation: Some(invitation), ..Default::default() };
    Ok(client.invitations().create_invitation(request).await?.into_inner())
}

/// The same where it must succeed: the invitation and its token.
async fn invited(client: &Client, email: &str, role: &str) -> (v1::Invitation, String) {
    let created = invite(client, new(email, role)).await.unwrap();
    (created.invitation.unwrap(), created.delivery.unwrap().token)
}

async fn get(client: &Client, invitation_id: &str) -> Result<v1::Invitation, Status> {
    let request = v1::GetInvitationRequest { invitation_id: invitation_id.into(), ..Default::default() };
    Ok(client.invitations().get_invitation(request).await?.into_inner().invitation.unwrap())
}

async fn by_token(client: &Client, token: &str) -> Result<v1::GetInvitationByTokenResponse, Status> {
    let request = v1::GetInvitationByTokenRequest { token: token.into() };
    Ok(client.invitations().get_invitation_by_token(request).await?.into_inner())
}

async fn resend(client: &Client, invitation_id: &str) -> Result<v1::ResendInvitationResponse, Status> {
    let request = v1::ResendInvitationRequest { invitation_id: invitation_id.into(), ..Default::default() };
    Ok(client.invitations().resend_invitation(request).await?.into_inner())
}

async fn revoke(client: &Client, invitation_id: &str) -> Result<v1::Invitation, Status> {
    let request = v1::RevokeInvitationRequest { invitation_id: invitation_id.into(), ..Default::default() };
    Ok(client.invitations().revoke_invitation(request).await?.into_inner().invitation.unwrap())
}

/// Accepts for a user who is there.
async fn accept(client: &Client, token: &str, user_id: &str) -> Result<v1::AcceptInvitationResponse, Status> {
    let request = v1::AcceptInvitationRequest { token: token.into(), user_id: user_id.into(), ..Default::default() };
    Ok(client.invitations().accept_invitation(request).await?.into_inner())
}

/// Accepts for one who is created.
async fn accept_as(client: &Client, token: &str, user: v1::User) -> Result<v1::AcceptInvitationResponse, Status> {
    let request = v1::AcceptInvitationRequest { token: token.into(), user: Some(user), ..Default::default() };
    Ok(client.invitations().accept_invitation(request).await?.into_inner())
}

async fn decline(client: &Client, token: &str) -> Result<v1::Invitation, Status> {
    let request = v1::DeclineInvitationRequest { token: token.into() };
    Ok(client.invitations().decline_invitation(request).await?.into_inner().invitation.unwrap())
}

fn person(email: &str) -> v1::User {
    v1::User { email: email.into(), display_name: "A person".into(), ..v1::User::default() }
}

/// A user of the platform, in no organization.
async fn user(world: &World, email: &str) -> String {
    let request = v1::CreateUserRequest { user: Some(person(email)), ..Default::default() };
    world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id
}

async fn team(tenant: &Tenant, name: &str) -> String {
    let team = v1::Team { display_name: name.into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), ..Default::default() };
    tenant.client.teams().create_team(request).await.unwrap().into_inner().team.unwrap().team_id
}

/// What the audit has of an invitation, the actions sorted.
async fn recorded(tenant: &Tenant, invitation_id: &str) -> Vec<String> {
    let filter = format!("resource_type = \"invitation\" AND resource_id = \"{invitation_id}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let events = tenant.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let mut actions: Vec<String> = events.into_iter().map(|event| event.action).collect();
    actions.sort_unstable();
    actions
}

/// A number that the database has.
async fn count(world: &World, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&world.database.superuser).await.unwrap()
}
