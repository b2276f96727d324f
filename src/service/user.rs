//! `UserService`.

use tonic::{Request, Response, Status};

use crate::auth::gate::{Gate, Reach};
use crate::auth::principal::{Caller, Permitted};
use crate::error::Error;
use crate::filter::Filter;
use crate::ids::UserId;
use crate::model::etag;
use crate::model::user::{User, UserStatus};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::user_service_server::UserService;
use crate::repository::scope::{Accountable, Purpose, Scope};
use crate::repository::user::{self, Narrow};
use crate::service::convert::user as convert;
use crate::service::{Shared, convert::mask, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Users {
    /// What it works with.
    pub shared: Shared,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Result<Response<v1::CreateUserResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let profile = convert::new_profile(request.user.unwrap_or_default())?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let created = user::create(&mut scope, UserId::new(now), &profile, now).await?;
        let reply = v1::CreateUserResponse { user: Some(convert::to_proto(created)) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Result<Response<v1::GetUserResponse>, Status> {
        let (caller, request) = open(request)?;
        let user_id = request.user_id.parse()?;

        let found = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                user::get(&mut scope, user_id).await?
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
                user::get(&mut scope, user_id).await?
            }
        };
        Ok(Response::new(v1::GetUserResponse { user: Some(convert::to_proto(found)) }))
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
                _ => None,
            })?,
            email: filter.get("email").map(str::to_owned),
        };

        let mut found = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                user::list_members(&mut scope, &narrow, &page).await?
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
                user::list(&mut scope, &narrow, &page).await?
            }
        };
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.user_id.uuid() });
        let users = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListUsersResponse { users, next_page_token }))
    }

    async fn update_user(
        &self,
        request: Request<v1::UpdateUserRequest>,
    ) -> Result<Response<v1::UpdateUserResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.user.unwrap_or_default();
        let fields = mask::fields(request.update_mask, convert::FIELDS)?;
        let user_id = message.user_id.parse().map_err(|error: Error| error.within("user"))?;

        let saved = if caller.is_platform() {
            let permitted = self.shared.gate.whole_platform(&caller)?;
            let scope = self.shared.database.platform(&permitted, Purpose::Users).await?;
            self.update(scope, user_id, message, &fields).await?
        } else {
            let permitted = permit_themselves(&self.shared.gate, &caller, &request.organization_id, user_id).await?;
            let scope = self.shared.database.tenant(&permitted).await?;
            self.update(scope, user_id, message, &fields).await?
        };
        Ok(Response::new(v1::UpdateUserResponse { user: Some(convert::to_proto(saved)) }))
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
        if before.status == UserStatus::Deactivated {
            return Ok(Response::new(v1::DeactivateUserResponse { user: Some(convert::to_proto(before)) }));
        }
        let saved = user::deactivate(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::DeactivateUserResponse { user: Some(convert::to_proto(saved)) }))
    }
}

impl Users {
    /// The same on the platform and in an organization: what may be changed there, the scope knows.
    async fn update<K: Accountable>(
        &self,
        mut scope: Scope<K>,
        user_id: UserId,
        message: v1::User,
        fields: &[&str],
    ) -> Result<User, Error> {
        let before = locked(&mut scope, user_id, &message.etag).await?;
        let profile = convert::changed_profile(before.profile.clone(), message, fields)?;
        let saved = user::save(&mut scope, &before, &profile, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(saved)
    }
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
