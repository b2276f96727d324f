//! What a layer is here: an async function around the rest of the way.
//!
//! Layers are not tower services among themselves: a service must name its future, which for an async function means a
//! box, and six boxes within each other, each with its copy of all that is below, cost more than what the layers do.

use std::convert::Infallible;
use std::future::Future;

use tonic::body::Body;
use tower::{Layer, Service};

/// A request as it goes through the layers.
pub type Request = http::Request<Body>;
/// A reply as it goes back through them.
pub type Response = http::Response<Body>;

/// The rest of the way.
pub trait Next: Clone + Send + 'static {
    /// Sends the request on.
    fn run(&mut self, request: Request) -> impl Future<Output = Response> + Send;
}

impl<S> Next for S
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    async fn run(&mut self, request: Request) -> Response {
        // Every service here is always ready: what bounds the load is a layer that answers, not one that waits.
        match self.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// One layer.
pub trait Middleware: Clone + Send + Sync + 'static {
    /// Handles a request on its way in and its reply on its way out.
    fn handle<N: Next>(&self, request: Request, next: &mut N) -> impl Future<Output = Response> + Send;
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
    async fn run(&mut self, request: Request) -> Response {
        self.middleware.handle(request, &mut self.inner).await
    }
}
