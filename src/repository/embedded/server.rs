//! The postmaster: its settings, waiting until it is ready, and stopping it.
//!
//! It is our child and not a daemon of `pg_ctl`: so its death is seen at once, and its process id
//! cannot become somebody else's before we have looked.

#![expect(clippy::disallowed_methods, reason = "it waits for a process, whatever a test thinks the time is")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::account::Account;
use super::binaries::Binaries;
use super::home::Home;
use super::keeper::{self, Keeper};
use super::{EmbeddedError, PORT, leftover, memory};

/// Recovery reads at most `max_wal_size` or so, of a cluster of before up to a gigabyte; a slow disk may need a while for that.
const START: Duration = Duration::from_mins(2);

/// How long a start is repeated after a crash: the children of a postmaster that was killed need a
/// moment to notice, and until then Postgres refuses.
const REMAINS: Duration = Duration::from_secs(10);

/// How to stop, from gentle to certain, and how long each may take.
const STOP: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(30)),  // fast: roll back, checkpoint
    (Signal::SIGQUIT, Duration::from_secs(10)), // immediate: the next start recovers
    (Signal::SIGKILL, Duration::from_secs(5)),
];

/// How much of the log an error shows, in bytes.
const TAIL: u64 = 2000;

/// The cluster's server, running or not.
#[derive(Debug)]
pub(super) struct Server {
    cluster: PathBuf,
    log: PathBuf,
    socket_dir: PathBuf,
    account: Account,
    binaries: Binaries,
    arguments: Vec<OsString>,
    child: Option<Child>,
    // After `child`, which it keeps.
    keeper: Keeper,
}

/// Why one attempt failed, before it is known whether to try again.
enum Failure {
    Exited(ExitStatus),
    NotReady,
}

impl Server {
    pub(super) fn new(
        home: &Home,
        socket_dir: PathBuf,
        account: Account,
        binaries: Binaries,
        settings: &[(String, String)],
    ) -> Result<Self, EmbeddedError> {
        let cluster = home.cluster();
        Ok(Self {
            arguments: arguments(&cluster, &socket_dir, settings),
            log: home.log(),
            child: None,
            keeper: Keeper::new().map_err(EmbeddedError::io("start a thread for", &cluster))?,
            cluster,
            socket_dir,
            account,
            binaries,
        })
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn bin_dir(&self) -> &Path {
        self.binaries.dir()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts the server and waits until it is ready. Nothing runs if that fails.
    pub(super) fn start(&mut self) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + REMAINS;
        // Only the first look counts: a failed attempt leaves remains of its own.
        let unclean = leftover::clear(&self.cluster, &self.socket_dir)?;
        loop {
            let (failure, tail) = match self.attempt()? {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let log = self.log.clone();
            match failure {
                Failure::Exited(_) if unclean && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(200));
                    leftover::clear(&self.cluster, &self.socket_dir)?;
                }
                Failure::Exited(status) => {
                    return Err(EmbeddedError::Exited { status, log, tail });
                }
                Failure::NotReady => {
                    return Err(EmbeddedError::NotReady { seconds: START.as_secs(), log, tail });
                }
            }
        }
    }

    /// One attempt; a failed one comes with what the server logged.
    fn attempt(&mut self) -> Result<Result<(), (Failure, String)>, EmbeddedError> {
        let log = Home::open_log(&self.log)?;
        let begin = log.metadata().map_or(0, |metadata| metadata.len());
        let program = self.binaries.program("postgres");
        let mut command = self.account.command(&program);
        let stdout = log.try_clone().map_err(EmbeddedError::io("open", &self.log))?;
        command.args(&self.arguments).stdout(stdout).stderr(log);
        // If we die: fast rather than immediate, so that the next start need not recover. A start
        // that comes too early for that waits, and insists after a while.
        keeper::tie(&mut command, Signal::SIGINT);
        let child = self.keeper.spawn(command).map_err(EmbeddedError::io("run", &program))?;
        let pid = child.id();
        let child = self.child.insert(child);

        let mut ended = None;
        leftover::wait(START, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || is_ready(&self.cluster, pid)
        });
        let failure = match ended {
            Some(status) => Failure::Exited(status),
            None if is_ready(&self.cluster, pid) => return Ok(Ok(())),
            None => Failure::NotReady,
        };
        // That it would not stop either is the lesser news.
        let _ = self.stop();
        Ok(Err((failure, tail(&self.log, begin))))
    }

    pub(super) fn has_exited(&mut self) -> bool {
        // An error means that it is not our child any more; then it must not be signalled either.
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Stops the server if it runs, and waits for its end.
    pub(super) fn stop(&mut self) -> Result<(), EmbeddedError> {
        let mut result = Ok(());
        for (signal, patience) in STOP {
            if self.child.is_none() || self.has_exited() {
                break;
            }
            // Not waited for yet, so the id is still its own. Ids fit: the system made them.
            if let Ok(pid) = i32::try_from(self.pid()) {
                let _ = signal::kill(Pid::from_raw(pid), signal);
            }
            if leftover::wait(patience, || self.has_exited()) {
                break;
            }
            result = Err(EmbeddedError::StopForced { seconds: STOP[0].1.as_secs() });
        }
        self.child = None;
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop(); // who wants to know calls stop
    }
}

/// The command line. Later settings win: ours can be changed, the last ones cannot.
fn arguments(cluster: &Path, socket_dir: &Path, settings: &[(String, String)]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), cluster.into()];
    let mut set = |name: &str, value: &str| {
        arguments.push("-c".into());
        arguments.push(format!("{name}={value}").into());
    };
    set("max_connections", "200");
    set("timezone", "UTC");
    set("log_timezone", "UTC");
    set("log_checkpoints", "off");
    // A month of a tenant lies in as many pages as it has hours: they are asked for again and again, and each one that is
    // not here is a system call.
    set("shared_buffers", &memory::shared_buffers());
    // What is written to tables and not yet to the disk, the system writes out half a minute later, all at once, and a commit
    // that syncs the log in that moment waits for it: with a hundred megabytes it took 400 ms. So Postgres has it written
    // out early, by checkpoints that are small and often, and what it writes in between at once.
    set("checkpoint_timeout", "30s");
    set("backend_flush_after", "256kB");
    // Whoever commits waits while a new segment is written and synced, and not while one is used again: so as many are
    // kept as are used between two checkpoints. Both are told, since initdb would derive them from the size of a segment
    // (see `cluster`).
    set("min_wal_size", "128MB");
    set("max_wal_size", "128MB");
    // A failing statement's text may hold a secret; the client has it anyway.
    set("log_min_error_statement", "panic");
    for (name, value) in settings {
        set(name, value);
    }
    set("listen_addresses", "");
    set("port", &PORT.to_string());
    set("unix_socket_permissions", "0700");
    set("logging_collector", "off");
    set("fsync", "on");
    set("full_page_writes", "on");
    // A list; the directory was chosen so that it needs no quoting.
    let mut sockets = OsString::from("unix_socket_directories=");
    sockets.push(socket_dir);
    arguments.extend(["-c".into(), sockets]);
    arguments
}

/// Postgres says in the eighth line of its file when it accepts connections.
fn is_ready(cluster: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(cluster.join("postmaster.pid")) else {
        return false;
    };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

/// The end of the log, from `begin` on at the earliest.
fn tail(log: &Path, begin: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin.max(end.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_default()
}
