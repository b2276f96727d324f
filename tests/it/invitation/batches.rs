//! Many invitations in one call.

use std::collections::HashSet;

use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{NOBODY, REQUEST_ID, accept_as, count, into_team, invited, new, person, recorded};
use crate::harness::{Client, World, refused};

async fn batch(client: &Client, invitations: Vec<v1::NewInvitation>) -> Result<Vec<v1::InvitationResult>, Status> {
    let request = v1::BatchCreateInvitationsRequest { invitations, ..Default::default() };
    Ok(client.invitations().batch_create_invitations(request).await?.into_inner().results)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_batch_has_its_own_fate() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    tenant.member(&world, "ours", "viewer").await;
    let (outstanding, _) = invited(&tenant.client, "before@example.com", "viewer").await;
    let nowhere = vec![into_team(NOBODY, v1::TeamRole::Member)];
    let rows = vec![
        (new("a@example.com", "viewer"), ""),
        (new("nobody", "Root"), "INVALID_FIELD"),
        (new("A@example.com", "admin"), "DUPLICATE_EMAIL"),
        (new("b@example.com", "billing"), "ROLE_NOT_FOUND"),
        (v1::NewInvitation { teams: nowhere, ..new("c@example.com", "viewer") }, "TEAM_NOT_FOUND"),
        (new("ours@acme.example.com", "viewer"), "ALREADY_MEMBER"),
        (new("d@example.com", "owner"), "OWNER_REQUIRED"),
        (new("before@example.com", "admin"), ""),
    ];
    let (wanted, expected): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let results = batch(&tenant.client, wanted).await.unwrap();
    let reasons: Vec<&str> = results.iter().map(|result| result.reason.as_str()).collect();
    assert_eq!(reasons, expected);
    for result in &results {
        let made = result.reason.is_empty();
        assert_eq!((result.invitation.is_some(), result.delivery.is_some()), (made, made), "{result:?}");
        assert_eq!(result.message.is_empty(), made, "{result:?}");
    }
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.invitations").await, 3);
    assert_eq!(recorded(&tenant, &outstanding.invitation_id).await, ["invitations.create", "invitations.replace"]);
    for result in results.into_iter().filter(|result| result.reason.is_empty()) {
        let (invitation, delivery) = (result.invitation.unwrap(), result.delivery.unwrap());
        assert_eq!(recorded(&tenant, &invitation.invitation_id).await, ["invitations.create"]);
        let accepted = accept_as(&world.operator(), &delivery.token, person(&invitation.email)).await.unwrap();
        assert_eq!(accepted.member.unwrap().role, invitation.role);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_as_are_left_of_the_hour_are_sent() {
    let world = World::start_with(&["--invitations-per-hour", "3"]).await;
    let tenant = world.tenant("acme").await;
    invited(&tenant.client, "first@example.com", "viewer").await;
    let rows = ["a@example.com", "nobody", "b@example.com", "c@example.com", "d@example.com"];
    let results = batch(&tenant.client, rows.map(|email| new(email, "viewer")).into()).await.unwrap();
    let reasons: Vec<&str> = results.iter().map(|result| result.reason.as_str()).collect();
    let exceeded = "INVITATION_RATE_EXCEEDED";
    assert_eq!(reasons, ["", "INVALID_FIELD", "", exceeded, exceeded]);
    let waits: Vec<bool> = results.iter().map(|result| result.retry_after.is_some_and(|w| w.seconds > 3000)).collect();
    assert_eq!(waits, [false, false, false, true, true]);
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.invitations").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_its_bounds_and_can_be_repeated() {
    let world = World::start_with(&["--invitations-per-hour", "0"]).await;
    let tenant = world.tenant("acme").await;
    let rows = |count: usize| (0..count).map(|row| new(&format!("a{row}@example.com"), "viewer")).collect::<Vec<_>>();
    for bad in [0, 501] {
        let refusal = refused(batch(&tenant.client, rows(bad)).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["invitations"], "{refusal:?}");
    }
    let request = v1::BatchCreateInvitationsRequest {
        invitations: rows(500),
        request_id: REQUEST_ID.into(),
        ..Default::default()
    };
    let send = async || {
        let reply = tenant.client.invitations().batch_create_invitations(request.clone()).await;
        reply.unwrap().into_inner().results
    };
    let (first, again) = (send().await, send().await);
    let tokens: HashSet<&str> = first.iter().map(|result| result.delivery.as_ref().unwrap().token.as_str()).collect();
    assert_eq!((first.len(), tokens.len()), (500, 500));
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(first.invitation, again.invitation);
        assert_eq!((&again.delivery, again.delivery_omitted_reason.as_str()), (&None, "SECRET_ALREADY_SHOWN"));
        assert!(first.delivery_omitted_reason.is_empty());
    }
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.invitations").await, 500);
}
