//! `UsageService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::error::{Error, Violation};
use crate::metering::catalog::Catalog;
use crate::metering::recorder::Recorder;
use crate::model::usage::{REQUEST_EVENTS, SeriesId};
use crate::proto::v1;
use crate::proto::v1::usage_service_server::UsageService;
use crate::repository::{organization, usage};
use crate::service::convert::usage as convert;
use crate::service::{Shared, convert::meter, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Usage {
    /// What it works with.
    pub shared: Shared,
    /// The meters in memory.
    pub catalog: Arc<Catalog>,
    /// Takes events in.
    pub recorder: Recorder,
}

#[tonic::async_trait]
impl UsageService for Usage {
    async fn record_usage(
        &self,
        request: Request<v1::RecordUsageRequest>,
    ) -> Result<Response<v1::RecordUsageResponse>, Status> {
        let (caller, request) = open(request)?;
        if !(1..=REQUEST_EVENTS).contains(&request.events.len()) {
            let rule = format!("must be 1 to {REQUEST_EVENTS} events");
            return Err(Error::from(Violation::new("events", rule)).into());
        }
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let (sent, drafts): (Vec<_>, Vec<_>) =
            request.events.into_iter().map(|event| (event.event_id.clone(), convert::draft(event))).unzip();
        let fates = self.recorder.record(&permitted, drafts).await?;
        let results = fates.into_iter().zip(sent).map(|(fate, sent)| convert::result(fate, sent)).collect();
        Ok(Response::new(v1::RecordUsageResponse { results }))
    }

    async fn query_usage(
        &self,
        request: Request<v1::QueryUsageRequest>,
    ) -> Result<Response<v1::QueryUsageResponse>, Status> {
        let (caller, request) = open(request)?;
        let range = convert::Range::read(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let found = self.catalog.named(permitted.organization_id(), &request.meter).await?;

        let mut scope = self.shared.database.tenant(&permitted).await?;
        let zone = match range.zone {
            Some(zone) => zone,
            None => organization::get(&mut scope).await?.profile.time_zone,
        };
        let boundaries = range.boundaries(zone)?;
        let series = match range.subject.as_str() {
            "" => SeriesId::WHOLE,
            subject => SeriesId::of_subject(subject),
        };
        let aggregation = found.definition.aggregation;
        let figures = usage::figures(&mut scope, (found.meter_id, aggregation), series, &boundaries).await?;
        Ok(Response::new(v1::QueryUsageResponse {
            points: convert::points(figures.points, &boundaries)?,
            total: figures.total,
            time_zone: zone.name().to_owned(),
            aggregation: meter::aggregation(aggregation).into(),
        }))
    }
}
