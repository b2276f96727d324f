//! The one error type of the domain. It knows neither tonic nor SQL: `status.rs` puts it on the wire, `repository/`
//! makes it of constraint names.

use std::time::Duration;

/// What went wrong, each with all that its caller is told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is wrong in itself. Every violation found is listed.
    #[error("{}", violations(.0))]
    Invalid(Vec<Violation>),
    /// The request is wrong as a whole, with a reason of its own.
    #[error("{message}")]
    InvalidRequest {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// For a developer.
        message: String,
    },
    /// No credential, or none that is good. Deliberately says no more than that.
    #[error("{message}")]
    Unauthenticated {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// What to do.
        message: &'static str,
    },
    /// The caller is known and may not.
    #[error("{message}")]
    PermissionDenied {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// What is missing.
        message: String,
    },
    /// The resource does not exist, or not for this caller.
    #[error("{resource} {name:?} was not found")]
    NotFound {
        /// The type of resource, such as `member`.
        resource: &'static str,
        /// As the caller named it.
        name: String,
    },
    /// Something unique is taken.
    #[error("{resource} with {field} {value:?} already exists")]
    AlreadyExists {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// The type of resource.
        resource: &'static str,
        /// The field that is unique.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// The state of the resource does not allow it.
    #[error("{message}")]
    FailedPrecondition {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// What it is about, such as `organizations/acme`.
        subject: String,
        /// What would have to hold.
        message: String,
    },
    /// Somebody else changed the resource first.
    #[error("the {resource} was changed since it was read; read it again and retry")]
    EtagMismatch {
        /// The type of resource.
        resource: &'static str,
    },
    /// The transaction lost against another; the whole call can be retried.
    #[error("the request collided with another one; retry it")]
    Conflict,
    /// Too much at once; nothing was done.
    #[error("{message}")]
    Overloaded {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// What is full.
        message: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The database cannot be reached, or what became of a commit is unknown.
    #[error("{message}")]
    Unavailable {
        /// Why, in `UPPER_SNAKE`.
        reason: &'static str,
        /// What is known.
        message: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The time that the caller gave is over.
    #[error("the deadline passed before the request was done")]
    DeadlineExceeded,
    /// A fault of ours. The text is for the log, never for the caller.
    #[error("internal error: {0}")]
    Internal(String),
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field in the request, such as `organization.slug`.
    pub field: String,
    /// What it must be.
    pub description: String,
}

impl Violation {
    /// `field` is the path in the request; `description` completes "the field …".
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }

    /// The same inside a message: `slug` becomes `organization.slug`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), ..self }
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }
}

impl Error {
    /// A resource that is not there.
    pub fn not_found(resource: &'static str, name: impl ToString) -> Self {
        Self::NotFound { resource, name: name.to_string() }
    }

    /// A fault of ours; `text` goes to the log.
    pub fn internal(text: impl ToString) -> Self {
        Self::Internal(text.to_string())
    }

    /// The same error with its violations moved into a message.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        match self {
            Self::Invalid(violations) => {
                Self::Invalid(violations.into_iter().map(|violation| violation.within(parent)).collect())
            }
            other => other,
        }
    }

    /// The `reason` of its `ErrorInfo`: stable, for programs.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Invalid(_) => "INVALID_FIELD".into(),
            Self::NotFound { resource, .. } => format!("{}_NOT_FOUND", resource.to_uppercase()),
            Self::EtagMismatch { .. } => "ETAG_MISMATCH".into(),
            Self::Conflict => "CONFLICT".into(),
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED".into(),
            Self::Internal(_) => "INTERNAL".into(),
            Self::InvalidRequest { reason, .. }
            | Self::Unauthenticated { reason, .. }
            | Self::PermissionDenied { reason, .. }
            | Self::AlreadyExists { reason, .. }
            | Self::FailedPrecondition { reason, .. }
            | Self::Overloaded { reason, .. }
            | Self::Unavailable { reason, .. } => (*reason).into(),
        }
    }
}

fn violations(violations: &[Violation]) -> String {
    let each: Vec<String> = violations.iter().map(|v| format!("{} {}", v.field, v.description)).collect();
    each.join("; ")
}

/// Collects violations, so that a caller learns all that is wrong at once.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Notes that `field` is wrong.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation::new(field, description));
    }

    /// Takes a value out of a check, noting what was wrong; `None` then.
    pub fn take<T>(&mut self, checked: Result<T, Violation>) -> Option<T> {
        checked.map_err(|violation| self.0.push(violation)).ok()
    }

    /// Fails with all that was noted.
    pub fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}
