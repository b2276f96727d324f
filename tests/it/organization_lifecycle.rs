//! The life of an organization, over the wire: suspended, resumed, deleted, brought back and purged.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tenancy::auth::permission::{METHODS, Permission};
use tenancy::proto::v1;
use tenancy::worker::upkeep::{self, UpkeepOptions};
use tonic::{Code, Status};

use crate::harness::{Client, World, eventually, raw, refused};
use crate::isolation::cases::{Furnished, cases};

const NEVER_STALE: &[&str] = &["--cache-lifetime", "1h"];

type Outcome = Result<v1::Organization, Status>;

async fn get(client: &Client, id: &str) -> Outcome {
    let request = v1::GetOrganizationRequest { organization_id: id.into() };
    Ok(client.organizations().get_organization(request).await?.into_inner().organization.unwrap())
}

async fn suspend(client: &Client, id: &str, reason: &str, etag: &str) -> Outcome {
    let request =
        v1::SuspendOrganizationRequest { organization_id: id.into(), reason: reason.into(), etag: etag.into() };
    Ok(client.organizations().suspend_organization(request).await?.into_inner().organization.unwrap())
}

async fn resume(client: &Client, id: &str, etag: &str) -> Outcome {
    let request = v1::ResumeOrganizationRequest { organization_id: id.into(), etag: etag.into() };
    Ok(client.organizations().resume_organization(request).await?.into_inner().organization.unwrap())
}

async fn delete(client: &Client, id: &str, etag: &str) -> Outcome {
    let request = v1::DeleteOrganizationRequest { organization_id: id.into(), etag: etag.into(), validate_only: false };
    Ok(client.organizations().delete_organization(request).await?.into_inner().organization.unwrap())
}

async fn undelete(client: &Client, id: &str, etag: &str) -> Outcome {
    let request = v1::UndeleteOrganizationRequest { organization_id: id.into(), etag: etag.into() };
    Ok(client.organizations().undelete_organization(request).await?.into_inner().organization.unwrap())
}

async fn verify(client: &Client, key: &str) -> v1::VerificationCode {
    let request = v1::VerifyApiKeyRequest { api_key: key.into(), ..Default::default() };
    client.api_keys().verify_api_key(request).await.unwrap().into_inner().code()
}

/// Waits until the client gets this of its own organization; an empty reason means that it is let in.
async fn gets(client: &Client, reason: &str) {
    eventually(&format!("the client gets {reason:?}"), async || match get(client, "").await {
        Ok(_) => reason.is_empty(),
        Err(status) => refused::<()>(Err(status)).reason == reason,
    })
    .await;
}

async fn refused_by_every_rpc(client: &Client, code: Code, reason: &str) {
    for (path, _) in METHODS {
        let refusal = refused(raw(client, path, Vec::new()).await);
        assert!(refusal.is(code, reason), "{path}: {refusal:?}");
    }
}

