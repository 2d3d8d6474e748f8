//! The keeper of a mount in the background: it starts the daemon, holds what must outlive it, and
//! starts it again.
//!
//! It is a process of its own that opens no state and no network. Invariant: as long as it lives,
//! the connection to the kernel and the ownership of the state do, so that programs in the mount
//! and commands wait for the next daemon. It ends with a daemon that ended well, which is one whose
//! mount is gone. If it is killed itself, its daemon starts another one (`keeper_replacement.rs`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::held::Held;
use super::keeper_replacement;
use super::kept::{FUSE, REQUEST};
use super::message::{self, Received};
use super::supervisor::{KEEPER, detach, leave_terminal, passed};
use crate::fuse;

/// Environment variable with the number of the pipe to whoever waits for the mount.
const STARTER: &str = "NARFS_READY_FD";
/// Environment variable with the number of the descriptor of what the first daemon serves.
const FIRST: &str = "NARFS_REQUEST_FD";
/// Environment variable that tells a daemon how many there have been of its mount, itself included.
pub const STARTS: &str = "NARFS_STARTS";
/// The program of this process, whatever lies where it was started from.
const OURSELVES: &str = "/proc/self/exe";
/// A daemon that was ready for less is started again only after [`PAUSE`].
const SHORT: Duration = Duration::from_secs(1);
/// Between a failed start and the next, at first; each one doubles it, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
/// So long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Programs wait so long for a daemon that does not come up, and then get errors: a disk that is
/// full for a moment, or memory that is short, should not cost the mount.
const GIVE_UP: Duration = Duration::from_secs(120);
/// How often it is looked whether a daemon has ended and cannot be gone.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A daemon of another program must be ready within this, in one of [`TRIES`].
const TRIAL: Duration = Duration::from_secs(30);
/// So often is it started before the program before is gone back to.
const TRIES: u32 = 2;

/// Starts the keeper of the state in `state`, of a daemon that serves what is held, in a session of its
/// own, and waits until its daemon is ready. It is started anew rather than forked, since threads do
/// not survive a fork, and at `/`, so that it keeps no directory busy.
///
/// # Errors
/// It could not be started, or the reason that the daemon gave for not being ready.
pub fn start(state: &Path, held: &Held) -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    let held = held.seal()?;
    let mut command = command(state);
    command.current_dir("/");
    command.env(STARTER, writer.as_raw_fd().to_string());
    command.env(FIRST, held.as_raw_fd().to_string());
    detach(&mut command, &[writer.as_raw_fd(), held.as_raw_fd()]);
    let mut child = command.spawn()?;
    drop(writer);
    let mut answer = String::new();
    reader.read_to_string(&mut answer)?;
    if answer == "ready" {
        return Ok(());
    }
    let status = child.wait()?;
    if answer.is_empty() {
        answer = format!("the daemon ended before it was ready: {status}");
    }
    Err(io::Error::other(answer))
}

/// The command of a keeper.
pub fn command(state: &Path) -> Command {
    let mut command = Command::new(OURSELVES);
    command
        .arg0("narfs")
        .arg("--state")
        .arg(state)
        .arg("keeper");
    command.stdin(Stdio::null());
    command
}

/// Whether this process was started to go on in the background.
pub fn in_background() -> bool {
    std::env::var_os(KEEPER).is_some() || std::env::var_os(STARTER).is_some()
}

