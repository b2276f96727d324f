//! A Postgres of our own, for the first minutes and for tests: no Docker, no setup, the real thing.
//!
//! [`start`] finds the Postgres programs, makes a database cluster where there is none, and runs
//! it as a child that only a Unix socket reaches. It is meant to be trusted with data: fsync and
//! checksums are on, and a `kill -9` of us, of Postgres, or of both costs nothing that was committed.
//!
//! What is in the data directory (`.tenancy` by default):
//!
//! | Entry | Owner | What |
//! |---|---|---|
//! | `lock` | service | `flock`ed while a process owns the directory; holds its process id |
//! | `postgres/` | Postgres | the cluster; `superuser.password` in it came with the same rename |
//! | `socket/` | Postgres | mode 0700; the only way in |
//! | `postgres.log` | service | what the server says; set aside at a start once it is long |
//! | `init-…/` | Postgres | a cluster in the making; swept at the next start if left behind |
//!
//! The service keeps its own files (`operator.key`, `token.key`) beside them. The parts: `home` the directory
//! and its lock, `account` who runs Postgres, `binaries` and `download` which Postgres,
//! `cluster` initdb, `memory` how much of it the server may take, `leftover` what an earlier life left running, `keeper` the thread the
//! child hangs on, `server` start and stop.
//!
//! All of it blocks, and none of it needs a runtime: call it before one starts, or from
//! `spawn_blocking`. Any thread will do, see `keeper`.
//!
//! Deliberately absent: TCP, replication, upgrades between major versions, and taking over a server
//! that still runs (stopping it and starting anew has fewer states).

mod account;
mod binaries;
mod cluster;
mod download;
mod error;
mod home;
mod keeper;
mod leftover;
mod memory;
mod server;

use std::fmt;
use std::path::{Path, PathBuf};

pub use self::error::EmbeddedError;
use self::home::Home;
use self::server::Server;

/// The role that owns the cluster. Migrations create the roles that the service runs as.
const SUPERUSER: &str = "tenancy_superuser";

/// The port names the socket file and nothing else, as there is no TCP.
const PORT: u16 = 5432;

/// What the launcher may be told; the default is right for a developer's machine.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to keep the data (`TENANCY_DATA_DIR`). `None` is `./.tenancy`, or as root, where
    /// Postgres' user cannot enter the working directory, the same path below `/var/lib/tenancy`.
    pub data_dir: Option<PathBuf>,
    /// Directories to look for `postgres` and `initdb` in, instead of the usual ones.
    pub search: Option<Vec<PathBuf>>,
    /// Where downloaded binaries are kept. `None` is the user's cache directory, or as root
    /// `/var/cache/tenancy`, since Postgres' user must be able to run them.
    pub archive_cache: Option<PathBuf>,
    /// Never download: fail where no binaries are installed.
    pub offline: bool,
    /// Server settings by name, over ours. Those that guard the data or the way in (fsync, the
    /// socket, no TCP) cannot be changed.
    pub settings: Vec<(String, String)>,
}

/// A running Postgres, and the ownership of its directory.
///
/// Dropping it stops the server as [`stop`](Self::stop) does, without telling how that went.
pub struct Embedded {
    // Before `home`: fields drop in this order, and the lock has to outlive the server.
    server: Server,
    password: String,
    home: Home,
}

/// Starts Postgres, making the cluster first where there is none, and returns once it accepts
/// connections: about two seconds for the first start, a fraction of one after that.
///
/// # Errors
/// Every [`EmbeddedError`] says what the user can do about it. On an error nothing is left running.
pub fn start(options: &Options) -> Result<Embedded, EmbeddedError> {
    let (home, account) = Home::open(options.data_dir.as_deref())?;
    let wanted = cluster::version(&home.cluster())?;
    let binaries = binaries::find(options, wanted, &account)?;
    let password = cluster::ensure(&home, &binaries, &account)?;
    let socket_dir = home.socket_dir(&account)?;
    let mut server = Server::new(&home, socket_dir, account, binaries, &options.settings)?;
    server.start()?;
    Ok(Embedded { server, password, home })
}

impl Embedded {
    /// The directory for everything that outlives the process, absolute and free of symbolic
    /// links. The service may write its own files here.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.home.dir()
    }

    /// The directory of the Unix socket: what a client calls the host.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.server.socket_dir()
    }

    /// The port that a client has to name. Say it: clients otherwise believe `PGPORT`.
    #[must_use]
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The name of the superuser, who owns the database `postgres` and can make others.
    #[must_use]
    pub fn superuser(&self) -> &'static str {
        SUPERUSER
    }

    /// The superuser's password: 64 hexadecimal digits. Never log it.
    #[must_use]
    pub fn superuser_password(&self) -> &str {
        &self.password
    }

    /// Where the Postgres programs are (`psql`, `pg_dump`, as far as they are installed).
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        self.server.bin_dir()
    }

    /// The server's process id; 0 once it has been stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Whether the server ended without being asked to. Cheap enough to ask every 100 ms.
    pub fn has_exited(&mut self) -> bool {
        self.server.has_exited()
    }

    /// Starts the server again, after stopping it if it still runs. For a supervisor that saw
    /// [`has_exited`](Self::has_exited): paths, port and password stay, so pools reconnect alone.
    ///
    /// # Errors
    /// As [`start`]; it can be tried again.
    pub fn restart(&mut self) -> Result<(), EmbeddedError> {
        let _ = self.server.stop(); // cut off or not, it is down
        self.server.start()
    }

    /// Stops the server and waits: open transactions are rolled back, clients are disconnected,
    /// and the next start has nothing to recover. Drain before. A server that is gone already is
    /// no error.
    ///
    /// # Errors
    /// [`EmbeddedError::StopForced`] where it did not stop in time and had to be cut off. It is
    /// down then too, and nothing committed is lost.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.server.stop()
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("data_dir", &self.data_dir())
            .field("socket_dir", &self.socket_dir())
            .field("pid", &self.pid())
            .finish_non_exhaustive() // the password stays out of logs
    }
}
