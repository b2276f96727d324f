//! One team after the other: what it may be, where it may be, and what is written down of it.

use futures_util::future::join_all;
use prost_types::FieldMask;
use tenancy::proto::v1;
use tonic::{Code, Status};

use super::{NOBODY, REQUEST_ID, actions, audit, create, delete, get, new, reparent, reparent_at, subtree};
use crate::harness::{Client, World, refused};

async fn update(client: &Client, team: v1::Team, mask: &[&str]) -> Result<v1::Team, Status> {
    let update_mask = Some(FieldMask { paths: mask.iter().map(ToString::to_string).collect() });
    let request = v1::UpdateTeamRequest { team: Some(team), update_mask };
    Ok(client.teams().update_team(request).await?.into_inner().team.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_team_is_as_it_was_created() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = &tenant.client;
    let root = create(client, "", "Engineering").await.unwrap();
    assert_eq!((root.organization_id.as_str(), root.parent_team_id.as_str(), root.depth), (&*tenant.id, "", 1));
    assert_eq!(root.path, [root.team_id.clone()]);
    let team = v1::Team {
        organization_id: "acme".into(),
        parent_team_id: root.team_id.clone(),
        display_name: "Backend Squad".into(),
        description: "Services".into(),
        labels: [("cost-center".to_owned(), "42".to_owned())].into(),
        // Output only.
        team_id: NOBODY.into(),
        path: vec![NOBODY.into()],
        depth: 7,
        ..v1::Team::default()
    };
    let request = v1::CreateTeamRequest { team: Some(team.clone()), ..Default::default() };
    let child = client.teams().create_team(request).await.unwrap().into_inner().team.unwrap();
    assert_eq!((&child.description, &child.labels), (&team.description, &team.labels));
    assert_eq!((&child.path, child.depth), (&vec![root.team_id.clone(), child.team_id.clone()], 2));
    assert_eq!((&child.parent_team_id, child.team_id == NOBODY), (&root.team_id, false));
    assert_eq!(get(client, &child.team_id).await.unwrap(), child);
    assert!(refused(get(client, NOBODY).await).is(Code::NotFound, "TEAM_NOT_FOUND"));
    assert!(refused(create(client, NOBODY, "Lost").await).is(Code::NotFound, "TEAM_NOT_FOUND"));

    let created = audit(&tenant, "team", &child.team_id).await;
    assert_eq!(actions(&created), ["teams.create"]);
    let after = &created[0].after.as_ref().unwrap().fields;
    assert!(format!("{:?}", after["path"]).contains(&root.team_id) && created[0].before.is_none());

    let wrong = v1::Team { parent_team_id: "x".into(), description: "x".repeat(1001), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(wrong), ..Default::default() };
    let refusal = refused(client.teams().create_team(request).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD"), "{refusal:?}");
    assert_eq!(refusal.fields, ["team.parent_team_id", "team.display_name", "team.description"]);
    assert_eq!(subtree(client, "").await, [root, child]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_have_different_names() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let client = &tenant.client;
    let one = new(client, "", "Ärzte").await;
    for taken in ["Ärzte", "ÄRZTE", "ärzte"] {
        let refusal = refused(create(client, "", taken).await);
        assert!(refusal.is(Code::AlreadyExists, "TEAM_NAME_TAKEN"), "{refusal:?}");
        assert_eq!(refusal.fields, ["team.display_name"]);
    }
    // Not among cousins, and not elsewhere.
    let below = new(client, &one, "ärzte").await;
    new(&other.client, "", "Ärzte").await;
    let two = new(client, "", "Two").await;
    let named = |team_id: &str, name: &str| v1::Team {
        team_id: team_id.into(),
        display_name: name.into(),
        ..v1::Team::default()
    };
    let refusal = refused(update(client, named(&two, "ÄRZTE"), &["display_name"]).await);
    assert!(refusal.is(Code::AlreadyExists, "TEAM_NAME_TAKEN"), "{refusal:?}");
    let refusal = refused(reparent(client, &below, "").await);
    assert!(refusal.is(Code::AlreadyExists, "TEAM_NAME_TAKEN"), "{refusal:?}");
    assert_eq!(get(client, &below).await.unwrap().parent_team_id, one);
    // A team may spell its own name otherwise.
    assert_eq!(update(client, named(&one, "ÄRZTE"), &["*"]).await.unwrap().display_name, "ÄRZTE");
    // The longest name there is, also where another case of it takes three times the bytes.
    let long = "\u{390}".repeat(200);
    new(client, &one, &long).await;
    refused(create(client, &one, &long).await);
    // Of those that come at once, one is.
    let at_once = join_all((0..6).map(|_| create(client, "", "Race"))).await;
    assert_eq!(at_once.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_creation_is_one() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let team = v1::Team { display_name: "Once".into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(team), request_id: REQUEST_ID.into(), ..Default::default() };
    let again = (0..4).map(|_| {
        let (mut teams, request) = (tenant.client.teams(), request.clone());
        async move { teams.create_team(request).await.map(tonic::Response::into_inner) }
    });
    let replies: Vec<_> = join_all(again).await.into_iter().map(Result::unwrap).collect();
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    assert_eq!(subtree(&tenant.client, "").await.len(), 1);
    let other = v1::Team { display_name: "Twice".into(), ..v1::Team::default() };
    let request = v1::CreateTeamRequest { team: Some(other), ..request };
    let refusal = refused(tenant.client.teams().create_team(request).await);
    assert!(refusal.is(Code::InvalidArgument, "REQUEST_ID_REUSED"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_named_fields_change_and_only_of_what_was_seen() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = &tenant.client;
    let before = create(client, "", "Ops").await.unwrap();
    let changes = v1::Team {
        description: "Operations".into(),
        labels: [("tier".to_owned(), "one".to_owned())].into(),
        etag: before.etag.clone(),
        ..before.clone()
    };
    let after = update(client, changes.clone(), &["description"]).await.unwrap();
    assert_eq!((after.description.as_str(), after.labels.len()), ("Operations", 0));
    assert_ne!(after.etag, before.etag);
    assert_eq!(get(client, &before.team_id).await.unwrap(), after);
    assert!(refused(update(client, changes.clone(), &["labels"]).await).is(Code::Aborted, "ETAG_MISMATCH"));
    assert!(refused(reparent_at(client, &before.team_id, "", &before.etag).await).is(Code::Aborted, "ETAG_MISMATCH"));
    let request =
        v1::DeleteTeamRequest { team_id: before.team_id.clone(), etag: before.etag.clone(), ..Default::default() };
    assert!(refused(client.teams().delete_team(request).await).is(Code::Aborted, "ETAG_MISMATCH"));
    for fixed in ["parent_team_id", "path", "team_id"] {
        let refusal = refused(update(client, changes.clone(), &[fixed]).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["update_mask"]);
    }
    let missing = v1::Team { team_id: NOBODY.into(), ..changes };
    assert!(refused(update(client, missing, &["description"]).await).is(Code::NotFound, "TEAM_NOT_FOUND"));
    let events = audit(&tenant, "team", &before.team_id).await;
    assert_eq!(actions(&events), ["teams.create", "teams.update"]);
    assert_eq!(subtree(client, "").await, [after]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_has_ten_levels() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let client = &tenant.client;
    let mut chain = vec![new(client, "", "1").await];
    for level in 2..=10 {
        chain.push(new(client, chain.last().unwrap(), &level.to_string()).await);
    }
    let too_deep = |refusal: crate::harness::Refused| {
        assert!(refusal.is(Code::FailedPrecondition, "TEAM_TOO_DEEP"), "{refusal:?}");
    };
    too_deep(refused(create(client, &chain[9], "11").await));
    let pair = new(client, "", "pair").await;
    new(client, &pair, "of two").await;
    // What is below counts.
    too_deep(refused(reparent(client, &pair, &chain[8]).await));
    assert_eq!(reparent(client, &pair, &chain[7]).await.unwrap().depth, 9);
    too_deep(refused(reparent(client, &chain[0], &new(client, "", "above").await).await));
    assert_eq!(subtree(client, "").await.iter().map(|team| team.depth).max(), Some(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_has_room_for_ten_thousand() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let root = new(&tenant.client, "", "root").await;
    sqlx::query(
        "INSERT INTO tenancy.teams (organization_id, team_id, path, parent_path, display_name, name_key, create_time,
             update_time)
         SELECT $1::uuid, id, ARRAY[$2::uuid, id], ARRAY[$2::uuid], n::text, n::text, now(), now()
         FROM (SELECT n, gen_random_uuid() AS id FROM generate_series(1, 9998) n) made",
    )
    .bind(&tenant.id)
    .bind(&root)
    .execute(&world.database.superuser)
    .await
    .unwrap();
    // Two for the last place.
    let outcomes = join_all(["a", "b"].map(|name| create(&tenant.client, "", name))).await;
    let (created, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 1);
    for refusal in refusals {
        assert!(refused(refusal).is(Code::FailedPrecondition, "TEAMS_EXHAUSTED"));
    }
    // All of them at once, and far away: under a second here, and well within a request's time anywhere.
    let parent = created.into_iter().next().unwrap().unwrap().team_id;
    assert_eq!(reparent(&tenant.client, &root, &parent).await.unwrap().depth, 2);
    let all = subtree(&tenant.client, "").await;
    assert_eq!((all.len(), all.iter().filter(|team| team.depth == 3).count()), (10_000, 9_998));
    super::assert_is_a_tree(&all);
    assert_eq!(delete(&tenant.client, &parent, v1::DeleteTeamMode::Cascade).await.unwrap(), (10_000, 0));
    assert_eq!(subtree(&tenant.client, "").await, []);
    let deleted: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.audit_events WHERE action = 'teams.delete'")
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(deleted, 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_of_teams_that_exist() {
    let world = World::start().await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    for client in [&tenant.client, &other.client] {
        let meter = v1::Meter {
            key: "calls".into(),
            display_name: "Calls".into(),
            aggregation: v1::MeterAggregation::Sum.into(),
            ..v1::Meter::default()
        };
        let request = v1::CreateMeterRequest { meter: Some(meter), ..Default::default() };
        client.meters().create_meter(request).await.unwrap();
    }
    let limit = async |client: &Client, kind: v1::SubjectKind, subject_id: &str| {
        let rule = v1::LimitRule {
            meter: "calls".into(),
            subject_kind: kind.into(),
            window: Some(v1::Window { unit: v1::WindowUnit::Month.into(), rolling: false }),
            amount: Some(10),
            ..v1::LimitRule::default()
        };
        let limit = v1::Limit { subject_id: subject_id.into(), rule: Some(rule), ..v1::Limit::default() };
        client.limits().create_limit(v1::CreateLimitRequest { limit: Some(limit), ..Default::default() }).await
    };
    let team = new(&tenant.client, "", "Ops").await;
    let kind = v1::SubjectKind::Team;
    for (client, subject) in [(&tenant.client, NOBODY), (&other.client, team.as_str())] {
        let refusal = refused(limit(client, kind, subject).await);
        assert!(refusal.is(Code::NotFound, "TEAM_NOT_FOUND"), "{refusal:?}");
    }
    limit(&tenant.client, kind, &team).await.unwrap();
    limit(&tenant.client, kind, "").await.unwrap();
    limit(&tenant.client, v1::SubjectKind::User, NOBODY).await.unwrap();
    // And it holds for that team.
    let consume = async |team_id: &str| {
        let subject = Some(v1::QuotaSubject { team_id: team_id.into(), ..v1::QuotaSubject::default() });
        let request = v1::CheckQuotaRequest { meter: "calls".into(), amount: 1, subject, ..Default::default() };
        let reply = tenant.client.quotas().check_quota(request).await.unwrap().into_inner();
        reply.decision.unwrap().limits.iter().filter(|limit| limit.subject_id == team).count()
    };
    assert_eq!((consume(&team).await > 0, consume(NOBODY).await), (true, 0));
}
