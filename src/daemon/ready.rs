//! How a daemon tells whoever started it that it is ready, or why it is not.
//!
//! In the background: a pipe whose number stands in the environment. Under a service manager:
//! `NOTIFY_SOCKET`, as sd_notify(3) says.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Environment variable with the number of the pipe.
const PIPE: &str = "NARFS_READY_FD";

/// Starts `command` in a session of its own and waits until it says that it is ready.
///
/// # Errors
/// It could not be started, or the reason that it gave for not being ready.
pub fn spawn_and_wait(mut command: Command) -> io::Result<()> {
    let (mut reader, writer) = io::pipe()?;
    let fd = writer.as_raw_fd();
    command.env(PIPE, fd.to_string()).stdin(Stdio::null());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // Of the starter's descriptors only the pipe goes along: a lock that a script holds on
            // another would be held as long as the daemon lives. Linux before 5.11 cannot do that.
            let (first, last) = (libc::STDERR_FILENO + 1, libc::c_uint::MAX);
            libc::syscall(
                libc::SYS_close_range,
                first,
                last,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            // The terminal's signals do not either.
            if libc::setsid() < 0 || libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
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

/// Whether this process was started by [`spawn_and_wait`].
pub fn in_background() -> bool {
    std::env::var_os(PIPE).is_some()
}

/// The starter's end of the pipe; the first time that it is asked for.
fn pipe() -> Option<File> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let fd: i32 = std::env::var(PIPE).ok()?.parse().ok()?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the starter made this descriptor for us, nobody else here knows it, and it is taken
    // once.
    Some(unsafe { File::from_raw_fd(fd) })
}

/// Tells whoever waits that the daemon serves. In the background, the terminal and the starter's
/// directory are let go: what is logged later goes to `log`.
pub(super) fn ready(log: &Path) -> io::Result<()> {
    if in_background() {
        let log = File::options().create(true).append(true).open(log)?;
        let null = File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&log)?;
        rustix::stdio::dup2_stderr(&log)?;
        std::env::set_current_dir("/")?;
        if let Some(mut pipe) = pipe() {
            // A starter that was interrupted does not keep us from serving.
            let _ = pipe.write_all(b"ready");
        }
    }
    notify("READY=1");
    Ok(())
}

/// Tells whoever waits why the daemon does not serve; `false` if nobody waits.
pub(super) fn failed(reason: &str) -> bool {
    pipe().is_some_and(|mut pipe| pipe.write_all(reason.as_bytes()).is_ok())
}

/// Tells the service manager, if there is one.
pub(super) fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.to_string_lossy();
    let address = match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&*name),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
    if let Err(e) = sent {
        tracing::warn!("the service manager could not be told {state}: {e}");
    }
}
