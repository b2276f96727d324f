//! Brings a request to its service.
//!
//! Tonic's `Routes` does the same with a router for any path, which puts the body of a request into two boxes more and that of
//! its reply into two: measured, with the search a tenth of a decision. The paths of gRPC are `/<service>/<method>`, so
//! maps of services and methods will do.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use prost::Message;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Request, Status};

use crate::auth::permission::Permission;
use crate::transport::middleware::{self, Next, Response};
use crate::transport::unary;

/// A service, or one of its methods.
type Call = Arc<dyn Fn(http::Request<Body>) -> BoxFuture<Response, Infallible> + Send + Sync>;

/// Every service, by its name, and the methods that are answered directly, by their path.
#[derive(Clone, Default)]
pub struct Dispatch {
    services: Arc<HashMap<&'static str, Call>>,
    methods: Arc<HashMap<&'static str, Call>>,
}

/// A [`Dispatch`] that takes more services.
#[derive(Default)]
pub struct Services {
    services: HashMap<&'static str, Call>,
    methods: HashMap<&'static str, Call>,
}

impl Services {
    /// Registers a service under its name.
    pub fn add_service<S>(&mut self, service: S) -> &mut Self
    where
        S: Service<
                http::Request<Body>,
                Response = Response,
                Error = Infallible,
                Future = BoxFuture<Response, Infallible>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.services.insert(S::NAME, Arc::new(move |request| service.clone().call(request)));
        self
    }

    /// Has a unary method of a registered service answered directly where its call comes as calls do ([`unary`]), for what
    /// is answered from memory; `method` calls what the service itself would.
    pub fn directly<S, T, U, F>(
        &mut self,
        path: &'static str,
        service: &Arc<S>,
        method: impl Fn(Arc<S>, Request<T>) -> F + Send + Sync + 'static,
    ) -> &mut Self
    where
        S: Send + Sync + 'static,
        T: Message + Default + 'static,
        U: Message,
        F: Future<Output = Result<tonic::Response<U>, Status>> + Send,
    {
        debug_assert!(Permission::position(path).is_some(), "{path} is no RPC");
        let Some(otherwise) = service_of(path).and_then(|name| self.services.get(name)).cloned() else { return self };
        let (service, method) = (Arc::clone(service), Arc::new(method));
        let call: Call = Arc::new(move |request| {
            let (service, method, otherwise) = (Arc::clone(&service), Arc::clone(&method), Arc::clone(&otherwise));
            Box::pin(async move {
                match unary::read(request).await {
                    Ok(Ok(request)) => Ok(unary::reply(method(service, request).await)),
                    Ok(Err(status)) => Ok(status.into_http()),
                    Err(request) => otherwise(*request).await,
                }
            })
        });
        self.methods.insert(path, call);
        self
    }

    /// All that were registered.
    #[must_use]
    pub fn dispatch(self) -> Dispatch {
        Dispatch { services: Arc::new(self.services), methods: Arc::new(self.methods) }
    }
}

impl Next for Dispatch {
    async fn run(&self, request: middleware::Request) -> Response {
        let path = request.http.uri().path();
        let call = self.methods.get(path).or_else(|| self.services.get(service_of(path)?));
        match call {
            Some(call) => match call(request.http).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            None => Status::unimplemented("there is no such service").into_http(),
        }
    }
}

/// The name of the service that a path leads to.
fn service_of(path: &str) -> Option<&str> {
    Some(path.strip_prefix('/')?.split_once('/')?.0)
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.services.keys()).finish()
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.services.keys()).finish()
    }
}
