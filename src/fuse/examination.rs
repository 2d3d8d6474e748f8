//! Inspection of mounts from outside: dead ones, and the propagation of others.

use std::io;
use std::path::{Path, PathBuf};

use narfs_mounting::mountinfo::{self, Mounted};
use narfs_mounting::{MountError, place};

use super::mountinfo::mounts;

/// Dead mounts in this mount namespace, whose daemons are gone; the last one first.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn dead_mounts() -> Result<Vec<PathBuf>, MountError> {
    let dead = mounts()?.into_iter().filter(|m| m.is_dead());
    let mut dead: Vec<_> = dead.map(|m| m.at).collect();
    dead.reverse();
    Ok(dead)
}

/// All mount points in this mount namespace.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mount_points() -> Result<Vec<PathBuf>, MountError> {
    Ok(mounts()?.into_iter().map(|m| m.at).collect())
}

/// Unmounts the dead mount at `at`, even while programs use it.
///
/// # Errors
/// It cannot be unmounted.
pub fn unmount_dead(at: &Path) -> Result<(), MountError> {
    place::detach(at)
}

/// The mount point of the parent mount of the mount at `at`, and whether the parent mount is
/// shared, so that mounts propagate to other mount namespaces (mount_namespaces(7)); `None` if
/// nothing is mounted at `at`.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn parent_mount(at: &Path) -> io::Result<Option<(PathBuf, bool)>> {
    Ok(parent_in(mountinfo::mounts()?, at))
}

fn parent_in(mounts: Vec<Mounted<'_>>, at: &Path) -> Option<(PathBuf, bool)> {
    let parent = mounts.iter().rev().find(|m| m.at == at)?.parent;
    let parent = mounts.into_iter().find(|m| m.number == parent)?;
    Some((parent.at, parent.is_shared))
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
        let parent = |at| parent_in(mountinfo::parse(text).collect(), Path::new(at));
        assert_eq!(parent("/nix"), Some(("/".into(), true)));
        assert_eq!(parent("/a b/nix"), Some(("/a b".into(), false)));
        assert_eq!(parent("/elsewhere"), None);
    }
}
