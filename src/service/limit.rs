//! `LimitService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::principal::Permitted;
use crate::error::{Error, Violation};
use crate::ids::{LimitId, OrganizationId, parse_uuid};
use crate::metering::catalog::{Catalog, View};
use crate::model::etag;
use crate::model::limit::{Limit, Maker};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::limit_service_server::LimitService;
use crate::repository::limit::{self, Narrow};
use crate::repository::scope::TenantScope;
use crate::service::convert::limit as convert;
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What it works with.
    pub shared: Shared,
    /// The meters in memory.
    pub catalog: Arc<Catalog>,
}

#[tonic::async_trait]
impl LimitService for Limits {
    async fn create_limit(
        &self,
        request: Request<v1::CreateLimitRequest>,
    ) -> Result<Response<v1::CreateLimitResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let message = request.limit.unwrap_or_default();
        let organization = message.organization_id.clone();
        let (subject_id, rule) = convert::new_limit(message)?;

        let permitted = self.shared.gate.tenant(&caller, &organization).await?;
        let organization_id = permitted.organization_id();
        let has_meter = |view: &View| view.of_key(&rule.meter).is_some();
        let meters = self.catalog.view_with(Some(organization_id), has_meter).await?;
        let rule = convert::resolved(rule, &meters)?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let created = Limit {
            organization_id,
            limit_id: LimitId::new(now),
            maker: if permitted.is_platform() { Maker::Platform } else { Maker::Organization },
            subject_id,
            rule,
            revision: 1,
            create_time: now,
            update_time: now,
        };
        limit::create(&mut scope, &created).await?;
        let reply = v1::CreateLimitResponse { limit: Some(convert::to_proto(created, &meters)?) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_limit(&self, request: Request<v1::GetLimitRequest>) -> Result<Response<v1::GetLimitResponse>, Status> {
        let (caller, request) = open(request)?;
        let id: LimitId = request.limit_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = limit::get(&mut scope, id).await?;
        drop(scope);
        let meters = self.meters(found.organization_id, std::slice::from_ref(&found)).await?;
        Ok(Response::new(v1::GetLimitResponse { limit: Some(convert::to_proto(found, &meters)?) }))
    }

    async fn list_limits(
        &self,
        request: Request<v1::ListLimitsRequest>,
    ) -> Result<Response<v1::ListLimitsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let subject_id = match request.subject_id.as_str() {
            "" => None,
            text => Some(parse_uuid(text).ok_or_else(|| Error::from(Violation::new("subject_id", "must be a UUID")))?),
        };
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let organization_id = permitted.organization_id();
        let meter_id = match request.meter.as_str() {
            "" => None,
            name => Some(self.catalog.named(organization_id, name).await?.meter_id),
        };

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let mut found = limit::list(&mut scope, &Narrow { meter_id, subject_id }, &page).await?;
        drop(scope);
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.limit_id.uuid() });
        let meters = self.meters(organization_id, &found).await?;
        let limits = found.into_iter().map(|limit| convert::to_proto(limit, &meters)).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListLimitsResponse { limits, next_page_token }))
    }

    async fn update_limit(
        &self,
        request: Request<v1::UpdateLimitRequest>,
    ) -> Result<Response<v1::UpdateLimitResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.limit.unwrap_or_default();
        let id: LimitId = message.limit_id.parse().map_err(|error: Error| error.within("limit"))?;
        let rule = message.rule.unwrap_or_default();
        let fields = convert::fields(request.update_mask, &rule)?;
        let permitted = self.shared.gate.tenant(&caller, &message.organization_id).await?;
        // Read anew: whatever limit is locked afterwards, its meter is there, so that nothing can fail any more once the
        // change is committed.
        let meters = self.catalog.view_since(permitted.organization_id(), self.shared.clock.instant()).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &permitted, id, &message.etag).await?;
        let terms = convert::changed_terms(before.rule.terms.clone(), before.rule.window, rule, &fields)?;
        let saved = limit::save(&mut scope, &before, terms, self.shared.clock.now()).await?;
        let reply = v1::UpdateLimitResponse { limit: Some(convert::to_proto(saved, &meters)?) };
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn delete_limit(
        &self,
        request: Request<v1::DeleteLimitRequest>,
    ) -> Result<Response<v1::DeleteLimitResponse>, Status> {
        let (caller, request) = open(request)?;
        let id: LimitId = request.limit_id.parse()?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let before = locked(&mut scope, &permitted, id, &request.etag).await?;
        limit::delete(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::DeleteLimitResponse {}))
    }
}

impl Limits {
    /// A view that has the meters of these limits. Asked without a scope open, as it may open one of its own.
    async fn meters(&self, organization_id: OrganizationId, limits: &[Limit]) -> Result<View, Error> {
        let complete = |view: &View| limits.iter().all(|limit| view.of_id(limit.rule.meter_id).is_some());
        self.catalog.view_with(Some(organization_id), complete).await
    }
}

/// The limit, locked, as the caller last saw it and may change it. Error: `LIMIT_OF_PLATFORM`.
async fn locked(scope: &mut TenantScope, permitted: &Permitted, id: LimitId, etag: &str) -> Result<Limit, Error> {
    let before = limit::lock(scope, id).await?;
    if before.maker == Maker::Platform && !permitted.is_platform() {
        return Err(Error::PermissionDenied {
            reason: "LIMIT_OF_PLATFORM",
            message: format!("the limit {id} was made by the platform: only a platform key changes it"),
        });
    }
    etag::check(limit::RESOURCE, etag, before.revision)?;
    Ok(before)
}
