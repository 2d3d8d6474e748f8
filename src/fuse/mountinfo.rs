//! What is mounted, as the kernel's list of mounts tells.
//!
//! Nothing is asked of a file system but whether a narfs is dead.

use std::path::Path;

use narfs_mounting::{PROFILES_TYPE, TYPE, mountinfo};

use super::mount::MountError;

/// A mount of the list.
pub(super) type Mounted = mountinfo::Mounted<'static>;

/// Whether it is a narfs whose daemon is gone. Attributes may come from the kernel's cache even
/// then; what statfs says never does.
pub(super) fn is_dead(mounted: &Mounted) -> bool {
    use rustix::io::Errno;
    [TYPE, PROFILES_TYPE].contains(&&*mounted.kind)
        && rustix::fs::statfs(&mounted.at)
            .is_err_and(|e| matches!(e, Errno::NOTCONN | Errno::CONNABORTED))
}

/// What is to be seen at `at`: of several mounts, the last.
pub(super) fn top_mount(at: &Path) -> Result<Option<Mounted>, MountError> {
    mountinfo::top_mount(at).map_err(not_read)
}

/// What is mounted in this mount namespace.
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
