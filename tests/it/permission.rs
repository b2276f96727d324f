//! `PermissionService`, over the wire: what users and callers may do, and why not.

use std::collections::BTreeMap;
use std::time::Duration;

use tenancy::auth::permission::{Permission, Permissions};
use tenancy::model::member::Role;
use tenancy::proto::v1;
use tenancy::proto::v1::PermissionVerdict as Verdict;
use tonic::{Code, Status};

use crate::harness::keys::settled;
use crate::harness::{Client, World, refused};
use crate::role::{PERMISSIONS, change, create, role, with_permissions};

const NOBODY: &str = "018f6d2e-0000-7000-8000-00000000dead";

async fn check(client: &Client, organization: &str, asked: &[(&str, &str)]) -> Result<Vec<Verdict>, Status> {
    let questions = asked.iter().map(|(user_id, permission)| v1::PermissionQuestion {
        user_id: (*user_id).into(),
        permission: (*permission).into(),
    });
    let request = v1::CheckPermissionRequest { organization_id: organization.into(), questions: questions.collect() };
    let answers = client.permissions().check_permission(request).await?.into_inner().answers;
    assert!(answers.iter().all(|answer| answer.allowed == (answer.verdict() == Verdict::Allowed)));
    Ok(answers.iter().map(v1::PermissionAnswer::verdict).collect())
}

async fn list(client: &Client, user_id: &str) -> Result<v1::ListPermissionsResponse, Status> {
    let request = v1::ListPermissionsRequest { user_id: user_id.into(), ..Default::default() };
    Ok(client.permissions().list_permissions(request).await?.into_inner())
}

