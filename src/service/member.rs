//! `MemberService`.
//!
//! Nobody hands out what they do not hold, nor takes it from who does: `PRIVILEGE_ESCALATION` is decided under the
//! organization's lock, from what the member and the roles are there. So however many calls somebody makes, nobody ends up
//! with more than the caller had at the beginning.

mod batch;

use tonic::{Request, Response, Status};

use crate::auth::gate;
use crate::auth::permission::{Permission, Permissions};
use crate::auth::principal::{Caller, Permitted};
use crate::error::{Error, Violation};
use crate::filter::Filter;
use crate::ids::UserId;
use crate::model::etag;
use crate::model::invitation::InvitationStatus;
use crate::model::member::{Changes, Member, MemberStatus, Role};
use crate::model::role::RoleKey;
use crate::model::user::UserStatus;
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::member_service_server::MemberService;
use crate::repository::member::{self, Narrow};
use crate::repository::scope::TenantScope;
use crate::repository::{invitation, organization, role};
use crate::service::convert::mask;
use crate::service::convert::member::{self as convert, Transfer};
use crate::service::{Shared, idempotency, open, require_rows};

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
        permitted.require_owner(role.is_owner())?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        organization::lock(&mut scope).await?;
        permitted.require_held(of_role(&mut scope, &role).await?)?;
        let added = member::add(&mut scope, user_id, &role, now).await?;
        // Counted afterwards, so that who is a member already is told so also when the organization is full.
        member::require_room(&mut scope, 0).await?;
        let reply = v1::AddMemberResponse { member: Some(convert::to_proto(added)) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn batch_add_members(
        &self,
        request: Request<v1::BatchAddMembersRequest>,
    ) -> Result<Response<v1::BatchAddMembersResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        require_rows("members", request.members.len())?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let rows = self.look_up(&caller, &permitted, &request.members).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let reply = v1::BatchAddMembersResponse { results: batch::add(&mut scope, &permitted, rows, now).await? };
        if request.validate_only {
            scope.rollback().await?;
        } else {
            idempotency::remember(&mut scope, repeatable, &reply).await?;
            scope.commit().await?;
        }
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
        let filter = Filter::parse(&request.filter, &["role", "status"])?;
        let role = filter.get_as("role", |role| role.parse().ok())?;
        let status = filter.get_as("status", |status| match status {
            "ACTIVE" => Some(Some(MemberStatus::Active)),
            "SUSPENDED" => Some(Some(MemberStatus::Suspended)),
            "INVITED" => Some(None),
            _ => None,
        })?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        if status == Some(None) {
            gate::require(permitted.permissions(), Permission::InvitationsRead)?;
            return Ok(Response::new(self.invited(&permitted, role, &page).await?));
        }

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let mut found = member::list(&mut scope, &Narrow { role, status: status.flatten() }, &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.user_id.uuid() });
        let members = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListMembersResponse { members, next_page_token }))
    }

    async fn update_member(
        &self,
        request: Request<v1::UpdateMemberRequest>,
    ) -> Result<Response<v1::UpdateMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.member.unwrap_or_default();
        let user_id = message.user_id.parse().map_err(|error: Error| error.within("member"))?;
        let fields = mask::fields(request.update_mask, convert::FIELDS)?;
        let changes = convert::changes(&message, &fields)?;
        let saved = self.update(&caller, &message.organization_id, user_id, &message.etag, changes).await?;
        Ok(Response::new(v1::UpdateMemberResponse { member: Some(convert::to_proto(saved)) }))
    }

    async fn update_member_role(
        &self,
        request: Request<v1::UpdateMemberRoleRequest>,
    ) -> Result<Response<v1::UpdateMemberRoleResponse>, Status> {
        let (caller, request) = open(request)?;
        let (user_id, role) = convert::user_and_role(&request.user_id, &request.role)?;
        let changes = Changes { role: Some(role), ..Changes::default() };
        let saved = self.update(&caller, &request.organization_id, user_id, &request.etag, changes).await?;
        Ok(Response::new(v1::UpdateMemberRoleResponse { member: Some(convert::to_proto(saved)) }))
    }

    async fn suspend_member(
        &self,
        request: Request<v1::SuspendMemberRequest>,
    ) -> Result<Response<v1::SuspendMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let (user_id, reason) = convert::user_and_reason(&request.user_id, &request.reason)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = taken(&mut scope, &permitted, user_id, &request.etag).await?;
        if before.status == MemberStatus::Suspended {
            return Ok(Response::new(v1::SuspendMemberResponse { member: Some(convert::to_proto(before)) }));
        }
        keep_an_owner_without(&mut scope, &before).await?;
        let now = self.shared.clock.now();
        let after = before.with_suspension(Some((now, reason)));
        let saved = member::save(&mut scope, "members.suspend", &before, after, now).await?;
        scope.commit().await?;
        Ok(Response::new(v1::SuspendMemberResponse { member: Some(convert::to_proto(saved)) }))
    }

    async fn reactivate_member(
        &self,
        request: Request<v1::ReactivateMemberRequest>,
    ) -> Result<Response<v1::ReactivateMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = taken(&mut scope, &permitted, user_id, &request.etag).await?;
        if before.status == MemberStatus::Active {
            return Ok(Response::new(v1::ReactivateMemberResponse { member: Some(convert::to_proto(before)) }));
        }
        let after = before.with_suspension(None);
        let saved = member::save(&mut scope, "members.reactivate", &before, after, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::ReactivateMemberResponse { member: Some(convert::to_proto(saved)) }))
    }

    async fn transfer_ownership(
        &self,
        request: Request<v1::TransferOwnershipRequest>,
    ) -> Result<Response<v1::TransferOwnershipResponse>, Status> {
        let (caller, request) = open(request)?;
        let Transfer { to, from, former_role } = convert::transfer(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        permitted.require_owner(true)?;
        let from = handing_over(&permitted, from, to)?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        organization::lock(&mut scope).await?;
        let former = member::get(&mut scope, from).await?;
        require_owner_in_fact(&former, &permitted)?;
        let next = member::get(&mut scope, to).await?;
        require_active(&next)?;
        // That it exists: an owner holds all that it can have.
        of_role(&mut scope, &former_role).await?;
        let now = self.shared.clock.now();
        let mut owner = next.clone();
        if !next.role.is_owner() {
            let promoted = next.with_role(Role::Owner.into());
            owner = member::save(&mut scope, "members.transfer_ownership", &next, promoted, now).await?;
        }
        let demoted = former.with_role(former_role);
        let former = member::save(&mut scope, "members.transfer_ownership", &former, demoted, now).await?;
        scope.commit().await?;
        Ok(Response::new(v1::TransferOwnershipResponse {
            owner: Some(convert::to_proto(owner)),
            former_owner: Some(convert::to_proto(former)),
        }))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = taken(&mut scope, &permitted, user_id, &request.etag).await?;
        keep_an_owner_without(&mut scope, &before).await?;
        member::remove(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        let mut removed = convert::to_proto(before);
        removed.set_status(v1::MemberStatus::Removed);
        Ok(Response::new(v1::RemoveMemberResponse { member: Some(removed) }))
    }
}

impl Members {
    /// A page of those who can still accept an invitation, as members.
    async fn invited(
        &self,
        permitted: &Permitted,
        role: Option<RoleKey>,
        page: &Page,
    ) -> Result<v1::ListMembersResponse, Error> {
        let mut scope = self.shared.database.tenant(permitted).await?;
        let narrow = invitation::Narrow { status: Some(InvitationStatus::Pending), email: None, role };
        let mut found = invitation::list(&mut scope, &narrow, self.shared.clock.now(), page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.invitation_id.uuid() });
        let members = found.into_iter().map(convert::invited).collect();
        Ok(v1::ListMembersResponse { members, next_page_token })
    }

    /// Changes what a member may do. Errors: `OWNER_REQUIRED`, `PRIVILEGE_ESCALATION`, `OWNER_HAS_ALL`, `ROLE_NOT_FOUND`,
    /// `LAST_OWNER`.
    async fn update(
        &self,
        caller: &Caller,
        organization: &str,
        user_id: UserId,
        etag: &str,
        changes: Changes,
    ) -> Result<Member, Error> {
        let permitted = self.shared.gate.tenant(caller, organization).await?;
        permitted.require_owner(changes.role.as_ref().is_some_and(RoleKey::is_owner))?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &permitted, user_id, etag).await?;
        let after = changes.of(&before)?;
        let had = before.held(of_role(&mut scope, &before.role).await?);
        let gets = after.held(of_role(&mut scope, &after.role).await?);
        // Of themselves everybody may take what they like.
        let taken = if permitted.acting_user() == Some(user_id) { Permissions::default() } else { had };
        permitted.require_held(gets.without(had).or(taken))?;
        if !after.is_given_other_than(&before) {
            return Ok(before);
        }
        if !after.role.is_owner() {
            keep_an_owner_without(&mut scope, &before).await?;
        }
        let saved = member::save(&mut scope, "members.update", &before, after, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(saved)
    }
}

