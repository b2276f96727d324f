//! `OrganizationService`.

use chrono::{DateTime, Duration, Utc};
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::filter::Filter;
use crate::ids::{OrganizationId, UserId};
use crate::model::organization::{Deletion, Organization, Suspension};
use crate::model::user::{User, UserStatus};
use crate::model::{etag, plan, text};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::organization_service_server::OrganizationService;
use crate::repository::allowance::Allowance;
use crate::repository::organization::{self, Narrow};
use crate::repository::scope::{PlatformScope, Purpose, TenantScope};
use crate::repository::{member, user};
use crate::service::convert::organization as convert;
use crate::service::{Shared, convert::mask, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Organizations {
    /// What it works with.
    pub shared: Shared,
    /// How long a deleted organization can be brought back.
    pub purge_after: Duration,
    /// How often a user may found one.
    pub allowance: Allowance,
}

#[tonic::async_trait]
impl OrganizationService for Organizations {
    async fn create_organization(
        &self,
        request: Request<v1::CreateOrganizationRequest>,
    ) -> Result<Response<v1::CreateOrganizationResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let (profile, owner) = convert::founding(request.organization.unwrap_or_default(), &request.owner_user_id)?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::CreateOrganization).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let owner = match owner {
            Some(id) => Some(self.founder(&mut scope, id, now).await?),
            None => None,
        };
        let organization_id = OrganizationId::new(now);
        let created = organization::create(&mut scope, organization_id, &profile, now).await?;
        if let Some(owner) = owner {
            member::found(&mut scope, organization_id, &owner, now).await?;
        }
        let reply = v1::CreateOrganizationResponse { organization: Some(convert::to_proto(created)) };
        if request.validate_only {
            scope.rollback().await?;
        } else {
            idempotency::remember(&mut scope, repeatable, &reply).await?;
            scope.commit().await?;
        }
        Ok(Response::new(reply))
    }

    async fn get_organization(
        &self,
        request: Request<v1::GetOrganizationRequest>,
    ) -> Result<Response<v1::GetOrganizationResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.tenant_or_deleted(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = organization::get(&mut scope).await?;
        Ok(Response::new(v1::GetOrganizationResponse { organization: Some(convert::to_proto(found)) }))
    }

    async fn list_organizations(
        &self,
        request: Request<v1::ListOrganizationsRequest>,
    ) -> Result<Response<v1::ListOrganizationsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let filter = Filter::parse(&request.filter, &["status", "plan", "slug", "labels."])?;
        let permitted = self.shared.gate.platform(&caller)?;
        let narrow = Narrow {
            organization_ids: permitted.organizations().map(|ids| ids.iter().map(|id| id.uuid()).collect()),
            status: filter.get_as("status", |status| match status {
                "ACTIVE" => Some("active"),
                "SUSPENDED" => Some("suspended"),
                _ => None,
            })?,
            plan: filter.get_as("plan", |plan| plan::key("plan", plan).ok())?,
            slug: filter.get("slug").map(str::to_owned),
            labels: filter.labels(),
            show_deleted: request.show_deleted,
        };

        let mut scope = self.shared.database.platform(&permitted, Purpose::ReadOrganizations).await?;
        let mut found = organization::list(&mut scope, &narrow, &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.organization_id.uuid() });
        let organizations = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListOrganizationsResponse { organizations, next_page_token }))
    }

    async fn update_organization(
        &self,
        request: Request<v1::UpdateOrganizationRequest>,
    ) -> Result<Response<v1::UpdateOrganizationResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.organization.unwrap_or_default();
        let mut fields = mask::fields(request.update_mask.clone(), convert::FIELDS)?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;
        if !permitted.is_platform() && request.update_mask.is_some_and(|mask| mask.paths.iter().any(|path| path == "*"))
        {
            // Everything that this caller can change.
            fields.retain(|field| !convert::PLATFORM_FIELDS.contains(field));
        }
        for field in fields.iter().filter(|field| convert::PLATFORM_FIELDS.contains(field)) {
            permitted.require_platform(field)?;
        }

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &message.etag).await?;
        let profile = convert::changed_profile(before.profile.clone(), message, &fields)?;
        let after = Organization { profile, ..before.clone() };
        let saved =
            organization::save(&mut scope, "organizations.update", &before, &after, self.shared.clock.now()).await?;
        if request.validate_only {
            scope.rollback().await?;
        } else {
            scope.commit().await?;
        }
        Ok(Response::new(v1::UpdateOrganizationResponse { organization: Some(convert::to_proto(saved)) }))
    }

    async fn suspend_organization(
        &self,
        request: Request<v1::SuspendOrganizationRequest>,
    ) -> Result<Response<v1::SuspendOrganizationResponse>, Status> {
        let (caller, request) = open(request)?;
        let reason = text::free("reason", &request.reason, 500).map_err(Error::from)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &request.etag).await?;
        let now = self.shared.clock.now();
        // Suspended since the first time, whatever the reason is by now.
        let time = before.suspension.as_ref().map_or(now, |suspension| suspension.time);
        let after = Organization { suspension: Some(Suspension { time, reason }), ..before.clone() };
        let saved = organization::save(&mut scope, "organizations.suspend", &before, &after, now).await?;
        scope.commit().await?;
        Ok(Response::new(v1::SuspendOrganizationResponse { organization: Some(convert::to_proto(saved)) }))
    }

    async fn resume_organization(
        &self,
        request: Request<v1::ResumeOrganizationRequest>,
    ) -> Result<Response<v1::ResumeOrganizationResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &request.etag).await?;
        if before.suspension.is_none() {
            return Ok(Response::new(v1::ResumeOrganizationResponse { organization: Some(convert::to_proto(before)) }));
        }
        let after = Organization { suspension: None, ..before.clone() };
        let saved =
            organization::save(&mut scope, "organizations.resume", &before, &after, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::ResumeOrganizationResponse { organization: Some(convert::to_proto(saved)) }))
    }

    async fn delete_organization(
        &self,
        request: Request<v1::DeleteOrganizationRequest>,
    ) -> Result<Response<v1::DeleteOrganizationResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &request.etag).await?;
        let now = self.shared.clock.now();
        let deletion = Deletion { time: now, purge_time: now + self.purge_after };
        let after = Organization { deletion: Some(deletion), ..before.clone() };
        let saved = organization::save(&mut scope, "organizations.delete", &before, &after, now).await?;
        if request.validate_only {
            scope.rollback().await?;
        } else {
            scope.commit().await?;
        }
        Ok(Response::new(v1::DeleteOrganizationResponse { organization: Some(convert::to_proto(saved)) }))
    }

    async fn undelete_organization(
        &self,
        request: Request<v1::UndeleteOrganizationRequest>,
    ) -> Result<Response<v1::UndeleteOrganizationResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.tenant_or_deleted(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &request.etag).await?;
        if before.deletion.is_none() {
            return Err(Error::FailedPrecondition {
                reason: "ORGANIZATION_NOT_DELETED",
                subject: format!("organizations/{}", before.organization_id),
                message: "the organization is not deleted".into(),
            }
            .into());
        }
        let after = Organization { deletion: None, ..before.clone() };
        let saved =
            organization::save(&mut scope, "organizations.undelete", &before, &after, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::UndeleteOrganizationResponse { organization: Some(convert::to_proto(saved)) }))
    }
}

impl Organizations {
    /// A user who may found another organization now. Errors: `USER_NOT_FOUND`, `USER_DEACTIVATED`,
    /// `ORGANIZATION_RATE_EXCEEDED`.
    async fn founder(&self, scope: &mut PlatformScope, id: UserId, now: DateTime<Utc>) -> Result<User, Error> {
        let founder = user::get(scope, id).await?;
        if founder.status != UserStatus::Active {
            return Err(Error::FailedPrecondition {
                reason: "USER_DEACTIVATED",
                subject: format!("users/{id}"),
                message: "a deactivated or erased user cannot own".into(),
            });
        }
        self.allowance.take_one(scope, id.uuid(), now).await?;
        Ok(founder)
    }
}

/// The scope's organization, locked, as the caller last saw it.
async fn locked(scope: &mut TenantScope, etag: &str) -> Result<Organization, Error> {
    let before = organization::lock(scope).await?;
    etag::check("organization", etag, before.revision)?;
    Ok(before)
}
