//! Another keeper in the place of one that was killed.
//!
//! A daemon has descriptors of all that its keeper holds. Once the keeper is gone it starts another one,
//! gives it these, and ends, so that a daemon of the new keeper goes on: who looks after whom is as before.
//! Invariant: a daemon ends for this only after the new keeper has said that it holds everything.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::FdFlags;

use super::message::{self, Message};
use super::supervisor::{Supervisor, passed};

use crate::sync;

/// Environment variable with the number of the socket to the daemon whose keeper was killed.
const BEFORE: &str = "NARFS_BEFORE_FD";
/// The new keeper holds everything within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between a keeper that could not be started and the next.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether the daemon before is gone.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Starts another keeper, by the command `keeper`, when that of this daemon is gone, if it has one, and
/// has the daemon `leave` then.
///
/// # Errors
/// There is no thread for it.
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
        tracing::warn!("the keeper is gone; another one takes its place");
        loop {
            match supervisor.with_given(|given| begin(keeper(), given)) {
                Ok(()) => leave(),
                Err(e) => tracing::error!("nobody looks after this daemon: no other keeper: {e}"),
            }
            std::thread::sleep(PAUSE);
        }
    };
    sync::spawn("narfs-watch", watch).map(drop)
}

/// Starts a keeper for the next daemon, which is what this process is, and gives it what is kept.
fn begin(mut command: Command, given: &BTreeMap<String, OwnedFd>) -> io::Result<()> {
    let (ours, theirs) = message::pair()?;
    command.env(BEFORE, theirs.as_raw_fd().to_string());
    // Nothing that needs fork(2): it would have the kernel copy the pages anew into which requests are just being
    // read, and whoever is read from while this process ends meanwhile gets EIO.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut child = command.spawn()?;
    drop(theirs);
    let given = message::send_kept(ours.as_fd(), given.iter());
    let answer = given.and_then(|()| message::receive(ours.as_fd(), Some(PATIENCE)));
    match answer {
        Ok(Some(answer)) if answer.value("READY=").is_some() => Ok(()),
        answer => {
            child.kill()?;
            child.wait()?;
            Err(answer.err().unwrap_or_else(|| io::Error::other("it ended")))
        }
    }
}

/// What the daemon has that this process was started by, as its new keeper, once that daemon is gone: two must not
/// serve at once.
///
/// # Errors
/// It did not give everything.
pub fn inherit() -> io::Result<BTreeMap<String, OwnedFd>> {
    let before = rustix::process::getppid();
    let Some(socket) = passed(BEFORE) else {
        return Ok(BTreeMap::new());
    };
    let kept = message::receive_kept(socket.as_fd())?;
    Message::new("READY=1", None).send(socket.as_fd())?;
    while rustix::process::getppid() == before {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(kept.into_iter().collect())
}
