//! Deaths, their remains, and who else is in the directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid};
use tenancy::repository::embedded::{EmbeddedError, start};

use super::support::{Holder, directory, eventually, options, psql, query, runs, send};

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let dir = directory();
    let holder = Holder::new(dir.path());
    let error = start(&options(dir.path())).unwrap_err();
    let EmbeddedError::Locked { pid, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*pid, Some(holder.child.id()));
    assert!(error.to_string().contains("TENANCY_DATA_DIR"), "{error}");
    assert!(runs(holder.postgres), "the owner's server is left alone");
}

#[test]
fn a_killed_postmaster_is_noticed_and_restarted() {
    let dir = directory();
    let mut db = start(&options(dir.path())).unwrap();
    query(&db, "create table kept as select 42 as n");
    assert!(!db.has_exited());
    let first = db.pid();
    send(first, Signal::SIGKILL);
    eventually("the death is noticed", || db.has_exited());
    db.restart().unwrap();
    assert!(!db.has_exited());
    assert_ne!(db.pid(), first);
    assert_eq!(query(&db, "select n from kept"), "42");

    // And a new start instead of a restart.
    send(db.pid(), Signal::SIGKILL);
    drop(db);
    let db = start(&options(dir.path())).unwrap();
    assert_eq!(query(&db, "select n from kept"), "42");
}

#[test]
fn a_killed_postmaster_with_a_busy_client_is_recovered_from() {
    let dir = directory();
    let mut db = start(&options(dir.path())).unwrap();
    let mut client = psql(&db).args(["-c", "select pg_sleep(60)"]).stderr(Stdio::null()).spawn().unwrap();
    let busy = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)' and pid <> pg_backend_pid()";
    eventually("the client is busy", || query(&db, busy) == "1");
    send(db.pid(), Signal::SIGKILL);
    db.restart().unwrap();
    assert_eq!(query(&db, "select 1"), "1");
    client.wait().unwrap();
}

#[test]
fn postgres_goes_down_with_us() {
    let dir = directory();
    let mut holder = Holder::new(dir.path());
    holder.kill();
    if cfg!(target_os = "linux") {
        eventually("Postgres stops by itself", || !runs(holder.postgres));
    }
    let db = start(&options(dir.path())).unwrap();
    assert!(!runs(holder.postgres));
    assert_eq!(query(&db, "select 1"), "1");
}

#[test]
fn a_start_right_after_our_death_waits_for_the_old_server() {
    let dir = directory();
    let mut holder = Holder::new(dir.path());
    holder.kill();
    let db = start(&options(dir.path())).unwrap();
    assert!(!runs(holder.postgres));
    assert_eq!(query(&db, "select 1"), "1");
}

#[test]
fn the_death_of_both_is_recovered_from() {
    let dir = directory();
    let mut holder = Holder::new(dir.path());
    send(holder.postgres, Signal::SIGKILL); // now a zombie, since the holder does not look
    holder.kill();
    let db = start(&options(dir.path())).unwrap();
    assert_eq!(query(&db, "select 1"), "1");
}

#[test]
fn an_old_server_that_nobody_keeps_is_stopped() {
    let dir = directory();
    let db = start(&options(dir.path())).unwrap();
    let data = dir.path().canonicalize().unwrap().join("postgres");
    let (bin, socket) = (db.bin_dir().to_owned(), db.socket_dir().to_owned());
    db.stop().unwrap();
    // As we would have started it on a system that cannot tie it to us.
    let owner = fs::metadata(&data).unwrap();
    let mut command = Command::new(bin.join("postgres"));
    command
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=", "-k"])
        .arg(socket)
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if Uid::effective().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let mut old = command.spawn().unwrap();
    eventually("the old server runs", || {
        fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| text.contains("ready"))
    });
    let db = start(&options(dir.path())).unwrap();
    assert_eq!(query(&db, "select 1"), "1");
    assert_eq!(old.wait().unwrap().code(), Some(0), "it was stopped properly");
}

#[test]
fn a_stranger_with_the_old_process_id_is_left_alone() {
    let dir = directory();
    let db = start(&options(dir.path())).unwrap();
    let owner = fs::metadata(dir.path().join("postgres")).unwrap();
    db.stop().unwrap();
    // Of the user who runs Postgres: only then would Postgres believe the file.
    let mut command = Command::new("sleep");
    command.arg("60");
    if Uid::effective().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let mut stranger = command.spawn().unwrap();
    let pid_file = dir.path().join("postgres/postmaster.pid");
    let old = format!("{}\n/somewhere\n1700000000\n5432\n", stranger.id());
    fs::write(&pid_file, old).unwrap();
    std::os::unix::fs::chown(&pid_file, Some(owner.uid()), Some(owner.gid())).unwrap();
    let result = start(&options(dir.path()));
    let left_alone = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(left_alone);
    assert_eq!(query(&result.unwrap(), "select 1"), "1");
}

#[test]
fn a_pid_file_cut_short_by_a_crash_is_no_obstacle() {
    let dir = directory();
    start(&options(dir.path())).unwrap().stop().unwrap();
    fs::write(dir.path().join("postgres/postmaster.pid"), "").unwrap();
    assert_eq!(query(&start(&options(dir.path())).unwrap(), "select 1"), "1");
}

#[test]
fn half_a_cluster_is_swept_and_made_anew() {
    let dir = directory();
    let half = dir.path().join("init-0011223344556677");
    fs::create_dir_all(half.join("data/base")).unwrap();
    fs::write(half.join("data/PG_VERSION"), "15\n").unwrap();
    let db = start(&options(dir.path())).unwrap();
    assert_eq!(query(&db, "select 1"), "1");
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("init-"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn a_kill_during_the_first_start_leaves_nothing_that_is_taken_for_a_cluster() {
    let dir = directory();
    let mut child = Holder::command(dir.path()).spawn().unwrap();
    let making =
        || fs::read_dir(dir.path()).unwrap().flatten().any(|entry| entry.path().join("data/PG_VERSION").exists());
    eventually("initdb is at work", making);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!dir.path().join("postgres").exists());
    assert_eq!(query(&start(&options(dir.path())).unwrap(), "select 1"), "1");
}

#[test]
fn a_ctrl_c_in_the_terminal_does_not_reach_postgres() {
    let dir = directory();
    let holder = Holder::new(dir.path());
    let group = Pid::from_raw(i32::try_from(holder.child.id()).unwrap());
    let session = |pid: u32| nix::unistd::getsid(Some(Pid::from_raw(pid.try_into().unwrap())));
    let groups = |pid: u32| nix::unistd::getpgid(Some(Pid::from_raw(pid.try_into().unwrap())));
    assert_eq!(groups(holder.child.id()), Ok(group));
    assert_ne!(groups(holder.postgres), Ok(group));
    assert_ne!(session(holder.postgres), session(holder.child.id()));
}
