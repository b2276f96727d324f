//! `QuotaService`. `decider` decides and counts, `consume` makes it safe to retry and carries events, `reserve` settles
//! what was reserved, `batch` does several in one call.

mod batch;
mod consume;
mod decider;
mod reserve;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::auth::principal::Caller;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::recorder::Recorder;
use crate::proto::v1;
use crate::proto::v1::quota_service_server::QuotaService;
use crate::quota::decision::{Decision, Mode};
use crate::quota::decisions::Decisions;
use crate::service::convert::quota::{self as convert, reply};
use crate::service::quota::consume::Consumed;
use crate::service::quota::decider::{Decider, Guest};
use crate::service::{Shared, open};
use crate::transport::dispatch::Direct;

/// The service.
#[derive(Clone, Debug)]
pub struct Quotas {
    shared: Shared,
    decider: Arc<Decider>,
}

impl Quotas {
    /// Made once: what it remembers is the replica's.
    #[must_use]
    pub fn new(shared: Shared, decisions: Decisions, catalog: Arc<Catalog>, recorder: Recorder) -> Self {
        let decider = Arc::new(Decider::new(decisions, shared.clock.clone(), catalog, recorder));
        Self { shared, decider }
    }

    /// Whether it would pass.
    async fn check(&self, caller: &Caller, request: &v1::CheckQuotaRequest) -> Result<Decision, Error> {
        let question = convert::check(request)?;
        let permitted = self.shared.gate.tenant(caller, &request.organization_id).await?;
        self.decider.decide(&Guest::new(caller, &permitted), &question, Mode::Check).await
    }

    /// Consumes.
    async fn consume(&self, caller: &Caller, request: &v1::ConsumeQuotaRequest) -> Result<Consumed, Error> {
        let consumption = convert::consumption(request)?;
        let permitted = self.shared.gate.tenant(caller, &request.organization_id).await?;
        self.decider.consume(&Guest::new(caller, &permitted), request, &consumption, None).await
    }
}

/// `CheckQuota`, answered directly.
#[derive(Debug)]
pub struct CheckQuota(pub Arc<Quotas>);

impl Direct for CheckQuota {
    const PATH: &'static str = "/tenancy.v1.QuotaService/CheckQuota";
    type Request = v1::CheckQuotaRequest;
    type Reply = Decision;

    async fn answer(&self, caller: &Caller, request: v1::CheckQuotaRequest) -> Result<Decision, Error> {
        self.0.check(caller, &request).await
    }
}

/// `ConsumeQuota`, answered directly.
#[derive(Debug)]
pub struct ConsumeQuota(pub Arc<Quotas>);

impl Direct for ConsumeQuota {
    const PATH: &'static str = "/tenancy.v1.QuotaService/ConsumeQuota";
    type Request = v1::ConsumeQuotaRequest;
    type Reply = Consumed;

    async fn answer(&self, caller: &Caller, request: v1::ConsumeQuotaRequest) -> Result<Consumed, Error> {
        self.0.consume(caller, &request).await
    }
}

#[tonic::async_trait]
impl QuotaService for Quotas {
    async fn check_quota(
        &self,
        request: Request<v1::CheckQuotaRequest>,
    ) -> Result<Response<v1::CheckQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        let decision = self.check(&caller, &request).await?;
        Ok(Response::new(v1::CheckQuotaResponse { decision: Some(reply::decision(decision)) }))
    }

    async fn consume_quota(
        &self,
        request: Request<v1::ConsumeQuotaRequest>,
    ) -> Result<Response<v1::ConsumeQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        Ok(Response::new(self.consume(&caller, &request).await?.into()))
    }

    async fn reserve_quota(
        &self,
        request: Request<v1::ReserveQuotaRequest>,
    ) -> Result<Response<v1::ReserveQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        let reserving = convert::reserving(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let guest = Guest::new(&caller, &permitted);
        Ok(Response::new(self.decider.reserve(&guest, &reserving).await?))
    }

    async fn commit_quota(
        &self,
        request: Request<v1::CommitQuotaRequest>,
    ) -> Result<Response<v1::CommitQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        let amount = convert::settled(request.amount)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        Ok(Response::new(self.decider.settle(&permitted, &request.reservation_id, amount).await?))
    }

    async fn release_quota(
        &self,
        request: Request<v1::ReleaseQuotaRequest>,
    ) -> Result<Response<v1::ReleaseQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let v1::CommitQuotaResponse { settled, .. } =
            self.decider.settle(&permitted, &request.reservation_id, 0).await?;
        Ok(Response::new(v1::ReleaseQuotaResponse { settled }))
    }

    async fn refund_quota(
        &self,
        request: Request<v1::RefundQuotaRequest>,
    ) -> Result<Response<v1::RefundQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        let question = convert::refund(&request)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        self.decider.refund(&Guest::new(&caller, &permitted), &question, &request.operation_id).await?;
        Ok(Response::new(v1::RefundQuotaResponse {}))
    }

    async fn batch_check_quota(
        &self,
        request: Request<v1::BatchCheckQuotaRequest>,
    ) -> Result<Response<v1::BatchCheckQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        convert::batch(&request.requests)?;
        let results = self.check_all(&caller, &request.requests).await;
        Ok(Response::new(v1::BatchCheckQuotaResponse { results }))
    }

    async fn batch_consume_quota(
        &self,
        request: Request<v1::BatchConsumeQuotaRequest>,
    ) -> Result<Response<v1::BatchConsumeQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        convert::batch(&request.requests)?;
        let results = self.consume_all(&caller, &request.requests).await;
        Ok(Response::new(v1::BatchConsumeQuotaResponse { results }))
    }

    async fn batch_reserve_quota(
        &self,
        request: Request<v1::BatchReserveQuotaRequest>,
    ) -> Result<Response<v1::BatchReserveQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        convert::batch(&request.requests)?;
        let results = self.reserve_all(&caller, &request.requests).await;
        Ok(Response::new(v1::BatchReserveQuotaResponse { results }))
    }

    async fn batch_commit_quota(
        &self,
        request: Request<v1::BatchCommitQuotaRequest>,
    ) -> Result<Response<v1::BatchCommitQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        convert::batch(&request.requests)?;
        let results = self.commit_all(&caller, &request.requests).await;
        Ok(Response::new(v1::BatchCommitQuotaResponse { results }))
    }

    async fn get_quota(&self, request: Request<v1::GetQuotaRequest>) -> Result<Response<v1::GetQuotaResponse>, Status> {
        let (caller, request) = open(request)?;
        let named = convert::view(request.subject.as_ref(), Some(&request.meter))?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let found = self.decider.view(&Guest::new(&caller, &permitted), named, Some(&request.meter)).await?;
        Ok(Response::new(v1::GetQuotaResponse { limits: found.into_iter().map(reply::limit).collect() }))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        let (caller, request) = open(request)?;
        let named = convert::view(request.subject.as_ref(), None)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let found = self.decider.view(&Guest::new(&caller, &permitted), named, None).await?;
        Ok(Response::new(v1::ListQuotasResponse { limits: found.into_iter().map(reply::limit).collect() }))
    }
}
