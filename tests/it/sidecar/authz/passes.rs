//! What becomes of a request that passes.

use std::collections::BTreeMap;

use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::keys::{create, get, secret_key, settled, update};
use crate::harness::{World, eventually, refused};
use crate::sidecar::support::{sidecar, waiting, with_key};

const CREDENTIALS: [&str; 3] = ["authorization", "x-acting-user", "x-api-key"];

fn sorted(names: impl IntoIterator<Item = &'static str>) -> Vec<&'static str> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_is_told_whose_a_request_is() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let (key, secret) = create(&tenant.client, secret_key(&["usage.write", "usage.read"])).await.unwrap();
    let expected: BTreeMap<String, String> = [
        ("x-tenant-id", tenant.id.as_str()),
        ("x-tenant-slug", "acme"),
        ("x-tenant-plan", "free"),
        ("x-api-key-id", &key.api_key_id),
        ("x-tenant-permissions", "usage.write usage.read"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut identities = Vec::new();
    for request in [
        with_key(&secret),
        waiting().header("authorization", &format!("Bearer {secret}")),
        with_key(&secret).raw(),
        waiting().raw().raw_header("Authorization", format!("bearer {secret}").as_bytes()),
    ] {
        let passed = request.passes(&envoy).await;
        assert_eq!(passed.set, expected);
        assert_eq!(passed.removed, sorted(CREDENTIALS.into_iter().chain(["x-tenant-role", "x-user-id"])));
        assert!(passed.shown.is_empty(), "no limit applied: {passed:?}");
        for (name, value) in [
            ("tenant", Some(tenant.id.as_str())),
            ("tenant_slug", Some("acme")),
            ("plan", Some("free")),
            ("permissions", Some("usage.write usage.read")),
            ("api_key", Some(key.api_key_id.as_str())),
            ("anonymous", None),
            ("meter", None),
            ("settle", None),
            ("record", None),
        ] {
            assert_eq!(passed.metadata(name), value, "{name}");
        }
        let admission = passed.admission(&world).await;
        assert_eq!(admission.organization_id().to_string(), tenant.id);
        assert!(admission.reservation.charges.is_empty() && admission.reservation.amount == 0);
        identities.push(admission.reservation.id);
        let text = format!("{passed:?}");
        assert!(!text.contains(&secret) && !text.contains(&secret[10..]), "no secret goes on: {text}");
    }
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), 4, "the client's x-request-id was the same four times, and is no identity");

    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    assert!(get(&tenant.client, &key.api_key_id).await.unwrap().last_used_time.is_some());
}

