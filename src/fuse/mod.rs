//! The adapter between the kernel and [`crate::fs`]. It translates and decides nothing.
//!
//! Invariant: everything within a store path gets unlimited validity, so that a warm file system
//! costs no request; operations that have no effect here (OPEN, FLUSH, GETXATTR, …) are answered
//! with ENOSYS once, after which the kernel no longer sends them.

mod adapter;
mod announcement;
mod counters;
mod entries;
mod examination;
mod file_handles;
mod handshake;
mod invalidation;
mod kernel_caches;
mod mount;
mod mountinfo;
mod notices;
mod removed;
mod reply;
mod serving;
mod session;
mod writable;

pub use announcement::announce;
pub use counters::{Counters, RequestCounts, RequestTimes};
pub use examination::{dead_mounts, mount_points, parent_mount, unmount_dead};
pub use file_handles::FileHandles;
pub use handshake::{Agreement, is_connected, release};
pub use mount::{
    MountRequest, Subtree, label, mount_again, mounted_states, mountpoint, mounts_of_superblock,
    mounts_of_whole, unmount,
};
pub use narfs_mounting::MountError;
pub use serving::Serving;
pub use session::{Session, SessionError};
pub use writable::ProfilesSession;
