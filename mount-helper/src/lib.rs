//! What narfs and mount.narfs both know of mounts: the kernel's lists of them, how a descriptor is passed
//! over a socket, and the options of a daemon.
//!
//! Little, and nothing of a state, since mount.narfs runs with all privileges.

pub mod mountinfo;
pub mod passing;

/// Options of `mount -o` that a daemon takes when it starts, each with what stands for its value. The table
/// of settings of narfs says what they are; mount.narfs passes them on.
pub const DAEMON_OPTIONS: [&str; 6] = [
    "lookup-timeout=SECONDS",
    "contents-timeout=SECONDS",
    "absent-ttl=SECONDS",
    "prefetch=none|closure",
    "budget=SIZE",
    "file-handles",
];

/// The type of the file system, as mount(8) and findmnt(8) show it.
pub const TYPE: &str = "fuse.narfs";
/// The type of writable profiles.
pub const PROFILES_TYPE: &str = "fuse.narfs-profiles";
/// The directory of writable profiles below a mount point.
pub const PROFILES: &str = "var/nix/profiles";