/// What is said of a key is kept from one request to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_application_is_told_follows_the_organization_and_the_key() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let (key, secret) = create(&tenant.client, secret_key(&["usage.write"])).await.unwrap();
    let told = async |slug: &str, plan: &str, permissions: &str| {
        let passed = with_key(&secret).passes(&envoy).await;
        let set = ["x-tenant-slug", "x-tenant-plan", "x-tenant-permissions"].map(|name| passed.set[name].as_str());
        assert_eq!(set, [slug, plan, permissions]);
        let metadata = ["tenant_slug", "plan", "permissions"].map(|name| passed.metadata(name).unwrap());
        assert_eq!(metadata, [slug, plan, permissions]);
    };
    told("acme", "free", "usage.write").await;
    told("acme", "free", "usage.write").await;

    let organization = v1::Organization {
        organization_id: tenant.id.clone(),
        slug: "acme-2".into(),
        plan: "pro".into(),
        ..v1::Organization::default()
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["slug".into(), "plan".into()] });
    let request = v1::UpdateOrganizationRequest { organization: Some(organization), update_mask, ..Default::default() };
    world.operator().organizations().update_organization(request).await.unwrap();
    told("acme-2", "pro", "usage.write").await;

    let scopes = vec!["usage.read".into()];
    update(&tenant.client, v1::ApiKey { api_key_id: key.api_key_id, scopes, ..v1::ApiKey::default() }, &["scopes"])
        .await
        .unwrap();
    told("acme-2", "pro", "usage.read").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_can_send_x_tenant_id_itself_and_it_is_overwritten_or_removed() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let spoofed = [
        "x-tenant-id",
        "x-tenant-slug",
        "x-tenant-plan",
        "x-tenant-role",
        "x-tenant-permissions",
        "x-api-key-id",
        "x-user-id",
        "x-acting-user",
    ];
    let spoof = |request| {
        spoofed.iter().fold(request, |request: crate::sidecar::support::Waiting, name| request.header(name, "mine"))
    };
    let passed = spoof(with_key(&tenant.key)).passes(&envoy).await;
    for name in spoofed {
        let is_removed = passed.removed.iter().any(|removed| removed == name);
        assert!(is_removed != passed.set.contains_key(name), "{name}: {passed:?}");
        assert_ne!(passed.set.get(name).map(String::as_str), Some("mine"), "{name}");
    }
    let passed = spoof(waiting()).route("optional", "true").passes(&envoy).await;
    assert!(passed.set.is_empty());
    assert_eq!(passed.removed, sorted(spoofed.into_iter().chain(["authorization", "x-api-key"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_route_lets_nobody_in_particular_through_and_a_bad_key_not() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let passed = waiting().route("optional", "true").passes(&envoy).await;
    assert_eq!(passed.metadata("anonymous"), Some("true"));
    assert_eq!(passed.metadata.fields.len(), 1, "so the rate limit filter needs a default_value: {passed:?}");
    assert!(passed.set.is_empty() && passed.shown.is_empty());
    let known = with_key(&tenant.key).route("optional", "true").passes(&envoy).await;
    assert_eq!((known.set["x-tenant-slug"].as_str(), known.metadata("anonymous")), ("acme", None));

    let denied = with_key("garbage").route("optional", "true").denied(&envoy).await;
    assert!(denied.is(401, "API_KEY_MALFORMED"), "{denied:?}");
    let denied = waiting().header("authorization", "Basic eA==").route("optional", "true").denied(&envoy).await;
    assert!(denied.is(401, "CREDENTIALS_MALFORMED"), "{denied:?}");
    for (name, value) in [("permission", "usage.read"), ("feature", "sso"), ("meter", "calls")] {
        let denied = waiting().route("optional", "true").route(name, value).denied(&envoy).await;
        assert!(denied.is(401, "CREDENTIALS_MISSING"), "{name}: {denied:?}");
        assert_eq!(denied.header("www-authenticate"), Some("Bearer realm=\"tenancy\""));
    }
    // A preflight is a request without a credential, and no more.
    let preflight = || {
        let request = waiting().method("OPTIONS").header("origin", "https://a.example");
        request.header("access-control-request-method", "POST")
    };
    assert!(preflight().denied(&envoy).await.is(401, "CREDENTIALS_MISSING"));
    assert_eq!(preflight().route("optional", "true").passes(&envoy).await.metadata("anonymous"), Some("true"));
    assert!(waiting().route("optional", "false").denied(&envoy).await.is(401, "CREDENTIALS_MISSING"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_headers_are_configured_and_only_they_are_taken_off() {
    let world = World::start_with(&["--sidecar-credential-headers", "x-acme-key,X-Other-Key"]).await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let request = waiting().header("authorization", "Basic YTpi").header("x-acme-key", &tenant.key);
    let passed = request.passes(&envoy).await;
    let removed = ["x-acme-key", "x-other-key", "x-acting-user", "x-tenant-role", "x-user-id"];
    assert_eq!(passed.removed, sorted(removed), "authorization is the application's own");
    assert!(with_key(&tenant.key).denied(&envoy).await.is(401, "CREDENTIALS_MISSING"), "another header says nothing");
    let both = waiting().header("x-acme-key", &tenant.key).header("x-other-key", &tenant.key);
    assert!(both.denied(&envoy).await.is(401, "CREDENTIALS_AMBIGUOUS"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_what_is_warm_passes_and_what_is_not_gets_a_body() {
    let world = World::start_with(&["--cache-lifetime", "1h"]).await;
    let tenant = world.tenant("acme").await;
    let envoy = sidecar(&world).await;
    let (_, never_seen) = create(&tenant.client, secret_key(&["usage.write"])).await.unwrap();
    settled(&world, &tenant).await;
    with_key(&tenant.key).passes(&envoy).await;
    world.database.cut().await;
    for _ in 0..20 {
        assert_eq!(with_key(&tenant.key).passes(&envoy).await.set["x-tenant-slug"], "acme");
    }
    // An error of the call would be an empty page, or pass where an Envoy is told so.
    let denied = with_key(&never_seen).denied(&envoy).await;
    assert!(denied.is(503, "DATABASE_UNAVAILABLE"), "{denied:?}");
    assert!(denied.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    // Whose policy is not known is not let through either.
    let denied = with_key(&tenant.key).route("feature", "sso").denied(&envoy).await;
    assert!(denied.is(503, "DATABASE_UNAVAILABLE"), "{denied:?}");
    world.database.restore().await;
    let (envoy, never_seen) = (&envoy, &never_seen);
    eventually("the database is asked again", || async move {
        matches!(with_key(never_seen).ask(envoy).await, crate::sidecar::support::Answer::Passed(_))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_sidecars_ask() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for client in [tenant.client.clone(), world.service(&[Permission::KeysVerify], &[]).await] {
        let refusal = refused(with_key(&tenant.key).try_ask(&client).await);
        assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    }
    let refusal = refused(with_key(&tenant.key).try_ask(&world.anonymous()).await);
    assert!(refusal.is(Code::Unauthenticated, "CREDENTIALS_MISSING"), "{refusal:?}");
    // What an Envoy of some organizations does not see does not exist, whatever is wrong with it.
    let confined = world.service(&[Permission::Sidecar], &["acme"]).await;
    let other = world.tenant("other").await;
    with_key(&tenant.key).passes(&confined).await;
    with_key(&other.key).passes(&sidecar(&world).await).await;
    assert!(with_key(&other.key).denied(&confined).await.is(401, "API_KEY_INVALID"));
    let organization_id = other.id.clone();
    let request = v1::SuspendOrganizationRequest { organization_id, ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    let everybodys = &sidecar(&world).await;
    eventually("it is suspended", || {
        let request = with_key(&other.key);
        async move { matches!(request.ask(everybodys).await, crate::sidecar::support::Answer::Denied(_)) }
    })
    .await;
    assert!(with_key(&other.key).denied(&confined).await.is(401, "API_KEY_INVALID"));
    assert!(with_key(&other.key).denied(everybodys).await.is(403, "ORGANIZATION_SUSPENDED"));
}
