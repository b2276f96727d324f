//! I8: a change of a key takes effect on every replica, also when notifications are lost or commits come out of order;
//! and while the database is away, what is known is believed for the cache's lifetime and no longer.

use std::time::Duration;

use tenancy::proto::v1;
use tenancy::proto::v1::VerificationCode as Answer;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::harness::keys::{create, knock, lookup_id, operate, revoke, rotate, secret_key, settled, update, verify};
use crate::harness::{Client, Tenant, World, eventually, refused};

/// Far below the lifetime of records (30 s) and of absences (5 s): only the change log explains a change seen by then.
/// The promise is a second; this machine may be busy.
const SOON: Duration = Duration::from_secs(4);

/// Two replicas on one database, and a tenant.
async fn replicas() -> (World, World, Tenant) {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = one.tenant("acme").await;
    (one, two, tenant)
}

/// A key that may read its organization, its text, and a client of the replica that knows it.
async fn known_key(tenant: &Tenant, replica: &World) -> (v1::ApiKey, String, Client) {
    let (key, secret) = create(&tenant.client, secret_key(&["organizations.read"])).await.unwrap();
    let client = replica.client(&secret);
    knock(&client).await.unwrap();
    (key, secret, client)
}

/// Waits until requests fare as they should, and prints how long that took since `changed`.
async fn until(
    client: &Client,
    what: &str,
    changed: Instant,
    good: impl Fn(&Result<v1::Organization, Status>) -> bool,
) {
    while !good(&knock(client).await) && changed.elapsed() < SOON {}
    assert!(changed.elapsed() < SOON, "not seen on the other replica: {what}");
    println!("I8: {what}: {:.1?} after the reply", changed.elapsed());
}

fn is_refused(outcome: &Result<v1::Organization, Status>, code: Code, expected: &str) -> bool {
    outcome.as_ref().is_err_and(|status| refused(Err::<(), _>(status.clone())).is(code, expected))
}

fn unauthenticated(reason: &str) -> impl Fn(&Result<v1::Organization, Status>) -> bool {
    move |outcome| is_refused(outcome, Code::Unauthenticated, reason)
}

/// Ends the connections on which the replicas listen, each to changes and to what others want back of quotas, so that a notification of now reaches nobody.
async fn lose_notifications(world: &World) {
    let database = &world.database.superuser;
    eventually("both replicas listen", || async move {
        let count = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(database).await.unwrap() == 4
    })
    .await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let ended: Vec<bool> = sqlx::query_scalar(end).fetch_all(database).await.unwrap();
    assert_eq!(ended, [true; 4]);
}

