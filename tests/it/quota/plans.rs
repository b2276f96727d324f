//! `PlanService`, over the wire.

use prost_types::Value;
use prost_types::value::Kind;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::support::{
    archive_plan, calendar, create_plan, full, get_plan, monthly, plan, returned, rolling, update_plan, wrong_fields,
};
use crate::harness::{Client, World, refused};
use crate::usage::support::create_meter;

async fn with_meters(world: &World) -> Client {
    let operator = world.operator();
    for key in ["calls", "tokens"] {
        create_meter(&operator, key, v1::MeterAggregation::Sum).await;
    }
    operator
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_is_kept() {
    let world = World::start().await;
    let operator = with_meters(&world).await;
    let time = Some(prost_types::Timestamp::default());
    let lifetime = v1::LimitRule { window: calendar(v1::WindowUnit::Lifetime), ..monthly("tokens", 0) };
    let unlimited = v1::LimitRule { amount: None, unlimited: true, ..monthly("tokens", 0) };
    let wanted = v1::Plan {
        description: "For \"many\"".into(),
        features: [
            ("sso".to_owned(), value(Kind::BoolValue(true))),
            ("seats".to_owned(), value(Kind::NumberValue(12.0))),
            ("discount".to_owned(), value(Kind::NumberValue(0.1))),
            ("most".to_owned(), value(Kind::NumberValue(f64::MAX))),
            ("support".to_owned(), value(Kind::StringValue("größer".into()))),
        ]
        .into(),
        version: 7,
        archive_time: time,
        etag: "x".into(),
        create_time: time,
        update_time: time,
        ..plan("gold", vec![full("calls"), monthly("calls", 1_000_000_000_000_000), lifetime, unlimited])
    };
    let created = create_plan(&operator, wanted.clone()).await.unwrap();
    let expected = v1::Plan {
        limits: wanted
            .limits
            .iter()
            .zip(&created.limits)
            .map(|(wanted, created)| v1::PlanLimit {
                limit_id: created.limit_id.clone(),
                rule: wanted.rule.clone().map(returned),
            })
            .collect(),
        version: 1,
        archive_time: None,
        etag: created.etag.clone(),
        create_time: created.create_time,
        update_time: created.create_time,
        ..wanted
    };
    assert_eq!(created, expected);
    assert!(created.create_time.is_some_and(|time| time.seconds > 0) && !created.etag.is_empty(), "output only");
    for version in [0, 1] {
        assert_eq!(get_plan(&operator, "gold", version).await.unwrap(), created);
    }
    let elsewhere = World::on(world.database.clone(), &[]).await;
    assert_eq!(get_plan(&elsewhere.operator(), "gold", 0).await.unwrap(), created, "on another replica");

    let refusal = refused(create_plan(&operator, plan("gold", vec![])).await);
    assert!(refusal.is(Code::AlreadyExists, "PLAN_KEY_TAKEN") && refusal.fields == ["plan.key"], "{refusal:?}");
    for key in ["silver", "", "Gold", "a\0", &"a".repeat(64)] {
        let refusal = refused(get_plan(&operator, key, 0).await);
        assert!(refusal.is(Code::NotFound, "PLAN_NOT_FOUND"), "{key:?} {refusal:?}");
    }
    for version in [2, -1] {
        let refusal = refused(get_plan(&operator, "gold", version).await);
        assert!(refusal.is(Code::NotFound, "PLAN_VERSION_NOT_FOUND"), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let operator = with_meters(&world).await;
    let rule = |change: fn(&mut v1::LimitRule)| {
        let mut rule = monthly("calls", 10);
        change(&mut rule);
        rule
    };
    let wrong = v1::Plan {
        key: "a.b".into(),
        display_name: String::new(),
        description: "x".repeat(1001),
        features: [("list".to_owned(), Value::default()), ("Upper".to_owned(), value(Kind::BoolValue(true)))].into(),
        ..plan(
            "x",
            vec![
                rule(|_| {}),
                rule(|rule| rule.amount = Some(-1)),
                rule(|rule| (rule.meter, rule.subject_kind) = ("CALLS".into(), 99)),
                rule(|rule| (rule.window, rule.burst) = (calendar(v1::WindowUnit::Minute), 1)),
                rule(|rule| (rule.enforcement, rule.fallback) = (9, 9)),
                rule(|rule| rule.unlimited = true),
                rule(|rule| (rule.window, rule.burst) = (rolling(v1::WindowUnit::Second), 1_000_000_001)),
                rule(|rule| rule.window = rolling(v1::WindowUnit::Lifetime)),
                rule(|rule| rule.alert_percents = vec![90, 90]),
                rule(|rule| rule.amount = Some(11)),
            ],
        )
    };
    let expected = [
        "plan.description",
        "plan.display_name",
        "plan.features",
        "plan.features.list",
        "plan.key",
        "plan.limits[1].rule.amount",
        "plan.limits[2].rule.meter",
        "plan.limits[2].rule.subject_kind",
        "plan.limits[3].rule.burst",
        "plan.limits[4].rule.enforcement",
        "plan.limits[4].rule.fallback",
        "plan.limits[5].rule.amount",
        "plan.limits[6].rule.burst",
        "plan.limits[7].rule.window.rolling",
        "plan.limits[8].rule.alert_percents[1]",
        // As the first.
        "plan.limits[9].rule",
    ];
    assert_eq!(wrong_fields(create_plan(&operator, wrong).await), expected);
    let windows = [1, 2, 3, 4, 5, 6].map(|unit| (unit, false)).into_iter().chain([1, 2, 3, 4, 5, 6].map(|u| (u, true)));
    let rules = |count: usize| {
        let window = |(unit, rolling)| Some(v1::Window { unit, rolling });
        let of = |kind: i32| {
            windows.clone().map(move |w| v1::LimitRule { window: window(w), subject_kind: kind, ..monthly("calls", 1) })
        };
        let of_calls: Vec<_> = (1..=4).flat_map(of).collect();
        (0..count).map(|number| of_calls[number % of_calls.len()].clone()).collect::<Vec<_>>()
    };
    assert_eq!(wrong_fields(create_plan(&operator, plan("many", rules(201))).await), ["plan.limits"]);
    create_plan(&operator, plan("many", rules(48))).await.unwrap();
    let many = (0..201).map(|number| (format!("f{number}"), value(Kind::BoolValue(true)))).collect();
    let many = v1::Plan { features: many, ..plan("features", vec![]) };
    assert_eq!(wrong_fields(create_plan(&operator, many).await), ["plan.features"]);
    assert_eq!(wrong_fields(update_plan(&operator, plan("many", vec![]), &["key"]).await), ["update_mask"]);
    assert_eq!(wrong_fields(update_plan(&operator, v1::Plan::default(), &[]).await), ["update_mask"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_name_platform_wide_meters_only() {
    let world = World::start().await;
    let (operator, tenant) = (with_meters(&world).await, world.tenant("acme").await);
    let own = create_meter(&tenant.client, "own", v1::MeterAggregation::Sum).await;
    for meter in ["own", "nothing"] {
        let refusal = refused(create_plan(&operator, plan("gold", vec![monthly(meter, 1)])).await);
        assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "{meter}: {refusal:?}");
        let refusal = refused(update_plan(&operator, plan("free", vec![monthly(meter, 1)]), &["limits"]).await);
        assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "{meter}: {refusal:?}");
    }
    let by_id = create_plan(&operator, plan("gold", vec![monthly(&own.meter_id, 1)])).await;
    assert_eq!(wrong_fields(by_id), ["plan.limits[0].rule.meter"], "a key, not an id");

    // Another replica has read all meters; one that was created since is found all the same.
    let elsewhere = World::on(world.database.clone(), &[]).await;
    create_plan(&elsewhere.operator(), plan("gold", vec![monthly("calls", 1)])).await.unwrap();
    create_meter(&operator, "late", v1::MeterAggregation::Sum).await;
    create_plan(&elsewhere.operator(), plan("late", vec![monthly("late", 1)])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_makes_a_version() {
    let world = World::start().await;
    let operator = with_meters(&world).await;
    let feature = |value: f64| [("seats".to_owned(), Value { kind: Some(Kind::NumberValue(value)) })].into();
    let first = v1::Plan { features: feature(1e18), ..plan("gold", vec![monthly("calls", 10), full("tokens")]) };
    let first = create_plan(&operator, first).await.unwrap();

    let renamed = v1::Plan { display_name: "Gold".into(), ..first.clone() };
    let renamed = update_plan(&operator, renamed, &["display_name"]).await.unwrap();
    assert_eq!((renamed.version, renamed.display_name.as_str()), (1, "Gold"));
    assert_ne!(renamed.etag, first.etag);
    let same = update_plan(&operator, v1::Plan { etag: String::new(), ..renamed.clone() }, &["*"]).await.unwrap();
    assert_eq!((same.version, &same.limits), (1, &first.limits), "nothing changed");
    let turned = plan("gold", vec![full("tokens"), monthly("calls", 10)]);
    let turned = update_plan(&operator, turned, &["limits"]).await.unwrap();
    assert_eq!((turned.version, &turned.limits), (1, &first.limits), "an order is no change");

    let window = calendar(v1::WindowUnit::Day);
    let rules = vec![v1::LimitRule { window, ..monthly("calls", 10) }, monthly("calls", 20), full("tokens")];
    let second = update_plan(&operator, plan("gold", rules), &["limits"]).await.unwrap();
    assert_eq!((second.version, second.limits.len(), second.features.clone()), (2, 3, first.features.clone()));
    assert_eq!(second.limits[1].limit_id, first.limits[0].limit_id, "the same meter, subject kind and window");
    assert_eq!(second.limits[2], first.limits[1]);
    assert!(first.limits.iter().all(|known| known.limit_id != second.limits[0].limit_id));
    // Without a mask: what is set.
    let third = v1::Plan { key: "gold".into(), features: feature(2.0), ..v1::Plan::default() };
    let third = update_plan(&operator, third, &[]).await.unwrap();
    assert_eq!((third.version, &third.limits, third.display_name.as_str()), (3, &second.limits, "Gold"));

    for (version, known) in [(1, &first), (2, &second), (3, &third), (0, &third)] {
        let then = get_plan(&operator, "gold", version).await.unwrap();
        let expected = v1::Plan {
            limits: known.limits.clone(),
            features: known.features.clone(),
            version: known.version,
            ..third.clone()
        };
        assert_eq!(then, expected, "{version}");
    }
    let empty = update_plan(&operator, plan("gold", vec![]), &["limits", "features"]).await.unwrap();
    assert!(empty.limits.is_empty() && empty.features.is_empty() && empty.version == 4);
    let refusal = refused(update_plan(&operator, v1::Plan { etag: first.etag, ..third }, &["description"]).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    let refusal = refused(update_plan(&operator, plan("nothing", vec![]), &["limits"]).await);
    assert!(refusal.is(Code::NotFound, "PLAN_NOT_FOUND"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_happen_one_after_another() {
    let world = World::start().await;
    let operator = with_meters(&world).await;
    create_plan(&operator, plan("gold", vec![])).await.unwrap();
    let changes =
        (1..=8).map(|amount| update_plan(&operator, plan("gold", vec![monthly("calls", amount)]), &["limits"]));
    let mut versions: Vec<_> =
        futures_util::future::join_all(changes).await.into_iter().map(|saved| saved.unwrap().version).collect();
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5, 6, 7, 8, 9]);
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.plan_versions WHERE key = 'gold'")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(kept, 9);
}

async fn list(client: &Client, request: &v1::ListPlansRequest) -> Result<v1::ListPlansResponse, Status> {
    Ok(client.plans().list_plans(request.clone()).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_newest_first_and_without_the_archived() {
    let world = World::start().await;
    let operator = with_meters(&world).await;
    let mut created = Vec::new();
    for number in 0..5 {
        created
            .insert(0, create_plan(&operator, plan(&format!("p{number}"), vec![monthly("calls", 1)])).await.unwrap());
    }
    let archived = archive_plan(&operator, "p2", &created[2].etag).await.unwrap();
    assert!(archived.archive_time.is_some() && archived.version == 1 && archived.etag != created[2].etag);
    assert_eq!(archive_plan(&operator, "p2", "").await.unwrap(), archived, "twice changes nothing");
    assert!(refused(archive_plan(&operator, "p2", &created[2].etag).await).is(Code::Aborted, "ETAG_MISMATCH"));
    assert!(refused(archive_plan(&operator, "p9", "").await).is(Code::NotFound, "PLAN_NOT_FOUND"));
    assert_eq!(get_plan(&operator, "p2", 0).await.unwrap(), archived);
    assert!(refused(create_plan(&operator, plan("p2", vec![])).await).is(Code::AlreadyExists, "PLAN_KEY_TAKEN"));

    for show_archived in [true, false] {
        let mut request = v1::ListPlansRequest { page_size: 2, show_archived, ..Default::default() };
        let mut seen = Vec::new();
        loop {
            let page = list(&operator, &request).await.unwrap();
            assert!(page.plans.len() <= 2);
            seen.extend(page.plans);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        // Those that are there from the start are of one moment, and in an order of their own.
        let mut first: Vec<_> = seen.split_off(seen.len() - 4).into_iter().map(|plan| plan.key).collect();
        first.sort();
        assert_eq!(first, ["enterprise", "free", "pro", "starter"]);
        let mut expected = created.clone();
        expected[2] = archived.clone();
        expected.retain(|plan| show_archived || plan.archive_time.is_none());
        assert_eq!(seen, expected);
        let wrong = v1::ListPlansRequest { show_archived: !show_archived, ..request };
        assert_eq!(wrong_fields(list(&operator, &wrong).await), ["page_token"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_one_request_and_all_is_audited() {
    let world = World::start().await;
    let operator = with_meters(&world).await;
    let request = v1::CreatePlanRequest {
        plan: Some(plan("gold", vec![monthly("calls", 5)])),
        request_id: "018f6d2e-0000-7000-8000-000000000001".into(),
    };
    let again = (0..6).map(|_| {
        let (mut plans, request) = (operator.plans(), request.clone());
        async move { plans.create_plan(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = futures_util::future::join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    let other = v1::CreatePlanRequest { plan: Some(plan("gold", vec![])), ..request };
    let refusal = refused(operator.plans().create_plan(other).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    update_plan(&operator, plan("gold", vec![monthly("calls", 6)]), &["limits"]).await.unwrap();
    archive_plan(&operator, "gold", "").await.unwrap();
    archive_plan(&operator, "gold", "").await.unwrap();

    let audited: Vec<(String, Option<i64>, Option<i64>)> = sqlx::query_as(
        "SELECT action, (before #>> '{limits,0,rule,terms,amount}')::bigint, (after #>> '{limits,0,rule,terms,amount}')::bigint
         FROM tenancy.platform_audit_events WHERE resource_type = 'plan' AND resource_id = 'gold'
         ORDER BY audit_event_id",
    )
    .fetch_all(&world.database.superuser)
    .await
    .unwrap();
    let expected =
        [("plans.create", None, Some(5)), ("plans.update", Some(5), Some(6)), ("plans.archive", Some(6), Some(6))];
    let audited: Vec<_> = audited.iter().map(|(action, before, after)| (action.as_str(), *before, *after)).collect();
    assert_eq!(audited, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_a_list_reads_plans_and_changes_none() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let bound = world.service(Permission::ALL, &[&tenant.id]).await;
    get_plan(&bound, "free", 0).await.unwrap();
    assert_eq!(list(&bound, &v1::ListPlansRequest::default()).await.unwrap().plans.len(), 4);
    for refusal in [
        refused(create_plan(&bound, plan("gold", vec![])).await),
        refused(update_plan(&bound, plan("free", vec![]), &["display_name"]).await),
        refused(archive_plan(&bound, "free", "").await),
    ] {
        assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
    }
    let free = world.service(&[Permission::PlansCreate], &[]).await;
    create_plan(&free, plan("gold", vec![])).await.unwrap();
}
