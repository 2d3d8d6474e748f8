//! The kernel's list of mounts.
//!
//! No request is sent to a file system, except to determine whether a narfs mount is dead.

use std::path::Path;

use narfs_mounting::{PROFILES_TYPE, TYPE, mountinfo};

use super::mount::MountError;

/// A mount in the list.
pub(super) type Mounted = mountinfo::Mounted<'static>;

/// Whether this is a narfs mount whose daemon is gone. Attributes may come from the kernel's cache
/// even then; statfs is never cached.
pub(super) fn is_dead(mounted: &Mounted) -> bool {
    use rustix::io::Errno;
    [TYPE, PROFILES_TYPE].contains(&&*mounted.kind)
        && rustix::fs::statfs(&mounted.at)
            .is_err_and(|e| matches!(e, Errno::NOTCONN | Errno::CONNABORTED))
}

/// The visible mount at `at`: the last one, if there are several.
pub(super) fn top_mount(at: &Path) -> Result<Option<Mounted>, MountError> {
    mountinfo::top_mount(at).map_err(not_read)
}

/// The mounts of this mount namespace.
pub(super) fn mounts() -> Result<Vec<Mounted>, MountError> {
    mountinfo::mounts().map_err(not_read)
}

fn not_read(source: std::io::Error) -> MountError {
    MountError::System {
        what: "read",
        at: mountinfo::OURS.into(),
        hint: "",
        source,
    }
}
