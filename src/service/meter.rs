//! `MeterService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::gate::Reach;
use crate::error::Error;
use crate::ids::MeterId;
use crate::metering::catalog::Catalog;
use crate::model::etag;
use crate::model::meter::{Meter, NewMeter};
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::meter_service_server::MeterService;
use crate::repository::idempotency::Repeatable;
use crate::repository::meter;
use crate::repository::scope::{Accountable, Purpose, Scope};
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
        let new = convert::new_meter(&message)?;

        let reply = match self.shared.gate.reach(&caller, &message.organization_id).await? {
            Reach::Tenant(permitted) => {
                self.create(self.shared.database.tenant(&permitted).await?, new, repeatable).await?
            }
            Reach::Platform(permitted) => {
                let scope = self.shared.database.platform(&permitted, Purpose::PlatformMeters).await?;
                self.create(scope, new, repeatable).await?
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
                meter::list(&mut scope, request.show_archived, &page).await?
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::PlatformMeters).await?;
                meter::list_platform_wide(&mut scope, request.show_archived, &page).await?
            }
        };
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.meter_id.uuid() });
        let meters = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListMetersResponse { meters, next_page_token }))
    }

    async fn update_meter(
        &self,
        request: Request<v1::UpdateMeterRequest>,
    ) -> Result<Response<v1::UpdateMeterResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.meter.unwrap_or_default();
        let id: MeterId = message.meter_id.parse().map_err(|error: Error| error.within("meter"))?;
        let fields = convert::fields(request.update_mask)?;

        let saved = match self.shared.gate.reach(&caller, &message.organization_id).await? {
            Reach::Tenant(permitted) => {
                self.update(self.shared.database.tenant(&permitted).await?, id, &message, &fields).await?
            }
            Reach::Platform(permitted) => {
                let scope = self.shared.database.platform(&permitted, Purpose::PlatformMeters).await?;
                self.update(scope, id, &message, &fields).await?
            }
        };
        Ok(Response::new(v1::UpdateMeterResponse { meter: Some(convert::to_proto(saved)) }))
    }

    async fn archive_meter(
        &self,
        request: Request<v1::ArchiveMeterRequest>,
    ) -> Result<Response<v1::ArchiveMeterResponse>, Status> {
        let (caller, request) = open(request)?;
        let saved = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => self.archive(self.shared.database.tenant(&permitted).await?, &request).await?,
            Reach::Platform(permitted) => {
                let scope = self.shared.database.platform(&permitted, Purpose::PlatformMeters).await?;
                self.archive(scope, &request).await?
            }
        };
        Ok(Response::new(v1::ArchiveMeterResponse { meter: Some(convert::to_proto(saved)) }))
    }
}

/// The same in an organization and on the platform: whose meters they are, the scope knows.
impl Meters {
    async fn create<K: Accountable>(
        &self,
        mut scope: Scope<K>,
        new: NewMeter,
        repeatable: Option<Repeatable>,
    ) -> Result<v1::CreateMeterResponse, Error> {
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(reply);
        }
        let created = meter::create(&mut scope, new, now).await?;
        let reply = v1::CreateMeterResponse { meter: Some(convert::to_proto(created)) };
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(reply)
    }

    async fn update<K: Accountable>(
        &self,
        mut scope: Scope<K>,
        id: MeterId,
        message: &v1::Meter,
        fields: &[&str],
    ) -> Result<Meter, Error> {
        let before = locked(&mut scope, &id.to_string(), &message.etag).await?;
        let profile = convert::changed_profile(before.profile.clone(), message, fields)?;
        let after = Meter { profile, ..before.clone() };
        let saved = meter::save(&mut scope, "meters.update", &before, after, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(saved)
    }

    async fn archive<K: Accountable>(
        &self,
        mut scope: Scope<K>,
        request: &v1::ArchiveMeterRequest,
    ) -> Result<Meter, Error> {
        let before = locked(&mut scope, &request.meter, &request.etag).await?;
        if before.archive_time.is_some() {
            return Ok(before);
        }
        let now = self.shared.clock.now();
        let after = Meter { archive_time: Some(now), ..before.clone() };
        let saved = meter::save(&mut scope, "meters.archive", &before, after, now).await?;
        scope.commit().await?;
        Ok(saved)
    }
}

/// The meter, locked, as the caller last saw it.
async fn locked<K: Accountable>(scope: &mut Scope<K>, name: &str, etag: &str) -> Result<Meter, Error> {
    let before = meter::lock(scope, name).await?;
    etag::check(meter::RESOURCE, etag, before.revision)?;
    Ok(before)
}
