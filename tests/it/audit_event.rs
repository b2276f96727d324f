//! `AuditService`, over the wire, and what every change of organizations, users and members writes into it (I9).

use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{FieldMask, Struct};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::{Client, Tenant, World, refused};

/// Where the records of the platform are.
const PLATFORM: &str = "";

async fn list(client: &Client, request: v1::ListAuditEventsRequest) -> Result<v1::ListAuditEventsResponse, Status> {
    Ok(client.audit().list_audit_events(request).await?.into_inner())
}

async fn events(client: &Client, organization: &str, filter: &str) -> Vec<v1::AuditEvent> {
    let request = v1::ListAuditEventsRequest {
        organization_id: organization.into(),
        filter: filter.into(),
        page_size: 1000,
        ..Default::default()
    };
    list(client, request).await.unwrap().audit_events
}

fn mask(path: &str) -> FieldMask {
    FieldMask { paths: vec![path.into()] }
}

/// A text of what was before or after.
fn field<'a>(of: Option<&'a Struct>, name: &str) -> Option<&'a str> {
    match of?.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Changes things, and sees that each change left one record.
struct Witness<'a> {
    world: &'a World,
    client: Client,
    actor: v1::AuditActor,
    acting_user_id: String,
}

/// What a record must say of the resource.
struct Expected<'a> {
    organization: &'a str,
    action: &'a str,
    resource_id: &'a str,
    /// A field, and its value before and after; a value that is absent is of a resource that was not there.
    change: (&'a str, Option<&'a str>, Option<&'a str>),
}

impl Witness<'_> {
    fn client(&self, request_id: &str) -> Client {
        self.client.clone().header("x-request-id", request_id)
    }

    async fn saw(&self, request_id: &str, expected: Expected<'_>) {
        let filter = format!("request_id = \"{request_id}\"");
        let operator = self.world.operator();
        let organization = expected.organization;
        let mut found = events(&operator, organization, &filter).await;
        assert_eq!(found.len(), 1, "{request_id}: {found:?}");
        let event = found.remove(0);
        assert_eq!((event.action.as_str(), event.request_id.as_str()), (expected.action, request_id));
        assert_eq!((event.organization_id.as_str(), event.resource_id.as_str()), (organization, expected.resource_id));
        assert_eq!(format!("{}s", event.resource_type), expected.action.split_once('.').unwrap().0);
        assert_eq!((event.actor.as_ref(), &event.acting_user_id), (Some(&self.actor), &self.acting_user_id));
        assert!(event.occur_time.is_some());
        let (name, before, after) = expected.change;
        assert_eq!((event.before.is_some(), event.after.is_some()), (before.is_some(), after.is_some()), "{event:?}");
        assert_eq!((field(event.before.as_ref(), name), field(event.after.as_ref(), name)), (before, after));
        // And nothing elsewhere.
        let count: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM tenancy.audit_events WHERE request_id = $1)
                  + (SELECT count(*) FROM tenancy.platform_audit_events WHERE request_id = $1)",
        )
        .bind(request_id)
        .fetch_one(&self.world.database.superuser)
        .await
        .unwrap();
        assert_eq!(count, 1, "{request_id}");
    }
}

async fn operator(world: &World) -> Witness<'_> {
    let id: String = sqlx::query_scalar("SELECT platform_key_id::text FROM tenancy.platform_keys WHERE kind = 'op'")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    let actor = v1::AuditActor { r#type: v1::AuditActorType::Operator.into(), id };
    Witness { world, client: world.operator(), actor, acting_user_id: String::new() }
}

fn key<'a>(world: &'a World, tenant: &Tenant) -> Witness<'a> {
    let actor = v1::AuditActor { r#type: v1::AuditActorType::ApiKey.into(), id: tenant.key_id.clone() };
    Witness { world, client: tenant.client.clone(), actor, acting_user_id: String::new() }
}

