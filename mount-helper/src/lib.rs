//! What narfs and mount.narfs share: how to mount, the kernel's lists of mounts, how a descriptor is passed
//! over a socket, and the options of a daemon.
//!
//! It knows nothing of what is in a state, since mount.narfs runs with all privileges.

mod error;
pub mod labels;
pub mod mountinfo;
pub mod passing;
pub mod place;
mod probe;
mod superblock;

pub use error::MountError;
pub use superblock::{DetachedMount, NOSYMFOLLOW, NewSuperblock, Superblock, mounted_copy};

/// Options of `mount -o` that a daemon takes when it starts, each with what stands for its value. The table
/// of settings of narfs says what they are; mount.narfs passes them on.
pub const DAEMON_OPTIONS: [&str; 8] = [
    "from-nix-conf[=FILE]",
    "lookup-timeout=SECONDS",
    "contents-timeout=SECONDS",
    "absent-ttl=SECONDS",
    "head-start=MILLISECONDS",
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
/// The directory of the store below the root of the file system.
pub const STORE: &str = "store";
/// The one regular file that every mount has below its root.
pub const OPENED_ONCE: &str = ".file";
/// The directory in a state to which a mount is attached while its store is copied from it.
pub const PRIVATE: &str = "mnt";
