//! `UserService`, over the wire.

mod batch;
mod erased;
mod organizations;
mod whole;

use std::time::Duration;

use prost_types::FieldMask;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, World, eventually, refused};

/// Nothing may come true only because a cache grew old.
const NEVER_STALE: &[&str] = &["--cache-lifetime", "1h"];
const REQUEST_ID: &str = "018f6d2e-0000-7000-8000-000000000001";
const NOBODY: &str = "018f6d2e-0000-7000-8000-00000000dead";

fn ida() -> v1::User {
    v1::User { email: "Ida.B@Example.com".into(), display_name: "Ida B.".into(), ..v1::User::default() }
}

fn named(name: &str) -> v1::User {
    v1::User { email: format!("{name}@example.com"), display_name: name.into(), ..v1::User::default() }
}

async fn create(client: &Client, user: v1::User) -> Result<v1::User, Status> {
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    Ok(client.users().create_user(request).await?.into_inner().user.unwrap())
}

async fn get(client: &Client, organization: &str, user_id: &str) -> Result<v1::User, Status> {
    let request = v1::GetUserRequest { user_id: user_id.into(), organization_id: organization.into() };
    Ok(client.users().get_user(request).await?.into_inner().user.unwrap())
}

async fn list(client: &Client, request: v1::ListUsersRequest) -> Result<v1::ListUsersResponse, Status> {
    Ok(client.users().list_users(request).await?.into_inner())
}

/// The ids of the users that a list shows, in its order.
async fn ids(client: &Client, organization: &str, filter: &str) -> Vec<String> {
    let request =
        v1::ListUsersRequest { organization_id: organization.into(), filter: filter.into(), ..Default::default() };
    list(client, request).await.unwrap().users.into_iter().map(|user| user.user_id).collect()
}

