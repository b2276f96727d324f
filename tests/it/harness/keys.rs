//! Calls about keys, short enough for tests that make many of them.

use clap::Parser as _;
use prost_types::{Duration, FieldMask, Timestamp};
use tenancy::cli::operator::{self, OperatorError};
use tenancy::cli::{Cli, Command};
use tenancy::proto::v1;
use tonic::Status;

use crate::harness::{Client, Tenant, World, eventually};

/// A secret key as it would be created.
pub fn secret_key(scopes: &[&str]) -> v1::ApiKey {
    v1::ApiKey {
        kind: v1::ApiKeyKind::SecretTest.into(),
        display_name: "a key".into(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..v1::ApiKey::default()
    }
}

/// A publishable one, for these origins.
pub fn publishable_key(origins: &[&str]) -> v1::ApiKey {
    v1::ApiKey {
        kind: v1::ApiKeyKind::PublishableLive.into(),
        allowed_origins: origins.iter().map(ToString::to_string).collect(),
        ..secret_key(&["organizations.read", "usage.write"])
    }
}

/// So many seconds from now, by the world's clock.
pub fn seconds_from_now(world: &World, seconds: i64) -> Timestamp {
    let now = world.clock.now();
    let nanos = i32::try_from(now.timestamp_subsec_nanos()).unwrap();
    Timestamp { seconds: now.timestamp() + seconds, nanos }
}

/// Creates a key; returns it and its text.
pub async fn create(client: &Client, api_key: v1::ApiKey) -> Result<(v1::ApiKey, String), Status> {
    let request = v1::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
    let created = client.api_keys().create_api_key(request).await?.into_inner();
    Ok((created.api_key.unwrap(), created.secret))
}

/// A key of the client's own organization.
pub async fn get(client: &Client, id: &str) -> Result<v1::ApiKey, Status> {
    let request = v1::GetApiKeyRequest { api_key_id: id.into(), ..Default::default() };
    Ok(client.api_keys().get_api_key(request).await?.into_inner().api_key.unwrap())
}

/// Changes a key. The etag of `api_key` counts.
pub async fn update(client: &Client, api_key: v1::ApiKey, paths: &[&str]) -> Result<v1::ApiKey, Status> {
    let request = v1::UpdateApiKeyRequest {
        api_key: Some(api_key),
        update_mask: Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
    };
    Ok(client.api_keys().update_api_key(request).await?.into_inner().api_key.unwrap())
}

/// Gives a key a new secret, with so many seconds of grace.
pub async fn rotate(client: &Client, id: &str, grace: Option<i64>) -> Result<(v1::ApiKey, String), Status> {
    let request = v1::RotateApiKeyRequest {
        api_key_id: id.into(),
        grace_period: grace.map(|seconds| Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    let rotated = client.api_keys().rotate_api_key(request).await?.into_inner();
    Ok((rotated.api_key.unwrap(), rotated.secret))
}

/// Revokes a key.
pub async fn revoke(client: &Client, id: &str) -> Result<v1::ApiKey, Status> {
    let request = v1::RevokeApiKeyRequest { api_key_id: id.into(), ..Default::default() };
    Ok(client.api_keys().revoke_api_key(request).await?.into_inner().api_key.unwrap())
}

/// Asks about a key.
pub async fn verify(client: &Client, key: &str) -> Result<v1::VerifyApiKeyResponse, Status> {
    let request = v1::VerifyApiKeyRequest { api_key: key.into(), ..Default::default() };
    Ok(client.api_keys().verify_api_key(request).await?.into_inner())
}

/// Uses a key at the door, for what every key of these tests may: to read its organization.
pub async fn knock(client: &Client) -> Result<v1::Organization, Status> {
    let request = v1::GetOrganizationRequest::default();
    Ok(client.organizations().get_organization(request).await?.into_inner().organization.unwrap())
}

/// The part of a test key's text that finds it.
pub fn lookup_id(secret: &str) -> &str {
    &secret["sk_test_".len()..][..16]
}

/// Waits until the service has read of all changes so far, so that what it caches from now on stays.
pub async fn settled(world: &World, tenant: &Tenant) {
    let (marker, secret) = create(&tenant.client, secret_key(&["organizations.read"])).await.unwrap();
    let client = &world.client(&secret);
    knock(client).await.unwrap();
    // Behind the service's back, so that it can learn of it from the log only.
    let sql = "WITH disabled AS (UPDATE tenancy.api_keys SET disabled = true WHERE api_key_id = $1::uuid RETURNING 1)
               INSERT INTO tenancy.changes (subject) SELECT 'api_key:' || $2 FROM disabled";
    let disable = sqlx::query(sql).bind(marker.api_key_id).bind(lookup_id(&secret));
    disable.execute(&world.database.superuser).await.unwrap();
    eventually("the change log is read", || async move { knock(client).await.is_err() }).await;
}

/// Runs `tenancy operator …`; returns what it printed.
pub async fn operate(world: &World, arguments: &[&str]) -> Result<String, OperatorError> {
    let cli = Cli::parse_from(["tenancy", "operator"].iter().chain(arguments));
    let Some(Command::Operator(command)) = cli.command else { panic!("another command") };
    let mut output = Vec::new();
    operator::run(command, &world.running.database, &world.clock, &mut output).await?;
    Ok(String::from_utf8(output).unwrap())
}
