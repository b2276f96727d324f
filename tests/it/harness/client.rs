//! Clients: one channel and one key.

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use tenancy::proto::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use tenancy::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use tenancy::proto::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_client::RateLimitQuotaServiceClient;
use tenancy::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tenancy::proto::v1::api_key_service_client::ApiKeyServiceClient;
use tenancy::proto::v1::audit_service_client::AuditServiceClient;
use tenancy::proto::v1::invitation_service_client::InvitationServiceClient;
use tenancy::proto::v1::limit_service_client::LimitServiceClient;
use tenancy::proto::v1::member_service_client::MemberServiceClient;
use tenancy::proto::v1::meter_service_client::MeterServiceClient;
use tenancy::proto::v1::organization_service_client::OrganizationServiceClient;
use tenancy::proto::v1::permission_service_client::PermissionServiceClient;
use tenancy::proto::v1::plan_service_client::PlanServiceClient;
use tenancy::proto::v1::quota_service_client::QuotaServiceClient;
use tenancy::proto::v1::rate_limit_domain_service_client::RateLimitDomainServiceClient;
use tenancy::proto::v1::role_service_client::RoleServiceClient;
use tenancy::proto::v1::team_service_client::TeamServiceClient;
use tenancy::proto::v1::token_service_client::TokenServiceClient;
use tenancy::proto::v1::usage_service_client::UsageServiceClient;
use tenancy::proto::v1::user_service_client::UserServiceClient;
use tenancy::transport::stream::is_stream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Calls the service with one key.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    headers: MetadataMap,
}

/// Adds a client's headers to its requests.
#[derive(Clone, Debug)]
pub struct Headers(MetadataMap);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        *request.metadata_mut() = self.0.clone();
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

macro_rules! services {
    ($($name:ident: $client:ident),* $(,)?) => {
        impl Client {
            $(
                pub fn $name(&self) -> $client<Service> {
                    $client::with_interceptor(self.channel.clone(), Headers(self.headers.clone()))
                }
            )*
        }
    };
}

services! {
    access_logs: AccessLogServiceClient,
    api_keys: ApiKeyServiceClient,
    audit: AuditServiceClient,
    authorization: AuthorizationClient,
    invitations: InvitationServiceClient,
    limits: LimitServiceClient,
    members: MemberServiceClient,
    meters: MeterServiceClient,
    organizations: OrganizationServiceClient,
    permissions: PermissionServiceClient,
    plans: PlanServiceClient,
    quotas: QuotaServiceClient,
    rate_limit_domains: RateLimitDomainServiceClient,
    rate_limits: RateLimitServiceClient,
    rate_limit_quotas: RateLimitQuotaServiceClient,
    roles: RoleServiceClient,
    teams: TeamServiceClient,
    tokens: TokenServiceClient,
    usage: UsageServiceClient,
    users: UserServiceClient,
}

impl Client {
    /// A client without a key.
    pub fn new(channel: Channel) -> Self {
        Self { channel, headers: MetadataMap::new() }
    }

    /// The same with a header more.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    /// The same with a key.
    pub fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    /// The same with a token.
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// The same for a user.
    pub fn acting(self, user_id: &str) -> Self {
        self.header("x-acting-user", user_id)
    }
}

/// The bytes of a reply.
pub type RawReply = Result<Vec<u8>, Status>;

/// Calls any method with the bytes of one request; the first message of a stream is its reply, and none is empty.
pub async fn raw(client: &Client, path: &'static str, message: Vec<u8>) -> RawReply {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let mut request = Request::new(message);
    *request.metadata_mut() = client.headers.clone();
    let path = PathAndQuery::from_static(path);
    if is_stream(path.as_str()) {
        let mut replies = grpc.server_streaming(request, path, Bytes).await?.into_inner();
        return Ok(replies.message().await?.unwrap_or_default());
    }
    grpc.unary(request, path, Bytes).await.map(tonic::Response::into_inner)
}

/// Messages as bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
