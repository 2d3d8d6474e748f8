//! Tells whoever watches a directory of profiles that one has changed.
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

/// Tells in all mounts of the state `state` in this mount namespace that the profile `name` has changed.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn announce(state: &Path, name: &str) -> Result<(), MountError> {
    for at in mount::mounted_states(state)? {
        let profiles = at.join(PROFILES);
        // What is refused: where only the store is mounted, or where the profile is no more.
        for told in [
            write_to(&profiles.join(format!("{name}{CHANGED}"))),
            touch(&profiles.join(name)),
        ] {
            if let Err(e) = told {
                tracing::debug!("{}: {name} was not touched: {e}", at.display());
            }
        }
    }
    Ok(())
}

/// Writes to a pipe, which nobody need read.
fn write_to(pipe: &Path) -> io::Result<()> {
    // Open for both, it waits for nobody, and what was written is gone when it is closed.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(pipe, flags, Mode::empty())?;
    let mode = rustix::fs::fstat(&pipe)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Fifo {
        return Err(io::Error::other("it is no pipe"));
    }
    if rustix::io::write(&pipe, b"\n") == Err(rustix::io::Errno::AGAIN) {
        // Somebody holds it open and does not read.
        rustix::io::read(&pipe, &mut [0; 1])?;
        rustix::io::write(&pipe, b"\n")?;
    }
    Ok(())
}

/// Asks for the time of a link to be set, which is refused where it is read-only.
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
