//! `OrganizationService`, over the wire.

use prost_types::FieldMask;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, World, refused};

fn acme() -> v1::Organization {
    v1::Organization { slug: "acme".into(), display_name: "Acme".into(), ..v1::Organization::default() }
}

async fn create(client: &Client, organization: v1::Organization) -> Result<v1::Organization, tonic::Status> {
    let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    let created = client.organizations().create_organization(request).await?;
    Ok(created.into_inner().organization.unwrap())
}

async fn update(
    client: &Client,
    organization: v1::Organization,
    paths: &[&str],
) -> Result<v1::Organization, tonic::Status> {
    let request = v1::UpdateOrganizationRequest {
        organization: Some(organization),
        update_mask: Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
        validate_only: false,
    };
    Ok(client.organizations().update_organization(request).await?.into_inner().organization.unwrap())
}

async fn get(client: &Client, name: &str) -> Result<v1::Organization, tonic::Status> {
    let request = v1::GetOrganizationRequest { organization_id: name.into() };
    Ok(client.organizations().get_organization(request).await?.into_inner().organization.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_with_defaults_and_found_by_id_and_slug() {
    let world = World::start().await;
    let operator = world.operator();
    let created = create(&operator, acme()).await.unwrap();
    assert_eq!((created.plan.as_str(), created.time_zone.as_str(), created.currency.as_str()), ("free", "UTC", "USD"));
    assert_eq!((created.locale.as_str(), created.date_format.as_str()), ("en", "YYYY-MM-DD"));
    assert_eq!(created.status(), v1::OrganizationStatus::Active);
    assert_eq!(get(&operator, &created.organization_id).await.unwrap(), created);
    assert_eq!(get(&operator, "acme").await.unwrap(), created);
    assert!(refused(get(&operator, "nobody").await).is(Code::NotFound, "ORGANIZATION_NOT_FOUND"));
    let refusal = refused(get(&operator, "Not A Slug").await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["organization_id"], "{refusal:?}");
    let refusal = refused(get(&operator, "").await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let wrong = v1::Organization {
        slug: "A".into(),
        display_name: " ".into(),
        plan: "Gold".into(),
        contact_email: "x".into(),
        billing_email: "y".into(),
        time_zone: "Mars/Base".into(),
        currency: "eur".into(),
        locale: "!".into(),
        date_format: "D".into(),
        branding: Some(v1::Branding { logo_uri: "http://x".into(), primary_color: "red".into() }),
        labels: [("BAD".to_owned(), String::new())].into(),
        member_limit: Some(0),
        settings: Some(prost_types::Struct {
            fields: [(
                "x".to_owned(),
                prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(20_000))) },
            )]
            .into(),
        }),
        ..v1::Organization::default()
    };
    let mut refusal = refused(create(&world.operator(), wrong).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    refusal.fields.sort();
    let expected = [
        "billing_email",
        "branding.logo_uri",
        "branding.primary_color",
        "contact_email",
        "currency",
        "date_format",
        "display_name",
        "labels",
        "locale",
        "member_limit",
        "plan",
        "settings",
        "slug",
        "time_zone",
    ];
    assert_eq!(refusal.fields, expected.map(|field| format!("organization.{field}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slug_is_taken_once_also_by_concurrent_creates_and_renames() {
    let world = World::start().await;
    let operator = world.operator();
    let outcomes = futures_util::future::join_all((0..8).map(|_| create(&operator, acme()))).await;
    let (created, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    for refusal in refusals {
        assert!(refused(refusal).is(Code::AlreadyExists, "SLUG_TAKEN"));
    }
    let other = create(&operator, v1::Organization { slug: "other".into(), ..acme() }).await.unwrap();
    let renamed = v1::Organization { slug: "acme".into(), ..other.clone() };
    let refusal = refused(update(&operator, renamed, &["slug"]).await);
    assert!(refusal.is(Code::AlreadyExists, "SLUG_TAKEN") && refusal.fields == ["organization.slug"], "{refusal:?}");
    // A slug that was given up is free again.
    let renamed = v1::Organization { slug: "third".into(), ..other };
    update(&operator, v1::Organization { etag: String::new(), ..renamed }, &["slug"]).await.unwrap();
    create(&operator, v1::Organization { slug: "other".into(), ..acme() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_one_request() {
    let world = World::start().await;
    let request = v1::CreateOrganizationRequest {
        organization: Some(acme()),
        request_id: "018f6d2e-0000-7000-8000-000000000001".into(),
        ..Default::default()
    };
    let operator = world.operator();
    let again = (0..6).map(|_| {
        let (mut organizations, request) = (operator.organizations(), request.clone());
        async move { organizations.create_organization(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = futures_util::future::join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]));

    let mut other = request.clone();
    other.organization = Some(v1::Organization { slug: "other".into(), ..acme() });
    let refusal = refused(operator.organizations().create_organization(other).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    let bad = v1::CreateOrganizationRequest { request_id: "x".into(), ..request };
    let refusal = refused(operator.organizations().create_organization(bad).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["request_id"], "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_only_changes_nothing() {
    let world = World::start().await;
    let operator = world.operator();
    let request =
        v1::CreateOrganizationRequest { organization: Some(acme()), validate_only: true, ..Default::default() };
    operator.organizations().create_organization(request).await.unwrap();
    assert!(refused(get(&operator, "acme").await).is(Code::NotFound, "ORGANIZATION_NOT_FOUND"));
    let created = create(&operator, acme()).await.unwrap();
    let request =
        v1::DeleteOrganizationRequest { organization_id: "acme".into(), validate_only: true, ..Default::default() };
    let reply = operator.organizations().delete_organization(request).await.unwrap().into_inner();
    assert!(reply.organization.unwrap().delete_time.is_some());
    assert_eq!(get(&operator, "acme").await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masks_etags_and_what_is_the_platforms() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let before = get(&tenant.client, "").await.unwrap();
    let wanted = v1::Organization {
        organization_id: String::new(),
        display_name: "New".into(),
        time_zone: "Asia/Kathmandu".into(),
        plan: "enterprise".into(),
        ..before.clone()
    };
    let after = update(&tenant.client, wanted.clone(), &["display_name"]).await.unwrap();
    assert_eq!((after.display_name.as_str(), after.time_zone.as_str()), ("New", "UTC"));
    assert_ne!(after.etag, before.etag);

    let refusal = refused(update(&tenant.client, wanted.clone(), &["time_zone"]).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    let wanted = v1::Organization { etag: after.etag, ..wanted };
    for field in ["plan", "slug", "member_limit"] {
        let refusal = refused(update(&tenant.client, wanted.clone(), &[field]).await);
        assert!(refusal.is(Code::PermissionDenied, "OPERATOR_ONLY_FIELD"), "{refusal:?}");
    }
    for mask in [&[][..], &["nonsense"][..], &["organization_id"][..], &["status"][..]] {
        let refusal = refused(update(&tenant.client, wanted.clone(), mask).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["update_mask"], "{refusal:?}");
    }
    let all = update(&tenant.client, wanted, &["*"]).await.unwrap();
    assert_eq!((all.plan.as_str(), all.time_zone.as_str()), ("free", "Asia/Kathmandu"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_pages_filters_and_hides_the_deleted() {
    let world = World::start().await;
    let operator = world.operator();
    for number in 0..7 {
        let plan = if number % 2 == 0 { "pro" } else { "free" };
        let organization = v1::Organization {
            slug: format!("org-{number}"),
            plan: plan.into(),
            labels: [("tier".to_owned(), plan.to_owned())].into(),
            ..acme()
        };
        create(&operator, organization).await.unwrap();
    }
    let list = async |request: v1::ListOrganizationsRequest| {
        operator.organizations().list_organizations(request).await.map(tonic::Response::into_inner)
    };
    let mut seen = Vec::new();
    let mut request = v1::ListOrganizationsRequest { page_size: 3, ..Default::default() };
    loop {
        let page = list(request.clone()).await.unwrap();
        assert!(page.organizations.len() <= 3);
        seen.extend(page.organizations.into_iter().map(|organization| organization.slug));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((seen.len(), sorted.len()), (7, 7));
    let foreign = v1::ListOrganizationsRequest { filter: "plan = \"pro\"".into(), ..request };
    let refusal = refused(list(foreign).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["page_token"], "{refusal:?}");

    for (filter, expected) in [
        ("plan = \"pro\"", 4),
        ("labels.tier = \"free\" AND plan = \"free\"", 3),
        ("slug = \"org-1\"", 1),
        ("status = \"SUSPENDED\"", 0),
    ] {
        let page = list(v1::ListOrganizationsRequest { filter: filter.into(), ..Default::default() }).await.unwrap();
        assert_eq!(page.organizations.len(), expected, "{filter}");
    }
    let request = v1::DeleteOrganizationRequest { organization_id: "org-1".into(), ..Default::default() };
    operator.organizations().delete_organization(request).await.unwrap();
    assert_eq!(list(v1::ListOrganizationsRequest::default()).await.unwrap().organizations.len(), 6);
    let all = v1::ListOrganizationsRequest { show_deleted: true, ..Default::default() };
    assert_eq!(list(all).await.unwrap().organizations.len(), 7);
    for request in [
        v1::ListOrganizationsRequest { page_size: -1, ..Default::default() },
        v1::ListOrganizationsRequest { filter: "nonsense".into(), ..Default::default() },
        v1::ListOrganizationsRequest { page_token: "nonsense".into(), ..Default::default() },
    ] {
        assert!(refused(list(request).await).is(Code::InvalidArgument, "INVALID_FIELD"));
    }
}
