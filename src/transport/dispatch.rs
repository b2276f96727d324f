//! Brings a request to its service.
//!
//! Tonic's `Routes` does the same with a router for any path, which puts the body of a request into two boxes more and that of
//! its reply into two: measured, with the search a tenth of a decision. The paths of gRPC are `/<service>/<method>`, so
//! a map of services and a table of methods will do.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use futures_util::future;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use crate::auth::permission::{METHODS, Permission};
use crate::auth::principal::Caller;
use crate::error::Error;
use crate::proto::reply::Reply;
use crate::transport::middleware::{self, Arrival, Next, Response};
use crate::transport::unary;

/// A service. It finds the caller in the extensions of its request.
type Call = Arc<dyn Fn(http::Request<Body>) -> BoxFuture<Response, Infallible> + Send + Sync>;

/// A unary method that is answered from memory, where the way to it would cost more than the answer.
pub trait Direct: Send + Sync + 'static {
    /// The path of its RPC.
    const PATH: &'static str;
    /// What is asked.
    type Request: Message + Default;
    /// What is answered.
    type Reply: Reply + Send;

    /// Answers as the service itself would.
    fn answer(
        &self,
        caller: &Caller,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Reply, Error>> + Send;
}

/// The same, whichever it is. Borrowed for the answer: a count of who has it would be contended by all threads.
trait DirectCall: Send + Sync {
    fn call(&self, request: http::Request<Body>, caller: Caller) -> future::BoxFuture<'_, Response>;
}

/// A direct method, and its service for what comes otherwise.
struct Directly<D> {
    direct: D,
    otherwise: Call,
}

impl<D: Direct> DirectCall for Directly<D> {
    fn call(&self, request: http::Request<Body>, caller: Caller) -> future::BoxFuture<'_, Response> {
        Box::pin(async move {
            match unary::read(request).await {
                Ok(Ok(message)) => unary::reply(self.direct.answer(&caller, message).await.map_err(Status::from)),
                Ok(Err(status)) => status.into_http(),
                Err(request) => served((self.otherwise)(sent_by(*request, Some(caller))).await),
            }
        })
    }
}

/// Every service, by its name, and the methods that are answered directly, in the places of [`METHODS`].
#[derive(Clone)]
pub struct Dispatch {
    services: Arc<HashMap<&'static str, Call>>,
    methods: Arc<[Option<Box<dyn DirectCall>>]>,
}

/// A [`Dispatch`] that takes more services.
pub struct Services {
    services: HashMap<&'static str, Call>,
    methods: Vec<Option<Box<dyn DirectCall>>>,
}

impl Default for Services {
    fn default() -> Self {
        Self { services: HashMap::new(), methods: METHODS.iter().map(|_| None).collect() }
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

    /// Has a method of a registered service answered directly where its call comes as calls do ([`unary`]).
    pub fn directly<D: Direct>(&mut self, direct: D) -> &mut Self {
        let otherwise = service_of(D::PATH).and_then(|name| self.services.get(name)).cloned();
        let place = Permission::position(D::PATH).and_then(|position| self.methods.get_mut(position));
        debug_assert!(otherwise.is_some() && place.is_some(), "{} is no RPC", D::PATH);
        if let (Some(otherwise), Some(place)) = (otherwise, place) {
            *place = Some(Box::new(Directly { direct, otherwise }));
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
        match (direct, caller) {
            (Some(direct), Some(caller)) => direct.call(http, caller).await,
            (_, caller) => match service_of(http.uri().path()).and_then(|name| self.services.get(name)) {
                Some(call) => served(call(sent_by(http, caller)).await),
                None => Status::unimplemented("there is no such service").into_http(),
            },
        }
    }
}

/// What a service answered: it never fails otherwise.
fn served(answered: Result<Response, Infallible>) -> Response {
    match answered {
        Ok(response) => response,
        Err(never) => match never {},
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
