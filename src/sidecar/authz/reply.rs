//! What an Envoy is answered, and what it does with a request then.
//!
//! An Envoy goes by `status` alone, and shows a client nothing of it: what is denied always has a status and a body. A
//! header to be removed goes before one that is set, so none is ever both.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chrono::{DateTime, Utc};
use http::HeaderName;
use prost::Message as _;
use serde::Serialize;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::ids::{ApiKeyId, UserId};
use crate::model::limit::{Unit, Window};
use crate::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use crate::proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use crate::proto::envoy::r#type::v3::HttpStatus;
use crate::quota::decision::{Decision, LimitView};
use crate::quota::slots::until;
use crate::sidecar::admission::{Admission, Metadata};
use crate::sidecar::authz::denial::{Denial, Kind, telling};
use crate::sidecar::authz::tenant::Tenant;
use crate::status::DOMAIN;

/// What the application is told of who is calling. Whatever of it is not set is taken away: a client can send it too.
const IDENTITY: [&str; 7] = [
    "x-tenant-id",
    "x-tenant-slug",
    "x-tenant-plan",
    "x-tenant-permissions",
    "x-tenant-role",
    "x-api-key-id",
    "x-user-id",
];

/// For whom a backend acts is between it and us.
const ACTING_USER: &str = "x-acting-user";

/// How a limit stands, for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    amount: u64,
    remaining: u64,
    /// The seconds of its window, where they are always as many.
    window: Option<u32>,
    /// In how many seconds it begins anew, where that is known.
    reset: Option<u64>,
}

impl Standing {
    /// After a decision; `None` when no limit applied.
    #[must_use]
    pub fn of(decision: &Decision, now: DateTime<Utc>) -> Option<Self> {
        let view: &LimitView = telling(decision)?;
        let reset = view.reset_time.map(|reset| seconds(until(reset, now)));
        Some(Self {
            amount: view.limit.terms.amount?,
            remaining: view.remaining,
            window: length(view.limit.window),
            reset: reset.or_else(|| decision.retry_after.filter(|_| view.denied).map(seconds)),
        })
    }

    /// The names of draft-ietf-httpapi-ratelimit-headers-03, as Envoy's own filter has them.
    fn headers(self) -> impl Iterator<Item = HeaderValueOption> {
        let Self { amount, remaining, window, reset } = self;
        let limit = match window {
            Some(window) => format!("{amount}, {amount};w={window}"),
            None => amount.to_string(),
        };
        let all = [
            Some(("x-ratelimit-limit", limit)),
            Some(("x-ratelimit-remaining", remaining.to_string())),
            reset.map(|reset| ("x-ratelimit-reset", reset.to_string())),
        ];
        all.into_iter().flatten().map(|(name, value)| set(name, value))
    }
}

/// The seconds of a window.
const fn length(window: Window) -> Option<u32> {
    let (Window::Calendar(unit) | Window::Rolling(unit)) = window else { return None };
    match unit {
        Unit::Second => Some(1),
        Unit::Minute => Some(60),
        Unit::Hour => Some(3_600),
        Unit::Day => Some(86_400),
        Unit::Week => Some(604_800),
        Unit::Month => None,
    }
}

/// Whole seconds, not less than it is.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// What is said with each request of a credential that passes, as it is written.
#[derive(Debug)]
pub struct Identity {
    /// An `OkHttpResponse`.
    response: Vec<u8>,
    /// A `Struct`.
    metadata: Vec<u8>,
}

impl Identity {
    /// Of a tenant's credential.
    #[must_use]
    pub fn of(tenant: &Tenant, credentials: &[HeaderName]) -> Self {
        let profile = &tenant.organization.profile;
        let scopes = tenant.scopes();
        let mut metadata = Metadata::default();
        let (api_key, user) = (tenant.api_key.map(ApiKeyId::uuid), tenant.user.map(UserId::uuid));
        metadata.bearer(tenant.organization_id(), api_key, user);
        for (name, text) in [("tenant_slug", &profile.slug), ("plan", &profile.plan), ("permissions", &scopes)] {
            metadata.put(name, text);
        }
        let values = [
            Some(tenant.organization_id().to_string()),
            Some(profile.slug.clone()),
            Some(profile.plan.clone()),
            Some(scopes),
            tenant.role.as_ref().map(ToString::to_string),
            api_key.map(|id| id.to_string()),
            user.map(|id| id.to_string()),
        ];
        let mut headers = Vec::with_capacity(IDENTITY.len());
        let mut headers_to_remove = to_remove(credentials, IDENTITY.len());
        for (name, value) in IDENTITY.into_iter().zip(values) {
            match value {
                Some(value) => headers.push(set(name, value)),
                None => headers_to_remove.push(name.to_owned()),
            }
        }
        let response = OkHttpResponse { headers, headers_to_remove, ..OkHttpResponse::default() };
        Self { response: response.encode_to_vec(), metadata: metadata.0 }
    }

