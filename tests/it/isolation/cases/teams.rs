//! The cases of teams, and a team with a member.

use prost_types::FieldMask;
use tenancy::proto::v1;

use super::{Case, Furnished, case};
use crate::harness::Tenant;

/// A team below another, with one member.
pub async fn team(tenant: &Tenant, user_id: &str) -> String {
    let mut team_id = String::new();
    for display_name in ["Engineering", "Backend Squad"] {
        let team = v1::Team { parent_team_id: team_id, display_name: display_name.into(), ..v1::Team::default() };
        let request = v1::CreateTeamRequest { team: Some(team), ..Default::default() };
        team_id = tenant.client.teams().create_team(request).await.unwrap().into_inner().team.unwrap().team_id;
    }
    let request = v1::AddTeamMemberRequest {
        team_id: team_id.clone(),
        user_id: user_id.into(),
        role: v1::TeamRole::Lead.into(),
        ..Default::default()
    };
    tenant.client.teams().add_team_member(request).await.unwrap();
    team_id
}

/// The cases, for a victim.
pub fn cases(victim: &Furnished) -> Vec<Case> {
    let theirs = || victim.tenant.id.clone();
    let (team_id, user_id) = (|| victim.team_id.clone(), || victim.user_id.clone());
    let mask = |path: &str| Some(FieldMask { paths: vec![path.into()] });
    let team = |organization_id: String| v1::Team {
        organization_id,
        team_id: team_id(),
        display_name: "Taken".into(),
        ..v1::Team::default()
    };
    let create = |organization_id: String| v1::CreateTeamRequest {
        team: Some(v1::Team { parent_team_id: team_id(), ..team(organization_id) }),
        ..Default::default()
    };
    let update = |organization_id: String| v1::UpdateTeamRequest {
        team: Some(team(organization_id)),
        update_mask: mask("display_name"),
    };
    let get = |organization_id: String| v1::GetTeamRequest { organization_id, team_id: team_id() };
    let list =
        |organization_id: String| v1::ListTeamsRequest { organization_id, team_id: team_id(), ..Default::default() };
    let reparent =
        |organization_id: String| v1::MoveTeamRequest { organization_id, team_id: team_id(), ..Default::default() };
    let delete = |organization_id: String| v1::DeleteTeamRequest {
        organization_id,
        team_id: team_id(),
        mode: v1::DeleteTeamMode::Cascade.into(),
        ..Default::default()
    };
    let add = |organization_id: String| v1::AddTeamMemberRequest {
        organization_id,
        team_id: team_id(),
        user_id: user_id(),
        role: v1::TeamRole::Member.into(),
        ..Default::default()
    };
    let update_member = |organization_id: String| v1::UpdateTeamMemberRequest {
        team_member: Some(v1::TeamMember {
            organization_id,
            team_id: team_id(),
            user_id: user_id(),
            role: v1::TeamRole::Member.into(),
            ..v1::TeamMember::default()
        }),
        update_mask: mask("role"),
    };
    let remove = |organization_id: String| v1::RemoveTeamMemberRequest {
        organization_id,
        team_id: team_id(),
        user_id: user_id(),
        ..Default::default()
    };
    let members = |organization_id: String| v1::ListTeamMembersRequest {
        organization_id,
        team_id: team_id(),
        descendants: true,
        ..Default::default()
    };
    let of_user = |organization_id: String| v1::ListUserTeamsRequest {
        organization_id,
        user_id: user_id(),
        ..Default::default()
    };
    let (own, missing) = (String::new, "TEAM_NOT_FOUND");
    vec![
        case("/tenancy.v1.TeamService/CreateTeam").organization(create(theirs())).resource(create(own()), missing),
        case("/tenancy.v1.TeamService/GetTeam").organization(get(theirs())).resource(get(own()), missing),
        case("/tenancy.v1.TeamService/ListTeams").organization(list(theirs())).resource(list(own()), missing),
        case("/tenancy.v1.TeamService/UpdateTeam").organization(update(theirs())).resource(update(own()), missing),
        case("/tenancy.v1.TeamService/MoveTeam").organization(reparent(theirs())).resource(reparent(own()), missing),
        case("/tenancy.v1.TeamService/AddTeamMember").organization(add(theirs())).resource(add(own()), missing),
        case("/tenancy.v1.TeamService/UpdateTeamMember")
            .organization(update_member(theirs()))
            .resource(update_member(own()), missing),
        case("/tenancy.v1.TeamService/RemoveTeamMember")
            .organization(remove(theirs()))
            .resource(remove(own()), missing),
        case("/tenancy.v1.TeamService/ListTeamMembers")
            .organization(members(theirs()))
            .resource(members(own()), missing),
        case("/tenancy.v1.TeamService/ListUserTeams")
            .organization(of_user(theirs()))
            .resource(of_user(own()), "MEMBER_NOT_FOUND"),
        case("/tenancy.v1.TeamService/DeleteTeam").organization(delete(theirs())).resource(delete(own()), missing),
    ]
}
