//! Whether the daemon of a mount answers, found out without waiting for a daemon that hangs.
//!
//! A process that waits for a request that a daemon has read cannot be killed, and does not end, before
//! the daemon answers. So a process of its own makes the request; if the daemon hangs, nothing of ours
//! waits for it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

/// Time in which a daemon that works has answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// What statfs(2) says of the mount at `path`; the kernel never answers it from its caches. `None` if
/// there is no answer within five seconds, or no process to ask.
pub(crate) fn statfs(path: &Path) -> Option<Result<(), Errno>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    probe(Mount::At(&path))
}

/// The same of a mount that is open.
pub(crate) fn fstatfs(mount: &OwnedFd) -> Option<Result<(), Errno>> {
    probe(Mount::Open(mount.as_raw_fd()))
}

#[derive(Clone, Copy)]
enum Mount<'m> {
    At(&'m CStr),
    Open(RawFd),
}

fn probe(mount: Mount<'_>) -> Option<Result<(), Errno>> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok()?;
    // SAFETY: until it ends, the child makes only system calls, in memory that was there before.
    match unsafe { libc::fork() } {
        -1 => return None,
        // SAFETY: this is the child.
        0 => unsafe { ask(mount, writer.as_raw_fd()) },
        child => {
            // SAFETY: the child is ours, and ends at once.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        }
    }
    drop(writer);
    let error = answer(&reader)?;
    Some(match error {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error)),
    })
}

/// What the process has written, if it comes in time.
fn answer(reader: &OwnedFd) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok()?;
        match poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&left)) {
            Ok(0) => return None,
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let mut error = [0; 4];
    let read = rustix::io::read(reader, &mut error).ok()?;
    (read == error.len()).then(|| i32::from_ne_bytes(error))
}

/// Makes the request in a child of this process, of which nobody need know the end, and ends.
///
/// # Safety
/// It is called in a process that has just been forked.
unsafe fn ask(mount: Mount<'_>, writer: RawFd) -> ! {
    // SAFETY: the pointers are to a string that ends, to a structure of its type, and to four bytes.
    unsafe {
        if libc::fork() != 0 {
            libc::_exit(0);
        }
        // Nobody must wait for this process to end a pipe or a lock of its parent: it keeps only these two.
        let mount = match mount {
            Mount::Open(mount) => Mount::Open(libc::dup2(libc::dup(mount), 1)),
            at @ Mount::At(_) => {
                libc::close(1);
                at
            }
        };
        libc::dup2(writer, 0);
        if libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0) != 0 {
            // Before Linux 5.9.
            for other in 2..1 << 16 {
                libc::close(other);
            }
        }
        let mut found = std::mem::zeroed::<libc::statfs>();
        let done = match mount {
            Mount::At(path) => libc::statfs(path.as_ptr(), &raw mut found),
            Mount::Open(mount) => libc::fstatfs(mount, &raw mut found),
        };
        let error: i32 = match done {
            0 => 0,
            _ => *libc::__errno_location(),
        };
        libc::write(0, (&raw const error).cast(), size_of::<i32>());
        libc::_exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_answers_is_told_from_what_is_not_there() {
        assert_eq!(statfs(Path::new("/proc")), Some(Ok(())));
        assert_eq!(statfs(Path::new("/absent")), Some(Err(Errno::NOENT)));
        let open = std::fs::File::open("/proc").unwrap();
        assert_eq!(fstatfs(&open.into()), Some(Ok(())));
    }
}