    /// Of nobody: the request claims to be nobody's.
    #[must_use]
    pub fn anonymous(credentials: &[HeaderName]) -> Self {
        let mut headers_to_remove = to_remove(credentials, IDENTITY.len());
        headers_to_remove.extend(IDENTITY.map(str::to_owned));
        let mut metadata = Metadata::default();
        // A text: the rate limit filter's descriptors take nothing else.
        metadata.put("anonymous", "true");
        let response = OkHttpResponse { headers_to_remove, ..OkHttpResponse::default() };
        Self { response: response.encode_to_vec(), metadata: metadata.0 }
    }

    /// One of its requests passes. Messages of one type, one after the other, are one with the fields of all of them.
    #[must_use]
    pub fn passes(&self, admission: Option<(&Admission, &str)>, standing: Option<Standing>) -> CheckResponse {
        let mut response = self.response.clone();
        if let Some(standing) = standing {
            let response_headers_to_add = standing.headers().collect();
            // A vector takes all there is.
            let _ = OkHttpResponse { response_headers_to_add, ..OkHttpResponse::default() }.encode(&mut response);
        }
        let mut metadata = Metadata(self.metadata.clone());
        if let Some((admission, signed)) = admission {
            admission.tell(signed, &mut metadata);
        }
        CheckResponse {
            status: Some(tonic_types::pb::Status::default()),
            http_response: Some(HttpResponse::OkResponse(response)),
            dynamic_metadata: metadata.0,
        }
    }
}

fn to_remove(credentials: &[HeaderName], more: usize) -> Vec<String> {
    let mut headers = Vec::with_capacity(credentials.len() + 1 + more);
    headers.extend(credentials.iter().map(|name| name.as_str().to_owned()));
    headers.push(ACTING_USER.to_owned());
    headers
}

/// The body of a refusal.
#[derive(Serialize)]
struct Body<'a> {
    error: Problem<'a>,
}

#[derive(Serialize)]
struct Problem<'a> {
    code: u16,
    reason: &'a str,
    message: &'a str,
    request_id: &'a str,
}

/// A request does not pass.
#[must_use]
pub fn denied(denial: &Denial, request_id: &str, is_grpc: bool) -> CheckResponse {
    let Denial { kind, reason, message, .. } = denial;
    let problem = Problem { code: kind.http(), reason, message, request_id };
    // Texts and a number: they can always be written.
    let body = serde_json::to_string(&Body { error: problem }).unwrap_or_default();
    let mut headers = vec![set("cache-control", "no-store".into())];
    if is_grpc {
        // Envoy makes a reply of gRPC of it, with the body as the message whatever we say. Its code it derives from HTTP's,
        // and 429 becomes UNAVAILABLE; but a header of ours goes before its own (seen with 1.40).
        headers.push(set("grpc-status", i32::from(kind.grpc()).to_string()));
        headers.push(set("grpc-status-details-bin", details(denial)));
    } else {
        headers.push(set("content-type", "application/json".into()));
    }
    if *kind == Kind::Unauthenticated {
        let error = if denial.is_of_credential() { ", error=\"invalid_token\"" } else { "" };
        headers.push(set("www-authenticate", format!("Bearer realm=\"tenancy\"{error}")));
    }
    if let Some(retry_after) = denial.retry_after {
        headers.push(set("retry-after", seconds(retry_after).max(1).to_string()));
    }
    headers.extend(denial.standing.into_iter().flat_map(Standing::headers));
    let code = i32::from(kind.http());
    let response = DeniedHttpResponse { status: Some(HttpStatus { code }), headers, body };
    CheckResponse {
        status: Some(tonic_types::pb::Status {
            code: kind.grpc().into(),
            message: message.clone().into_owned(),
            details: Vec::new(),
        }),
        http_response: Some(HttpResponse::DeniedResponse(response)),
        dynamic_metadata: Vec::new(),
    }
}

/// A header in place of whatever is there.
fn set(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}

/// What a gRPC client takes apart: the ErrorInfo, and when to retry.
fn details(denial: &Denial) -> String {
    let Denial { kind, reason, message, retry_after, .. } = denial;
    let mut details = ErrorDetails::with_error_info(reason.as_ref(), DOMAIN, []);
    if retry_after.is_some() {
        details.set_retry_info(*retry_after);
    }
    let status = Status::with_error_details(kind.grpc(), message.as_ref(), details);
    STANDARD_NO_PAD.encode(status.details())
}
