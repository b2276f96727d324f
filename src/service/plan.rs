//! `PlanService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::metering::catalog::{Catalog, View};
use crate::model::etag;
use crate::model::plan::Plan;
use crate::page::Page;
use crate::proto::v1;
use crate::proto::v1::plan_service_server::PlanService;
use crate::repository::plan;
use crate::repository::scope::{PlatformScope, Purpose};
use crate::service::convert::plan::{self as convert, Draft};
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Plans {
    /// What it works with.
    pub shared: Shared,
    /// The meters in memory.
    pub catalog: Arc<Catalog>,
}

#[tonic::async_trait]
impl PlanService for Plans {
    async fn create_plan(
        &self,
        request: Request<v1::CreatePlanRequest>,
    ) -> Result<Response<v1::CreatePlanResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let draft = Draft::of_new(request.plan.unwrap_or_default())?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let meters = self.catalog.view_with(None, |view| draft.is_within(view)).await?;
        let new = draft.resolved(&meters)?.new_plan()?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Plans).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let created = new.created(now);
        plan::create(&mut scope, &created).await?;
        let reply = v1::CreatePlanResponse { plan: Some(convert::to_proto(created, &meters)?) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_plan(&self, request: Request<v1::GetPlanRequest>) -> Result<Response<v1::GetPlanResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Plans).await?;
        let found = match request.version {
            0 => plan::get(&mut scope, &request.plan).await?,
            version => plan::get_version(&mut scope, &request.plan, version).await?,
        };
        drop(scope);
        let meters = self.meters(std::slice::from_ref(&found)).await?;
        Ok(Response::new(v1::GetPlanResponse { plan: Some(convert::to_proto(found, &meters)?) }))
    }

    async fn list_plans(
        &self,
        request: Request<v1::ListPlansRequest>,
    ) -> Result<Response<v1::ListPlansResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let permitted = self.shared.gate.platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Plans).await?;
        let mut found = plan::list(&mut scope, request.show_archived, &page).await?;
        drop(scope);
        let next_page_token = page.finish(&mut found, plan::cursor);
        let meters = self.meters(&found).await?;
        let plans = found.into_iter().map(|plan| convert::to_proto(plan, &meters)).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListPlansResponse { plans, next_page_token }))
    }

    async fn update_plan(
        &self,
        request: Request<v1::UpdatePlanRequest>,
    ) -> Result<Response<v1::UpdatePlanResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.plan.unwrap_or_default();
        let (key, etag) = (message.key.clone(), message.etag.clone());
        let draft = Draft::of_changes(request.update_mask, message)?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let meters = self.all_meters().await?;
        let changes = draft.resolved(&meters)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Plans).await?;
        let before = locked(&mut scope, &key, &etag).await?;
        let now = self.shared.clock.now();
        let after = changes.applied(&before, now);
        let saved = plan::save(&mut scope, "plans.update", &before, after, now).await?;
        let reply = v1::UpdatePlanResponse { plan: Some(convert::to_proto(saved, &meters)?) };
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn archive_plan(
        &self,
        request: Request<v1::ArchivePlanRequest>,
    ) -> Result<Response<v1::ArchivePlanResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.whole_platform(&caller)?;
        let meters = self.all_meters().await?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::Plans).await?;
        let before = locked(&mut scope, &request.plan, &request.etag).await?;
        if before.archive_time.is_some() {
            let plan = convert::to_proto(before, &meters)?;
            return Ok(Response::new(v1::ArchivePlanResponse { plan: Some(plan) }));
        }
        let now = self.shared.clock.now();
        let after = Plan { archive_time: Some(now), ..before.clone() };
        let saved = plan::save(&mut scope, "plans.archive", &before, after, now).await?;
        let reply = v1::ArchivePlanResponse { plan: Some(convert::to_proto(saved, &meters)?) };
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_entitlements(
        &self,
        request: Request<v1::GetEntitlementsRequest>,
    ) -> Result<Response<v1::GetEntitlementsResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let found = plan::entitlements(&mut scope).await?;
        Ok(Response::new(v1::GetEntitlementsResponse {
            plan: found.plan,
            plan_version: found.version,
            features: convert::features(found.features),
            member_limit: found.sizes.member_limit,
            team_limit: found.sizes.team_limit,
        }))
    }
}

impl Plans {
    /// All platform-wide meters, read anew: whatever plan is locked afterwards, its meters are there, so that nothing can
    /// fail any more once a change of it is committed.
    async fn all_meters(&self) -> Result<View, Error> {
        self.catalog.view_with(None, |_| false).await
    }

    /// A view that has the meters of these plans. Asked without a scope open, as it may open one of its own.
    async fn meters(&self, plans: &[Plan]) -> Result<View, Error> {
        let mut limits = plans.iter().flat_map(|plan| &plan.limits);
        let complete = |view: &View| limits.all(|limit| view.of_id(limit.rule.meter_id).is_some());
        self.catalog.view_with(None, complete).await
    }
}

/// The plan, locked, as the caller last saw it.
async fn locked(scope: &mut PlatformScope, key: &str, etag: &str) -> Result<Plan, Error> {
    let before = plan::lock(scope, key).await?;
    etag::check(plan::RESOURCE, etag, before.revision)?;
    Ok(before)
}
