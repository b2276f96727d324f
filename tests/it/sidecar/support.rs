//! What the tests of sidecars share: an Envoy that asks whether a request may pass, and its answer taken apart.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::Value;
use tenancy::auth::permission::Permission;
use tenancy::proto::envoy::config::core::v3::address::Address as SocketOrPipe;
use tenancy::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use tenancy::proto::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, HeaderValueOption, SocketAddress};
use tenancy::proto::envoy::service::auth::v3::attribute_context::http_request::HeadersEntry;
use tenancy::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use tenancy::proto::envoy::service::auth::v3::check_response::HttpResponse;
use tenancy::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse, OkHttpResponse};
use tenancy::sidecar::admission::Admission;
use tonic::{Code, Status};

use crate::harness::{Client, World};

/// A client as an Envoy is: a service key of the scope `sidecar`, for all organizations.
pub async fn sidecar(world: &World) -> Client {
    world.service(&[Permission::Sidecar], &[]).await
}

/// A request that waits at an Envoy: GET from 203.0.113.7, with what an Envoy always says of one.
#[derive(Clone, Debug)]
pub struct Waiting(AttributeContext);

/// One that carries a key.
pub fn with_key(key: &str) -> Waiting {
    waiting().header("x-api-key", key)
}

/// One without a credential.
pub fn waiting() -> Waiting {
    let http = HttpRequest { id: "envoy-1".into(), path: "/v1/things?a=b".into(), ..HttpRequest::default() };
    let attributes = AttributeContext { request: Some(Request { http: Some(http) }), ..AttributeContext::default() };
    Waiting(attributes)
        .from("203.0.113.7")
        .method("GET")
        .header(":method", "GET")
        .header(":path", "/v1/things?a=b")
        .header(":authority", "api.example.com")
        .header("user-agent", "curl/8")
        .header("x-forwarded-for", "10.0.0.1,203.0.113.7")
        .header("x-request-id", "chosen-by-the-client")
}

impl Waiting {
    fn http(&mut self) -> &mut HttpRequest {
        self.0.request.as_mut().unwrap().http.as_mut().unwrap()
    }

    /// With a header; a second one of a name is joined to the first by a comma, as Envoy does.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let headers = &mut self.http().headers;
        match headers.iter_mut().find(|header| header.key == name) {
            Some(header) => header.value = [&header.value, &b","[..], value.as_bytes()].concat().into(),
            None => headers.push(HeadersEntry { key: name.to_owned().into(), value: value.to_owned().into() }),
        }
        self
    }

    /// As an Envoy with `encode_raw_headers` tells of it.
    pub fn raw(mut self) -> Self {
        let headers = std::mem::take(&mut self.http().headers);
        let header = |HeadersEntry { key, value }| HeaderValue {
            key: String::from_utf8(key.into()).unwrap(),
            raw_value: value.into(),
            ..HeaderValue::default()
        };
        self.http().header_map = Some(HeaderMap { headers: headers.into_iter().map(header).collect() });
        self
    }

    /// With one more header of a raw one.
    pub fn raw_header(mut self, key: &str, raw_value: &[u8]) -> Self {
        let header = HeaderValue { key: key.into(), raw_value: raw_value.to_vec(), ..HeaderValue::default() };
        self.http().header_map.get_or_insert_default().headers.push(header);
        self
    }

    /// With another method.
    pub fn method(mut self, method: &str) -> Self {
        self.http().method = method.into();
        self
    }

    /// From another address; empty: from one that is no IP address.
    pub fn from(mut self, address: &str) -> Self {
        let address =
            (!address.is_empty()).then(|| SocketOrPipe::SocketAddress(SocketAddress { address: address.into() }));
        self.0.source = Some(Peer { address: Some(Address { address }) });
        self
    }

    /// On a route that says so of itself.
    pub fn route(mut self, name: &str, value: &str) -> Self {
        self.0.context_extensions.insert(name.into(), value.into());
        self
    }

    /// Without an id of the Envoy's.
    pub fn without_id(mut self) -> Self {
        self.http().id.clear();
        self
    }

    /// The message that asks.
    pub fn message(self) -> CheckRequest {
        CheckRequest { attributes: Some(self.0) }
    }

    /// Asks.
    pub async fn ask(self, sidecar: &Client) -> Answer {
        self.try_ask(sidecar).await.unwrap()
    }

    /// Asks; an error of the call is one.
    pub async fn try_ask(self, sidecar: &Client) -> Result<Answer, Status> {
        Ok(taken_apart(sidecar.authorization().check(self.message()).await?.into_inner()))
    }

    /// Asks, and must pass.
    pub async fn passes(self, sidecar: &Client) -> Passed {
        match self.ask(sidecar).await {
            Answer::Passed(passed) => passed,
            Answer::Denied(denied) => panic!("it was denied: {denied:?}"),
        }
    }

    /// Asks, and must not pass.
    pub async fn denied(self, sidecar: &Client) -> Denied {
        match self.ask(sidecar).await {
            Answer::Denied(denied) => denied,
            Answer::Passed(passed) => panic!("it passed: {passed:?}"),
        }
    }
}

