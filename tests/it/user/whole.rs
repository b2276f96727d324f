//! What the platform knows of users beyond what their organizations see.

use prost_types::Struct;
use prost_types::value::Kind;
use sqlx::Connection as _;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tenancy::worker::last_used;
use tonic::Code;

use super::{create, get, ida, list, named, recorded, update};
use crate::harness::{World, refused};

fn settings(theme: &str) -> Option<Struct> {
    let value = prost_types::Value { kind: Some(Kind::StringValue(theme.into())) };
    Some(Struct { fields: [("theme".to_owned(), value)].into() })
}

fn identity(subject: &str) -> Option<v1::ExternalIdentity> {
    Some(v1::ExternalIdentity { provider: "https://id.example.com".into(), subject: subject.into() })
}

fn whole() -> v1::User {
    v1::User {
        avatar_uri: "https://cdn.example.com/ida.png".into(),
        locale: "it-IT".into(),
        identity: identity("auth0|ida"),
        settings: settings("dark"),
        ..ida()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_is_kept_and_only_what_is_named_changes() {
    let world = World::start().await;
    let operator = world.operator();
    let created = create(&operator, whole()).await.unwrap();
    let expected = v1::User {
        user_id: created.user_id.clone(),
        status: v1::UserStatus::Active.into(),
        etag: created.etag.clone(),
        create_time: created.create_time,
        update_time: created.update_time,
        ..whole()
    };
    assert_eq!(created, expected);
    assert_eq!(get(&operator, "", &created.user_id).await.unwrap(), expected);
    assert_eq!(list(&operator, v1::ListUsersRequest::default()).await.unwrap().users, [expected.clone()]);
    assert_eq!(create(&operator, named("plain")).await.unwrap().locale, "en");

    let message = v1::User { user_id: created.user_id.clone(), settings: settings("light"), ..v1::User::default() };
    let changed = update(&operator, "", message.clone(), &["settings"]).await.unwrap();
    let expected = v1::User {
        settings: settings("light"),
        etag: changed.etag.clone(),
        update_time: changed.update_time,
        ..expected
    };
    assert_eq!(changed, expected);
    let changed = update(&operator, "", message, &["identity", "avatar_uri"]).await.unwrap();
    assert_eq!((changed.identity, changed.avatar_uri.as_str()), (None, ""));
    assert_eq!(recorded(&world, "users.update", &created.user_id).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_of_both_sorts_is_named() {
    let world = World::start().await;
    let deep = (0..9).fold(Kind::NullValue(0), |inner, _| {
        let fields = [("deeper".to_owned(), prost_types::Value { kind: Some(inner) })].into();
        Kind::StructValue(Struct { fields })
    });
    let Kind::StructValue(deep) = deep else { unreachable!("folded") };
    let wrong = v1::User {
        avatar_uri: "http://cdn.example.com/plain".into(),
        locale: "it_IT".into(),
        identity: Some(v1::ExternalIdentity { provider: "p".into(), subject: String::new() }),
        settings: Some(deep),
        default_organization_id: "acme".into(),
        ..ida()
    };
    let refusal = refused(create(&world.operator(), wrong).await);
    let fields = ["avatar_uri", "locale", "identity.subject", "settings", "default_organization_id"];
    assert_eq!(refusal.fields, fields.map(|field| format!("user.{field}")));
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_at_a_provider_is_one_user() {
    let world = World::start().await;
    let operator = world.operator();
    let first = create(&operator, whole()).await.unwrap();
    let twin = v1::User { identity: identity("auth0|ida"), ..named("twin") };
    let refusal = refused(create(&operator, twin.clone()).await);
    assert!(refusal.is(Code::AlreadyExists, "IDENTITY_TAKEN"), "{refusal:?}");
    let elsewhere = v1::ExternalIdentity { provider: "https://other.example.com".into(), subject: "auth0|ida".into() };
    let twin = create(&operator, v1::User { identity: Some(elsewhere), ..twin }).await.unwrap();
    let wanted = v1::User { user_id: twin.user_id.clone(), identity: identity("auth0|ida"), ..v1::User::default() };
    let refusal = refused(update(&operator, "", wanted.clone(), &["identity"]).await);
    assert!(refusal.is(Code::AlreadyExists, "IDENTITY_TAKEN"), "{refusal:?}");
    assert_eq!(get(&operator, "", &twin.user_id).await.unwrap(), twin, "nothing half-written");
    // Given up by the one, it is the other's to have.
    update(&operator, "", v1::User { user_id: first.user_id, ..v1::User::default() }, &["identity"]).await.unwrap();
    assert_eq!(update(&operator, "", wanted, &["identity"]).await.unwrap().identity, identity("auth0|ida"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_neither_sees_nor_changes_what_is_the_platforms() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let me = tenant.member(&world, "me", "owner").await;
    let message = v1::User {
        user_id: me.clone(),
        default_organization_id: tenant.id.clone(),
        avatar_uri: "https://cdn.example.com/me.png".into(),
        ..whole()
    };
    let paths = ["identity", "settings", "default_organization_id", "avatar_uri"];
    let known = update(&world.operator(), "", message.clone(), &paths).await.unwrap();
    assert_eq!(known.default_organization_id, tenant.id);

    let mine = tenant.client.clone().acting(&me);
    let service = world.service(Permission::ALL, &[]).await.acting(&me);
    for (client, organization) in [(&tenant.client, ""), (&mine, ""), (&service, "acme")] {
        let seen = get(client, organization, &me).await.unwrap();
        let bare = v1::User { identity: None, settings: None, default_organization_id: String::new(), ..known.clone() };
        let last_activity_time = None;
        assert_eq!(seen, v1::User { last_activity_time, ..bare });
        let request = v1::ListUsersRequest { organization_id: organization.into(), ..Default::default() };
        assert_eq!(list(client, request).await.unwrap().users, [seen]);
    }
    for (client, organization) in [(&mine, ""), (&service, "acme")] {
        for field in ["identity", "settings", "default_organization_id"] {
            let refusal = refused(update(client, organization, message.clone(), &["locale", field]).await);
            assert!(refusal.is(Code::PermissionDenied, "OPERATOR_ONLY_FIELD"), "{field}: {refusal:?}");
        }
        update(client, organization, v1::User { settings: None, ..message.clone() }, &["*"]).await.unwrap();
    }
    assert_eq!(
        get(&world.operator(), "", &me).await.unwrap().settings,
        settings("dark"),
        "\"*\" is what it may change"
    );

    // Not even a handler with a bug would see it: the role of a tenant's scope is not granted the columns.
    let mut connection = sqlx::PgConnection::connect_with(&world.database.service).await.unwrap();
    for column in ["identity_provider", "external_id", "settings", "default_organization_id", "erase_time"] {
        let sql = format!("BEGIN; SET LOCAL ROLE tenancy_app; SELECT {column} FROM tenancy.users; COMMIT");
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap_err();
        assert!(error.to_string().contains("permission denied"), "{column}: {error}");
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platform_sees_when_somebody_last_acted_for_a_user() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let me = acme.member(&world, "me", "viewer").await;
    let write = async || last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    let seen = async || {
        write().await;
        get(&world.operator(), "", &me).await.unwrap().last_activity_time
    };
    get(&acme.client, "", &me).await.unwrap();
    assert_eq!(seen().await, None, "nobody acted for them");
    // Refused before anybody is let in.
    let refusal = refused(get(&other.client.clone().acting(&me), "", &me).await);
    assert!(refusal.is(Code::PermissionDenied, "NOT_A_MEMBER"), "{refusal:?}");
    assert_eq!(seen().await, None);
    get(&acme.client.clone().acting(&me), "", &me).await.unwrap();
    let first = seen().await.expect("somebody acted for them");
    world.clock.advance(std::time::Duration::from_mins(1));
    get(&acme.client.clone().acting(&me), "", &me).await.unwrap();
    assert!(seen().await.expect("still").seconds >= first.seconds + 60);
}
