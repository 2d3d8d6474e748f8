//! The keeper of a background mount: it starts the daemon, holds the descriptors that must outlive
//! it, and restarts it.
//!
//! The keeper is a separate process that opens neither the state nor the network. Invariant: while
//! it lives, the FUSE connection and the ownership of the state persist, so that programs in the
//! mount and commands wait for the next daemon. It exits after a daemon that exited with status 0,
//! which a daemon does only once its mount is gone. If the keeper itself is killed, its daemon
//! starts a new one (`keeper_replacement.rs`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::keeper_replacement;
use super::kept::{FUSE, REQUEST};
use super::message::{self, Received};
use super::restart_record::RestartRecord;
use super::supervisor::{KEEPER, detach, inherited, leave_terminal};
use crate::fuse;

/// Environment variable with the descriptor number of the pipe to the process that waits for the
/// mount.
const STARTER: &str = "NARFS_READY_FD";
/// Environment variable with the descriptor number of the first daemon's restart record.
const FIRST_RECORD: &str = "NARFS_REQUEST_FD";
/// Environment variable that tells a daemon how many daemons of its mount have been started,
/// including itself.
pub const STARTS: &str = "NARFS_STARTS";
/// Executable of this process, even after its file was replaced.
const OWN_EXECUTABLE: &str = "/proc/self/exe";
/// Run time below which a daemon that was ready is restarted only after [`PAUSE`].
const SHORT_RUN: Duration = Duration::from_secs(1);
/// Back-off after the first failed start; it doubles with each further failure, up to
/// [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
/// Upper limit of the back-off.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time without a ready daemon after which the mount is given up, and programs get errors. A
/// temporarily full disk or a shortage of memory should not cost the mount.
const RESTART_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval of the check for a daemon that exits but cannot be reaped.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time within which a daemon of another executable must be ready, in one of [`TRIES`] attempts.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts to start another executable before going back to the previous one.
const TRIES: u32 = 2;

/// Starts the keeper of the state in `state` in a session of its own, with the restart record of
/// the daemon to start, and waits until that daemon is ready. The keeper is executed anew rather
/// than forked, since threads do not survive a fork, and runs in `/`, so that it keeps no directory
/// busy.
///
/// # Errors
/// The keeper could not be started, or the daemon reported why it is not ready.
pub fn start(state: &Path, record: &RestartRecord) -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    let record = record.seal()?;
    let mut command = command(state);
    command.current_dir("/");
    command.env(STARTER, writer.as_raw_fd().to_string());
    command.env(FIRST_RECORD, record.as_raw_fd().to_string());
    detach(&mut command, &[writer.as_raw_fd(), record.as_raw_fd()]);
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

/// Further flags of the keepers that this process starts.
static FLAGS: OnceLock<Vec<String>> = OnceLock::new();

/// Gives flags to the keepers that this process starts; once.
pub fn pass_to_keepers(flags: &[&str]) {
    FLAGS.get_or_init(|| flags.iter().map(|flag| (*flag).to_owned()).collect());
}

/// The command that starts a keeper.
pub fn command(state: &Path) -> Command {
    let mut command = Command::new(OWN_EXECUTABLE);
    command.arg0("narfs").arg("--state").arg(state);
    command.args(FLAGS.get().into_iter().flatten());
    command.arg("keeper");
    command.stdin(Stdio::null());
    command
}

/// Whether this process is a keeper, or a daemon started by one.
pub fn in_background() -> bool {
    std::env::var_os(KEEPER).is_some() || std::env::var_os(STARTER).is_some()
}

