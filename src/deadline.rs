//! The deadline of the request being served, known to whatever waits on its behalf.
//!
//! A task-local, because it concerns the pool and the statement timeout, five calls below the layer that sets it, and
//! nobody between.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::futures::TaskLocalFuture;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Cancelled when the connection of a request is asked to go away, because it is old or because the service stops. A
/// stream, which would end by itself some day or never, ends soon then. Every stream finds it in its extensions.
#[derive(Clone, Debug, Default)]
pub struct Ending(pub CancellationToken);

/// Runs `work` with a deadline; tells nobody to stop by itself. No async function: that would have room for the work twice,
/// and so a request twice the size, which is moved.
pub fn scope<F: Future>(deadline: Instant, work: F) -> TaskLocalFuture<Instant, F> {
    DEADLINE.scope(deadline, work)
}

/// What is left of the request's time at `now`, at most `limit`; all of `limit` outside a request.
#[must_use]
pub fn remaining(now: Instant, limit: Duration) -> Duration {
    DEADLINE.try_with(|deadline| deadline.saturating_duration_since(now)).map_or(limit, |left| left.min(limit))
}

/// Whether a request is being served, and not a background job.
#[must_use]
pub fn is_set() -> bool {
    DEADLINE.try_with(|_| ()).is_ok()
}