/// What a role of the scope's organization has. Error: `ROLE_NOT_FOUND`.
pub(super) async fn of_role(scope: &mut TenantScope, key: &RoleKey) -> Result<Permissions, Error> {
    match key.built_in() {
        Some(role) => Ok(Permissions::of_role(role)),
        None => Ok(role::get(scope, key).await?.profile.permissions()),
    }
}

/// A member in the locked organization, as the caller last saw them. Error: `OWNER_REQUIRED`.
async fn locked(scope: &mut TenantScope, permitted: &Permitted, user_id: UserId, etag: &str) -> Result<Member, Error> {
    organization::lock(scope).await?;
    let before = member::get(scope, user_id).await?;
    permitted.require_owner(before.role.is_owner())?;
    etag::check("member", etag, before.revision)?;
    Ok(before)
}

/// The same, where something is taken from them: who is not the member must hold all that the member does. Errors:
/// `OWNER_REQUIRED`, `PRIVILEGE_ESCALATION`.
pub(in crate::service) async fn taken(
    scope: &mut TenantScope,
    permitted: &Permitted,
    user_id: UserId,
    etag: &str,
) -> Result<Member, Error> {
    let member = locked(scope, permitted, user_id, etag).await?;
    if permitted.acting_user() != Some(user_id) {
        permitted.require_held(member.held(of_role(scope, &member.role).await?))?;
    }
    Ok(member)
}

