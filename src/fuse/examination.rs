//! What can be seen of mounts from outside: dead ones, and who sees the others.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mount::{self, MountError};
use super::mountinfo::{mounts, unescape};

/// Where in this mount namespace daemons that are gone have left mounts, the last one first.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn dead_mounts() -> Result<Vec<PathBuf>, MountError> {
    let dead = mounts()?.into_iter().filter(|m| m.is_dead());
    let mut dead: Vec<_> = dead.map(|m| m.at).collect();
    dead.reverse();
    Ok(dead)
}

/// Everything that something is mounted at in this mount namespace.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mount_points() -> Result<Vec<PathBuf>, MountError> {
    Ok(mounts()?.into_iter().map(|m| m.at).collect())
}

/// Takes the dead mount at `at` away, even while programs use it.
///
/// # Errors
/// It cannot be unmounted.
pub fn take_dead_away(at: &Path) -> Result<(), MountError> {
    mount::detach(at)
}

/// The mount point that the mount at `at` lies on, and whether mounts made there are passed on to
/// other mount namespaces (mount_namespaces(7)); `None` if nothing is mounted at `at`.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn parent_mount(at: &Path) -> io::Result<Option<(PathBuf, bool)>> {
    let text = fs::read("/proc/thread-self/mountinfo")?;
    Ok(parent_in(&text, at))
}

fn parent_in(mountinfo: &[u8], at: &Path) -> Option<(PathBuf, bool)> {
    let lines = mountinfo.split(|b| *b == b'\n');
    let lines: Vec<Vec<&[u8]>> = lines.map(|l| l.split(|b| *b == b' ').collect()).collect();
    let point = |line: &Vec<&[u8]>| {
        let at = line.get(4).map(|f| unescape(f))?;
        Some(PathBuf::from(OsStr::from_bytes(&at)))
    };
    let mount = lines
        .iter()
        .rev()
        .find(|l| point(l).as_deref() == Some(at))?;
    let parent = mount.get(1)?;
    let parent = lines.iter().find(|l| l.first() == Some(parent))?;
    let tags = parent.iter().skip(6).take_while(|f| **f != b"-");
    let is_shared = tags.into_iter().any(|f| f.starts_with(b"shared:"));
    Some((point(parent)?, is_shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_mount_says_who_sees_it() {
        let text = b"\
            20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            30 20 0:40 / /nix ro shared:7 - fuse.narfs /state ro\n\
            40 20 8:2 / /a\\040b rw,relatime master:3 - ext4 /dev/sdb1 rw\n\
            50 40 0:41 / /a\\040b/nix ro - fuse.narfs /state ro\n";
        let parent = |at| parent_in(text, Path::new(at));
        assert_eq!(parent("/nix"), Some(("/".into(), true)));
        assert_eq!(parent("/a b/nix"), Some(("/a b".into(), false)));
        assert_eq!(parent("/elsewhere"), None);
    }
}
