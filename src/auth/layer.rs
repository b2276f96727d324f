//! The auth layer: key, token or certificate → the [`Caller`] of the request. A tower layer and no tonic interceptor, which is
//! synchronous: a key seen for the first time needs a database read. A warm key needs none.

use std::sync::Arc;

use http::header::{AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderName};
use tonic::Status;

use crate::about;
use crate::auth::authenticator::bearer::Bearer;
use crate::auth::authenticator::{Authenticator, KeyFacts, KnownKey, Outcome};
use crate::auth::credential::{self, Search};
use crate::auth::gate::require;
use crate::auth::keys::cache;
use crate::auth::last_used::LastUsed;
use crate::auth::permission::{METHODS, Permission};
use crate::auth::principal::{Caller, Principal};
use crate::auth::tokens::Tokens;
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::ids::UserId;
use crate::model::organization::Organization;
use crate::model::workload::Workloads;
use crate::model::{ip_range, origin};
use crate::transport::middleware::{Arrival, Middleware, Next, Request, Response};
use crate::transport::peer::Peer;

/// The header that may carry the key instead of `authorization`.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The header that names the user for whom the caller acts.
pub const ACTING_USER: HeaderName = HeaderName::from_static("x-acting-user");

/// What is served without a key.
const PUBLIC: &[&str] =
    &["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// Who it is.
struct Known {
    principal: Arc<Principal>,
    /// The organization that the credential is of.
    organization: Option<Arc<Organization>>,
    /// The key, where that is the credential.
    key: Option<cache::Known<KeyFacts>>,
}

impl Known {
    /// By something other than a key.
    const fn of(principal: Arc<Principal>, organization: Option<Arc<Organization>>) -> Self {
        Self { principal, organization, key: None }
    }
}

/// The layer.
#[derive(Clone, Debug)]
pub struct Authenticate {
    /// Verifies keys.
    pub authenticator: Arc<Authenticator>,
    /// Notes their use.
    pub last_used: Arc<LastUsed>,
    /// Who is let in by certificate, as a sidecar.
    pub workloads: Workloads,
    /// The time.
    pub clock: Clock,
}

impl Middleware for Authenticate {
    async fn handle<N: Next>(&self, mut request: Request, next: &N) -> Response {
        let Some((method, permission)) = request.method.and_then(|method| METHODS.get(method)).copied() else {
            let path = request.http.uri().path();
            if PUBLIC.iter().any(|public| path.starts_with(public)) {
                return next.run(request).await;
            }
            // What is no RPC of ours is not found before anybody is asked for a key; no service can be behind it,
            // because a test keeps the permission table equal to the descriptors.
            return Status::unimplemented("there is no such method").into_http();
        };
        let Arrival { http, at, peer, is_stream, id, .. } = &mut *request;
        // Boxed, so that it is gone while the request waits for its answer: what of a request lies about is cold by then, and
        // the same memory is taken again by the next one.
        match Box::pin(self.caller(http.headers(), peer, *at, Arc::clone(id), (method, permission))).await {
            Ok(caller) => {
                if *is_stream {
                    let (headers, peer, request_id) = (credentials(http.headers()), peer.clone(), Arc::clone(id));
                    let renewal = Renewal { layer: self.clone(), headers, peer, request_id, method, permission };
                    http.extensions_mut().insert(renewal);
                }
                request.caller = Some(caller);
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
    peer: Peer,
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
        let (at, id) = (self.layer.clock.moment(), Arc::clone(&self.request_id));
        self.layer.caller(&self.headers, &self.peer, at, id, (self.method, self.permission)).await
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
        peer: &Peer,
        at: Moment,
        request_id: Arc<str>,
        (method, permission): (&'static str, Permission),
    ) -> Result<Caller, Error> {
        let known = match (credential(headers)?, &peer.spiffe_id) {
            // A key is what the caller chose to be known by, and a bad one is refused.
            // Boxed, as its state would be moved with every request that comes with a key.
            (Some(token), _) if Tokens::is_meant(token) => Box::pin(self.token(headers, peer, token)).await?,
            (Some(key), _) => self.key(headers, peer, key, at).await?,
            (None, Some(spiffe_id)) if self.workloads.contains(spiffe_id) => {
                Known::of(Arc::new(Principal::Workload { spiffe_id: spiffe_id.clone() }), None)
            }
            (None, _) => return Err(self.nobody()),
        };
        let Known { principal, organization, key } = known;
        if principal.is_by_token() && (needs_key(permission) || headers.contains_key(ACTING_USER)) {
            return Err(credential::api_key_required());
        }
        require(principal.permissions(), permission)?;
        let acting_user = match *principal {
            Principal::User { user_id, .. } => Some(user_id),
            _ => acting_user(headers, &principal)?,
        };
        match &key {
            Some(facts) => self.last_used.note_key(facts, at.wall),
            None => self.last_used.note(&principal, at.wall),
        }
        Ok(Caller { principal, organization, acting_user, method, permission, request_id, at })
    }

    /// Whose key it is.
    async fn key(&self, headers: &HeaderMap, peer: &Peer, key: &str, at: Moment) -> Result<Known, Error> {
        let known = match self.authenticator.verify(key, at).await? {
            Outcome::Valid(known) => known,
            outcome => return Err(credential::refusal(&outcome)),
        };
        if let Some(organization) = &known.organization {
            about::organization(organization.organization_id.uuid());
        }
        check_place(headers, peer, &known)?;
        let principal = Arc::clone(&known.facts().principal);
        let (facts, organization) = known.into_parts();
        Ok(Known { principal, organization, key: Some(facts) })
    }

    /// Whose token it is. What the key is bound to by now that was exchanged for it, the token is bound to as well.
    async fn token(&self, headers: &HeaderMap, peer: &Peer, token: &str) -> Result<Known, Error> {
        let token = self.authenticator.tokens().verify(token).await?;
        about::organization(token.organization_id.uuid());
        let Bearer { principal, organization, key, .. } = self.authenticator.bearer(&token).await?;
        key.iter().try_for_each(|key| check_place(headers, peer, key))?;
        Ok(Known::of(principal, Some(organization)))
    }

    fn nobody(&self) -> Error {
        if self.workloads.is_empty() {
            return credential::missing();
        }
        Error::Unauthenticated {
            reason: "CREDENTIALS_MISSING",
            message: "send an API key: authorization: Bearer <key>, or x-api-key: <key>; a sidecar may come with a client \
                      certificate whose SPIFFE id is let in",
        }
    }
}

/// The one key that the request carries, if any.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut search = Search::default();
    for value in headers.get_all(AUTHORIZATION) {
        search.authorization(value.to_str().unwrap_or_default())?;
    }
    for value in headers.get_all(API_KEY) {
        search.bare(value.to_str().unwrap_or_default())?;
    }
    Ok(search.found())
}

/// Whether what is done with this permission is done with an API key only: a token that made others would never end.
const fn needs_key(permission: Permission) -> bool {
    matches!(permission, Permission::TokensIssue | Permission::TokensExchange)
}

/// Whether a key may be used from where it is.
fn check_place(headers: &HeaderMap, peer: &Peer, known: &KnownKey) -> Result<(), Error> {
    if !ip_range::allowed(&known.facts().allowed_ip_ranges, peer.address) {
        return Err(credential::ip_not_allowed());
    }
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    if origin::allowed(&known.facts().allowed_origins, origin) {
        return Ok(());
    }
    Err(credential::origin_not_allowed())
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
