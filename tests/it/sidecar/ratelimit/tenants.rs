//! Descriptors that the limits of tenants decide, and who is a tenant.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use super::support::{
    EDGE, admitted, ask, daily, descriptor, domain, exhaust, giving_back, of_tenant, one, sidecar, taking, with_rules,
};
use crate::harness::{World, admin, eventually, refused};
use crate::quota::asks::{limit, limited, monthly, monthly_of_key, used};
use crate::usage::support::create_meter;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_and_a_meter_need_no_rules() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(10), monthly_of_key(3)]).await;
    let sidecar = sidecar(&world).await;
    let by_slug = [("tenant", tenant.slug.as_str()), ("meter", "calls")];
    let (is_admitted, status) = one(&sidecar, descriptor(&by_slug)).await;
    let limit = status.current_limit.unwrap();
    assert!(is_admitted);
    assert_eq!((limit.name.as_str(), limit.requests_per_unit, status.limit_remaining), ("calls", 10, 9));
    let until = status.duration_until_reset.unwrap().seconds;
    assert!((1..=31 * 86_400).contains(&until), "{until}");
    // By id, for one of its keys: both limits, the tighter one is told.
    let of_key = [("meter", "calls"), ("tenant", tenant.id.as_str()), ("api_key", tenant.key_id.as_str())];
    let (is_admitted, status) = one(&sidecar, taking(&of_key, 2)).await;
    assert!(is_admitted && status.limit_remaining == 1, "{status:?}");
    assert!(!one(&sidecar, taking(&of_key, 2)).await.0);
    // What is no id is nobody in particular.
    let of_nobody = [("tenant", tenant.id.as_str()), ("meter", "calls"), ("api_key", "anonymous")];
    let (is_admitted, status) = one(&sidecar, descriptor(&of_nobody)).await;
    assert!(is_admitted && status.limit_remaining == 6, "{status:?}");
    assert!(one(&sidecar, giving_back(&by_slug, 4)).await.0);
    eventually("it is given back", || async { one(&sidecar, taking(&by_slug, 10)).await.0 }).await;
    assert!(!one(&sidecar, descriptor(&by_slug)).await.0, "the same limits whoever asks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_can_name_the_meter_and_who_is_the_tenant() {
    let rules = vec![
        v1::RateLimitRule { rules: vec![of_tenant("org", "calls", "org")], ..daily("path", "/api", 1000) },
        of_tenant("tenant", "calls", ""),
    ];
    let (world, sidecar) = with_rules(rules).await;
    let tenant = limited(&world, [monthly(3)]).await;
    assert!(one(&sidecar, descriptor(&[("path", "/api"), ("org", &tenant.slug)])).await.0);
    assert!(one(&sidecar, descriptor(&[("tenant", &tenant.id)])).await.0);
    let (is_admitted, status) = one(&sidecar, descriptor(&[("path", "/api"), ("org", &tenant.id)])).await;
    assert!(is_admitted && status.limit_remaining == 0, "{status:?}");
    assert!(!one(&sidecar, descriptor(&[("tenant", &tenant.slug)])).await.0);
    assert!(!one(&sidecar, descriptor(&[("path", "/api"), ("org", "anonymous")])).await.0, "nobody's name");
}

