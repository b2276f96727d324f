//! `RateLimitDomainService`: the rules as a resource.

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use super::support::{EDGE, create, daily, domain, get, of_tenant, rule, unlimited, update};
use crate::harness::{World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_lives() {
    let world = World::start().await;
    let operator = world.operator();
    let rules = vec![
        v1::RateLimitRule {
            name: "pages".into(),
            shadow_mode: true,
            replaces: vec!["all".into()],
            rules: vec![of_tenant("tenant", "calls", "org"), unlimited("method", "GET")],
            ..daily("path", "/v1/*", 5)
        },
        rule("path", ""),
    ];
    let created = create(&operator, domain(EDGE, rules.clone())).await.unwrap();
    assert_eq!((created.rules.clone(), created.rule_count, created.domain.as_str()), (rules, 4, EDGE));
    assert_eq!(get(&operator, EDGE).await.unwrap(), created);
    let refusal = refused(create(&operator, domain(EDGE, vec![])).await);
    assert!(refusal.is(Code::AlreadyExists, "RATE_LIMIT_DOMAIN_TAKEN"), "{refusal:?}");

    let changed = update(&operator, domain(EDGE, vec![daily("a", "", 1)])).await.unwrap();
    assert_eq!((changed.rule_count, changed.create_time), (1, created.create_time));
    assert_ne!(changed.etag, created.etag);
    let stale = v1::RateLimitDomain { etag: created.etag.clone(), ..domain(EDGE, vec![]) };
    let refusal = refused(update(&operator, stale).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    let current = v1::RateLimitDomain { etag: changed.etag, ..domain(EDGE, vec![]) };
    assert_eq!(update(&operator, current).await.unwrap().rule_count, 0);

    let delete = |etag: &str| v1::DeleteRateLimitDomainRequest { domain: EDGE.into(), etag: etag.into() };
    let refusal = refused(operator.rate_limit_domains().delete_rate_limit_domain(delete(&created.etag)).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    operator.rate_limit_domains().delete_rate_limit_domain(delete("")).await.unwrap();
    for refusal in [
        refused(get(&operator, EDGE).await),
        refused(update(&operator, domain(EDGE, vec![])).await),
        refused(operator.rate_limit_domains().delete_rate_limit_domain(delete("")).await),
        refused(get(&operator, "\0").await),
    ] {
        assert!(refusal.is(Code::NotFound, "RATE_LIMIT_DOMAIN_NOT_FOUND"), "{refusal:?}");
    }

    let request =
        v1::ListAuditEventsRequest { filter: "resource_type = \"rate_limit_domain\"".into(), ..Default::default() };
    let audit = operator.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let actions: Vec<_> = audit.iter().map(|event| event.action.as_str()).collect();
    let [delete, update, create] = ["delete", "update", "create"].map(|verb| format!("rate_limit_domains.{verb}"));
    assert_eq!(actions, [&*delete, &*update, &*update, &*create]);
    assert!(audit.iter().all(|event| event.resource_id == EDGE));
    assert!(audit[0].before.is_some() && audit[0].after.is_none() && audit[2].before.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_validated_changes_nothing() {
    let world = World::start().await;
    let operator = world.operator();
    let request = v1::CreateRateLimitDomainRequest {
        rate_limit_domain: Some(domain(EDGE, vec![daily("a", "", 1)])),
        validate_only: true,
        ..Default::default()
    };
    operator.rate_limit_domains().create_rate_limit_domain(request.clone()).await.unwrap();
    assert!(get(&operator, EDGE).await.is_err());
    let created = create(&operator, domain(EDGE, vec![daily("a", "", 1)])).await.unwrap();
    assert!(operator.rate_limit_domains().create_rate_limit_domain(request).await.is_err(), "it would be taken");
    let request = v1::UpdateRateLimitDomainRequest {
        rate_limit_domain: Some(domain(EDGE, vec![])),
        validate_only: true,
        ..Default::default()
    };
    operator.rate_limit_domains().update_rate_limit_domain(request).await.unwrap();
    assert_eq!(get(&operator, EDGE).await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_are_listed_page_by_page_without_their_rules() {
    let world = World::start().await;
    let operator = world.operator();
    for number in 0..5 {
        let nested = v1::RateLimitRule { rules: vec![daily("key", "key", 1), rule("b", "")], ..rule("a", "") };
        create(&operator, domain(&format!("d{number}"), vec![nested, rule("rules", "")])).await.unwrap();
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListRateLimitDomainsRequest { page_size: 2, page_token };
        let page = operator.rate_limit_domains().list_rate_limit_domains(request).await.unwrap().into_inner();
        assert!(page.rate_limit_domains.iter().all(|domain| domain.rules.is_empty() && domain.rule_count == 4));
        names.extend(page.rate_limit_domains.into_iter().map(|domain| domain.domain));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["d4", "d3", "d2", "d1", "d0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_rules_are_told_by_their_paths_and_large_domains_are_taken() {
    let world = World::start().await;
    let operator = world.operator();
    let wrong = vec![v1::RateLimitRule { rules: vec![daily("", "", 1)], ..daily("a", "", 1) }, daily("a", "", 2)];
    let refusal = refused(create(&operator, domain("", wrong)).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    let expected =
        ["rate_limit_domain.domain", "rate_limit_domain.rules[0].rules[0].key", "rate_limit_domain.rules[1]"];
    assert_eq!(refusal.fields, expected);
    let many = |count: u32| (0..count).map(|number| daily("path", &format!("/v1/resource/{number}"), number)).collect();
    assert_eq!(create(&operator, domain("large", many(10_000))).await.unwrap().rule_count, 10_000);
    let refusal = refused(create(&operator, domain("larger", many(10_001))).await);
    assert_eq!(refusal.fields, ["rate_limit_domain.rules"]);
    let path = Some(prost_types::FieldMask { paths: vec!["domain".into()] });
    let request = v1::UpdateRateLimitDomainRequest {
        rate_limit_domain: Some(domain("large", vec![])),
        update_mask: path,
        ..Default::default()
    };
    let refusal = refused(operator.rate_limit_domains().update_rate_limit_domain(request).await);
    assert_eq!(refusal.fields, ["update_mask"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_are_the_whole_platforms() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let bound = world.service(Permission::ALL, &[&tenant.id]).await;
    let refusals = [
        refused(create(&bound, domain(EDGE, vec![])).await),
        refused(get(&bound, EDGE).await),
        refused(update(&bound, domain(EDGE, vec![])).await),
    ];
    for refusal in refusals {
        assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
    }
    let reader = world.service(&[Permission::RateLimitsRead], &[]).await;
    create(&world.operator(), domain(EDGE, vec![])).await.unwrap();
    assert!(get(&reader, EDGE).await.is_ok());
    let refusal = refused(update(&reader, domain(EDGE, vec![])).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
}
