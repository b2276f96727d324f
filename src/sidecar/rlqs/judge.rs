//! What is to be done with a bucket, by its tenant, its limits and what is left of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

use crate::auth::layer::Renewal;
use crate::auth::principal::Caller;
use crate::deadline;
use crate::error::Error;
use crate::ids::OrganizationId;
use crate::quota::decision::{Ask, Charge, Decision, Denial, Mode, Subjects};
use crate::sidecar::rlqs::RateLimitQuotas;
use crate::sidecar::rlqs::bucket::{Bucket, Taken, Time};
use crate::sidecar::rlqs::terms::Terms;

/// The longest that a look may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// For how long an Envoy is told what is no slice, in seconds.
pub const LIFE: u64 = 60;
/// The same where it is so for want of a database.
const DEGRADED: u64 = 5;
/// When to look again at what was refused, in milliseconds: for want of quota at most, and because it is unknown.
pub const AGAIN: (Time, Time) = (5_000, 10_000);

/// Who asks, and whom.
pub struct Judge {
    /// Where the answers come from.
    pub quotas: RateLimitQuotas,
    /// Whose stream it is, asked anew.
    pub renewal: Renewal,
    /// The same, as of the last time.
    pub caller: Caller,
}

/// Whose quota a bucket is of.
struct Owner<'a> {
    organization_id: OrganizationId,
    meter: &'a str,
    subjects: Subjects,
}

/// What is to be done with a bucket.
#[derive(Debug)]
pub enum Verdict {
    /// What it has is left to it.
    Keep,
    /// All may pass, for so many seconds.
    Allow(u64),
    /// Nothing may, and at once; to be looked at again after so many milliseconds.
    Refuse(Time),
    /// Nothing more is to be had.
    Short(Time),
    /// A slice.
    Give(Taken),
}

impl Judge {
    /// Asks anew whose stream it is.
    ///
    /// Errors: why it must end.
    pub async fn renew(&mut self) -> Result<(), Error> {
        self.caller = self.within(self.renewal.caller()).await?;
        Ok(())
    }

    /// What is to be done, and whose the bucket is, where that is known. `reported`: what the report that is the cause says
    /// to be admitted and of no slice, and whether it may be of one of an earlier stream.
    pub async fn look(
        &self,
        id: &BTreeMap<String, String>,
        bucket: &Bucket,
        now: Time,
        reported: Option<(u64, bool)>,
    ) -> (Verdict, Option<OrganizationId>) {
        let looked = async {
            let owner = self.owner(id).await?;
            Ok((self.judge(&owner, bucket, now, reported).await, Some(owner.organization_id)))
        };
        self.within(looked).await.unwrap_or_else(|error: Error| {
            let verdict = refusal(&error);
            if let (Verdict::Refuse(_), false) = (&verdict, bucket.is_refused()) {
                tracing::warn!(%error, bucket = ?id, "a bucket is refused");
            }
            (verdict, None)
        })
    }

    fn within<F: Future>(&self, work: F) -> TaskLocalFuture<Instant, F> {
        deadline::scope(self.quotas.shared.clock.instant() + PATIENCE, work)
    }

    /// Errors: why nothing of it may be assigned.
    async fn owner<'a>(&self, id: &'a BTreeMap<String, String>) -> Result<Owner<'a>, Error> {
        let named = |name: &str| id.get(name).map(String::as_str).filter(|text| !text.is_empty());
        let missing = |name: &'static str| Error::InvalidRequest {
            reason: "BUCKET_INCOMPLETE",
            message: format!("a bucket must have {name}"),
        };
        let subject = |name: &'static str| match named(name).map(Uuid::parse_str).transpose() {
            Ok(subject) => Ok(subject),
            Err(_) => Err(Error::InvalidRequest {
                reason: "BUCKET_INCOMPLETE",
                message: format!("the {name} of a bucket must be a UUID"),
            }),
        };
        let (tenant, meter) = (named("tenant").ok_or_else(|| missing("tenant"))?, named("meter"));
        let meter = meter.ok_or_else(|| missing("meter"))?;
        let subjects = Subjects { team: subject("team")?, user: subject("user")?, api_key: subject("api_key")? };
        let organization = self.quotas.shared.gate.open_organization(&self.caller, tenant).await?;
        Ok(Owner { organization_id: organization.organization_id, meter, subjects })
    }

    async fn judge(&self, owner: &Owner<'_>, bucket: &Bucket, now: Time, reported: Option<(u64, bool)>) -> Verdict {
        let checked = match self.decide(owner, 1, Mode::Check).await {
            Ok(checked) => checked,
            Err(error) => return refusal(&error),
        };
        let terms = Terms::of(&checked, now, self.quotas.shared.clock.now());
        if let Some((unpaid @ 1.., is_resumed)) = reported
            && (terms.is_none() || !is_resumed)
        {
            // It was admitted, whatever is left; no answer could change that.
            if let Err(error) = self.decide(owner, unpaid, Mode::BestEffort).await {
                tracing::warn!(%error, unpaid, meter = owner.meter, "what was admitted is not counted");
            }
        }
        match checked.denial {
            None => {}
            Some(Denial::Blocked) => return Verdict::Refuse(AGAIN.0),
            Some(_) => return short(&checked),
        }
        if checked.degraded {
            return Verdict::Allow(DEGRADED);
        }
        let Some(terms) = terms else { return Verdict::Allow(LIFE) };
        if bucket.is_forgotten(now) {
            return Verdict::Keep;
        }
        let Some(wanted) = bucket.wants(now, terms.shortest, terms.end) else { return Verdict::Keep };
        let Some(slice) = terms.slice(now, wanted) else {
            return Verdict::Short(terms.end.saturating_sub(now).clamp(1, AGAIN.0));
        };
        // What it has would be lost for as much or less.
        if bucket.left(now) >= slice.amount {
            return Verdict::Keep;
        }
        match self.decide(owner, slice.amount, Mode::BestEffort).await {
            Ok(Decision { denial: None, degraded: true, .. }) => Verdict::Allow(DEGRADED),
            Ok(Decision { denial: None, granted: amount @ 1.., mut charges, .. }) => {
                charges.retain(Charge::is_refundable);
                Verdict::Give(Taken { amount, charges, life: slice.life })
            }
            Ok(decision) => short(&decision),
            Err(error) => refusal(&error),
        }
    }

    async fn decide(&self, owner: &Owner<'_>, amount: u64, mode: Mode) -> Result<Decision, Error> {
        let Owner { organization_id, meter, subjects } = *owner;
        self.quotas.decisions.decide(&Ask { organization_id, subjects, meter, amount, mode }).await
    }
}

/// What an error comes to: what cannot be known now changes nothing.
fn refusal(error: &Error) -> Verdict {
    match error {
        Error::Unavailable { .. } | Error::DeadlineExceeded | Error::Internal(_) | Error::Overloaded { .. } => {
            Verdict::Keep
        }
        _ => Verdict::Refuse(AGAIN.1),
    }
}

fn short(decision: &Decision) -> Verdict {
    let wait = decision.retry_after.map_or(AGAIN.0, |wait| Time::try_from(wait.as_millis()).unwrap_or(Time::MAX));
    Verdict::Short(wait.clamp(1, AGAIN.0))
}
