//! How large an organization may become: by its plan, and by itself before that.

use futures_util::future::join_all;
use prost_types::FieldMask;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, Tenant, World, refused};

async fn set_plan(world: &World, plan: v1::Plan, paths: &[&str]) -> Result<v1::Plan, Status> {
    let request = v1::UpdatePlanRequest {
        plan: Some(v1::Plan { key: "free".into(), ..plan }),
        update_mask: Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
    };
    Ok(world.operator().plans().update_plan(request).await?.into_inner().plan.unwrap())
}

async fn set(world: &World, tenant: &Tenant, organization: v1::Organization, path: &str) -> Result<(), Status> {
    let request = v1::UpdateOrganizationRequest {
        organization: Some(v1::Organization { organization_id: tenant.id.clone(), ..organization }),
        update_mask: Some(FieldMask { paths: vec![path.into()] }),
        ..Default::default()
    };
    world.operator().organizations().update_organization(request).await.map(drop)
}

async fn entitled(client: &Client) -> (i64, Option<i32>, Option<i32>) {
    let request = v1::GetEntitlementsRequest::default();
    let found = client.plans().get_entitlements(request).await.unwrap().into_inner();
    (found.plan_version, found.member_limit, found.team_limit)
}

async fn user(world: &World, name: &str) -> String {
    let user = v1::User { email: format!("{name}@example.com"), display_name: name.into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id
}

async fn add(client: &Client, user_id: &str) -> Result<(), Status> {
    let request = v1::AddMemberRequest { user_id: user_id.into(), role: "viewer".into(), ..Default::default() };
    client.members().add_member(request).await.map(drop)
}

async fn team(client: &Client, name: &str) -> Result<String, Status> {
    let team = v1::Team { display_name: name.into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), ..Default::default() };
    Ok(client.teams().create_team(request).await?.into_inner().team.unwrap().team_id)
}

async fn invite(client: &Client, email: &str) -> Result<String, Status> {
    let invitation = v1::NewInvitation { email: email.into(), role: "viewer".into(), ..v1::NewInvitation::default() };
    let request = v1::CreateInvitationRequest { invitation: Some(invitation), ..Default::default() };
    Ok(client.invitations().create_invitation(request).await?.into_inner().delivery.unwrap().token)
}

async fn accept(client: &Client, token: &str, email: &str) -> Result<(), Status> {
    let user = v1::User { email: email.into(), display_name: "x".into(), ..v1::User::default() };
    let request = v1::AcceptInvitationRequest { token: token.into(), user: Some(user), ..Default::default() };
    client.invitations().accept_invitation(request).await.map(drop)
}