/// Number of daemons started by the keepers before this one.
fn starts_before() -> u64 {
    let starts = std::env::var(STARTS).ok();
    starts.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Keeps the mount of the daemon of the state in `state` until it is unmounted. The restart record
/// comes from [`start`], or from the daemon whose keeper was killed. Returns the exit status.
///
/// # Errors
/// No daemon can be started.
pub fn keep(state: &Path) -> io::Result<u8> {
    let mut kept = keeper_replacement::inherit()?;
    if let Some(first) = inherited(FIRST_RECORD) {
        kept.insert(REQUEST.to_owned(), first);
    }
    let keeper = Keeper {
        state: state.to_owned(),
        program: OWN_EXECUTABLE.into(),
        starter: inherited(STARTER).map(File::from),
        starts: starts_before(),
        kept,
        previous: None,
        replacement: None,
        reason: String::new(),
    };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler is installed. A service manager that stops everything sends these
        // signals to the daemon as well, and the keeper exits after the daemon.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // The name shown by ps(1) and top(1).
    let _ = rustix::thread::set_name(c"narfs-keeper");
    keeper.run()
}

/// The exit of a daemon.
struct Exit {
    /// Whether it exited with status 0, because its mount is gone.
    is_clean: bool,
    /// The exit status in words.
    status: String,
    /// How long it was ready.
    ready_for: Option<Duration>,
}

impl Exit {
    fn failed_to_start(program: &Path, error: &io::Error) -> Self {
        Self {
            is_clean: false,
            status: format!("{} cannot be started: {error}", program.display()),
            ready_for: None,
        }
    }
}

struct Keeper {
    state: PathBuf,
    /// Executable of the daemon. The keeper itself is not replaced; the messages between the two
    /// are stable.
    program: PathBuf,
    /// Pipe to the process that waits for the first daemon.
    starter: Option<File>,
    /// Daemons started so far.
    starts: u64,
    kept: BTreeMap<String, OwnedFd>,
    /// The previous executable, until a daemon of the current one is ready.
    previous: Option<PathBuf>,
    /// Executable of the next daemon.
    replacement: Option<PathBuf>,
    /// The last error that the daemon reported.
    reason: String,
}

impl Keeper {
    fn run(mut self) -> io::Result<u8> {
        let mut failures = 0;
        let mut last_ready = Instant::now();
        loop {
            let exit = match self.run_daemon() {
                Ok(exit) if exit.is_clean => return Ok(0),
                Ok(exit) => exit,
                // The process that waits for the first daemon reports the error.
                Err(e) if self.starter.is_some() => return Err(e),
                Err(e) => Exit::failed_to_start(&self.program, &e),
            };
            if let Some(starter) = &mut self.starter {
                // The write fails if the starter was interrupted.
                let _ = starter.write_all(self.reason.as_bytes());
                return Ok(1);
            }
            if !self.is_mounted() {
                return Ok(0);
            }
            let pause = match exit.ready_for {
                Some(time) => {
                    (failures, last_ready) = (0, Instant::now());
                    if time < SHORT_RUN {
                        PAUSE
                    } else {
                        Duration::ZERO
                    }
                }
                None => {
                    failures += 1;
                    (PAUSE * 2u32.pow(failures.min(8))).min(LONGEST_PAUSE)
                }
            };
            if let Some(program) = self.replacement.take() {
                tracing::info!("switching to {}", program.display());
                self.previous = Some(std::mem::replace(&mut self.program, program));
                continue;
            }
            let (status, reason) = (&exit.status, self.reason_suffix());
            tracing::error!("the daemon ended ({status}){reason}; restarting it");
            if failures >= TRIES && self.roll_back() {
                continue;
            }
            if last_ready.elapsed() > RESTART_TIMEOUT {
                let seconds = RESTART_TIMEOUT.as_secs();
                tracing::error!("no daemon was ready within {seconds} s; giving up the mount");
                return Ok(1);
            }
            std::thread::sleep(pause);
        }
    }

    /// Starts a daemon, and processes its messages until it exits.
    fn run_daemon(&mut self) -> io::Result<Exit> {
        self.reason.clear();
        let (ours, theirs) = message::pair()?;
        let mut command = Command::new(&self.program);
        command.arg0("narfs").args(self.arguments()?);
        command.env(KEEPER, theirs.as_raw_fd().to_string());
        self.starts += 1;
        command.env(STARTS, self.starts.to_string());
        command.env_remove(STARTER).env_remove(FIRST_RECORD);
        detach(&mut command, &[theirs.as_raw_fd()]);
        let mut child = command.spawn()?;
        drop(theirs);
        let mut ready = None;
        if message::send_kept(ours.as_fd(), self.kept.iter()).is_ok() {
            self.process_messages(&ours, &mut child, &mut ready)?;
        }
        // The peer's socket closes only when the process ends.
        let status = child.wait()?;
        Ok(Exit {
            is_clean: status.success(),
            status: status.to_string(),
            ready_for: ready.map(|since| since.elapsed()),
        })
    }

    /// The arguments of the daemon, from the restart record.
    fn arguments(&self) -> io::Result<Vec<OsString>> {
        let record = self.kept.get(REQUEST);
        let record = record.ok_or_else(|| io::Error::other("there is no restart record"))?;
        Ok(RestartRecord::read(record)?.arguments)
    }

    /// Processes messages until the daemon closes its end of the socket.
    fn process_messages(
        &mut self,
        socket: &OwnedFd,
        child: &mut Child,
        ready: &mut Option<Instant>,
    ) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match message::receive(socket.as_fd(), Some(POLL_INTERVAL)) {
                Ok(Some(message)) => self.handle(message, ready),
                Ok(None) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    let is_trial = ready.is_none() && self.previous.is_some();
                    if is_trial && began.elapsed() > READY_TIMEOUT {
                        self.reason = format!("not ready within {} s", READY_TIMEOUT.as_secs());
                        child.kill()?;
                    }
                    self.release(child.id());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Releases a daemon that is blocked on its own mount while it exits: the main thread is a
    /// zombie, and another thread waits for a reply that will not come.
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
                tracing::warn!("cannot release a daemon that may be blocked on its own mount: {e}");
            }
        }
    }

    fn handle(&mut self, message: Received, ready: &mut Option<Instant>) {
        let name = message.value("FDNAME=").map(str::to_owned);
        if message.value("READY=").is_some() {
            *ready = Some(Instant::now());
            self.previous = None;
            if let Some(mut starter) = self.starter.take() {
                if let Err(e) = leave_terminal(&self.state.join("narfs.log")) {
                    tracing::warn!("narfs.log cannot be written: {e}");
                }
                // The write fails if the starter was interrupted; the mount is kept nevertheless.
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

    /// Whether one of the file systems is still mounted.
    fn is_mounted(&self) -> bool {
        let mut connections = self.kept.iter().filter(|(name, _)| name.starts_with(FUSE));
        connections.any(|(_, device)| fuse::is_connected(device))
    }

    /// Goes back to the previous executable; `false` if there is none.
    fn roll_back(&mut self) -> bool {
        let own = Path::new(OWN_EXECUTABLE);
        let is_other = self.program != own;
        if is_other {
            tracing::error!(
                "{} does not start; going back to the previous program",
                self.program.display()
            );
            self.program = self.previous.take().unwrap_or(own.to_owned());
        }
        is_other
    }

    fn reason_suffix(&self) -> String {
        if self.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", self.reason)
        }
    }
}
