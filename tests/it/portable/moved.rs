//! What moves: every row of every table, what the API says of it, and nothing of anybody else.

use chrono::{DateTime, TimeDelta, Utc};
use tenancy::model::usage::quarter;
use tenancy::proto::v1;

use crate::harness::{Client, World};
use crate::isolation::cases::Furnished;
use crate::portable::support::{everything, exported, mapped, platform_meter, restored, tenant_tables};
use crate::usage::support::{KINDS, create_meters_of_every_kind, drift, event, fates, model, timestamp, void};
use crate::usage::verify::verify;

/// A tenant with a row in every table and more: figures of every kind, some of them voided, on meters of its own and of the
/// platform; teams that were moved; members in all states.
async fn furnished(world: &World, base: DateTime<Utc>) -> Furnished {
    let furnished = Furnished::create(world, "acme").await;
    let tenant = &furnished.tenant;
    let client = &tenant.client;
    create_meters_of_every_kind(client).await;
    for (kind, _) in KINDS {
        let events = (0..12_u32).map(|number| v1::UsageEvent {
            meter: kind.into(),
            quantity: format!("{}.100000001", number * 7 % 5),
            subject: if number % 3 == 0 && kind != "unique_count" { "" } else { ["ada", "grace"][number as usize % 2] }
                .into(),
            properties: model(["x", "y \"quoted\" \u{fc}"][number as usize / 2 % 2]),
            ..event(&format!("{kind} {number}"), base + TimeDelta::minutes(i64::from(number) * 4))
        });
        assert_eq!(fates(client, events.collect()).await, ["RECORDED"; 12]);
        void(client, &format!("{kind} 7"), base + TimeDelta::minutes(28)).await.unwrap();
    }
    let of_platform = (0..9).map(|number| v1::UsageEvent {
        meter: "platform.calls".into(),
        quantity: format!("{number}.25"),
        ..event(&format!("platform {number}"), base + TimeDelta::minutes(number * 3))
    });
    assert_eq!(fates(client, of_platform.collect()).await, ["RECORDED"; 9]);
    let rule = crate::quota::support::monthly("platform.calls", 1_000);
    crate::quota::support::create_limit(&world.operator(), crate::quota::support::limit(&tenant.id, rule))
        .await
        .unwrap();
    let consume = v1::ConsumeQuotaRequest { meter: "platform.calls".into(), amount: 12, ..Default::default() };
    let durable = v1::ConsumeQuotaRequest { operation_id: "once".into(), durable: true, ..consume };
    assert!(client.quotas().consume_quota(durable).await.unwrap().into_inner().decision.unwrap().allowed);

    let suspended = tenant.member(world, "suspended", "viewer").await;
    let request = v1::SuspendMemberRequest { user_id: suspended, reason: "away".into(), ..Default::default() };
    client.members().suspend_member(request).await.unwrap();
    tenant.member(world, "custom", "acme-role").await;
    // Younger than what comes to be below it.
    let team = v1::Team { display_name: "Later".into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), ..Default::default() };
    let later = client.teams().create_team(request).await.unwrap().into_inner().team.unwrap().team_id;
    let request = v1::ListTeamsRequest::default();
    let teams = client.teams().list_teams(request).await.unwrap().into_inner().teams;
    let root = teams.into_iter().find(|team| team.display_name == "Engineering").unwrap();
    let request =
        v1::MoveTeamRequest { team_id: root.team_id, parent_team_id: later, ..v1::MoveTeamRequest::default() };
    client.teams().move_team(request).await.unwrap();
    furnished
}

