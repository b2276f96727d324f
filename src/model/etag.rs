//! Etags: the revision of a resource, opaque to its reader (AIP-154).

use crate::error::Error;

/// The etag of a revision.
#[must_use]
pub fn of(revision: i64) -> String {
    format!("r{revision:x}")
}

/// Fails with `ETAG_MISMATCH` when the caller gave an etag and it is not that of the revision.
pub fn check(resource: &'static str, given: &str, revision: i64) -> Result<(), Error> {
    if given.is_empty() || given == of(revision) { Ok(()) } else { Err(Error::EtagMismatch { resource }) }
}
