//! A running Envoy.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::envoy::harness::{Ask, Bootstrap, Version, program};

/// An Envoy. It is killed when this is dropped, and its log is shown when a test fails.
#[derive(Debug)]
pub struct Envoy {
    /// Where it takes requests.
    pub address: SocketAddr,
    /// Where it tells about itself.
    pub admin: SocketAddr,
    /// Dropped, it ends the keeper.
    life: Option<Sender<()>>,
    /// Has the process. An Envoy is killed by the system when the thread that started it ends.
    keeper: Option<JoinHandle<()>>,
    directory: TempDir,
}

/// What `envoy --mode validate` says of a bootstrap.
pub fn validate(bootstrap: &Bootstrap) -> Result<(), String> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("envoy.yaml");
    fs::write(&path, bootstrap.text()).unwrap();
    let mut command = command();
    let output = command.args(["--mode", "validate", "--config-path"]).arg(path).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn command() -> Command {
    let mut command = Command::new(program().expect("asked before"));
    command.args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]).stdin(Stdio::null());
    command
}

impl Envoy {
    /// Starts one whose sidecar's key is this; returns when it takes requests.
    pub async fn start(bootstrap: &Bootstrap, key: &str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (config, admin) = (directory.path().join("envoy.yaml"), directory.path().join("admin"));
        fs::write(&config, bootstrap.text()).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = command();
        command.arg("--admin-address-path").arg(&admin).arg("--config-path").arg(&config);
        command.env("TENANCY_SIDECAR_KEY", key).stdout(log.try_clone().unwrap()).stderr(log);
        let (life, end) = channel::<()>();
        let keeper = thread::spawn(move || keep(command, &end));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut envoy = Self { address: nowhere, admin: nowhere, life: Some(life), keeper: Some(keeper), directory };
        for _ in 0..600 {
            if let Some(address) = fs::read_to_string(&admin).ok().and_then(|text| text.trim().parse().ok()) {
                envoy.admin = address;
                if let Some(address) = envoy.listener().await {
                    envoy.address = address;
                    return envoy;
                }
            }
            assert!(envoy.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished()), "the Envoy ended at its start");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the Envoy did not become ready");
    }

    /// What its admin port says.
    pub async fn admin(&self, path: &str) -> Option<String> {
        let answer = Ask::get(path).try_send(self.admin, Version::Http1).await.ok()?;
        (answer.status == 200).then(|| answer.text().to_owned())
    }

    /// One of its counters.
    pub async fn counter(&self, name: &str) -> u64 {
        let stats = self.admin(&format!("/stats?filter=^{name}$")).await.unwrap();
        stats.trim().rsplit_once(": ").map_or(0, |(_, value)| value.parse().unwrap())
    }

    /// Where its one listener is, once it is ready.
    async fn listener(&self) -> Option<SocketAddr> {
        self.admin("/ready").await?;
        let listeners: Value = serde_json::from_str(&self.admin("/listeners?format=json").await?).unwrap();
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = u16::try_from(address["port_value"].as_u64()?).unwrap();
        (port != 0).then(|| SocketAddr::new(address["address"].as_str().unwrap().parse().unwrap(), port))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// Has the process until it ends or there is no more need of it.
fn keep(mut command: Command, end: &Receiver<()>) {
    let mut process = command.spawn().unwrap();
    while end.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
    }
    process.kill().unwrap_or_default();
    process.wait().unwrap();
}

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.life.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        if thread::panicking() {
            println!("the log of the Envoy:\n{}", self.log());
        }
    }
}
