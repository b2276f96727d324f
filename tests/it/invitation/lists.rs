//! Lists of invitations, and of members who are invited.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use super::{decline, invited, revoke};
use crate::harness::{Client, World, refused};

async fn list(client: &Client, filter: &str, page_size: i32) -> Vec<v1::Invitation> {
    let mut request = v1::ListInvitationsRequest { filter: filter.into(), page_size, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.invitations().list_invitations(request.clone()).await.unwrap().into_inner();
        all.extend(page.invitations);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

async fn members(client: &Client, filter: &str, page_size: i32) -> Vec<v1::Member> {
    let mut request = v1::ListMembersRequest { filter: filter.into(), page_size, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.members().list_members(request.clone()).await.unwrap().into_inner();
        all.extend(page.members);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_in_order_and_narrowed() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    invited(&other.client, "a@example.com", "viewer").await;
    let expired = invited(&tenant.client, "expired@example.com", "viewer").await.0;
    world.clock.advance(Duration::from_hours(7 * 24));
    let replaced = invited(&tenant.client, "a@example.com", "viewer").await.0;
    let mut expected = vec![expired.invitation_id.clone(), replaced.invitation_id.clone()];
    let mut of = std::collections::BTreeMap::from([("EXPIRED", expired), ("REPLACED", replaced)]);
    for (status, email) in [("PENDING", "A@example.com"), ("REVOKED", "b@example.com"), ("DECLINED", "c@example.com")] {
        world.clock.advance(Duration::from_millis(2));
        let (invitation, token) = invited(&tenant.client, email, "member").await;
        expected.push(invitation.invitation_id.clone());
        match status {
            "REVOKED" => drop(revoke(&tenant.client, &invitation.invitation_id).await.unwrap()),
            "DECLINED" => drop(decline(&world.operator(), &token).await.unwrap()),
            _ => {}
        }
        of.insert(status, invitation);
    }
    expected.reverse();
    let ids = |listed: Vec<v1::Invitation>| listed.into_iter().map(|one| one.invitation_id).collect::<Vec<_>>();
    assert_eq!(ids(list(&tenant.client, "", 2).await), expected);
    for (status, invitation) in &of {
        let listed = list(&tenant.client, &format!("status = \"{status}\""), 0).await;
        assert_eq!(listed[0].status().as_str_name(), format!("INVITATION_STATUS_{status}"));
        assert_eq!(ids(listed), [invitation.invitation_id.clone()], "{status}");
    }
    assert!(list(&tenant.client, "status = \"ACCEPTED\"", 0).await.is_empty());
    let of_a = ids(list(&tenant.client, "email = \"a@EXAMPLE.com\"", 0).await);
    assert_eq!(of_a, [&of["PENDING"], &of["REPLACED"]].map(|one| one.invitation_id.clone()));
    for filter in ["status = \"OPEN\"", "role = \"viewer\""] {
        let request = v1::ListInvitationsRequest { filter: filter.into(), ..Default::default() };
        assert_eq!(refused(tenant.client.invitations().list_invitations(request).await).fields, ["filter"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_invited_is_a_member_to_be_where_asked_for() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let viewer = tenant.member(&world, "ida", "viewer").await;
    invited(&tenant.client, "expired@example.com", "viewer").await;
    world.clock.advance(Duration::from_hours(7 * 24));
    let (revoked, _) = invited(&tenant.client, "revoked@example.com", "viewer").await;
    revoke(&tenant.client, &revoked.invitation_id).await.unwrap();
    let mut open = Vec::new();
    for (email, role) in [("a@example.com", "viewer"), ("b@example.com", "admin"), ("c@example.com", "admin")] {
        world.clock.advance(Duration::from_millis(2));
        open.insert(0, invited(&tenant.client, email, role).await.0);
    }
    let expected: Vec<v1::Member> = open
        .iter()
        .map(|open| v1::Member {
            organization_id: tenant.id.clone(),
            role: open.role.clone(),
            email: open.email.clone(),
            etag: open.etag.clone(),
            create_time: open.create_time,
            update_time: open.update_time,
            status: v1::MemberStatus::Invited.into(),
            invitation_id: open.invitation_id.clone(),
            ..v1::Member::default()
        })
        .collect();
    assert_eq!(members(&tenant.client, "status = \"INVITED\"", 2).await, expected);
    assert_eq!(members(&tenant.client, "status = \"INVITED\" AND role = \"viewer\"", 0).await, expected[2..]);
    // Without that filter they are none.
    for filter in ["", "status = \"ACTIVE\"", "role = \"viewer\""] {
        let users: Vec<String> = members(&tenant.client, filter, 0).await.into_iter().map(|m| m.user_id).collect();
        assert_eq!(users, [viewer.clone()], "{filter}");
    }
    // Addresses of strangers are for who may read invitations.
    let reader = tenant.with_scopes(&world, &[Permission::MembersRead]).await;
    for client in [reader, tenant.client.clone().acting(&viewer)] {
        let request = v1::ListMembersRequest { filter: "status = \"INVITED\"".into(), ..Default::default() };
        let refusal = refused(client.members().list_members(request).await);
        assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
        assert_eq!(members(&client, "", 0).await.len(), 1);
    }
}
