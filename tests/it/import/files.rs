//! Both formats, whatever they hold.

use super::{Files, imported, imported_by, people, records};
use crate::harness::World;

const NDJSON: &str = r##"
{"type": "organization", "slug": "acme", "display_name": "Acme, Inc.", "plan": "pro", "labels": {"tier": "gold"}, "settings": {"seats": 7}, "branding": {"primary_color": "#1a73e8"}}
{"type": "user", "email": "ida@example.com", "display_name": "Ida \"I\" B.", "identity": {"provider": "idp", "subject": "1"}}
{"type": "user", "email": "bob@example.com", "display_name": "Bob"}
{"type": "team", "organization": "acme", "path": "Engineering", "description": "Builds; runs"}
{"type": "team", "organization": "acme", "path": "Engineering/R\\/D"}
{"type": "member", "organization": "acme", "email": "ida@example.com", "role": "owner", "teams": ["Engineering", "engineering/r\\/d"]}
{"type": "member", "organization": "acme", "email": "BOB@example.com", "role": "viewer", "teams": []}
"##;

const CSV: &str = r#"type,slug,organization,display_name,plan,labels,settings,branding.primary_color,email,identity.provider,identity.subject,path,description,role,teams
organization,acme,,"Acme, Inc.",pro,tier=gold,"{""seats"": 7}",#1a73e8,,,,,,,
user,,,"Ida ""I"" B.",,,,,ida@example.com,idp,1,,,,
user,,,Bob,,,,,bob@example.com,,,,,,
team,,acme,,,,,,,,,Engineering,Builds; runs,,
team,,acme,,,,,,,,,Engineering/R\/D,,,
member,,acme,,,,,,ida@example.com,,,,,owner,Engineering;engineering/r\/d
member,,acme,,,,,,BOB@example.com,,,,,viewer,
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_formats_say_the_same_and_twice_changes_nothing() {
    let files = Files::new();
    let mut all = Vec::new();
    let windows = CSV.replace('\n', "\r\n");
    let marked = format!("\u{feff}{NDJSON}");
    for (name, text) in [("people.ndjson", NDJSON), ("people.csv", CSV), ("windows.csv", &windows), ("people", &marked)]
    {
        let world = World::start().await;
        let file = files.write(name, text);
        let (told, outcome) = imported(&world, &file, &[]).await;
        assert_eq!(outcome, Ok(()), "{name}: {told:?}");
        let expected = [
            "7 rows: 7 created, 0 unchanged, 0 refused",
            "  organizations: 1 created, 0 unchanged",
            "  users: 2 created, 0 unchanged",
            "  teams: 2 created, 0 unchanged",
            "  members: 2 created, 0 unchanged",
        ];
        assert_eq!(told, expected, "{name}");
        let (there, count) = (people(&world).await, records(&world).await);
        for arguments in [&[][..], &["--dry-run"], &["--create-users"]] {
            let (told, outcome) = imported(&world, &file, arguments).await;
            assert_eq!(outcome, Ok(()), "{name}: {told:?}");
            assert!(told[0].starts_with("7 rows: 0 ") && told[0].ends_with(", 7 unchanged, 0 refused"), "{told:?}");
        }
        assert_eq!((people(&world).await, records(&world).await), (there.clone(), count), "{name}");
        all.push(there);
    }
    let expected = [
        "member acme bob@example.com viewer",
        "member acme ida@example.com owner",
        "organization acme Acme, Inc.",
        "team acme Engineering 1 Builds; runs",
        "team acme R/D 2 ",
        "team member acme Engineering ida@example.com",
        "team member acme R/D ida@example.com",
        "user bob@example.com Bob ",
        "user ida@example.com Ida \"I\" B. 1",
    ];
    assert_eq!(all, vec![expected.map(str::to_owned).to_vec(); 4]);
}

