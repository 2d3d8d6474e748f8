//! What narfs and mount.narfs both know of mounts: the kernel's lists of them, and how a descriptor is
//! passed over a socket.
//!
//! Little, and nothing of a state, since mount.narfs runs with all privileges.

pub mod mountinfo;
pub mod passing;

/// The type of the file system, as mount(8) and findmnt(8) show it.
pub const TYPE: &str = "fuse.narfs";
/// The type of writable profiles.
pub const PROFILES_TYPE: &str = "fuse.narfs-profiles";
/// The directory of writable profiles below a mount point.
pub const PROFILES: &str = "var/nix/profiles";
