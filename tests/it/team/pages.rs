//! The lists, page by page.

use tenancy::proto::v1;
use tonic::Code;

use super::{NOBODY, add, assert_is_a_tree, delete, new, subtree, teams};
use crate::harness::{Client, World, refused};

fn ids(teams: &[v1::Team]) -> Vec<&str> {
    teams.iter().map(|team| team.team_id.as_str()).collect()
}

/// All pages of the members of a team, of two each.
async fn members(client: &Client, team_id: &str, descendants: bool) -> Vec<(String, String)> {
    let mut request =
        v1::ListTeamMembersRequest { team_id: team_id.into(), descendants, page_size: 2, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.teams().list_team_members(request.clone()).await.unwrap().into_inner();
        assert!(page.team_members.len() <= 2);
        all.extend(page.team_members.into_iter().map(|member| (member.user_id, member.team_id)));
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn teams_are_listed_depth_first() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let (a, b) = (new(client, "", "a").await, new(client, "", "b").await);
    let (aa, ba) = (new(client, &a, "aa").await, new(client, &b, "ba").await);
    let aaa = new(client, &aa, "aaa").await;
    let ab = new(client, &a, "ab").await;
    let theirs = new(&other.client, "", "theirs").await;

    let all = subtree(client, "").await;
    assert_is_a_tree(&all);
    assert_eq!(all.len(), 6);
    let of_a = subtree(client, &a).await;
    assert_eq!(ids(&of_a)[0], a);
    let mut expected = [a.as_str(), &aa, &aaa, &ab];
    expected.sort_unstable();
    let mut found = ids(&of_a);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(ids(&subtree(client, &ba).await), [ba.as_str()]);
    let children = |team_id: &str| v1::ListTeamsRequest { team_id: team_id.into(), ..Default::default() };
    for (of, mut expected) in [("", vec![&a, &b]), (&a, vec![&aa, &ab]), (&aa, vec![&aaa]), (&ab, vec![])] {
        expected.sort_unstable();
        assert_eq!(ids(&teams(client, children(of)).await), expected, "{of}");
    }
    for missing in [NOBODY, &theirs] {
        let refusal = refused(client.teams().list_teams(children(missing)).await);
        assert!(refusal.is(Code::NotFound, "TEAM_NOT_FOUND"), "{refusal:?}");
    }

    for page_size in [1, 2, 5, 6] {
        let request = v1::ListTeamsRequest { subtree: true, page_size, ..Default::default() };
        assert_eq!(teams(client, request).await, all, "{page_size}");
    }
    // The last of a page is gone, and the next page goes on where it was.
    let request = v1::ListTeamsRequest { subtree: true, page_size: 2, ..Default::default() };
    let page = client.teams().list_teams(request.clone()).await.unwrap().into_inner();
    delete(client, &page.teams[1].team_id, v1::DeleteTeamMode::Cascade).await.unwrap();
    let left: Vec<v1::Team> =
        all.iter().filter(|team| !team.path.contains(&page.teams[1].team_id)).skip(1).cloned().collect();
    let rest = v1::ListTeamsRequest { page_token: page.next_page_token.clone(), ..request.clone() };
    assert_eq!(teams(client, rest.clone()).await, left);

    for (request, field) in [
        (v1::ListTeamsRequest { subtree: false, ..rest.clone() }, "page_token"),
        (v1::ListTeamsRequest { page_token: "x".into(), ..rest.clone() }, "page_token"),
        (v1::ListTeamsRequest { page_size: -1, ..request.clone() }, "page_size"),
        (v1::ListTeamsRequest { team_id: "x".into(), ..request }, "team_id"),
    ] {
        let refusal = refused(client.teams().list_teams(request).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == [field], "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_subtree_are_listed_once_by_the_nearest_team() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = &tenant.client;
    let top = new(client, "", "top").await;
    let left = new(client, &top, "left").await;
    let right = new(client, &top, "right").await;
    let deep = new(client, &left, "deep").await;
    let outside = new(client, "", "outside").await;
    let mut users = Vec::new();
    for name in ["u0", "u1", "u2", "u3", "u4"] {
        users.push(tenant.member(&world, name, "viewer").await);
    }
    let role = v1::TeamRole::Member;
    for (user, team) in [
        (0, &deep),
        (0, &right),
        (0, &top),
        (1, &deep),
        (1, &right),
        (2, &deep),
        (3, &left),
        (3, &right),
        (4, &outside),
    ] {
        add(client, team, &users[user], role).await.unwrap();
    }
    let first = if left < right { &left } else { &right };
    let sorted = |expected: &[(usize, &String)]| {
        let mut all: Vec<(String, String)> =
            expected.iter().map(|(user, team)| (users[*user].clone(), (*team).clone())).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    };
    let of_top = [(0, &top), (1, &right), (2, &deep), (3, first)];
    assert_eq!(members(client, &top, true).await, sorted(&of_top));
    assert_eq!(members(client, &top, false).await, sorted(&[(0, &top)]));
    assert_eq!(members(client, &left, true).await, sorted(&[(0, &deep), (1, &deep), (2, &deep), (3, &left)]));
    assert_eq!(members(client, &right, false).await, sorted(&[(0, &right), (1, &right), (3, &right)]));
    let missing = v1::ListTeamMembersRequest { team_id: NOBODY.into(), ..Default::default() };
    assert!(refused(client.teams().list_team_members(missing).await).is(Code::NotFound, "TEAM_NOT_FOUND"));

    // The teams of a user, of a page each.
    let mut request = v1::ListUserTeamsRequest { user_id: users[0].clone(), page_size: 1, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = client.teams().list_user_teams(request.clone()).await.unwrap().into_inner();
        found.extend(page.teams.into_iter().map(|team| team.team.unwrap()));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected: Vec<v1::Team> =
        subtree(client, "").await.into_iter().filter(|team| [&top, &deep, &right].contains(&&team.team_id)).collect();
    assert_eq!(found, expected);
}
