//! Which Postgres: the newest on this machine that fits the cluster, else a downloaded one.
//!
//! A cluster can only be run by the major version that made it. Candidates are judged by running
//! `postgres --version` as the account that will run it, so that what it cannot execute does not
//! count.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::{EmbeddedError, Options, download};

/// The oldest major version that the migrations work with.
const OLDEST: u32 = 15;

/// Where packages put versions side by side: parent, start of the name, path below it.
const PACKAGED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"), // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),          // postgresql.org's packages for Red Hat
    ("/usr/libexec", "postgresql", ""), // Alpine
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A directory with `postgres` and `initdb` of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    /// Looks at a directory; `None` if it holds no server that the account can run.
    pub(super) fn at(dir: PathBuf, account: &Account) -> Option<Self> {
        let complete = |dir: &Path| dir.join("postgres").is_file() && dir.join("initdb").is_file();
        // Through links: what a package links into the PATH is often not all there is (psql).
        let real = dir.join("postgres").canonicalize().ok()?;
        let dir = match real.parent() {
            Some(real) if complete(real) => real.to_owned(),
            _ if complete(&dir) => dir,
            _ => return None,
        };
        let output = account.command(dir.join("postgres")).arg("--version").output().ok()?;
        let major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { dir, major })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a cluster of this version, or a new one for `None`, can be run.
    pub(super) fn fits(&self, wanted: Option<u32>) -> bool {
        wanted.map_or(self.major >= OLDEST, |wanted| self.major == wanted)
    }
}

/// Finds the binaries for a cluster of the major version `wanted`, or for a new one.
pub(super) fn find(options: &Options, wanted: Option<u32>, account: &Account) -> Result<Binaries, EmbeddedError> {
    let cache = options.archive_cache.clone().or_else(|| cache_dir(account));
    let mut places = match &options.search {
        Some(places) => places.clone(),
        None => usual_places(account),
    };
    if let Some(cache) = &cache {
        places.extend(below(cache, "", "bin"));
    }
    let found =
        places.into_iter().filter_map(|place| Binaries::at(place, account)).filter(|binaries| binaries.fits(wanted));
    // `max_by_key` returns the last of equals, and the PATH, which comes first, should win.
    if let Some(newest) = found.rev().max_by_key(|binaries| binaries.major) {
        return Ok(newest);
    }
    let no_binaries = |download| EmbeddedError::NoBinaries {
        wanted: match wanted {
            Some(major) => format!("{major}, which made this data directory,"),
            None => format!("{OLDEST} or later"),
        },
        download,
    };
    match cache {
        _ if options.offline => Err(no_binaries("and downloads are off".into())),
        None => Err(no_binaries("and without HOME there is no cache to download to".into())),
        Some(cache) => download::fetch(&cache, wanted, account)
            .map_err(|why| no_binaries(format!("and downloading it failed: {why}"))),
    }
}

/// The PATH, what `pg_config` says, and where packages go.
fn usual_places(account: &Account) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A relative entry would let the working directory choose what we run.
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    let configs: Vec<PathBuf> = places.iter().map(|dir| dir.join("pg_config")).collect();
    if let Some(config) = configs.iter().find(|program| program.is_file())
        && let Ok(output) = account.command(config).arg("--bindir").output()
    {
        places.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for (parent, start, rest) in PACKAGED {
        places.extend(below(Path::new(parent), start, rest));
    }
    places
}

/// The directories `parent/start*/rest`.
fn below(parent: &Path, start: &str, rest: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| starts_with(&entry.file_name(), start)).map(|entry| entry.path().join(rest)).collect()
}

fn starts_with(name: &OsStr, start: &str) -> bool {
    name.as_encoded_bytes().starts_with(start.as_bytes())
}

fn cache_dir(account: &Account) -> Option<PathBuf> {
    if account.switches() {
        // Root's own cache is closed to the account.
        return Some("/var/cache/tenancy".into());
    }
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let cache = if cfg!(target_os = "macos") {
        home()?.join("Library/Caches")
    } else {
        match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if Path::new(&dir).is_absolute() => dir.into(),
            _ => home()?.join(".cache"),
        }
    };
    Some(cache.join("tenancy"))
}

/// Reads `postgres (PostgreSQL) 17.6 (Debian …)`, and `18beta1` as 18.
fn major(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let end = number.find(|c: char| !c.is_ascii_digit())?;
    number.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn reads_versions() {
        assert_eq!(major("postgres (PostgreSQL) 15.19 (Debian 15.19-0)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major("pg_wrapper 12\n"), None);
        assert_eq!(major("postgres (PostgreSQL) \n"), None);
    }
}
