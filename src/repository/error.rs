//! What Postgres and the driver report, as the domain's errors. The text of SQL and of the database stays in the log.

use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::Error;

/// When to try again after the database could not be reached.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The database is not there; nothing was done.
#[must_use]
pub fn unreachable() -> Error {
    Error::Unavailable {
        reason: "DATABASE_UNAVAILABLE",
        message: "the database cannot be reached; nothing was changed",
        retry_after: RETRY_AFTER,
    }
}

/// Whether the connection, not the statement, is at fault.
#[must_use]
pub fn is_connection_fault(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::BeginFailed
        | sqlx::Error::WorkerCrashed => true,
        // What is fatal ended the connection, or kept it from being made: too many connections, a server that starts or
        // stops, a database that is away or closed, a login that is refused now and may be granted later. It is never
        // the request. 08: connection exception, also of a pooler in between.
        sqlx::Error::Database(error) => {
            let severity = error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
            matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
                || error.code().is_some_and(|code| code.starts_with("08"))
        }
        _ => false,
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_connection_fault(&error) {
            tracing::warn!(%error, "the database cannot be reached");
            return unreachable();
        }
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match code.as_deref() {
            // Serialization failure, deadlock, lock not available.
            Some("40001" | "40P01" | "55P03") => Self::Conflict,
            // Our own statement_timeout, set to what is left of the request's time.
            Some("57014") => Self::DeadlineExceeded,
            _ => Self::internal(error),
        }
    }
}

/// An answer to COMMIT that is no answer leaves open what became of the transaction.
pub(super) fn commit_failed(error: &sqlx::Error) -> Error {
    if let sqlx::Error::Database(database) = error
        && !is_connection_fault(error)
    {
        return match database.code().as_deref() {
            Some("40001" | "40P01") => Error::Conflict,
            _ => Error::internal(database),
        };
    }
    tracing::warn!(%error, "the outcome of a commit is unknown");
    Error::Unavailable {
        reason: "COMMIT_OUTCOME_UNKNOWN",
        message: "the connection broke while committing: the change may or may not have been made",
        retry_after: RETRY_AFTER,
    }
}

/// The name of the constraint that a statement violated.
#[must_use]
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.constraint()
}

/// The domain's error for the violation of a named constraint; any other error as it is.
pub fn on_constraint(name: &str, then: impl FnOnce() -> Error) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| if constraint(&error) == Some(name) { then() } else { error.into() }
}
