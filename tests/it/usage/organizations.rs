//! Events of several organizations in one request: each is let in, recorded and refused for itself.

use chrono::{DateTime, Utc};
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{Client, Tenant, World, eventually, refused};
use crate::usage::support::{create_meter, event, events, fate, fill, record, stored};

async fn tenant(world: &World, slug: &str) -> Tenant {
    let tenant = world.tenant(slug).await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    tenant
}

/// An event of the organization named.
fn of(at: DateTime<Utc>, organization_id: &str) -> v1::UsageEvent {
    v1::UsageEvent { organization_id: organization_id.into(), ..event("a", at) }
}

/// The fates of an event for each of these organizations.
async fn fates(at: DateTime<Utc>, client: &Client, request: &str, named: &[&str]) -> Vec<String> {
    let events = named.iter().map(|named| of(at, named)).collect();
    let request = v1::RecordUsageRequest { organization_id: request.into(), events };
    client.usage().record_usage(request).await.unwrap().into_inner().results.iter().map(told).collect()
}

fn told(result: &v1::UsageEventResult) -> String {
    match result.status() {
        v1::UsageEventStatus::Unavailable => format!("UNAVAILABLE: {}", result.reason),
        _ => fate(result),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_organization_is_checked_as_if_named_alone() {
    let world = World::start().await;
    let (one, two, three) = (tenant(&world, "one").await, tenant(&world, "two").await, tenant(&world, "three").await);
    let (at, nobody) = (world.clock.now(), "018f0000-0000-7000-8000-000000000001");

    let operator = world.operator();
    let named = [&one.id, "", &two.slug, nobody, "nobody", "No Slug", &one.slug, &one.id];
    assert_eq!(
        fates(at, &operator, &three.id, &named).await,
        [
            "RECORDED",
            "RECORDED",
            "RECORDED",
            "ORGANIZATION_NOT_FOUND",
            "ORGANIZATION_NOT_FOUND",
            "INVALID_FIELD",
            "DUPLICATE",
            "DUPLICATE"
        ]
    );
    assert_eq!(stored(&world.database).await, 3, "one event of each");
    // An operator's key has no organization of its own.
    assert_eq!(fates(at, &operator, "", &["", &one.id]).await, ["INVALID_FIELD", "DUPLICATE"]);

    let service = world.service(&[Permission::UsageWrite], &[&one.id]).await;
    let expected = ["DUPLICATE", "ORGANIZATION_NOT_FOUND", "ORGANIZATION_NOT_FOUND"];
    assert_eq!(fates(at, &service, "", &[&one.id, &two.id, nobody]).await, expected);

    let named = ["", &one.slug, &two.id, &two.slug, nobody, "nobody"];
    let expected = [
        "DUPLICATE",
        "DUPLICATE",
        "ORGANIZATION_NOT_FOUND",
        "ORGANIZATION_NOT_FOUND",
        "ORGANIZATION_NOT_FOUND",
        "ORGANIZATION_NOT_FOUND",
    ];
    assert_eq!(fates(at, &one.client, "", &named).await, expected, "a tenant's key learns nothing of others");
    assert_eq!(fates(at, &one.client, "", &[&two.id]).await, ["ORGANIZATION_NOT_FOUND"]);

    // A user acted for is asked for in each.
    let user = two.member(&world, "ida", "member").await;
    let acting = world.service(&[Permission::UsageWrite, Permission::UsersActAs], &[]).await.acting(&user);
    assert_eq!(fates(at, &acting, "", &[&one.id, &two.id]).await, ["NOT_A_MEMBER", "DUPLICATE"]);
    let request = v1::SuspendOrganizationRequest { organization_id: two.id.clone(), ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    eventually("the suspension is in force", || async {
        fates(at, &acting, "", &[&one.id, &two.id]).await == ["NOT_A_MEMBER", "ORGANIZATION_SUSPENDED"]
    })
    .await;
    let request = v1::DeleteOrganizationRequest { organization_id: three.id.clone(), ..Default::default() };
    world.operator().organizations().delete_organization(request).await.unwrap();
    eventually("the deletion is in force", || async {
        fates(at, &operator, "", &[&one.id, &three.id]).await == ["DUPLICATE", "ORGANIZATION_DELETED"]
    })
    .await;
    assert_eq!(stored(&world.database).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_a_hundred_organizations_at_most() {
    let world = World::start().await;
    let request = |count: usize| v1::RecordUsageRequest {
        organization_id: String::new(),
        events: (0..count).map(|number| of(world.clock.now(), &format!("nobody-{number}"))).collect(),
    };
    let refusal = refused(world.operator().usage().record_usage(request(101)).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["events"], "{refusal:?}");
    let results = world.operator().usage().record_usage(request(100)).await.unwrap().into_inner().results;
    assert!(results.iter().all(|result| result.reason == "ORGANIZATION_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_organization_too_many_does_not_sink_the_others() {
    let world = World::start_with(&["--request-timeout", "60s"]).await;
    let loud = tenant(&world, "loud").await;
    let quiet = tenant(&world, "quiet").await;
    let now = world.clock.now();
    let superuser = &world.database.superuser;
    record(&loud.client, events("first", 1, now)).await.unwrap();
    let mut lock = superuser.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM tenancy.usage_aggregates FOR UPDATE").execute(&mut *lock).await.unwrap();
    let requests = fill(&loud.client, superuser, now).await;

    let mut both = events("both", 4999, now);
    both.push(v1::UsageEvent { organization_id: quiet.id.clone(), ..event("quiet", now) });
    let request = v1::RecordUsageRequest { organization_id: loud.id.clone(), events: both };
    let results = world.operator().usage().record_usage(request.clone()).await.unwrap().into_inner().results;
    let (last, others) = results.split_last().unwrap();
    assert_eq!(told(last), "RECORDED");
    assert!(others.iter().all(|result| told(result) == "UNAVAILABLE: INGEST_OVERLOADED"), "{:?}", others[0]);
    assert_eq!(others[7].event_id, "both/7");
    // Where nothing is recorded, the call fails, as it does for one organization.
    let alone = v1::RecordUsageRequest {
        organization_id: String::new(),
        events: events("alone", 4999, now)
            .into_iter()
            .map(|event| v1::UsageEvent { organization_id: loud.slug.clone(), ..event })
            .collect(),
    };
    let refusal = refused(world.operator().usage().record_usage(alone).await);
    assert!(refusal.is(Code::ResourceExhausted, "INGEST_OVERLOADED") && refusal.retry, "{refusal:?}");

    lock.rollback().await.unwrap();
    for results in requests.join_all().await {
        results.unwrap();
    }
    let again = world.operator().usage().record_usage(request).await.unwrap().into_inner().results;
    let (last, others) = again.split_last().unwrap();
    assert_eq!(told(last), "DUPLICATE");
    assert!(others.iter().all(|result| told(result) == "RECORDED"));
    assert_eq!(stored(&world.database).await, 1 + 55_000 + 5000);
}