#[track_caller]
fn assert_reached<T: std::fmt::Debug>(outcome: Result<T, Status>, reason: &str) {
    let refusal = refused(outcome);
    assert!(refusal.is(Code::FailedPrecondition, reason), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_belong_to_the_versions_of_a_plan() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    assert_eq!(entitled(&tenant.client).await, (1, None, None));
    let sizes = v1::Plan { member_limit: Some(3), team_limit: Some(0), ..v1::Plan::default() };
    let second = set_plan(&world, sizes.clone(), &["member_limit", "team_limit"]).await.unwrap();
    assert_eq!((second.version, second.member_limit, second.team_limit), (2, Some(3), Some(0)));
    assert_eq!(set_plan(&world, sizes.clone(), &[]).await.unwrap().version, 2, "nothing changed");
    let third = set_plan(&world, v1::Plan::default(), &["team_limit"]).await.unwrap();
    assert_eq!((third.version, third.member_limit, third.team_limit), (3, Some(3), None));
    for (version, expected) in [(1, (None, None)), (2, (Some(3), Some(0))), (3, (Some(3), None)), (0, (Some(3), None))]
    {
        let request = v1::GetPlanRequest { plan: "free".into(), version };
        let found = world.operator().plans().get_plan(request).await.unwrap().into_inner().plan.unwrap();
        assert_eq!((found.member_limit, found.team_limit), expected, "{version}");
    }
    assert_eq!(entitled(&tenant.client).await, (3, Some(3), None));
    let own = v1::Organization { member_limit: Some(2), team_limit: Some(7), ..v1::Organization::default() };
    set(&world, &tenant, own.clone(), "member_limit").await.unwrap();
    set(&world, &tenant, own, "team_limit").await.unwrap();
    assert_eq!(entitled(&tenant.client).await, (3, Some(2), Some(7)), "its own go before the plan's");

    let plan = v1::Plan { key: "gold".into(), display_name: "Gold".into(), ..sizes };
    let request = v1::CreatePlanRequest { plan: Some(plan), ..Default::default() };
    let created = world.operator().plans().create_plan(request).await.unwrap().into_inner().plan.unwrap();
    assert_eq!((created.version, created.member_limit, created.team_limit), (1, Some(3), Some(0)));
    let wrong = v1::Plan { member_limit: Some(0), team_limit: Some(10_001), ..v1::Plan::default() };
    let refusal = refused(set_plan(&world, wrong, &["*"]).await);
    assert!(["plan.member_limit", "plan.team_limit"].iter().all(|field| refusal.fields.contains(&(*field).into())));
    let wrong = v1::Organization { team_limit: Some(-1), ..v1::Organization::default() };
    assert_eq!(refused(set(&world, &tenant, wrong, "team_limit").await).fields, ["organization.team_limit"]);
    let request = v1::UpdateOrganizationRequest {
        organization: Some(v1::Organization::default()),
        update_mask: Some(FieldMask { paths: vec!["team_limit".into()] }),
        ..Default::default()
    };
    let refusal = refused(tenant.client.organizations().update_organization(request).await);
    assert!(refusal.is(Code::PermissionDenied, "OPERATOR_ONLY_FIELD"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_organization_takes_nobody_in_and_loses_nobody() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let plan = |member_limit| v1::Plan { member_limit, ..v1::Plan::default() };
    set_plan(&world, plan(Some(2)), &["member_limit"]).await.unwrap();
    let users = [user(&world, "a").await, user(&world, "b").await, user(&world, "c").await];
    let token = invite(&tenant.client, "p@example.com").await.unwrap();
    add(&tenant.client, &users[0]).await.unwrap();
    add(&tenant.client, &users[1]).await.unwrap();
    assert_reached(add(&tenant.client, &users[2]).await, "MEMBER_LIMIT_REACHED");
    assert_reached(invite(&tenant.client, "q@example.com").await, "MEMBER_LIMIT_REACHED");
    assert_reached(accept(&world.operator(), &token, "p@example.com").await, "MEMBER_LIMIT_REACHED");
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.users WHERE email = 'p@example.com'")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(known, 0, "all of it was undone");
    // Lowered: who is in stays, and can be changed.
    set_plan(&world, plan(Some(1)), &["member_limit"]).await.unwrap();
    let request =
        v1::UpdateMemberRoleRequest { user_id: users[0].clone(), role: "member".into(), ..Default::default() };
    tenant.client.members().update_member_role(request).await.unwrap();
    // An operator lets this one have more.
    let own = v1::Organization { member_limit: Some(3), ..v1::Organization::default() };
    set(&world, &tenant, own, "member_limit").await.unwrap();
    accept(&world.operator(), &token, "p@example.com").await.unwrap();
    assert_reached(add(&tenant.client, &users[2]).await, "MEMBER_LIMIT_REACHED");
    set(&world, &tenant, v1::Organization::default(), "member_limit").await.unwrap();
    set_plan(&world, plan(None), &["member_limit"]).await.unwrap();
    add(&tenant.client, &users[2]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_come_at_once_as_many_get_in_as_fit() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let sizes = v1::Plan { member_limit: Some(3), team_limit: Some(3), ..v1::Plan::default() };
    set_plan(&world, sizes, &["member_limit", "team_limit"]).await.unwrap();
    let mut tokens = Vec::new();
    for number in 0..4 {
        tokens.push(invite(&tenant.client, &format!("p{number}@example.com")).await.unwrap());
    }
    let users = join_all((0..4).map(async |number| user(&world, &format!("u{number}")).await)).await;
    let platforms = [world.operator(), replica.operator()];
    let clients = [tenant.client.clone(), replica.client(&tenant.key)];
    let emails: Vec<String> = (0..4).map(|number| format!("p{number}@example.com")).collect();
    let accepts = (0..4).map(|number| accept(&platforms[number % 2], &tokens[number], &emails[number]));
    let adds = users.iter().enumerate().map(|(number, user)| add(&clients[number % 2], user));
    let (accepted, added) = tokio::join!(join_all(accepts), join_all(adds));
    let (inside, outside): (Vec<_>, Vec<_>) = accepted.into_iter().chain(added).partition(Result::is_ok);
    assert_eq!(inside.len(), 3);
    for outcome in outside {
        assert_reached(outcome, "MEMBER_LIMIT_REACHED");
    }

    let names: Vec<String> = (0..8).map(|number| format!("Team {number}")).collect();
    let teams = names.iter().enumerate().map(|(number, name)| team(&clients[number % 2], name));
    let (made, refused): (Vec<_>, Vec<_>) = join_all(teams).await.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 3);
    for outcome in refused {
        assert_reached(outcome, "TEAM_LIMIT_REACHED");
    }
    let own = v1::Organization { team_limit: Some(4), ..v1::Organization::default() };
    set(&world, &tenant, own, "team_limit").await.unwrap();
    team(&tenant.client, "one more").await.unwrap();
    assert_reached(team(&tenant.client, "too many").await, "TEAM_LIMIT_REACHED");
}
