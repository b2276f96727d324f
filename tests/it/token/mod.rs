//! Tokens: what they say, who gets them, what they are good for, and what ends them.

mod ended;
mod exchange;
mod forged;
mod issue;
mod keys;
mod used;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, Tenant, World, admin};

/// Issues a token of a user in the client's own organization.
pub async fn issue(client: &Client, user_id: &str) -> Result<String, Status> {
    issue_with(client, v1::IssueTokenRequest { user_id: user_id.into(), ..Default::default() }).await
}

/// The same with all that a request can say.
pub async fn issue_with(client: &Client, request: v1::IssueTokenRequest) -> Result<String, Status> {
    Ok(client.tokens().issue_token(request).await?.into_inner().token)
}

/// Exchanges a key.
pub async fn exchange(client: &Client, api_key: &str) -> Result<String, Status> {
    let request = v1::ExchangeApiKeyRequest { api_key: api_key.into(), ..Default::default() };
    Ok(client.tokens().exchange_api_key(request).await?.into_inner().token)
}

/// Revokes the tokens of a user; without an organization in the client's own, or everywhere.
pub async fn revoke(client: &Client, organization_id: &str, user_id: &str) -> Result<(), Status> {
    let request = v1::RevokeTokensRequest { organization_id: organization_id.into(), user_id: user_id.into() };
    client.tokens().revoke_tokens(request).await.map(drop)
}

/// One of the three parts of a token, read.
pub fn part(token: &str, number: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(number).unwrap()).unwrap()).unwrap()
}

/// What a token says.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// The permissions that it names.
pub fn permissions(token: &str) -> Vec<String> {
    serde_json::from_value(claims(token)["permissions"].clone()).unwrap()
}

/// The set of public keys, as HTTP has it.
pub async fn key_set(world: &World) -> Vec<Value> {
    let (status, body) = admin(world.running.admin, "/.well-known/jwks.json").await;
    assert_eq!(status, 200, "{body}");
    let mut set: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(set.as_object().unwrap().len(), 1);
    serde_json::from_value(set["keys"].take()).unwrap()
}

/// A tenant and a user of it in this role.
pub async fn member(world: &World, slug: &str, role: &str) -> (Tenant, String) {
    let tenant = world.tenant(slug).await;
    let user = tenant.member(world, "ida", role).await;
    (tenant, user)
}

/// Names of permissions, as the vocabulary has them.
pub fn names(permissions: impl IntoIterator<Item = Permission>) -> Vec<String> {
    permissions.into_iter().map(|permission| permission.as_str().to_owned()).collect()
}