async fn update(client: &Client, organization: &str, user: v1::User, paths: &[&str]) -> Result<v1::User, Status> {
    let request = v1::UpdateUserRequest {
        organization_id: organization.into(),
        user: Some(user),
        update_mask: Some(FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
    };
    Ok(client.users().update_user(request).await?.into_inner().user.unwrap())
}

async fn deactivate(client: &Client, user_id: &str, etag: &str) -> Result<v1::User, Status> {
    let request = v1::DeactivateUserRequest { user_id: user_id.into(), etag: etag.into() };
    Ok(client.users().deactivate_user(request).await?.into_inner().user.unwrap())
}

/// How many records the platform's audit has of an action on a user.
async fn recorded(world: &World, action: &str, user_id: &str) -> usize {
    let filter = format!("action = \"{action}\" AND resource_id = \"{user_id}\"");
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    world.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_kept_as_spelled_and_taken_in_any_case() {
    let world = World::start().await;
    let operator = world.operator();
    let created = create(&operator, ida()).await.unwrap();
    assert_eq!((created.email.as_str(), created.display_name.as_str()), ("Ida.B@Example.com", "Ida B."));
    assert_eq!(created.status(), v1::UserStatus::Active);
    assert_eq!(get(&operator, "", &created.user_id).await.unwrap(), created);
    for email in ["Ida.B@Example.com", "ida.b@example.com", "IDA.B@EXAMPLE.COM"] {
        let refusal = refused(create(&operator, v1::User { email: email.into(), ..ida() }).await);
        assert!(refusal.is(Code::AlreadyExists, "EMAIL_TAKEN") && refusal.fields == ["user.email"], "{refusal:?}");
    }
    assert_eq!(ids(&operator, "", "email = \"iDa.b@eXample.com\"").await, [created.user_id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_creation_is_one_creation() {
    let world = World::start().await;
    let operator = world.operator();
    let request = v1::CreateUserRequest { user: Some(ida()), request_id: REQUEST_ID.into(), ..Default::default() };
    let again = (0..6).map(|_| {
        let (mut users, request) = (operator.users(), request.clone());
        async move { users.create_user(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = futures_util::future::join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    let user_id = &replies[0].user.as_ref().unwrap().user_id;
    assert_eq!(recorded(&world, "users.create", user_id).await, 1);

    let other = v1::CreateUserRequest { user: Some(named("other")), ..request.clone() };
    let refusal = refused(operator.users().create_user(other.clone()).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
    // The id is the caller's own: another one may have chosen the same.
    world.service(Permission::ALL, &[]).await.users().create_user(other).await.unwrap();
    let bad = v1::CreateUserRequest { request_id: "x".into(), ..request };
    let refusal = refused(operator.users().create_user(bad).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["request_id"], "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_platform_creates_users() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let refusal = refused(create(&tenant.client, ida()).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    for client in [
        world.service(Permission::ALL, &[&tenant.id]).await,
        world.operator().acting(&owner),
        world.service(Permission::ALL, &[]).await.acting(&owner),
    ] {
        for outcome in [create(&client, ida()).await, deactivate(&client, &owner, "").await] {
            let refusal = refused(outcome);
            assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
        }
    }
    assert_eq!(ids(&world.operator(), "", "").await, [owner]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::start().await;
    let operator = world.operator();
    let long = format!("{}@example.com", "a".repeat(243));
    for (email, name) in [("", ""), ("ida", " Ida"), ("ida@", "Ida\n"), ("ïda@example.com", " "), (&*long, "\u{7f}")] {
        let user = v1::User { email: email.into(), display_name: name.into(), ..v1::User::default() };
        let refusal = refused(create(&operator, user).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
        assert_eq!(refusal.fields, ["user.email", "user.display_name"], "{email}");
    }
    let refusal = refused(operator.users().create_user(v1::CreateUserRequest::default()).await);
    assert_eq!(refusal.fields, ["user.email", "user.display_name"]);
    let user = v1::User { display_name: "ß".repeat(201), ..ida() };
    assert_eq!(refused(create(&operator, user).await).fields, ["user.display_name"]);
    let created = create(&operator, v1::User { display_name: "ß".repeat(200), ..ida() }).await.unwrap();

    for bad in ["", "x", &created.user_id.replace('-', "")] {
        assert_eq!(refused(get(&operator, "", bad).await).fields, ["user_id"]);
        assert_eq!(refused(deactivate(&operator, bad, "").await).fields, ["user_id"]);
        let user = v1::User { user_id: bad.into(), ..ida() };
        assert_eq!(refused(update(&operator, "", user, &["email"]).await).fields, ["user.user_id"]);
    }
    for mask in [&[][..], &["status"][..], &["user_id"][..], &["email", "nonsense"][..]] {
        assert_eq!(refused(update(&operator, "", created.clone(), mask).await).fields, ["update_mask"]);
    }
    for outcome in [
        get(&operator, "", NOBODY).await,
        deactivate(&operator, NOBODY, "").await,
        update(&operator, "", v1::User { user_id: NOBODY.into(), ..ida() }, &["email"]).await,
    ] {
        assert!(refused(outcome).is(Code::NotFound, "USER_NOT_FOUND"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_members_and_the_platform_sees_all() {
    let world = World::start().await;
    let (acme, other) = (world.tenant("acme").await, world.tenant("other").await);
    let (ours, theirs) = (acme.member(&world, "a", "viewer").await, other.member(&world, "b", "owner").await);
    let operator = world.operator();
    let nobodys = create(&operator, ida()).await.unwrap().user_id;
    let listed = world.service(Permission::ALL, &[&acme.id]).await;

    for (client, named) in [
        (&acme.client, ""),
        (&acme.client, acme.id.as_str()),
        (&acme.client, "acme"),
        (&acme.client.clone().acting(&ours), ""),
        (&operator, "acme"),
        (&listed, acme.id.as_str()),
    ] {
        assert_eq!(ids(client, named, "").await, std::slice::from_ref(&ours));
        assert_eq!(get(client, named, &ours).await.unwrap().user_id, ours);
        for hidden in [&theirs, &nobodys, NOBODY] {
            assert!(refused(get(client, named, hidden).await).is(Code::NotFound, "USER_NOT_FOUND"));
        }
        // Nor does a filter tell who else there is.
        assert!(ids(client, named, "email = \"ida.b@example.com\"").await.is_empty());
    }
    assert_eq!(ids(&operator, "", "").await.len(), 3);
    assert_eq!(get(&operator, "", &theirs).await.unwrap().user_id, theirs);

    for client in [&acme.client, &listed, &acme.client.clone().acting(&ours)] {
        for named in [&other.id, "other", NOBODY] {
            for outcome in [
                get(client, named, &theirs).await.map(drop),
                list(client, v1::ListUsersRequest { organization_id: named.into(), ..Default::default() })
                    .await
                    .map(drop),
            ] {
                assert!(refused(outcome).is(Code::NotFound, "ORGANIZATION_NOT_FOUND"));
            }
        }
    }
    for outcome in
        [get(&listed, "", &ours).await.map(drop), list(&listed, v1::ListUsersRequest::default()).await.map(drop)]
    {
        assert!(refused(outcome).is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lists_page_and_filter() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let operator = world.operator();
    let mut created = Vec::new();
    for number in 0..7 {
        // Ids of one millisecond are in no order.
        world.clock.advance(Duration::from_millis(2));
        created.push(tenant.member(&world, &format!("u{number}"), "member").await);
    }
    create(&operator, ida()).await.unwrap();
    created.reverse();
    for (client, organization, expected) in [(&tenant.client, "", 7), (&operator, "acme", 7), (&operator, "", 8)] {
        let mut seen = Vec::new();
        let mut request =
            v1::ListUsersRequest { organization_id: organization.into(), page_size: 3, ..Default::default() };
        loop {
            let page = list(client, request.clone()).await.unwrap();
            assert!((1..=3).contains(&page.users.len()));
            seen.extend(page.users.into_iter().map(|user| user.user_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(seen[expected - 7..], created);
        let foreign = v1::ListUsersRequest { filter: "status = \"ACTIVE\"".into(), ..request };
        assert_eq!(refused(list(client, foreign).await).fields, ["page_token"]);
    }

    deactivate(&operator, &created[2], "").await.unwrap();
    for (client, organization, more) in [(&tenant.client, "", 0), (&operator, "acme", 0), (&operator, "", 1)] {
        assert_eq!(ids(client, organization, "status = \"DEACTIVATED\"").await, [created[2].clone()]);
        assert_eq!(ids(client, organization, "status = \"ACTIVE\"").await.len(), 6 + more);
        let both = "status = \"ACTIVE\" AND email = \"U5@acme.EXAMPLE.com\"";
        assert_eq!(ids(client, organization, both).await, [created[1].clone()]);
        let none = "status = \"DEACTIVATED\" AND email = \"u5@acme.example.com\"";
        assert!(ids(client, organization, none).await.is_empty());
        for (request, field) in [
            (v1::ListUsersRequest { filter: "status = \"active\"".into(), ..Default::default() }, "filter"),
            (v1::ListUsersRequest { filter: "name = \"x\"".into(), ..Default::default() }, "filter"),
            (v1::ListUsersRequest { page_size: -1, ..Default::default() }, "page_size"),
            (v1::ListUsersRequest { page_token: "x".into(), ..Default::default() }, "page_token"),
        ] {
            let request = v1::ListUsersRequest { organization_id: organization.into(), ..request };
            let refusal = refused(list(client, request).await);
            assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == [field], "{refusal:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_changed_by_themselves_or_the_platform() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let (me, you) = (tenant.member(&world, "me", "viewer").await, tenant.member(&world, "you", "owner").await);
    let stranger = create(&world.operator(), ida()).await.unwrap().user_id;
    let mine = tenant.client.clone().acting(&me);
    let service = world.service(Permission::ALL, &[]).await.acting(&me);
    let listed = world.service(Permission::ALL, &[&tenant.id]).await.acting(&me);
    let wanted = |user_id: &str| v1::User { user_id: user_id.into(), ..named("taken-over") };

    for (client, organization) in [(&tenant.client, ""), (&mine, ""), (&service, "acme"), (&listed, "acme")] {
        // One that does not exist is refused alike, so that the answer tells nobody who does.
        for other in [&*you, &*stranger, NOBODY] {
            let refusal = refused(update(client, organization, wanted(other), &["*"]).await);
            assert!(refusal.is(Code::PermissionDenied, "NOT_THAT_USER"), "{other}: {refusal:?}");
        }
    }
    let refusal = refused(update(&tenant.client, "", wanted(&me), &["*"]).await);
    assert!(refusal.is(Code::PermissionDenied, "NOT_THAT_USER"), "{refusal:?}");
    let bound = world.service(Permission::ALL, &[&tenant.id]).await;
    let refusal = refused(update(&bound, "acme", wanted(&me), &["*"]).await);
    assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
    let refusal = refused(update(&service, "", wanted(&me), &["*"]).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["organization_id"], "{refusal:?}");
    assert_eq!(recorded(&world, "users.update", &me).await, 0);

    for (number, (client, organization)) in
        [(&mine, ""), (&service, "acme"), (&listed, "acme"), (&world.operator(), "")].into_iter().enumerate()
    {
        let before = get(client, organization, &me).await.unwrap();
        let name = v1::User { user_id: me.clone(), etag: before.etag.clone(), ..named(&format!("n{number}")) };
        let after = update(client, organization, name.clone(), &["display_name"]).await.unwrap();
        assert_eq!((&after.display_name, &after.email), (&name.display_name, &before.email));
        assert_ne!(after.etag, before.etag);
        let refusal = refused(update(client, organization, name.clone(), &["*"]).await);
        assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
        let all = update(client, organization, v1::User { etag: String::new(), ..name.clone() }, &["*"]).await.unwrap();
        assert_eq!((&all.display_name, &all.email), (&name.display_name, &name.email));
        assert_eq!(get(client, organization, &me).await.unwrap(), all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_address_is_free_and_unique() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let me = tenant.member(&world, "me", "member").await;
    create(&world.operator(), ida()).await.unwrap();
    for client in [&tenant.client.clone().acting(&me), &world.operator()] {
        let with = |email: &str| v1::User { user_id: me.clone(), email: email.into(), ..v1::User::default() };
        let refusal = refused(update(client, "", with("ida.B@example.COM"), &["email"]).await);
        assert!(refusal.is(Code::AlreadyExists, "EMAIL_TAKEN") && refusal.fields == ["user.email"], "{refusal:?}");
        for email in ["me@acme.example.com", "ME@acme.example.com", "Me@Acme.Example.com"] {
            assert_eq!(update(client, "", with(email), &["email"]).await.unwrap().email, email);
        }
        update(client, "", with("elsewhere@example.com"), &["email"]).await.unwrap();
    }
    let given_up = v1::User { email: "me@acme.example.com".into(), ..ida() };
    create(&world.operator(), given_up).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deactivated_user_is_locked_out_everywhere_and_stays_a_member() {
    let world = World::start_with(NEVER_STALE).await;
    let replica = World::on(world.database.clone(), NEVER_STALE).await;
    let tenant = world.tenant("acme").await;
    let user = tenant.member(&world, "me", "admin").await;
    let clients = [tenant.client.clone().acting(&user), replica.client(&tenant.key).acting(&user)];
    for client in &clients {
        get(client, "", &user).await.unwrap();
    }
    let operator = world.operator();
    let before = get(&operator, "", &user).await.unwrap();
    let refusal = refused(deactivate(&operator, &user, "stale").await);
    assert!(refusal.is(Code::Aborted, "ETAG_MISMATCH"), "{refusal:?}");
    let after = deactivate(&operator, &user, &before.etag).await.unwrap();
    assert_eq!(after.status(), v1::UserStatus::Deactivated);
    assert_ne!(after.etag, before.etag);
    assert_eq!(deactivate(&operator, &user, "").await.unwrap(), after);
    assert_eq!(recorded(&world, "users.deactivate", &user).await, 1);

    for client in &clients {
        eventually("nobody acts for the deactivated", async || {
            get(client, "", &user)
                .await
                .is_err_and(|status| refused::<()>(Err(status)).is(Code::PermissionDenied, "NOT_A_MEMBER"))
        })
        .await;
    }
    assert_eq!(ids(&tenant.client, "", "").await, std::slice::from_ref(&user));
    let request = v1::GetMemberRequest { user_id: user.clone(), ..Default::default() };
    let member = tenant.client.members().get_member(request).await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.role, "admin");
    // The platform can still correct them.
    let name = v1::User { user_id: user.clone(), display_name: "Gone".into(), ..v1::User::default() };
    let changed = update(&operator, "", name, &["display_name"]).await.unwrap();
    assert_eq!((changed.display_name.as_str(), changed.status()), ("Gone", v1::UserStatus::Deactivated));
}
