//! Whatever is called in whatever order: some owner remains, and nobody who is none ends with more than they had. Over
//! the wire against one world, a tenant of its own for each sequence.

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tenancy::auth::permission::{Permission, Permissions};
use tenancy::proto::v1;
use tokio::runtime::Handle;
use tonic::Status;

use super::{add, reactivate, remove, set_role, suspend, transfer};
use crate::harness::keys::{self, secret_key};
use crate::harness::{Client, Tenant, World, taken_apart};
use crate::role::{self, PERMISSIONS, change, create, with_permissions};

/// One call: by whom, about whom, and what. Persons and roles are places in the lists of their sequence.
#[derive(Clone, Debug)]
enum Call {
    Add(Index, Index),
    SetRole(Index, Index),
    Permit(Index, Vec<&'static str>, Vec<&'static str>),
    Remove(Index),
    Suspend(Index),
    Reactivate(Index),
    Transfer(Index, Index),
    CreateRole(Index, Vec<&'static str>),
    UpdateRole(Index, Vec<&'static str>),
    DeleteRole(Index),
    CreateKey(Vec<&'static str>),
}

/// The roles that a sequence knows: the built-in ones, and some of the tenant's own, whether they are there or not.
const ROLES: [&str; 7] = ["owner", "admin", "member", "viewer", "start", "one", "two"];

fn names() -> Vec<&'static str> {
    Permissions::for_roles().iter().map(Permission::as_str).collect()
}

/// A few permissions, mostly such as matter here.
fn permissions() -> impl Strategy<Value = Vec<&'static str>> {
    let weighty = vec!["members.update", "members.add", "roles.manage", "keys.create", "audit.read", "usage.read"];
    prop_oneof![subsequence(weighty, 0..=3), subsequence(names(), 0..=4), Just(names())]
}

fn call() -> impl Strategy<Value = Call> {
    let (person, role, some) = (any::<Index>, any::<Index>, permissions);
    prop_oneof![
        1 => (person(), role()).prop_map(|(user, role)| Call::Add(user, role)),
        3 => (person(), role()).prop_map(|(user, role)| Call::SetRole(user, role)),
        3 => (person(), some(), some()).prop_map(|(user, extra, denied)| Call::Permit(user, extra, denied)),
        1 => person().prop_map(Call::Remove),
        1 => person().prop_map(Call::Suspend),
        1 => person().prop_map(Call::Reactivate),
        1 => (person(), person()).prop_map(|(to, from)| Call::Transfer(to, from)),
        2 => (role(), some()).prop_map(|(key, permissions)| Call::CreateRole(key, permissions)),
        2 => (role(), some()).prop_map(|(key, permissions)| Call::UpdateRole(key, permissions)),
        1 => role().prop_map(Call::DeleteRole),
        1 => some().prop_map(Call::CreateKey),
    ]
}

/// Calls about who owns, mostly by who may.
fn about_owners() -> impl Strategy<Value = Call> {
    let (person, role) = (any::<Index>, any::<Index>);
    prop_oneof![
        1 => (person(), role()).prop_map(|(user, role)| Call::Add(user, role)),
        3 => (person(), role()).prop_map(|(user, role)| Call::SetRole(user, role)),
        2 => person().prop_map(Call::Remove),
        4 => person().prop_map(Call::Suspend),
        1 => person().prop_map(Call::Reactivate),
        2 => (person(), person()).prop_map(|(to, from)| Call::Transfer(to, from)),
    ]
}

/// A sequence's tenant and who is about.
struct Scene {
    tenant: Tenant,
    people: Vec<String>,
    /// Those who call: acting for people, and keys that they made.
    callers: Vec<Client>,
    /// The scopes of the keys that were made.
    scopes: Vec<String>,
}

impl Scene {
    async fn call(&mut self, world: &World, caller: Index, call: &Call) -> Result<(), Status> {
        let client = caller.get(&self.callers).clone();
        let tenant = &self.tenant;
        let person = |index: &Index| index.get(&self.people).as_str();
        let role = |index: &Index| *index.get(&ROLES);
        match call {
            Call::Add(user, key) => add(&client, tenant, person(user), role(key)).await.map(drop),
            Call::SetRole(user, key) => set_role(&client, tenant, person(user), role(key), "").await.map(drop),
            Call::Permit(user, extra, denied) => {
                let mut member = with_permissions(person(user), extra, denied);
                member.organization_id.clone_from(&tenant.id);
                change(&client, member, PERMISSIONS).await.map(drop)
            }
            Call::Remove(user) => remove(&client, tenant, person(user), "").await,
            Call::Suspend(user) => suspend(&client, tenant, person(user), "").await.map(drop),
            Call::Reactivate(user) => reactivate(&client, tenant, person(user), "").await.map(drop),
            Call::Transfer(to, from) => transfer(&client, tenant, (person(to), person(from), "viewer")).await.map(drop),
            Call::CreateRole(key, permissions) => {
                let mut role = role::role(role(key), permissions);
                role.organization_id.clone_from(&tenant.id);
                create(&client, role).await.map(drop)
            }
            Call::UpdateRole(key, permissions) => {
                let mut role = role::role(role(key), permissions);
                role.organization_id.clone_from(&tenant.id);
                role::update(&client, role, "permissions").await.map(drop)
            }
            Call::DeleteRole(key) => role::delete(&client, role(key), "").await,
            Call::CreateKey(scopes) => {
                let key = v1::ApiKey { organization_id: tenant.id.clone(), ..secret_key(scopes) };
                let (created, secret) = keys::create(&client, key).await?;
                self.callers.push(world.client(&secret));
                self.scopes.extend(created.scopes);
                Ok(())
            }
        }
    }

