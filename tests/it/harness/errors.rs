//! What a refusal must look like: a code, and exactly one ErrorInfo.

use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt as _};

/// A refusal, taken apart.
#[derive(Debug)]
pub struct Refused {
    /// The gRPC code.
    pub code: Code,
    /// The `reason` of its one ErrorInfo.
    pub reason: String,
    /// The fields of its `BadRequest`.
    pub fields: Vec<String>,
    /// Whether it says when to retry.
    pub retry: bool,
    /// The text.
    pub message: String,
}

impl Refused {
    /// The code and the reason, for comparisons.
    pub fn is(&self, code: Code, reason: &str) -> bool {
        self.code == code && self.reason == reason
    }
}

/// Takes a status apart; fails unless it has exactly one ErrorInfo, of our domain.
pub fn taken_apart(status: &Status) -> Refused {
    let details = status.get_error_details_vec();
    let infos: Vec<_> = details
        .iter()
        .filter_map(|detail| if let ErrorDetail::ErrorInfo(info) = detail { Some(info) } else { None })
        .collect();
    assert_eq!(infos.len(), 1, "exactly one ErrorInfo: {status:?}");
    assert_eq!(infos[0].domain, "tenancy", "{status:?}");
    let details = status.get_error_details();
    Refused {
        code: status.code(),
        reason: infos[0].reason.clone(),
        fields: details
            .bad_request()
            .map(|bad| bad.field_violations.iter().map(|violation| violation.field.clone()).collect())
            .unwrap_or_default(),
        retry: details.retry_info().is_some_and(|info| info.retry_delay.is_some()),
        message: status.message().to_owned(),
    }
}

/// The refusal of a call that must fail.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Refused {
    taken_apart(&outcome.expect_err("the call should have been refused"))
}
