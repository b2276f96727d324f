//! What an earlier life left behind: a server that still runs, or files that claim one does.
//!
//! Process ids are used again, after a reboot even likely so. Hence nothing here is signalled
//! because a file names it: the process itself has to be a postmaster on this very cluster, seen
//! right before each signal.
//!
//! With no such process the file goes. Postgres only asks whether the process in it exists, and
//! would refuse to start because of a stranger or a zombie with that id; and if the new server got
//! the old one's id, as in a container that starts alike each time, the old file would call it
//! ready at once. Removing it costs no safety: by the cluster's inode (since version 12) Postgres
//! finds the shared memory of an old server, and refuses while a process is attached to it.

#![expect(clippy::disallowed_methods, reason = "it waits for a process, whatever a test thinks the time is")]

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::{EmbeddedError, PORT};

/// Fast shutdown and how long it may take, then immediate. Never SIGKILL: a postmaster that is
/// killed cannot stop its children.
const STEPS: [(Signal, Duration); 2] =
    [(Signal::SIGINT, Duration::from_secs(20)), (Signal::SIGQUIT, Duration::from_secs(10))];

/// Stops an old server and clears what would keep a new one from starting. Only for who holds
/// the directory's lock. Returns whether the last server did not end properly, so that a
/// first refusal of the next one may only be its remains.
pub(super) fn clear(cluster: &Path, socket_dir: &Path) -> Result<bool, EmbeddedError> {
    let pid_file = cluster.join("postmaster.pid");
    let unclean = match fs::read_to_string(&pid_file) {
        Ok(text) => {
            if let Some(pid) = pid(&text)
                && is_postmaster(pid, cluster)
            {
                stop(pid, cluster)?;
            }
            remove(&pid_file)?;
            true
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(EmbeddedError::io("read", &pid_file)(e)),
    };
    // The socket has a lock file with a process id, too, and nobody is left to own it.
    let socket = socket_dir.join(format!(".s.PGSQL.{PORT}"));
    remove(&socket)?;
    remove(&socket.with_extension(format!("{PORT}.lock")))?;
    Ok(unclean)
}

/// Polls a condition until it holds or the time is over; returns whether it held.
pub(super) fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn stop(pid: Pid, cluster: &Path) -> Result<(), EmbeddedError> {
    for (signal, patience) in STEPS {
        if !is_postmaster(pid, cluster) {
            return Ok(());
        }
        match signal::kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(_) => break,
        }
        if wait(patience, || !is_postmaster(pid, cluster)) {
            return Ok(());
        }
    }
    Err(EmbeddedError::OldServer { pid: pid.as_raw() })
}

/// The process id in the first line, if it can be one of a postmaster.
fn pid(text: &str) -> Option<Pid> {
    let pid = text.lines().next()?.trim().parse().ok()?;
    (pid > 1).then(|| Pid::from_raw(pid))
}

/// Whether a process lives and is the postmaster of this cluster. A zombie is not.
#[cfg(target_os = "linux")]
fn is_postmaster(pid: Pid, cluster: &Path) -> bool {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;

    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut arguments = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = arguments.next().map(Path::new).and_then(Path::file_name);
    if program.is_none_or(|name| name != "postgres" && name != "postmaster") {
        return false;
    }
    // A postmaster works in its cluster's directory.
    let directory = fs::metadata(format!("/proc/{pid}/cwd"));
    match (directory, fs::metadata(cluster)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        // Root in a container may not look at other users' processes; then by the argument of -D.
        _ => arguments.any(|argument| argument == cluster),
    }
}

/// Whether a process lives and is the postmaster of this cluster: by the arguments we start it
/// with, as there is no `/proc` to ask.
#[cfg(not(target_os = "linux"))]
fn is_postmaster(pid: Pid, cluster: &Path) -> bool {
    let output = std::process::Command::new("/bin/ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output();
    let Ok(output) = output else {
        return false;
    };
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    line.split_once(" -D ").is_some_and(|(program, rest)| {
        program.ends_with("/postgres") && rest.starts_with(&format!("{} -c ", cluster.display()))
    })
}

fn remove(file: &Path) -> Result<(), EmbeddedError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(EmbeddedError::io("remove the stale", file)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Pid, pid};

    #[test]
    fn reads_only_possible_pids() {
        assert_eq!(pid("4711\n/data\n"), Some(Pid::from_raw(4711)));
        for text in ["", "\n", "0\n", "1\n", "-4711\n", "x\n"] {
            assert_eq!(pid(text), None, "{text:?}");
        }
    }
}
