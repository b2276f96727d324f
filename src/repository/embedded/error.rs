//! What can go wrong before there is a database, each with the way out in its message.
//!
//! A newcomer meets these in the first minute, on a terminal: the text is the interface.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why the embedded Postgres did not start or stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The file system or the kernel refused something ordinary.
    #[error(
        "cannot {action} {}: {source}. The embedded Postgres needs a directory it can write; \
         choose one with TENANCY_DATA_DIR", path.display()
    )]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// Another process owns the directory.
    #[error(
        "another tenancy process{} is using {}; stop it, or give this one a directory of its own \
         with TENANCY_DATA_DIR", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), dir.display()
    )]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// Who holds it, if the lock file says so.
        pid: Option<u32>,
    },
    /// The cluster belongs to another user, and we are not root.
    #[error(
        "{} belongs to user id {owner}; run tenancy as that user, or choose another directory with \
         TENANCY_DATA_DIR", cluster.display()
    )]
    NotOwner {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The numeric id of its owner.
        owner: u32,
    },
    /// Postgres refuses to run as root, and there is nobody else to run it.
    #[error(
        "Postgres does not run as root, and this system has neither a user `postgres` nor `nobody`; \
         add one, run tenancy as another user, or set DATABASE_URL"
    )]
    NoAccount,
    /// The user that runs Postgres cannot enter the data directory.
    #[error(
        "as root, tenancy runs Postgres as user `{account}`, who cannot enter {}; choose a \
         directory outside private ones with TENANCY_DATA_DIR, for example \
         /var/lib/tenancy", dir.display()
    )]
    Unreachable {
        /// The data directory.
        dir: PathBuf,
        /// The user's name.
        account: String,
    },
    /// There is something in the cluster's place that is not a cluster.
    #[error(
        "{} is not a Postgres data directory (no readable PG_VERSION in it); move it away and \
         start again", cluster.display()
    )]
    NotACluster {
        /// The cluster's directory.
        cluster: PathBuf,
    },
    /// The cluster is there and the file with its superuser's password is not.
    #[error(
        "the password of the embedded Postgres is missing: {}: {source}. Restore that file, or \
         move its directory away to start with an empty database", path.display()
    )]
    NoPassword {
        /// Where it should be.
        path: PathBuf,
        /// Why it could not be read.
        source: io::Error,
    },
    /// No usable Postgres on this machine, and none could be downloaded.
    #[error(
        "no PostgreSQL {wanted} was found on this machine ({download}). Three ways out:\n  \
         - install it: `apt install postgresql`, `dnf install postgresql-server`, \
         `apk add postgresql`, or `brew install postgresql`\n  \
         - have its programs `postgres` and `initdb` on the PATH\n  \
         - use a database you have: DATABASE_URL=postgres://user:password@host/database"
    )]
    NoBinaries {
        /// The version that would do, in words.
        wanted: String,
        /// Why a download did not help.
        download: String,
    },
    /// `initdb` failed; nothing of its work is kept.
    #[error("making the database cluster failed (initdb, {status}):\n{output}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// The server ended while it was starting.
    #[error("Postgres ended while starting ({status}); the end of {}:\n{tail}", log.display())]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// What it logged in this start, the last lines of it.
        tail: String,
    },
    /// The server runs, and does not get ready.
    #[error(
        "Postgres was not ready after {seconds} s and was stopped; the end of {}:\n{tail}", log.display()
    )]
    NotReady {
        /// How long it was given, in seconds.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// What it logged in this start, the last lines of it.
        tail: String,
    },
    /// A server from an earlier life holds the cluster and does not stop.
    #[error(
        "an earlier Postgres (process {pid}) still runs on this data directory and does not stop; \
         end it with `kill -QUIT {pid}` and start again"
    )]
    OldServer {
        /// Its process id, verified.
        pid: i32,
    },
    /// The data directory's path is too long for a socket, and the short place is not ours.
    #[error(
        "{} is needed for Postgres' socket and belongs to somebody else; remove it, or choose a \
         shorter data directory with TENANCY_DATA_DIR", dir.display()
    )]
    SocketDir {
        /// The directory that is in the way.
        dir: PathBuf,
    },
    /// The server had to be cut off.
    #[error(
        "Postgres did not stop within {seconds} s and was cut off; nothing committed is lost, the \
         next start recovers"
    )]
    StopForced {
        /// How long it was given, in seconds.
        seconds: u64,
    },
}

impl EmbeddedError {
    /// For `map_err`: says what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
