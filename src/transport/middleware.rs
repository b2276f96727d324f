//! What a layer is here: an async function around the rest of the way.
//!
//! Layers are not tower services among themselves: a service must name its future, which for an async function means a
//! box, and six boxes within each other, each with its copy of all that is below, cost more than what the layers do.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use tonic::body::Body;
use tower::{Layer, Service};

use crate::auth::permission::Permission;
use crate::auth::principal::Caller;
use crate::clock::Moment;
use crate::transport::peer::Peer;
use crate::transport::stream::is_stream;

/// A request as it goes through the layers. Boxed, as each of them moves it, twice.
pub type Request = Box<Arrival>;

/// A request, and what is known of how it came.
#[derive(Debug)]
pub struct Arrival {
    /// The request itself.
    pub http: http::Request<Body>,
    /// Where in [`METHODS`](crate::auth::permission::METHODS) its RPC is; `None` for what is no RPC of ours.
    pub method: Option<usize>,
    /// When it came.
    pub at: Moment,
    /// Who is at the other end of its connection.
    pub peer: Peer,
    /// Whether its reply is a stream.
    pub is_stream: bool,
    /// Its id; empty before the layer that gives it one.
    pub id: Arc<str>,
    /// Who sends it; nobody before the auth layer, and where that asks for no key.
    pub caller: Option<Caller>,
}

impl Arrival {
    /// A request as it came in.
    #[must_use]
    pub fn new(http: http::Request<Body>, peer: Peer, at: Moment) -> Box<Self> {
        let path = http.uri().path();
        let (method, is_stream) = (Permission::position(path), is_stream(path));
        Box::new(Self { http, method, at, peer, is_stream, id: Arc::default(), caller: None })
    }
}

/// A reply as it goes back through them.
pub type Response = http::Response<Body>;

/// The rest of the way.
pub trait Next: Clone + Send + Sync + 'static {
    /// Sends the request on.
    fn run(&self, request: Request) -> impl Future<Output = Response> + Send;
}

impl<S> Next for S
where
    S: Service<http::Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    async fn run(&self, request: Request) -> Response {
        // Every service here is always ready: what bounds the load is a layer that answers, not one that waits.
        match self.clone().call(request.http).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// One layer.
pub trait Middleware: Clone + Send + Sync + 'static {
    /// Handles a request on its way in and its reply on its way out.
    fn handle<N: Next>(&self, request: Request, next: &N) -> impl Future<Output = Response> + Send;
}

/// Puts a middleware around services.
#[derive(Clone, Debug)]
pub struct Around<M>(pub M);

impl<M: Clone, S> Layer<S> for Around<M> {
    type Service = Layered<M, S>;

    fn layer(&self, inner: S) -> Layered<M, S> {
        Layered { middleware: self.0.clone(), inner }
    }
}

/// The rest of the way with a middleware around it.
#[derive(Clone, Debug)]
pub struct Layered<M, S> {
    middleware: M,
    inner: S,
}

impl<M: Middleware, S: Next> Next for Layered<M, S> {
    async fn run(&self, request: Request) -> Response {
        self.middleware.handle(request, &self.inner).await
    }
}
