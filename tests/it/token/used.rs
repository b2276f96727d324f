//! What a token is good for at our own door.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{exchange, issue, issue_with, member, revoke};
use crate::harness::keys::{create, knock, secret_key};
use crate::harness::{Client, World, refused};
use crate::quota::asks::limit;
use crate::usage::support::create_meter;

async fn audit(client: &Client, action: &str) -> Vec<v1::AuditEvent> {
    let request = v1::ListAuditEventsRequest { filter: format!("action = \"{action}\""), ..Default::default() };
    client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events
}

async fn create_team(client: &Client, name: &str, request_id: &str) -> Result<String, Status> {
    let team = v1::Team { display_name: name.into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), request_id: request_id.into(), ..Default::default() };
    Ok(client.teams().create_team(request).await?.into_inner().team.unwrap().team_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_the_user_in_that_organization() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "admin").await;
    let other = world.tenant("other").await;
    let ida = world.anonymous().token(&issue(&tenant.client, &user).await.unwrap());
    assert_eq!(knock(&ida).await.unwrap().organization_id, tenant.id);
    // Either header carries it.
    let token = issue(&tenant.client, &user).await.unwrap();
    assert_eq!(knock(&world.client(&token)).await.unwrap().organization_id, tenant.id);
    let request = v1::GetOrganizationRequest { organization_id: "other".into() };
    let refusal = refused(ida.organizations().get_organization(request).await);
    assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{refusal:?}");

    // What the user does is written down as theirs, and a repeated request is recognised under another token.
    let request_id = "018f6d2e-0000-7000-8000-000000000009";
    let team = create_team(&ida, "Ops", request_id).await.unwrap();
    let again = world.anonymous().token(&issue(&tenant.client, &user).await.unwrap());
    assert_eq!(create_team(&again, "Ops", request_id).await.unwrap(), team);
    let written = audit(&tenant.client, "teams.create").await;
    let [event] = &written[..] else { panic!("{written:?}") };
    let actor = event.actor.as_ref().unwrap();
    assert_eq!((actor.r#type(), &actor.id, &event.acting_user_id), (v1::AuditActorType::User, &user, &user));
    // Their own profile is theirs to change.
    let request = v1::UpdateUserRequest {
        user: Some(v1::User { user_id: user.clone(), display_name: "Ida B.".into(), ..v1::User::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
        ..Default::default()
    };
    ida.users().update_user(request).await.unwrap();
    let known = audit_of_platform(&world, &user).await;
    assert_eq!(known.actor.unwrap().r#type(), v1::AuditActorType::User);

    // Nothing of the platform, and nothing that the role does not have.
    for refusal in [
        refused(ida.organizations().list_organizations(v1::ListOrganizationsRequest::default()).await),
        refused(ida.plans().list_plans(v1::ListPlansRequest::default()).await),
    ] {
        assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    }
    let request = v1::TransferOwnershipRequest { user_id: user.clone(), ..Default::default() };
    assert!(refused(ida.members().transfer_ownership(request).await).is(Code::PermissionDenied, "OWNER_REQUIRED"));

    // Another organization is another token.
    let add = v1::AddMemberRequest {
        organization_id: other.id.clone(),
        user_id: user.clone(),
        role: "viewer".into(),
        ..Default::default()
    };
    world.operator().members().add_member(add).await.unwrap();
    let there = world.anonymous().token(&issue(&other.client, &user).await.unwrap());
    assert_eq!(knock(&there).await.unwrap().organization_id, other.id);
    assert!(refused(create_team(&there, "Ops", "").await).is(Code::PermissionDenied, "PERMISSION_MISSING"));
    assert_eq!(knock(&ida).await.unwrap().organization_id, tenant.id);
}

async fn audit_of_platform(world: &World, user: &str) -> v1::AuditEvent {
    let filter = format!("action = \"users.update\" AND resource_id = \"{user}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let mut events = world.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    events.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_with_a_token_gets_no_further_ones_and_acts_for_nobody() {
    let world = World::start().await;
    let (tenant, owner) = member(&world, "acme", "owner").await;
    let (_, secret) = create(&tenant.client, secret_key(&["organizations.read", "users.act_as"])).await.unwrap();
    let tokens = [
        issue(&tenant.client, &owner).await.unwrap(),
        exchange(&tenant.client, &tenant.key).await.unwrap(),
        exchange(&tenant.client, &secret).await.unwrap(),
    ];
    for token in &tokens {
        let client = world.anonymous().token(token);
        knock(&client).await.unwrap();
        for refusal in [
            refused(issue(&client, &owner).await),
            refused(exchange(&client, &tenant.key).await),
            refused(knock(&client.clone().acting(&owner)).await),
            refused(knock(&client.clone().acting("x")).await),
        ] {
            assert!(refusal.is(Code::PermissionDenied, "API_KEY_REQUIRED"), "{refusal:?}");
        }
    }
    let refusal = refused(knock(&world.client(&tenant.key).token(&tokens[0])).await);
    assert!(refusal.is(Code::Unauthenticated, "CREDENTIALS_AMBIGUOUS"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_allows_what_it_says_and_the_member_still_has() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "admin").await;
    let request = v1::IssueTokenRequest {
        user_id: user.clone(),
        permissions: vec!["organizations.read".into(), "permissions.read".into(), "keys.verify".into()],
        ..Default::default()
    };
    let ida = world.anonymous().token(&issue_with(&tenant.client, request).await.unwrap());
    let ask = |permission: &str| v1::CheckPermissionRequest {
        questions: vec![v1::PermissionQuestion { permission: permission.into(), ..Default::default() }],
        ..Default::default()
    };
    let verdict = async |permission: &str| {
        let answer = ida.permissions().check_permission(ask(permission)).await.unwrap().into_inner();
        answer.answers[0].verdict()
    };
    assert_eq!(verdict("organizations.read").await, v1::PermissionVerdict::Allowed);
    assert_eq!(verdict("members.add").await, v1::PermissionVerdict::NotInScopes);
    assert_eq!(verdict("users.act_as").await, v1::PermissionVerdict::NotGranted);
    // A request that names no organization sees the token's.
    let verified = crate::harness::keys::verify(&ida, &tenant.key).await.unwrap();
    assert_eq!(verified.code(), v1::VerificationCode::Valid);
    let other = world.tenant("other").await;
    let verified = crate::harness::keys::verify(&ida, &other.key).await.unwrap();
    assert_eq!(verified.code(), v1::VerificationCode::NotFound);
    let request = v1::UpdateMemberRoleRequest { user_id: user.clone(), role: "viewer".into(), ..Default::default() };
    tenant.client.members().update_member_role(request).await.unwrap();
    knock(&ida).await.unwrap();
    let refusal = refused(crate::harness::keys::verify(&ida, &tenant.key).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "a role is smaller at once: {refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_the_user_or_the_key_apply() {
    let world = World::start().await;
    let (tenant, user) = member(&world, "acme", "member").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    for (subject_kind, amount) in [(v1::SubjectKind::User, 2), (v1::SubjectKind::ApiKey, 3)] {
        let rule =
            v1::LimitRule { subject_kind: subject_kind.into(), ..crate::quota::support::monthly("calls", amount) };
        limit(&world, &tenant, rule).await;
    }
    let (_, secret) = create(&tenant.client, secret_key(&["quota.consume"])).await.unwrap();
    for (token, expected) in
        [(issue(&tenant.client, &user).await.unwrap(), 2), (exchange(&tenant.client, &secret).await.unwrap(), 3)]
    {
        let client = world.anonymous().token(&token);
        let mut admitted = 0;
        let request = || v1::ConsumeQuotaRequest { meter: "calls".into(), amount: 1, ..Default::default() };
        while client.quotas().consume_quota(request()).await.unwrap().into_inner().decision.unwrap().allowed {
            admitted += 1;
        }
        assert_eq!(admitted, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_revoke_whose() {
    let world = World::start().await;
    let (tenant, owner) = member(&world, "acme", "owner").await;
    let (admin, viewer) =
        (tenant.member(&world, "admin", "admin").await, tenant.member(&world, "viewer", "viewer").await);
    let key = tenant.with_scopes(&world, &[Permission::TokensRevoke, Permission::UsersActAs]).await;
    let all = tenant.client.clone();
    for (client, user, reason) in [
        (&all, &owner, "OWNER_REQUIRED"),
        (&all.clone().acting(&admin), &owner, "OWNER_REQUIRED"),
        (&key, &viewer, "PRIVILEGE_ESCALATION"),
        (&all.clone().acting(&viewer), &viewer, "PERMISSION_MISSING"),
    ] {
        let refusal = refused(revoke(client, "", user).await);
        assert!(refusal.is(Code::PermissionDenied, reason), "{refusal:?}");
    }
    let nobody = "018f6d2e-0000-7000-8000-00000000dead";
    assert!(refused(revoke(&all, "", nobody).await).is(Code::NotFound, "MEMBER_NOT_FOUND"));
    assert!(refused(revoke(&world.operator(), "", nobody).await).is(Code::NotFound, "USER_NOT_FOUND"));
    let bound = world.service(&[Permission::TokensRevoke], &[&tenant.id]).await;
    assert!(refused(revoke(&bound, "", &viewer).await).is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"));

    for (client, user) in [
        (&all, &viewer),
        (&all.clone().acting(&admin), &viewer),
        (&key.clone().acting(&admin), &admin),
        (&all.clone().acting(&owner), &owner),
        (&bound, &owner),
    ] {
        let token = world.anonymous().token(&issue(&all, user).await.unwrap());
        knock(&token).await.unwrap();
        revoke(client, "acme", user).await.unwrap();
        let refusal = refused(knock(&token).await);
        assert!(refusal.is(Code::Unauthenticated, "TOKEN_REVOKED"), "{refusal:?}");
        knock(&world.anonymous().token(&issue(&all, user).await.unwrap())).await.unwrap();
    }
    assert_eq!(audit(&all, "tokens.revoke").await.len(), 5);
}
