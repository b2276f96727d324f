//! `TeamService`.

use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::ids::TeamId;
use crate::model::etag;
use crate::model::team::Team;
use crate::page::tree::TreePage;
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::team_service_server::TeamService;
use crate::repository::scope::TenantScope;
use crate::repository::team::{self, member as team_member};
use crate::repository::{member, organization};
use crate::service::convert::{mask, team as convert};
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Teams {
    /// What it works with.
    pub shared: Shared,
}

#[tonic::async_trait]
impl TeamService for Teams {
    async fn create_team(
        &self,
        request: Request<v1::CreateTeamRequest>,
    ) -> Result<Response<v1::CreateTeamResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let message = request.team.unwrap_or_default();
        let organization_id = message.organization_id.clone();
        let (parent_id, profile) = convert::new_team(message)?;
        let permitted = self.shared.gate.tenant(&caller, &organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        organization::lock(&mut scope).await?;
        let parent = optional(&mut scope, parent_id).await?;
        let created = team::create(&mut scope, parent.as_ref(), profile, now).await?;
        let reply = v1::CreateTeamResponse { team: Some(convert::to_proto(created)) };
        if request.validate_only {
            scope.rollback().await?;
        } else {
            idempotency::remember(&mut scope, repeatable, &reply).await?;
            scope.commit().await?;
        }
        Ok(Response::new(reply))
    }

    async fn get_team(&self, request: Request<v1::GetTeamRequest>) -> Result<Response<v1::GetTeamResponse>, Status> {
        let (caller, request) = open(request)?;
        let team_id = request.team_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = team::get(&mut scope, team_id).await?;
        Ok(Response::new(v1::GetTeamResponse { team: Some(convert::to_proto(found)) }))
    }