/// A service key that acts for a user.
async fn service<'a>(world: &'a World, user_id: &str) -> Witness<'a> {
    let client = world.service(Permission::ALL, &[]).await.acting(user_id);
    let id: String = sqlx::query_scalar("SELECT platform_key_id::text FROM tenancy.platform_keys WHERE kind = 'svc'")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    let actor = v1::AuditActor { r#type: v1::AuditActorType::Service.into(), id };
    Witness { world, client, actor, acting_user_id: user_id.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organizations() {
    let world = World::start().await;
    let by = operator(&world).await;
    let organization = v1::Organization { slug: "acme".into(), display_name: "Acme".into(), ..Default::default() };
    let mut request = v1::CreateOrganizationRequest {
        organization: Some(organization.clone()),
        validate_only: true,
        ..Default::default()
    };
    by.client("tried").organizations().create_organization(request.clone()).await.unwrap();
    request.validate_only = false;
    let created = by.client("o-create").organizations().create_organization(request).await.unwrap().into_inner();
    let id = created.organization.unwrap().organization_id;
    let saw = async |request_id: &str, action: &str, change: (&str, Option<&str>, Option<&str>)| {
        by.saw(request_id, Expected { organization: &id, action, resource_id: &id, change }).await;
    };
    saw("o-create", "organizations.create", ("slug", None, Some("acme"))).await;

    let changed = v1::Organization { organization_id: id.clone(), display_name: "Acme SpA".into(), ..organization };
    let request = v1::UpdateOrganizationRequest {
        organization: Some(changed),
        update_mask: Some(mask("display_name")),
        validate_only: true,
    };
    by.client("tried").organizations().update_organization(request.clone()).await.unwrap();
    let request = v1::UpdateOrganizationRequest { validate_only: false, ..request };
    by.client("o-update").organizations().update_organization(request).await.unwrap();
    saw("o-update", "organizations.update", ("display_name", Some("Acme"), Some("Acme SpA"))).await;

    let request =
        v1::SuspendOrganizationRequest { organization_id: id.clone(), reason: "unpaid".into(), ..Default::default() };
    by.client("o-suspend").organizations().suspend_organization(request).await.unwrap();
    saw("o-suspend", "organizations.suspend", ("slug", Some("acme"), Some("acme"))).await;
    for request_id in ["o-resume", "again"] {
        let request = v1::ResumeOrganizationRequest { organization_id: id.clone(), ..Default::default() };
        by.client(request_id).organizations().resume_organization(request).await.unwrap();
    }
    saw("o-resume", "organizations.resume", ("slug", Some("acme"), Some("acme"))).await;
    for (request_id, validate_only) in [("tried", true), ("o-delete", false)] {
        let request =
            v1::DeleteOrganizationRequest { organization_id: id.clone(), validate_only, ..Default::default() };
        by.client(request_id).organizations().delete_organization(request).await.unwrap();
    }
    let request = v1::UndeleteOrganizationRequest { organization_id: id.clone(), ..Default::default() };
    by.client("o-undelete").organizations().undelete_organization(request).await.unwrap();
    saw("o-delete", "organizations.delete", ("slug", Some("acme"), Some("acme"))).await;
    saw("o-undelete", "organizations.undelete", ("slug", Some("acme"), Some("acme"))).await;

    // What was only tried, or changed nothing, left none.
    let actions: Vec<_> = events(&by.client, "acme", "").await.into_iter().rev().map(|event| event.action).collect();
    let expected = ["create", "update", "suspend", "resume", "delete", "undelete"];
    assert_eq!(actions, expected.map(|verb| format!("organizations.{verb}")));
    let suspended = events(&by.client, "acme", "action = \"organizations.suspend\"").await.remove(0);
    let reasons = [suspended.before, suspended.after].map(|of| format!("{of:?}").contains("unpaid"));
    assert_eq!(reasons, [false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let by = operator(&world).await;
    let user = v1::User { email: "ida@example.com".into(), display_name: "Ida".into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user.clone()), ..Default::default() };
    let created = by.client("u-create").users().create_user(request).await.unwrap().into_inner();
    let id = created.user.unwrap().user_id;
    let expected = |action, change| Expected { organization: PLATFORM, action, resource_id: &id, change };
    by.saw("u-create", expected("users.create", ("email", None, Some("ida@example.com")))).await;

    let request = v1::AddMemberRequest {
        user_id: id.clone(),
        role: "owner".into(),
        organization_id: tenant.id.clone(),
        ..Default::default()
    };
    by.client.members().add_member(request).await.unwrap();
    let themselves =
        Witness { client: tenant.client.clone().acting(&id), acting_user_id: id.clone(), ..key(&world, &tenant) };
    let through_service = service(&world, &id).await;
    let names = ["Ida", "Ida B.", "Ida C.", "Ida D."];
    for (number, (by, organization)) in
        [(&by, ""), (&themselves, ""), (&through_service, "acme")].into_iter().enumerate()
    {
        let request = v1::UpdateUserRequest {
            user: Some(v1::User { user_id: id.clone(), display_name: names[number + 1].into(), ..user.clone() }),
            update_mask: Some(mask("display_name")),
            organization_id: organization.into(),
        };
        let request_id = format!("u-update-{number}");
        by.client(&request_id).users().update_user(request).await.unwrap();
        let change = ("display_name", Some(names[number]), Some(names[number + 1]));
        by.saw(&request_id, expected("users.update", change)).await;
    }
    for request_id in ["u-deactivate", "again"] {
        let request = v1::DeactivateUserRequest { user_id: id.clone(), ..Default::default() };
        by.client(request_id).users().deactivate_user(request).await.unwrap();
    }
    by.saw("u-deactivate", expected("users.deactivate", ("status", Some("active"), Some("deactivated")))).await;
    assert!(events(&by.client, PLATFORM, "request_id = \"again\"").await.is_empty());
    // The platform's records are none of the organization's.
    assert!(events(&tenant.client, "", "resource_type = \"user\"").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let id = tenant.member(&world, "ida", "viewer").await;
    let request = v1::RemoveMemberRequest { organization_id: "acme".into(), user_id: id.clone(), ..Default::default() };
    world.operator().members().remove_member(request).await.unwrap();
    let acting =
        Witness { client: tenant.client.clone().acting(&owner), acting_user_id: owner.clone(), ..key(&world, &tenant) };
    for (who, by) in [
        ("operator", operator(&world).await),
        ("key", key(&world, &tenant)),
        ("acting", acting),
        ("service", service(&world, &owner).await),
    ] {
        let request_id = |verb: &str| format!("{verb} by {who}").replace(' ', "-");
        let saw = async |verb: &str, before, after| {
            let action = format!("members.{verb}");
            let change = ("role", before, after);
            by.saw(&request_id(verb), Expected { organization: &tenant.id, action: &action, resource_id: &id, change })
                .await;
        };
        let (organization_id, user_id) = (tenant.id.clone(), id.clone());
        let request = v1::AddMemberRequest {
            organization_id: organization_id.clone(),
            user_id: user_id.clone(),
            role: "viewer".into(),
            request_id: "018f6d2e-0000-7000-8000-000000000001".into(),
        };
        by.client(&request_id("add")).members().add_member(request.clone()).await.unwrap();
        // The same again changes nothing.
        by.client("again").members().add_member(request).await.unwrap();
        saw("add", None, Some("viewer")).await;
        for request_id in [&*request_id("update"), "again"] {
            let request = v1::UpdateMemberRoleRequest {
                organization_id: organization_id.clone(),
                user_id: user_id.clone(),
                role: "admin".into(),
                ..Default::default()
            };
            by.client(request_id).members().update_member_role(request).await.unwrap();
        }
        saw("update", Some("viewer"), Some("admin")).await;
        let request = v1::RemoveMemberRequest { organization_id, user_id, ..Default::default() };
        by.client(&request_id("remove")).members().remove_member(request).await.unwrap();
        saw("remove", Some("admin"), None).await;
    }
    assert!(events(&tenant.client, "", "request_id = \"again\"").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_no_record() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let owner = tenant.member(&world, "owner", "owner").await;
    let operator = world.operator().header("x-request-id", "refused");
    let (organization_id, user_id) = (tenant.id.clone(), owner.clone());
    let request = v1::RemoveMemberRequest { organization_id: organization_id.clone(), user_id, ..Default::default() };
    refused(operator.members().remove_member(request).await);
    let request = v1::SuspendOrganizationRequest { organization_id, etag: "stale".into(), ..Default::default() };
    refused(operator.organizations().suspend_organization(request).await);
    let user = v1::User { email: "OWNER@acme.example.com".into(), display_name: "x".into(), ..v1::User::default() };
    refused(operator.users().create_user(v1::CreateUserRequest { user: Some(user), ..Default::default() }).await);
    for organization in ["acme", PLATFORM] {
        assert!(events(&operator, organization, "request_id = \"refused\"").await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lists_page_and_filter() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let mut users = Vec::new();
    for number in 0..5 {
        // Ids of one millisecond are in no order.
        world.clock.advance(Duration::from_millis(2));
        users.push(tenant.member(&world, &format!("u{number}"), "owner").await);
    }
    other.member(&world, "theirs", "owner").await;
    world.clock.advance(Duration::from_millis(2));
    let request = v1::UpdateMemberRoleRequest { user_id: users[1].clone(), role: "admin".into(), ..Default::default() };
    let acting = tenant.client.clone().acting(&users[0]).header("x-request-id", "the-one");
    acting.members().update_member_role(request).await.unwrap();

    let listed = world.service(Permission::ALL, &[&tenant.id]).await;
    for (client, organization) in [(&tenant.client, ""), (&listed, "acme"), (&world.operator(), tenant.id.as_str())] {
        for (filter, expected) in [
            // The organization, its key, the members, the change.
            (String::new(), 8),
            ("action = \"members.add\"".into(), 5),
            ("action = \"members.ad\"".into(), 0),
            ("resource_type = \"member\"".into(), 6),
            (format!("resource_id = \"{}\"", users[1]), 2),
            (format!("actor_id = \"{}\"", tenant.key_id), 1),
            (format!("acting_user_id = \"{}\"", users[0]), 1),
            (format!("acting_user_id = \"{}\"", users[1]), 0),
            ("request_id = \"the-one\"".into(), 1),
            (format!("resource_id = \"{}\" AND action = \"members.update\"", users[1]), 1),
        ] {
            assert_eq!(events(client, organization, &filter).await.len(), expected, "{filter}");
        }
        for (request, field) in [
            (v1::ListAuditEventsRequest { filter: "acting_user_id = \"me\"".into(), ..Default::default() }, "filter"),
            (v1::ListAuditEventsRequest { filter: "before = \"x\"".into(), ..Default::default() }, "filter"),
            (v1::ListAuditEventsRequest { page_size: -1, ..Default::default() }, "page_size"),
            (v1::ListAuditEventsRequest { page_token: "x".into(), ..Default::default() }, "page_token"),
        ] {
            let request = v1::ListAuditEventsRequest { organization_id: organization.into(), ..request };
            let refusal = refused(list(client, request).await);
            assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == [field], "{refusal:?}");
        }
    }
    assert_eq!(events(&world.operator(), PLATFORM, "action = \"users.create\"").await.len(), 6);
    assert_eq!(events(&world.operator(), PLATFORM, &format!("resource_id = \"{}\"", users[1])).await.len(), 1);
    assert!(events(&world.operator(), PLATFORM, "resource_type = \"member\"").await.is_empty());

    for (client, organization) in [(&tenant.client, ""), (&world.operator(), PLATFORM)] {
        let all: Vec<_> = events(client, organization, "").await;
        assert!(all.is_sorted_by(|a, b| a.audit_event_id > b.audit_event_id));
        let mut seen = Vec::new();
        let mut request = v1::ListAuditEventsRequest { page_size: 3, ..Default::default() };
        loop {
            let page = list(client, request.clone()).await.unwrap();
            assert!((1..=3).contains(&page.audit_events.len()));
            seen.extend(page.audit_events);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(seen, all);
        let foreign = v1::ListAuditEventsRequest { filter: "action = \"x\"".into(), ..request };
        assert_eq!(refused(list(client, foreign).await).fields, ["page_token"]);
    }

    for client in [&tenant.client, &listed] {
        let request = v1::ListAuditEventsRequest { organization_id: other.id.clone(), ..Default::default() };
        assert!(refused(list(client, request).await).is(Code::NotFound, "ORGANIZATION_NOT_FOUND"));
    }
    let refusal = refused(list(&listed, v1::ListAuditEventsRequest::default()).await);
    assert!(refusal.is(Code::PermissionDenied, "PLATFORM_KEY_REQUIRED"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_changes_a_record() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    tenant.member(&world, "ida", "owner").await;
    let mut connection = PgConnection::connect_with(&world.database.service).await.unwrap();
    for role in ["tenancy_app", "tenancy_platform", "tenancy_ingest"] {
        for table in ["audit_events", "platform_audit_events"] {
            for change in [
                format!("UPDATE tenancy.{table} SET action = 'nothing'"),
                format!("UPDATE tenancy.{table} SET request_id = '' WHERE false"),
                format!("DELETE FROM tenancy.{table}"),
                format!("TRUNCATE tenancy.{table}"),
            ] {
                let begin =
                    format!("BEGIN; SET LOCAL ROLE {role}; SET LOCAL tenancy.organization_id = '{}'", tenant.id);
                sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut connection).await.unwrap();
                let outcome = sqlx::raw_sql(AssertSqlSafe(change.clone())).execute(&mut connection).await;
                let error = outcome.expect_err(&change);
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap();
                assert_eq!(code, "42501", "{role}: {change}: {error}");
                sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
            }
        }
    }
}
