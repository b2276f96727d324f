//! The invitation of the demo.

use tenancy::proto::v1;
use tenancy::repository::database::Database;

use super::{accept_as, person, resend};
use crate::harness::{World, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_has_an_open_invitation() {
    let world = World::start().await;
    let database = Database::new(options(&world.database), world.clock.clone());
    let keys = tenancy::demo::load(&database, &world.clock).await.unwrap();
    let key = &keys.iter().find(|key| key.organization == "techcorp").unwrap().secret;
    let client = world.client(key);
    let list = async || {
        let listed = client.invitations().list_invitations(v1::ListInvitationsRequest::default()).await;
        listed.unwrap().into_inner().invitations
    };
    let listed = list().await;
    assert_eq!((listed.len(), listed[0].status()), (1, v1::InvitationStatus::Pending));
    assert_eq!((listed[0].role.as_str(), listed[0].teams[0].display_name.as_str()), ("member", "Frontend Squad"));
    tenancy::demo::load(&database, &world.clock).await.unwrap();
    assert_eq!(list().await, listed);
    let token = resend(&client, &listed[0].invitation_id).await.unwrap().delivery.unwrap().token;
    accept_as(&world.operator(), &token, person("new.engineer@techcorp.example.com")).await.unwrap();
    tenancy::demo::load(&database, &world.clock).await.unwrap();
    assert_eq!(list().await.len(), 1, "whatever became of it");
}
