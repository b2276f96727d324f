//! Subtrees that move and go, also against each other.

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{NOBODY, actions, add, assert_is_a_tree, audit, delete, get, new, reparent, subtree};
use crate::harness::{World, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subtree_moves_as_one() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let (a, b) = (new(client, "", "a").await, new(client, "", "b").await);
    let aa = new(client, &a, "aa").await;
    let aaa = new(client, &aa, "aaa").await;
    let below = get(client, &aaa).await.unwrap();
    let before = get(client, &aa).await.unwrap();
    assert_eq!(reparent(client, &aa, &a).await.unwrap(), before, "where it is already");
    let moved = reparent(client, &aa, &b).await.unwrap();
    assert_eq!((&moved.parent_team_id, &moved.path, moved.depth), (&b, &vec![b.clone(), aa.clone()], 2));
    assert_eq!((&moved.create_time, moved.etag == before.etag), (&before.create_time, false));
    assert_eq!(get(client, &aa).await.unwrap(), moved);
    // What is below went with it, and was not changed for that.
    let after = get(client, &aaa).await.unwrap();
    assert_eq!(after.path, [b.clone(), aa.clone(), aaa.clone()]);
    assert_eq!((&after.etag, &after.update_time), (&below.etag, &below.update_time));
    assert_eq!(reparent(client, &aa, "").await.unwrap().path, [aa.clone()]);
    assert_eq!(reparent(client, &a, &aaa).await.unwrap().depth, 3);
    assert_is_a_tree(&subtree(client, "").await);

    for (team, parent) in [(&aa, &aa), (&aa, &aaa), (&aa, &a)] {
        let refusal = refused(reparent(client, team, parent).await);
        assert!(refusal.is(Code::FailedPrecondition, "TEAM_CYCLE"), "{refusal:?}");
    }
    let theirs = new(&other.client, "", "theirs").await;
    for (team, parent) in [(aa.as_str(), NOBODY), (&aa, &theirs), (&theirs, &aa), (NOBODY, &aa)] {
        assert!(refused(reparent(client, team, parent).await).is(Code::NotFound, "TEAM_NOT_FOUND"));
    }
    let events = audit(&tenant, "team", &aa).await;
    assert_eq!(actions(&events), ["teams.create", "teams.move", "teams.move"]);
    let event = events.iter().find(|event| event.action == "teams.move" && format!("{:?}", event.after).contains(&b));
    let event = event.unwrap();
    assert!(format!("{:?}", event.before).contains(&a) && !format!("{:?}", event.after).contains(&a));
    assert_eq!(actions(&audit(&tenant, "team", &aaa).await), ["teams.create"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_that_is_not_empty_goes_only_with_all_of_it() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let (ida, bob) = (tenant.member(&world, "ida", "viewer").await, tenant.member(&world, "bob", "viewer").await);
    let root = new(client, "", "root").await;
    let child = new(client, &root, "child").await;
    let leaf = new(client, &child, "leaf").await;
    let sibling = new(client, &root, "sibling").await;
    for (team, user) in [(&child, &ida), (&leaf, &ida), (&leaf, &bob), (&sibling, &bob)] {
        add(client, team, user, v1::TeamRole::Member).await.unwrap();
    }
    let (refuse, cascade) = (v1::DeleteTeamMode::Refuse, v1::DeleteTeamMode::Cascade);
    for team in [&root, &child, &leaf, &sibling] {
        for mode in [refuse, v1::DeleteTeamMode::Unspecified] {
            let refusal = refused(delete(client, team, mode).await);
            assert!(refusal.is(Code::FailedPrecondition, "TEAM_NOT_EMPTY"), "{refusal:?}");
        }
    }
    let theirs = new(&other.client, "", "theirs").await;
    for missing in [NOBODY, &theirs] {
        assert!(refused(delete(client, missing, cascade).await).is(Code::NotFound, "TEAM_NOT_FOUND"));
    }
    let request = v1::DeleteTeamRequest { team_id: child.clone(), mode: 9, ..Default::default() };
    assert_eq!(refused(client.teams().delete_team(request).await).fields, ["mode"]);

    let all = subtree(client, "").await;
    let request = v1::DeleteTeamRequest {
        team_id: child.clone(),
        mode: cascade.into(),
        validate_only: true,
        ..Default::default()
    };
    let reply = client.teams().delete_team(request).await.unwrap().into_inner();
    assert_eq!((reply.deleted_teams, reply.deleted_members), (2, 3));
    assert_eq!(subtree(client, "").await, all);
    assert_eq!(actions(&audit(&tenant, "team", &leaf).await), ["teams.create"]);

    assert_eq!(delete(client, &child, cascade).await.unwrap(), (2, 3));
    let left = subtree(client, "").await;
    let mut left: Vec<&str> = left.iter().map(|team| team.display_name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["root", "sibling"]);
    for team in [&child, &leaf] {
        let events = audit(&tenant, "team", team).await;
        assert_eq!(actions(&events), ["teams.create", "teams.delete"]);
        let deleted = events.iter().find(|event| event.action == "teams.delete").unwrap();
        assert!(format!("{:?}", deleted.before).contains("display_name") && deleted.after.is_none());
    }
    for (team, user) in [(&child, &ida), (&leaf, &ida), (&leaf, &bob)] {
        let events = audit(&tenant, "team_member", &format!("{team}/{user}")).await;
        assert_eq!(actions(&events), ["team_members.add", "team_members.remove"]);
    }
    // An empty one goes without asking for more.
    let empty = new(client, &root, "child").await;
    assert_eq!(delete(client, &empty, refuse).await.unwrap(), (1, 0));
    assert_eq!(delete(client, &root, cascade).await.unwrap(), (2, 1));
}

/// What a move may come to when others move at the same time.
fn is_fair(outcome: &Result<v1::Team, Status>) -> bool {
    let Err(status) = outcome else { return true };
    let refusal = refused::<()>(Err(status.clone()));
    ["TEAM_CYCLE", "TEAM_TOO_DEEP"].iter().any(|reason| refusal.is(Code::FailedPrecondition, reason))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_move_below_each_other_one_does() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let (near, far) = (&tenant.client, &replica.client(&tenant.key));
    for round in 0..20 {
        let (a, b) = (new(near, "", &format!("a{round}")).await, new(near, "", &format!("b{round}")).await);
        let below = new(near, &b, "below").await;
        // Directly, and by one in between.
        let target = if round % 2 == 0 { &b } else { &below };
        let outcomes = tokio::join!(reparent(near, &a, target), reparent(far, &b, &a));
        assert!(is_fair(&outcomes.0) && is_fair(&outcomes.1), "{outcomes:?}");
        assert_ne!(outcomes.0.is_ok(), outcomes.1.is_ok(), "{outcomes:?}");
    }
    let all = subtree(near, "").await;
    assert_is_a_tree(&all);
    assert_eq!(all.len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_moves_at_once_it_stays_a_tree() {
    const SEED: u64 = 0x7ea3;
    const TEAMS: usize = 14;
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let clients = [tenant.client.clone(), replica.client(&tenant.key)];
    let mut teams = Vec::new();
    for number in 0..TEAMS {
        teams.push(new(&clients[0], "", &format!("t{number}")).await);
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let mut moved = 0;
    for _ in 0..16 {
        let pairs: Vec<(usize, usize)> =
            (0..5).map(|_| (random.random_range(0..TEAMS), random.random_range(0..TEAMS))).collect();
        // Each also the other way round, on the other replica.
        let both = pairs.iter().enumerate().flat_map(|(number, (team, parent))| {
            let near = reparent(&clients[number % 2], &teams[*team], &teams[*parent]);
            [near, reparent(&clients[(number + 1) % 2], &teams[*parent], &teams[*team])]
        });
        let outcomes = join_all(both).await;
        assert!(outcomes.iter().all(is_fair), "{outcomes:?}");
        moved += outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let all = subtree(&clients[0], "").await;
        assert_is_a_tree(&all);
        assert_eq!(all.len(), TEAMS);
    }
    assert!(moved > 12, "{moved} moves, of seed {SEED}, raced for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_below_what_is_deleted() {
    let world = World::start().await;
    let replica = World::on(world.database.clone(), &[]).await;
    let tenant = world.tenant("acme").await;
    let far = replica.client(&tenant.key);
    for round in 0..12 {
        let gone = new(&tenant.client, "", &format!("gone{round}")).await;
        let other = new(&tenant.client, "", &format!("other{round}")).await;
        let (moved, deleted) =
            tokio::join!(reparent(&far, &other, &gone), delete(&tenant.client, &gone, v1::DeleteTeamMode::Refuse));
        match (moved, deleted) {
            (Ok(_), Err(status)) => {
                assert!(refused::<()>(Err(status)).is(Code::FailedPrecondition, "TEAM_NOT_EMPTY"));
            }
            (Err(status), Ok(_)) => assert!(refused::<()>(Err(status)).is(Code::NotFound, "TEAM_NOT_FOUND")),
            both => panic!("{both:?}"),
        }
    }
    assert_is_a_tree(&subtree(&tenant.client, "").await);
}
