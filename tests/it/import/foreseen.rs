//! A dry run, beside what the import then does.

use super::{Files, imported, people, records};
use crate::harness::World;

/// Rows of which each refers to those before, with some that are wrong.
const ROWS: &str = "type,slug,display_name,organization,path,email,role,teams
user,,Ida,,,ida@example.com,,
member,,,acme,,ida@example.com,admin,Ops
organization,new,New,,,,,
organization,new,New,,,,,
user,,Bob,,,bob@example.com,,
user,,Bob,,,BOB@example.com,,
team,,,new,Ops,,,
team,,,new,Ops/Night,,,
team,,,new,ops,,,
team,,,acme,Ops/Night,,,
member,,,new,,bob@example.com,owner,Ops;Ops/Night
member,,,new,,bob@example.com,owner,
member,,,new,,bob@example.com,viewer,
member,,,acme,,bob@example.com,viewer,Ops/Night
member,,,acme,,BOB@example.com,viewer,
member,,,acme,,bob@example.com,admin,
member,,,acme,,nobody@example.com,viewer,
member,,,acme,,bob@example.com,nothing,
member,,,new,,ida@example.com,viewer,Nowhere
member,,,new,,nobody@example.com,viewer,
member,,,new,,known@acme.example.com,viewer,
member,,,new,,ida@example.com,Root,
team,,,new,Nowhere/Squad,,,
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    tenant.member(&world, "known", "viewer").await;
    let files = Files::new();
    let ops = files.write("ops.csv", "organization,path\nacme,Ops\n");
    imported(&world, &ops, &["--type", "team"]).await.1.unwrap();
    let before = (people(&world).await, records(&world).await);

    let file = files.write("people.csv", ROWS);
    let (foretold, outcome) = imported(&world, &file, &["--dry-run"]).await;
    assert_eq!(outcome, Err("8 rows would be refused".into()), "{foretold:#?}");
    assert_eq!((people(&world).await, records(&world).await), before);

    let (told, outcome) = imported(&world, &file, &[]).await;
    assert_eq!(outcome, Err("8 rows were refused".into()), "{told:#?}");
    assert_eq!(told[0], "23 rows: 10 created, 5 unchanged, 8 refused");
    assert_eq!(foretold[0].replace("would be created", "created"), told[0]);
    // Each row has the same fate; only that somebody would be a member is said in other words.
    let lines = |told: &[String]| -> Vec<String> {
        let short = |line: &String| line.split(": ").take(3).collect::<Vec<_>>().join(" ");
        told.iter().filter(|line| line.starts_with("line ")).map(short).collect()
    };
    assert_eq!(lines(&foretold), lines(&told));
    assert!(foretold.last().unwrap().contains("rows need what this file would create first"), "{foretold:?}");
    assert!(!told.iter().any(|line| line.contains("would")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_members_are_made_where_asked() {
    let world = World::start().await;
    world.tenant("acme").await;
    let files = Files::new();
    let rows = "email,display_name,role\nida@example.com,Ida,viewer\nbob@example.com,,viewer\nx,X,viewer\nida@example.com,,admin\n";
    let file = files.write("members.csv", rows);
    let common = ["--type", "member", "--organization", "acme"];
    let (told, _) = imported(&world, &file, &common).await;
    assert_eq!(told[0], "4 rows: 0 created, 0 unchanged, 4 refused");
    let before = people(&world).await;
    let (told, _) = imported(&world, &file, &[&common[..], &["--create-users", "--dry-run"]].concat()).await;
    assert_eq!(told[0], "4 rows: 2 would be created, 0 unchanged, 2 refused", "{told:?}");
    assert_eq!(people(&world).await, before);
    let (told, _) = imported(&world, &file, &[&common[..], &["--create-users"]].concat()).await;
    assert_eq!(told[0], "4 rows: 2 created, 0 unchanged, 2 refused", "{told:?}");
    let users: Vec<String> = people(&world).await.into_iter().filter(|row| row.starts_with("user ")).collect();
    assert_eq!(users, ["user bob@example.com bob@example.com ", "user ida@example.com Ida "]);
}