/// What the API says of an organization to its own key, question by question.
async fn answers(client: &Client, base: DateTime<Utc>) -> Vec<String> {
    let mut said = Vec::new();
    let (start_time, end_time) =
        (Some(timestamp(base - TimeDelta::hours(1))), Some(timestamp(base + TimeDelta::hours(2))));
    for (meter, _) in KINDS.iter().chain([&("platform.calls", v1::MeterAggregation::Sum)]) {
        for subject in ["", "ada"] {
            let request = v1::QueryUsageRequest {
                meter: (*meter).into(),
                start_time,
                end_time,
                subject: subject.into(),
                group_by: if *meter == "platform.calls" { vec![] } else { vec!["model".into()] },
                bucket: v1::UsageBucket::Hour.into(),
                ..Default::default()
            };
            said.push(format!("{:?}", client.usage().query_usage(request).await.unwrap().into_inner()));
        }
    }
    let organization = v1::GetOrganizationRequest::default();
    said.push(format!("{:?}", client.organizations().get_organization(organization).await.unwrap().into_inner()));
    let request = v1::ListMembersRequest::default();
    said.push(format!("{:?}", client.members().list_members(request).await.unwrap().into_inner()));
    let request = v1::ListUsersRequest::default();
    said.push(format!("{:?}", client.users().list_users(request).await.unwrap().into_inner()));
    let request = v1::ListTeamsRequest::default();
    said.push(format!("{:?}", client.teams().list_teams(request).await.unwrap().into_inner()));
    let request = v1::ListRolesRequest::default();
    said.push(format!("{:?}", client.roles().list_roles(request).await.unwrap().into_inner()));
    let request = v1::ListLimitsRequest::default();
    said.push(format!("{:?}", client.limits().list_limits(request).await.unwrap().into_inner()));
    let request = v1::ListMetersRequest { page_size: 3, ..Default::default() };
    said.push(format!("{:?}", client.meters().list_meters(request).await.unwrap().into_inner().meters));
    let request = v1::ListAuditEventsRequest { page_size: 1_000, ..Default::default() };
    said.push(format!("{:?}", client.audit().list_audit_events(request).await.unwrap().into_inner()));
    let request = v1::ListApiKeysRequest::default();
    let keys = client.api_keys().list_api_keys(request).await.unwrap().into_inner();
    said.push(format!("{:?}", keys.api_keys.iter().map(|key| (&key.api_key_id, &key.etag)).collect::<Vec<_>>()));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_is_on_the_other_side_as_it_was() {
    let (origin, destination) = (World::start().await, World::start().await);
    let theirs = platform_meter(&origin, "platform.calls", v1::MeterAggregation::Sum).await;
    platform_meter(&origin, "platform.of.nobody", v1::MeterAggregation::Sum).await;
    let ours = platform_meter(&destination, "platform.calls", v1::MeterAggregation::Sum).await;
    assert_ne!(theirs, ours);
    let base = quarter(origin.clock.now()) - TimeDelta::days(9);
    let acme = furnished(&origin, base).await;
    origin.tenant("other").await;
    Furnished::create(&destination, "resident").await;
    let user = destination.tenant("more").await;
    let residents = everything(&destination.database.superuser, &user.id).await;
    // The destination has heard of the key, and refused it.
    let moved = destination.client(&acme.tenant.key);
    moved.members().list_members(v1::ListMembersRequest::default()).await.unwrap_err();

    let file = exported(&origin, &acme.tenant.id).await;
    let said = restored(&destination, &file).await.unwrap();
    assert!(said.starts_with("acme is restored\n") && said.contains(" 3 members\n"), "{said}");
    assert!(said.contains(" 1 platform_meters, found here by their keys\n"), "{said}");

    // Row by row, in every table that there is.
    let before = everything(&origin.database.superuser, &acme.tenant.id).await;
    let after = everything(&destination.database.superuser, &acme.tenant.id).await;
    assert!(before.len() >= 20 && before.keys().eq(after.keys()), "{:?}", before.keys());
    for (table, rows) in &before {
        assert!(!rows.is_empty(), "{table}: there is no row, so this would prove nothing");
        let mut expected: Vec<String> = rows.iter().map(|row| row.replace(&theirs, &ours)).collect();
        let mut found = after[table].clone();
        // Of the audit, what was said there then.
        if table == "audit_events" {
            expected.clone_from(rows);
        }
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(expected, found, "{table}");
    }
    assert_eq!(everything(&destination.database.superuser, &user.id).await, residents);

    // And as the API has it, by the key that was made there.
    crate::harness::eventually("the key is known", || async {
        moved.members().list_members(v1::ListMembersRequest::default()).await.is_ok()
    })
    .await;
    let (there, here) = (answers(&acme.tenant.client, base).await, answers(&moved, base).await);
    assert_eq!(there.len(), here.len());
    for (there, here) in there.iter().zip(&here) {
        let is_audit = there.starts_with("ListAuditEventsResponse");
        let there = if is_audit { there.clone() } else { there.replace(&theirs, &ours) };
        assert_eq!(&there, here);
    }
    let durable = v1::ConsumeQuotaRequest {
        meter: "platform.calls".into(),
        amount: 12,
        operation_id: "once".into(),
        durable: true,
        ..Default::default()
    };
    let request = v1::GetQuotaRequest { meter: "platform.calls".into(), ..Default::default() };
    let before = moved.quotas().get_quota(request.clone()).await.unwrap().into_inner();
    let twice = moved.quotas().consume_quota(durable).await.unwrap().into_inner();
    assert!(twice.decision.unwrap().allowed);
    let after = moved.quotas().get_quota(request).await.unwrap().into_inner();
    assert_eq!(before, after, "an operation that was done there is not done again");

    assert_eq!(drift(&destination.database).await, 0);
    assert_eq!(verify(&destination, &["--organization", "acme"]).await, ("1 organizations, 0 differences\n".into(), 0));
    assert_eq!(verify(&destination, &[]).await.1, 0);

    let request =
        v1::ListAuditEventsRequest { filter: "action = \"organizations.import\"".into(), ..Default::default() };
    let audit = destination.operator().audit().list_audit_events(request).await.unwrap().into_inner().audit_events;
    assert_eq!((audit.len(), audit[0].resource_id.as_str()), (1, acme.tenant.id.as_str()), "{audit:?}");
    // What a restore wrote is exported again as it was, but for what was used since.
    let again = exported(&destination, &acme.tenant.id).await;
    let of = |file: &str, theirs: &str| -> Vec<String> {
        let since = ["api_key_uses", "member_activity", "platform_meters", "quota_accounts", "quota_operations"];
        let starts = since.map(|table| format!("{{\"table\":\"{table}\""));
        let is_same =
            |line: &&str| !starts.iter().any(|start| line.starts_with(start)) && line.starts_with("{\"table\"");
        let is_audit = |line: &str| line.starts_with("{\"table\":\"audit_events\"");
        let line = |line: &str| if is_audit(line) { line.to_owned() } else { line.replace(theirs, &ours) };
        file.lines().filter(is_same).map(line).collect()
    };
    let (there, here) = (of(&file, &theirs), of(&again, &ours));
    assert_eq!(there.len(), here.len());
    for (there, here) in there.iter().zip(&here) {
        assert_eq!(there, here);
    }
    // What is done from now on is done by the same rules.
    let more = vec![v1::UsageEvent { meter: "sum".into(), ..event("sum 3", base + TimeDelta::minutes(12)) }];
    assert_eq!(fates(&moved, more).await, ["CONFLICT"], "an event that was recorded there is known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_anybody_else_is_in_the_file() {
    let world = World::start().await;
    let acme = Furnished::create(&world, "acme").await.tenant;
    let rival = Furnished::create(&world, "rival").await;
    // Somebody who is in both, and prefers the other one; and somebody who was in this one.
    let both = acme.member(&world, "both", "viewer").await;
    let request = v1::AddMemberRequest {
        organization_id: rival.tenant.id.clone(),
        user_id: both.clone(),
        role: "viewer".into(),
        ..Default::default()
    };
    world.operator().members().add_member(request).await.unwrap();
    sqlx::query(
        "UPDATE tenancy.users SET default_organization_id = $1::uuid, identity_provider = 'idp', external_id = 'x-1'
         WHERE user_id = $2::uuid",
    )
    .bind(&rival.tenant.id)
    .bind(&both)
    .execute(&world.database.superuser)
    .await
    .unwrap();

    let file = exported(&world, &acme.id).await;
    assert!(file.contains(&both) && file.contains("both@acme.example.com") && file.contains("x-1"));
    let mut foreign: Vec<String> = vec![rival.tenant.id.clone(), "rival".into(), rival.user_id, rival.meter_id];
    foreign.extend([rival.tenant.key_id, rival.team_id, rival.limit_id, world.operator_key()[3..19].to_owned()]);
    for foreign in foreign {
        assert!(!file.contains(&foreign), "{foreign}");
    }
    // The hash of a secret, never the secret.
    assert!(file.contains("$argon2id$") && !file.contains(&acme.key[30..50]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_moves_or_is_on_the_list() {
    let world = World::start().await;
    let acme = Furnished::create(&world, "acme").await.tenant;
    // A table that nobody thought of here.
    sqlx::raw_sql(
        "CREATE TABLE tenancy.later (organization_id uuid NOT NULL, note text, amount numeric, data bytea, big bigint,
             PRIMARY KEY (organization_id));
         CALL tenancy.isolate('tenancy.later'); GRANT SELECT ON tenancy.later TO tenancy_app",
    )
    .execute(&world.database.superuser)
    .await
    .unwrap();
    sqlx::query("INSERT INTO tenancy.later VALUES ($1::uuid, E'a\\tb', 0.100000000000000000000001, '\\x00ff', 9007199254740993)")
        .bind(&acme.id)
        .execute(&world.database.superuser)
        .await
        .unwrap();
    let file = exported(&world, &acme.id).await;
    for table in tenant_tables(&world.database.superuser).await {
        let is_there = file.contains(&format!("{{\"table\":\"{table}\","));
        let reason = tenancy::repository::portable::LEFT_OUT.iter().find(|(left_out, _)| *left_out == table);
        assert_eq!(is_there, reason.is_none(), "{table}: exported, or left out with a reason");
        assert!(reason.is_none_or(|(_, reason)| !reason.is_empty()));
    }
    let row = r#""amount":0.100000000000000000000001,"data":"\\x00ff","big":9007199254740993}}"#;
    assert!(file.contains(row), "{file}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_are_here_already_are_those_who_are_here() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = Furnished::create(&origin, "acme").await;
    let (client, theirs) = (&acme.tenant.client, &acme.user_id);
    // A limit of theirs alone, and a record of what was done for them.
    let rule = crate::isolation::cases::plans::rule("acme.calls");
    let limit = v1::Limit { rule: Some(rule), subject_id: theirs.clone(), ..v1::Limit::default() };
    crate::quota::support::create_limit(client, limit).await.unwrap();
    let request = v1::Team { display_name: "Of theirs".into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(request), ..Default::default() };
    client.clone().acting(theirs).teams().create_team(request).await.unwrap();
    let user = v1::User { email: "Owner@Acme.example.com".into(), display_name: "Here".into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    let ours = destination.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id;

    let file = exported(&origin, &acme.tenant.id).await;
    let said = mapped(&destination, &file).await.unwrap();
    assert!(said.contains(" 1 users, 1 of them were here already\n"), "{said}");
    let after = everything(&destination.database.superuser, &acme.tenant.id).await;
    for (table, rows) in &after {
        // The audit has what was said then in its states of resources, and whom it was done for in a column.
        let is_there = rows.iter().any(|row| row.contains(theirs));
        assert!(table == "audit_events" || !is_there, "{table}: {rows:?}");
    }
    for table in ["members", "team_members", "member_activity", "limits", "audit_events"] {
        assert!(after[table].iter().any(|row| row.contains(&ours)), "{table}");
    }
    let moved = destination.client(&acme.tenant.key).acting(&ours);
    crate::harness::eventually("the key is known", || async {
        moved.teams().list_teams(v1::ListTeamsRequest::default()).await.is_ok()
    })
    .await;
}