/// The lines of what was told that are about rows, shortened to line, type and reason.
fn refusals(told: &[String]) -> Vec<String> {
    let short = |line: &String| line.split(": ").take(3).collect::<Vec<_>>().join(" ");
    told.iter().filter(|line| line.starts_with("line ")).map(short).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_line() {
    let world = World::start().await;
    let files = Files::new();
    let (told, outcome) = imported(&world, &files.write("first.ndjson", NDJSON), &[]).await;
    assert_eq!(outcome, Ok(()), "{told:?}");
    let before = people(&world).await;
    let long = format!(r#"{{"type": "user", "email": "{}"}}"#, "x".repeat(10 << 20));
    let rows: [&[u8]; 20] = [
        br#"{"type": "organization", "slug": "acme", "display_name": "Another"}"#,
        br#"{"type": "organization", "slug": "A", "display_name": "A", "plan": "nothing"}"#,
        br#"{"type": "user", "email": "ida@example.com", "display_name": "Ida", "identity": {"provider": "idp", "subject": "2"}}"#,
        br#"{"type": "user", "email": "new@example.com", "display_name": "N", "identity": {"provider": "idp", "subject": "1"}}"#,
        b"",
        br#"{"type": "user", "email": "nobody", "display_name": "N"}"#,
        br#"{"type": "team", "organization": "acme", "path": "Nowhere/Squad"}"#,
        br#"{"type": "team", "organization": "nobody", "path": "Squad"}"#,
        br#"{"type": "team", "organization": "acme", "path": "a//b"}"#,
        br#"{"type": "team", "organization": "acme", "path": "ENGINEERING", "description": "Breaks"}"#,
        br#"{"type": "member", "organization": "acme", "email": "ida@example.com", "role": "viewer"}"#,
        br#"{"type": "member", "organization": "acme", "email": "nobody@example.com", "role": "viewer"}"#,
        br#"{"type": "member", "organization": "nobody", "email": "ida@example.com", "role": "viewer"}"#,
        br#"{"type": "member", "organization": "acme", "email": "ida@example.com", "role": "nothing"}"#,
        br#"{"type": "member", "organization": "acme", "email": "bob@example.com", "role": "viewer", "teams": ["Engineering"]}"#,
        br#"{"type": "member", "organization": "acme", "email": "bob@example.com", "rle": "viewer"}"#,
        long.as_bytes(),
        b"{\"type\": \"user\", \"email\": \"\xff@example.com\"}",
        br#"["type"]"#,
        br#"{"type": "person"}"#,
    ];
    let file = files.write("people.ndjson", rows.join(&b'\n'));
    let report = files.path("report.ndjson");
    let arguments = ["--report", report.to_str().unwrap()];
    let (told, outcome) = imported(&world, &file, &arguments).await;
    assert_eq!(outcome, Err("18 rows were refused".into()));
    assert_eq!(told[0], "19 rows: 0 created, 1 joined teams, 0 unchanged, 18 refused");
    let expected = [
        "line 1 organization SLUG_TAKEN",
        "line 2 organization INVALID_FIELD",
        "line 3 user EMAIL_TAKEN",
        "line 4 user IDENTITY_TAKEN",
        "line 6 user INVALID_FIELD",
        "line 7 team TEAM_NOT_FOUND",
        "line 8 team ORGANIZATION_NOT_FOUND",
        "line 9 team INVALID_FIELD",
        "line 10 team TEAM_NAME_TAKEN",
        "line 11 member ALREADY_MEMBER",
        "line 12 member USER_NOT_FOUND",
        "line 13 member ORGANIZATION_NOT_FOUND",
        "line 14 member ROLE_NOT_FOUND",
        "line 16 member INVALID_ROW",
        "line 17 INVALID_ROW longer than 256 KiB",
        "line 18 INVALID_ROW no JSON object",
        "line 19 INVALID_ROW no JSON object",
        "line 20 INVALID_ROW type must be organization, user, team or member, not \"person\"",
    ];
    assert_eq!(refusals(&told), expected);
    assert!(told.contains(&"  4 INVALID_ROW".to_owned()) || told.contains(&"  5 INVALID_ROW".to_owned()), "{told:?}");
    let reported = std::fs::read_to_string(report).unwrap();
    let reported: Vec<serde_json::Value> = reported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reported.len(), 18);
    assert_eq!(
        (&reported[9]["line"], &reported[9]["type"], &reported[9]["reason"]),
        (&11.into(), &"member".into(), &"ALREADY_MEMBER".into())
    );
    let after = people(&world).await;
    let new: Vec<&str> = after.iter().filter(|row| !before.contains(row)).map(String::as_str).collect();
    assert_eq!((new, after.len()), (vec!["team member acme Engineering bob@example.com"], before.len() + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_csv_begin_where_they_begin() {
    let world = World::start().await;
    let files = Files::new();
    let long = vec![b'x'; 10 << 20];
    let rows: [&[u8]; 14] = [
        b"\xef\xbb\xbfemail,display_name",
        b"",
        b"ida@example.com,\"Ida",
        b"",
        b"B.\"",
        b"bob@example.com,Bob",
        b"bob@example.com",
        b"carl@example.com,Carl,1",
        b"\xff@example.com,Dora",
        &long,
        b"emil@example.com,\"Emil, \"\"the\"\" second\"",
        b"   ,Fay",
        b"gus@example.com,",
        b"hal@example.com,\"Hal",
    ];
    let file = files.write("people.csv", rows.join(&b"\r\n"[..]));
    let (told, outcome) = imported(&world, &file, &["--type", "user"]).await;
    assert_eq!(outcome, Err("8 rows were refused".into()), "{told:?}");
    let expected = [
        // A name has no line breaks, but a cell may.
        "line 3 user INVALID_FIELD",
        "line 7 INVALID_ROW has 1 cells where the header has 2",
        "line 8 INVALID_ROW has 3 cells where the header has 2",
        "line 9 INVALID_ROW not UTF-8",
        "line 10 INVALID_ROW longer than 256 KiB",
        "line 12 user INVALID_FIELD",
        "line 13 user INVALID_ROW",
        "line 14 INVALID_ROW a quote is not closed",
    ];
    assert_eq!(refusals(&told), expected);
    let expected = ["user bob@example.com Bob ", "user emil@example.com Emil, \"the\" second "];
    assert_eq!(people(&world).await, expected);

    // What cannot be a header is told before anything is sent.
    for (text, arguments, expected) in [
        (
            "email,display_nam\na@b.co,A\n",
            &["--type", "user"][..],
            "line 1, the header: there is no column \"display_nam\"",
        ),
        ("email,display_name\na@b.co,A\n", &[], "--type"),
        ("email,email\na@b.co,A\n", &["--type", "user"], "twice"),
        ("\u{0}\n", &["--type", "user"], "no column"),
    ] {
        let (told, outcome) = imported(&world, &files.write("wrong.csv", text), arguments).await;
        let error = outcome.unwrap_err();
        assert!(error.contains(expected) && told == ["0 rows: 0 created, 0 unchanged, 0 refused"], "{error}: {told:?}");
    }
    for empty in ["", "\n\n", "\u{feff}"] {
        let (told, outcome) = imported(&world, &files.write("empty.ndjson", empty), &[]).await;
        assert_eq!((told, outcome), (vec!["0 rows: 0 created, 0 unchanged, 0 refused".to_owned()], Ok(())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_imports_into_its_own_organization() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let ida = tenant.member(&world, "ida", "viewer").await;
    world.tenant("other").await;
    let files = Files::new();
    let text = format!("type,path,user_id,role,teams\nteam,Ops,,,\nmember,,{ida},viewer,Ops\n");
    let (told, outcome) = imported_by(&world, &tenant.key, &files.write("own.csv", text), &[]).await;
    assert_eq!(outcome, Ok(()), "{told:?}");
    assert_eq!(told[0], "2 rows: 1 created, 1 joined teams, 0 unchanged, 0 refused");
    // Of another one there is none, and of addresses a tenant learns nothing.
    let rows = "type,organization,path\nteam,other,Ops\n";
    let (told, outcome) = imported_by(&world, &tenant.key, &files.write("other.csv", rows), &[]).await;
    assert_eq!(
        (refusals(&told), outcome),
        (vec!["line 2 team ORGANIZATION_NOT_FOUND".to_owned()], Err("1 row was refused".into()))
    );
    let rows = "email,role\nida@acme.example.com,viewer\n";
    let file = files.write("address.csv", rows);
    let (_, outcome) = imported_by(&world, &tenant.key, &file, &["--type", "member"]).await;
    let error = outcome.unwrap_err();
    assert!(error.contains("platform key") && error.contains("continue with --from-line 1"), "{error}");
}
