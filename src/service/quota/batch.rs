//! Several questions in one call, each for itself: in its organization, with its own fate, in the order given.

use std::collections::{BTreeSet, HashMap};

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use tokio::sync::oneshot;

use crate::auth::principal::{Caller, Permitted};
use crate::error::Error;
use crate::proto::v1;
use crate::quota::decision::Mode;
use crate::service::convert::quota::{self as convert, reply};
use crate::service::quota::Quotas;
use crate::service::quota::consume::Decided;
use crate::service::quota::decider::Guest;

/// How much of a call may wait for the database at once: not so much that it takes all connections.
const AT_ONCE: usize = 8;

/// The organizations that the requests of a batch name, each asked for once.
struct Admissions<'a>(HashMap<&'a str, Result<Permitted, Error>>);

impl<'a> Admissions<'a> {
    fn of(&self, named: &'a str) -> Result<&Permitted, Error> {
        match self.0.get(named) {
            Some(Ok(permitted)) => Ok(permitted),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::internal("an organization that nobody asked for")),
        }
    }
}

impl Quotas {
    async fn admit<'a>(&self, caller: &Caller, named: impl Iterator<Item = &'a str>) -> Admissions<'a> {
        let distinct: BTreeSet<&str> = named.collect();
        let asked: Vec<_> = distinct.into_iter().map(|name| self.ask(caller, name)).collect();
        Admissions(stream::iter(asked).buffer_unordered(AT_ONCE).collect().await)
    }

    async fn ask<'a>(&self, caller: &Caller, name: &'a str) -> (&'a str, Result<Permitted, Error>) {
        (name, self.shared.gate.tenant(caller, name).await)
    }

    pub(super) async fn check_all(&self, caller: &Caller, requests: &[v1::CheckQuotaRequest]) -> Vec<v1::QuotaResult> {
        let admissions = self.admit(caller, requests.iter().map(|request| request.organization_id.as_str())).await;
        let check = async |request| -> Result<v1::QuotaResult, Error> {
            let request: &v1::CheckQuotaRequest = request;
            let question = convert::check(request)?;
            let guest = Guest::new(caller, admissions.of(&request.organization_id)?);
            let decision = self.decider.decide(&guest, &question, Mode::Check).await?;
            Ok(v1::QuotaResult { decision: Some(reply::decision(decision)), ..v1::QuotaResult::default() })
        };
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(check(request).await.unwrap_or_else(|error| reply::failed(&error)));
        }
        results
    }

    pub(super) async fn consume_all(
        &self,
        caller: &Caller,
        requests: &[v1::ConsumeQuotaRequest],
    ) -> Vec<v1::QuotaResult> {
        let admissions = self.admit(caller, requests.iter().map(|request| request.organization_id.as_str())).await;
        let consume = async |request, decided: Decided| {
            let request: &v1::ConsumeQuotaRequest = request;
            let consumed = async {
                let consumption = convert::consumption(request)?;
                let guest = Guest::new(caller, admissions.of(&request.organization_id)?);
                self.decider.consume(&guest, request, &consumption, decided).await.map(v1::ConsumeQuotaResponse::from)
            };
            match consumed.await {
                Ok(v1::ConsumeQuotaResponse { decision, event }) => {
                    v1::QuotaResult { decision, event, ..v1::QuotaResult::default() }
                }
                Err(error) => reply::failed(&error),
            }
        };
        if !requests.iter().any(|request| request.durable || request.event.is_some()) {
            let mut results = Vec::with_capacity(requests.len());
            for request in requests {
                results.push(consume(request, None).await);
            }
            return results;
        }
        // Decided one after the other, and written together: a commit each would take a batch of events seconds. What is
        // being written goes on while the next one decides, also because that may wait for it: they may have one
        // operation id.
        let mut results = vec![v1::QuotaResult::default(); requests.len()];
        let mut writing = FuturesUnordered::new();
        for (place, request) in requests.iter().enumerate() {
            let (deciding, mut decided) = oneshot::channel();
            let consume = &consume;
            writing.push(async move { (place, consume(request, Some(deciding)).await) });
            loop {
                tokio::select! {
                    biased;
                    _ = &mut decided => break,
                    Some((place, result)) = writing.next() => results[place] = result,
                    else => break,
                }
            }
        }
        while let Some((place, result)) = writing.next().await {
            results[place] = result;
        }
        results
    }

    pub(super) async fn reserve_all(
        &self,
        caller: &Caller,
        requests: &[v1::ReserveQuotaRequest],
    ) -> Vec<v1::QuotaResult> {
        let admissions = self.admit(caller, requests.iter().map(|request| request.organization_id.as_str())).await;
        let reserve = async |request| -> Result<v1::QuotaResult, Error> {
            let request: &v1::ReserveQuotaRequest = request;
            let reserving = convert::reserving(request)?;
            let guest = Guest::new(caller, admissions.of(&request.organization_id)?);
            let v1::ReserveQuotaResponse { decision, reservation_id, expire_time } =
                self.decider.reserve(&guest, &reserving).await?;
            Ok(v1::QuotaResult { decision, reservation_id, expire_time, ..v1::QuotaResult::default() })
        };
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(reserve(request).await.unwrap_or_else(|error| reply::failed(&error)));
        }
        results
    }

    pub(super) async fn commit_all(
        &self,
        caller: &Caller,
        requests: &[v1::CommitQuotaRequest],
    ) -> Vec<v1::SettlementResult> {
        let admissions = self.admit(caller, requests.iter().map(|request| request.organization_id.as_str())).await;
        let settle = async |request: &v1::CommitQuotaRequest| {
            let settled = async {
                let amount = convert::settled(request.amount)?;
                let permitted = admissions.of(&request.organization_id)?;
                self.decider.settle(permitted, &request.reservation_id, amount).await
            };
            match settled.await {
                Ok(v1::CommitQuotaResponse { settled, overage }) => {
                    v1::SettlementResult { settled, overage, ..v1::SettlementResult::default() }
                }
                Err(error) => reply::unsettled(&error),
            }
        };
        stream::iter(requests.iter().map(settle)).buffered(AT_ONCE).collect().await
    }
}