/// An answer, as the Envoy acts on it.
#[derive(Debug)]
pub enum Answer {
    /// The request goes on.
    Passed(Passed),
    /// The client gets this.
    Denied(Denied),
}

/// How a request goes on.
#[derive(Debug)]
pub struct Passed {
    /// The headers that are set.
    pub set: BTreeMap<String, String>,
    /// The headers that are taken off, sorted.
    pub removed: Vec<String>,
    /// The headers that the client's reply gets.
    pub shown: BTreeMap<String, String>,
    /// For the filters after, and the access log.
    pub metadata: Struct,
}

/// What a client gets that does not pass.
#[derive(Debug)]
pub struct Denied {
    /// The gRPC code.
    pub code: Code,
    /// The HTTP status.
    pub status: i32,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// `reason` of the body.
    pub reason: String,
    /// `message` of the body.
    pub message: String,
    /// `request_id` of the body.
    pub request_id: String,
}

impl Passed {
    /// A text of the metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        match self.metadata.fields.get(name)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            other => panic!("the rate limit filter takes texts only: {other:?}"),
        }
    }

    /// What the access log will bring back, as we read it.
    pub async fn admission(&self, world: &World) -> Admission {
        let key: Vec<u8> =
            sqlx::query_scalar("SELECT key FROM tenancy.signing_keys WHERE purpose = 'quota_reservation'")
                .fetch_one(&world.database.superuser)
                .await
                .unwrap();
        Admission::read(&self.metadata, &key.try_into().unwrap()).unwrap()
    }
}

impl Denied {
    /// The status and the reason, for comparisons.
    pub fn is(&self, status: i32, reason: &str) -> bool {
        self.status == status && self.reason == reason
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

fn headers(options: Vec<HeaderValueOption>) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for option in options {
        assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd, "never added to a client's own");
        let HeaderValue { key, value, raw_value } = option.header.unwrap();
        assert!(raw_value.is_empty() && key == key.to_lowercase(), "{key}");
        assert!(headers.insert(key, value).is_none(), "set once");
    }
    headers
}

/// Takes an answer apart; fails for what a real Envoy would misunderstand.
pub fn taken_apart(reply: CheckResponse) -> Answer {
    let status = reply.status.expect("the status alone decides");
    match reply.http_response.expect("and says more") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(Code::from(status.code), Code::Ok, "a denial without denied_response is an empty 403");
            let ok = OkHttpResponse::decode(&*ok).unwrap();
            let set = headers(ok.headers);
            let mut removed = ok.headers_to_remove;
            removed.sort();
            assert!(removed.iter().all(|name| !set.contains_key(name)), "what is removed is not set, whatever is said");
            let shown = headers(ok.response_headers_to_add);
            Answer::Passed(Passed { set, removed, shown, metadata: Struct::decode(&*reply.dynamic_metadata).unwrap() })
        }
        HttpResponse::DeniedResponse(denied) => {
            let code = Code::from(status.code);
            assert_ne!(code, Code::Ok, "OK with a denied_response is allowed");
            assert!(reply.dynamic_metadata.is_empty());
            let http = denied.status.unwrap().code;
            let expected = match http {
                401 => Code::Unauthenticated,
                403 => Code::PermissionDenied,
                429 => Code::ResourceExhausted,
                503 => Code::Unavailable,
                other => panic!("{other} is none of ours"),
            };
            assert_eq!(code, expected);
            let headers = headers(denied.headers);
            assert_eq!(headers["cache-control"], "no-store");
            let is_grpc = headers.contains_key("grpc-status");
            assert_eq!(headers.get("content-type").map(String::as_str), (!is_grpc).then_some("application/json"));
            assert_eq!(headers.contains_key("www-authenticate"), http == 401);
            let body: Value = serde_json::from_str(&denied.body).unwrap();
            assert_eq!(body["error"]["code"], http);
            let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
            let (reason, message, request_id) = (text("reason"), text("message"), text("request_id"));
            assert_eq!(body.as_object().unwrap().len(), 1);
            assert_eq!(body["error"].as_object().unwrap().len(), 4, "{body}");
            assert!(!reason.is_empty() && !message.is_empty() && !request_id.is_empty(), "{body}");
            Answer::Denied(Denied { code, status: http, headers, reason, message, request_id })
        }
    }
}
