//! `UserService`.

mod batch;

use chrono::{DateTime, Utc};
use tonic::{Request, Response, Status};

use crate::auth::gate::{self, Gate, Reach};
use crate::auth::permission::Permission;
use crate::auth::principal::{Caller, Permitted};
use crate::error::{Error, Violation};
use crate::filter::Filter;
use crate::ids::{OrganizationId, UserId};
use crate::model::user::{Private, Profile, User, UserStatus};
use crate::model::{etag, organization as organization_model};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::user_service_server::UserService;
use crate::repository::allowance::Allowance;
use crate::repository::scope::{Accountable, PlatformScope, Purpose, Scope, TenantScope};
use crate::repository::user::{self, Narrow, erasure, private};
use crate::repository::{member, organization};
use crate::service::convert::{mask, organization as organization_convert, user as convert};
use crate::service::{Shared, idempotency, open, require_rows};

/// The service.
#[derive(Clone, Debug)]
pub struct Users {
    /// What it works with.
    pub shared: Shared,
    /// How often a user may found an organization.
    pub allowance: Allowance,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Result<Response<v1::CreateUserResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let now = self.shared.clock.now();
        let user_id = UserId::new(now);
        let new = new_user(request.user.unwrap_or_default())?;
        let own =
            request.personal_organization.map(|message| own_organization(message, user_id, &new.0)).transpose()?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        if own.is_some() {
            gate::require(caller.principal().permissions(), Permission::OrganizationsCreate)?;
        }
        let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        if own.is_some() {
            self.allowance.take_one(&mut scope, user_id.uuid(), now).await?;
        }
        let reply = create(&mut scope, user_id, new, own, now).await?;
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn batch_create_users(
        &self,
        request: Request<v1::BatchCreateUsersRequest>,
    ) -> Result<Response<v1::BatchCreateUsersResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        require_rows("users", request.users.len())?;
        let permitted = self.shared.gate.whole_platform(&caller)?;

        let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let reply = v1::BatchCreateUsersResponse { results: batch::create(&mut scope, request.users, now).await? };
        if request.validate_only {
            scope.rollback().await?;
        } else {
            idempotency::remember(&mut scope, repeatable, &reply).await?;
            scope.commit().await?;
        }
        Ok(Response::new(reply))
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Result<Response<v1::GetUserResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;

        let found = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                convert::to_proto(user::get(&mut scope, user_id).await?)
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
                let found = user::get(&mut scope, user_id).await?;
                convert::whole_to_proto(found, private::get(&mut scope, user_id).await?)
            }
        };
        Ok(Response::new(v1::GetUserResponse { user: Some(found) }))
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let filter = Filter::parse(&request.filter, &["status", "email"])?;
        let narrow = Narrow {
            status: filter.get_as("status", |status| match status {
                "ACTIVE" => Some(UserStatus::Active),
                "DEACTIVATED" => Some(UserStatus::Deactivated),
                "ERASED" => Some(UserStatus::Erased),
                _ => None,
            })?,
            email: filter.get("email").map(str::to_owned),
        };

        let cursor = |last: &User| Cursor { time: last.create_time, id: last.user_id.uuid() };
        let (users, next_page_token) = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                let mut found = user::list_members(&mut scope, &narrow, &page).await?;
                let token = page.finish(&mut found, cursor);
                (found.into_iter().map(convert::to_proto).collect(), token)
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
                let mut found = user::list(&mut scope, &narrow, &page).await?;
                let token = page.finish(&mut found, cursor);
                let ids: Vec<UserId> = found.iter().map(|user| user.user_id).collect();
                let mut known = private::read(&mut scope, &ids).await?;
                let whole = |user: User| {
                    let private = known.remove(&user.user_id).unwrap_or_default();
                    convert::whole_to_proto(user, private)
                };
                (found.into_iter().map(whole).collect(), token)
            }
        };
        Ok(Response::new(v1::ListUsersResponse { users, next_page_token }))
    }

    async fn update_user(
        &self,
        request: Request<v1::UpdateUserRequest>,
    ) -> Result<Response<v1::UpdateUserResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.user.unwrap_or_default();
        let is_all = request.update_mask.as_ref().is_some_and(|mask| mask.paths.iter().any(|path| path == "*"));
        let every: Vec<&str> = convert::FIELDS.iter().chain(convert::PRIVATE_FIELDS).copied().collect();
        let mut fields = mask::fields(request.update_mask, &every)?;
        let user_id = message.user_id.parse().map_err(|error: Error| error.within("user"))?;

        let saved = if caller.is_platform() {
            let permitted = self.shared.gate.whole_platform(&caller)?;
            let scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
            self.update_whole(scope, user_id, &message, &fields).await?
        } else {
            let permitted = permit_themselves(&self.shared.gate, &caller, &request.organization_id, user_id).await?;
            if is_all {
                // Everything that this caller can change.
                fields.retain(|field| convert::FIELDS.contains(field));
            }
            if let Some(field) = fields.iter().find(|field| convert::PRIVATE_FIELDS.contains(field)) {
                permitted.require_platform(field)?;
            }
            let scope = self.shared.database.tenant(&permitted).await?;
            self.update(scope, user_id, &message, &fields).await?
        };
        Ok(Response::new(v1::UpdateUserResponse { user: Some(saved) }))
    }

    async fn deactivate_user(
        &self,
        request: Request<v1::DeactivateUserRequest>,
    ) -> Result<Response<v1::DeactivateUserResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
        let before = locked(&mut scope, user_id, &request.etag).await?;
        let private = private::get(&mut scope, user_id).await?;
        // Who is erased is no less deactivated.
        if before.status != UserStatus::Active {
            let user = Some(convert::whole_to_proto(before, private));
            return Ok(Response::new(v1::DeactivateUserResponse { user }));
        }
        let saved = user::deactivate(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::DeactivateUserResponse { user: Some(convert::whole_to_proto(saved, private)) }))
    }

    async fn erase_user(
        &self,
        request: Request<v1::EraseUserRequest>,
    ) -> Result<Response<v1::EraseUserResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
        let mut found = locked(&mut scope, user_id, &request.etag).await?;
        if found.status != UserStatus::Erased {
            found = erasure::erase(&mut scope, &found, self.shared.clock.now()).await?;
        }
        let private = private::get(&mut scope, user_id).await?;
        scope.commit().await?;
        Ok(Response::new(v1::EraseUserResponse { user: Some(convert::whole_to_proto(found, private)) }))
    }

    async fn list_user_organizations(
        &self,
        request: Request<v1::ListUserOrganizationsRequest>,
    ) -> Result<Response<v1::ListUserOrganizationsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let user_id = request.user_id.parse()?;

        let permitted = self.shared.gate.platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
        let mut found = private::organizations(&mut scope, user_id, permitted.organizations(), &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.join_time, id: last.organization_id.uuid() });
        let organizations = found.into_iter().map(convert::belonging).collect();
        Ok(Response::new(v1::ListUserOrganizationsResponse { organizations, next_page_token }))
    }
}

