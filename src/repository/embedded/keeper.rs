//! The thread that Postgres hangs on.
//!
//! When we die, Postgres shall stop: on Linux the kernel does that (`PR_SET_PDEATHSIG`), but it
//! means the death of the *thread* that spawned the child, not of the process. A test's thread, or
//! a runtime's worker, ends long before the process does and would take the database along. So the
//! server is spawned from a thread that does nothing else and lives as long as its [`Keeper`].
//!
//! Other systems have no such signal. There [`leftover`](super::leftover) does the work at the
//! next start.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::Signal;

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    orders: mpsc::Sender<Order>,
}

impl Keeper {
    pub(super) fn new() -> io::Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new().name("postgres-keeper".into()).spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn()); // who asked waits for it
            }
        })?;
        Ok(Self { orders })
    }

    /// Spawns a child that lives at most as long as the keeper, where the system can see to it.
    pub(super) fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that keeps Postgres has ended");
        let (reply, answer) = mpsc::channel();
        self.orders.send((command, reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Ties a child to the thread that will spawn it, and to nothing else: it gets `signal` when that
/// thread ends (Linux), and a session of its own, so that a Ctrl-C, which a terminal sends to
/// everybody in the foreground, does not stop Postgres before we have drained.
#[expect(unsafe_code, reason = "there is no safe way to set the signal between fork and exec")]
pub(super) fn tie(command: &mut Command, signal: Signal) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::unistd::setsid()?;
        #[cfg(target_os = "linux")]
        {
            // After the change of user, which would clear it: the standard library runs this last.
            nix::sys::prctl::set_pdeathsig(signal)?;
            if nix::unistd::getppid() != parent {
                // The parent died before the call, so the signal will never come.
                return Err(nix::errno::Errno::ESRCH.into());
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (parent, signal);
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `prepare` makes
    // three plain system calls; it neither allocates nor locks, and captures two plain numbers.
    unsafe {
        command.pre_exec(prepare);
    }
}
