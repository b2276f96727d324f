//! `MeterService`, over the wire: an organization's own meters and platform-wide ones.

mod changes;

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
    let time = Some(prost_types::Timestamp::default());
    let ignored = v1::Meter {
        meter_id: "x".into(),
        etag: "x".into(),
        create_time: time,
        update_time: time,
        archive_time: time,
        ..calls()
    };
    let created = create(&tenant.client, ignored).await.unwrap();
    let expected = v1::Meter {
        organization_id: tenant.id.clone(),
        meter_id: created.meter_id.clone(),
        etag: created.etag.clone(),
        create_time: created.create_time,
        update_time: created.create_time,
        ..calls()
    };
    assert_eq!(created, expected);
    assert!(created.create_time.is_some_and(|time| time.seconds > 0) && !created.etag.is_empty(), "output only");
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

fn condition(property: &str, operator: v1::MeterConditionOperator, values: &[&str]) -> v1::MeterCondition {
    v1::MeterCondition {
        property: property.into(),
        operator: operator.into(),
        values: values.iter().map(ToString::to_string).collect(),
    }
}

/// A meter with every field that there is.
fn tokens() -> v1::Meter {
    use v1::MeterConditionOperator::{In, NotIn};
    v1::Meter {
        key: "ai.tokens".into(),
        display_name: "Tokens".into(),
        description: "What the models read and wrote, \"free\" ones aside".into(),
        unit: "token".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        value_property: "tokens used".into(),
        // In an order that is not that of the alphabet.
        group_by: ["model", "größe", "h", "g", "f", "e", "d", "c"].map(str::to_owned).to_vec(),
        filter: vec![
            condition("tier", NotIn, &["free", "trial"]),
            condition("http status", In, &["200", "", "true"]),
            condition("tier", NotIn, &[&"x".repeat(128)]),
        ],
        ..v1::Meter::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_is_kept() {
    use v1::MeterAggregation::{Avg, Count, Latest, Max, Min, Sum, UniqueCount};
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (number, client) in [&tenant.client, &world.operator()].into_iter().enumerate() {
        for aggregation in [Count, Sum, Min, Max, Avg, Latest, UniqueCount] {
            let mut wanted = v1::Meter {
                key: format!("{}.{number}", aggregation.as_str_name().to_lowercase()),
                aggregation: aggregation.into(),
                ..tokens()
            };
            if aggregation == Count {
                wanted.value_property.clear();
            }
            let created = create(client, wanted.clone()).await.unwrap();
            let kept = v1::Meter {
                organization_id: created.organization_id.clone(),
                meter_id: created.meter_id.clone(),
                etag: created.etag.clone(),
                create_time: created.create_time,
                update_time: created.update_time,
                ..wanted
            };
            assert_eq!(created, kept);
            assert_eq!(get(client, "", &created.key).await.unwrap(), kept, "from memory");
            let listed = list(client, v1::ListMetersRequest::default()).await.unwrap().meters;
            assert_eq!(listed.iter().find(|meter| meter.meter_id == created.meter_id), Some(&kept), "from the table");
        }
    }
}

/// The fields that a refusal names, sorted, without `meter.` in front.
async fn wrong_fields(client: &Client, meter: v1::Meter) -> Vec<String> {
    let refusal = refused(create(client, meter).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    let mut fields: Vec<_> =
        refusal.fields.iter().map(|field| field.strip_prefix("meter.").unwrap().to_owned()).collect();
    fields.sort();
    fields
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    use v1::MeterConditionOperator::{In, Unspecified};
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let wrong = v1::Meter {
        key: "018f0000-0000-7000-8000-000000000001".into(),
        display_name: String::new(),
        description: "x".repeat(1001),
        unit: "x".repeat(64),
        aggregation: 99,
        value_property: "a\nb".into(),
        group_by: ["a", "", "b", "a", &"x".repeat(64), "\u{7f}"].map(str::to_owned).to_vec(),
        filter: vec![
            condition("good", In, &["x"]),
            condition("", Unspecified, &[]),
            condition("x\0", In, &["good", &"x".repeat(129), "x\0", ""]),
            condition("many", In, &["x"; 17]),
        ],
        ..v1::Meter::default()
    };
    let expected = [
        "aggregation",
        "description",
        "display_name",
        "filter[1].operator",
        "filter[1].property",
        "filter[1].values",
        "filter[2].property",
        "filter[2].values[1]",
        "filter[2].values[2]",
        "filter[3].values",
        "group_by[1]",
        "group_by[3]",
        "group_by[4]",
        "group_by[5]",
        "key",
        "unit",
        "value_property",
    ];
    assert_eq!(wrong_fields(&client, wrong).await, expected);

    let many = v1::Meter {
        group_by: (0..9).map(|number| format!("p{number}")).collect(),
        filter: vec![condition("p", In, &["x"]); 17],
        ..calls()
    };
    assert_eq!(wrong_fields(&client, many).await, ["filter", "group_by"]);
    let count = v1::Meter { value_property: "tokens".into(), ..calls() };
    assert_eq!(wrong_fields(&client, count).await, ["value_property"], "a count takes no values");
    let unknown =
        v1::Meter { filter: vec![v1::MeterCondition { operator: 3, ..tokens().filter.remove(0) }], ..calls() };
    assert_eq!(wrong_fields(&client, unknown).await, ["filter[0].operator"]);
    assert_eq!(wrong_fields(&client, v1::Meter::default()).await, ["aggregation", "display_name", "key"]);
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
