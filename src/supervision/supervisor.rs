//! The supervisor of a daemon: none, a service manager, or our keeper.
//!
//! Service manager and keeper get the same sd_notify(3) messages: readiness, a status with the
//! reason of a failure, and stopping. Both keep descriptors for the next daemon: the service
//! manager in its file descriptor store, passed as `LISTEN_FDS`; the keeper sends them over the
//! message socket. Invariant: the kept descriptors are sufficient for the next daemon to take over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::message::{self, Message};

use crate::sync;

/// Environment variable with the descriptor number of the socket to the keeper.
pub const KEEPER: &str = "NARFS_KEEPER_FD";
/// First descriptor that a service manager passes (SD_LISTEN_FDS_START).
const FIRST_HANDED: i32 = 3;

type Kept = (String, OwnedFd);

#[derive(Debug)]
pub struct Supervisor {
    link: Link,
    kept: Mutex<Vec<Kept>>,
    /// Duplicates of what the keeper holds, for a new keeper if it is killed.
    duplicates: Mutex<BTreeMap<String, OwnedFd>>,
}

#[derive(Debug)]
enum Link {
    None,
    Keeper(OwnedFd),
    Manager {
        socket: OwnedFd,
        /// Whether it keeps descriptors while the service is stopped or restarted.
        keeps: bool,
    },
}

impl Supervisor {
    /// The supervisor of this process, with the descriptors that it has kept. To be called once.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn find() -> io::Result<Self> {
        if let Some(socket) = inherited(KEEPER) {
            let kept = message::receive_kept(socket.as_fd())?;
            return Ok(Self {
                link: Link::Keeper(socket),
                kept: Mutex::new(kept),
                duplicates: Mutex::default(),
            });
        }
        Ok(Self {
            link: manager(),
            kept: Mutex::new(handed_over()),
            duplicates: Mutex::default(),
        })
    }

    /// Takes a kept descriptor whose name begins with `prefix`, with the rest of the name.
    pub fn take(&self, prefix: &str) -> Option<(String, OwnedFd)> {
        let mut kept = sync::lock(&self.kept);
        let at = kept.iter().position(|(name, _)| name.starts_with(prefix))?;
        let (name, descriptor) = kept.swap_remove(at);
        Some((name[prefix.len()..].to_owned(), descriptor))
    }

    /// Has the supervisor keep a descriptor for the next daemon. One that is already kept under
    /// this name is replaced without a gap, since the daemon may be killed between two messages.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        // FDPOLL=0 (systemd 246): otherwise the manager polls the connection, and drops it when it
        // is busy.
        let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        self.notify(&text, Some(descriptor));
        if self.is_keeper() {
            match descriptor.try_clone_to_owned() {
                Ok(descriptor) => drop(self.duplicates().insert(name.to_owned(), descriptor)),
                Err(e) => tracing::warn!("cannot duplicate {name} for a new keeper: {e}"),
            }
        }
    }

    /// Has the supervisor drop a descriptor.
    pub fn forget(&self, name: &str) {
        self.notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        self.duplicates().remove(name);
    }

    fn duplicates(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        sync::lock(&self.duplicates)
    }

    /// Calls `give` with the duplicates of what the keeper holds; nothing is added or dropped
    /// meanwhile.
    pub fn with_duplicates<T>(&self, give: impl FnOnce(&BTreeMap<String, OwnedFd>) -> T) -> T {
        give(&self.duplicates())
    }

    /// Ends a keeper of another executable, so that one of this executable replaces it
    /// ([`watch_keeper`](super::watch_keeper)): after an upgrade no process of the old version
    /// remains.
    pub fn end_other_keeper(&self) {
        let Link::Keeper(socket) = &self.link else {
            return;
        };
        // The process that created the pair of sockets.
        let Ok(keeper) = rustix::net::sockopt::socket_peercred(socket) else {
            return;
        };
        let program = |process: &str| {
            let metadata = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let theirs = program(&keeper.pid.as_raw_nonzero().to_string());
        if theirs.is_none() || theirs == program("self") {
            return;
        }
        tracing::info!("the keeper is of another version; replacing it");
        if let Err(e) = rustix::process::kill_process(keeper.pid, Signal::KILL) {
            tracing::warn!("cannot end the keeper of another version: {e}");
        }
    }

    /// Waits until the keeper is gone.
    pub fn wait_until_gone(&self) {
        let Link::Keeper(socket) = &self.link else {
            return;
        };
        // The keeper sends nothing to a daemon that has started, so the only event is the end.
        let mut fds = [PollFd::new(socket, PollFlags::empty())];
        while poll(&mut fds, None).is_err() {}
    }

    /// Reports that the daemon is ready. A daemon in the background leaves the terminal and the
    /// working directory; later log messages go to `log`.
    pub fn ready(&self, log: &Path) -> io::Result<()> {
        if let Link::Keeper(_) = self.link {
            leave_terminal(log)?;
        }
        self.notify("READY=1", None);
        Ok(())
    }

    /// Reports why the daemon is not ready; `false` if no keeper will show the reason.
    pub fn failed(&self, reason: &str) -> bool {
        self.notify(&format!("STATUS={reason}"), None);
        matches!(self.link, Link::Keeper(_))
    }

    /// Reports that the daemon is stopping.
    pub fn stopping(&self) {
        self.notify("STOPPING=1", None);
    }

    /// Reports that the daemon is alive.
    pub fn alive(&self) {
        self.notify("WATCHDOG=1", None);
    }

    /// Tells the keeper which executable to start next.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn replace(&self, program: &Path) -> io::Result<()> {
        self.send(&format!("{}{}", message::REPLACE, program.display()), None)
    }

    /// The kind of supervisor, as `narfs status` shows it.
    pub fn name(&self) -> Option<String> {
        match self.link {
            Link::None => None,
            Link::Keeper(_) => Some("keeper".to_owned()),
            Link::Manager { .. } => Some("service manager".to_owned()),
        }
    }

    pub fn is_keeper(&self) -> bool {
        matches!(self.link, Link::Keeper(_))
    }

    /// Whether a daemon that ends unexpectedly is restarted.
    pub fn restarts(&self) -> bool {
        !matches!(self.link, Link::None)
    }

    /// Whether a daemon that is asked to stop leaves its mount to the next one. A keeper exits with
    /// its daemon; a service may be started again.
    pub fn leaves_mounts(&self) -> bool {
        matches!(self.link, Link::Manager { keeps: true, .. })
    }

    fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match &self.link {
            Link::None => Ok(()),
            Link::Keeper(socket) | Link::Manager { socket, .. } => {
                Message::new(text, descriptor).send(socket.as_fd())
            }
        }
    }

    fn notify(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) {
        if let Err(e) = self.send(text, descriptor) {
            let first = text.lines().next().unwrap_or_default();
            tracing::warn!("cannot send {first} to the supervisor: {e}");
        }
    }
}

