//! `RoleService`.

use chrono::{DateTime, Utc};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::error::Error;
use crate::ids::OrganizationId;
use crate::model::etag;
use crate::model::member::Role;
use crate::model::role::{CustomRole, RoleKey};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::role_service_server::RoleService;
use crate::repository::scope::TenantScope;
use crate::repository::{organization, role};
use crate::service::convert::{mask, role as convert};
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Roles {
    /// What it works with.
    pub shared: Shared,
}

#[tonic::async_trait]
impl RoleService for Roles {
    async fn create_role(
        &self,
        request: Request<v1::CreateRoleRequest>,
    ) -> Result<Response<v1::CreateRoleResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let message = request.role.unwrap_or_default();
        let (key, profile) = convert::new_role(&message)?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;
        permitted.require_held(profile.permissions())?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        organization::lock(&mut scope).await?;
        let organization_id = permitted.organization_id();
        let created = CustomRole { organization_id, key, profile, revision: 1, create_time: now, update_time: now };
        role::create(&mut scope, &created).await?;
        let reply = v1::CreateRoleResponse { role: Some(convert::to_proto(created)) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_role(&self, request: Request<v1::GetRoleRequest>) -> Result<Response<v1::GetRoleResponse>, Status> {
        let (caller, request) = open(request)?;
        let key = convert::key("key", &request.key)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let found = if let Some(role) = key.built_in() {
            convert::built_in(permitted.organization_id(), role)
        } else {
            let mut scope = self.shared.database.tenant(&permitted).await?;
            convert::to_proto(role::get(&mut scope, &key).await?)
        };
        Ok(Response::new(v1::GetRoleResponse { role: Some(found) }))
    }

    async fn list_roles(
        &self,
        request: Request<v1::ListRolesRequest>,
    ) -> Result<Response<v1::ListRolesResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let own = role::list(&mut scope).await?;
        drop(scope);
        let (roles, next_page_token) = one_page(permitted.organization_id(), own, &page);
        Ok(Response::new(v1::ListRolesResponse { roles, next_page_token }))
    }

    async fn update_role(
        &self,
        request: Request<v1::UpdateRoleRequest>,
    ) -> Result<Response<v1::UpdateRoleResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.role.unwrap_or_default();
        let key = convert::key("role.key", &message.key)?;
        let fields = mask::fields(request.update_mask, convert::FIELDS)?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &key, &message.etag).await?;
        let profile = convert::changed_profile(before.profile.clone(), &message, &fields)?;
        permitted.require_held(before.profile.permissions().or(profile.permissions()))?;
        let saved = role::save(&mut scope, &before, profile, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::UpdateRoleResponse { role: Some(convert::to_proto(saved)) }))
    }

    async fn delete_role(
        &self,
        request: Request<v1::DeleteRoleRequest>,
    ) -> Result<Response<v1::DeleteRoleResponse>, Status> {
        let (caller, request) = open(request)?;
        let key = convert::key("key", &request.key)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &key, &request.etag).await?;
        permitted.require_held(before.profile.permissions())?;
        role::delete(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::DeleteRoleResponse {}))
    }
}

/// A role of the locked organization's own, as the caller last saw it. Error: `ROLE_BUILT_IN`.
async fn locked(scope: &mut TenantScope, key: &RoleKey, etag: &str) -> Result<CustomRole, Error> {
    if let Some(role) = key.built_in() {
        return Err(Error::FailedPrecondition {
            reason: "ROLE_BUILT_IN",
            subject: format!("roles/{role}"),
            message: format!("{role} is the same in every organization: make a role of your own"),
        });
    }
    organization::lock(scope).await?;
    let before = role::get(scope, key).await?;
    etag::check(role::RESOURCE, etag, before.revision)?;
    Ok(before)
}

/// When the built-in roles were created, as far as the order of lists goes; before the bound of a first page.
const END_OF_TIME: DateTime<Utc> = match DateTime::from_timestamp_micros(1 << 57) {
    Some(time) => time,
    None => DateTime::<Utc>::UNIX_EPOCH,
};

/// A page of all roles: the built-in ones, which stand at the end of time, and then the organization's own, which come in
/// the list's order.
fn one_page(organization_id: OrganizationId, own: Vec<CustomRole>, page: &Page) -> (Vec<v1::Role>, String) {
    // The discriminants rise with the might.
    let built_in = Role::ALL.into_iter().map(|role| {
        let place = Cursor { time: END_OF_TIME, id: Uuid::from_u128(role as u128) };
        (place, convert::built_in(organization_id, role))
    });
    let own = own.into_iter().map(|role| (role::cursor(&role), convert::to_proto(role)));
    let bound = page.bound();
    let after = |cursor: &Cursor| (cursor.time, cursor.id) < (bound.time, bound.id);
    let mut found: Vec<(Cursor, v1::Role)> =
        built_in.chain(own).filter(|(cursor, _)| after(cursor)).take(page.size + 1).collect();
    let next_page_token = page.finish(&mut found, |(cursor, _)| *cursor);
    (found.into_iter().map(|(_, role)| role).collect(), next_page_token)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::model::role::Profile;

    #[test]
    fn pages_hold_every_role_once() {
        let organization_id = OrganizationId::new(DateTime::UNIX_EPOCH);
        let own = |key: &str, seconds: i64| {
            let create_time = DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
            let (profile, key) = (Profile::default(), key.parse().unwrap());
            CustomRole { organization_id, key, profile, revision: 1, create_time, update_time: create_time }
        };
        let all = ["owner", "admin", "member", "viewer", "newest", "newer", "old"];
        for size in 1..=8 {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let page = Page::read("/m", &String::new(), size, &token).unwrap();
                let roles = vec![own("newest", 3), own("newer", 2), own("old", 1)];
                let (roles, next) = one_page(organization_id, roles, &page);
                assert!(roles.len() <= page.size);
                seen.extend(roles.into_iter().map(|role| role.key));
                token = next;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, all, "{size}");
        }
    }
}
