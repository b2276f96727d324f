//! `MeterService`, over the wire: an organization's own meters and platform-wide ones.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, World, refused};
use crate::usage::support::create_meter;

fn calls() -> v1::Meter {
    v1::Meter {
        key: "calls".into(),
        display_name: "Calls".into(),
        unit: "request".into(),
        aggregation: v1::MeterAggregation::Count.into(),
        ..v1::Meter::default()
    }
}

async fn create(client: &Client, meter: v1::Meter) -> Result<v1::Meter, Status> {
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    Ok(client.meters().create_meter(request).await?.into_inner().meter.unwrap())
}

async fn get(client: &Client, organization: &str, meter: &str) -> Result<v1::Meter, Status> {
    let request = v1::GetMeterRequest { organization_id: organization.into(), meter: meter.into() };
    Ok(client.meters().get_meter(request).await?.into_inner().meter.unwrap())
}

async fn list(client: &Client, request: v1::ListMetersRequest) -> Result<v1::ListMetersResponse, Status> {
    Ok(client.meters().list_meters(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_and_found_by_id_and_key() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let ignored = v1::Meter { meter_id: "x".into(), create_time: Some(prost_types::Timestamp::default()), ..calls() };
    let created = create(&tenant.client, ignored).await.unwrap();
    let expected = v1::Meter {
        organization_id: tenant.id.clone(),
        meter_id: created.meter_id.clone(),
        create_time: created.create_time,
        ..calls()
    };
    assert_eq!(created, expected);
    assert!(created.create_time.is_some_and(|time| time.seconds > 0), "output only");
    for name in ["calls", &created.meter_id] {
        assert_eq!(get(&tenant.client, "", name).await.unwrap(), created);
        assert_eq!(get(&world.operator(), "acme", name).await.unwrap(), created);
        let refusal = refused(get(&world.operator(), "", name).await);
        assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "it is not the platform's: {refusal:?}");
    }
    for name in ["nobody", "", "018f0000-0000-7000-8000-000000000001"] {
        assert!(refused(get(&tenant.client, "", name).await).is(Code::NotFound, "METER_NOT_FOUND"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let wrong = v1::Meter {
        key: "018f0000-0000-7000-8000-000000000001".into(),
        display_name: String::new(),
        unit: "x".repeat(64),
        aggregation: 99,
        ..v1::Meter::default()
    };
    let mut refusal = refused(create(&client, wrong).await);
    refusal.fields.sort();
    let expected = ["aggregation", "display_name", "key", "unit"].map(|field| format!("meter.{field}"));
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == expected, "{refusal:?}");
    let refusal = refused(client.meters().create_meter(v1::CreateMeterRequest::default()).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_meter_comes_before_a_later_platform_wide_one() {
    let world = World::start().await;
    let (one, two) = (world.tenant("one").await, world.tenant("two").await);
    let own = create(&one.client, calls()).await.unwrap();
    assert!(refused(get(&two.client, "", "calls").await).is(Code::NotFound, "METER_NOT_FOUND"));

    let wide = create(&world.operator(), v1::Meter { display_name: "All calls".into(), ..calls() }).await.unwrap();
    assert_eq!(wide.organization_id, "");
    for (who, client) in [("the platform", &world.operator()), ("one", &one.client), ("two", &two.client)] {
        let refusal = refused(create(client, calls()).await);
        assert!(refusal.is(Code::AlreadyExists, "METER_KEY_TAKEN") && refusal.fields == ["meter.key"], "{who}");
    }
    assert_eq!(get(&one.client, "", "calls").await.unwrap(), own);
    assert_eq!(get(&two.client, "", "calls").await.unwrap(), wide);
    assert_eq!(get(&world.operator(), "", "calls").await.unwrap(), wide);
    for client in [&one.client, &two.client] {
        assert_eq!(get(client, "", &wide.meter_id).await.unwrap(), wide, "by its id it is there for everybody");
    }
    assert!(refused(get(&two.client, "", &own.meter_id).await).is(Code::NotFound, "METER_NOT_FOUND"));

    let all = v1::ListMetersRequest::default;
    assert_eq!(list(&one.client, all()).await.unwrap().meters, [own]);
    assert_eq!(list(&two.client, all()).await.unwrap().meters, [wide.clone()]);
    assert_eq!(list(&world.operator(), all()).await.unwrap().meters, [wide]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_bound_to_no_list_makes_platform_wide_meters() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let bound = world.service(&[Permission::MetersCreate, Permission::MetersRead], &[&tenant.id]).await;
    let refusal = refused(create(&bound, calls()).await);
    assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
    let refusal = refused(list(&bound, v1::ListMetersRequest::default()).await);
    assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
    create(&bound, v1::Meter { organization_id: "acme".into(), ..calls() }).await.unwrap();
    let free = world.service(&[Permission::MetersCreate], &[]).await;
    create(&free, calls()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_taken_once_and_a_repeated_request_is_one_request() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let outcomes = futures_util::future::join_all((0..8).map(|_| create(&tenant.client, calls()))).await;
    let (created, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    for refusal in refusals {
        assert!(refused(refusal).is(Code::AlreadyExists, "METER_KEY_TAKEN"));
    }
    for (number, client) in [&tenant.client, &world.operator()].into_iter().enumerate() {
        let request = v1::CreateMeterRequest {
            meter: Some(v1::Meter { key: format!("again.{number}"), ..calls() }),
            request_id: "018f6d2e-0000-7000-8000-000000000001".into(),
        };
        let again = (0..6).map(|_| {
            let (mut meters, request) = (client.meters(), request.clone());
            async move { meters.create_meter(request).await.map(tonic::Response::into_inner) }
        });
        let replies: Vec<_> = futures_util::future::join_all(again).await.into_iter().map(Result::unwrap).collect();
        assert!(replies.iter().all(|reply| *reply == replies[0]));
        let mut other = request.clone();
        other.meter = Some(calls());
        let refusal = refused(client.meters().create_meter(other).await);
        assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    }
    let audited: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM tenancy.audit_events WHERE action = 'meters.create')
             + (SELECT count(*) FROM tenancy.platform_audit_events WHERE action = 'meters.create')",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(audited, 3, "one for each meter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_both_kinds_are_in_one_order() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let mut expected = Vec::new();
    for number in 0..7 {
        let creator = if number % 3 == 0 { world.operator() } else { client.clone() };
        let created = create_meter(&creator, &format!("meter.{number}"), v1::MeterAggregation::Sum).await;
        expected.insert(0, created);
        // Ids of one millisecond are in no order.
        world.clock.advance(std::time::Duration::from_millis(2));
    }
    let mut seen = Vec::new();
    let mut request = v1::ListMetersRequest { page_size: 3, ..Default::default() };
    loop {
        let page = list(&client, request.clone()).await.unwrap();
        assert!(page.meters.len() <= 3);
        seen.extend(page.meters);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, expected);
    for wrong in [
        v1::ListMetersRequest { page_size: -1, ..Default::default() },
        v1::ListMetersRequest { page_token: "nonsense".into(), ..Default::default() },
        v1::ListMetersRequest { organization_id: "acme".into(), ..request },
    ] {
        assert!(refused(list(&client, wrong).await).is(Code::InvalidArgument, "INVALID_FIELD"));
    }
}
