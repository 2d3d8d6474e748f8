//! Notification of watchers of a directory of profiles about a change.
//!
//! Watchers hear of what is done through a mount (inotify(7)), and of nothing that a daemon does. So a
//! command that has changed a profile writes to the pipe that lies beside it, in each mount of the state
//! that it sees, which watchers of the directory hear as `NAME.changed` that was written and closed,
//! wherever they see it. Where profiles are writable, it sets the time of the link `NAME`, too.
//! Invariant: a daemon never does this. It would wait for itself.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

use narfs_mounting::{MountError, PROFILES};

use super::mount;
use crate::fs::CHANGED;

/// Announces in all mounts of `state` in this mount namespace that the profile `name` has changed.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn announce(state: &Path, name: &str) -> Result<(), MountError> {
    for at in mount::mounted_states(state)? {
        let profiles = at.join(PROFILES);
        // Errors are expected: a mount may show only the store, or the profile may be gone.
        for result in [
            write_to(&profiles.join(format!("{name}{CHANGED}"))),
            touch(&profiles.join(name)),
        ] {
            if let Err(e) = result {
                tracing::debug!("{}: {name} was not touched: {e}", at.display());
            }
        }
    }
    Ok(())
}

/// Writes to a pipe that need not have a reader.
fn write_to(pipe: &Path) -> io::Result<()> {
    // Opened for reading and writing, it does not block, and what was written is discarded on
    // close.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(pipe, flags, Mode::empty())?;
    let mode = rustix::fs::fstat(&pipe)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Fifo {
        return Err(io::Error::other("it is not a pipe"));
    }
    if rustix::io::write(&pipe, b"\n") == Err(rustix::io::Errno::AGAIN) {
        // The pipe is full: another process holds it open and does not read.
        rustix::io::read(&pipe, &mut [0; 1])?;
        rustix::io::write(&pipe, b"\n")?;
    }
    Ok(())
}

/// Sets the time of a link; refused where profiles are read-only.
fn touch(link: &Path) -> io::Result<()> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    rustix::fs::utimensat(CWD, link, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
