//! Who is in a team: added, changed, removed, and gone with the membership of the organization.

use futures_util::future::join_all;
use prost_types::FieldMask;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{NOBODY, REQUEST_ID, actions, add, audit, create, delete, new};
use crate::harness::{Client, Tenant, World, refused};

const MEMBER: v1::TeamRole = v1::TeamRole::Member;
const LEAD: v1::TeamRole = v1::TeamRole::Lead;

async fn set(
    client: &Client,
    team_id: &str,
    user_id: &str,
    role: v1::TeamRole,
    etag: &str,
) -> Result<v1::TeamMember, Status> {
    let team_member = v1::TeamMember {
        team_id: team_id.into(),
        user_id: user_id.into(),
        role: role.into(),
        etag: etag.into(),
        ..v1::TeamMember::default()
    };
    let update_mask = Some(FieldMask { paths: vec!["role".into()] });
    let request = v1::UpdateTeamMemberRequest { team_member: Some(team_member), update_mask };
    Ok(client.teams().update_team_member(request).await?.into_inner().team_member.unwrap())
}

async fn remove(client: &Client, team_id: &str, user_id: &str, etag: &str) -> Result<(), Status> {
    let request = v1::RemoveTeamMemberRequest {
        team_id: team_id.into(),
        user_id: user_id.into(),
        etag: etag.into(),
        ..Default::default()
    };
    client.teams().remove_team_member(request).await.map(drop)
}

async fn members(client: &Client, team_id: &str) -> Vec<v1::TeamMember> {
    let request = v1::ListTeamMembersRequest { team_id: team_id.into(), ..Default::default() };
    client.teams().list_team_members(request).await.unwrap().into_inner().team_members
}

async fn teams_of(client: &Client, user_id: &str) -> Result<Vec<v1::UserTeam>, Status> {
    let request = v1::ListUserTeamsRequest { user_id: user_id.into(), ..Default::default() };
    Ok(client.teams().list_user_teams(request).await?.into_inner().teams)
}

