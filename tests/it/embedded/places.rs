//! Where the data, the socket and the binaries are, and for whom.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;
use tenancy::repository::embedded::{EmbeddedError, start};

use super::support::{again, directory, options, query};

#[test]
fn a_long_path_moves_the_socket() {
    let dir = directory();
    let deep = dir.path().join("d".repeat(50)).join("e".repeat(50));
    let db = start(&options(&deep)).unwrap();
    let socket = db.socket_dir().to_owned();
    assert!(socket.starts_with("/tmp"), "{}", socket.display());
    assert_eq!(query(&db, "select 1"), "1");
    db.stop().unwrap();
    // Somebody who made that directory first does not get our socket.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let error = start(&options(&deep)).unwrap_err();
    assert!(matches!(error, EmbeddedError::SocketDir { .. }), "{error}");
    fs::remove_dir_all(&socket).unwrap();
}

#[test]
fn awkward_names_work() {
    let dir = directory();
    for name in [" a  \u{fc} 'b' ", "a, \"b\""] {
        let db = start(&options(&dir.path().join(name))).unwrap();
        assert_eq!(query(&db, "select 1"), "1");
        let socket = db.socket_dir().to_owned();
        db.stop().unwrap();
        fs::remove_dir_all(socket).unwrap();
    }
}

#[test]
fn without_binaries_the_error_names_the_ways_out() {
    let dir = directory();
    let mut options = options(dir.path());
    options.search = Some(vec![dir.path().join("nothing-here")]);
    options.archive_cache = Some(dir.path().join("cache"));
    let error = start(&options).unwrap_err().to_string();
    for part in ["15 or later", "apt install postgresql", "PATH", "DATABASE_URL"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_download_that_fails_says_why() {
    let dir = directory();
    let output = again("places::download")
        .env("EMBEDDED_DOWNLOAD_DIR", dir.path())
        // Nobody listens there, so it fails in the same way with and without a network.
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["downloading it failed", "github.com", "DATABASE_URL"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("downloading PostgreSQL"), "{said}");
}

#[test]
#[ignore = "a process with its own proxy"]
fn download() {
    let Some(dir) = std::env::var_os("EMBEDDED_DOWNLOAD_DIR").map(PathBuf::from) else {
        return;
    };
    let mut options = options(&dir);
    options.offline = false;
    options.search = Some(Vec::new());
    options.archive_cache = Some(dir.join("cache"));
    println!("{}", start(&options).unwrap_err());
}

#[test]
fn only_the_version_that_made_a_cluster_will_do() {
    let dir = directory();
    fs::create_dir(dir.path().join("postgres")).unwrap();
    fs::write(dir.path().join("postgres/PG_VERSION"), "9999\n").unwrap();
    let error = start(&options(dir.path())).unwrap_err().to_string();
    assert!(error.contains("PostgreSQL 9999, which made"), "{error}");

    fs::remove_file(dir.path().join("postgres/PG_VERSION")).unwrap();
    fs::write(dir.path().join("postgres/photo.jpg"), "").unwrap();
    let error = start(&options(dir.path())).unwrap_err();
    assert!(matches!(error, EmbeddedError::NotACluster { .. }), "{error}");
    assert!(dir.path().join("postgres/photo.jpg").exists());
}

#[test]
fn root_picks_a_place_that_postgres_can_reach() {
    if !Uid::effective().is_root() {
        return; // only root has the problem
    }
    let private = tempfile::tempdir_in("/root").unwrap();
    let elsewhere = |dir: &Path| -> PathBuf { Path::new("/var/lib/tenancy").join(dir.strip_prefix("/").unwrap()) };
    let error = start(&options(&private.path().join("data"))).unwrap_err();
    assert!(matches!(error, EmbeddedError::Unreachable { .. }), "{error}");

    // The default depends on the working directory, which belongs to a whole process.
    let status = again("places::place_by_default")
        .env("EMBEDDED_DEFAULT_PLACE", "1")
        .current_dir(private.path())
        .status()
        .unwrap();
    let place = elsewhere(private.path());
    let made = place.join(".tenancy/postgres/PG_VERSION").exists();
    match fs::remove_dir_all(&place) {
        Err(e) if e.kind() != ErrorKind::NotFound => panic!("{e}"),
        _ => {}
    }
    let _ = fs::remove_dir("/var/lib/tenancy/root"); // as far as they are empty
    let _ = fs::remove_dir("/var/lib/tenancy");
    assert!(status.success());
    assert!(made, "{}", place.display());
    assert!(!private.path().join(".tenancy").exists());
}

#[test]
fn root_runs_a_cluster_as_its_owner() {
    if !Uid::effective().is_root() {
        return; // only root can be somebody else
    }
    let dir = directory();
    start(&options(dir.path())).unwrap().stop().unwrap();
    let cluster = dir.path().join("postgres");
    for owner in ["nobody", "root"] {
        let chown = Command::new("chown").args(["-R", owner]).arg(&cluster).status();
        assert!(chown.unwrap().success());
        let db = start(&options(dir.path())).unwrap();
        assert_eq!(query(&db, "select 1"), "1");
        let metadata = fs::metadata(&cluster).unwrap();
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        // Root cannot run it, so what root owns goes to the default user again.
        assert_eq!(metadata.uid() == nobody.uid.as_raw(), owner == "nobody");
        assert_ne!(metadata.uid(), 0);
        db.stop().unwrap();
    }
}

#[test]
#[ignore = "a process with its own working directory"]
fn place_by_default() {
    if std::env::var_os("EMBEDDED_DEFAULT_PLACE").is_none() {
        return;
    }
    let mut options = options(Path::new("/"));
    options.data_dir = None;
    let db = start(&options).unwrap();
    assert_eq!(query(&db, "select 1"), "1");
    db.stop().unwrap();
}