    /// What a person may do, by the service's own word; nothing for who is no member.
    async fn held(&self, user_id: &str) -> Permissions {
        let request = v1::ListPermissionsRequest { user_id: user_id.into(), ..Default::default() };
        let Ok(reply) = self.tenant.client.permissions().list_permissions(request).await else {
            return Permissions::default();
        };
        let reply = reply.into_inner().permissions.into_iter();
        // Whether they are suspended for the time being is beside the point.
        reply.filter(|permission| permission.allowed).map(|permission| permission.name.parse().unwrap()).collect()
    }
}

/// A refusal is what was expected, or the service is at fault.
fn expected(outcome: Result<(), Status>) -> Result<(), TestCaseError> {
    let Err(status) = outcome else { return Ok(()) };
    let known = [
        "ALREADY_MEMBER",
        "INVALID_FIELD",
        "LAST_OWNER",
        "MEMBER_NOT_FOUND",
        "MEMBER_SUSPENDED",
        "NOT_AN_OWNER",
        "NOT_A_MEMBER",
        "OWNER_HAS_ALL",
        "OWNER_REQUIRED",
        "PERMISSION_MISSING",
        "PRIVILEGE_ESCALATION",
        "ROLE_BUILT_IN",
        "ROLE_IN_USE",
        "ROLE_NOT_FOUND",
        "ROLE_TAKEN",
        "SCOPE_NOT_HELD",
    ];
    let reason = taken_apart(&status).reason;
    prop_assert!(known.contains(&reason.as_str()), "{status:?}");
    Ok(())
}

/// Runs sequences, each in a future of its own, one after the other.
fn run<S: Strategy>(cases: u32, strategy: &S, test: impl AsyncFn(u32, S::Value) -> Result<(), TestCaseError>) {
    let mut runner =
        TestRunner::new(Config { cases, max_shrink_iters: 100, failure_persistence: None, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let outcome = tokio::task::block_in_place(|| {
        runner.run(strategy, |value| {
            number.set(number.get() + 1);
            Handle::current().block_on(test(number.get(), value))
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_owner_always_remains() {
    let world = World::start().await;
    let doings = prop::collection::vec((any::<Index>(), about_owners()), 20);
    run(16, &doings, async |number, calls| {
        let tenant = world.tenant(&format!("owners-{number}")).await;
        let mut people = Vec::new();
        for (name, role) in [("a", "owner"), ("b", "owner"), ("c", "viewer")] {
            people.push(tenant.member(&world, name, role).await);
        }
        let mut callers = vec![world.operator(), world.operator(), world.operator()];
        callers.extend(people.iter().map(|user| tenant.client.clone().acting(user)));
        let mut scene = Scene { tenant, people, callers, scopes: Vec::new() };
        for (caller, call) in &calls {
            expected(scene.call(&world, *caller, call).await)?;
            let active: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM tenancy.members WHERE organization_id = $1::uuid AND role = 'owner'
                 AND status = 'active'",
            )
            .bind(&scene.tenant.id)
            .fetch_one(&world.database.superuser)
            .await
            .unwrap();
            prop_assert!(active > 0, "{call:?}");
        }
        Ok(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_ends_with_more_than_they_had() {
    let world = World::start().await;
    // What it takes to try, more of it or less, beside some of anything.
    let tools = vec![
        "members.add",
        "members.update",
        "members.suspend",
        "members.remove",
        "roles.manage",
        "keys.create",
        "keys.update",
    ];
    let tools = prop_oneof![Just(tools.clone()), subsequence(tools, 3..7)];
    let start = (tools, permissions(), select(vec!["viewer", "member", "admin"]), permissions());
    let doings = (start, prop::collection::vec((any::<Index>(), call()), 24));
    let calls_that_did_something = std::cell::Cell::new(0);
    run(16, &doings, async |number, ((tools, beside, second, denied), calls)| {
        let tenant = world.tenant(&format!("escalation-{number}")).await;
        let mut start = [tools, beside].concat();
        start.sort_unstable();
        start.dedup();
        create(&tenant.client, role::role("start", &start)).await.unwrap();
        let mut people = Vec::new();
        for (name, role) in [("attacker", "start"), ("second", second), ("owner", "owner"), ("bystander", "admin")] {
            people.push(tenant.member(&world, name, role).await);
        }
        // Together they hold what both do; what is denied to the one is no reason to get it from nowhere.
        change(&tenant.client, with_permissions(&people[1], &[], &denied), PERMISSIONS).await.unwrap();
        let callers = people[..2].iter().map(|user| tenant.client.clone().acting(user)).collect();
        let mut scene = Scene { tenant, people, callers, scopes: Vec::new() };
        let most = scene.held(&scene.people[0]).await.or(scene.held(&scene.people[1]).await);
        for (caller, call) in &calls {
            let outcome = scene.call(&world, *caller, call).await;
            calls_that_did_something.set(calls_that_did_something.get() + u32::from(outcome.is_ok()));
            expected(outcome)?;
            for user in &scene.people[..2] {
                let gained = scene.held(user).await.without(most);
                let gained: Vec<Permission> = gained.iter().collect();
                prop_assert!(gained.is_empty(), "{call:?} gave {gained:?}");
            }
            let in_keys = Permissions::of_scopes(&scene.scopes).without(most);
            prop_assert!(in_keys.is_empty(), "{call:?} made a key for {in_keys:?}");
        }
        Ok(())
    });
    // A service that refused everything would hold this too.
    assert!(calls_that_did_something.get() > 20, "{}", calls_that_did_something.get());
}
