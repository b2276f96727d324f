//! What a layer is here: an async function around the rest of the way.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tonic::body::Body;
use tower::{Layer, Service};

/// A request as it goes through the layers.
pub type Request = http::Request<Body>;
/// A reply as it goes back through them.
pub type Response = http::Response<Body>;

/// The rest of the way.
pub trait Next:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
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
    fn handle<N: Next>(&self, request: Request, next: N) -> impl Future<Output = Response> + Send;
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

/// A service with a middleware around it.
#[derive(Clone, Debug)]
pub struct Layered<M, S> {
    middleware: M,
    inner: S,
}

impl<M: Middleware, S: Next> Service<Request> for Layered<M, S> {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (middleware, inner) = (self.middleware.clone(), self.inner.clone());
        Box::pin(async move { Ok(middleware.handle(request, inner).await) })
    }
}
