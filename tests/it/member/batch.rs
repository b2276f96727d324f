//! Many members in one call: each row by the rules of one, and with its own fate.

use std::collections::HashSet;

use futures_util::future::join_all;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tenancy::proto::v1::NewMemberStatus::{Added, Exists, Joined, Refused};
use tonic::{Code, Status};

use super::{NEVER_STALE, NOBODY, REQUEST_ID, deactivate, get, limit, members, recorded, user};
use crate::harness::{Client, Tenant, World, eventually, refused};
use crate::role::{create, role};

fn row(user_id: &str, role: &str, teams: &[&str]) -> v1::NewMember {
    let teams = teams.iter().map(ToString::to_string).collect();
    v1::NewMember { user_id: user_id.into(), role: role.into(), teams, ..v1::NewMember::default() }
}

fn by_email(email: &str) -> v1::NewMember {
    v1::NewMember { email: email.into(), role: "member".into(), ..v1::NewMember::default() }
}

fn request(tenant: &Tenant, members: Vec<v1::NewMember>) -> v1::BatchAddMembersRequest {
    v1::BatchAddMembersRequest { organization_id: tenant.id.clone(), members, ..Default::default() }
}

async fn send(client: &Client, request: v1::BatchAddMembersRequest) -> Result<Vec<v1::NewMemberResult>, Status> {
    Ok(client.members().batch_add_members(request).await?.into_inner().results)
}

async fn add(client: &Client, tenant: &Tenant, rows: Vec<v1::NewMember>) -> Vec<v1::NewMemberResult> {
    send(client, request(tenant, rows)).await.unwrap()
}

/// The status of each, and the reason.
fn fates(results: &[v1::NewMemberResult]) -> Vec<(v1::NewMemberStatus, &str)> {
    results.iter().map(|result| (result.status(), result.reason.as_str())).collect()
}

async fn team(client: &Client, parent: &str, name: &str) -> String {
    let team = v1::Team { parent_team_id: parent.into(), display_name: name.into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), ..Default::default() };
    client.teams().create_team(request).await.unwrap().into_inner().team.unwrap().team_id
}

