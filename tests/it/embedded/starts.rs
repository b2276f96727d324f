//! Starting and stopping when nothing is in the way, and what is promised about the server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use tenancy::repository::embedded::{EmbeddedError, Options, start};

use super::support::{directory, options, psql, query, runs};

#[test]
fn the_first_start_makes_a_cluster_and_the_next_finds_its_data() {
    let dir = directory();
    let begin = Instant::now();
    let db = start(&options(dir.path())).unwrap();
    println!("first start: {:?}", begin.elapsed());
    query(&db, "create table kept as select 42 as n");
    let settings = "select current_setting('fsync'), current_setting('listen_addresses'), \
                    current_setting('data_checksums'), current_setting('max_connections'), \
                    current_setting('server_encoding'), datcollate, current_setting('wal_segment_size'), \
                    current_setting('min_wal_size'), current_setting('max_wal_size'), \
                    current_setting('checkpoint_timeout'), current_setting('backend_flush_after') \
                    from pg_database where datname = 'postgres'";
    assert_eq!(query(&db, settings), "on||on|10|UTF8|C|4MB|128MB|128MB|30s|256kB");
    assert_eq!(query(&db, "select current_user, inet_server_addr() is null"), "tenancy_superuser|t");
    let pid = db.pid();
    db.stop().unwrap();
    assert!(!runs(pid));
    assert!(!dir.path().join("postgres/postmaster.pid").exists());

    let begin = Instant::now();
    let db = start(&Options { settings: Vec::new(), ..options(dir.path()) }).unwrap();
    println!("next start: {:?}", begin.elapsed());
    assert_eq!(query(&db, "select n from kept"), "42");
    let buffers = "select pg_size_bytes(current_setting('shared_buffers')) between 128 << 20 and 1 << 30";
    assert_eq!(query(&db, buffers), "t", "a share of the memory, where nothing else is said");
    let pid = db.pid();
    drop(db);
    assert!(!runs(pid), "dropping stops it too");
}

#[test]
fn only_the_password_and_only_the_socket_let_in() {
    let dir = directory();
    let db = start(&options(dir.path())).unwrap();
    let wrong = psql(&db).env("PGPASSWORD", "wrong").args(["-c", "select 1"]).output().unwrap();
    assert!(!wrong.status.success());
    let password = dir.path().join("postgres/superuser.password");
    assert_eq!(fs::metadata(password).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(db.socket_dir()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(db.superuser_password().len(), 64);
    assert!(!format!("{db:?}").contains(db.superuser_password()));
    let owner = fs::metadata(dir.path().join("postgres")).unwrap().uid();
    assert_ne!(owner, 0);
}

#[test]
fn what_guards_the_data_cannot_be_switched_off() {
    let dir = directory();
    let mut options = options(dir.path());
    options.settings.push(("fsync".into(), "off".into()));
    options.settings.push(("listen_addresses".into(), "*".into()));
    let db = start(&options).unwrap();
    assert_eq!(query(&db, "show fsync"), "on");
    assert_eq!(query(&db, "show listen_addresses"), "");
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let dir = directory();
    let mut options = options(dir.path());
    options.settings.push(("shared_buffers".into(), "lots".into()));
    let error = start(&options).unwrap_err();
    assert!(matches!(error, EmbeddedError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("shared_buffers"), "{error}");
}
