//! Who runs Postgres. It refuses root, so as root we pick another user, and this knows whom.
//!
//! A cluster that exists is run by whoever owns it: root that took it over would lock its owner out
//! the next time. Without one it is `postgres`, which a packaged Postgres brings, else `nobody`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::EmbeddedError;

/// What Postgres' processes inherit of our environment. Not the rest: it holds the service's
/// secrets, and `PG…` variables that were meant for other servers.
const INHERITED: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"];

/// The user that owns the cluster and runs its processes.
#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    name: String,
    /// Whether that is somebody else than us, which takes root.
    switches: bool,
}

impl Account {
    /// The account for the cluster in this directory, which need not exist.
    pub(super) fn of(cluster: &Path) -> Result<Self, EmbeddedError> {
        let owner = fs::metadata(cluster).ok().map(|m| (m.uid(), m.gid()));
        let us = Uid::effective().as_raw();
        match owner {
            _ if us != 0 => match owner {
                Some((owner, _)) if owner != us => Err(EmbeddedError::NotOwner { cluster: cluster.to_owned(), owner }),
                _ => Ok(Self { uid: us, gid: nix::unistd::getegid().as_raw(), name: us.to_string(), switches: false }),
            },
            Some((uid, gid)) if uid != 0 => Ok(Self { uid, gid, name: uid.to_string(), switches: true }),
            _ => ["postgres", "nobody"]
                .into_iter()
                .find_map(|name| User::from_name(name).ok().flatten())
                .filter(|user| !user.uid.is_root())
                .map(|user| Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name, switches: true })
                .ok_or(EmbeddedError::NoAccount),
        }
    }

    /// A command that will run as this account with a clean environment and no standard input.
    /// As root it also loses root's groups: the standard library clears them with the user id.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir("/").env_clear();
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Its messages are parsed and shown; and on macOS a server without a locale aborts.
        command.env("LC_ALL", "C");
        if self.switches {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Whether the account can enter a directory. Asked of the kernel by trying, since modes alone
    /// do not tell (access lists, mounts).
    pub(super) fn can_enter(&self, dir: &Path) -> bool {
        !self.switches
            || self.command("/bin/sh").args(["-c", ":"]).current_dir(dir).status().is_ok_and(|status| status.success())
    }

    /// Makes the account own a file or directory; symbolic links are not followed.
    pub(super) fn give(&self, path: &Path) -> Result<(), EmbeddedError> {
        if self.switches {
            lchown(path, Some(self.uid), Some(self.gid)).map_err(EmbeddedError::io("change the owner of", path))?;
        }
        Ok(())
    }

    /// As [`give`](Self::give) for a directory and all that is in it.
    pub(super) fn give_tree(&self, dir: &Path) -> Result<(), EmbeddedError> {
        self.give(dir)?;
        for entry in fs::read_dir(dir).map_err(EmbeddedError::io("read", dir))? {
            let entry = entry.map_err(EmbeddedError::io("read", dir))?;
            let kind = entry.file_type().map_err(EmbeddedError::io("read", &entry.path()))?;
            if kind.is_dir() {
                self.give_tree(&entry.path())?;
            } else {
                self.give(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Whether this is the owner of something.
    pub(super) fn owns(&self, metadata: &fs::Metadata) -> bool {
        metadata.uid() == self.uid
    }

    /// The name, or the number where only that is known.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether Postgres runs as somebody else than this process.
    pub(super) fn switches(&self) -> bool {
        self.switches
    }
}