/// Every way to end what a key may do, and to bring it to life.
async fn every_change_is_seen(lost: bool) {
    let (one, two, tenant) = replicas().await;
    let prepare = async || {
        if lost {
            lose_notifications(&one).await;
        }
    };

    let (key, _, client) = known_key(&tenant, &two).await;
    prepare().await;
    let disabled = update(&tenant.client, v1::ApiKey { disabled: true, ..key }, &["disabled"]).await.unwrap();
    until(&client, "disable", Instant::now(), unauthenticated("API_KEY_DISABLED")).await;
    prepare().await;
    let key = update(&tenant.client, v1::ApiKey { disabled: false, ..disabled }, &["disabled"]).await.unwrap();
    until(&client, "enable", Instant::now(), Result::is_ok).await;
    prepare().await;
    let wanted = v1::ApiKey { scopes: vec!["usage.read".into()], ..key };
    let key = update(&tenant.client, wanted, &["scopes"]).await.unwrap();
    let missing = |outcome: &_| is_refused(outcome, Code::PermissionDenied, "PERMISSION_MISSING");
    until(&client, "fewer scopes", Instant::now(), missing).await;
    prepare().await;
    revoke(&tenant.client, &key.api_key_id).await.unwrap();
    until(&client, "revoke", Instant::now(), unauthenticated("API_KEY_REVOKED")).await;

    let (key, _, client) = known_key(&tenant, &two).await;
    prepare().await;
    let (_, renewed) = rotate(&tenant.client, &key.api_key_id, Some(0)).await.unwrap();
    let rotated = Instant::now();
    until(&client, "rotate without grace", rotated, unauthenticated("API_KEY_INVALID")).await;
    until(&two.client(&renewed), "the new secret", rotated, Result::is_ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_by_the_other_replica() {
    every_change_is_seen(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_although_nobody_listened() {
    every_change_is_seen(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_without_a_notification_is_seen() {
    let (one, two, tenant) = replicas().await;
    let (key, secret, client) = known_key(&tenant, &two).await;
    // As if every notification were lost: the row of the log is written, and nobody is woken.
    let sql =
        "WITH revoked AS (UPDATE tenancy.api_keys SET revoke_time = now() WHERE api_key_id = $1::uuid RETURNING 1)
               INSERT INTO tenancy.changes (subject) SELECT 'api_key:' || $2 FROM revoked";
    let written =
        sqlx::query(sql).bind(&key.api_key_id).bind(lookup_id(&secret)).execute(&one.database.superuser).await.unwrap();
    assert_eq!(written.rows_affected(), 1);
    until(&client, "polled only", Instant::now(), unauthenticated("API_KEY_REVOKED")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_listen_polls_all_the_same() {
    let (one, two, tenant) = replicas().await;
    let (mut key, _, client) = known_key(&tenant, &two).await;
    // Connections enough for what follows; none to listen on is to be had any more.
    let busy = |world: &World| {
        let client = world.client(&tenant.key);
        futures_util::future::join_all((0..8).map(move |_| {
            let client = client.clone();
            async move { client.api_keys().list_api_keys(v1::ListApiKeysRequest::default()).await.unwrap() }
        }))
    };
    let (busy, one_, two_) = (&busy, &one, &two);
    eventually("the pools have connections", || async move {
        tokio::join!(busy(one_), busy(two_));
        let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1";
        let count = sqlx::query_scalar::<_, i64>(count).bind(one_.database.service.get_username());
        count.fetch_one(&one_.database.superuser).await.unwrap() >= 12
    })
    .await;
    let sql = format!("ALTER DATABASE {} CONNECTION LIMIT 0", one.database.service.get_database().unwrap());
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&one.database.superuser).await.unwrap();
    lose_notifications(&one).await;
    // One after the other: between two readings nothing may take its time.
    for disabled in [true, false, true, false] {
        key = update(&tenant.client, v1::ApiKey { disabled, ..key }, &["disabled"]).await.unwrap();
        let seen = unauthenticated("API_KEY_DISABLED");
        let good = |outcome: &_| if disabled { seen(outcome) } else { outcome.is_ok() };
        until(&client, "without a listener", Instant::now(), good).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_absent_is_found_once_it_exists() {
    let (one, two, tenant) = replicas().await;
    let (key, secret, _) = known_key(&tenant, &one).await;
    // Hides the key from the second replica, until it has remembered that there is none.
    let entry = "DELETE FROM tenancy.api_key_directory WHERE lookup_id = $1";
    sqlx::query(entry).bind(lookup_id(&secret)).execute(&one.database.superuser).await.unwrap();
    let client = two.client(&secret);
    assert!(unauthenticated("API_KEY_INVALID")(&knock(&client).await));
    let sql = "INSERT INTO tenancy.api_key_directory (lookup_id, organization_id, api_key_id) VALUES ($1, $2::uuid, $3::uuid)";
    sqlx::query(sql)
        .bind(lookup_id(&secret))
        .bind(&tenant.id)
        .bind(&key.api_key_id)
        .execute(&one.database.superuser)
        .await
        .unwrap();
    assert!(unauthenticated("API_KEY_INVALID")(&knock(&client).await), "it is remembered");
    // What creation announces, and nothing else than creation and changes do.
    let announced: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.changes WHERE subject = 'api_key:' || $1")
        .bind(lookup_id(&secret))
        .fetch_one(&one.database.superuser)
        .await
        .unwrap();
    assert_eq!(announced, 1, "the creation is announced");
    sqlx::query("INSERT INTO tenancy.changes (subject) SELECT 'api_key:' || $1")
        .bind(lookup_id(&secret))
        .execute(&one.database.superuser)
        .await
        .unwrap();
    until(&client, "create", Instant::now(), Result::is_ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_out_of_order_are_all_seen() {
    let (one, two, tenant) = replicas().await;
    let (early, early_secret, early_client) = known_key(&tenant, &two).await;
    let (late, late_secret, late_client) = known_key(&tenant, &two).await;
    let (other, _, other_client) = known_key(&tenant, &two).await;

    // A transaction that began, and wrote its first row, before those that are over before it.
    let mut transaction = one.database.superuser.begin().await.unwrap();
    let disable = async |connection: &mut sqlx::PgConnection, key: &v1::ApiKey, secret: &str| {
        let sql =
            "WITH disabled AS (UPDATE tenancy.api_keys SET disabled = true WHERE api_key_id = $1::uuid RETURNING 1)
                   INSERT INTO tenancy.changes (subject) SELECT 'api_key:' || $2 FROM disabled";
        let query = sqlx::query(sql).bind(&key.api_key_id).bind(lookup_id(secret));
        assert_eq!(query.execute(connection).await.unwrap().rows_affected(), 1);
    };
    disable(&mut transaction, &early, &early_secret).await;
    let mut other = other;
    for disabled in [true, false, true] {
        other = update(&tenant.client, v1::ApiKey { disabled, ..other }, &["disabled"]).await.unwrap();
        // Seen there, so the log was read past the row that is not committed.
        let seen = unauthenticated("API_KEY_DISABLED");
        let good = |outcome: &_| if disabled { seen(outcome) } else { outcome.is_ok() };
        until(&other_client, "a later transaction", Instant::now(), good).await;
    }
    // The same transaction, with a row behind theirs.
    disable(&mut transaction, &late, &late_secret).await;
    revoke(&tenant.client, &other.api_key_id).await.unwrap();
    until(&other_client, "the last one", Instant::now(), unauthenticated("API_KEY_REVOKED")).await;
    knock(&early_client).await.expect("not committed yet");
    knock(&late_client).await.expect("not committed yet");

    transaction.commit().await.unwrap();
    let committed = Instant::now();
    until(&early_client, "an early row of a late commit", committed, unauthenticated("API_KEY_DISABLED")).await;
    until(&late_client, "a late row of a late commit", committed, unauthenticated("API_KEY_DISABLED")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_and_organizations_are_followed_too() {
    let (one, two, tenant) = replicas().await;
    let user = tenant.member(&one, "ann", "member").await;
    let acting = two.client(&tenant.key).acting(&user);
    knock(&acting).await.unwrap();
    let request = v1::DeactivateUserRequest { user_id: user.clone(), ..Default::default() };
    one.operator().users().deactivate_user(request).await.unwrap();
    let gone = |outcome: &_| is_refused(outcome, Code::PermissionDenied, "NOT_A_MEMBER");
    until(&acting, "deactivate a user", Instant::now(), gone).await;

    let client = two.client(&tenant.key);
    knock(&client).await.unwrap();
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id, ..Default::default() };
    one.operator().organizations().suspend_organization(request).await.unwrap();
    let suspended = |outcome: &_| is_refused(outcome, Code::PermissionDenied, "ORGANIZATION_SUSPENDED");
    until(&client, "suspend an organization", Instant::now(), suspended).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_platform_key_is_refused_everywhere() {
    let (one, two, tenant) = replicas().await;
    let key = operate(&one, &["create", "--name", "gone", "--scope", "keys.verify"]).await.unwrap();
    let clients = [one.client(key.trim()), two.client(key.trim())];
    for client in &clients {
        assert_eq!(verify(client, &tenant.key).await.unwrap().code(), Answer::Valid);
    }
    let list = operate(&one, &["list"]).await.unwrap();
    let id = list.lines().find(|line| line.contains("gone")).unwrap().split(' ').next().unwrap();
    operate(&one, &["revoke", id]).await.unwrap();
    let revoked = Instant::now();
    for client in &clients {
        loop {
            match verify(client, &tenant.key).await {
                Ok(_) => assert!(revoked.elapsed() < SOON, "not seen"),
                outcome => {
                    let refusal = refused(outcome);
                    assert!(refusal.is(Code::Unauthenticated, "API_KEY_REVOKED"), "{refusal:?}");
                    break;
                }
            }
        }
    }
    println!("I8: revoke a platform key: {:.1?} after the command", revoked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_keys_are_believed_for_a_lifetime() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let unavailable = |outcome: Result<v1::VerifyApiKeyResponse, Status>| {
        let refusal = refused(outcome);
        assert!(refusal.is(Code::Unavailable, "DATABASE_UNAVAILABLE") && refusal.retry, "{refusal:?}");
    };
    let (_, never_seen) = create(&tenant.client, secret_key(&["keys.verify"])).await.unwrap();
    settled(&world, &tenant).await;
    verify(&world.operator(), &tenant.key).await.unwrap();
    // The key at the door asks about itself: both ways to need it.
    assert_eq!(verify(&tenant.client, &tenant.key).await.unwrap().code(), Answer::Valid);
    world.database.cut().await;
    for seconds in [0, 10, 10] {
        world.clock.advance(Duration::from_secs(seconds));
        assert_eq!(verify(&tenant.client, &tenant.key).await.unwrap().code(), Answer::Valid);
    }
    unavailable(verify(&world.client(&never_seen), &tenant.key).await);
    world.clock.advance(Duration::from_secs(11));
    for _ in 0..20 {
        unavailable(verify(&tenant.client, &tenant.key).await);
        unavailable(verify(&world.operator(), &tenant.key).await);
    }
    world.database.restore().await;
    let client = &tenant.client;
    let key = &tenant.key;
    eventually("the database is back", || async move { verify(client, key).await.is_ok() }).await;
}
