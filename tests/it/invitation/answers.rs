//! Accepting and declining.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use super::{
    REQUEST_ID, accept, accept_as, by_token, count, decline, get, into_team, invite, invited, new, person, recorded,
    resend, revoke, team, user,
};
use crate::harness::{Client, Tenant, World, refused};

async fn team_members(tenant: &Tenant, team_id: &str) -> Vec<(String, v1::TeamRole)> {
    let request = v1::ListTeamMembersRequest { team_id: team_id.into(), ..Default::default() };
    let listed = tenant.client.teams().list_team_members(request).await.unwrap().into_inner().team_members;
    listed.into_iter().map(|member| (member.user_id.clone(), member.role())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_known_becomes_a_member_and_is_in_the_teams_that_are_left() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let platform = world.service(&[Permission::InvitationsAccept], &[]).await;
    let ida = user(&world, "Ida@Example.com").await;
    let (squad, gone) = (team(&tenant, "Squad").await, team(&tenant, "Gone").await);
    let wanted = v1::NewInvitation {
        teams: vec![into_team(&squad, v1::TeamRole::Lead), into_team(&gone, v1::TeamRole::Member)],
        ..new("ida@example.com", "admin")
    };
    let created = invite(&tenant.client, wanted).await.unwrap();
    let (id, token) = (created.invitation.unwrap().invitation_id, created.delivery.unwrap().token);
    let request = v1::DeleteTeamRequest { team_id: gone, ..Default::default() };
    tenant.client.teams().delete_team(request).await.unwrap();
    assert_eq!(get(&tenant.client, &id).await.unwrap().teams.len(), 1);

    let accepted = accept(&platform, &token, &ida).await.unwrap();
    let (invitation, member) = (accepted.invitation.unwrap(), accepted.member.unwrap());
    assert_eq!((member.user_id.as_str(), member.role.as_str()), (ida.as_str(), "admin"));
    assert_eq!((invitation.status(), invitation.accept_user_id.as_str()), (v1::InvitationStatus::Accepted, &*ida));
    assert_eq!(team_members(&tenant, &squad).await, [(ida.clone(), v1::TeamRole::Lead)]);
    assert_eq!(recorded(&tenant, &id).await, ["invitations.accept", "invitations.create"]);
    // They can be acted for at once.
    let request = v1::GetMemberRequest { user_id: ida.clone(), ..Default::default() };
    let found = tenant.client.clone().acting(&ida).members().get_member(request).await.unwrap().into_inner();
    assert_eq!(found.member, Some(member));
    // Once is all.
    for refusal in [refused(accept(&platform, &token, &ida).await), refused(decline(&platform, &token).await)] {
        assert!(refusal.is(Code::FailedPrecondition, "INVITATION_ACCEPTED"), "{refusal:?}");
    }
    for refusal in [refused(resend(&tenant.client, &id).await), refused(revoke(&tenant.client, &id).await)] {
        assert!(refusal.is(Code::FailedPrecondition, "INVITATION_ACCEPTED"), "{refusal:?}");
    }
    assert_eq!(by_token(&platform, &token).await.unwrap().invitation.unwrap(), invitation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_known_becomes_a_user() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let squad = team(&tenant, "Squad").await;
    let teams = vec![into_team(&squad, v1::TeamRole::Member)];
    let wanted = v1::NewInvitation { teams, ..new("ida@example.com", "viewer") };
    let token = invite(&tenant.client, wanted).await.unwrap().delivery.unwrap().token;
    let ida = v1::User {
        email: "Ida@example.com".into(),
        display_name: "Ida B.".into(),
        avatar_uri: "https://cdn.example.com/ida.png".into(),
        locale: "it".into(),
        identity: Some(v1::ExternalIdentity { provider: "idp".into(), subject: "ida".into() }),
        ..v1::User::default()
    };
    // Somebody else's identity undoes all of it.
    let other = v1::User { email: "bob@example.com".into(), ..ida.clone() };
    let request = v1::CreateUserRequest { user: Some(other), ..Default::default() };
    let bob = world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap();
    let refusal = refused(accept_as(&world.operator(), &token, ida.clone()).await);
    assert!(refusal.is(Code::AlreadyExists, "IDENTITY_TAKEN"), "{refusal:?}");
    let free = v1::User { identity: None, ..ida.clone() };
    let refusal = refused(accept_as(&world.operator(), &token, person("bob@example.com")).await);
    assert!(refusal.is(Code::PermissionDenied, "INVITATION_EMAIL_MISMATCH"), "{refusal:?}");
    let refusal = refused(accept(&world.operator(), &token, &bob.user_id).await);
    assert!(refusal.is(Code::PermissionDenied, "INVITATION_EMAIL_MISMATCH"), "{refusal:?}");
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.users").await, 1);
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.members").await, 0);

    let request = v1::AcceptInvitationRequest {
        token: token.clone(),
        user: Some(free.clone()),
        request_id: REQUEST_ID.into(),
        ..Default::default()
    };
    let accept = async || world.operator().invitations().accept_invitation(request.clone()).await.unwrap().into_inner();
    let accepted = accept().await;
    assert_eq!(accept().await, accepted, "repeated");
    let user_id = accepted.member.unwrap().user_id;
    let request = v1::GetUserRequest { user_id: user_id.clone(), ..Default::default() };
    let found = world.operator().users().get_user(request).await.unwrap().into_inner().user.unwrap();
    let expected = v1::User {
        user_id: user_id.clone(),
        status: v1::UserStatus::Active.into(),
        settings: Some(prost_types::Struct::default()),
        default_organization_id: tenant.id.clone(),
        etag: found.etag.clone(),
        create_time: found.create_time,
        update_time: found.create_time,
        ..free
    };
    assert_eq!(found, expected);
    assert_eq!(team_members(&tenant, &squad).await, [(user_id.clone(), v1::TeamRole::Member)]);
    let filter = format!("action = \"users.create\" AND resource_id = \"{user_id}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let events = world.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    assert_eq!(events.len(), 1);

    // Whoever is there is named, not created.
    let (_, token) = invited(&tenant.client, "bob@example.com", "viewer").await;
    let refusal = refused(accept_as(&world.operator(), &token, person("BOB@example.com")).await);
    assert!(refusal.is(Code::AlreadyExists, "EMAIL_TAKEN"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_cannot_be_accepted() {
    let world = World::start_with(&["--invitations-per-hour", "0"]).await;
    let tenant = world.tenant("acme").await;
    let platform = world.operator();
    let ida = user(&world, "ida@example.com").await;
    let answers = async |token: &str| {
        [refused(accept(&platform, token, &ida).await), refused(decline(&platform, token).await)]
            .map(|refusal| (refusal.code, refusal.reason))
    };
    let closed = |reason: &str| (Code::FailedPrecondition, reason.to_owned());

    let (invitation, token) = invited(&tenant.client, "ida@example.com", "viewer").await;
    revoke(&tenant.client, &invitation.invitation_id).await.unwrap();
    assert_eq!(answers(&token).await, [closed("INVITATION_REVOKED"), closed("INVITATION_REVOKED")]);

    let (_, token) = invited(&tenant.client, "ida@example.com", "viewer").await;
    let declined = decline(&platform, &token).await.unwrap();
    assert_eq!(declined.status(), v1::InvitationStatus::Declined);
    assert_eq!(decline(&platform, &token).await.unwrap(), declined, "twice is once");
    assert_eq!(recorded(&tenant, &declined.invitation_id).await, ["invitations.create", "invitations.decline"]);
    let refusal = refused(accept(&platform, &token, &ida).await);
    assert!(refusal.is(Code::FailedPrecondition, "INVITATION_DECLINED"), "{refusal:?}");

    let (_, token) = invited(&tenant.client, "ida@example.com", "viewer").await;
    world.clock.advance(Duration::from_hours(7 * 24 - 1));
    by_token(&platform, &token).await.unwrap();
    world.clock.advance(Duration::from_hours(1));
    assert_eq!(answers(&token).await, [closed("INVITATION_EXPIRED"), closed("INVITATION_EXPIRED")]);
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.members").await, 0);

    // Who is no member any more can be invited again; who is one needs no invitation.
    let (_, token) = invited(&tenant.client, "ida@example.com", "viewer").await;
    let request = v1::AddMemberRequest { user_id: ida.clone(), role: "viewer".into(), ..Default::default() };
    tenant.client.members().add_member(request).await.unwrap();
    let refusal = refused(accept(&platform, &token, &ida).await);
    assert!(refusal.is(Code::AlreadyExists, "ALREADY_MEMBER"), "{refusal:?}");

    let (_, token) = invited(&tenant.client, "gone@example.com", "viewer").await;
    let gone = user(&world, "gone@example.com").await;
    let request = v1::DeactivateUserRequest { user_id: gone.clone(), ..Default::default() };
    platform.users().deactivate_user(request).await.unwrap();
    let refusal = refused(accept(&platform, &token, &gone).await);
    assert!(refusal.is(Code::FailedPrecondition, "USER_DEACTIVATED"), "{refusal:?}");
    let refusal = refused(accept(&platform, &token, super::NOBODY).await);
    assert!(refusal.is(Code::NotFound, "USER_NOT_FOUND"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_or_it_is_nothing() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let (_, token) = invited(&tenant.client, "ida@example.com", "viewer").await;
    let (_, theirs) = invited(&other.client, "ida@example.com", "viewer").await;
    let platform = world.operator();
    // A cut, a mistyped one, and the secret of another invitation.
    let mistyped = token.replace("inv_", "inv_1");
    for bad in ["", "inv_", &token[..80], &mistyped, &format!("{}{}", &token[..48], &theirs[48..])] {
        for refusal in [
            refused(by_token(&platform, bad).await),
            refused(accept_as(&platform, bad, person("ida@example.com")).await),
            refused(decline(&platform, bad).await),
        ] {
            assert!(refusal.is(Code::InvalidArgument, "INVITATION_TOKEN_MALFORMED"), "{bad}: {refusal:?}");
        }
    }
    // Well-formed, with a secret that it does not have.
    let parsed: tenancy::auth::invitation::Token = token.parse().unwrap();
    let made_up = tenancy::auth::invitation::Token::generate(parsed.organization_id(), parsed.invitation_id()).unwrap();
    let nowhere = tenancy::auth::invitation::Token::generate(parsed.organization_id(), uuid(&other).into()).unwrap();
    for bad in [made_up.expose(), nowhere.expose()] {
        let refusal = refused(accept_as(&platform, bad, person("ida@example.com")).await);
        assert!(refusal.is(Code::NotFound, "INVITATION_NOT_FOUND"), "{refusal:?}");
    }
    let nobodys = tenancy::auth::invitation::Token::generate(uuid_of(super::NOBODY).into(), parsed.invitation_id());
    let refusal = refused(decline(&platform, nobodys.unwrap().expose()).await);
    assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{refusal:?}");
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.users").await, 0);
}

fn uuid(tenant: &Tenant) -> sqlx::types::Uuid {
    uuid_of(&tenant.id)
}

fn uuid_of(text: &str) -> sqlx::types::Uuid {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_organization_takes_nobody_in() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (_, token) = invited(&tenant.client, "ida@example.com", "viewer").await;
    let operator = world.operator();
    let answers = async |client: &Client| {
        [
            refused(by_token(client, &token).await),
            refused(accept_as(client, &token, person("ida@example.com")).await),
            refused(decline(client, &token).await),
        ]
        .map(|refusal| refusal.reason)
    };
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    operator.organizations().suspend_organization(request).await.unwrap();
    assert_eq!(answers(&operator).await, ["ORGANIZATION_SUSPENDED"; 3]);
    let request = v1::ResumeOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    operator.organizations().resume_organization(request).await.unwrap();
    let request = v1::DeleteOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    operator.organizations().delete_organization(request).await.unwrap();
    assert_eq!(answers(&operator).await, ["ORGANIZATION_DELETED"; 3]);
    let request = v1::UndeleteOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    operator.organizations().undelete_organization(request).await.unwrap();
    accept_as(&operator, &token, person("ida@example.com")).await.unwrap();
}