/// The owner who hands over: who is acted for, or whom the platform names.
fn handing_over(permitted: &Permitted, named: Option<UserId>, to: UserId) -> Result<UserId, Error> {
    let from = match (permitted.acting_user(), named) {
        (Some(acting), None) => acting,
        (Some(acting), Some(named)) if acting != named => {
            return Err(Error::PermissionDenied {
                reason: "OWNER_REQUIRED",
                message: "an owner hands over what is theirs, not another's".into(),
            });
        }
        (_, Some(named)) => named,
        (None, None) => {
            return Err(
                Violation::new("former_owner_id", "must be named by a platform key that acts for nobody").into()
            );
        }
    };
    if from == to {
        return Err(Violation::new("user_id", "must be another than the owner who hands over").into());
    }
    Ok(from)
}

/// Fails with `NOT_AN_OWNER` for who has nothing to hand over; whoever acts for them was an owner a moment ago.
fn require_owner_in_fact(former: &Member, permitted: &Permitted) -> Result<(), Error> {
    if former.role.is_owner() {
        return Ok(());
    }
    if permitted.acting_user().is_some() {
        return Err(Error::PermissionDenied {
            reason: "OWNER_REQUIRED",
            message: "the user is no owner any more".into(),
        });
    }
    Err(Error::FailedPrecondition {
        reason: "NOT_AN_OWNER",
        subject: format!("members/{}", former.user_id),
        message: "only an owner can hand over".into(),
    })
}

/// Fails for a member for whom nobody can act.
fn require_active(member: &Member) -> Result<(), Error> {
    let (reason, message) = match (member.user_status, member.status) {
        (UserStatus::Active, MemberStatus::Active) => return Ok(()),
        (UserStatus::Active, MemberStatus::Suspended) => ("MEMBER_SUSPENDED", "a suspended member cannot own"),
        _ => ("USER_DEACTIVATED", "a deactivated or erased user cannot own"),
    };
    Err(Error::FailedPrecondition { reason, subject: format!("members/{}", member.user_id), message: message.into() })
}

/// Fails with `LAST_OWNER` when the organization would have no owner left without this member.
async fn keep_an_owner_without(scope: &mut TenantScope, member: &Member) -> Result<(), Error> {
    if !member.role.is_owner() || member::owner_remains_without(scope, member).await? {
        return Ok(());
    }
    Err(Error::FailedPrecondition {
        reason: "LAST_OWNER",
        subject: format!("members/{}", member.user_id),
        message: "an organization keeps an owner: make another member one first".into(),
    })
}
