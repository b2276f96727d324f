//! The real binary: killed under load, stopped, started twice, and started wrongly.

mod import;
mod kills;
mod logs;
mod people;
mod quotas;
mod refusals;
mod tokens;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use rand::RngExt as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;
use tenancy::repository::embedded::{self, Options};
use tokio::task::block_in_place;

use crate::database_down::random;
use crate::embedded::support;
use crate::harness::{Expect, Load, Target, admin, eventually, verify};

/// A directory for the data and the ports of a service: they outlive its processes.
pub struct Place {
    data: PathBuf,
    pub grpc: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
}

/// A process of ours, killed when this is dropped. Its Postgres goes down with it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let directory = support::directory();
        // Both at once, or the second could get the port of the first.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [grpc, admin] = free.map(|listener| listener.local_addr().unwrap());
        Self { data: directory.path().join("data"), grpc, admin, directory }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenancy"));
        for (name, _) in std::env::vars() {
            if name == "DATABASE_URL" || name.starts_with("TENANCY_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).env("TENANCY_DATA_DIR", &self.data).current_dir(self.directory.path());
        command
    }

    /// A server on the ports of this place.
    fn server(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["--threads", "1"]);
        command.args(arguments);
        command.env("TENANCY_LISTEN", self.grpc.to_string()).env("TENANCY_ADMIN_LISTEN", self.admin.to_string());
        command
    }

    pub fn start(&self) -> Process {
        self.run(self.server(&[]))
    }

    fn run(&self, mut command: Command) -> Process {
        let (output, log) =
            tempfile::Builder::new().prefix("log-").tempfile_in(&self.directory).unwrap().keep().unwrap();
        let child = command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        Process { child, log }
    }

    pub async fn ready(&self) {
        eventually("/readyz is 200", || async { admin(self.admin, "/readyz").await.0 == 200 }).await;
    }

    /// Makes an operator's key by the command, which has the database for itself while no server runs.
    fn operator_key(&self) -> String {
        self.platform_key(&[])
    }

    /// The same with scopes.
    pub fn platform_key(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&[&["operator", "create", "--name", "test"][..], arguments].concat());
        let output = block_in_place(|| command.stderr(Stdio::inherit()).output()).unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What its servers said of errors.
    fn print_errors(&self) {
        for entry in fs::read_dir(&self.directory).unwrap().flatten() {
            let said = fs::read_to_string(entry.path()).unwrap_or_default();
            said.lines().filter(|line| line.contains("ERROR")).take(20).for_each(|line| println!("{line}"));
        }
    }

    fn postmaster(&self) -> u32 {
        postmaster(&self.data).expect("Postgres runs")
    }

    fn has_no_postmaster(&self, was: u32) {
        assert!(!support::runs(was));
        assert_eq!(postmaster(&self.data), None);
    }
}

fn postmaster(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("postgres/postmaster.pid")).ok()?.lines().next()?.parse().ok()
}

impl Process {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn send(&self, signal: Signal) {
        support::send(self.child.id(), signal);
    }

    /// Waits for its end; returns its exit status and what it said.
    pub async fn ended(mut self) -> (Option<i32>, String) {
        let mut status = None;
        for _ in 0..1200 {
            status = self.child.try_wait().unwrap();
            if status.is_some() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let said = fs::read_to_string(&self.log).unwrap();
        (status.unwrap_or_else(|| panic!("it goes on: {said}")).code(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_loses_nothing_acknowledged() {
    let place = Place::new();
    let key = place.operator_key();
    let mut random = random();
    let mut process = place.start();
    place.ready().await;
    let target = Target::new(place.grpc, &key).await;
    let load = Load::start(target.clone(), Expect::Death, random.random());
    for _ in 0..4 {
        load.progress(random.random_range(1..80)).await;
        process.kill();
        // At once: the Postgres of the last life may still be stopping.
        process = place.start();
    }
    load.progress(30).await;
    let ledger = load.finish().await;
    process.send(Signal::SIGINT);
    let (code, said) = process.ended().await;
    assert_eq!(code, Some(0), "{said}");

    let options = Options { data_dir: Some(place.data.clone()), offline: true, ..Options::default() };
    let postgres = block_in_place(|| embedded::start(&options)).unwrap();
    let superuser = PgConnectOptions::new_without_pgpass()
        .host(&postgres.socket_dir().to_string_lossy())
        .port(postgres.port())
        .username(postgres.superuser())
        .password(postgres.superuser_password())
        .database("tenancy");
    let superuser = PgPoolOptions::new().max_connections(1).connect_with(superuser).await.unwrap();
    verify(&superuser, &target.organization_id, ledger).await;
    superuser.close().await;
    block_in_place(|| postgres.stop()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_dies_under_the_service_is_started_again() {
    let place = Place::new();
    let key = place.operator_key();
    let process = place.start();
    place.ready().await;
    let target = Target::new(place.grpc, &key).await;
    let load = Load::start(target, Expect::Outage, 7);
    load.progress(20).await;
    let first = place.postmaster();
    support::send(first, Signal::SIGKILL);
    eventually("another Postgres runs", || async { postmaster(&place.data).is_some_and(|pid| pid != first) }).await;
    place.ready().await;
    load.progress(20).await;
    load.finish().await;
    process.send(Signal::SIGTERM);
    assert_eq!(process.ended().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_drains_and_leaves_nothing_running() {
    let place = Place::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let process = place.start();
        place.ready().await;
        let postmaster = place.postmaster();
        assert!(support::runs(postmaster));
        process.send(signal);
        let (code, said) = process.ended().await;
        assert_eq!(code, Some(0), "{signal}: {said}");
        place.has_no_postmaster(postmaster);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_says_so() {
    let place = Place::new();
    let first = place.start();
    place.ready().await;
    let elsewhere = Place::new();
    for mut command in [elsewhere.server(&[]), elsewhere.command(&["operator", "list"])] {
        command.env("TENANCY_DATA_DIR", &place.data);
        let (code, said) = elsewhere.run(command).ended().await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("TENANCY_DATA_DIR") && said.contains(&first.child.id().to_string()), "{said}");
    }
    assert_eq!(admin(place.admin, "/readyz").await.0, 200, "the first goes on");

    // And one on the same port, which has Postgres running when it notices.
    let mut command = elsewhere.server(&[]);
    command.env("TENANCY_LISTEN", place.grpc.to_string());
    let (code, said) = elsewhere.run(command).ended().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {}", place.grpc)), "{said}");
    assert_eq!(postmaster(&elsewhere.data), None, "it took its Postgres along");
}
