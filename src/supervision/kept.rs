//! The names of the descriptors that a supervisor keeps for the next daemon.
//!
//! A service manager shows them (`systemctl status`, FDNAME), and programs of other versions know
//! them: none may change.

/// A connection to the kernel; after this the [`Agreement`](crate::fuse::Agreement) on it.
pub const FUSE: &str = "fuse-";
/// The connection of writable profiles; after this the agreement.
pub const PROFILES: &str = "profiles-";
/// The ownership of the state.
pub const LOCK: &str = "lock";
/// The control socket.
pub const CONTROL: &str = "control";
/// The socket at which HTTP is served.
pub const HTTP: &str = "http";
/// The socket for container engines, made by a daemon.
pub const PLUGIN_SOCKET: &str = "plugin-socket";
/// The socket for container engines, made by a service manager.
pub const PLUGIN: &str = "plugin";
/// What is served, as [`Held`](super::Held).
pub const REQUEST: &str = "request";
/// Kept while the next daemon is to read the configuration again.
pub const REREAD: &str = "reread";
