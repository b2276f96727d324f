//! `RecordUsage`: how much at once, and for whom.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::{World, eventually, refused};
use crate::usage::support::{create_meter, drift, event, fates, record, stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_1_to_5000_events() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    create_meter(&client, "calls", v1::MeterAggregation::Count).await;
    let now = world.clock.now();
    let events = |count: usize| (0..count).map(|number| event(&format!("e{number}"), now)).collect::<Vec<_>>();
    for count in [0, 5001] {
        let refusal = refused(record(&client, events(count)).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["events"], "{refusal:?}");
    }
    assert_eq!(stored(&world.database).await, 0, "all of it or nothing");
    assert!(fates(&client, events(5000)).await.iter().all(|fate| fate == "RECORDED"));
    assert!(fates(&client, events(5000)).await.iter().all(|fate| fate == "DUPLICATE"));
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (5000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_organization_records_nothing_until_it_is_resumed() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    let now = world.clock.now();
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    let refusal = async || record(&tenant.client, vec![event("a", now)]).await.err();
    eventually("the suspension is in force", async || refusal().await.is_some()).await;
    let refusal = refused(record(&tenant.client, vec![event("a", now)]).await);
    assert!(refusal.is(Code::PermissionDenied, "ORGANIZATION_SUSPENDED"), "{refusal:?}");
    let counted = stored(&world.database).await;

    let request = v1::ResumeOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().resume_organization(request).await.unwrap();
    eventually("it records again", async || record(&tenant.client, vec![event("b", now)]).await.is_ok()).await;
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (counted + 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishable_key_records_and_reads_nothing() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    let api_key = v1::ApiKey {
        kind: v1::ApiKeyKind::PublishableTest.into(),
        display_name: "page".into(),
        scopes: vec!["usage.write".into()],
        ..v1::ApiKey::default()
    };
    let request = v1::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
    let created = tenant.client.api_keys().create_api_key(request).await.unwrap().into_inner();
    let page = world.client(&created.secret);
    let now = world.clock.now();
    assert_eq!(fates(&page, vec![event("a", now)]).await, ["RECORDED"]);
    // Its replies tell of nothing that others recorded but that it is there.
    assert_eq!(fates(&page, vec![event("a", now)]).await, ["DUPLICATE"]);
    let refusal = refused(page.usage().query_usage(v1::QueryUsageRequest::default()).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    let refusal = refused(page.meters().get_meter(v1::GetMeterRequest::default()).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_records_for_the_organizations_it_names() {
    let world = World::start().await;
    let (one, two) = (world.tenant("one").await, world.tenant("two").await);
    for tenant in [&one, &two] {
        create_meter(&tenant.client, "calls", v1::MeterAggregation::Count).await;
    }
    let backend = world.service(&[Permission::UsageWrite], &[&one.id]).await;
    let request = |organization_id: &str| v1::RecordUsageRequest {
        organization_id: organization_id.into(),
        events: vec![event("a", world.clock.now())],
    };
    for named in [&one.id, &one.slug] {
        backend.usage().record_usage(request(named)).await.unwrap();
    }
    for named in [&two.id, &two.slug] {
        let refusal = refused(backend.usage().record_usage(request(named)).await);
        assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{refusal:?}");
    }
    let refusal = refused(backend.usage().record_usage(request("")).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["organization_id"], "{refusal:?}");
    let of: Vec<String> = sqlx::query_scalar("SELECT DISTINCT organization_id::text FROM tenancy.usage_events")
        .fetch_all(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(of, [one.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meter_that_another_replica_has_just_created_is_known() {
    let world = World::start().await;
    let other = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let elsewhere = other.client(&tenant.key);
    let now = world.clock.now();
    let of = |meter: &str| v1::UsageEvent { meter: meter.into(), ..event(meter, now) };
    for number in 0..5 {
        let (own, wide) = (format!("own.{number}"), format!("wide.{number}"));
        // The other replica has looked, and knows that they are not there.
        let unknown = fates(&elsewhere, vec![of(&own), of(&wide)]).await;
        assert_eq!(unknown, ["METER_NOT_FOUND", "METER_NOT_FOUND"]);
        create_meter(&tenant.client, &own, v1::MeterAggregation::Count).await;
        create_meter(&world.operator(), &wide, v1::MeterAggregation::Count).await;
        assert_eq!(fates(&elsewhere, vec![of(&own), of(&wide)]).await, ["RECORDED", "RECORDED"]);
    }
    assert_eq!((stored(&world.database).await, drift(&world.database).await), (10, 0));
}