impl Users {
    /// What a tenant changes of the user for whom it acts.
    async fn update(
        &self,
        mut scope: TenantScope,
        user_id: UserId,
        message: &v1::User,
        fields: &[&str],
    ) -> Result<v1::User, Error> {
        let before = locked(&mut scope, user_id, &message.etag).await?;
        let profile = convert::changed_profile(before.profile.clone(), message, fields)?;
        let saved = user::save(&mut scope, &before, &profile, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(convert::to_proto(saved))
    }

    /// What the platform changes of any user.
    async fn update_whole(
        &self,
        mut scope: PlatformScope,
        user_id: UserId,
        message: &v1::User,
        fields: &[&str],
    ) -> Result<v1::User, Error> {
        let before = locked(&mut scope, user_id, &message.etag).await?;
        if before.status == UserStatus::Erased {
            return Err(Error::FailedPrecondition {
                reason: "USER_ERASED",
                subject: format!("users/{user_id}"),
                message: "an erased user cannot be changed".into(),
            });
        }
        let known = private::get(&mut scope, user_id).await?;
        let (profile, private) = convert::changed_user((before.profile.clone(), known.clone()), message, fields)?;
        if let Some(organization_id) =
            private.default_organization_id.filter(|id| known.default_organization_id != Some(*id))
        {
            private::require_member(&mut scope, user_id, organization_id).await?;
        }
        let now = self.shared.clock.now();
        let saved = user::save_whole(&mut scope, (&before, &known), (&profile, &private), now).await?;
        scope.commit().await?;
        Ok(convert::whole_to_proto(saved, private))
    }
}

/// A new user as a message has them. Error: `INVALID_FIELD` with every violation.
fn new_user(message: v1::User) -> Result<(Profile, Private), Error> {
    let new = convert::new_user(message)?;
    if new.1.default_organization_id.is_some() {
        let rule = "must be empty: a new user is a member of nothing yet but the personal organization";
        return Err(Violation::new("user.default_organization_id", rule).into());
    }
    Ok(new)
}

/// The profile of a new user's own organization. Error: `INVALID_FIELD` with every violation.
fn own_organization(
    message: v1::Organization,
    user_id: UserId,
    owner: &Profile,
) -> Result<organization_model::Profile, Error> {
    let mut message = message;
    if message.slug.is_empty() {
        // The random half of the id.
        let id = user_id.uuid().simple().to_string();
        message.slug = format!("user-{}", &id[16..]);
    }
    if message.display_name.is_empty() {
        message.display_name.clone_from(&owner.display_name);
    }
    organization_convert::new_profile_in("personal_organization", message)
}

/// Creates a user, and the organization of their own.
async fn create(
    scope: &mut PlatformScope,
    user_id: UserId,
    (profile, private): (Profile, Private),
    own: Option<organization_model::Profile>,
    now: DateTime<Utc>,
) -> Result<v1::CreateUserResponse, Error> {
    let organization_id = own.is_some().then(|| OrganizationId::new(now));
    let private = Private { default_organization_id: organization_id, ..private };
    let user = user::create(scope, user_id, &profile, &private, now).await?;
    let mut personal_organization = None;
    if let Some((organization_id, own)) = organization_id.zip(own) {
        let organization = organization::create(scope, organization_id, &own, now).await?;
        member::found(scope, organization_id, &user, now).await?;
        personal_organization = Some(organization_convert::to_proto(organization));
    }
    Ok(v1::CreateUserResponse { user: Some(convert::whole_to_proto(user, private)), personal_organization })
}

/// Lets a caller who is not the platform to the one user it may change: the one for whom it acts. Decided before anybody
/// looks whether the user exists. Error: `NOT_THAT_USER`.
async fn permit_themselves(
    gate: &Gate,
    caller: &Caller,
    organization: &str,
    user_id: UserId,
) -> Result<Permitted, Error> {
    let permitted = gate.tenant(caller, organization).await?;
    if permitted.acting_user() != Some(user_id) {
        return Err(Error::PermissionDenied {
            reason: "NOT_THAT_USER",
            message: "a user is changed by themselves (x-acting-user) or by a platform key".into(),
        });
    }
    Ok(permitted)
}

/// A user whom the scope may change, locked, as the caller last saw them.
async fn locked<K: Accountable>(scope: &mut Scope<K>, user_id: UserId, etag: &str) -> Result<User, Error> {
    let before = user::lock(scope, user_id).await?;
    etag::check("user", etag, before.revision)?;
    Ok(before)
}
