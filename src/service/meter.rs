//! `MeterService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::gate::Reach;
use crate::metering::catalog::Catalog;
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::meter_service_server::MeterService;
use crate::repository::meter;
use crate::repository::scope::Purpose;
use crate::service::convert::meter as convert;
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Meters {
    /// What it works with.
    pub shared: Shared,
    /// The meters in memory.
    pub catalog: Arc<Catalog>,
}

#[tonic::async_trait]
impl MeterService for Meters {
    async fn create_meter(
        &self,
        request: Request<v1::CreateMeterRequest>,
    ) -> Result<Response<v1::CreateMeterResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let message = request.meter.unwrap_or_default();
        let definition = convert::definition(&message)?;

        let reach = self.shared.gate.reach(&caller, &message.organization_id).await?;
        let now = self.shared.clock.now();
        let reply = match reach {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
                    return Ok(Response::new(reply));
                }
                let created = meter::create(&mut scope, definition, now).await?;
                let reply = v1::CreateMeterResponse { meter: Some(convert::to_proto(created)) };
                idempotency::remember(&mut scope, repeatable, &reply).await?;
                scope.commit().await?;
                reply
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::PlatformMeters).await?;
                if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
                    return Ok(Response::new(reply));
                }
                let created = meter::create_platform_wide(&mut scope, definition, now).await?;
                let reply = v1::CreateMeterResponse { meter: Some(convert::to_proto(created)) };
                idempotency::remember(&mut scope, repeatable, &reply).await?;
                scope.commit().await?;
                reply
            }
        };
        Ok(Response::new(reply))
    }

    async fn get_meter(&self, request: Request<v1::GetMeterRequest>) -> Result<Response<v1::GetMeterResponse>, Status> {
        let (caller, request) = open(request)?;
        let found = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => self.catalog.named(permitted.organization_id(), &request.meter).await?,
            Reach::Platform(_) => self.catalog.named_platform_wide(&request.meter).await?,
        };
        Ok(Response::new(v1::GetMeterResponse { meter: Some(convert::to_proto(Arc::unwrap_or_clone(found))) }))
    }

    async fn list_meters(
        &self,
        request: Request<v1::ListMetersRequest>,
    ) -> Result<Response<v1::ListMetersResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let mut found = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                meter::list(&mut scope, &page).await?
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::PlatformMeters).await?;
                meter::list_platform_wide(&mut scope, &page).await?
            }
        };
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.meter_id.uuid() });
        let meters = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListMetersResponse { meters, next_page_token }))
    }
}
