//! The database cluster: its version, and making it.
//!
//! It is made in a directory `init-…` and moved into place with one rename, together with the
//! superuser's password, so that there never is half a cluster, nor one without its password.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::signal::Signal;

use super::account::Account;
use super::binaries::Binaries;
use super::home::Home;
use super::{EmbeddedError, SUPERUSER, keeper};

const PASSWORD: &str = "superuser.password";
const IN_THE_MAKING: &str = "init-";

/// In megabytes. Whoever commits waits while a new one is filled with zeros and synced: 21 to 27 ms for Postgres's usual
/// 16 MB on a disk that syncs a commit in 0.3 ms, and a quarter of that for these. A cluster that exists keeps its own.
const WAL_SEGMENT: &str = "--wal-segsize=4";

/// The major version that made a cluster; `None` if there is none yet.
pub(super) fn version(cluster: &Path) -> Result<Option<u32>, EmbeddedError> {
    let entry = match fs::read_dir(cluster) {
        Ok(mut entries) => entries.next(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(EmbeddedError::io("read", cluster)(e)),
    };
    if entry.is_none() {
        // An empty directory is as good as none: the rename replaces it.
        return Ok(None);
    }
    fs::read_to_string(cluster.join("PG_VERSION"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(Some)
        .ok_or_else(|| EmbeddedError::NotACluster { cluster: cluster.to_owned() })
}

/// Makes the cluster if there is none, and returns the superuser's password.
pub(super) fn ensure(home: &Home, binaries: &Binaries, account: &Account) -> Result<String, EmbeddedError> {
    sweep(home.dir());
    let cluster = home.cluster();
    if version(&cluster)?.is_none() {
        create(home, binaries, account)?;
    }
    let owner = fs::metadata(&cluster).map_err(EmbeddedError::io("inspect", &cluster))?;
    if owner.uid() == 0 {
        // Copied or restored by root.
        account.give_tree(&cluster)?;
    }
    let path = cluster.join(PASSWORD);
    match fs::read_to_string(&path) {
        Ok(password) => Ok(password.trim_end().to_owned()),
        Err(source) => Err(EmbeddedError::NoPassword { path, source }),
    }
}

/// Removes what an initdb that was killed left. If that fails (it may still be dying), the next
/// start does it: names are never used twice.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(IN_THE_MAKING.as_bytes()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn create(home: &Home, binaries: &Binaries, account: &Account) -> Result<(), EmbeddedError> {
    let name = random::<8>().map_err(EmbeddedError::io("draw randomness for", home.dir()))?;
    let making = home.dir().join(format!("{IN_THE_MAKING}{name}"));
    let result = make(&making, home, binaries, account);
    let _ = fs::remove_dir_all(&making); // swept at the next start otherwise
    result
}

fn make(making: &Path, home: &Home, binaries: &Binaries, account: &Account) -> Result<(), EmbeddedError> {
    DirBuilder::new().mode(0o700).create(making).map_err(EmbeddedError::io("create", making))?;
    let password = making.join(PASSWORD);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&password)
        .and_then(|mut file| {
            writeln!(file, "{}", random::<32>()?)?;
            file.sync_all()
        })
        .map_err(EmbeddedError::io("write", &password))?;
    account.give_tree(making)?;

    let data = making.join("data");
    let mut initdb = account.command(binaries.program("initdb"));
    initdb
        .arg("--pgdata")
        .arg(&data)
        .arg("--pwfile")
        .arg(&password)
        .args(["--username", SUPERUSER, "--locale=C", "--encoding=UTF8"])
        .args(["--auth-local=scram-sha-256", "--auth-host=scram-sha-256"])
        .args(["--data-checksums", "--no-instructions", WAL_SEGMENT]);
    keeper::tie(&mut initdb, Signal::SIGKILL);
    let output = initdb.output().map_err(EmbeddedError::io("run", &binaries.program("initdb")))?;
    if !output.status.success() {
        return Err(EmbeddedError::Initdb {
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }

    let moved = data.join(PASSWORD);
    fs::rename(&password, &moved).map_err(EmbeddedError::io("rename", &password))?;
    // initdb synced its own work; the password's new place and the cluster's are ours to sync.
    sync(&data)?;
    let cluster = home.cluster();
    fs::rename(&data, &cluster).map_err(EmbeddedError::io("create", &cluster))?;
    sync(home.dir())
}

fn sync(dir: &Path) -> Result<(), EmbeddedError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(EmbeddedError::io("sync", dir))
}

/// So many bytes of the system's randomness, in hexadecimal.
fn random<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; BYTES];
    getrandom::fill(&mut bytes)?;
    let mut text = String::new();
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
    }
    Ok(text)
}