/// How many records the organization's audit has of an action.
async fn recorded(world: &World, id: &str, action: &str) -> usize {
    let request = v1::ListAuditEventsRequest {
        organization_id: id.into(),
        filter: format!("action = \"{action}\""),
        ..Default::default()
    };
    world.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_shuts_the_organization_out_everywhere() {
    let world = World::start_with(NEVER_STALE).await;
    let replica = World::on(world.database.clone(), NEVER_STALE).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let user = tenant.member(&world, "ida", "owner").await;
    let service = world.service(&[Permission::OrganizationsRead, Permission::UsersActAs], &[]).await.acting(&user);
    let clients = [&tenant.client, &replica.client(&tenant.key)];
    for client in clients {
        gets(client, "").await;
    }
    get(&service, "acme").await.unwrap();

    suspend(&world.operator(), "acme", "unpaid", "").await.unwrap();
    for client in clients {
        gets(client, "ORGANIZATION_SUSPENDED").await;
        refused_by_every_rpc(client, Code::PermissionDenied, "ORGANIZATION_SUSPENDED").await;
    }
    for world in [&world, &replica] {
        assert_eq!(verify(&world.operator(), &tenant.key).await, v1::VerificationCode::OrganizationSuspended);
        get(&world.client(&other.key), "").await.unwrap();
    }
    // Nor does a backend act for its people; the platform itself goes on.
    let refusal = refused(get(&service, "acme").await);
    assert!(refusal.is(Code::PermissionDenied, "ORGANIZATION_SUSPENDED"), "{refusal:?}");
    assert_eq!(get(&world.operator(), "acme").await.unwrap().status(), v1::OrganizationStatus::Suspended);

    resume(&replica.operator(), "acme", "").await.unwrap();
    for client in clients {
        gets(client, "").await;
    }
    for world in [&world, &replica] {
        assert_eq!(verify(&world.operator(), &tenant.key).await, v1::VerificationCode::Valid);
    }
    get(&service, "acme").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_is_one_however_often_it_is_said() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let operator = world.operator();
    let active = get(&operator, "acme").await.unwrap();
    assert_eq!(resume(&operator, "acme", "").await.unwrap(), active);
    assert_eq!(recorded(&world, "acme", "organizations.resume").await, 0);

    let long = refused(suspend(&operator, "acme", &"x".repeat(501), "").await);
    assert!(long.is(Code::InvalidArgument, "INVALID_FIELD") && long.fields == ["reason"], "{long:?}");
    assert!(refused(suspend(&operator, "acme", "x", "stale").await).is(Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(get(&operator, "acme").await.unwrap(), active);

    let first = suspend(&operator, "acme", "unpaid", &active.etag).await.unwrap();
    assert_eq!((first.status(), first.suspend_reason.as_str()), (v1::OrganizationStatus::Suspended, "unpaid"));
    assert!(first.suspend_time.is_some());
    let second = suspend(&operator, "acme", "fraud", &first.etag).await.unwrap();
    assert_ne!(second.etag, first.etag);
    let reason_only = v1::Organization {
        suspend_reason: "fraud".into(),
        etag: second.etag.clone(),
        update_time: second.update_time,
        ..first.clone()
    };
    assert_eq!(second, reason_only);
    assert_eq!(recorded(&world, "acme", "organizations.suspend").await, 2);

    assert!(refused(resume(&operator, "acme", &first.etag).await).is(Code::Aborted, "ETAG_MISMATCH"));
    let resumed = resume(&operator, &tenant.id, &second.etag).await.unwrap();
    let as_before = v1::Organization { etag: resumed.etag.clone(), update_time: resumed.update_time, ..active };
    assert_eq!(resumed, as_before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_organization_is_gone_until_it_is_brought_back() {
    let world = World::start_with(NEVER_STALE).await;
    let replica = World::on(world.database.clone(), NEVER_STALE).await;
    let furnished = Furnished::create(&world, "acme").await;
    let tenant = &furnished.tenant;
    let (operator, acting) = (world.operator(), world.operator().acting(&furnished.user_id));
    let clients = [&tenant.client, &replica.client(&tenant.key)];
    for client in clients {
        gets(client, "").await;
    }
    let before = get(&operator, "acme").await.unwrap();
    let refusal = refused(undelete(&operator, "acme", "").await);
    assert!(refusal.is(Code::FailedPrecondition, "ORGANIZATION_NOT_DELETED"), "{refusal:?}");
    assert!(refused(delete(&operator, "acme", "stale").await).is(Code::Aborted, "ETAG_MISMATCH"));

    let deleted = delete(&operator, "acme", &before.etag).await.unwrap();
    let (delete_time, purge_time) = (deleted.delete_time.unwrap(), deleted.purge_time.unwrap());
    assert_eq!(purge_time.seconds - delete_time.seconds, 30 * 86_400);
    for client in clients {
        gets(client, "API_KEY_INVALID").await;
        refused_by_every_rpc(client, Code::Unauthenticated, "API_KEY_INVALID").await;
    }
    for world in [&world, &replica] {
        let operator = world.operator();
        assert_eq!(verify(&operator, &tenant.key).await, v1::VerificationCode::NotFound);
        assert_eq!(get(&operator, &tenant.id).await.unwrap(), deleted);
        assert_eq!(get(&operator, "acme").await.unwrap(), deleted);
        for case in cases(&furnished) {
            let Some(request) = case.organization else { continue };
            // These work on what is deleted, and on what belongs to no organization.
            if ["/GetOrganization", "/UndeleteOrganization", "/UpdateUser"].iter().any(|rpc| case.path.ends_with(rpc)) {
                continue;
            }
            let refusal = refused(raw(&operator, case.path, request).await);
            assert!(refusal.is(Code::FailedPrecondition, "ORGANIZATION_DELETED"), "{}: {refusal:?}", case.path);
        }
    }
    // Who acts for a member of it finds no more than a stranger does.
    for outcome in [get(&acting, "acme").await, undelete(&acting, "acme", "").await] {
        let refusal = refused(outcome);
        assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{refusal:?}");
    }

    assert!(refused(undelete(&operator, "acme", &before.etag).await).is(Code::Aborted, "ETAG_MISMATCH"));
    let back = undelete(&replica.operator(), "acme", &deleted.etag).await.unwrap();
    let as_before = v1::Organization { etag: back.etag.clone(), update_time: back.update_time, ..before };
    assert_eq!(back, as_before);
    for client in clients {
        gets(client, "").await;
    }
    for world in [&world, &replica] {
        assert_eq!(verify(&world.operator(), &tenant.key).await, v1::VerificationCode::Valid);
    }
    get(&acting, "acme").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_suspended_comes_back_suspended() {
    let world = World::start_with(NEVER_STALE).await;
    let tenant = world.tenant("acme").await;
    let operator = world.operator();
    let suspended = suspend(&operator, "acme", "unpaid", "").await.unwrap();
    assert_eq!(delete(&operator, "acme", "").await.unwrap().status(), v1::OrganizationStatus::Suspended);
    gets(&tenant.client, "API_KEY_INVALID").await;
    let back = undelete(&operator, "acme", "").await.unwrap();
    assert_eq!((back.status(), back.suspend_time), (v1::OrganizationStatus::Suspended, suspended.suspend_time));
    gets(&tenant.client, "ORGANIZATION_SUSPENDED").await;
}

/// Everything of an organization, table by table, as text. Every table that has a column for it, by the catalog.
async fn belongings(world: &World, id: &str) -> BTreeMap<String, Vec<String>> {
    let superuser = &world.database.superuser;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    let mut belongings = BTreeMap::new();
    for table in tables {
        let sql = format!("SELECT t::text FROM {table} t WHERE organization_id = '{id}' ORDER BY 1");
        belongings.insert(table, sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(superuser).await.unwrap());
    }
    belongings
}

async fn a_day_of_upkeep(world: &World, days: u64) {
    world.clock.advance(Duration::from_secs(days * 86_400));
    let options = UpkeepOptions { accepted_age: chrono::TimeDelta::days(35), retention: chrono::TimeDelta::days(90) };
    upkeep::run_once(&world.running.database, &world.clock, options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_leaves_nothing_of_it_and_all_of_the_others() {
    let world = World::start().await;
    let doomed = Furnished::create(&world, "doomed").await;
    let later = Furnished::create(&world, "later").await;
    let spared = Furnished::create(&world, "spared").await;
    let neighbour = Furnished::create(&world, "neighbour").await;
    // A member of both: people stay when an organization goes.
    let request = v1::AddMemberRequest {
        organization_id: "doomed".into(),
        user_id: neighbour.user_id.clone(),
        role: "viewer".into(),
        ..Default::default()
    };
    let operator = world.operator();
    operator.members().add_member(request).await.unwrap();
    // Request ids and what is like them are forgotten after a day or two, which is not what this is about.
    for (table, time) in
        [("idempotent_requests", "create_time"), ("quota_accounts", "expire_time"), ("quota_operations", "create_time")]
    {
        let later = format!("UPDATE tenancy.{table} SET {time} = {time} + interval '90 days'");
        sqlx::query(AssertSqlSafe(later)).execute(&world.database.superuser).await.unwrap();
    }

    for organization in ["doomed", "spared"] {
        delete(&operator, organization, "").await.unwrap();
    }
    a_day_of_upkeep(&world, 1).await;
    undelete(&operator, "spared", "").await.unwrap();
    delete(&operator, "later", "").await.unwrap();
    let of_all = async || {
        let mut all = Vec::new();
        for furnished in [&later, &spared, &neighbour] {
            all.push(belongings(&world, &furnished.tenant.id).await);
        }
        all
    };
    let before = (belongings(&world, &doomed.tenant.id).await, of_all().await);
    for (table, rows) in &before.0 {
        assert!(!rows.is_empty(), "{table}: it has no row here, so this would prove nothing");
    }
    // A day before its time.
    a_day_of_upkeep(&world, 28).await;
    assert_eq!((belongings(&world, &doomed.tenant.id).await, of_all().await), before);

    a_day_of_upkeep(&world, 1).await;
    for (table, rows) in belongings(&world, &doomed.tenant.id).await {
        assert!(rows.is_empty(), "{table}: {rows:?}");
    }
    assert_eq!(of_all().await, before.1);
    gets(&doomed.tenant.client, "API_KEY_INVALID").await;
    gets(&spared.tenant.client, "").await;
    gets(&neighbour.tenant.client, "").await;
    for name in [&*doomed.tenant.id, "doomed"] {
        eventually("it is not found", async || {
            get(&operator, name)
                .await
                .is_err_and(|status| refused::<()>(Err(status)).is(Code::NotFound, "ORGANIZATION_NOT_FOUND"))
        })
        .await;
    }
    for user_id in [&doomed.user_id, &neighbour.user_id] {
        let request = v1::GetUserRequest { user_id: user_id.clone(), ..Default::default() };
        operator.users().get_user(request).await.unwrap();
    }
    let again = world.tenant("doomed").await;
    assert_ne!(again.id, doomed.tenant.id);

    // The others' turn, which for those that live never comes.
    a_day_of_upkeep(&world, 365).await;
    assert!(belongings(&world, &later.tenant.id).await.values().all(Vec::is_empty));
    for living in [&spared.tenant, &neighbour.tenant, &again] {
        get(&operator, &living.slug).await.unwrap();
    }
    let filter = "action = \"organizations.purge\"".into();
    let request = v1::ListAuditEventsRequest { filter, ..Default::default() };
    let purges = operator.audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let purges: Vec<_> = purges.into_iter().map(|purge| (purge.resource_id, purge.actor.unwrap().r#type())).collect();
    let system = v1::AuditActorType::System;
    assert_eq!(purges, [(later.tenant.id, system), (doomed.tenant.id, system)]);
}