/// The names of what is allowed.
fn allowed(reply: &v1::ListPermissionsResponse) -> Vec<&str> {
    reply.permissions.iter().filter(|permission| permission.allowed).map(|permission| &*permission.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_question_is_answered_with_its_reason() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    create(&tenant.client, role("auditor", &["audit.read"])).await.unwrap();
    let ida = tenant.member(&world, "ida", "auditor").await;
    change(&tenant.client, with_permissions(&ida, &["usage.read"], &["audit.read"]), PERMISSIONS).await.unwrap();
    let suspended = tenant.member(&world, "suspended", "admin").await;
    let request = v1::SuspendMemberRequest { user_id: suspended.clone(), ..Default::default() };
    tenant.client.members().suspend_member(request).await.unwrap();
    let gone = tenant.member(&world, "gone", "owner").await;
    let request = v1::DeactivateUserRequest { user_id: gone.clone(), ..Default::default() };
    world.operator().users().deactivate_user(request).await.unwrap();
    let theirs = other.member(&world, "theirs", "owner").await;

    let asked = [
        (&*ida, "usage.read"),
        (&ida, "audit.read"),
        (&ida, "keys.read"),
        (&ida, "organizations.create"),
        (&suspended, "usage.read"),
        (&gone, "usage.read"),
        (NOBODY, "usage.read"),
        // Another tenant's owner is nobody here.
        (&theirs, "usage.read"),
        ("", "users.act_as"),
        ("", "organizations.create"),
    ];
    let expected = [
        Verdict::Allowed,
        Verdict::Denied,
        Verdict::NotGranted,
        Verdict::NotGranted,
        Verdict::MemberSuspended,
        Verdict::UserDeactivated,
        Verdict::NotAMember,
        Verdict::NotAMember,
        Verdict::Allowed,
        Verdict::NotInScopes,
    ];
    assert_eq!(check(&tenant.client, "", &asked).await.unwrap(), expected);

    // Who acts for somebody has what both have.
    change(&tenant.client, with_permissions(&ida, &["usage.read", "permissions.read"], &[]), PERMISSIONS)
        .await
        .unwrap();
    let scopes = [Permission::UsersActAs, Permission::PermissionsRead, Permission::AuditRead];
    let acting = tenant.with_scopes(&world, &scopes).await.acting(&ida);
    let asked = [("", "audit.read"), ("", "usage.read"), ("", "keys.read"), (&*ida, "usage.read")];
    let expected = [Verdict::Allowed, Verdict::NotInScopes, Verdict::NotGranted, Verdict::Allowed];
    assert_eq!(check(&acting, "", &asked).await.unwrap(), expected);
    assert_eq!(allowed(&list(&acting, "").await.unwrap()), ["permissions.read", "audit.read"]);

    // Whoever is in a suspended organization may nothing.
    let request = v1::SuspendOrganizationRequest { organization_id: tenant.id.clone(), ..Default::default() };
    world.operator().organizations().suspend_organization(request).await.unwrap();
    let asked = [(&*ida, "usage.read"), (NOBODY, "usage.read"), ("", "organizations.create")];
    let expected = [Verdict::OrganizationSuspended, Verdict::NotAMember, Verdict::Allowed];
    assert_eq!(check(&world.operator(), "acme", &asked).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vocabulary_is_whole() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for role in Role::ALL {
        let user = tenant.member(&world, role.as_str(), role.as_str()).await;
        let listed = list(&tenant.client, &user).await.unwrap();
        let expected: Vec<&str> = Permissions::of_role(role).iter().map(Permission::as_str).collect();
        assert_eq!((allowed(&listed), listed.role.as_str()), (expected, role.as_str()));
    }
    let listed = list(&tenant.client, "").await.unwrap();
    let names: Vec<&str> = listed.permissions.iter().map(|permission| &*permission.name).collect();
    assert_eq!(names, Permission::ALL.iter().map(|permission| permission.as_str()).collect::<Vec<_>>());
    assert_eq!(listed.role, "");
    let by_name: BTreeMap<&str, &v1::Permission> =
        listed.permissions.iter().map(|permission| (&*permission.name, permission)).collect();
    let (add, create) = (by_name["members.add"], by_name["organizations.create"]);
    assert_eq!((&*add.description, add.audience()), ("Add members.", v1::PermissionAudience::Admin));
    assert_eq!((create.audience(), create.allowed), (v1::PermissionAudience::Platform, false));
    assert!(by_name["usage.write"].publishable && !add.publishable);
    assert!(listed.permissions.iter().all(|permission| !permission.description.is_empty()));
    let refusal = refused(list(&tenant.client, NOBODY).await);
    assert!(refusal.is(Code::NotFound, "MEMBER_NOT_FOUND"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_questions_are_answered_and_no_more() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let mut users = Vec::new();
    for number in 0..10 {
        users.push(tenant.member(&world, &format!("u{number}"), "viewer").await);
    }
    let asked = |most: usize| -> Vec<(&str, &str)> {
        let user = |number: usize| &*users[number % users.len()];
        (0..most).map(|number| (user(number), Permission::ALL[number % Permission::ALL.len()].as_str())).collect()
    };
    let answers = check(&tenant.client, "", &asked(1000)).await.unwrap();
    let viewer = Permissions::of_role(Role::Viewer);
    for (number, verdict) in answers.iter().enumerate() {
        let held = viewer.contains(Permission::ALL[number % Permission::ALL.len()]);
        assert_eq!(*verdict == Verdict::Allowed, held, "{number}");
    }
    for asked in [asked(1001), Vec::new()] {
        let refusal = refused(check(&tenant.client, "", &asked).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["questions"], "{refusal:?}");
    }
    let refusal = refused(check(&tenant.client, "", &[("", "usage.read"), ("x", "root")]).await);
    assert_eq!(refusal.fields, ["questions[1].user_id", "questions[1].permission"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_before_is_answered_from_memory() {
    let world = World::start_with(&["--cache-lifetime", "1h"]).await;
    let tenant = world.tenant("acme").await;
    let ida = tenant.member(&world, "ida", "viewer").await;
    let asked = [(&*ida, "usage.read"), ("", "usage.read")];
    settled(&world, &tenant).await;
    check(&tenant.client, "", &asked).await.unwrap();
    // Whoever asks the tables now waits.
    let mut locked = world.database.superuser.begin().await.unwrap();
    let tables = "LOCK TABLE tenancy.members, tenancy.organizations, tenancy.users, tenancy.roles";
    sqlx::query(tables).execute(&mut *locked).await.unwrap();
    let check = check(&tenant.client, "", &asked);
    let answers = tokio::time::timeout(Duration::from_secs(10), check).await.expect("nobody waits for the database");
    assert_eq!(answers.unwrap(), [Verdict::Allowed; 2]);
    locked.rollback().await.unwrap();
}
