//! What the tests share: a directory, a question to the server, and a process to kill.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;
use tenancy::repository::embedded::{Embedded, Options, start};
use tenancy::repository::migrate;
use tokio::task::block_in_place;

use crate::harness::Cloned;

/// A directory that Postgres' user can pass through.
pub fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

/// A Postgres for a service, with the schema in it, that a test may kill: its directory, itself, and its logins.
pub async fn provisioned(connections: u32) -> (TempDir, Embedded, Cloned) {
    let directory = directory();
    let settings = vec![("max_connections".to_owned(), connections.to_string())];
    let options = Options { settings, ..options(directory.path()) };
    let postgres = block_in_place(|| start(&options)).unwrap();
    let superuser = PgConnectOptions::new_without_pgpass()
        .host(&postgres.socket_dir().to_string_lossy())
        .port(postgres.port())
        .username(postgres.superuser())
        .password(postgres.superuser_password());
    let provision = migrate::provision(&superuser, postgres.superuser_password()).await.unwrap();
    let superuser = PgPoolOptions::new().max_connections(2).connect_lazy_with(superuser.database("tenancy"));
    (directory, postgres, Cloned { service: provision.service, owner: provision.owner.into(), superuser })
}

/// A server that needs few resources.
pub fn options(dir: &Path) -> Options {
    Options {
        data_dir: Some(dir.to_owned()),
        offline: true,
        settings: [("max_connections", "10"), ("shared_buffers", "1MB")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..Options::default()
    }
}

pub fn psql(db: &Embedded) -> Command {
    let mut command = Command::new(db.bin_dir().join("psql"));
    command
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"])
        .args(["-U", db.superuser(), "-p", &db.port().to_string(), "-h"])
        .arg(db.socket_dir())
        .env("PGPASSWORD", db.superuser_password());
    command
}

pub fn query(db: &Embedded, sql: &str) -> String {
    let output = psql(db).args(["-c", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: u32) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// This binary again, for one of its ignored tests, named by its path below these modules.
pub fn again(test: &str) -> Command {
    let path = module_path!(); // crate::…::support
    let above: Vec<&str> = path.split("::").skip(1).collect();
    let modules = above.iter().take(above.len() - 1).copied();
    let name: Vec<&str> = modules.chain([test]).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name.join("::"), "--ignored", "--nocapture"]);
    command
}

/// Another process of ours that holds a directory until it is killed.
pub struct Holder {
    pub child: Child,
    pub postgres: u32,
}

impl Holder {
    pub fn new(dir: &Path) -> Self {
        let mut child = Self::command(dir).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let postgres = out
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.rsplit_once("postgres is process ")?.1.parse().ok())
            .expect("the holder starts Postgres");
        Self { child, postgres }
    }

    pub fn command(dir: &Path) -> Command {
        let mut command = again("support::holder");
        command.env("EMBEDDED_HOLDER_DIR", dir).process_group(0).stdout(Stdio::piped());
        command
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Not every system takes it down with us; its parent lives, so the id is its own.
            send(self.postgres, Signal::SIGQUIT);
        }
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "a process for the tests that kill one"]
fn holder() {
    let Some(dir) = std::env::var_os("EMBEDDED_HOLDER_DIR") else {
        return;
    };
    // On a thread that ends: Postgres must not end with it.
    let db = std::thread::spawn(move || start(&options(Path::new(&dir))).unwrap()).join().unwrap();
    println!("\npostgres is process {}", db.pid());
    std::thread::sleep(Duration::from_mins(2));
}