/// Who is in the team, sorted.
async fn in_team(client: &Client, team_id: &str) -> Vec<String> {
    let request = v1::ListTeamMembersRequest { team_id: team_id.into(), ..Default::default() };
    let found = client.teams().list_team_members(request).await.unwrap().into_inner().team_members;
    let mut users: Vec<String> = found.into_iter().map(|member| member.user_id).collect();
    users.sort_unstable();
    users
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_has_its_fate() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let engineering = team(&tenant.client, "", "Engineering").await;
    let squad = team(&tenant.client, &engineering, "R/D Squad").await;
    let there = tenant.member(&world, "there", "viewer").await;
    let (ida, bob, gone) = (user(&world, "ida").await, user(&world, "bob").await, user(&world, "gone").await);
    deactivate(&world, &gone).await;
    create(&tenant.client, role("founder", &["usage.read"])).await.unwrap();

    let rows = vec![
        row(&ida, "founder", &[&engineering, r"ENGINEERING/r\/d squad"]),
        row(NOBODY, "member", &[]),
        row(&bob, "member", &["Engineering/Nobody"]),
        row(&gone, "member", &[]),
        row(&there, "member", &[]),
        row(&there, "viewer", &["Engineering"]),
        row(&there, "viewer", &["Engineering"]),
        row(&ida, "founder", &[]),
        row(&ida, "viewer", &[]),
        row(&bob, "nothing", &[]),
        row(&bob, "owner", &[]),
        row("x", "Root", &["//"]),
        row(&bob, "member", &[]),
    ];
    let results = add(&tenant.client, &tenant, rows.clone()).await;
    let expected = [
        (Added, ""),
        (Refused, "USER_NOT_FOUND"),
        (Refused, "TEAM_NOT_FOUND"),
        (Refused, "USER_DEACTIVATED"),
        (Refused, "ALREADY_MEMBER"),
        (Joined, ""),
        (Exists, ""),
        (Exists, ""),
        (Refused, "ALREADY_MEMBER"),
        (Refused, "ROLE_NOT_FOUND"),
        (Refused, "OWNER_REQUIRED"),
        (Refused, "INVALID_FIELD"),
        (Added, ""),
    ];
    assert_eq!(fates(&results), expected);
    assert_eq!(results[0].member, Some(get(&tenant.client, &tenant, &ida).await.unwrap()));
    let joined: HashSet<&String> = results[0].joined_team_ids.iter().collect();
    assert_eq!(joined, HashSet::from([&engineering, &squad]));
    assert_eq!(results[5].joined_team_ids, [engineering.clone()]);
    let known = results[5].member.as_ref().unwrap();
    assert_eq!((&known.user_id, known.role.as_str(), known.email.as_str()), (&there, "viewer", ""));
    for field in ["user_id", "role", "teams"] {
        assert!(results[11].message.contains(field), "{}", results[11].message);
    }

    let now: HashSet<String> = members(&world, &tenant, "").await.into_iter().collect();
    assert_eq!(now, HashSet::from([there.clone(), ida.clone(), bob.clone()]));
    let mut both = vec![ida.clone(), there.clone()];
    both.sort_unstable();
    assert_eq!(
        (in_team(&tenant.client, &engineering).await, in_team(&tenant.client, &squad).await),
        (both, vec![ida.clone()])
    );
    for (user, records) in [(&ida, 1), (&bob, 1), (&there, 1), (&gone, 0)] {
        assert_eq!(recorded(&tenant, user).await, records);
    }
    let filter = "action = \"team_members.add\"".to_owned();
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let records = tenant.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    assert_eq!(records.len(), 3);

    // The same once more, by somebody who may make owners, changes nothing: Bob is a member by now.
    let again = add(&world.operator(), &tenant, rows).await;
    let mut unchanged = expected.map(|(status, reason)| (if status == Refused { Refused } else { Exists }, reason));
    unchanged[10] = (Refused, "ALREADY_MEMBER");
    assert_eq!(fates(&again), unchanged);
    assert_eq!(recorded(&tenant, &ida).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hands_out_what_they_do_not_hold() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let users = [user(&world, "a").await, user(&world, "b").await, user(&world, "c").await];
    let weak = tenant.with_scopes(&world, &[Permission::MembersAdd, Permission::UsageRead]).await;
    create(&tenant.client, role("reader", &["usage.read"])).await.unwrap();
    let rows = vec![row(&users[0], "admin", &[]), row(&users[1], "reader", &[]), row(&users[2], "owner", &[])];
    let results = add(&weak, &tenant, rows).await;
    assert_eq!(fates(&results), [(Refused, "PRIVILEGE_ESCALATION"), (Added, ""), (Refused, "OWNER_REQUIRED")]);
    let owner = tenant.member(&world, "owner", "owner").await;
    let results = add(&tenant.client.clone().acting(&owner), &tenant, vec![row(&users[2], "owner", &[])]).await;
    assert_eq!(fates(&results), [(Added, "")]);

    // Teams take a permission of their own, of the whole call.
    team(&tenant.client, "", "Ops").await;
    let refusal = refused(send(&weak, request(&tenant, vec![row(&users[0], "reader", &["Ops"])])).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    assert!(refusal.message.contains("teams.members"), "{refusal:?}");
    for rows in [0, 501] {
        let refusal = refused(send(&tenant.client, request(&tenant, vec![row(&users[0], "viewer", &[]); rows])).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["members"], "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_sees_all_users_names_one_by_address() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let ida = user(&world, "ida").await;
    let rows = || vec![by_email("IDA@Example.COM")];
    let bound = world.service(&[Permission::MembersAdd, Permission::UsersRead], &[&tenant.id]).await;
    let blind = world.service(&[Permission::MembersAdd], &[]).await;
    for (client, reason) in
        [(&tenant.client, "PLATFORM_KEY_REQUIRED"), (&bound, "PLATFORM_KEY_REQUIRED"), (&blind, "PERMISSION_MISSING")]
    {
        let refusal = refused(send(client, request(&tenant, rows())).await);
        assert!(refusal.is(Code::PermissionDenied, reason), "{reason}: {refusal:?}");
    }
    let seeing = world.service(&[Permission::MembersAdd, Permission::UsersRead], &[]).await;
    let results = add(&seeing, &tenant, [rows(), vec![by_email("nobody@example.com")]].concat()).await;
    assert_eq!(fates(&results), [(Added, ""), (Refused, "USER_NOT_FOUND")]);
    assert_eq!(results[0].member.as_ref().unwrap().user_id, ida);

    // The teams of another tenant are no teams here.
    let theirs = team(&other.client, "", "Theirs").await;
    let rows = vec![row(&ida, "member", &[&theirs]), row(&ida, "member", &["Theirs"])];
    let results = add(&tenant.client, &tenant, rows).await;
    assert_eq!(fates(&results), [(Refused, "TEAM_NOT_FOUND"), (Refused, "TEAM_NOT_FOUND")]);
    assert!(in_team(&other.client, &theirs).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_limit_get_in_by_batches_at_once() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    limit(&world, &tenant, 12).await;
    let first = tenant.member(&world, "first", "viewer").await;
    let users = join_all((0..20).map(async |number| user(&world, &format!("u{number}")).await)).await;
    // In one batch: who is there takes no place, and the last ones find none.
    let rows: Vec<_> = [&first].into_iter().chain(&users[..12]).map(|user| row(user, "viewer", &[])).collect();
    let validated = v1::BatchAddMembersRequest { validate_only: true, ..request(&tenant, rows) };
    let results = send(&tenant.client, validated).await.unwrap();
    let mut expected = vec![(Exists, "")];
    expected.extend([(Added, ""); 11]);
    expected.push((Refused, "MEMBER_LIMIT_REACHED"));
    assert_eq!(fates(&results), expected);
    assert_eq!(members(&world, &tenant, "").await, [first]);

    // By batches that overlap, on two replicas, beside single calls.
    let replicas = [tenant.client.clone(), replica.client(&tenant.key)];
    let batches = (0..6).map(async |at: usize| {
        let rows = (0..8).map(|number| row(&users[(at * 5 + number) % 20], "viewer", &[])).collect();
        add(&replicas[at % 2], &tenant, rows).await
    });
    let singles = users.iter().map(|user| super::add(&replicas[0], &tenant, user, "viewer"));
    let (batches, singles) = tokio::join!(join_all(batches), join_all(singles));
    let results: Vec<_> = batches.into_iter().flatten().collect();
    let added = results.iter().filter(|result| result.status() == Added).count()
        + singles.iter().filter(|single| single.is_ok()).count();
    assert_eq!((added, members(&world, &tenant, "").await.len()), (11, 12));
    for (_, reason) in fates(&results).iter().filter(|(status, _)| *status == Refused) {
        assert_eq!(*reason, "MEMBER_LIMIT_REACHED");
    }
    let records = join_all(users.iter().map(|user| recorded(&tenant, user))).await;
    assert_eq!(records.iter().sum::<usize>(), 11, "one record each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_batch_has_its_first_reply() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let ida = user(&world, "ida").await;
    let request = || v1::BatchAddMembersRequest {
        request_id: REQUEST_ID.into(),
        ..request(&tenant, vec![row(&ida, "viewer", &[]), row(NOBODY, "viewer", &[])])
    };
    let first = send(&tenant.client, request()).await.unwrap();
    assert_eq!(fates(&first), [(Added, ""), (Refused, "USER_NOT_FOUND")]);
    assert_eq!(send(&tenant.client, request()).await.unwrap(), first);
    assert_eq!(recorded(&tenant, &ida).await, 1);
    let other = v1::BatchAddMembersRequest { members: vec![row(&ida, "admin", &[])], ..request() };
    assert!(refused(send(&tenant.client, other).await).is(Code::InvalidArgument, "REQUEST_ID_REUSED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_hears_of_every_row() {
    let world = World::start_with(NEVER_STALE).await;
    let replica = World::on(world.database.clone(), NEVER_STALE).await;
    let tenant = world.tenant("acme").await;
    let users = [user(&world, "a").await, user(&world, "b").await];
    let acts = async |world: &World, user: &str| {
        let client = world.client(&tenant.key).acting(user);
        client.organizations().get_organization(v1::GetOrganizationRequest::default()).await.is_ok()
    };
    for user in &users {
        assert!(!acts(&world, user).await && !acts(&replica, user).await, "and that is known now");
    }
    let results = add(&tenant.client, &tenant, users.iter().map(|user| row(user, "viewer", &[])).collect()).await;
    assert_eq!(fates(&results), [(Added, ""), (Added, "")]);
    for user in &users {
        assert!(acts(&world, user).await, "this one at once");
        eventually("the other one, too", || acts(&replica, user)).await;
    }
}
