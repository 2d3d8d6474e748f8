//! Who started a daemon and looks after it: nobody, a service manager, or our own keeper.
//!
//! Both are told the same, in the words of sd_notify(3): that the daemon is ready, why it is not,
//! that it ends. Both keep descriptors for the next daemon: a service manager as its descriptor
//! store, in `LISTEN_FDS`; the keeper gives them over the socket that it is told through.
//! Invariant: a descriptor that the supervisor keeps is enough for the next daemon to go on.

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

/// Environment variable with the number of the keeper's socket.
pub const KEEPER: &str = "NARFS_KEEPER_FD";
/// What a service manager hands over begins here (SD_LISTEN_FDS_START).
const FIRST_HANDED: i32 = 3;

/// A descriptor that was kept, with its name.
type Kept = (String, OwnedFd);

/// Who looks after this process.
#[derive(Debug)]
pub struct Supervisor {
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
    pub fn find() -> io::Result<Self> {
        if let Some(socket) = passed(KEEPER) {
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
    pub fn take(&self, prefix: &str) -> Option<(String, OwnedFd)> {
        let mut kept = sync::lock(&self.kept);
        let at = kept.iter().position(|(name, _)| name.starts_with(prefix))?;
        let (name, descriptor) = kept.swap_remove(at);
        Some((name[prefix.len()..].to_owned(), descriptor))
    }

    /// Has a descriptor kept for the next daemon. One that is kept already stays so all the time:
    /// between two messages a daemon may be killed.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) {
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
    pub fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        self.given().remove(name);
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<String, OwnedFd>> {
        sync::lock(&self.given)
    }

    /// Gives another keeper what the one before had; nothing is kept or forgotten meanwhile.
    pub fn with_given<T>(&self, give: impl FnOnce(&BTreeMap<String, OwnedFd>) -> T) -> T {
        give(&self.given())
    }

    /// Has a keeper that is another program end, so that one of this program takes its place
    /// ([`watch_keeper`](super::watch_keeper)): after an upgrade nothing of the program before goes on.
    pub fn end_other_keeper(&self) {
        let Link::Keeper(socket) = &self.link else {
            return;
        };
        // Whoever made the pair of sockets.
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
        tracing::info!("the keeper is of another version; one of this takes its place");
        if let Err(e) = rustix::process::kill_process(keeper.pid, Signal::KILL) {
            tracing::warn!("the keeper of another version goes on: {e}");
        }
    }

    /// Returns when the keeper is gone.
    pub fn wait_until_gone(&self) {
        let Link::Keeper(socket) = &self.link else {
            return;
        };
        // It says nothing to a daemon that has begun.
        let mut asked = [PollFd::new(socket, PollFlags::empty())];
        while poll(&mut asked, None).is_err() {}
    }

    /// Tells whoever waits that the daemon serves. In the background, the terminal and the
    /// starter's directory are let go: what is logged later goes to `log`.
    pub fn ready(&self, log: &Path) -> io::Result<()> {
        if let Link::Keeper(_) = self.link {
            leave_terminal(log)?;
        }
        self.tell("READY=1", None);
        Ok(())
    }

    /// Tells whoever waits why the daemon does not serve; `false` if nobody would show it.
    pub fn failed(&self, reason: &str) -> bool {
        self.tell(&format!("STATUS={reason}"), None);
        matches!(self.link, Link::Keeper(_))
    }

    /// Tells that the daemon ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1", None);
    }

    /// Tells that the daemon is well.
    pub fn well(&self) {
        self.tell("WATCHDOG=1", None);
    }

    /// Tells the keeper which program is to go on.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn replace(&self, program: &Path) -> io::Result<()> {
        self.send(&format!("{}{}", message::REPLACE, program.display()), None)
    }

    /// What users call it.
    pub fn name(&self) -> Option<String> {
        match self.link {
            Link::Nobody => None,
            Link::Keeper(_) => Some("keeper".to_owned()),
            Link::Manager { .. } => Some("service manager".to_owned()),
        }
    }

    /// Whether there is a keeper.
    pub fn is_keeper(&self) -> bool {
        matches!(self.link, Link::Keeper(_))
    }

    /// Whether another daemon is started when this one ends without having been told to.
    pub fn restarts(&self) -> bool {
        !matches!(self.link, Link::Nobody)
    }

    /// Whether a daemon that is told to end leaves its mount for the next one. A keeper ends with
    /// its daemon; a service may be started again.
    pub fn leaves_mounts(&self) -> bool {
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

/// Whether this process may go on with what a daemon before it has left: then commands wait
/// for it, and it must ask none.
pub fn may_take_over() -> bool {
    std::env::var_os(KEEPER).is_some() || std::env::var_os("LISTEN_FDS").is_some()
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
pub fn leave_terminal(log: &Path) -> io::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}

/// Has `command` run in a session of its own, with the descriptors `passed` of this process and its
/// standard ones, and signals as they are by default.
pub fn detach(command: &mut Command, passed: &[RawFd]) {
    let passed = passed.to_vec();
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
            let is_passed = |fd: &RawFd| libc::fcntl(*fd, libc::F_SETFD, 0) >= 0;
            if libc::setsid() < 0 || !passed.iter().all(is_passed) {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// The descriptor that whoever started this process has named in the environment; it is asked for once.
pub fn passed(variable: &str) -> Option<OwnedFd> {
    let number: i32 = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: whoever started us made this descriptor for us, and it is taken once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // It is not for programs that we start.
    let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
    Some(descriptor)
}
