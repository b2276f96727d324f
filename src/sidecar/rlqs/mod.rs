//! `RateLimitQuotaService`: Envoys decide by themselves, out of slices of the tenants' limits.
//!
//! A bucket names a tenant and a meter, and where wanted a key, a user and a team. Its first report subscribes it; from then
//! on its Envoy has one of three things:
//!
//! - **A slice**, where a hard limit applies: a token bucket that holds so many tokens and is not filled. They were consumed
//!   from the ledger before they were sent, so that all sidecars together never admit more than the limit, whatever becomes of
//!   a message, a stream, an Envoy or a replica. A slice is replaced by a refusal and a new one in the same message: the
//!   bucket that an Envoy has lends its filling to the next one otherwise, and the next one would not hold what was taken.
//! - **Everything**, where there is no limit or only soft and shadow ones; what the reports say is consumed.
//! - **Nothing**: the limit is used up, or the tenant, the meter or the bucket is not known.
//!
//! # What is refused too early
//!
//! What an Envoy has and does not use is missing elsewhere until it comes back: after the slice's time to live (30 s; 120 s of
//! one that is at most a fiftieth of what was left) and 10 s more, with the next report. So a sidecar holds back at most half
//! of what was left, for at most 45 s (135 s). Measured with two Envoys of 40 and 10 requests a second and a limit of 1,500:
//! 93 % were admitted before anybody lacked for long, 97 % within 100 s, and what nobody used came back.
//!
//! When a stream breaks, or its replica ends, what it was given counts as used. Who comes when nothing is assigned waits for
//! the next report, five seconds at most. A slice ends with its calendar window, to the second: in the last second of a
//! window there may be none.
//!
//! # What is admitted too late
//!
//! Nothing of a calendar window of a minute or more: its slices do not see its end, as long as the replicas' clocks are right
//! to a second and a message takes no longer than that. In windows that roll, and in those of a second, what was charged may be
//! used until its slice ends. So in any of them there may be admitted besides what was assigned in the time to live before it:
//! 1 s for a second, 10 s for a minute, 30 s for longer ones; and never more than once more the limit.
//!
//! What comes back could be used twice only by an Envoy that gets a message more than ten seconds late while its own reports
//! still arrive.

mod bucket;
mod judge;
mod session;
mod terms;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming};

use crate::auth::layer::Renewal;
use crate::deadline::Ending;
use crate::error::Error;
use crate::proto::envoy::service::rate_limit_quota::v3 as rlqs;
use crate::proto::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::RateLimitQuotaService;
use crate::quota::decisions::Decisions;
use crate::service::{Shared, open};
use crate::sidecar::rlqs::session::Session;

/// The service.
#[derive(Clone, Debug)]
pub struct RateLimitQuotas {
    /// What it works with.
    pub shared: Shared,
    /// Decides about quotas.
    pub decisions: Decisions,
}

#[tonic::async_trait]
impl RateLimitQuotaService for RateLimitQuotas {
    type StreamRateLimitQuotasStream = BoxStream<'static, Result<rlqs::RateLimitQuotaResponse, Status>>;

    async fn stream_rate_limit_quotas(
        &self,
        mut request: Request<Streaming<rlqs::RateLimitQuotaUsageReports>>,
    ) -> Result<Response<Self::StreamRateLimitQuotasStream>, Status> {
        let extensions = request.extensions_mut();
        let (Some(renewal), Some(ending)) = (extensions.remove::<Renewal>(), extensions.remove::<Ending>()) else {
            return Err(Error::internal("a stream came past the auth layer or the server").into());
        };
        let (caller, incoming) = open(request)?;
        let session = Session::new(self.clone(), renewal, caller, ending.0, incoming);
        let assignments = stream::unfold(session, |mut session| async move { Some((session.next().await?, session)) });
        Ok(Response::new(assignments.boxed()))
    }
}
