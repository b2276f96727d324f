//! Rules are as exact as limits of tenants: over replicas, whoever asks which.

use tenancy::proto::v1;
use tokio::task::JoinSet;

use super::support::{EDGE, create, domain, exhaust, one, own, sidecar, taking};
use crate::harness::{Client, World};

/// Two replicas, and a sidecar of each.
async fn two(rules: Vec<v1::RateLimitRule>) -> ([World; 2], [Client; 2]) {
    let first = World::start().await;
    create(&first.operator(), domain(EDGE, rules)).await.unwrap();
    let second = World::on(first.database.clone(), &[]).await;
    let sidecars = [sidecar(&first).await, sidecar(&second).await];
    ([first, second], sidecars)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_admit_exactly_what_a_rule_says() {
    let unit = v1::RateLimitUnit::Month;
    let ([world, _replica], sidecars) = two(vec![own("few", "", 7, unit), own("many", "", 500, unit)]).await;
    let tenant = world.tenant("acme").await;
    for (key, amount) in [("few", 7), ("many", 500)] {
        for entries in [vec![(key, "x")], vec![(key, "y")]] {
            let mut callers = JoinSet::new();
            for sidecar in sidecars.iter().cycle().take(8) {
                let (sidecar, entries) = (sidecar.clone(), entries.clone());
                callers.spawn(async move { exhaust(&sidecar, &entries).await });
            }
            let admitted: u32 = callers.join_all().await.into_iter().sum();
            assert_eq!(admitted, amount, "{entries:?}");
        }
    }
    // A tenant's account is the tenant's, and nobody's are nobody's.
    let accounts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT organization_id::text, sum(granted)::bigint FROM tenancy.quota_accounts GROUP BY 1 ORDER BY 1",
    )
    .fetch_all(&world.database.superuser)
    .await
    .unwrap();
    assert_eq!(accounts, [("00000000-0000-0000-0000-000000000000".to_owned(), 1014)]);
    drop(tenant);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_does_not_use_another_one_gets() {
    let (_worlds, sidecars) = two(vec![own("a", "", 100, v1::RateLimitUnit::Day)]).await;
    for sidecar in &sidecars {
        assert!(one(sidecar, taking(&[("a", "x")], 1)).await.0);
    }
    assert!(one(&sidecars[1], taking(&[("a", "x")], 98)).await.0);
    for sidecar in &sidecars {
        assert!(!one(sidecar, taking(&[("a", "x")], 1)).await.0);
    }
}

/// The windows of rules turn in UTC, also where they are counted for a tenant who lives elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_a_rule_is_a_day_in_utc() {
    let rule = v1::RateLimitRule {
        rules: vec![own("path", "", 100, v1::RateLimitUnit::Day)],
        ..super::support::rule("tenant", "")
    };
    let ([world, _replica], sidecars) = two(vec![rule]).await;
    let organization = v1::Organization {
        slug: "apia".into(),
        display_name: "Apia".into(),
        time_zone: "Pacific/Apia".into(),
        ..v1::Organization::default()
    };
    let request = v1::CreateOrganizationRequest { organization: Some(organization), ..Default::default() };
    let created = world.operator().organizations().create_organization(request).await.unwrap().into_inner();
    let organization_id = created.organization.unwrap().organization_id;
    let meter = v1::Meter {
        organization_id: organization_id.clone(),
        key: "calls".into(),
        display_name: "Calls".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        ..v1::Meter::default()
    };
    let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
    world.operator().meters().create_meter(request).await.unwrap();
    let daily = v1::LimitRule {
        window: crate::quota::support::calendar(v1::WindowUnit::Day),
        ..crate::quota::asks::monthly(100)
    };
    crate::quota::support::create_limit(&world.operator(), crate::quota::support::limit(&organization_id, daily))
        .await
        .unwrap();

    let until_midnight = 86_400 - world.clock.now().timestamp() % 86_400;
    for sidecar in &sidecars {
        // One by the tenant's own limit, so that the tenant's calendar is known, and one by the rule.
        let own = one(sidecar, taking(&[("tenant", "apia"), ("meter", "calls")], 1)).await.1;
        let (_, ruled) = one(sidecar, taking(&[("tenant", "apia"), ("path", "/")], 1)).await;
        let (own, ruled) = (own.duration_until_reset.unwrap().seconds, ruled.duration_until_reset.unwrap().seconds);
        assert!((ruled - until_midnight).abs() <= 10, "{ruled} of {until_midnight}");
        assert!((own - ruled).abs() > 3600, "the tenant's own day is another: {own}, {ruled}");
    }
    let owners: Vec<String> = sqlx::query_scalar("SELECT DISTINCT organization_id::text FROM tenancy.quota_accounts")
        .fetch_all(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(owners, [organization_id], "both are counted for the tenant");
}
