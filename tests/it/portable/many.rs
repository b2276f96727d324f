//! Many rows: in bounded memory, parents before children however they are numbered, and of one moment while others write.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use chrono::TimeDelta;
use tenancy::model::usage::quarter;
use tenancy::proto::v1;

use crate::harness::World;
use crate::portable::support::{everything, exported, restored};
use crate::usage::support::{create_meter, drift, event, fates, stored};
use crate::usage::verify::verify;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_many_teams_is_written_from_its_root() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = origin.tenant("acme").await;
    // The root has the last id of all, so that by their ids its children would come first, in batches before.
    sqlx::query(
        "WITH root AS (
             INSERT INTO tenancy.teams (organization_id, team_id, path, display_name, name_key, create_time, update_time)
             VALUES ($1::uuid, 'ffffffff-ffff-7fff-bfff-ffffffffffff', '{ffffffff-ffff-7fff-bfff-ffffffffffff}', 'r', 'r',
                 now(), now()) RETURNING path)
         INSERT INTO tenancy.teams
             (organization_id, team_id, path, parent_path, display_name, name_key, create_time, update_time)
         SELECT $1::uuid, t.id, root.path || t.id, root.path, t.id::text, t.id::text, now(), now()
         FROM root, (SELECT gen_random_uuid() AS id FROM generate_series(1, 2500)) AS t",
    )
    .bind(&acme.id)
    .execute(&origin.database.superuser)
    .await
    .unwrap();
    let file = exported(&origin, &acme.id).await;
    restored(&destination, &file).await.unwrap();
    let teams = everything(&destination.database.superuser, &acme.id).await.remove("teams").unwrap();
    assert_eq!(teams.len(), 2501);
    assert_eq!(teams, everything(&origin.database.superuser, &acme.id).await.remove("teams").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_of_one_moment() {
    let (origin, destination) = (World::start().await, World::start().await);
    let acme = origin.tenant("acme").await;
    create_meter(&acme.client, "calls", v1::MeterAggregation::Sum).await;
    let base = quarter(origin.clock.now()) - TimeDelta::hours(3);
    let (done, written) = (AtomicBool::new(false), AtomicI64::new(0));
    let writing = async {
        let mut number = 0;
        while !done.load(Ordering::Relaxed) {
            let events =
                (0..20).map(|more| event(&format!("{}", number + more), base + TimeDelta::seconds(number + more)));
            assert_eq!(fates(&acme.client, events.collect()).await, ["RECORDED"; 20]);
            acme.member(&origin, &format!("m{number}"), "viewer").await;
            number += 20;
            written.store(number, Ordering::Relaxed);
        }
    };
    let exporting = async {
        let mut files = Vec::new();
        while files.len() < 8 || written.load(Ordering::Relaxed) < 100 {
            files.push(exported(&origin, &acme.id).await);
        }
        done.store(true, Ordering::Relaxed);
        files
    };
    let ((), files) = tokio::join!(writing, exporting);
    let last = files.last().unwrap();
    assert_ne!(files[0].lines().count(), last.lines().count(), "it was written while it was exported");
    for file in &files {
        // Every event, the figure that it is in, every member and their user: of one moment.
        let of =
            |table: &str| file.lines().filter(|line| line.starts_with(&format!("{{\"table\":\"{table}\""))).count();
        assert_eq!(of("members"), of("users"));
        // The users of the audit's records are those of the members.
        assert_eq!(of("members"), file.matches("\"action\":\"members.add\"").count());
    }
    restored(&destination, last).await.unwrap();
    assert_eq!(drift(&destination.database).await, 0);
    assert!(stored(&destination.database).await > 0);
    assert_eq!(verify(&destination, &[]).await, ("1 organizations, 0 differences\n".into(), 0));
}