/// `default_value` of Envoy's metadata action puts a name there for those who are none: they must not come in by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_tenant_is_over_the_limit_unless_a_rule_says_otherwise() {
    let world = World::start().await;
    let tenant = limited(&world, [monthly(100)]).await;
    let sidecar = sidecar(&world).await;
    let nobody = "018f0000-0000-7000-8000-000000000009";
    for name in ["anonymous", nobody, "", "Not a slug!", "\0"] {
        let reply = ask(&sidecar, vec![descriptor(&[("tenant", name), ("meter", "calls")])]).await.unwrap();
        assert!(!admitted(&reply) && reply.statuses[0].current_limit.is_none(), "{name:?}: {reply:?}");
        assert!(String::from_utf8_lossy(&reply.raw_body).contains("ORGANIZATION_NOT_FOUND"), "{reply:?}");
    }
    let known = [("tenant", tenant.slug.as_str()), ("meter", "calls")];
    assert!(one(&sidecar, descriptor(&known)).await.0);

    // Rules are asked first.
    let anonymous = v1::RateLimitRule { rules: vec![daily("meter", "calls", 2)], ..daily("tenant", "anonymous", 9) };
    super::support::create(&world.operator(), domain(EDGE, vec![anonymous])).await.unwrap();
    assert_eq!(exhaust(&sidecar, &[("tenant", "anonymous"), ("meter", "calls")]).await, 2);
    assert!(!one(&sidecar, descriptor(&[("tenant", nobody), ("meter", "calls")])).await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_made_or_renamed_is_known_by_its_slug_at_once() {
    let world = World::start().await;
    let sidecar = sidecar(&world).await;
    let of = |slug: &str| descriptor(&[("tenant", slug), ("meter", "calls")]);
    assert!(!one(&sidecar, of("acme")).await.0);
    let tenant = limited(&world, [monthly(100)]).await;
    assert!(one(&sidecar, of("acme")).await.0);
    let organization = v1::Organization {
        organization_id: tenant.id.clone(),
        slug: "roadrunner".into(),
        ..v1::Organization::default()
    };
    let request = v1::UpdateOrganizationRequest {
        organization: Some(organization),
        update_mask: Some(prost_types::FieldMask { paths: vec!["slug".into()] }),
        ..Default::default()
    };
    assert!(!one(&sidecar, of("roadrunner")).await.0);
    world.operator().organizations().update_organization(request).await.unwrap();
    assert!(one(&sidecar, of("roadrunner")).await.0);
    assert!(!one(&sidecar, of("acme")).await.0);
    let other = world.tenant("acme").await;
    create_meter(&other.client, "calls", v1::MeterAggregation::Sum).await;
    limit(&world, &other, monthly(7)).await;
    let (is_admitted, status) = one(&sidecar, of("acme")).await;
    assert!(is_admitted && status.limit_remaining == 6, "the other one: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_closed_is_over_the_limit() {
    let (world, sidecar) = with_rules(vec![daily("tenant", "", 1000)]).await;
    let tenant = limited(&world, [monthly(100)]).await;
    let asks = [
        vec![descriptor(&[("tenant", &tenant.id), ("meter", "calls")])],
        vec![descriptor(&[("tenant", &tenant.slug)])],
    ];
    let organization_id = tenant.id.clone();
    let suspend = v1::SuspendOrganizationRequest { organization_id, ..Default::default() };
    world.operator().organizations().suspend_organization(suspend).await.unwrap();
    for ask_for in &asks {
        let reply = ask(&sidecar, ask_for.clone()).await.unwrap();
        assert!(!admitted(&reply) && String::from_utf8_lossy(&reply.raw_body).contains("ORGANIZATION_SUSPENDED"));
    }
    let resume = v1::ResumeOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().resume_organization(resume).await.unwrap();
    for ask_for in &asks {
        assert!(admitted(&ask(&sidecar, ask_for.clone()).await.unwrap()));
    }
    let delete = v1::DeleteOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().delete_organization(delete).await.unwrap();
    for ask_for in &asks {
        let reply = ask(&sidecar, ask_for.clone()).await.unwrap();
        assert!(!admitted(&reply) && String::from_utf8_lossy(&reply.raw_body).contains("ORGANIZATION_DELETED"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_bound_to_organizations_sees_only_those() {
    let (world, free) = with_rules(vec![daily("tenant", "", 5)]).await;
    let (mine, other) = (limited(&world, [monthly(100)]).await, world.tenant("other").await);
    create_meter(&other.client, "calls", v1::MeterAggregation::Sum).await;
    limit(&world, &other, monthly(100)).await;
    let bound = world.service(&[Permission::Sidecar], &[&mine.id]).await;
    for name in [&mine.id, &mine.slug] {
        assert!(one(&bound, descriptor(&[("tenant", name), ("meter", "calls")])).await.0);
    }
    for name in [&other.id, &other.slug] {
        let entries = [("tenant", name.as_str()), ("meter", "calls")];
        let reply = ask(&bound, vec![descriptor(&entries)]).await.unwrap();
        assert!(!admitted(&reply) && reply.statuses[0].current_limit.is_none(), "{reply:?}");
        assert!(String::from_utf8_lossy(&reply.raw_body).contains("ORGANIZATION_NOT_FOUND"), "no hint that it exists");
        // Nor does it count for the other by a rule, or give back what that one used.
        assert_eq!(exhaust(&bound, &[("tenant", name)]).await, 5);
        assert!(!one(&bound, giving_back(&entries, 1)).await.0);
    }
    assert_eq!(exhaust(&free, &[("tenant", &other.slug)]).await, 5);
    assert_eq!(used(&other.client).await, 0);
}

/// Envoy lets a request through on OK with UNKNOWN, and does what its configuration says on an error of the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_an_error_of_the_call_and_never_unknown() {
    let world = World::start_with(&["--cache-lifetime", "1h"]).await;
    super::support::create(&world.operator(), domain(EDGE, vec![daily("a", "", 100)])).await.unwrap();
    let tenant = limited(&world, [monthly(100)]).await;
    let sidecar = sidecar(&world).await;
    let direct = [("tenant", tenant.slug.as_str()), ("meter", "calls")];
    let no_meter = descriptor(&[("tenant", &tenant.slug), ("meter", "nothing")]);
    let refusal = refused(ask(&sidecar, vec![descriptor(&direct), no_meter]).await);
    assert!(refusal.is(Code::NotFound, "METER_NOT_FOUND"), "{refusal:?}");
    eventually("nothing was taken", || async { used(&tenant.client).await == 0 }).await;
    assert!(one(&sidecar, descriptor(&direct)).await.0);
    assert!(one(&sidecar, descriptor(&[("a", "x")])).await.0);

    world.database.cut().await;
    let port = world.running.admin;
    eventually("the database is away", || async { admin(port, "/readyz").await.0 == 503 }).await;
    // What was granted before can be used.
    assert!(one(&sidecar, descriptor(&direct)).await.0);
    let calls = |entries: &[(&str, &str)]| vec![taking(entries, 90)];
    for request in [calls(&direct), calls(&[("a", "x")]), vec![descriptor(&[("a", "another")])]] {
        let refusal = refused(ask(&sidecar, request.clone()).await);
        assert!(refusal.is(Code::Unavailable, "LEDGER_UNAVAILABLE") && refusal.retry, "{request:?}: {refusal:?}");
    }
    let stranger = vec![descriptor(&[("tenant", "stranger"), ("meter", "calls")])];
    let refusal = refused(ask(&sidecar, stranger).await);
    assert!(refusal.is(Code::Unavailable, "DATABASE_UNAVAILABLE"), "{refusal:?}");
    // Nothing was taken of the first when the second failed.
    let before = one(&sidecar, taking(&direct, 0)).await.1.limit_remaining;
    let both = vec![descriptor(&direct), descriptor(&[("a", "another")])];
    let refusal = refused(ask(&sidecar, both).await);
    assert!(refusal.is(Code::Unavailable, "LEDGER_UNAVAILABLE"), "{refusal:?}");
    assert_eq!(one(&sidecar, taking(&direct, 0)).await.1.limit_remaining, before);

    world.database.restore().await;
    eventually("it goes on", || async { ask(&sidecar, vec![descriptor(&[("a", "another")])]).await.is_ok() }).await;
}
