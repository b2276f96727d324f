//! Why a request does not pass, as its client is told.

use std::borrow::Cow;
use std::time::Duration;

use tonic::Code;

use crate::auth::credential;
use crate::error::Error;
use crate::quota::decision::{Decision, Denial as QuotaDenial, LimitView};
use crate::sidecar::authz::reply::Standing;

/// A refusal.
#[derive(Debug)]
pub struct Denial {
    /// What sort.
    pub kind: Kind,
    /// Why, in `UPPER_SNAKE`.
    pub reason: Cow<'static, str>,
    /// For a person.
    pub message: Cow<'static, str>,
    /// When to try again, where that helps.
    pub retry_after: Option<Duration>,
    /// How the limit stands that denied it.
    pub standing: Option<Standing>,
}

/// What sort of refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Who is it? 401.
    Unauthenticated,
    /// They may not. 403.
    Forbidden,
    /// They may, but not now. 429.
    Exhausted,
    /// Nobody knows. 503.
    Unavailable,
}

impl Kind {
    /// For HTTP.
    #[must_use]
    pub const fn http(self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::Exhausted => 429,
            Self::Unavailable => 503,
        }
    }

    /// For gRPC.
    #[must_use]
    pub const fn grpc(self) -> Code {
        match self {
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
        }
    }
}

impl Denial {
    /// They may not, for a reason.
    #[must_use]
    pub fn forbidden(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: Kind::Forbidden,
            reason: reason.into(),
            message: message.into(),
            retry_after: None,
            standing: None,
        }
    }

    /// The route says what cannot be done. Waiting does not help, and a client can do nothing about it.
    #[must_use]
    pub fn misconfigured(what: &str) -> Self {
        Self {
            kind: Kind::Unavailable,
            reason: "ROUTE_MISCONFIGURED".into(),
            message: format!("the route is misconfigured: {what}").into(),
            retry_after: None,
            standing: None,
        }
    }

    /// Not enough of a meter is left. `decision` is one with a denial.
    #[must_use]
    pub fn of_quota(denial: QuotaDenial, meter: &str, decision: &Decision, standing: Option<Standing>) -> Self {
        let (kind, message): (_, Cow<'static, str>) = match denial {
            QuotaDenial::LimitExceeded => (Kind::Exhausted, format!("the limit on {meter} is reached").into()),
            QuotaDenial::Blocked => (Kind::Exhausted, format!("{meter} is blocked by a limit of 0").into()),
            QuotaDenial::AmountTooLarge => (
                Kind::Exhausted,
                format!("the request takes more of {meter} than its limit ever allows at once").into(),
            ),
            QuotaDenial::LedgerUnavailable => (Kind::Unavailable, "the quota cannot be looked up at the moment".into()),
        };
        Self { kind, reason: denial.reason().into(), message, retry_after: decision.retry_after, standing }
    }

    /// Whether a credential was sent that was not good.
    #[must_use]
    pub fn is_of_credential(&self) -> bool {
        self.kind == Kind::Unauthenticated && self.reason != "CREDENTIALS_MISSING"
    }
}

impl From<Error> for Denial {
    fn from(error: Error) -> Self {
        let (kind, retry_after) = match &error {
            Error::Unauthenticated { .. } => (Kind::Unauthenticated, None),
            Error::PermissionDenied { .. } => (Kind::Forbidden, None),
            Error::Unavailable { retry_after, .. } | Error::Overloaded { retry_after, .. } => {
                (Kind::Unavailable, Some(*retry_after))
            }
            // The organization: it was purged a moment ago, and its keys with it.
            Error::NotFound { .. } => return credential::invalid().into(),
            Error::Internal(text) => {
                tracing::error!(error = %text, "internal error");
                (Kind::Unavailable, None)
            }
            _ => (Kind::Unavailable, None),
        };
        let message = match &error {
            Error::Internal(_) => "internal error".into(),
            error => error.to_string().into(),
        };
        Self { kind, reason: error.reason().into(), message, retry_after, standing: None }
    }
}

/// Of the limits that applied, the one that counts: that denied, or else the tightest. Shadows are not shown.
#[must_use]
pub fn telling(decision: &Decision) -> Option<&LimitView> {
    let enforced = || decision.limits.iter().filter(|view| !view.limit.terms.shadow);
    enforced().find(|view| view.denied).or_else(|| enforced().find(|view| view.limit.terms.amount.is_some()))
}
