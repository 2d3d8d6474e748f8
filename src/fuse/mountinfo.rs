//! What the kernel's list of mounts shows in this mount namespace.

use std::path::Path;

use narfs_mounting::{MountError, mountinfo};

/// A mount in the list.
pub(super) type Mounted = mountinfo::Mounted<'static>;

/// What is visible at `at`: of several mounts, the last.
pub(super) fn top_mount(at: &Path) -> Result<Option<Mounted>, MountError> {
    mountinfo::top_mount(at).map_err(MountError::not_listed)
}

/// All mounts.
pub(super) fn mounts() -> Result<Vec<Mounted>, MountError> {
    mountinfo::mounts().map_err(MountError::not_listed)
}
