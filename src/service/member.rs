//! `MemberService`.

use tonic::{Request, Response, Status};

use crate::auth::principal::Permitted;
use crate::error::Error;
use crate::filter::Filter;
use crate::ids::UserId;
use crate::model::etag;
use crate::model::member::{Member, Role};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::member_service_server::MemberService;
use crate::repository::scope::TenantScope;
use crate::repository::{member, organization};
use crate::service::convert::member as convert;
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Members {
    /// What it works with.
    pub shared: Shared,
}

#[tonic::async_trait]
impl MemberService for Members {
    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::AddMemberResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let (user_id, role) = convert::user_and_role(&request.user_id, &request.role)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        role.require_owner(permitted.is_owner())?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let organization = organization::lock(&mut scope).await?;
        let added = member::add(&mut scope, user_id, role, now).await?;
        // Counted afterwards, so that who is a member already is told so also when the organization is full.
        if let Some(limit) = organization.profile.member_limit
            && member::more_than(&mut scope, limit).await?
        {
            return Err(Error::FailedPrecondition {
                reason: "MEMBER_LIMIT_REACHED",
                subject: format!("organizations/{}", organization.organization_id),
                message: format!("the organization may have at most {limit} members"),
            }
            .into());
        }
        let reply = v1::AddMemberResponse { member: Some(convert::to_proto(added)) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_member(
        &self,
        request: Request<v1::GetMemberRequest>,
    ) -> Result<Response<v1::GetMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = member::get(&mut scope, user_id).await?;
        Ok(Response::new(v1::GetMemberResponse { member: Some(convert::to_proto(found)) }))
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let filter = Filter::parse(&request.filter, &["role"])?;
        let role = filter.get_as("role", |role| role.parse().ok())?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let mut found = member::list(&mut scope, role, &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.user_id.uuid() });
        let members = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListMembersResponse { members, next_page_token }))
    }

    async fn update_member_role(
        &self,
        request: Request<v1::UpdateMemberRoleRequest>,
    ) -> Result<Response<v1::UpdateMemberRoleResponse>, Status> {
        let (caller, request) = open(request)?;
        let (user_id, role) = convert::user_and_role(&request.user_id, &request.role)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        role.require_owner(permitted.is_owner())?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &permitted, user_id, &request.etag).await?;
        if before.role == role {
            return Ok(Response::new(v1::UpdateMemberRoleResponse { member: Some(convert::to_proto(before)) }));
        }
        keep_an_owner_without(&mut scope, &before).await?;
        let saved = member::save(&mut scope, &before, role, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::UpdateMemberRoleResponse { member: Some(convert::to_proto(saved)) }))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &permitted, user_id, &request.etag).await?;
        keep_an_owner_without(&mut scope, &before).await?;
        member::remove(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::RemoveMemberResponse {}))
    }
}

/// A member whom the caller may change, in the locked organization, as the caller last saw them. Error:
/// `OWNER_REQUIRED`.
async fn locked(scope: &mut TenantScope, permitted: &Permitted, user_id: UserId, etag: &str) -> Result<Member, Error> {
    organization::lock(scope).await?;
    let before = member::get(scope, user_id).await?;
    before.role.require_owner(permitted.is_owner())?;
    etag::check("member", etag, before.revision)?;
    Ok(before)
}

/// Fails with `LAST_OWNER` when the organization would have no owner left without this member.
async fn keep_an_owner_without(scope: &mut TenantScope, member: &Member) -> Result<(), Error> {
    if member.role != Role::Owner || member::owner_remains_without(scope, member).await? {
        return Ok(());
    }
    Err(Error::FailedPrecondition {
        reason: "LAST_OWNER",
        subject: format!("members/{}", member.user_id),
        message: "an organization keeps an owner: make another member one first".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::permission::{Permission, Permissions};

    /// What [`Role::require_owner`] relies on: who acts for a member or a viewer changes nobody, so that nobody makes
    /// another more than they are themselves.
    #[test]
    fn only_admins_and_owners_change_members() {
        for permission in [Permission::MembersAdd, Permission::MembersUpdate, Permission::MembersRemove] {
            assert!(!Permissions::of_role(Role::Member).contains(permission));
            assert!(Permissions::of_role(Role::Admin).contains(permission));
        }
    }
}
