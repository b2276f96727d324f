//! `UsageService`. Events come in by `intake`, on streams through `pipeline` and `stream`.

mod intake;
mod pipeline;
mod stream;

use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use chrono_tz::Tz;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::layer::Renewal;
use crate::auth::principal::Caller;
use crate::deadline::Ending;
use crate::error::Error;
use crate::metering::buckets;
use crate::metering::catalog::Catalog;
use crate::model::usage::Void;
use crate::model::usage::query::Sources;
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::usage_service_server::UsageService;
use crate::repository::organization;
use crate::repository::scope::TenantScope;
use crate::repository::usage::{event, figures, summary, void};
use crate::service::convert::usage::{self as convert, query};
use crate::service::usage::intake::Batch;
use crate::service::usage::stream::Session;
use crate::service::{Shared, open};
use crate::transport::dispatch::Direct;

pub use crate::service::usage::intake::Intake;

/// The service.
#[derive(Clone, Debug)]
pub struct Usage {
    /// What it works with.
    pub shared: Shared,
    /// The meters in memory.
    pub catalog: Arc<Catalog>,
    /// Takes events in. One for all: whatever is in it would be counted with every request, by all threads.
    pub intake: Arc<Intake>,
    /// How long raw events are kept.
    pub retention: TimeDelta,
}

impl Usage {
    /// Records events.
    async fn record(&self, caller: &Caller, request: v1::RecordUsageRequest) -> Result<v1::RecordUsageResponse, Error> {
        let mut batch = Batch::read(request.organization_id, request.events)?;
        self.intake.record(caller, &mut batch).await;
        Ok(v1::RecordUsageResponse { results: batch.reply()? })
    }
}

/// `RecordUsage`, answered directly.
#[derive(Debug)]
pub struct RecordUsage(pub Arc<Usage>);

impl Direct for RecordUsage {
    const PATH: &'static str = "/tenancy.v1.UsageService/RecordUsage";
    type Request = v1::RecordUsageRequest;
    type Reply = v1::RecordUsageResponse;

    async fn answer(&self, caller: &Caller, request: v1::RecordUsageRequest) -> Result<v1::RecordUsageResponse, Error> {
        self.0.record(caller, request).await
    }
}

#[tonic::async_trait]
impl UsageService for Usage {
    async fn record_usage(
        &self,
        request: Request<v1::RecordUsageRequest>,
    ) -> Result<Response<v1::RecordUsageResponse>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.record(&caller, request).await?))
    }

    type StreamUsageStream = BoxStream<'static, Result<v1::StreamUsageResponse, Status>>;

    async fn stream_usage(
        &self,
        mut request: Request<Streaming<v1::StreamUsageRequest>>,
    ) -> Result<Response<Self::StreamUsageStream>, Status> {
        let extensions = request.extensions_mut();
        let (Some(renewal), Some(ending)) = (extensions.remove::<Renewal>(), extensions.remove::<Ending>()) else {
            return Err(Error::internal("a stream came past the auth layer or the server").into());
        };
        let session = Arc::new(Session {
            intake: Arc::clone(&self.intake),
            clock: self.shared.clock.clone(),
            renewal,
            ending: ending.0,
            last_organization: Mutex::new(None),
        });
        let (stop, mut last) = (session.stop(), None);
        let take = move |message| session.take(&mut last, message);
        Ok(Response::new(pipeline::acknowledged(request.into_inner(), take, stop).boxed()))
    }

    async fn query_usage(
        &self,
        request: Request<v1::QueryUsageRequest>,
    ) -> Result<Response<v1::QueryUsageResponse>, Status> {
        let (caller, request) = open(request)?;
        let question = query::Question::read(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let found = self.catalog.named(permitted.organization_id(), &request.meter).await?;
        let selection = question.selection(&found.measure)?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let zone = zone(&mut scope, question.zone).await?;
        let boundaries = question.boundaries(zone)?;
        let sources = Sources::of(&boundaries, !selection.raw_filters.is_empty());
        self.check_kept(&sources)?;
        let meter = (found.meter_id, found.measure.aggregation);
        let figures = figures::figures(&mut scope, meter, &selection, &sources, &boundaries).await?;
        Ok(Response::new(query::reply(figures, &found, &selection, &boundaries, zone)?))
    }

    async fn get_usage_summary(
        &self,
        request: Request<v1::GetUsageSummaryRequest>,
    ) -> Result<Response<v1::GetUsageSummaryResponse>, Status> {
        let (caller, request) = open(request)?;
        let (unit, named) = query::period(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let now = self.shared.clock.now();
        let meters = self.catalog.view_since(permitted.organization_id(), self.shared.clock.instant()).await?.all();

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let zone = zone(&mut scope, named).await?;
        let period = buckets::around(now, unit, zone).ok_or_else(|| Error::internal("now lies in no period"))?;
        let wanted: Vec<_> = meters.iter().map(|meter| (meter.meter_id, meter.measure.aggregation)).collect();
        let figures = summary::summary(&mut scope, &wanted, &period).await?;
        Ok(Response::new(query::summary(&meters, figures, &period, zone)))
    }

    async fn list_usage_events(
        &self,
        request: Request<v1::ListUsageEventsRequest>,
    ) -> Result<Response<v1::ListUsageEventsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let mut narrow = convert::event::narrow(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        if !request.meter.is_empty() {
            narrow.meter_id = Some(self.catalog.named(permitted.organization_id(), &request.meter).await?.meter_id);
        }

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let mut found = event::list(&mut scope, &narrow, &page).await?;
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.occurred_at, id: last.event_id.uuid() });
        let events = found.into_iter().map(convert::event::to_proto).collect();
        Ok(Response::new(v1::ListUsageEventsResponse { events, next_page_token }))
    }

    async fn void_usage_event(
        &self,
        request: Request<v1::VoidUsageEventRequest>,
    ) -> Result<Response<v1::VoidUsageEventResponse>, Status> {
        let (caller, request) = open(request)?;
        let (identity, reason) = convert::event::to_void(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let mut scope = self.shared.database.tenant(&permitted).await?;
        let void = Void { time: self.shared.clock.now(), reason };
        let voided = void::void(&mut scope, &identity, void).await?;
        scope.commit().await?;
        Ok(Response::new(v1::VoidUsageEventResponse { event: Some(convert::event::to_proto(voided)) }))
    }
}

impl Usage {
    /// Refuses a query that takes raw events which may be gone. Error: `RAW_EVENTS_EXPIRED`.
    fn check_kept(&self, sources: &Sources) -> Result<(), Error> {
        let kept_since = self.shared.clock.now() - self.retention;
        match sources.raw_since() {
            Some(since) if since < kept_since => Err(Error::FailedPrecondition {
                reason: "RAW_EVENTS_EXPIRED",
                subject: "usage".to_owned(),
                message: format!(
                    "raw events are kept since {kept_since}: before, begin and end on a quarter of an hour, with buckets \
                     of an hour or longer, and filter by what the meter groups by"
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// The zone that was named, or the organization's own.
async fn zone(scope: &mut TenantScope, named: Option<Tz>) -> Result<Tz, Error> {
    match named {
        Some(zone) => Ok(zone),
        None => Ok(organization::get(scope).await?.profile.time_zone),
    }
}