    async fn list_teams(
        &self,
        request: Request<v1::ListTeamsRequest>,
    ) -> Result<Response<v1::ListTeamsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = TreePage::read(caller.method(), &request, size, &token)?;
        let team_id = convert::optional_team(TeamId::FIELD, &request.team_id).map_err(Error::from)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let path = optional(&mut scope, team_id).await?.map(|team| team.path).unwrap_or_default();
        let mut found = team::list(&mut scope, &path, request.subtree, &page).await?;
        let next_page_token = page.finish(&mut found, team::key);
        let teams = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListTeamsResponse { teams, next_page_token }))
    }

    async fn update_team(
        &self,
        request: Request<v1::UpdateTeamRequest>,
    ) -> Result<Response<v1::UpdateTeamResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.team.unwrap_or_default();
        let team_id = message.team_id.parse().map_err(|error: Error| error.within("team"))?;
        let fields = mask::fields(request.update_mask, convert::FIELDS)?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, team_id, &message.etag).await?;
        let profile = convert::changed_profile(before.profile.clone(), message, &fields)?;
        let saved = team::save(&mut scope, &before, profile, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::UpdateTeamResponse { team: Some(convert::to_proto(saved)) }))
    }

    async fn move_team(&self, request: Request<v1::MoveTeamRequest>) -> Result<Response<v1::MoveTeamResponse>, Status> {
        let (caller, request) = open(request)?;
        let team_id = request.team_id.parse()?;
        let parent_id = convert::optional_team("parent_team_id", &request.parent_team_id).map_err(Error::from)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, team_id, &request.etag).await?;
        let parent = optional(&mut scope, parent_id).await?;
        if before.parent() == parent_id {
            return Ok(Response::new(v1::MoveTeamResponse { team: Some(convert::to_proto(before)) }));
        }
        let saved = team::reparent(&mut scope, &before, parent.as_ref(), self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::MoveTeamResponse { team: Some(convert::to_proto(saved)) }))
    }

    async fn delete_team(
        &self,
        request: Request<v1::DeleteTeamRequest>,
    ) -> Result<Response<v1::DeleteTeamResponse>, Status> {
        let (caller, request) = open(request)?;
        let team_id = request.team_id.parse()?;
        let cascade = convert::read_cascade(request.mode).map_err(Error::from)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, team_id, &request.etag).await?;
        if !cascade && !team::is_empty(&mut scope, &before).await? {
            return Err(Error::FailedPrecondition {
                reason: "TEAM_NOT_EMPTY",
                subject: format!("teams/{team_id}"),
                message: "the team has teams below it, or members: delete with CASCADE, or empty it first".into(),
            }
            .into());
        }
        let now = self.shared.clock.now();
        let count = |deleted: usize| i32::try_from(deleted).unwrap_or(i32::MAX);
        let deleted_members = count(team_member::clear(&mut scope, &before, now).await?);
        let deleted_teams = count(team::delete(&mut scope, &before, now).await?);
        if request.validate_only {
            scope.rollback().await?;
        } else {
            scope.commit().await?;
        }
        Ok(Response::new(v1::DeleteTeamResponse { deleted_teams, deleted_members }))
    }

    async fn add_team_member(
        &self,
        request: Request<v1::AddTeamMemberRequest>,
    ) -> Result<Response<v1::AddTeamMemberResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let role = convert::read_role("role", request.role);
        let (team_id, user_id, role) = convert::membership(&request.team_id, &request.user_id, role)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        locked(&mut scope, team_id, "").await?;
        member::get(&mut scope, user_id).await?;
        let added = team_member::add(&mut scope, team_id, user_id, role, now).await?;
        let reply = v1::AddTeamMemberResponse { team_member: Some(convert::member_to_proto(added)) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn update_team_member(
        &self,
        request: Request<v1::UpdateTeamMemberRequest>,
    ) -> Result<Response<v1::UpdateTeamMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.team_member.unwrap_or_default();
        // There is one field, so that whatever mask is good names it.
        mask::fields(request.update_mask, convert::MEMBER_FIELDS)?;
        let role = convert::read_role("role", message.role);
        let named = convert::membership(&message.team_id, &message.user_id, role);
        let (team_id, user_id, role) = named.map_err(|error| error.within("team_member"))?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        locked(&mut scope, team_id, "").await?;
        let before = team_member::get(&mut scope, team_id, user_id).await?;
        etag::check(team_member::RESOURCE, &message.etag, before.revision)?;
        if before.role == role {
            let team_member = Some(convert::member_to_proto(before));
            return Ok(Response::new(v1::UpdateTeamMemberResponse { team_member }));
        }
        let saved = team_member::save(&mut scope, &before, role, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::UpdateTeamMemberResponse { team_member: Some(convert::member_to_proto(saved)) }))
    }

    async fn remove_team_member(
        &self,
        request: Request<v1::RemoveTeamMemberRequest>,
    ) -> Result<Response<v1::RemoveTeamMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let (team_id, user_id, ()) = convert::membership(&request.team_id, &request.user_id, Ok(()))?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        locked(&mut scope, team_id, "").await?;
        let before = team_member::get(&mut scope, team_id, user_id).await?;
        etag::check(team_member::RESOURCE, &request.etag, before.revision)?;
        team_member::remove(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::RemoveTeamMemberResponse {}))
    }

    async fn list_team_members(
        &self,
        request: Request<v1::ListTeamMembersRequest>,
    ) -> Result<Response<v1::ListTeamMembersResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let team_id = request.team_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let team = team::get(&mut scope, team_id).await?;
        let mut found = if request.descendants {
            team_member::list_subtree(&mut scope, &team, &page).await?
        } else {
            team_member::list(&mut scope, team_id, &page).await?
        };
        // In the order of the users' ids.
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.user_id.uuid() });
        let team_members = found.into_iter().map(convert::member_to_proto).collect();
        Ok(Response::new(v1::ListTeamMembersResponse { team_members, next_page_token }))
    }

    async fn list_user_teams(
        &self,
        request: Request<v1::ListUserTeamsRequest>,
    ) -> Result<Response<v1::ListUserTeamsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = TreePage::read(caller.method(), &request, size, &token)?;
        let user_id = request.user_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        member::get(&mut scope, user_id).await?;
        let mut found = team_member::teams_of(&mut scope, user_id, &page).await?;
        let next_page_token = page.finish(&mut found, |last| team::key(&last.team));
        let teams = found.into_iter().map(convert::user_team).collect();
        Ok(Response::new(v1::ListUserTeamsResponse { teams, next_page_token }))
    }
}

/// The team, in the locked organization, as the caller last saw it.
async fn locked(scope: &mut TenantScope, team_id: TeamId, etag: &str) -> Result<Team, Error> {
    organization::lock(scope).await?;
    let before = team::get(scope, team_id).await?;
    etag::check(team::RESOURCE, etag, before.revision)?;
    Ok(before)
}

/// The team that is named, if one is.
async fn optional(scope: &mut TenantScope, team_id: Option<TeamId>) -> Result<Option<Team>, Error> {
    match team_id {
        Some(id) => team::get(scope, id).await.map(Some),
        None => Ok(None),
    }
}
