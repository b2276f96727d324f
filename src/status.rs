//! The only mapping of an [`Error`] to the wire: a `google.rpc.Status` with exactly one ErrorInfo (domain `tenancy`) and
//! the further details of its kind.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use crate::error::{Error, Violation};

/// The `domain` of every ErrorInfo.
pub const DOMAIN: &str = "tenancy";

/// The longest text of an error, in bytes. Errors quote what the caller sent, and a status travels in headers, of which
/// clients read 8 to 16 KiB and answer more by breaking the connection, with every other request on it.
const TEXT: usize = 512;

/// The most bytes of all field violations together, for the same reason.
const VIOLATIONS: usize = 3072;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, []);
        let (code, message) = match &error {
            Error::Invalid(violations) => {
                details.set_bad_request(those_that_fit(violations));
                (Code::InvalidArgument, error.to_string())
            }
            Error::InvalidRequest { .. } => (Code::InvalidArgument, error.to_string()),
            Error::Unauthenticated { .. } => (Code::Unauthenticated, error.to_string()),
            Error::PermissionDenied { .. } => (Code::PermissionDenied, error.to_string()),
            Error::NotFound { resource, name } => {
                details.set_resource_info(*resource, short(name), "", short(&error.to_string()));
                (Code::NotFound, error.to_string())
            }
            Error::AlreadyExists { resource, field, value, .. } => {
                details.set_resource_info(*resource, short(value), "", short(&error.to_string()));
                details.set_bad_request(vec![FieldViolation::new(*field, "is taken")]);
                (Code::AlreadyExists, error.to_string())
            }
            Error::FailedPrecondition { reason, subject, message } => {
                details.set_precondition_failure(vec![PreconditionViolation::new(
                    *reason,
                    short(subject),
                    short(message),
                )]);
                (Code::FailedPrecondition, message.clone())
            }
            Error::EtagMismatch { .. } => (Code::Aborted, error.to_string()),
            Error::Conflict => {
                details.set_retry_info(Some(Duration::from_millis(50)));
                (Code::Aborted, error.to_string())
            }
            Error::Overloaded { retry_after, .. } => {
                details.set_retry_info(Some(*retry_after));
                (Code::ResourceExhausted, error.to_string())
            }
            Error::Unavailable { retry_after, .. } => {
                details.set_retry_info(Some(*retry_after));
                (Code::Unavailable, error.to_string())
            }
            Error::DeadlineExceeded => (Code::DeadlineExceeded, error.to_string()),
            Error::Internal(text) => {
                tracing::error!(error = %text, "internal error");
                (Code::Internal, "internal error; the service's log has the details under this request id".into())
            }
        };
        Status::with_error_details(code, short(&message), details)
    }
}

/// The text, cut off where it is too long for a header.
#[must_use]
pub fn short(text: &str) -> String {
    if text.len() <= TEXT {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(TEXT)])
}

fn those_that_fit(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut room = VIOLATIONS;
    let fits = |violation: &FieldViolation| {
        let left = room.checked_sub(violation.field.len() + violation.description.len());
        left.inspect(|left| room = *left).is_some()
    };
    violations.iter().map(|v| FieldViolation::new(short(&v.field), short(&v.description))).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_into_headers_whatever_it_quotes() {
        let long = "\u{1f980}".repeat(10_000);
        let many = (0..100).map(|number| Violation::new(format!("field_{number}"), &long)).collect();
        let taken = Error::AlreadyExists { reason: "TAKEN", resource: "thing", field: "name", value: long.clone() };
        let unmet = Error::FailedPrecondition { reason: "UNMET", subject: long.clone(), message: long.clone() };
        for error in [Error::Invalid(many), Error::not_found("thing", &long), taken, unmet] {
            let headers = Status::from(error).into_http::<()>().headers().clone();
            let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 8 << 10, "{bytes}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(short("abc"), "abc");
        let cut = short(&format!("a{}", "\u{1f980}".repeat(1000)));
        assert!(cut.len() <= TEXT + '…'.len_utf8() && cut.ends_with("\u{1f980}…"), "{cut}");
    }
}
