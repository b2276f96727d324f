//! What the quota engine reads of one organization, and what it is told of changes.

use std::sync::{Arc, Mutex};

use tenancy::auth::principal::Permitted;
use tenancy::model::limit::{Maker, SubjectKind, Window};
use tenancy::model::plan::PolicyRows;
use tenancy::proto::v1;
use tenancy::repository::changes::Change;
use tenancy::repository::database::Database;
use tenancy::repository::limit;

use super::support::{create_limit, limit as limit_of, monthly, plan, update_plan};
use crate::harness::{World, options};
use crate::usage::support::create_meter;

async fn policy(database: &Database, organization_id: &str) -> PolicyRows {
    let permitted = Permitted::system(organization_id.parse().unwrap(), "test");
    let mut scope = database.tenant(&permitted).await.unwrap();
    limit::policy(&mut scope).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_in_force_is_read_at_once() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let meter = create_meter(&world.operator(), "calls", v1::MeterAggregation::Sum).await;
    let database = &world.running.database;
    let before = policy(database, &tenant.id).await;
    assert_eq!((before.plan.as_str(), before.plan_version, before.billing_anchor_day), ("free", 1, 1));
    assert_eq!((before.plan_limits.len(), before.limits.len(), before.time_zone), (0, 0, chrono_tz::UTC));

    let free = update_plan(&world.operator(), plan("free", vec![monthly("calls", 10)]), &["limits"]).await.unwrap();
    let own = create_limit(&tenant.client, limit_of("", monthly("calls", 5))).await.unwrap();
    create_limit(&world.operator(), limit_of("acme", monthly("calls", 20))).await.unwrap();
    create_limit(&other.client, limit_of("", monthly("calls", 1))).await.unwrap();
    let changed =
        v1::Organization { time_zone: "Asia/Kathmandu".into(), billing_anchor_day: 31, ..v1::Organization::default() };
    let request = v1::UpdateOrganizationRequest {
        organization: Some(changed),
        update_mask: super::support::mask(&["time_zone", "billing_anchor_day"]),
        ..Default::default()
    };
    tenant.client.organizations().update_organization(request).await.unwrap();

    let after = policy(database, &tenant.id).await;
    assert_eq!((after.plan_version, after.billing_anchor_day), (2, 31));
    assert_eq!(after.time_zone, chrono_tz::Asia::Kathmandu);
    assert!(after.as_of > before.as_of);
    assert_eq!(after.plan_limits[0].limit_id.to_string(), free.limits[0].limit_id);
    let rule = &after.plan_limits[0].rule;
    assert_eq!((rule.meter_id.to_string(), rule.terms.amount), (meter.meter_id, Some(10)));
    assert_eq!((rule.subject_kind, rule.window.as_str()), (SubjectKind::Organization, "calendar_month"));
    assert!(matches!(rule.window, Window::Calendar(_)));
    let mut limits: Vec<_> = after.limits.iter().map(|limit| (limit.maker, limit.rule.terms.amount)).collect();
    limits.sort_by_key(|(_, amount)| *amount);
    assert_eq!(limits, [(Maker::Organization, Some(5)), (Maker::Platform, Some(20))]);
    assert!(after.limits.iter().any(|limit| limit.limit_id.to_string() == own.limit_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_announced() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    create_meter(&world.operator(), "calls", v1::MeterAggregation::Sum).await;
    let announced = async || -> Vec<String> {
        let drain = "WITH drained AS (DELETE FROM tenancy.changes RETURNING change_id, subject)
             SELECT subject FROM drained ORDER BY change_id";
        sqlx::query_scalar(drain).fetch_all(&world.database.superuser).await.unwrap()
    };
    announced().await;
    super::support::create_plan(&world.operator(), plan("gold", vec![])).await.unwrap();
    update_plan(&world.operator(), plan("gold", vec![monthly("calls", 1)]), &["limits"]).await.unwrap();
    super::support::archive_plan(&world.operator(), "gold", "").await.unwrap();
    assert_eq!(announced().await, ["plans:", "plans:", "plans:"]);

    let created = create_limit(&tenant.client, limit_of("", monthly("calls", 5))).await.unwrap();
    let changed = v1::Limit { limit_id: created.limit_id.clone(), ..limit_of("", monthly("calls", 6)) };
    super::support::update_limit(&tenant.client, changed, &[]).await.unwrap();
    let request = v1::DeleteLimitRequest { limit_id: created.limit_id, ..Default::default() };
    tenant.client.limits().delete_limit(request).await.unwrap();
    let of_limits = Change::Limits(tenant.id.parse().unwrap());
    let text = of_limits.to_string();
    assert_eq!(announced().await, [text.clone(), text.clone(), text.clone()]);
    for change in [of_limits, Change::Plans] {
        assert_eq!(change.to_string().parse::<Change>().unwrap(), change);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_is_loaded_once() {
    let world = World::start().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    // A database of its own, as a command has.
    let database = Database::new(options(&world.database), world.clock.clone());
    let notes = Arc::clone(&told);
    database.tell(move |change| notes.lock().unwrap().push(change.clone()));
    tenancy::demo::load(&database, &world.clock).await.unwrap();
    let plans_told = || told.lock().unwrap().iter().filter(|change| **change == Change::Plans).count();
    assert_eq!(plans_told(), 4);
    let plans = async || {
        let request = v1::ListPlansRequest::default();
        world.operator().plans().list_plans(request).await.unwrap().into_inner().plans
    };
    let first = plans().await;
    assert!(first.iter().all(|plan| plan.version == 2 && plan.limits.len() == 4 && plan.features.len() == 2));
    let amount = |key: &str, position: usize| {
        let plan = first.iter().find(|plan| plan.key == key).unwrap();
        let rule = plan.limits[position].rule.clone().unwrap();
        (rule.meter, rule.amount)
    };
    assert_eq!(amount("free", 0), ("quizzes".into(), Some(10)));
    assert_eq!(amount("enterprise", 0), ("quizzes".into(), None));
    assert_eq!(amount("enterprise", 3), ("api.requests".into(), Some(6_000)));
    tenancy::demo::load(&database, &world.clock).await.unwrap();
    assert_eq!(plans().await, first, "nothing changed");
    assert_eq!(plans_told(), 4);
    database.close().await;
}
