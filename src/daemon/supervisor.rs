//! Who started a daemon and looks after it: nobody, a service manager, or our own keeper.
//!
//! Both are told the same, in the words of sd_notify(3): that the daemon is ready, why it is not,
//! that it ends. Both keep descriptors for the next daemon: a service manager as its descriptor
//! store, in `LISTEN_FDS`; the keeper gives them over the socket that it is told through.
//! Invariant: a descriptor that the supervisor keeps is enough for the next daemon to go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};

use super::message::{self, Message};

/// Environment variable with the number of the keeper's socket.
pub(super) const KEEPER: &str = "NARFS_KEEPER_FD";
/// What a service manager hands over begins here (SD_LISTEN_FDS_START).
const FIRST_HANDED: i32 = 3;

/// A descriptor that was kept, with its name.
type Kept = (String, OwnedFd);

/// Who looks after this process.
#[derive(Debug)]
pub(super) struct Supervisor {
    link: Link,
    kept: Mutex<Vec<Kept>>,
    /// What a keeper has from this daemon, for another one in its place.
    given: Mutex<BTreeMap<String, OwnedFd>>,
}

#[derive(Debug)]
enum Link {
    Nobody,
    Keeper(OwnedFd),
    Manager {
        socket: OwnedFd,
        /// Keeps descriptors also while the service is stopped or started anew.
        keeps: bool,
    },
}

impl Supervisor {
    /// That of this process, with what it has kept; asked once.
    ///
    /// # Errors
    /// The keeper is gone.
    pub(super) fn find() -> io::Result<Self> {
        if let Some(socket) = keeper() {
            let kept = message::receive_kept(socket.as_fd())?;
            return Ok(Self {
                link: Link::Keeper(socket),
                kept: Mutex::new(kept),
                given: Mutex::default(),
            });
        }
        Ok(Self {
            link: manager(),
            kept: Mutex::new(handed_over()),
            given: Mutex::default(),
        })
    }

    /// A kept descriptor whose name begins so, with the rest of the name.
    pub(super) fn take(&self, prefix: &str) -> Option<(String, OwnedFd)> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(name, _)| name.starts_with(prefix))?;
        let (name, descriptor) = kept.swap_remove(at);
        Some((name[prefix.len()..].to_owned(), descriptor))
    }

    /// Has a descriptor kept for the next daemon. One that is kept already stays so all the time:
    /// between two messages a daemon may be killed.
    pub(super) fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
        // Not watched: the manager would let go a connection that is busy (FDPOLL, systemd 246).
        let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        self.tell(&text, Some(descriptor));
        if self.is_keeper() {
            match descriptor.try_clone_to_owned() {
                Ok(descriptor) => drop(self.given().insert(name.to_owned(), descriptor)),
                Err(e) => tracing::warn!("another keeper could not be given {name}: {e}"),
            }
        }
    }

    /// Has it kept no longer.
    pub(super) fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        self.given().remove(name);
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives another keeper what the one before had; nothing is kept or forgotten meanwhile.
    pub(super) fn with_given<T>(&self, give: impl FnOnce(&BTreeMap<String, OwnedFd>) -> T) -> T {
        give(&self.given())
    }

    /// Returns when the keeper is gone.
    pub(super) fn wait_until_gone(&self) {
        let Link::Keeper(socket) = &self.link else {
            return;
        };
        // It says nothing to a daemon that has begun.
        let mut asked = [PollFd::new(socket, PollFlags::empty())];
        while poll(&mut asked, None).is_err() {}
    }

    /// Tells whoever waits that the daemon serves. In the background, the terminal and the
    /// starter's directory are let go: what is logged later goes to `log`.
    pub(super) fn ready(&self, log: &Path) -> io::Result<()> {
        if let Link::Keeper(_) = self.link {
            leave_terminal(log)?;
        }
        self.tell("READY=1", None);
        Ok(())
    }

    /// Tells whoever waits why the daemon does not serve; `false` if nobody would show it.
    pub(super) fn failed(&self, reason: &str) -> bool {
        self.tell(&format!("STATUS={reason}"), None);
        matches!(self.link, Link::Keeper(_))
    }

    /// Tells that the daemon ends.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1", None);
    }

    /// Tells that the daemon is well.
    pub(super) fn well(&self) {
        self.tell("WATCHDOG=1", None);
    }

    /// Tells the keeper which program is to go on.
    ///
    /// # Errors
    /// The keeper is gone.
    pub(super) fn replace(&self, program: &Path) -> io::Result<()> {
        self.send(&format!("{}{}", message::REPLACE, program.display()), None)
    }

    /// What users call it.
    pub(super) fn name(&self) -> Option<String> {
        match self.link {
            Link::Nobody => None,
            Link::Keeper(_) => Some("keeper".to_owned()),
            Link::Manager { .. } => Some("service manager".to_owned()),
        }
    }

    /// Whether there is a keeper.
    pub(super) fn is_keeper(&self) -> bool {
        matches!(self.link, Link::Keeper(_))
    }

    /// Whether another daemon is started when this one ends without having been told to.
    pub(super) fn restarts(&self) -> bool {
        !matches!(self.link, Link::Nobody)
    }

    /// Whether a daemon that is told to end leaves its mount for the next one. A keeper ends with
    /// its daemon; a service may be started again.
    pub(super) fn leaves_mounts(&self) -> bool {
        matches!(self.link, Link::Manager { keeps: true, .. })
    }

    fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match &self.link {
            Link::Nobody => Ok(()),
            Link::Keeper(socket) | Link::Manager { socket, .. } => {
                Message::new(text, descriptor).send(socket.as_fd())
            }
        }
    }

    fn tell(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) {
        if let Err(e) = self.send(text, descriptor) {
            let first = text.lines().next().unwrap_or_default();
            tracing::warn!("whoever started this daemon could not be told {first}: {e}");
        }
    }
}