/// Whether this process may take over from a previous daemon. Commands then wait for this process,
/// so it must not send requests to a daemon itself.
pub fn may_take_over() -> bool {
    std::env::var_os(KEEPER).is_some() || std::env::var_os("LISTEN_FDS").is_some()
}

fn manager() -> Link {
    let name = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    if name.is_empty() {
        return Link::None;
    }
    match message::connect(&name) {
        Ok(socket) => Link::Manager {
            socket,
            // systemd sets FDSTORE since version 254.
            keeps: std::env::var("FDSTORE").is_ok_and(|n| n != "0"),
        },
        Err(e) => {
            tracing::warn!("cannot connect to the service manager at {name} (NOTIFY_SOCKET): {e}");
            Link::None
        }
    }
}

/// The descriptors passed by a service manager; see sd_listen_fds_with_names(3).
fn handed_over() -> Vec<Kept> {
    let variable = |name| std::env::var(name).ok();
    let is_ours = variable("LISTEN_PID").is_some_and(|p| p == std::process::id().to_string());
    if !is_ours {
        return Vec::new();
    }
    let count = variable("LISTEN_FDS").and_then(|n| n.parse::<i32>().ok());
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let handed = (FIRST_HANDED..).take(count.unwrap_or(0).max(0) as usize);
    handed
        .map(|number| {
            // SAFETY: the manager passed these descriptors to this process, and they are taken
            // once.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
            (names.next().unwrap_or_default().to_owned(), descriptor)
        })
        .collect()
}

/// Redirects the standard streams, the last two to `log`, and changes to `/`, to keep no directory
/// busy.
pub fn leave_terminal(log: &Path) -> io::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}

/// Makes `command` run in a session of its own, with default signal handlers, and with no inherited
/// descriptors but the standard ones and `inherited`.
pub fn detach(command: &mut Command, inherited: &[RawFd]) {
    let inherited = inherited.to_vec();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // Otherwise a lock that a script holds on an inherited descriptor would be held as long
            // as the daemon lives. Linux before 5.11 lacks CLOSE_RANGE_CLOEXEC.
            let (first, last) = (libc::STDERR_FILENO + 1, libc::c_uint::MAX);
            let cloexec = libc::CLOSE_RANGE_CLOEXEC;
            libc::syscall(libc::SYS_close_range, first, last, cloexec);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            // A new session does not get the terminal's signals.
            let is_passed = |fd: &RawFd| libc::fcntl(*fd, libc::F_SETFD, 0) >= 0;
            if libc::setsid() < 0 || !inherited.iter().all(is_passed) {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Takes the descriptor whose number the parent process has put into an environment variable.
pub fn inherited(variable: &str) -> Option<OwnedFd> {
    let number: i32 = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: the parent passed this descriptor to this process, and it is taken once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // Child processes must not inherit it.
    let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
    Some(descriptor)
}
