//! The teams of the demo.

use tenancy::proto::v1;
use tenancy::repository::database::Database;

use super::{subtree, teams};
use crate::harness::{World, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_has_teams() {
    let world = World::start().await;
    let database = Database::new(options(&world.database), world.clock.clone());
    let keys = tenancy::demo::load(&database, &world.clock).await.unwrap();
    let key = &keys.iter().find(|key| key.organization == "techcorp").unwrap().secret;
    let client = world.client(key);
    let forest = subtree(&client, "").await;
    let of = |name: &str| forest.iter().find(|team| team.display_name == name).unwrap();
    assert_eq!(forest.len(), 4);
    for squad in ["Frontend Squad", "Backend Squad"] {
        assert_eq!(of(squad).parent_team_id, of("Engineering").team_id);
    }
    assert_eq!(of("Product Team").depth, 1);
    let request = v1::ListTeamMembersRequest {
        team_id: of("Engineering").team_id.clone(),
        descendants: true,
        ..Default::default()
    };
    let members = client.teams().list_team_members(request).await.unwrap().into_inner().team_members;
    let mut people: Vec<&str> = members.iter().map(|member| member.display_name.as_str()).collect();
    people.sort_unstable();
    assert_eq!(people, ["Bob Wilson", "Jane Smith", "John Doe"]);
    tenancy::demo::load(&database, &world.clock).await.unwrap();
    assert_eq!(teams(&client, v1::ListTeamsRequest { subtree: true, ..Default::default() }).await, forest);
}
