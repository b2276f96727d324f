//! `TeamService`, over the wire.

mod demo;
mod members;
mod pages;
mod random;
mod subtrees;
mod tree;

use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, Tenant};

const NOBODY: &str = "018f6d2e-0000-7000-8000-00000000dead";
const REQUEST_ID: &str = "018f6d2e-0000-7000-8000-000000000001";

/// Creates a team; an empty parent makes a root.
async fn create(client: &Client, parent: &str, name: &str) -> Result<v1::Team, Status> {
    let team = v1::Team { parent_team_id: parent.into(), display_name: name.into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), ..Default::default() };
    Ok(client.teams().create_team(request).await?.into_inner().team.unwrap())
}

/// The same where it must succeed; returns the id.
async fn new(client: &Client, parent: &str, name: &str) -> String {
    create(client, parent, name).await.unwrap().team_id
}

async fn get(client: &Client, team_id: &str) -> Result<v1::Team, Status> {
    let request = v1::GetTeamRequest { team_id: team_id.into(), ..Default::default() };
    Ok(client.teams().get_team(request).await?.into_inner().team.unwrap())
}

async fn reparent(client: &Client, team_id: &str, parent: &str) -> Result<v1::Team, Status> {
    reparent_at(client, team_id, parent, "").await
}

async fn reparent_at(client: &Client, team_id: &str, parent: &str, etag: &str) -> Result<v1::Team, Status> {
    let request = v1::MoveTeamRequest {
        team_id: team_id.into(),
        parent_team_id: parent.into(),
        etag: etag.into(),
        ..Default::default()
    };
    Ok(client.teams().move_team(request).await?.into_inner().team.unwrap())
}

async fn delete(client: &Client, team_id: &str, mode: v1::DeleteTeamMode) -> Result<(i32, i32), Status> {
    let request = v1::DeleteTeamRequest { team_id: team_id.into(), mode: mode.into(), ..Default::default() };
    let reply = client.teams().delete_team(request).await?.into_inner();
    Ok((reply.deleted_teams, reply.deleted_members))
}

async fn add(client: &Client, team_id: &str, user_id: &str, role: v1::TeamRole) -> Result<v1::TeamMember, Status> {
    let request = v1::AddTeamMemberRequest {
        team_id: team_id.into(),
        user_id: user_id.into(),
        role: role.into(),
        ..Default::default()
    };
    Ok(client.teams().add_team_member(request).await?.into_inner().team_member.unwrap())
}

/// All pages of a list of teams.
async fn teams(client: &Client, request: v1::ListTeamsRequest) -> Vec<v1::Team> {
    let mut request = request;
    let mut all = Vec::new();
    loop {
        let page = client.teams().list_teams(request.clone()).await.unwrap().into_inner();
        all.extend(page.teams);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

/// The whole forest, or a subtree.
async fn subtree(client: &Client, team_id: &str) -> Vec<v1::Team> {
    let request =
        v1::ListTeamsRequest { team_id: team_id.into(), subtree: true, page_size: 1000, ..Default::default() };
    teams(client, request).await
}

/// Fails unless the teams are a forest as it is listed: each path is that of its parent and itself, parents come first,
/// and nothing is there twice.
#[track_caller]
fn assert_is_a_tree(teams: &[v1::Team]) {
    let mut paths = std::collections::HashMap::from([(String::new(), Vec::new())]);
    for team in teams {
        let above: &Vec<String> = paths.get(&team.parent_team_id).expect("a parent that was not before its child");
        let path = [above.as_slice(), &[team.team_id.clone()]].concat();
        assert_eq!((&team.path, team.depth), (&path, i32::try_from(path.len()).unwrap()));
        assert!(path.len() <= 10 && paths.insert(team.team_id.clone(), path).is_none(), "{team:?}");
    }
    assert!(teams.is_sorted_by(|a, b| a.path < b.path), "depth first");
}

/// The actions that the audit has of a resource, newest first, each with the record.
async fn audit(tenant: &Tenant, resource_type: &str, resource_id: &str) -> Vec<v1::AuditEvent> {
    let filter = format!("resource_type = \"{resource_type}\" AND resource_id = \"{resource_id}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    tenant.client.audit().list_audit_events(request).await.unwrap().into_inner().audit_events
}

fn actions(events: &[v1::AuditEvent]) -> Vec<&str> {
    let mut actions: Vec<&str> = events.iter().map(|event| event.action.as_str()).collect();
    // Ids of one millisecond are in no order.
    actions.sort_unstable();
    actions
}
