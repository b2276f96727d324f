//! The auth layer: key → [`Caller`] in the request's extensions. A tower layer and no tonic interceptor, which is
//! synchronous: a key seen for the first time needs a database read. A warm key needs none.

use std::sync::Arc;

use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderName};
use tonic::Status;

use crate::auth::authenticator::{Authenticator, KnownKey, Outcome};
use crate::auth::gate::require;
use crate::auth::last_used::LastUsed;
use crate::auth::permission::Permission;
use crate::auth::principal::{Caller, Principal};
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::UserId;
use crate::model::origin;
use crate::transport::context::RequestId;
use crate::transport::middleware::{Middleware, Next, Request, Response};
use crate::transport::stream::is_stream;

/// The header that may carry the key instead of `authorization`.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The header that names the user for whom the caller acts.
pub const ACTING_USER: HeaderName = HeaderName::from_static("x-acting-user");

/// What is served without a key.
const PUBLIC: &[&str] =
    &["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// The layer.
#[derive(Clone, Debug)]
pub struct Authenticate {
    /// Verifies keys.
    pub authenticator: Arc<Authenticator>,
    /// Notes their use.
    pub last_used: Arc<LastUsed>,
    /// The time.
    pub clock: Clock,
}

impl Middleware for Authenticate {
    async fn handle<N: Next>(&self, mut request: Request, next: &mut N) -> Response {
        let Some((method, permission)) = Permission::of_method(request.uri().path()) else {
            let path = request.uri().path();
            if PUBLIC.iter().any(|public| path.starts_with(public)) {
                return next.run(request).await;
            }
            // What is no RPC of ours is not found before anybody is asked for a key; no service can be behind it,
            // because a test keeps the permission table equal to the descriptors.
            return Status::unimplemented("there is no such method").into_http();
        };
        let request_id = request.extensions().get::<RequestId>().map_or_else(|| Arc::from(""), |id| Arc::clone(&id.0));
        match self.caller(request.headers(), Arc::clone(&request_id), method, permission).await {
            Ok(caller) => {
                if is_stream(method) {
                    let headers = credentials(request.headers());
                    let renewal = Renewal { layer: self.clone(), headers, request_id, method, permission };
                    request.extensions_mut().insert(renewal);
                }
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
            Err(error) => Status::from(error).into_http(),
        }
    }
}

/// Who sends a stream, asked anew as often as its service likes: a key that was good when the stream began may not be
/// now. In the extensions of every stream, beside the caller that it began with.
#[derive(Clone)]
pub struct Renewal {
    layer: Authenticate,
    headers: HeaderMap,
    request_id: Arc<str>,
    method: &'static str,
    permission: Permission,
}

impl std::fmt::Debug for Renewal {
    // The headers carry the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewal").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Renewal {
    /// The caller as of now. From memory, as for any request with a key that was seen before.
    ///
    /// Errors: what a new request with these headers would be refused for.
    pub async fn caller(&self) -> Result<Caller, Error> {
        self.layer.caller(&self.headers, Arc::clone(&self.request_id), self.method, self.permission).await
    }
}

/// The headers that say who is calling, and for whom.
fn credentials(headers: &HeaderMap) -> HeaderMap {
    let named = [AUTHORIZATION, API_KEY, ORIGIN, ACTING_USER];
    let all =
        named.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name.clone(), value.clone())));
    all.collect()
}

impl Authenticate {
    async fn caller(
        &self,
        headers: &HeaderMap,
        request_id: Arc<str>,
        method: &'static str,
        permission: Permission,
    ) -> Result<Caller, Error> {
        let known = match self.authenticator.verify(credential(headers)?).await? {
            Outcome::Valid(known) => known,
            outcome => return Err(refusal(&outcome)),
        };
        if let Some(organization) = &known.organization {
            tracing::Span::current().record("organization_id", tracing::field::display(organization.organization_id));
        }
        check_origin(headers, &known)?;
        let principal = Arc::clone(&known.facts().principal);
        require(principal.permissions(), permission)?;
        let acting_user = acting_user(headers, &principal)?;
        self.last_used.note(&principal, self.clock.now());
        Ok(Caller { principal, acting_user, method, permission, request_id })
    }
}

/// The one key that the request carries.
fn credential(headers: &HeaderMap) -> Result<&str, Error> {
    let ambiguous = || Error::Unauthenticated {
        reason: "CREDENTIALS_AMBIGUOUS",
        message: "send one API key, once: in authorization or in x-api-key",
    };
    let mut found = None;
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let key = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, key) = key.ok_or(Error::Unauthenticated {
            reason: "CREDENTIALS_MALFORMED",
            message: "the authorization header must be of the form: Bearer <API key>",
        })?;
        if found.replace(key.trim()).is_some() {
            return Err(ambiguous());
        }
    }
    for value in headers.get_all(API_KEY) {
        if found.replace(value.to_str().unwrap_or_default().trim()).is_some() {
            return Err(ambiguous());
        }
    }
    found.ok_or(Error::Unauthenticated {
        reason: "CREDENTIALS_MISSING",
        message: "send an API key: authorization: Bearer <key>, or x-api-key: <key>",
    })
}

/// What the bearer of a key that is not good is told. Only who presented the right secret learns more than "invalid".
fn refusal(outcome: &Outcome) -> Error {
    let (reason, message) = match outcome {
        Outcome::Malformed => ("API_KEY_MALFORMED", "this is not an API key: check that it was copied whole"),
        Outcome::NotFound | Outcome::Valid(_) => ("API_KEY_INVALID", "the API key is not valid"),
        Outcome::Revoked(_) => ("API_KEY_REVOKED", "the API key was revoked"),
        Outcome::Disabled(_) => ("API_KEY_DISABLED", "the API key is disabled"),
        Outcome::Expired(_) => ("API_KEY_EXPIRED", "the API key has expired"),
        Outcome::OrganizationSuspended(_) => {
            return Error::PermissionDenied {
                reason: "ORGANIZATION_SUSPENDED",
                message: "the organization is suspended".into(),
            };
        }
    };
    Error::Unauthenticated { reason, message }
}

fn check_origin(headers: &HeaderMap, known: &KnownKey) -> Result<(), Error> {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    if origin::allowed(&known.facts().allowed_origins, origin) {
        return Ok(());
    }
    Err(Error::PermissionDenied {
        reason: "ORIGIN_NOT_ALLOWED",
        message: "the key may not be used from this origin".into(),
    })
}

fn acting_user(headers: &HeaderMap, principal: &Principal) -> Result<Option<UserId>, Error> {
    let mut values = headers.get_all(ACTING_USER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let user = value.to_str().ok().filter(|_| values.next().is_none()).and_then(|text| text.trim().parse().ok());
    let user: UserId = user.ok_or_else(|| Error::InvalidRequest {
        reason: "ACTING_USER_MALFORMED",
        message: "x-acting-user must be one user id, a UUID".into(),
    })?;
    if matches!(principal, Principal::ApiKey { publishable: true, .. }) {
        return Err(Error::PermissionDenied {
            reason: "PERMISSION_MISSING",
            message: "a publishable key acts for nobody".into(),
        });
    }
    require(principal.permissions(), Permission::UsersActAs)?;
    Ok(Some(user))
}
