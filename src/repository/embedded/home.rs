//! The data directory: where it is, who owns it at the moment, and the paths in it.
//!
//! The lock is `flock`, which the kernel drops with the process however that ends, so there is no
//! stale lock to reason about. Files we write here are opened without following symbolic links, as
//! root may be started in a directory that another user prepared.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::Uid;

use super::account::Account;
use super::{EmbeddedError, PORT};

/// As root, where the working directory is closed to Postgres' user: the same path below this.
const SHARED: &str = "/var/lib/tenancy";

/// A socket's path ends at 104 bytes on macOS and 108 on Linux; a little room is kept.
const MAX_SOCKET_PATH: usize = 100;

/// The log is set aside at a start from this size on, in bytes; one older file is kept.
const LOG_LIMIT: u64 = 4 << 20;

/// The data directory, owned by this process until the value is dropped.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    /// Held for its lock.
    _lock: File,
}

impl Home {
    /// Picks, creates and locks the data directory, and tells who runs Postgres in it.
    pub(super) fn open(wanted: Option<&Path>) -> Result<(Self, Account), EmbeddedError> {
        let dir = match wanted {
            Some(dir) => std::path::absolute(dir).map_err(EmbeddedError::io("resolve", dir))?,
            None => default_dir()?,
        };
        create(&dir)?;
        let dir = dir.canonicalize().map_err(EmbeddedError::io("resolve", &dir))?;
        let account = Account::of(&dir.join("postgres"))?;
        if account.switches() {
            admit(&dir)?;
        }
        if !account.can_enter(&dir) {
            return Err(EmbeddedError::Unreachable { dir, account: account.name().to_owned() });
        }
        let lock = lock(&dir)?;
        Ok((Self { dir, _lock: lock }, account))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Postgres' own directory (`PGDATA`).
    pub(super) fn cluster(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    /// Where the server's output goes.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// Opens the log for appending; a long one is set aside before.
    pub(super) fn open_log(log: &Path) -> Result<File, EmbeddedError> {
        if fs::symlink_metadata(log).is_ok_and(|m| m.len() > LOG_LIMIT) {
            fs::rename(log, log.with_extension("log.1")).map_err(EmbeddedError::io("rename", log))?;
        }
        ours(OpenOptions::new().append(true), log)
    }

    /// Makes the directory for the socket: in the data directory, or in `/tmp` where the path
    /// would be too long for a socket, or be taken for a list of them by Postgres and its tools.
    pub(super) fn socket_dir(&self, account: &Account) -> Result<PathBuf, EmbeddedError> {
        let mut dir = self.dir.join("socket");
        let file = dir.join(format!(".s.PGSQL.{PORT}"));
        let path = file.as_os_str().as_bytes();
        if path.len() > MAX_SOCKET_PATH || path.iter().any(|byte| b",\"".contains(byte)) {
            let home = fs::metadata(&self.dir).map_err(EmbeddedError::io("inspect", &self.dir))?;
            // Named by what identifies the data directory: the same at every start, and short.
            dir = format!("/tmp/tenancy-{:x}-{:x}", home.dev(), home.ino()).into();
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => account.give(&dir)?,
            // In our directory it may be from a time when the cluster had another owner.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.starts_with(&self.dir) => {
                account.give(&dir)?;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(EmbeddedError::io("create", &dir)(e)),
        }
        // Anybody can create names in /tmp; one that is not exactly ours is not used.
        match fs::symlink_metadata(&dir) {
            Ok(m) if m.is_dir() && account.owns(&m) && m.mode() & 0o777 == 0o700 => Ok(dir),
            _ => Err(EmbeddedError::SocketDir { dir }),
        }
    }
}

/// `./.tenancy`, unless Postgres' user could not enter it.
fn default_dir() -> Result<PathBuf, EmbeddedError> {
    let local = Path::new(".tenancy");
    let local = std::path::absolute(local).map_err(EmbeddedError::io("resolve", local))?;
    if !Uid::effective().is_root() {
        return Ok(local);
    }
    let account = Account::of(&local.join("postgres"))?;
    match (local.parent(), local.strip_prefix("/")) {
        (Some(parent), Ok(relative)) if !account.can_enter(parent) => Ok(Path::new(SHARED).join(relative)),
        _ => Ok(local),
    }
}

/// Creates a directory and its parents: closed to others, but as root open for passing through,
/// whatever the umask, since Postgres' user has to get to its part.
fn create(dir: &Path) -> Result<(), EmbeddedError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create(parent)?;
    }
    let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
    match fs::create_dir(dir) {
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(EmbeddedError::io("open", dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(EmbeddedError::io("create", dir)(e)),
    }
}

/// Lets others pass through a data directory that root made too private (a mounted volume).
fn admit(dir: &Path) -> Result<(), EmbeddedError> {
    let metadata = fs::metadata(dir).map_err(EmbeddedError::io("inspect", dir))?;
    if metadata.uid() == 0 && metadata.mode() & 0o011 != 0o011 {
        let mode = metadata.mode() & 0o7777 | 0o011;
        fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(EmbeddedError::io("open", dir))?;
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join("lock");
    let mut file = ours(OpenOptions::new().read(true).write(true), &path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who holds it is a courtesy; that it is held is known.
            let _ = file.read_to_string(&mut holder);
            return Err(EmbeddedError::Locked { dir: dir.to_owned(), pid: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(e)) => return Err(EmbeddedError::io("lock", &path)(e)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(EmbeddedError::io("write", &path))?;
    Ok(file)
}

/// Opens or creates a private file of the service.
fn ours(options: &mut OpenOptions, path: &Path) -> Result<File, EmbeddedError> {
    options
        .create(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(EmbeddedError::io("open", path))
}
