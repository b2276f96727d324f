//! Nobody invites to what they do not hold; and roles that somebody is invited to stay.

use std::time::Duration;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use super::{accept_as, get, invite, invited, new, person, recorded, resend, revoke};
use crate::harness::{Client, Tenant, World, refused};

async fn role(tenant: &Tenant, key: &str, permissions: &[&str]) {
    let role = v1::Role {
        key: key.into(),
        display_name: key.into(),
        permissions: permissions.iter().map(ToString::to_string).collect(),
        ..v1::Role::default()
    };
    let request = v1::CreateRoleRequest { role: Some(role), ..Default::default() };
    tenant.client.roles().create_role(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_invites_to_what_they_do_not_hold() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (owner, admin) = (tenant.member(&world, "o", "owner").await, tenant.member(&world, "a", "admin").await);
    let (owner, admin) = (tenant.client.clone().acting(&owner), tenant.client.clone().acting(&admin));
    role(&tenant, "auditor", &["audit.read"]).await;
    let little = tenant.with_scopes(&world, &[Permission::MembersInvite, Permission::UsageRead]).await;

    let denied = async |client: &Client, role: &str, reason: &str| {
        let refusal = refused(invite(client, new("ida@example.com", role)).await);
        assert!(refusal.is(Code::PermissionDenied, reason), "{role}: {refusal:?}");
    };
    denied(&admin, "owner", "OWNER_REQUIRED").await;
    denied(&tenant.client, "owner", "OWNER_REQUIRED").await;
    denied(&little, "viewer", "PRIVILEGE_ESCALATION").await;
    denied(&little, "auditor", "PRIVILEGE_ESCALATION").await;

    // What an owner invited to, only an owner sends again, takes back, or puts something else in the place of.
    let (invitation, _) = invited(&owner, "ida@example.com", "owner").await;
    denied(&admin, "viewer", "OWNER_REQUIRED").await;
    for refusal in [
        refused(resend(&admin, &invitation.invitation_id).await),
        refused(revoke(&admin, &invitation.invitation_id).await),
    ] {
        assert!(refusal.is(Code::PermissionDenied, "OWNER_REQUIRED"), "{refusal:?}");
    }
    assert_eq!(get(&admin, &invitation.invitation_id).await.unwrap(), invitation);
    let (invitation, _) = invited(&admin, "bob@example.com", "auditor").await;
    for refusal in [
        refused(resend(&little, &invitation.invitation_id).await),
        refused(revoke(&little, &invitation.invitation_id).await),
    ] {
        assert!(refusal.is(Code::PermissionDenied, "PRIVILEGE_ESCALATION"), "{refusal:?}");
    }
    // The platform may what owners may.
    let request = v1::CreateInvitationRequest {
        organization_id: tenant.id.clone(),
        invitation: Some(new("ida@example.com", "owner")),
        ..Default::default()
    };
    let created = world.operator().invitations().create_invitation(request).await.unwrap().into_inner();
    let token = created.delivery.unwrap().token;
    let accepted = accept_as(&world.operator(), &token, person("ida@example.com")).await.unwrap();
    assert_eq!(accepted.member.unwrap().role, "owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_somebody_is_invited_to_stays() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    role(&tenant, "auditor", &["audit.read"]).await;
    let delete = async || {
        let request = v1::DeleteRoleRequest { key: "auditor".into(), ..Default::default() };
        tenant.client.roles().delete_role(request).await
    };
    let (expired, _) = invited(&tenant.client, "old@example.com", "auditor").await;
    world.clock.advance(Duration::from_hours(6 * 24));
    let (open, _) = invited(&tenant.client, "ida@example.com", "auditor").await;
    let (answered, token) = invited(&tenant.client, "bob@example.com", "auditor").await;
    super::decline(&world.operator(), &token).await.unwrap();
    let refusal = refused(delete().await);
    assert!(refusal.is(Code::FailedPrecondition, "ROLE_IN_USE") && refusal.message.contains("invited"), "{refusal:?}");
    revoke(&tenant.client, &open.invitation_id).await.unwrap();
    // One that expired does not keep it, but cannot be sent again either.
    assert!(refused(delete().await).is(Code::FailedPrecondition, "ROLE_IN_USE"), "not expired yet");
    world.clock.advance(Duration::from_hours(24));
    delete().await.unwrap();
    assert_eq!(get(&tenant.client, &expired.invitation_id).await.unwrap().status(), v1::InvitationStatus::Revoked);
    assert_eq!(recorded(&tenant, &expired.invitation_id).await, ["invitations.create", "invitations.revoke"]);
    assert_eq!(get(&tenant.client, &answered.invitation_id).await.unwrap().role, "auditor");
    let refusal = refused(resend(&tenant.client, &expired.invitation_id).await);
    assert!(refusal.is(Code::FailedPrecondition, "INVITATION_REVOKED"), "{refusal:?}");
}

/// Row level security, whatever a handler forgets: a tenant's scope makes a user of whom it invited, and of nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_scope_creates_only_whom_it_invited() {
    use sqlx::Connection as _;
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    invited(&tenant.client, "ours@example.com", "viewer").await;
    let (revoked, _) = invited(&tenant.client, "revoked@example.com", "viewer").await;
    revoke(&tenant.client, &revoked.invitation_id).await.unwrap();
    invited(&other.client, "theirs@example.com", "viewer").await;
    let mut connection = sqlx::postgres::PgConnection::connect_with(&world.database.service).await.unwrap();
    for (email, columns, refusal) in [
        ("Ours@example.com", "", None),
        ("revoked@example.com", "", Some("42501")),
        ("theirs@example.com", "", Some("42501")),
        ("nobody@example.com", "", Some("42501")),
        // A state is not a tenant's to give.
        ("ours@example.com", ", status", Some("42501")),
    ] {
        let value = if columns.is_empty() { "" } else { ", 'active'" };
        let sql = format!(
            "BEGIN; SET LOCAL ROLE tenancy_app; SET LOCAL tenancy.organization_id = '{}'; INSERT INTO tenancy.users \
             (user_id, email, display_name, create_time, update_time{columns}) \
             VALUES (gen_random_uuid(), '{email}', 'x', now(), now(){value})",
            tenant.id
        );
        let outcome = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await;
        let code = outcome.err().and_then(|error| error.as_database_error()?.code().map(String::from));
        assert_eq!(code.as_deref(), refusal, "{email}{columns}");
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    }
}
