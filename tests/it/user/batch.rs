//! Many users in one call: each row by the rules of one, and with its own fate.

use futures_util::future::join_all;
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tenancy::proto::v1::NewUserStatus::{Created, Exists, Refused};
use tonic::{Code, Status};

use super::{REQUEST_ID, get, named};
use crate::harness::{Client, World, refused};

async fn send(client: &Client, request: v1::BatchCreateUsersRequest) -> Result<Vec<v1::NewUserResult>, Status> {
    Ok(client.users().batch_create_users(request).await?.into_inner().results)
}

async fn create(client: &Client, users: Vec<v1::User>) -> Vec<v1::NewUserResult> {
    send(client, v1::BatchCreateUsersRequest { users, ..Default::default() }).await.unwrap()
}

fn fates(results: &[v1::NewUserResult]) -> Vec<(v1::NewUserStatus, &str)> {
    results.iter().map(|result| (result.status(), result.reason.as_str())).collect()
}

fn known(user: v1::User, subject: &str) -> v1::User {
    let identity = v1::ExternalIdentity { provider: "https://id.example".into(), subject: subject.into() };
    v1::User { identity: Some(identity), ..user }
}

/// How many records the platform's audit has of users that were created.
async fn recorded(world: &World) -> i64 {
    sqlx::query_scalar(
        "SELECT count(DISTINCT resource_id) FROM tenancy.platform_audit_events
         WHERE action = 'users.create' AND after ->> 'user_id' = resource_id AND request_id <> ''",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_has_its_fate() {
    let world = World::start().await;
    let operator = world.operator();
    let first = create(&operator, vec![known(named("ida"), "1"), named("bob")]).await;
    assert_eq!(fates(&first), [(Created, ""), (Created, "")]);
    let ida = first[0].user.clone().unwrap();
    assert_eq!(get(&operator, "", &ida.user_id).await.unwrap(), ida);

    let rows = vec![
        v1::User { email: "IDA@Example.com".into(), ..named("Ida, as others spell her") },
        known(named("ida"), "1"),
        known(named("ida"), "2"),
        known(named("bob"), "3"),
        known(named("carl"), "1"),
        named("dora"),
        named("DORA"),
        v1::User { email: "nobody".into(), ..v1::User::default() },
        v1::User { default_organization_id: ida.user_id.clone(), ..named("emil") },
        known(named("fay"), "4"),
        known(named("gus"), "4"),
    ];
    let results = create(&operator, rows.clone()).await;
    let expected = [
        (Exists, ""),
        (Exists, ""),
        (Refused, "EMAIL_TAKEN"),
        (Refused, "EMAIL_TAKEN"),
        (Refused, "IDENTITY_TAKEN"),
        (Created, ""),
        (Exists, ""),
        (Refused, "INVALID_FIELD"),
        (Refused, "INVALID_FIELD"),
        (Created, ""),
        (Refused, "IDENTITY_TAKEN"),
    ];
    assert_eq!(fates(&results), expected);
    let bare = v1::User { user_id: ida.user_id.clone(), ..v1::User::default() };
    assert_eq!(results[0].user, Some(bare), "no more than who it is");
    assert_eq!(results[6].user.as_ref().unwrap().user_id, results[5].user.as_ref().unwrap().user_id);
    assert!(results[7].message.contains("email") && results[7].message.contains("display_name"));
    assert_eq!(get(&operator, "", &ida.user_id).await.unwrap(), ida, "nobody is changed");
    assert_eq!(recorded(&world).await, 4);

    let again = create(&operator, rows).await;
    assert_eq!(
        fates(&again),
        expected.map(|(status, reason)| (if status == Created { Exists } else { status }, reason))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_the_platforms_can_be_tried_and_repeated() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let request = v1::BatchCreateUsersRequest { users: vec![named("ida")], ..Default::default() };
    let bound = world.service(&[Permission::UsersCreate], &[&tenant.id]).await;
    assert!(refused(send(&bound, request.clone()).await).is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"));
    for rows in [0, 501] {
        let request = v1::BatchCreateUsersRequest { users: vec![named("ida"); rows], ..Default::default() };
        let refusal = refused(send(&world.operator(), request).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["users"], "{refusal:?}");
    }
    for _ in 0..2 {
        let validated = v1::BatchCreateUsersRequest { validate_only: true, ..request.clone() };
        assert_eq!(fates(&send(&world.operator(), validated).await.unwrap()), [(Created, "")]);
    }
    assert_eq!(recorded(&world).await, 0);
    let repeatable = v1::BatchCreateUsersRequest { request_id: REQUEST_ID.into(), ..request };
    let first = send(&world.operator(), repeatable.clone()).await.unwrap();
    assert_eq!(fates(&first), [(Created, "")]);
    assert_eq!(send(&world.operator(), repeatable).await.unwrap(), first);
    assert_eq!(recorded(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_at_once_create_each_user_once() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let operators = [world.operator(), replica.operator()];
    let batches = (0..8).map(async |at: usize| {
        let mut users: Vec<v1::User> =
            (0..200).map(|number| named(&format!("u{}", (number + at * 20) % 240))).collect();
        if at % 2 == 1 {
            users.reverse();
        }
        create(&operators[at % 2], users).await
    });
    let results: Vec<_> = join_all(batches).await.into_iter().flatten().collect();
    let created = results.iter().filter(|result| result.status() == Created).count();
    let exist = results.iter().filter(|result| result.status() == Exists).count();
    assert_eq!((created, created + exist), (240, 1600));
    assert_eq!(recorded(&world).await, 240);
}
