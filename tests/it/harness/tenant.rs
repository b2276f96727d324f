//! A tenant of a test.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;

use crate::harness::{Client, World};

/// An organization and a key of its that may do all that a tenant may.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Its slug.
    pub slug: String,
    /// The key.
    pub key: String,
    /// The id of the key.
    pub key_id: String,
    /// A client with the key.
    pub client: Client,
}

impl Tenant {
    pub(super) async fn create(world: &World, slug: &str) -> Self {
        Self::create_by(&world.operator(), &world.anonymous(), slug).await
    }

    /// The same by an operator, of a service that is no [`World`].
    pub async fn create_by(operator: &Client, anonymous: &Client, slug: &str) -> Self {
        let organization =
            v1::Organization { slug: slug.into(), display_name: slug.to_uppercase(), ..v1::Organization::default() };
        let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
        let created = operator.organizations().create_organization(request).await.unwrap().into_inner();
        let id = created.organization.unwrap().organization_id;
        let scopes: Vec<Permission> =
            Permission::ALL.iter().copied().filter(|permission| permission.for_tenants()).collect();
        let (key_id, key) = create_key(operator, &id, &scopes).await;
        let client = anonymous.clone().key(&key);
        Self { id, slug: slug.into(), key, key_id, client }
    }

    /// A client with another key of this tenant, which has these scopes.
    pub async fn with_scopes(&self, world: &World, scopes: &[Permission]) -> Client {
        world.client(&create_key(&world.operator(), &self.id, scopes).await.1)
    }

    /// A new user who is a member in this role; returns the user's id.
    pub async fn member(&self, world: &World, name: &str, role: &str) -> String {
        let user = v1::User {
            email: format!("{name}@{}.example.com", self.slug),
            display_name: name.into(),
            ..v1::User::default()
        };
        let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
        let created = world.operator().users().create_user(request).await.unwrap().into_inner();
        let user_id = created.user.unwrap().user_id;
        let request = v1::AddMemberRequest {
            organization_id: self.id.clone(),
            user_id: user_id.clone(),
            role: role.into(),
            ..Default::default()
        };
        world.operator().members().add_member(request).await.unwrap();
        user_id
    }
}

async fn create_key(operator: &Client, organization_id: &str, scopes: &[Permission]) -> (String, String) {
    let api_key = v1::ApiKey {
        organization_id: organization_id.into(),
        kind: v1::ApiKeyKind::SecretTest.into(),
        display_name: "test".into(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..v1::ApiKey::default()
    };
    let request = v1::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
    let created = operator.api_keys().create_api_key(request).await.unwrap().into_inner();
    (created.api_key.unwrap().api_key_id, created.secret)
}
