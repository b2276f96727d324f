//! Who can be invited, and what comes back.

use prost_types::Timestamp;
use tenancy::proto::v1;
use tonic::Code;

use super::{
    NOBODY, REQUEST_ID, by_token, days, get, into_team, invite, invited, new, recorded, resend, revoke, team, user,
};
use crate::harness::{World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_what_was_asked_for_and_its_delivery_has_all_that_a_mail_takes() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let ida = tenant.member(&world, "ida", "admin").await;
    let (squad, guild) = (team(&tenant, "Squad").await, team(&tenant, "Guild").await);
    let branding = v1::Branding { logo_uri: "https://cdn.example.com/a.png".into(), ..v1::Branding::default() };
    let request = v1::UpdateOrganizationRequest {
        organization: Some(v1::Organization { branding: Some(branding), locale: "it".into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["branding.logo_uri".into(), "locale".into()] }),
        ..Default::default()
    };
    tenant.client.organizations().update_organization(request).await.unwrap();

    let before = world.clock.now();
    let wanted = v1::NewInvitation {
        teams: vec![into_team(&guild, v1::TeamRole::Lead), into_team(&squad, v1::TeamRole::Unspecified)],
        ttl: days(30),
        ..new("New.Engineer@Example.com", "member")
    };
    let created = invite(&tenant.client.clone().acting(&ida), wanted).await.unwrap();
    let (invitation, delivery) = (created.invitation.unwrap(), created.delivery.unwrap());
    let teams = |name: &str, team_id: &str, role: v1::TeamRole| v1::InvitationTeam {
        display_name: name.into(),
        ..into_team(team_id, role)
    };
    let expected = v1::Invitation {
        organization_id: tenant.id.clone(),
        invitation_id: invitation.invitation_id.clone(),
        email: "New.Engineer@Example.com".into(),
        role: "member".into(),
        teams: vec![teams("Guild", &guild, v1::TeamRole::Lead), teams("Squad", &squad, v1::TeamRole::Member)],
        status: v1::InvitationStatus::Pending.into(),
        expire_time: invitation.expire_time,
        inviter: Some(v1::AuditActor { r#type: v1::AuditActorType::ApiKey.into(), id: tenant.key_id.clone() }),
        inviter_user_id: ida,
        accept_user_id: String::new(),
        etag: invitation.etag.clone(),
        create_time: invitation.create_time,
        update_time: invitation.create_time,
    };
    assert_eq!(invitation, expected);
    let days_left = |time: Option<Timestamp>| (time.unwrap().seconds - before.timestamp() + 60) / 86_400;
    assert_eq!(days_left(invitation.expire_time), 30);
    let expected = v1::InvitationDelivery {
        email: invitation.email.clone(),
        token: delivery.token.clone(),
        organization_id: tenant.id.clone(),
        organization_slug: "acme".into(),
        organization_display_name: "ACME".into(),
        organization_logo_uri: "https://cdn.example.com/a.png".into(),
        locale: "it".into(),
        inviter_display_name: "ida".into(),
        role: "member".into(),
        team_display_names: vec!["Guild".into(), "Squad".into()],
        expire_time: invitation.expire_time,
    };
    assert_eq!(delivery, expected);
    assert!(delivery.token.starts_with("inv_") && delivery.token.len() == 81, "{}", delivery.token);

    // The teams come in the order of the tree afterwards.
    let mut found = get(&tenant.client, &invitation.invitation_id).await.unwrap();
    found.teams.reverse();
    assert_eq!(found, invitation);
    let shown = by_token(&world.operator(), &delivery.token).await.unwrap();
    assert_eq!(shown.invitation.unwrap().invitation_id, invitation.invitation_id);
    let mut delivered = shown.delivery.unwrap();
    delivered.team_display_names.reverse();
    assert_eq!(delivered, v1::InvitationDelivery { token: String::new(), ..delivery });
    assert_eq!(recorded(&tenant, &invitation.invitation_id).await, ["invitations.create"]);

    let (week, _) = invited(&tenant.client, "b@example.com", "viewer").await;
    assert_eq!((days_left(week.expire_time), week.inviter_user_id.as_str()), (7, ""));
}

/// What differs between any two invitations is taken out; all else has to be the same.
fn leveled(reply: v1::CreateInvitationResponse) -> v1::CreateInvitationResponse {
    let (invitation, delivery) = (reply.invitation.unwrap(), reply.delivery.unwrap());
    assert_eq!((invitation.invitation_id.len(), delivery.token.len()), (36, 81));
    v1::CreateInvitationResponse {
        invitation: Some(v1::Invitation {
            invitation_id: String::new(),
            email: String::new(),
            expire_time: None,
            create_time: None,
            update_time: None,
            ..invitation
        }),
        delivery: Some(v1::InvitationDelivery {
            email: String::new(),
            token: String::new(),
            expire_time: None,
            ..delivery
        }),
        ..reply
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_known_elsewhere_is_invited_as_who_is_not() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    user(&world, "known@example.com").await;
    other.member(&world, "theirs", "owner").await;
    let deactivated = user(&world, "gone@example.com").await;
    let request = v1::DeactivateUserRequest { user_id: deactivated, ..Default::default() };
    world.operator().users().deactivate_user(request).await.unwrap();

    let unknown = leveled(invite(&tenant.client, new("nobody@example.com", "viewer")).await.unwrap());
    for known in ["known@example.com", "KNOWN@example.org", "theirs@other.example.com", "gone@example.com"] {
        assert_eq!(leveled(invite(&tenant.client, new(known, "viewer")).await.unwrap()), unknown, "{known}");
    }
    // One's own members one knows.
    tenant.member(&world, "ours", "viewer").await;
    let refusal = refused(invite(&tenant.client, new("Ours@ACME.example.com", "viewer")).await);
    assert!(refusal.is(Code::AlreadyExists, "ALREADY_MEMBER") && refusal.fields == ["invitation.email"], "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_invitation_takes_the_place_of_the_old_one() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let (first, old) = invited(&tenant.client, "ida@example.com", "viewer").await;
    let (elsewhere, theirs) = invited(&other.client, "ida@example.com", "viewer").await;
    let (second, new) = invited(&tenant.client, "IDA@example.com", "admin").await;
    let operator = world.operator();
    let status = async |id: &str| get(&tenant.client, id).await.unwrap().status();
    assert_eq!(status(&first.invitation_id).await, v1::InvitationStatus::Replaced);
    assert_eq!(status(&second.invitation_id).await, v1::InvitationStatus::Pending);
    assert_eq!(recorded(&tenant, &first.invitation_id).await, ["invitations.create", "invitations.replace"]);
    let refusal = refused(super::accept_as(&operator, &old, super::person("ida@example.com")).await);
    assert!(refusal.is(Code::FailedPrecondition, "INVITATION_REPLACED"), "{refusal:?}");
    for refusal in [
        refused(resend(&tenant.client, &first.invitation_id).await),
        refused(revoke(&tenant.client, &first.invitation_id).await),
    ] {
        assert!(refusal.is(Code::FailedPrecondition, "INVITATION_REPLACED"), "{refusal:?}");
    }
    // The other organization's is as it was.
    assert_eq!(get(&other.client, &elsewhere.invitation_id).await.unwrap(), elsewhere);
    assert_eq!(by_token(&operator, &theirs).await.unwrap().invitation.unwrap(), elsewhere);
    let accepted = super::accept_as(&operator, &new, super::person("ida@example.com")).await.unwrap();
    assert_eq!(accepted.member.unwrap().role, "admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resending_makes_another_token_and_voids_the_old_one() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (invitation, old) = invited(&tenant.client, "ida@example.com", "viewer").await;
    // Also one that has expired.
    world.clock.advance(std::time::Duration::from_hours(8 * 24));
    let expired = get(&tenant.client, &invitation.invitation_id).await.unwrap();
    assert_eq!(expired.status(), v1::InvitationStatus::Expired);
    let request = v1::ResendInvitationRequest {
        invitation_id: invitation.invitation_id.clone(),
        etag: "stale".into(),
        ..Default::default()
    };
    let refusal = refused(tenant.client.invitations().resend_invitation(request).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");

    let resent = resend(&tenant.client, &invitation.invitation_id).await.unwrap();
    let after = resent.invitation.unwrap();
    assert_eq!(after.status(), v1::InvitationStatus::Pending);
    assert!(after.expire_time.unwrap().seconds > expired.expire_time.unwrap().seconds);
    assert_ne!(after.etag, expired.etag);
    let delivery = resent.delivery.unwrap();
    assert_ne!(delivery.token, old);
    let operator = world.operator();
    assert!(refused(by_token(&operator, &old).await).is(Code::NotFound, "INVITATION_NOT_FOUND"));
    assert!(refused(super::decline(&operator, &old).await).is(Code::NotFound, "INVITATION_NOT_FOUND"));
    assert_eq!(by_token(&operator, &delivery.token).await.unwrap().invitation.unwrap(), after);
    let revoked = revoke(&tenant.client, &invitation.invitation_id).await.unwrap();
    assert_eq!(revoke(&tenant.client, &invitation.invitation_id).await.unwrap(), revoked, "twice is once");
    let refusal = refused(resend(&tenant.client, &invitation.invitation_id).await);
    assert!(refusal.is(Code::FailedPrecondition, "INVITATION_REVOKED"), "{refusal:?}");
    let expected = ["invitations.create", "invitations.resend", "invitations.revoke"];
    assert_eq!(recorded(&tenant, &invitation.invitation_id).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_one_invitation_and_shows_no_token_again() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let request = v1::CreateInvitationRequest {
        invitation: Some(new("ida@example.com", "viewer")),
        request_id: REQUEST_ID.into(),
        ..Default::default()
    };
    let create = async || tenant.client.invitations().create_invitation(request.clone()).await.unwrap().into_inner();
    let (first, again) = (create().await, create().await);
    assert!(first.delivery.is_some() && first.delivery_omitted_reason.is_empty());
    assert_eq!((again.delivery, again.delivery_omitted_reason.as_str()), (None, "SECRET_ALREADY_SHOWN"));
    assert_eq!(again.invitation, first.invitation);
    let id = first.invitation.unwrap().invitation_id;
    let request =
        v1::ResendInvitationRequest { invitation_id: id.clone(), request_id: REQUEST_ID.into(), ..Default::default() };
    let resend = async || tenant.client.invitations().resend_invitation(request.clone()).await.unwrap().into_inner();
    let (first, again) = (resend().await, resend().await);
    assert!(first.delivery.is_some() && again.delivery.is_none() && first.invitation == again.invitation);
    assert_eq!(recorded(&tenant, &id).await, ["invitations.create", "invitations.resend"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wrong = v1::NewInvitation {
        teams: vec![into_team("x", v1::TeamRole::Unspecified)],
        ttl: days(31),
        ..new("nobody", "Root")
    };
    let refusal = refused(invite(&tenant.client, wrong).await);
    let fields = ["invitation.email", "invitation.role", "invitation.teams[0].team_id", "invitation.ttl"];
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == fields, "{refusal:?}");
    let nowhere =
        v1::NewInvitation { teams: vec![into_team(NOBODY, v1::TeamRole::Member)], ..new("a@example.com", "viewer") };
    assert!(refused(invite(&tenant.client, nowhere).await).is(Code::NotFound, "TEAM_NOT_FOUND"));
    let refusal = refused(invite(&tenant.client, new("a@example.com", "billing")).await);
    assert!(refusal.is(Code::NotFound, "ROLE_NOT_FOUND"), "{refusal:?}");
    assert!(refused(get(&tenant.client, NOBODY).await).is(Code::NotFound, "INVITATION_NOT_FOUND"));
    assert!(refused(get(&tenant.client, "x").await).is(Code::InvalidArgument, "INVALID_FIELD"));
    assert_eq!(super::count(&world, "SELECT count(*) FROM tenancy.invitations").await, 0);
}
