//! What is refused, and leaves nothing: each with the word that says what to do.

use sqlx::AssertSqlSafe;
use tenancy::cli::restore::RestoreError;
use tenancy::error::Error;
use tenancy::proto::v1;
use tenancy::repository::portable;
use tenancy::repository::portable::owner::Owner;
use tenancy::repository::portable::restore::{self, Batch};

use crate::harness::World;
use crate::isolation::cases::Furnished;
use crate::portable::support::{exported, platform_meter, restored, rows, signed};
use crate::usage::support::{event, fates};

/// Restores what must be refused, and looks that nothing was written; what was said.
async fn refused(world: &World, file: &str) -> RestoreError {
    let before = rows(&world.database.superuser).await;
    let refusal = restored(world, file).await.expect_err("it should have been refused");
    assert_eq!(rows(&world.database.superuser).await, before, "{refusal}");
    refusal
}

fn reason(refusal: &RestoreError) -> String {
    let RestoreError::Domain(error) = refusal else { panic!("{refusal}") };
    error.reason()
}

/// An installation with an organization that uses a platform-wide meter, its file, and another installation that has that too.
async fn moving() -> (World, World, Furnished, String) {
    let (origin, destination) = (World::start().await, World::start().await);
    for world in [&origin, &destination] {
        platform_meter(world, "platform.calls", v1::MeterAggregation::Sum).await;
    }
    let acme = Furnished::create(&origin, "acme").await;
    let events = vec![v1::UsageEvent { meter: "platform.calls".into(), ..event("one", origin.clock.now()) }];
    assert_eq!(fates(&acme.tenant.client, events).await, ["RECORDED"]);
    let file = exported(&origin, &acme.tenant.id).await;
    (origin, destination, acme, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_whole_or_not_as_it_was() {
    let (_origin, world, acme, file) = moving().await;
    let lines: Vec<&str> = file.lines().collect();
    let whole = |lines: &[&str]| lines.iter().flat_map(|line| [*line, "\n"]).collect::<String>();
    for cut in [1, 2, lines.len() / 2, lines.len() - 1] {
        let refusal = refused(&world, &whole(&lines[..cut])).await;
        assert!(matches!(refusal, RestoreError::CutOff(_)), "{refusal}");
    }
    assert!(matches!(refused(&world, "").await, RestoreError::CutOff(0)));
    // In the middle of a line.
    let refusal = refused(&world, &file[..file.len() / 2]).await;
    assert!(matches!(refusal, RestoreError::Line { .. } | RestoreError::CutOff(_)), "{refusal}");

    let changed = file.replacen("\"role\":\"owner\"", "\"role\":\"admin\"", 1);
    assert_ne!(changed, file);
    assert!(matches!(refused(&world, &changed).await, RestoreError::Changed(_)));
    let mut fewer = lines.clone();
    fewer.remove(lines.iter().position(|line| line.contains("\"audit_events\"")).unwrap());
    assert!(matches!(refused(&world, &whole(&fewer)).await, RestoreError::Changed(_)));
    let more = format!("{file}{}\n", lines[1]);
    assert!(matches!(refused(&world, &more).await, RestoreError::Changed(_)));
    // The sum is right, and the count is not.
    let miscounted = file.replace("\"users\":1", "\"users\":2");
    assert_ne!(miscounted, file);
    assert!(matches!(refused(&world, &miscounted).await, RestoreError::Changed(_)));

    for (from, to, said) in [
        ("{\"table\":\"api_keys\"", "{\"table\":\"api_quays\"", "has no table \"api_quays\""),
        ("{\"table\":\"api_keys\"", "{\"table\":\"platform_keys\"", "has no table \"platform_keys\""),
        ("{\"table\":\"api_keys\"", "{\"table\":\"idempotent_requests\"", "has no table"),
        ("\"secret_hash\":", "\"secret_hush\":", "has no column \"secret_hush\""),
        ("{\"table\":\"limits\",\"row\":{", "{\"table\":\"limits\",\"rows\":{", "no row of an export"),
        ("{\"tenancy_export\":1,", "{\"tenancy_export\":2,", "format 2"),
        ("\"lookup_id\":", "\"lookup_id\":1,\"lookup_id\":", "does not fit the schema"),
    ] {
        let edited = file.replacen(from, to, 1);
        assert_ne!(edited, file, "{from}");
        let refusal = refused(&world, &edited).await.to_string();
        assert!(refusal.contains(said) || said.contains("does not fit"), "{from}: {refusal}");
    }
    // Nothing of it was wrong but that.
    assert!(restored(&world, &file).await.unwrap().contains("acme is restored"));
    let refusal = refused(&world, &file).await;
    assert_eq!(reason(&refusal), "ORGANIZATION_EXISTS", "twice: {refusal}");
    assert!(refusal.to_string().contains(&acme.tenant.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_another_organization() {
    let (_origin, world, acme, file) = moving().await;
    let resident = Furnished::create(&world, "resident").await.tenant;
    for table in ["members", "audit_events", "usage_events", "quota_accounts", "api_key_directory", "teams"] {
        let lines: Vec<String> = file.lines().map(ToOwned::to_owned).collect();
        let place = lines.iter().position(|line| line.starts_with(&format!("{{\"table\":\"{table}\""))).unwrap();
        let mut edited = lines.clone();
        edited[place] = edited[place].replace(&acme.tenant.id, &resident.id);
        let edited = signed(&(edited.join("\n") + "\n"));
        let refusal = refused(&world, &edited).await.to_string();
        assert!(
            refusal.starts_with(&format!("line {}: ", place + 1)) && refusal.contains("organization's"),
            "{refusal}"
        );
    }

    // Whatever comes by that, the policies refuse.
    let owner = Owner::new(&world.database.owner);
    let now = world.clock.now();
    let mut scope = owner.restore(acme.tenant.id.parse().unwrap()).await.unwrap();
    let tables = portable::tables(&mut scope).await.unwrap();
    scope.rollback().await.unwrap();
    for table in &tables {
        let sql = format!(
            "SELECT to_jsonb(t)::text FROM tenancy.{} t WHERE organization_id = '{}' LIMIT 1",
            table.name, resident.id
        );
        let row: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&world.database.superuser).await.unwrap();
        let mut scope = owner.restore(acme.tenant.id.parse().unwrap()).await.unwrap();
        let batch = Batch { table, columns: &table.columns, rows: &format!("[{row}]") };
        let outcome = restore::insert(&mut scope, &batch, now - chrono::TimeDelta::days(9)).await;
        let Err(error @ Error::FailedPrecondition { .. }) = outcome else { panic!("{}: {outcome:?}", table.name) };
        assert_eq!(error.reason(), "IMPORT_FOREIGN", "{}: {error}", table.name);
    }
    owner.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_not_ready() {
    let (origin, world, acme, file) = moving().await;
    let superuser = &world.database.superuser;

    // The slug is another's.
    let taken = world.tenant("acme").await;
    let refusal = refused(&world, &file).await;
    assert_eq!(reason(&refusal), "SLUG_TAKEN", "{refusal}");
    let request = v1::UpdateOrganizationRequest {
        organization: Some(v1::Organization { organization_id: taken.id, slug: "other".into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["slug".into()] }),
        ..Default::default()
    };
    world.operator().organizations().update_organization(request).await.unwrap();

    // The plan, a platform-wide meter, the schema.
    let request =
        v1::CreatePlanRequest { plan: Some(crate::quota::support::plan("special", vec![])), ..Default::default() };
    origin.operator().plans().create_plan(request.clone()).await.unwrap();
    let special = file.replace("\"plan\":\"free\"", "\"plan\":\"special\"");
    let refusal = refused(&world, &signed(&special)).await;
    assert_eq!(reason(&refusal), "PLAN_NOT_FOUND");
    assert!(refusal.to_string().contains("no plan \"special\" here"), "{refusal}");

    for (breakage, said) in [
        ("UPDATE tenancy.platform_meters SET key = 'renamed'", "platform.calls: is missing"),
        (
            "UPDATE tenancy.platform_meters SET key = 'platform.calls', aggregation = 'max'",
            "platform.calls: counts something else",
        ),
    ] {
        sqlx::raw_sql(breakage).execute(superuser).await.unwrap();
        let refusal = refused(&world, &file).await;
        assert!(matches!(&refusal, RestoreError::Meters(meters) if meters.len() == 1), "{refusal}");
        assert!(refusal.to_string().contains(said), "{refusal}");
    }
    sqlx::raw_sql("UPDATE tenancy.platform_meters SET aggregation = 'sum'").execute(superuser).await.unwrap();

    let newer = file.replacen("\"schema_version\":", "\"schema_version\":9", 1);
    assert_eq!(reason(&refused(&world, &signed(&newer)).await), "SCHEMA_TOO_OLD");

    // Somebody has the address, in other letters; somebody the identity.
    let email = "OWNER@acme.example.com";
    let user = v1::User { email: email.into(), display_name: "Another".into(), ..v1::User::default() };
    let request = v1::CreateUserRequest { user: Some(user), ..Default::default() };
    let other = world.operator().users().create_user(request).await.unwrap().into_inner().user.unwrap().user_id;
    let refusal = refused(&world, &file).await;
    let RestoreError::Users(clashes) = &refusal else { panic!("{refusal}") };
    assert_eq!((clashes.len(), clashes[0].user_id.to_string()), (1, acme.user_id.clone()));
    assert!(
        refusal.to_string().contains(&format!("owner@acme.example.com: {} in the file, {other} here", acme.user_id))
    );
    sqlx::query("UPDATE tenancy.users SET email = 'x@example.com', identity_provider = 'idp', external_id = '7' WHERE user_id = $1::uuid")
        .bind(&other)
        .execute(superuser)
        .await
        .unwrap();
    let same = file.replace(
        "\"identity_provider\":\"\",\"external_id\":\"\"",
        "\"identity_provider\":\"idp\",\"external_id\":\"7\"",
    );
    assert_ne!(same, file);
    assert!(matches!(refused(&world, &signed(&same)).await, RestoreError::Users(_)));

    // The same user is here already, by that id: kept as here.
    sqlx::query(
        "INSERT INTO tenancy.users (user_id, email, display_name, create_time, update_time)
         VALUES ($1::uuid, 'known@example.com', 'Known here', now(), now())",
    )
    .bind(&acme.user_id)
    .execute(superuser)
    .await
    .unwrap();
    // A key with that lookup id is here.
    let lookup: String =
        sqlx::query_scalar("SELECT lookup_id FROM tenancy.api_key_directory WHERE organization_id = $1::uuid")
            .bind(&acme.tenant.id)
            .fetch_one(&origin.database.superuser)
            .await
            .unwrap();
    sqlx::query("UPDATE tenancy.api_key_directory SET lookup_id = $1 WHERE lookup_id = (SELECT min(lookup_id) FROM tenancy.api_key_directory)")
        .bind(&lookup)
        .execute(superuser)
        .await
        .unwrap();
    let refusal = refused(&world, &file).await;
    assert_eq!(reason(&refusal), "IMPORT_CONFLICT");
    assert!(refusal.to_string().contains("api_key_directory_pkey"), "{refusal}");
    sqlx::query("UPDATE tenancy.api_key_directory SET lookup_id = 'another' WHERE lookup_id = $1")
        .bind(&lookup)
        .execute(superuser)
        .await
        .unwrap();

    let said = restored(&world, &file).await.unwrap();
    assert!(said.contains(" 1 users, 1 of them were here already\n"), "{said}");
    let name: String = sqlx::query_scalar("SELECT display_name FROM tenancy.users WHERE user_id = $1::uuid")
        .bind(&acme.user_id)
        .fetch_one(superuser)
        .await
        .unwrap();
    assert_eq!(name, "Known here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_are_one() {
    let (_origin, world, acme, file) = moving().await;
    let (one, other) = tokio::join!(restored(&world, &file), restored(&world, &file));
    assert_eq!(usize::from(one.is_ok()) + usize::from(other.is_ok()), 1, "{one:?} {other:?}");
    let refusal = one.err().or(other.err()).unwrap();
    assert!(["ORGANIZATION_EXISTS", "SLUG_TAKEN", "IMPORT_CONFLICT"].contains(&reason(&refusal).as_str()), "{refusal}");
    let members: i64 = sqlx::query_scalar("SELECT count(*) FROM tenancy.members WHERE organization_id = $1::uuid")
        .bind(&acme.tenant.id)
        .fetch_one(&world.database.superuser)
        .await
        .unwrap();
    assert_eq!(members, 1);
}
