//! `ApiKeyService`, over the wire: creating, reading and changing keys.

use prost_types::Timestamp;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::Code;

use crate::harness::keys::{create, get, knock, publishable_key, revoke, rotate, seconds_from_now, secret_key, update};
use crate::harness::{Client, World, refused};

const REQUEST_ID: &str = "018f6d2e-0000-7000-8000-000000000001";

async fn list(client: &Client, request: v1::ListApiKeysRequest) -> Result<v1::ListApiKeysResponse, tonic::Status> {
    Ok(client.api_keys().list_api_keys(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn created_as_asked_and_shown_without_its_secret() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wanted = v1::ApiKey {
        labels: [("team".to_owned(), "core".to_owned())].into(),
        expire_time: Some(seconds_from_now(&world, 3600)),
        ..secret_key(&["organizations.read"])
    };
    let (created, secret) = create(&tenant.client, wanted.clone()).await.unwrap();
    assert_eq!((&created.organization_id, created.status()), (&tenant.id, v1::ApiKeyStatus::Active));
    assert_eq!((&created.labels, &created.scopes), (&wanted.labels, &wanted.scopes));
    assert_eq!(created.expire_time, wanted.expire_time);
    assert!(secret.starts_with("sk_test_"), "of its kind");
    assert_eq!(created.redacted_key, format!("{}…", &secret[..12]));
    assert!(!format!("{created:?}").contains(&secret[12..24]), "the lookup id is not shown either");
    assert_eq!(get(&tenant.client, &created.api_key_id).await.unwrap(), created);
    assert_eq!(knock(&world.client(&secret)).await.unwrap().slug, "acme");

    for (kind, prefix) in [
        (v1::ApiKeyKind::SecretLive, "sk_live_"),
        (v1::ApiKeyKind::PublishableLive, "pk_live_"),
        (v1::ApiKeyKind::PublishableTest, "pk_test_"),
        (v1::ApiKeyKind::PublishableWidget, "pk_widget_"),
    ] {
        let origins = if prefix == "pk_widget_" { &["https://a.example"][..] } else { &[] };
        let (created, secret) = create(
            &tenant.client,
            v1::ApiKey { kind: kind.into(), scopes: vec!["usage.write".into()], ..publishable_key(origins) },
        )
        .await
        .unwrap();
        assert_eq!(created.kind(), kind);
        assert!(secret.starts_with(prefix), "{kind:?}");
    }
    let other = world.tenant("other").await;
    let refusal = refused(get(&other.client, &created.api_key_id).await);
    assert!(refusal.is(Code::NotFound, "API_KEY_NOT_FOUND"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wrong = async |api_key: v1::ApiKey| {
        let mut refusal = refused(create(&tenant.client, api_key).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
        refusal.fields.sort();
        refusal.fields
    };
    let good = || secret_key(&["usage.read"]);
    let everything = v1::ApiKey {
        display_name: " ".into(),
        labels: [("BAD".to_owned(), String::new())].into(),
        scopes: Vec::new(),
        allowed_origins: vec!["https://a.example".into()],
        allowed_ip_ranges: vec!["10.0.0.1/8".into()],
        expire_time: Some(Timestamp { seconds: i64::MAX, nanos: -1 }),
        ..good()
    };
    let expected = ["allowed_ip_ranges[0]", "allowed_origins", "display_name", "expire_time", "labels", "scopes"];
    assert_eq!(wrong(everything).await, expected.map(|field| format!("api_key.{field}")));

    for kind in [0, 6, 99, -1] {
        assert_eq!(wrong(v1::ApiKey { kind, ..good() }).await, ["api_key.kind"], "{kind}");
    }
    for (scopes, field) in [
        (vec![], "api_key.scopes"),
        (vec!["usage.read", "usage.destroy"], "api_key.scopes[1]"),
        (vec!["usage.read", "usage.read"], "api_key.scopes"),
        (vec!["organizations.create"], "api_key.scopes[0]"),
        (vec![""], "api_key.scopes[0]"),
        (vec!["usage.read"; 65], "api_key.scopes"),
    ] {
        assert_eq!(wrong(secret_key(&scopes)).await, [field], "{scopes:?}");
    }
    let publishable = v1::ApiKey { scopes: vec!["usage.write".into(), "usage.read".into()], ..publishable_key(&[]) };
    assert_eq!(wrong(publishable).await, ["api_key.scopes[1]"]);
    let widget = v1::ApiKey { kind: v1::ApiKeyKind::PublishableWidget.into(), ..publishable_key(&[]) };
    assert_eq!(wrong(widget).await, ["api_key.allowed_origins"]);
    assert_eq!(
        wrong(publishable_key(&["https://a.example", "https://A.example"])).await,
        ["api_key.allowed_origins[1]"]
    );
    let past = v1::ApiKey { expire_time: Some(seconds_from_now(&world, 0)), ..good() };
    assert_eq!(wrong(past).await, ["api_key.expire_time"]);
    // Nothing came of any of it: there is the key of the tenant, and no other.
    assert_eq!(list(&tenant.client, v1::ListApiKeysRequest::default()).await.unwrap().api_keys.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_create_shows_no_secret() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let request = v1::CreateApiKeyRequest {
        api_key: Some(v1::ApiKey {
            expire_time: Some(seconds_from_now(&world, 60)),
            ..secret_key(&["organizations.read"])
        }),
        request_id: REQUEST_ID.into(),
    };
    let at_once = (0..6).map(|_| {
        let (mut keys, request) = (tenant.client.api_keys(), request.clone());
        async move { keys.create_api_key(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = futures_util::future::join_all(at_once).await.into_iter().map(Result::unwrap).collect();
    let shown: Vec<_> = replies.iter().filter(|reply| !reply.secret.is_empty()).collect();
    assert_eq!(shown.len(), 1, "one secret");
    assert_eq!(shown[0].secret_omitted_reason, "");
    for reply in &replies {
        assert_eq!(reply.api_key, replies[0].api_key);
        assert_eq!(reply.secret.is_empty(), reply.secret_omitted_reason == "SECRET_ALREADY_SHOWN");
    }
    assert_eq!(knock(&world.client(&shown[0].secret)).await.unwrap().slug, "acme");

    // Also after the key has ended: what is repeated is not judged anew.
    world.clock.advance(std::time::Duration::from_secs(61));
    let again = tenant.client.api_keys().create_api_key(request.clone()).await.unwrap().into_inner();
    assert_eq!((again.secret.as_str(), again.secret_omitted_reason.as_str()), ("", "SECRET_ALREADY_SHOWN"));
    let mut other = request.clone();
    other.api_key.as_mut().unwrap().display_name = "another".into();
    let refusal = refused(tenant.client.api_keys().create_api_key(other).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    // Somebody else's request with the same id is another request.
    let mut others = request;
    others.api_key.as_mut().unwrap().organization_id = "acme".into();
    others.api_key.as_mut().unwrap().expire_time = None;
    let created = world.operator().api_keys().create_api_key(others).await.unwrap().into_inner();
    assert!(!created.secret.is_empty());
}

/// What makes a key good for more, each by a caller `low` that does not hold `scope`, on keys made by `high`.
async fn hands_out_what_is_not_held(world: &World, low: &Client, high: &Client, scope: &str) {
    let not_held = |outcome: Result<v1::ApiKey, tonic::Status>, what: &str| {
        let refusal = refused(outcome);
        assert!(refusal.is(Code::PermissionDenied, "SCOPE_NOT_HELD"), "{what}: {refusal:?}");
        assert!(refusal.message.contains(scope), "{what}: {refusal:?}");
    };
    not_held(create(low, secret_key(&["usage.read", scope])).await.map(|created| created.0), "create");

    let (plain, _) = create(high, secret_key(&["usage.read"])).await.unwrap();
    let wanted = v1::ApiKey { scopes: vec!["usage.read".into(), scope.into()], ..plain.clone() };
    not_held(update(low, wanted, &["scopes"]).await, "an added scope");
    let wanted = v1::ApiKey { scopes: vec!["organizations.read".into()], etag: String::new(), ..plain.clone() };
    let swapped = update(high, wanted, &["scopes"]).await.unwrap();
    let wanted = v1::ApiKey { scopes: plain.scopes.clone(), ..swapped };
    update(low, wanted, &["scopes"]).await.expect("a scope that is held may be added");

    let mighty = v1::ApiKey { expire_time: Some(seconds_from_now(world, 3600)), ..secret_key(&["usage.read", scope]) };
    let (mighty, _) = create(high, mighty).await.unwrap();
    not_held(rotate(low, &mighty.api_key_id, None).await.map(|rotated| rotated.0), "rotate");
    for (later, what) in [(Some(seconds_from_now(world, 7200)), "a later end"), (None, "no end")] {
        let wanted = v1::ApiKey { expire_time: later, ..mighty.clone() };
        not_held(update(low, wanted, &["expire_time"]).await, what);
    }
    let wanted = v1::ApiKey { expire_time: Some(seconds_from_now(world, 60)), ..mighty };
    let mighty = update(low, wanted, &["expire_time"]).await.expect("an earlier end hands out nothing");
    let wanted = v1::ApiKey { disabled: true, ..mighty };
    let mighty = update(low, wanted, &["disabled"]).await.expect("disabling hands out nothing");
    let wanted = v1::ApiKey { disabled: false, display_name: "x".into(), ..mighty.clone() };
    not_held(update(low, wanted, &["display_name", "disabled"]).await, "enable");
    let wanted = v1::ApiKey { scopes: vec!["usage.read".into()], disabled: false, ..mighty };
    let tamed = update(low, wanted, &["scopes", "disabled"]).await.expect("without the scope it is no more than held");
    assert_eq!((tamed.disabled, tamed.display_name.as_str()), (false, "a key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_hands_out_only_what_it_holds() {
    use Permission::{KeysCreate, KeysRotate, KeysUpdate, OrganizationsRead, UsageRead};
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let low = tenant.with_scopes(&world, &[KeysCreate, KeysUpdate, KeysRotate, UsageRead, OrganizationsRead]).await;
    hands_out_what_is_not_held(&world, &low, &tenant.client, "usage.write").await;

    let (public, _) = create(&tenant.client, publishable_key(&["https://a.example"])).await.unwrap();
    let wider = [vec!["https://a.example", "https://b.example"], vec!["https://b.example"], vec![]];
    for origins in wider {
        let wanted =
            v1::ApiKey { allowed_origins: origins.iter().map(ToString::to_string).collect(), ..public.clone() };
        let refusal = refused(update(&low, wanted.clone(), &["allowed_origins"]).await);
        assert!(refusal.is(Code::PermissionDenied, "SCOPE_NOT_HELD"), "{origins:?}: {refusal:?}");
    }
    let wanted = v1::ApiKey { allowed_origins: Vec::new(), ..public };
    let open = update(&tenant.client, wanted, &["allowed_origins"]).await.unwrap();
    let wanted = v1::ApiKey { allowed_origins: vec!["https://c.example".into()], ..open };
    update(&low, wanted, &["allowed_origins"]).await.expect("fewer origins hand out nothing");

    let ranges = |ranges: &[&str]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    let bound = v1::ApiKey { allowed_ip_ranges: ranges(&["10.1.0.0/16"]), ..secret_key(&["usage.write"]) };
    let (bound, _) = create(&tenant.client, bound).await.unwrap();
    for wider in [&["10.0.0.0/8"] as &[&str], &["10.1.0.0/16", "::1"], &[]] {
        let wanted = v1::ApiKey { allowed_ip_ranges: ranges(wider), ..bound.clone() };
        let refusal = refused(update(&low, wanted, &["allowed_ip_ranges"]).await);
        assert!(refusal.is(Code::PermissionDenied, "SCOPE_NOT_HELD"), "{wider:?}: {refusal:?}");
    }
    let wanted = v1::ApiKey { allowed_ip_ranges: ranges(&["10.1.2.3"]), ..bound };
    let narrowed = update(&low, wanted, &["allowed_ip_ranges"]).await.expect("fewer addresses hand out nothing");
    assert_eq!(narrowed.allowed_ip_ranges, ["10.1.2.3/32"], "in its canonical form");
    assert_eq!(get(&tenant.client, &narrowed.api_key_id).await.unwrap(), narrowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_hands_out_only_what_they_hold() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let acting = async |role: &str| tenant.client.clone().acting(&tenant.member(&world, role, role).await);
    // What an owner holds and an admin does not.
    hands_out_what_is_not_held(&world, &acting("admin").await, &acting("owner").await, "users.act_as").await;

    let (key, _) = create(&tenant.client, secret_key(&["usage.read"])).await.unwrap();
    let member = acting("member").await;
    get(&member, &key.api_key_id).await.unwrap();
    for outcome in [
        create(&member, secret_key(&["usage.read"])).await.map(|created| created.0),
        rotate(&member, &key.api_key_id, None).await.map(|rotated| rotated.0),
        revoke(&member, &key.api_key_id).await,
        update(&member, key, &["display_name"]).await,
    ] {
        let refusal = refused(outcome);
        assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masks_and_etags() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, _) = create(&tenant.client, secret_key(&["usage.read"])).await.unwrap();
    let wanted = v1::ApiKey { display_name: "new".into(), disabled: true, ..key.clone() };
    let changed = update(&tenant.client, wanted.clone(), &["display_name"]).await.unwrap();
    assert_eq!((changed.display_name.as_str(), changed.disabled), ("new", false));
    assert_ne!(changed.etag, key.etag);
    let refusal = refused(update(&tenant.client, wanted, &["disabled"]).await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    for mask in [&[][..], &["kind"], &["nonsense"], &["api_key_id"], &["status"], &["revoke_time"]] {
        let refusal = refused(update(&tenant.client, changed.clone(), mask).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["update_mask"], "{refusal:?}");
    }
    let wrong = v1::ApiKey { scopes: vec!["x".into()], display_name: String::new(), ..changed.clone() };
    let refusal = refused(update(&tenant.client, wrong, &["scopes", "display_name"]).await);
    assert_eq!(refusal.fields.len(), 2, "{refusal:?}");
    let past = v1::ApiKey { expire_time: Some(seconds_from_now(&world, -1)), ..changed.clone() };
    let refusal = refused(update(&tenant.client, past, &["expire_time"]).await);
    assert!(refusal.fields == ["api_key.expire_time"], "{refusal:?}");
    for id in ["", "nonsense"] {
        let refusal =
            refused(update(&tenant.client, v1::ApiKey { api_key_id: id.into(), ..key.clone() }, &["labels"]).await);
        assert!(refusal.fields == ["api_key.api_key_id"], "{refusal:?}");
    }
    assert_eq!(get(&tenant.client, &key.api_key_id).await.unwrap(), changed, "nothing else has changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_pages_filters_and_hides_the_revoked() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut ids = vec![tenant.key_id.clone()];
    for number in 0..6 {
        let team = if number % 2 == 0 { "core" } else { "web" };
        let labels = [("team".to_owned(), team.to_owned()), ("n".to_owned(), number.to_string())].into();
        let key = v1::ApiKey { labels, ..secret_key(&["usage.read"]) };
        ids.insert(0, create(&tenant.client, key).await.unwrap().0.api_key_id);
    }
    let mut seen = Vec::new();
    let mut request = v1::ListApiKeysRequest { page_size: 3, ..Default::default() };
    loop {
        let page = list(&tenant.client, request.clone()).await.unwrap();
        assert!(page.api_keys.len() <= 3);
        seen.extend(page.api_keys.into_iter().map(|key| key.api_key_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, ids, "all, newest first");
    for foreign in [
        v1::ListApiKeysRequest { show_revoked: true, ..request.clone() },
        v1::ListApiKeysRequest { filter: "labels.team = \"core\"".into(), ..request },
    ] {
        let refusal = refused(list(&tenant.client, foreign).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["page_token"], "{refusal:?}");
    }
    revoke(&tenant.client, &ids[0]).await.unwrap();
    for (filter, show_revoked, expected) in [
        ("", false, &ids[1..]),
        ("", true, &ids[..]),
        ("labels.n = \"5\"", false, &[]),
        ("labels.n = \"5\"", true, &ids[..1]),
        ("labels.team = \"core\" AND labels.n = \"0\"", false, &ids[5..6]),
        ("labels.team = \"web\" AND labels.n = \"0\"", false, &[]),
    ] {
        let request = v1::ListApiKeysRequest { filter: filter.into(), show_revoked, ..Default::default() };
        let found = list(&tenant.client, request).await.unwrap().api_keys;
        let found: Vec<_> = found.into_iter().map(|key| key.api_key_id).collect();
        assert_eq!(found, expected, "{filter} {show_revoked}");
    }
    for filter in ["kind = \"sk_test\"", "labels. = \"x\"", "nonsense"] {
        let request = v1::ListApiKeysRequest { filter: filter.into(), ..Default::default() };
        assert!(refused(list(&tenant.client, request).await).fields == ["filter"], "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_is_told_and_changes_nothing_else() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (key, secret) = create(&tenant.client, secret_key(&["organizations.read"])).await.unwrap();
    assert_eq!(key.last_used_time, None);
    let changes = "SELECT count(*) FROM tenancy.changes";
    let before: i64 = sqlx::query_scalar(changes).fetch_one(&world.database.superuser).await.unwrap();
    let start = seconds_from_now(&world, 0);
    knock(&world.client(&secret)).await.unwrap();
    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    let used = get(&tenant.client, &key.api_key_id).await.unwrap();
    let at = used.last_used_time.unwrap();
    assert!((at.seconds, at.nanos) >= (start.seconds, start.nanos), "{at:?}");
    assert_eq!(v1::ApiKey { last_used_time: None, ..used }, key, "the etag included");
    let after: i64 = sqlx::query_scalar(changes).fetch_one(&world.database.superuser).await.unwrap();
    assert_eq!(after, before, "no cache is told");

    // A refused one is no use.
    world.clock.advance(std::time::Duration::from_secs(5));
    assert!(
        refused(
            tenant
                .client
                .clone()
                .key(&secret)
                .organizations()
                .get_organization(v1::GetOrganizationRequest::default())
                .await
        )
        .code
            == Code::Unauthenticated
    );
    let refusal = refused(create(&world.client(&secret), secret_key(&["usage.read"])).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    assert_eq!(get(&tenant.client, &key.api_key_id).await.unwrap().last_used_time, Some(at));
}
