//! How often somebody may invite, or found an organization: exact, on however many replicas.

use std::time::Duration;

use futures_util::future::join_all;
use tenancy::proto::v1;
use tenancy::worker::upkeep::{self, UpkeepOptions};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{count, invite, invited, new, person, resend, user};
use crate::harness::{Client, World, refused};

async fn found(client: &Client, slug: &str, owner: &str) -> Result<v1::Organization, Status> {
    let organization = v1::Organization { slug: slug.into(), display_name: "Own".into(), ..Default::default() };
    let request = v1::CreateOrganizationRequest {
        organization: Some(organization),
        owner_user_id: owner.into(),
        ..Default::default()
    };
    Ok(client.organizations().create_organization(request).await?.into_inner().organization.unwrap())
}

/// The seconds after which a refused call may be repeated.
fn wait(status: &Status) -> u64 {
    status.get_details_retry_info().unwrap().retry_delay.unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_invitations_an_hour_and_no_more() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let ida = tenant.member(&world, "ida", "admin").await;
    let clients = [tenant.client.clone().acting(&ida), replica.client(&tenant.key).acting(&ida)];
    // One of them twenty minutes before the others.
    let (first, _) = invited(&clients[0], "p@example.com", "viewer").await;
    for world in [&world, &replica] {
        world.clock.advance(Duration::from_mins(20));
    }
    let emails: Vec<String> = (0..24).map(|number| format!("p{number}@example.com")).collect();
    let calls = emails.iter().enumerate().map(|(number, email)| invite(&clients[number % 2], new(email, "viewer")));
    let (sent, denied): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(sent.len(), 9);
    for denied in denied {
        let wait = wait(denied.as_ref().unwrap_err());
        assert!((38 * 60..=40 * 60).contains(&wait), "{wait}");
        let refusal = refused(denied);
        assert!(refusal.is(Code::ResourceExhausted, "INVITATION_RATE_EXCEEDED") && refusal.retry, "{refusal:?}");
    }
    assert_eq!(count(&world, "SELECT count(*) FROM tenancy.invitations").await, 10);
    // Sending one again counts; what is refused for another reason does not.
    let refusal = refused(resend(&clients[0], &first.invitation_id).await);
    assert!(refusal.is(Code::ResourceExhausted, "INVITATION_RATE_EXCEEDED"), "{refusal:?}");
    // The key that acts for nobody counts for itself, and so does another user; nobody counts for the platform.
    let bob = tenant.member(&world, "bob", "admin").await;
    invited(&tenant.client, "q1@example.com", "viewer").await;
    invited(&tenant.client.clone().acting(&bob), "q2@example.com", "viewer").await;
    for number in 0..12 {
        let request = v1::CreateInvitationRequest {
            organization_id: tenant.id.clone(),
            invitation: Some(new(&format!("r{number}@example.com"), "viewer")),
            ..Default::default()
        };
        world.operator().invitations().create_invitation(request).await.unwrap();
    }
    // The window slides: the first one is over, and there is room for one.
    for world in [&world, &replica] {
        world.clock.advance(Duration::from_mins(41));
    }
    for bad in [new("ida@acme.example.com", "viewer"), new("x@example.com", "billing")] {
        refused(invite(&clients[1], bad).await);
    }
    resend(&clients[1], &first.invitation_id).await.unwrap();
    let refusal = refused(invite(&clients[0], new("s@example.com", "viewer")).await);
    assert!(refusal.is(Code::ResourceExhausted, "INVITATION_RATE_EXCEEDED"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_founds_five_organizations_an_hour() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let (operator, ida) = (world.operator(), user(&world, "ida@example.com").await);
    let clients = [operator.clone(), replica.client(world.operator_key())];
    let slugs: Vec<String> = (0..12).map(|number| format!("own-{number}")).collect();
    let calls = slugs.iter().enumerate().map(|(number, slug)| found(&clients[number % 2], slug, &ida));
    let (founded, denied): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(founded.len(), 5);
    for denied in denied {
        assert!(wait(denied.as_ref().unwrap_err()) > 3_500);
        let refusal = refused(denied);
        assert!(refusal.is(Code::ResourceExhausted, "ORGANIZATION_RATE_EXCEEDED") && refusal.retry, "{refusal:?}");
    }
    for organization in founded {
        let organization_id = organization.unwrap().organization_id;
        let request = v1::GetMemberRequest { organization_id, user_id: ida.clone() };
        let owner = operator.members().get_member(request).await.unwrap().into_inner().member.unwrap();
        assert_eq!(owner.role, "owner");
    }
    // An operator provisions as many as it likes; another user has their own five, of which the personal one is the first.
    for number in 0..6 {
        found(&operator, &format!("provisioned-{number}"), "").await.unwrap();
    }
    let personal = v1::Organization { slug: "bobs".into(), ..v1::Organization::default() };
    let request = v1::CreateUserRequest {
        user: Some(person("bob@example.com")),
        personal_organization: Some(personal),
        ..Default::default()
    };
    let bob = operator.users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id;
    for number in 0..4 {
        // What is refused, or only looked at, was not taken.
        assert!(refused(found(&operator, "own-0", &bob).await).reason.ends_with("_TAKEN"));
        let request = v1::CreateOrganizationRequest {
            organization: Some(v1::Organization {
                slug: "looked-at".into(),
                display_name: "Own".into(),
                ..Default::default()
            }),
            owner_user_id: bob.clone(),
            validate_only: true,
            ..Default::default()
        };
        operator.organizations().create_organization(request).await.unwrap();
        found(&operator, &format!("bobs-{number}"), &bob).await.unwrap();
    }
    let refusal = refused(found(&operator, "bobs-last", &bob).await);
    assert!(refusal.is(Code::ResourceExhausted, "ORGANIZATION_RATE_EXCEEDED"), "{refusal:?}");
    world.clock.advance(Duration::from_hours(1));
    found(&operator, "bobs-last", &bob).await.unwrap();

    for (owner, code, reason) in
        [("x", Code::InvalidArgument, "INVALID_FIELD"), (super::NOBODY, Code::NotFound, "USER_NOT_FOUND")]
    {
        let refusal = refused(found(&operator, "nobodys", owner).await);
        assert!(refusal.is(code, reason), "{owner}: {refusal:?}");
    }
    let request = v1::DeactivateUserRequest { user_id: ida.clone(), ..Default::default() };
    operator.users().deactivate_user(request).await.unwrap();
    let refusal = refused(found(&operator, "nobodys", &ida).await);
    assert!(refusal.is(Code::FailedPrecondition, "USER_DEACTIVATED"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zero_is_no_limit_and_what_is_over_is_forgotten() {
    let world = World::start_with(&["--organizations-per-hour", "0", "--invitations-per-hour", "1"]).await;
    let ida = user(&world, "ida@example.com").await;
    for number in 0..7 {
        found(&world.operator(), &format!("own-{number}"), &ida).await.unwrap();
    }
    let tenant = world.tenant("acme").await;
    invited(&tenant.client, "p@example.com", "viewer").await;
    let rows = "SELECT count(*) FROM tenancy.allowances";
    assert_eq!(count(&world, rows).await, 1);
    let options = UpkeepOptions { accepted_age: chrono::TimeDelta::days(35), retention: chrono::TimeDelta::days(90) };
    let upkeep = async || upkeep::run_once(&world.running.database, &world.clock, options).await.unwrap();
    upkeep().await;
    assert_eq!(count(&world, rows).await, 1, "it still counts");
    refused(invite(&tenant.client, new("q@example.com", "viewer")).await);
    world.clock.advance(Duration::from_hours(1));
    upkeep().await;
    assert_eq!(count(&world, rows).await, 0);
}