/// Whether this process was started to go on in the background.
pub fn in_background() -> bool {
    std::env::var_os(KEEPER).is_some() || super::keeper::was_started()
}

/// Whether this process may go on with what a daemon before it has left: then commands wait
/// for it, and it must ask none.
pub fn may_take_over() -> bool {
    std::env::var_os(KEEPER).is_some() || std::env::var_os("LISTEN_FDS").is_some()
}

/// The socket to the keeper; it is asked for once.
fn keeper() -> Option<OwnedFd> {
    let number: i32 = std::env::var(KEEPER).ok()?.parse().ok()?;
    // SAFETY: the keeper made this descriptor for us, and nobody else here knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // It is not for programs that we start.
    let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
    Some(socket)
}

/// The service manager, if there is one.
fn manager() -> Link {
    let name = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    if name.is_empty() {
        return Link::Nobody;
    }
    match message::connect(&name) {
        Ok(socket) => Link::Manager {
            socket,
            // systemd says since version 254 how many it would keep.
            keeps: std::env::var("FDSTORE").is_ok_and(|n| n != "0"),
        },
        Err(e) => {
            tracing::warn!("the service manager at {name} (NOTIFY_SOCKET) is not reached: {e}");
            Link::Nobody
        }
    }
}

/// What a service manager hands over, as sd_listen_fds_with_names(3) says.
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
            // SAFETY: the manager made these descriptors for this process, and they are taken once.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
            (names.next().unwrap_or_default().to_owned(), descriptor)
        })
        .collect()
}

/// Sends what is logged to `log`, and keeps no directory busy.
pub(super) fn leave_terminal(log: &Path) -> io::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}

/// Has `command` run in a session of its own, with `passed` of this process's descriptors and its
/// standard ones, and signals as they are by default.
pub(super) fn detach(command: &mut Command, passed: &impl AsRawFd) {
    let passed = passed.as_raw_fd();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // A lock that a script holds on another descriptor would be held as long as the daemon
            // lives. Linux before 5.11 cannot do that.
            let (first, last) = (libc::STDERR_FILENO + 1, libc::c_uint::MAX);
            let cloexec = libc::CLOSE_RANGE_CLOEXEC;
            libc::syscall(libc::SYS_close_range, first, last, cloexec);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            // The terminal's signals do not go along either.
            if libc::setsid() < 0 || libc::fcntl(passed, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
