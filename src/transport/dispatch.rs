//! Brings a request to its service.
//!
//! Tonic's `Routes` does the same with a router for any path, which puts the body of a request into two boxes more and that of
//! its reply into two: measured, with the search a tenth of a decision. The paths of gRPC are `/<service>/<method>`, so
//! a map of services and a table of methods will do.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use crate::auth::permission::{METHODS, Permission};
use crate::auth::principal::Caller;
use crate::transport::middleware::{self, Arrival, Next, Response};
use crate::transport::unary;

/// A service. It finds the caller in the extensions of its request.
type Call = Arc<dyn Fn(http::Request<Body>) -> BoxFuture<Response, Infallible> + Send + Sync>;

/// A method that is answered directly.
type DirectCall = Arc<dyn Fn(http::Request<Body>, Caller) -> BoxFuture<Response, Infallible> + Send + Sync>;

/// Every service, by its name, and the methods that are answered directly, in the places of [`METHODS`].
#[derive(Clone)]
pub struct Dispatch {
    services: Arc<HashMap<&'static str, Call>>,
    methods: Arc<[Option<DirectCall>]>,
}

/// A [`Dispatch`] that takes more services.
pub struct Services {
    services: HashMap<&'static str, Call>,
    methods: Vec<Option<DirectCall>>,
}

impl Default for Services {
    fn default() -> Self {
        Self { services: HashMap::new(), methods: vec![None; METHODS.len()] }
    }
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
        method: impl Fn(Arc<S>, Caller, T) -> F + Send + Sync + 'static,
    ) -> &mut Self
    where
        S: Send + Sync + 'static,
        T: Message + Default + 'static,
        U: Message,
        F: Future<Output = Result<U, Status>> + Send,
    {
        debug_assert!(Permission::position(path).is_some(), "{path} is no RPC");
        let Some(otherwise) = service_of(path).and_then(|name| self.services.get(name)).cloned() else { return self };
        let (service, method) = (Arc::clone(service), Arc::new(method));
        let call: DirectCall = Arc::new(move |request, caller| {
            let (service, method, otherwise) = (Arc::clone(&service), Arc::clone(&method), Arc::clone(&otherwise));
            Box::pin(async move {
                match unary::read(request).await {
                    Ok(Ok(message)) => Ok(unary::reply(method(service, caller, message).await)),
                    Ok(Err(status)) => Ok(status.into_http()),
                    Err(request) => otherwise(sent_by(*request, Some(caller))).await,
                }
            })
        });
        if let Some(place) = Permission::position(path).and_then(|position| self.methods.get_mut(position)) {
            *place = Some(call);
        }
        self
    }

    /// All that were registered.
    #[must_use]
    pub fn dispatch(self) -> Dispatch {
        Dispatch { services: Arc::new(self.services), methods: self.methods.into() }
    }
}

impl Next for Dispatch {
    async fn run(&self, request: middleware::Request) -> Response {
        let Arrival { http, method, caller, .. } = *request;
        let direct = method.and_then(|method| self.methods.get(method)?.as_ref());
        let answered = match (direct, caller) {
            (Some(call), Some(caller)) => call(http, caller),
            (_, caller) => match service_of(http.uri().path()).and_then(|name| self.services.get(name)) {
                Some(call) => call(sent_by(http, caller)),
                None => return Status::unimplemented("there is no such service").into_http(),
            },
        };
        match answered.await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The request with its caller, for a service.
fn sent_by(mut request: http::Request<Body>, caller: Option<Caller>) -> http::Request<Body> {
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    request
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
