//! Replacement of a keeper that was killed.
//!
//! A daemon has duplicates of all descriptors that its keeper holds. When the keeper dies, the
//! daemon starts a new one, sends it the descriptors, and exits, so that a daemon started by the
//! new keeper takes over. Invariant: the daemon exits for this only after the new keeper has
//! confirmed that it holds everything.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::FdFlags;

use super::message::{self, Message};
use super::supervisor::{Supervisor, inherited};

use crate::sync;

/// Environment variable with the descriptor number of the socket to the daemon whose keeper was
/// killed.
const PREDECESSOR: &str = "NARFS_BEFORE_FD";
/// Timeout for the confirmation of the new keeper.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the next attempt to start a keeper.
const PAUSE: Duration = Duration::from_secs(5);
/// Interval of the check whether the previous daemon has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// When the keeper of this daemon is gone, starts a new one with the command `keeper`, and then
/// calls `leave`. Does nothing without a keeper.
///
/// # Errors
/// The thread cannot be started.
pub fn watch(
    supervisor: &Arc<Supervisor>,
    keeper: impl Fn() -> Command + Send + 'static,
    leave: impl Fn() + Send + 'static,
) -> io::Result<()> {
    if !supervisor.is_keeper() {
        return Ok(());
    }
    let supervisor = supervisor.clone();
    let watch = move || {
        supervisor.wait_until_gone();
        tracing::warn!("the keeper is gone; starting a new one");
        loop {
            match supervisor.with_duplicates(|given| start_keeper(keeper(), given)) {
                Ok(()) => leave(),
                Err(e) => {
                    tracing::error!("cannot start a new keeper; this daemon is not supervised: {e}")
                }
            }
            std::thread::sleep(PAUSE);
        }
    };
    sync::spawn("narfs-watch", watch).map(drop)
}

/// Starts a keeper, and sends it the kept descriptors.
fn start_keeper(mut command: Command, given: &BTreeMap<String, OwnedFd>) -> io::Result<()> {
    let (ours, theirs) = message::pair()?;
    command.env(PREDECESSOR, theirs.as_raw_fd().to_string());
    // No fork(2): it would make the kernel copy the pages into which requests are just being read,
    // and a reader whose page is copied while this process exits gets EIO.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut child = command.spawn()?;
    drop(theirs);
    let given = message::send_kept(ours.as_fd(), given.iter());
    let answer = given.and_then(|()| message::receive(ours.as_fd(), Some(READY_TIMEOUT)));
    match answer {
        Ok(Some(answer)) if answer.value("READY=").is_some() => Ok(()),
        answer => {
            child.kill()?;
            child.wait()?;
            Err(answer.err().unwrap_or_else(|| io::Error::other("it ended")))
        }
    }
}

/// Receives, in a new keeper, the descriptors of the daemon that started it, and waits until that
/// daemon has exited: two daemons must not serve the mount at once.
///
/// # Errors
/// The daemon did not send everything.
pub fn inherit() -> io::Result<BTreeMap<String, OwnedFd>> {
    let predecessor = rustix::process::getppid();
    let Some(socket) = inherited(PREDECESSOR) else {
        return Ok(BTreeMap::new());
    };
    let kept = message::receive_kept(socket.as_fd())?;
    Message::new("READY=1", None).send(socket.as_fd())?;
    while rustix::process::getppid() == predecessor {
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(kept.into_iter().collect())
}
