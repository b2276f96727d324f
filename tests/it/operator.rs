//! `tenancy operator`: the keys of the platform, by the command and then over the wire.

use std::time::Duration;

use tenancy::cli::operator::OperatorError;
use tenancy::error::Error;
use tenancy::proto::v1;
use tonic::{Code, Status};

use crate::harness::keys::operate;
use crate::harness::{Client, World, eventually, refused};

async fn read(client: &Client, organization: &str) -> Result<v1::Organization, Status> {
    let request = v1::GetOrganizationRequest { organization_id: organization.into() };
    Ok(client.organizations().get_organization(request).await?.into_inner().organization.unwrap())
}

/// The line of `list` for the key with this name.
async fn listed(world: &World, name: &str) -> Option<String> {
    let list = operate(world, &["list"]).await.unwrap();
    list.lines().find(|line| line.contains(name)).map(str::to_owned)
}

fn id_of(line: &str) -> &str {
    line.split(' ').next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_do_everything() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let output = operate(&world, &["create", "--name", "Ops"]).await.unwrap();
    let key = output.trim();
    assert_eq!(output, format!("{key}\n"), "the key and nothing else");
    assert!(key.starts_with("op_"));
    let client = world.client(key);
    assert_eq!(read(&client, "acme").await.unwrap().organization_id, tenant.id);
    client.organizations().list_organizations(v1::ListOrganizationsRequest::default()).await.unwrap();

    let line = listed(&world, "Ops").await.unwrap();
    assert!(line.contains("operator") && line.contains(&format!("{}…", &key[..7])), "{line}");
    assert!(line.contains("never") && line.ends_with("active"), "{line}");
    tenancy::worker::last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
    assert!(!listed(&world, "Ops").await.unwrap().contains("never"), "its use is written");
    let list = operate(&world, &["list"]).await.unwrap();
    assert!(!list.contains(&key[3..19]) && !list.contains("argon2"), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_may_do_what_it_was_given_where_it_was_given() {
    let world = World::start().await;
    let (acme, beta, other) = (world.tenant("acme").await, world.tenant("beta").await, world.tenant("other").await);
    let arguments = ["create", "--name", "meterer", "--scope", "usage.write", "--scope", "organizations.read"];
    // By slug, by id, and one of them twice.
    let named = ["--organization", "acme", "--organization", &beta.id, "--organization", &acme.id];
    let key = operate(&world, &[&arguments[..], &named[..]].concat()).await.unwrap();
    assert!(key.starts_with("svc_"));
    let client = world.client(key.trim());
    for organization in [&acme.id, &acme.slug, &beta.id, &beta.slug] {
        read(&client, organization).await.unwrap();
    }
    for organization in [&other.id, &other.slug, "nobody"] {
        let refusal = refused(read(&client, organization).await);
        assert!(refusal.is(Code::NotFound, "ORGANIZATION_NOT_FOUND"), "{organization}: {refusal:?}");
    }
    let request = v1::ListApiKeysRequest { organization_id: acme.id.clone(), ..Default::default() };
    let refusal = refused(client.api_keys().list_api_keys(request).await);
    assert!(refusal.is(Code::PermissionDenied, "PERMISSION_MISSING"), "{refusal:?}");
    let line = listed(&world, "meterer").await.unwrap();
    let mut both = [acme.id.as_str(), beta.id.as_str()];
    both.sort_unstable();
    assert!(line.contains("usage.write") && line.contains("organizations.read"), "{line}");
    assert!(line.contains(&both.join(",")), "{line}");

    // Without a list it reaches all, also those that come later.
    let key = operate(&world, &arguments).await.unwrap();
    let late = world.tenant("late").await;
    read(&world.client(key.trim()), &late.slug).await.unwrap();
    // The list follows the organization, not its slug.
    let request = v1::UpdateOrganizationRequest {
        organization: Some(v1::Organization {
            organization_id: acme.id.clone(),
            slug: "renamed".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["slug".into()] }),
        ..Default::default()
    };
    world.operator().organizations().update_organization(request).await.unwrap();
    assert_eq!(read(&client, "renamed").await.unwrap().organization_id, acme.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    world.tenant("acme").await;
    let before = operate(&world, &["list"]).await.unwrap().lines().count();
    let unknown = ["nobody", "018f6d2e-0000-7000-8000-000000000001", "Not A Slug"];
    for organization in unknown {
        let arguments = [
            "create",
            "--name",
            "x",
            "--scope",
            "usage.write",
            "--organization",
            "acme",
            "--organization",
            organization,
        ];
        let outcome = operate(&world, &arguments).await;
        let Err(OperatorError::Domain(Error::NotFound { resource: "organization", name })) = outcome else {
            panic!("{organization}: {outcome:?}");
        };
        assert_eq!(name, organization);
    }
    for name in ["", " ", &"x".repeat(201)] {
        let outcome = operate(&world, &["create", "--name", name]).await;
        assert!(matches!(outcome, Err(OperatorError::Domain(Error::Invalid(_)))), "{outcome:?}");
    }
    let outcome = operate(&world, &["revoke", "018f6d2e-0000-7000-8000-000000000001"]).await;
    let Err(OperatorError::Domain(Error::NotFound { resource: "platform_key", .. })) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(operate(&world, &["list"]).await.unwrap().lines().count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_or_expired_key_is_refused_at_the_door() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let key = operate(&world, &["create", "--name", "short", "--expires-in", "60s"]).await.unwrap();
    let short = world.client(key.trim());
    let key = operate(&world, &["create", "--name", "gone"]).await.unwrap();
    let gone = world.client(key.trim());
    for client in [&short, &gone] {
        read(client, &tenant.id).await.unwrap();
    }
    let line = listed(&world, "gone").await.unwrap();
    let said = operate(&world, &["revoke", id_of(&line)]).await.unwrap();
    assert!(said.starts_with(id_of(&line)) && said.contains("gone") && said.contains("revoked"), "{said}");
    let id = &tenant.id;
    let client = &gone;
    eventually("the change log tells the service", || async move { read(client, id).await.is_err() }).await;
    let refusal = refused(read(&gone, id).await);
    assert!(refusal.is(Code::Unauthenticated, "API_KEY_REVOKED"), "{refusal:?}");
    let line = listed(&world, "gone").await.unwrap();
    assert!(line.contains("revoked"), "{line}");
    world.clock.advance(Duration::from_secs(5));
    operate(&world, &["revoke", id_of(&line)]).await.unwrap();
    assert_eq!(listed(&world, "gone").await.unwrap(), line, "twice changes nothing");

    read(&short, id).await.unwrap();
    world.clock.advance(Duration::from_secs(61));
    let refusal = refused(read(&short, id).await);
    assert!(refusal.is(Code::Unauthenticated, "API_KEY_EXPIRED"), "{refusal:?}");
    assert!(listed(&world, "short").await.unwrap().contains("expired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_is_audited() {
    let world = World::start().await;
    operate(&world, &["create", "--name", "audited", "--scope", "usage.write"]).await.unwrap();
    let line = listed(&world, "audited").await.unwrap();
    operate(&world, &["revoke", id_of(&line)]).await.unwrap();
    operate(&world, &["revoke", id_of(&line)]).await.unwrap();
    let request =
        v1::ListAuditEventsRequest { filter: format!("resource_id = \"{}\"", id_of(&line)), ..Default::default() };
    let events = world.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    let mut actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["platform_keys.create", "platform_keys.revoke"]);
    for event in events {
        let actor = event.actor.clone().unwrap();
        assert_eq!((actor.r#type(), actor.id.as_str()), (v1::AuditActorType::System, "tenancy operator"));
        assert_eq!(event.before.is_none(), event.action == "platform_keys.create");
        let after = event.after.unwrap();
        assert!(!after.fields.keys().any(|field| field.contains("hash") || field.contains("secret")), "{after:?}");
    }
}