async fn leave(tenant: &Tenant, user_id: &str) -> Result<(), Status> {
    let request = v1::RemoveMemberRequest { user_id: user_id.into(), ..Default::default() };
    tenant.client.members().remove_member(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_be_in_a_team() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let ida = tenant.member(&world, "ida", "viewer").await;
    let theirs = other.member(&world, "bob", "viewer").await;
    let team = new(client, "", "Ops").await;
    let added = add(client, &team, &ida, MEMBER).await.unwrap();
    assert_eq!((&added.team_id, &added.user_id, added.role()), (&team, &ida, MEMBER));
    assert_eq!((added.email.as_str(), added.display_name.as_str()), ("ida@acme.example.com", "ida"));
    assert_eq!(members(client, &team).await, [added.clone()]);
    let refusal = refused(add(client, &team, &ida, LEAD).await);
    assert!(refusal.is(Code::AlreadyExists, "ALREADY_TEAM_MEMBER") && refusal.fields == ["user_id"], "{refusal:?}");
    for nobody in [NOBODY, &theirs] {
        let refusal = refused(add(client, &team, nobody, MEMBER).await);
        assert!(refusal.is(Code::NotFound, "MEMBER_NOT_FOUND"), "{refusal:?}");
    }
    let foreign = new(&other.client, "", "Ops").await;
    for missing in [NOBODY, &foreign] {
        assert!(refused(add(client, missing, &ida, MEMBER).await).is(Code::NotFound, "TEAM_NOT_FOUND"));
    }
    let request = v1::AddTeamMemberRequest { team_id: "x".into(), ..Default::default() };
    let refusal = refused(client.teams().add_team_member(request).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    assert_eq!(refusal.fields, ["team_id", "user_id", "role"]);
    assert_eq!(members(client, &team).await, [added]);
    assert_eq!(members(&other.client, &foreign).await, []);

    // Who leads a team may no more than their role: a viewer changes nothing.
    let lead = tenant.member(&world, "lead", "viewer").await;
    add(client, &team, &lead, LEAD).await.unwrap();
    let acting = client.clone().acting(&lead);
    assert_eq!(members(&acting, &team).await.len(), 2);
    for outcome in [
        add(&acting, &team, &ida, MEMBER).await.map(drop),
        remove(&acting, &team, &ida, "").await,
        create(&acting, &team, "Mine").await.map(drop),
    ] {
        assert!(refused(outcome).is(Code::PermissionDenied, "PERMISSION_MISSING"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_membership() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = &tenant.client;
    let ida = tenant.member(&world, "ida", "viewer").await;
    let team = new(client, "", "Ops").await;
    let request = v1::AddTeamMemberRequest {
        team_id: team.clone(),
        user_id: ida.clone(),
        role: MEMBER.into(),
        request_id: REQUEST_ID.into(),
        ..Default::default()
    };
    let again = (0..4).map(|_| {
        let (mut teams, request) = (client.teams(), request.clone());
        async move { teams.add_team_member(request).await.unwrap().into_inner().team_member.unwrap() }
    });
    let replies = join_all(again).await;
    let before = replies[0].clone();
    assert!(replies.iter().all(|reply| *reply == before));

    assert_eq!(set(client, &team, &ida, MEMBER, &before.etag).await.unwrap(), before);
    let after = set(client, &team, &ida, LEAD, &before.etag).await.unwrap();
    assert_eq!((after.role(), after.etag == before.etag), (LEAD, false));
    assert_eq!(members(client, &team).await, [after.clone()]);
    for outcome in [
        set(client, &team, &ida, MEMBER, &before.etag).await.map(drop),
        remove(client, &team, &ida, &before.etag).await,
    ] {
        assert!(refused(outcome).is(Code::Aborted, "ETAG_MISMATCH"));
    }
    let bob = tenant.member(&world, "bob", "viewer").await;
    for outcome in [set(client, &team, &bob, LEAD, "").await.map(drop), remove(client, &team, &bob, "").await] {
        assert!(refused(outcome).is(Code::NotFound, "TEAM_MEMBER_NOT_FOUND"));
    }
    let refusal = refused(set(client, &team, &ida, v1::TeamRole::Unspecified, "").await);
    assert_eq!(refusal.fields, ["team_member.role"]);
    remove(client, &team, &ida, &after.etag).await.unwrap();
    assert_eq!(members(client, &team).await, []);
    let events = audit(&tenant, "team_member", &format!("{team}/{ida}")).await;
    assert_eq!(actions(&events), ["team_members.add", "team_members.remove", "team_members.update"]);
    // What is written down for ever names nobody.
    assert!(events.iter().all(|event| !format!("{event:?}").contains("example.com")), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_the_organization_leaves_its_teams() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let ida = tenant.member(&world, "ida", "viewer").await;
    let bob = tenant.member(&world, "bob", "viewer").await;
    let request = v1::AddMemberRequest { user_id: ida.clone(), role: "viewer".into(), ..Default::default() };
    other.client.members().add_member(request).await.unwrap();
    let elsewhere = new(&other.client, "", "Ops").await;
    add(&other.client, &elsewhere, &ida, MEMBER).await.unwrap();
    let root = new(client, "", "Ops").await;
    let teams = [root.clone(), new(client, &root, "Day").await, new(client, &root, "Night").await];
    for team in &teams {
        add(client, team, &ida, LEAD).await.unwrap();
        add(client, team, &bob, MEMBER).await.unwrap();
    }
    let found = teams_of(client, &ida).await.unwrap();
    assert_eq!((found.len(), found[0].role(), &found[0].team.as_ref().unwrap().team_id), (3, LEAD, &root));
    assert!(found.is_sorted_by(|a, b| a.team.as_ref().unwrap().path < b.team.as_ref().unwrap().path));

    leave(&tenant, &ida).await.unwrap();
    assert!(refused(teams_of(client, &ida).await).is(Code::NotFound, "MEMBER_NOT_FOUND"));
    let mut removals = Vec::new();
    for team in &teams {
        let left: Vec<String> = members(client, team).await.into_iter().map(|member| member.user_id).collect();
        assert_eq!(left, [bob.clone()]);
        let events = audit(&tenant, "team_member", &format!("{team}/{ida}")).await;
        assert_eq!(actions(&events), ["team_members.add", "team_members.remove"]);
        let removal = events.into_iter().find(|event| event.action == "team_members.remove").unwrap();
        assert!(removal.before.is_some() && removal.after.is_none());
        removals.push(removal.request_id);
    }
    // All of it in the one request, with the membership.
    let gone = audit(&tenant, "member", &ida).await;
    let gone = gone.iter().find(|event| event.action == "members.remove").unwrap();
    assert!(removals.iter().all(|request_id| *request_id == gone.request_id));
    assert_eq!(members(&other.client, &elsewhere).await.len(), 1);
    // Who comes back is in no team.
    let request = v1::AddMemberRequest { user_id: ida.clone(), role: "viewer".into(), ..Default::default() };
    client.members().add_member(request).await.unwrap();
    assert_eq!(teams_of(client, &ida).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_while_they_are_removed_is_out_in_the_end() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let far = replica.client(&tenant.key);
    let teams = join_all((0..4).map(async |number| new(&tenant.client, "", &format!("T{number}")).await)).await;
    for round in 0..8 {
        let user = tenant.member(&world, &format!("u{round}"), "viewer").await;
        let joins = join_all(teams.iter().enumerate().map(async |(number, team)| {
            add(if number % 2 == 0 { &far } else { &tenant.client }, team, &user, MEMBER).await.map(drop)
        }));
        let (joined, left) = tokio::join!(joins, leave(&tenant, &user));
        left.unwrap();
        for refusal in joined.into_iter().filter(Result::is_err) {
            let refusal = refused(refusal);
            assert!(refusal.is(Code::NotFound, "MEMBER_NOT_FOUND"), "{refusal:?}");
        }
        for team in &teams {
            assert_eq!(members(&tenant.client, team).await, []);
        }
    }
    // And whoever joins a team that is deleted meanwhile is in none.
    let user = tenant.member(&world, "last", "viewer").await;
    for team in &teams {
        let (joined, deleted) =
            tokio::join!(add(&far, team, &user, MEMBER), delete(&tenant.client, team, v1::DeleteTeamMode::Cascade));
        let with_member = deleted.unwrap() == (1, 1);
        assert_eq!(joined.is_ok(), with_member);
    }
    assert_eq!(teams_of(&tenant.client, &user).await.unwrap(), []);
}
