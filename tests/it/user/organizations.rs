//! The organizations of users: of their own from the start, and in lists.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{NOBODY, REQUEST_ID, create, get, ida, ids, named, update};
use crate::harness::{Client, World, refused};

async fn create_with(client: &Client, user: v1::User, own: v1::Organization) -> Result<v1::CreateUserResponse, Status> {
    let request =
        v1::CreateUserRequest { user: Some(user), personal_organization: Some(own), request_id: REQUEST_ID.into() };
    Ok(client.users().create_user(request).await?.into_inner())
}

async fn organizations(
    client: &Client,
    user_id: &str,
    (page_size, page_token): (i32, &str),
) -> Result<v1::ListUserOrganizationsResponse, Status> {
    let request =
        v1::ListUserOrganizationsRequest { user_id: user_id.into(), page_size, page_token: page_token.into() };
    Ok(client.users().list_user_organizations(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_comes_with_an_organization_of_their_own() {
    let world = World::start().await;
    let operator = world.operator();
    let own = v1::Organization { time_zone: "Europe/Rome".into(), ..v1::Organization::default() };
    let created = create_with(&operator, ida(), own.clone()).await.unwrap();
    let (user, organization) = (created.user.clone().unwrap(), created.personal_organization.clone().unwrap());
    assert_eq!((organization.display_name.as_str(), organization.time_zone.as_str()), ("Ida B.", "Europe/Rome"));
    assert!(organization.slug.starts_with("user-"), "{}", organization.slug);
    assert_eq!(user.default_organization_id, organization.organization_id);
    assert_eq!(create_with(&operator, ida(), own).await.unwrap(), created, "a repeated request");

    let listed = organizations(&operator, &user.user_id, (0, "")).await.unwrap().organizations;
    let [listed] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(listed.organization_id, organization.organization_id);
    assert_eq!((listed.role.as_str(), listed.is_default), ("owner", true));
    // They are let in at once.
    let service = world.service(Permission::ALL, &[]).await.acting(&user.user_id);
    assert_eq!(get(&service, &organization.slug, &user.user_id).await.unwrap().user_id, user.user_id);
    let request = v1::ListAuditEventsRequest {
        organization_id: organization.organization_id,
        filter: "action = \"members.add\"".into(),
        ..Default::default()
    };
    assert_eq!(operator.audit().list_audit_events(request).await.unwrap().into_inner().audit_events.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_organization_there_is_no_user() {
    let world = World::start().await;
    let operator = world.operator();
    world.tenant("taken").await;
    let slug = |slug: &str| v1::Organization { slug: slug.into(), ..v1::Organization::default() };
    let refusal = refused(create_with(&operator, ida(), slug("taken")).await);
    assert!(refusal.is(Code::AlreadyExists, "SLUG_TAKEN"), "{refusal:?}");
    let refusal = refused(create_with(&operator, ida(), slug("No Slug")).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    assert_eq!(refusal.fields, ["personal_organization.slug"]);
    let creator = world.service(&[Permission::UsersCreate], &[]).await;
    let refusal = refused(create_with(&creator, ida(), slug("free")).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    assert_eq!(ids(&operator, "", "").await, [""; 0]);
    let default = v1::User { default_organization_id: NOBODY.into(), ..ida() };
    let refusal = refused(create(&operator, default).await);
    assert_eq!(refusal.fields, ["user.default_organization_id"]);
    create(&creator, ida()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_organizations_of_a_user_are_listed_with_their_roles() {
    let world = World::start().await;
    let operator = world.operator();
    let ida = create(&operator, named("ida")).await.unwrap().user_id;
    let mut tenants = Vec::new();
    for (slug, role) in [("one", "viewer"), ("two", "admin"), ("three", "owner"), ("four", "member"), ("gone", "owner")]
    {
        let tenant = world.tenant(slug).await;
        let request = v1::AddMemberRequest {
            organization_id: tenant.id.clone(),
            user_id: ida.clone(),
            role: role.into(),
            ..Default::default()
        };
        operator.members().add_member(request).await.unwrap();
        tenants.push(tenant);
        world.clock.advance(std::time::Duration::from_secs(1));
    }
    let request =
        v1::SuspendOrganizationRequest { organization_id: "two".into(), reason: "unpaid".into(), ..Default::default() };
    operator.organizations().suspend_organization(request).await.unwrap();
    let request = v1::DeleteOrganizationRequest { organization_id: "gone".into(), ..Default::default() };
    operator.organizations().delete_organization(request).await.unwrap();
    let default =
        v1::User { user_id: ida.clone(), default_organization_id: tenants[0].id.clone(), ..v1::User::default() };
    update(&operator, "", default, &["default_organization_id"]).await.unwrap();

    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = organizations(&operator, &ida, (3, &token)).await.unwrap();
        found.extend(
            page.organizations
                .into_iter()
                .map(|found| (found.slug.clone(), found.role.clone(), found.status(), found.is_default)),
        );
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let (active, suspended) = (v1::OrganizationStatus::Active, v1::OrganizationStatus::Suspended);
    let expected = [
        ("four", "member", active, false),
        ("three", "owner", active, false),
        ("two", "admin", suspended, false),
        ("one", "viewer", active, true),
    ];
    assert_eq!(found, expected.map(|(slug, role, status, default)| (slug.into(), role.into(), status, default)));

    let bound = world.service(Permission::ALL, &[&tenants[1].id, &tenants[3].id]).await;
    let seen = organizations(&bound, &ida, (0, "")).await.unwrap().organizations;
    assert_eq!(seen.iter().map(|seen| &*seen.slug).collect::<Vec<_>>(), ["four", "two"]);
    let refusal = refused(organizations(&operator, NOBODY, (0, "")).await);
    assert!(refusal.is(Code::NotFound, "USER_NOT_FOUND"), "{refusal:?}");

    let stranger = world.tenant("stranger").await.id;
    let default = v1::User { user_id: ida, default_organization_id: stranger, ..v1::User::default() };
    let refusal = refused(update(&operator, "", default, &["default_organization_id"]).await);
    assert!(refusal.is(Code::FailedPrecondition, "NOT_A_MEMBER"), "{refusal:?}");
}