/// Daemons that a keeper before this one has started.
fn starts_before() -> u64 {
    let starts = std::env::var(STARTS).ok();
    starts.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Keeps the mount of the daemon that serves the state in `state`, until it is unmounted. What it serves
/// comes from [`start`], or from the daemon whose keeper was killed. Returns the exit status.
///
/// # Errors
/// No daemon can be started.
pub fn keep(state: &Path) -> io::Result<u8> {
    let mut kept = keeper_replacement::inherit()?;
    if let Some(first) = passed(FIRST) {
        kept.insert(REQUEST.to_owned(), first);
    }
    let keeper = Keeper {
        state: state.to_owned(),
        program: OURSELVES.into(),
        starter: passed(STARTER).map(File::from),
        starts: starts_before(),
        kept,
        previous: None,
        replacement: None,
        reason: String::new(),
    };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler is installed. The daemon gets these for itself, from a service manager
        // that ends everything; the keeper ends with it.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // As ps(1) and top(1) show it.
    let _ = rustix::thread::set_name(c"narfs-keeper");
    keeper.run()
}

/// How a daemon ended.
struct Ended {
    /// Its mount is gone, and it said so.
    is_good: bool,
    /// In words.
    how: String,
    /// How long it was ready.
    ready_for: Option<Duration>,
}

impl Ended {
    fn before_it_began(program: &Path, error: &io::Error) -> Self {
        Self {
            is_good: false,
            how: format!("{} cannot be started: {error}", program.display()),
            ready_for: None,
        }
    }
}

/// See the module.
struct Keeper {
    state: PathBuf,
    /// Of the daemon. The keeper stays what it is: what the two say to each other does not change.
    program: PathBuf,
    /// Who waits for the first daemon.
    starter: Option<File>,
    /// Daemons that were started.
    starts: u64,
    kept: BTreeMap<String, OwnedFd>,
    /// The program before, until a daemon of the present one is ready.
    previous: Option<PathBuf>,
    /// What the next daemon is to be.
    replacement: Option<PathBuf>,
    /// Why the last daemon was not ready.
    reason: String,
}

impl Keeper {
    fn run(mut self) -> io::Result<u8> {
        let mut failures = 0;
        let mut last_ready = Instant::now();
        loop {
            let ended = match self.attend() {
                Ok(ended) if ended.is_good => return Ok(0),
                Ok(ended) => ended,
                // Of the first daemon, whoever waits for it is told.
                Err(e) if self.starter.is_some() => return Err(e),
                Err(e) => Ended::before_it_began(&self.program, &e),
            };
            if let Some(starter) = &mut self.starter {
                // Who interrupted the start does not hear it.
                let _ = starter.write_all(self.reason.as_bytes());
                return Ok(1);
            }
            if !self.is_mounted() {
                return Ok(0);
            }
            let pause = match ended.ready_for {
                Some(time) => {
                    (failures, last_ready) = (0, Instant::now());
                    if time < SHORT { PAUSE } else { Duration::ZERO }
                }
                None => {
                    failures += 1;
                    (PAUSE * 2u32.pow(failures.min(8))).min(LONGEST_PAUSE)
                }
            };
            if let Some(program) = self.replacement.take() {
                tracing::info!("{} goes on", program.display());
                self.previous = Some(std::mem::replace(&mut self.program, program));
                continue;
            }
            let (how, reason) = (&ended.how, self.because());
            tracing::error!("the daemon ended ({how}){reason}; starting it again");
            if failures >= TRIES && self.goes_back() {
                continue;
            }
            if last_ready.elapsed() > GIVE_UP {
                let seconds = GIVE_UP.as_secs();
                tracing::error!("no daemon was ready within {seconds} s; the mount is given up");
                return Ok(1);
            }
            std::thread::sleep(pause);
        }
    }

    /// Starts a daemon, and hears it until it ends.
    fn attend(&mut self) -> io::Result<Ended> {
        self.reason.clear();
        let (ours, theirs) = message::pair()?;
        let mut command = Command::new(&self.program);
        command.arg0("narfs").args(self.arguments()?);
        command.env(KEEPER, theirs.as_raw_fd().to_string());
        self.starts += 1;
        command.env(STARTS, self.starts.to_string());
        command.env_remove(STARTER).env_remove(FIRST);
        detach(&mut command, &[theirs.as_raw_fd()]);
        let mut child = command.spawn()?;
        drop(theirs);
        let mut ready = None;
        if message::send_kept(ours.as_fd(), self.kept.iter()).is_ok() {
            self.hear(&ours, &mut child, &mut ready)?;
        }
        // The socket is closed at the end of the process.
        let status = child.wait()?;
        Ok(Ended {
            is_good: status.success(),
            how: status.to_string(),
            ready_for: ready.map(|since| since.elapsed()),
        })
    }

    /// The arguments of the daemon, as the last one that served has held them.
    fn arguments(&self) -> io::Result<Vec<OsString>> {
        let held = self.kept.get(REQUEST);
        let held = held.ok_or_else(|| io::Error::other("it is not known what is to be served"))?;
        Ok(Held::read(held)?.arguments)
    }

    /// Does what a daemon says until its end of the socket is closed.
    fn hear(
        &mut self,
        socket: &OwnedFd,
        child: &mut Child,
        ready: &mut Option<Instant>,
    ) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match message::receive(socket.as_fd(), Some(LOOK_EVERY)) {
                Ok(Some(message)) => self.take(message, ready),
                Ok(None) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    let on_trial = ready.is_none() && self.previous.is_some();
                    if on_trial && began.elapsed() > TRIAL {
                        self.reason = format!("not ready within {} s", TRIAL.as_secs());
                        child.kill()?;
                    }
                    self.release(child.id());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Lets a daemon end that waits for itself: one of its threads has asked for something in its
    /// own mount. The main thread has ended then, and others have not.
    fn release(&self, pid: u32) {
        let task = |file: &str| format!("/proc/{pid}/{file}");
        let stat = std::fs::read_to_string(task("stat")).unwrap_or_default();
        if !stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')) {
            return;
        }
        let threads = std::fs::read_dir(task("task"))
            .into_iter()
            .flatten()
            .flatten();
        let threads = threads.filter_map(|t| t.file_name().to_str()?.parse().ok());
        let threads: Vec<u32> = threads.collect();
        for (name, device) in &self.kept {
            if name.starts_with(FUSE)
                && let Err(e) = fuse::release(device, &threads)
            {
                tracing::warn!("the daemon may wait for itself: {e}");
            }
        }
    }

    fn take(&mut self, message: Received, ready: &mut Option<Instant>) {
        let name = message.value("FDNAME=").map(str::to_owned);
        if message.value("READY=").is_some() {
            *ready = Some(Instant::now());
            self.previous = None;
            if let Some(mut starter) = self.starter.take() {
                if let Err(e) = leave_terminal(&self.state.join("narfs.log")) {
                    tracing::warn!("narfs.log cannot be written: {e}");
                }
                // A starter that was interrupted does not keep us from keeping.
                let _ = starter.write_all(b"ready");
            }
        } else if let Some(reason) = message.value("STATUS=") {
            self.reason = reason.to_owned();
        } else if let Some(program) = message.value(message::REPLACE) {
            self.replacement = Some(program.into());
        } else if message.value("FDSTORE=").is_some() {
            if let (Some(name), Some(descriptor)) = (name, message.descriptor) {
                self.kept.insert(name, descriptor);
            }
        } else if message.value("FDSTOREREMOVE=").is_some()
            && let Some(name) = name
        {
            self.kept.remove(&name);
        }
    }

    /// Whether a file system that we keep is still mounted.
    fn is_mounted(&self) -> bool {
        let mut connections = self.kept.iter().filter(|(name, _)| name.starts_with(FUSE));
        connections.any(|(_, device)| fuse::is_connected(device))
    }

    /// Takes the program before; `false` if this is the first.
    fn goes_back(&mut self) -> bool {
        let ourselves = Path::new(OURSELVES);
        let is_other = self.program != ourselves;
        if is_other {
            tracing::error!("{} does not come up; going back", self.program.display());
            self.program = self.previous.take().unwrap_or(ourselves.to_owned());
        }
        is_other
    }

    fn because(&self) -> String {
        if self.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", self.reason)
        }
    }
}
