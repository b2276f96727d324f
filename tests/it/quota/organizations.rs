//! What organizations have of plans: the key of one, what it entitles to, and the day on which their months turn.

use prost_types::Value;
use prost_types::value::Kind;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::support::{archive_plan, create_plan, mask, plan, update_plan, wrong_fields};
use crate::harness::{Client, World, refused};

async fn create(client: &Client, organization: v1::Organization) -> Result<v1::Organization, Status> {
    let organization = v1::Organization { display_name: "Acme".into(), ..organization };
    let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    Ok(client.organizations().create_organization(request).await?.into_inner().organization.unwrap())
}

async fn update(client: &Client, organization: v1::Organization, path: &str) -> Result<v1::Organization, Status> {
    let request = v1::UpdateOrganizationRequest {
        organization: Some(organization),
        update_mask: mask(&[path]),
        ..Default::default()
    };
    Ok(client.organizations().update_organization(request).await?.into_inner().organization.unwrap())
}

async fn entitlements(client: &Client, organization: &str) -> v1::GetEntitlementsResponse {
    let request = v1::GetEntitlementsRequest { organization_id: organization.into() };
    client.plans().get_entitlements(request).await.unwrap().into_inner()
}

fn on(slug: &str, plan: &str) -> v1::Organization {
    v1::Organization { slug: slug.into(), plan: plan.into(), ..v1::Organization::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_must_exist_and_be_open() {
    let world = World::start().await;
    let operator = world.operator();
    let refusal = refused(create(&operator, on("acme", "gold")).await);
    assert!(refusal.is(Code::NotFound, "PLAN_NOT_FOUND"), "{refusal:?}");
    create_plan(&operator, plan("gold", vec![])).await.unwrap();
    let created = create(&operator, on("acme", "gold")).await.unwrap();
    assert_eq!(created.plan, "gold");
    let renamed = |plan: &str| v1::Organization { organization_id: "acme".into(), ..on("acme", plan) };
    let refusal = refused(update(&operator, renamed("silver"), "plan").await);
    assert!(refusal.is(Code::NotFound, "PLAN_NOT_FOUND"), "{refusal:?}");
    assert_eq!(wrong_fields(update(&operator, renamed("Silver"), "plan").await), ["organization.plan"]);

    archive_plan(&operator, "gold", "").await.unwrap();
    for refusal in
        [refused(create(&operator, on("other", "gold")).await), refused(create(&operator, on("acme", "gold")).await)]
    {
        assert!(refusal.is(Code::FailedPrecondition, "PLAN_ARCHIVED"), "{refusal:?}");
    }
    // Who is on it stays, and is otherwise changed as ever.
    let named = v1::Organization { display_name: "Acme AG".into(), ..renamed("") };
    let after = update(&operator, named, "display_name").await.unwrap();
    assert_eq!((after.plan.as_str(), after.display_name.as_str()), ("gold", "Acme AG"));
    assert_eq!(update(&operator, renamed("gold"), "plan").await.unwrap().plan, "gold");
    assert_eq!(update(&operator, renamed("pro"), "plan").await.unwrap().plan, "pro");
    let refusal = refused(update(&operator, renamed("gold"), "plan").await);
    assert!(refusal.is(Code::FailedPrecondition, "PLAN_ARCHIVED"), "{refusal:?}");

    let list = async |filter: &str| {
        let request = v1::ListOrganizationsRequest { filter: filter.into(), ..Default::default() };
        let found = operator.organizations().list_organizations(request).await?.into_inner().organizations;
        Ok::<_, Status>(found.len())
    };
    assert_eq!(list("plan = \"pro\"").await.unwrap(), 1);
    assert_eq!(list("plan = \"gold\"").await.unwrap(), 0);
    assert_eq!(wrong_fields(list("plan = \"Gold\"").await), ["filter"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entitlements_are_the_features_of_the_plan() {
    let world = World::start().await;
    let (operator, tenant) = (world.operator(), world.tenant("acme").await);
    let none = v1::GetEntitlementsResponse { plan: "free".into(), plan_version: 1, ..Default::default() };
    assert_eq!(entitlements(&tenant.client, "").await, none);
    let features: std::collections::BTreeMap<_, _> = [
        ("sso".to_owned(), Value { kind: Some(Kind::BoolValue(true)) }),
        ("seats".to_owned(), Value { kind: Some(Kind::NumberValue(12.5)) }),
        ("support".to_owned(), Value { kind: Some(Kind::StringValue("mail".into())) }),
    ]
    .into();
    let free = v1::Plan { features: features.clone(), ..plan("free", vec![]) };
    update_plan(&operator, free, &["features"]).await.unwrap();
    let expected = v1::GetEntitlementsResponse { plan_version: 2, features, ..none };
    assert_eq!(entitlements(&tenant.client, "").await, expected);
    assert_eq!(entitlements(&operator, "acme").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn months_turn_on_a_day() {
    let world = World::start().await;
    let operator = world.operator();
    let with = |slug: &str, day| v1::Organization { billing_anchor_day: day, ..on(slug, "") };
    assert_eq!(create(&operator, with("first", 0)).await.unwrap().billing_anchor_day, 1);
    assert_eq!(create(&operator, with("last", 31)).await.unwrap().billing_anchor_day, 31);
    for day in [-1, 32, i32::MAX] {
        assert_eq!(wrong_fields(create(&operator, with("none", day)).await), ["organization.billing_anchor_day"]);
    }
    // As the time zone: also by the organization itself.
    let tenant = world.tenant("acme").await;
    let changed = update(&tenant.client, with("", 15), "billing_anchor_day").await.unwrap();
    assert_eq!(changed.billing_anchor_day, 15);
    let outcome = update(&tenant.client, with("", 0), "billing_anchor_day").await;
    assert_eq!(wrong_fields(outcome), ["organization.billing_anchor_day"]);
}
