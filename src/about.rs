//! Which request a line of the log is about.
//!
//! A task-local, and no span of `tracing`: a span is written out and registered for every request, and costs a twelfth of a
//! decision, whether anything is logged or not. This is looked at when there is something to log.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio::task::futures::TaskLocalFuture;
use uuid::Uuid;

tokio::task_local! {
    static REQUEST: Arc<About>;
}

/// What is logged of a request with every line about it.
#[derive(Debug)]
pub struct About {
    /// The path of the RPC.
    pub method: &'static str,
    /// The id of the request.
    pub request_id: Arc<str>,
    /// Whose request it is, once that is known.
    pub organization_id: OnceLock<Uuid>,
}

impl About {
    /// A request of which no more is known yet.
    #[must_use]
    pub fn new(method: &'static str, request_id: Arc<str>) -> Arc<Self> {
        Arc::new(Self { method, request_id, organization_id: OnceLock::new() })
    }

    /// Does work for the request.
    pub fn scope<F: Future>(self: Arc<Self>, work: F) -> TaskLocalFuture<Arc<Self>, F> {
        REQUEST.scope(self, work)
    }

    /// The same at once.
    pub fn within<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        REQUEST.sync_scope(Arc::clone(self), work)
    }
}

/// Notes whose request it is that is being worked for.
pub fn organization(id: Uuid) {
    // Outside of requests there is nobody to be told.
    let _ = REQUEST.try_with(|about| about.organization_id.set(id));
}

/// The request that is being worked for.
#[must_use]
pub fn current() -> Option<Arc<About>> {
    REQUEST.try_with(Arc::clone).ok()
}
