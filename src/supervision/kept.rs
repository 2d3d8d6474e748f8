//! The names of the descriptors that a supervisor keeps for the next daemon.
//!
//! A service manager shows these names (`systemctl status`, FDNAME), and other versions of narfs
//! know them, so they must not change.

/// Prefix for a FUSE connection; the [`Agreement`](crate::fuse::Agreement) on it follows.
pub const FUSE: &str = "fuse-";
/// Prefix for the connection of writable profiles; the agreement follows.
pub const PROFILES: &str = "profiles-";
/// The lock of the state.
pub const LOCK: &str = "lock";
/// The control socket.
pub const CONTROL: &str = "control";
/// The listening socket of the HTTP server.
pub const HTTP: &str = "http";
/// The volume plugin socket, created by a daemon.
pub const PLUGIN_SOCKET: &str = "plugin-socket";
/// The volume plugin socket, created by a service manager.
pub const PLUGIN: &str = "plugin";
/// The worker socket for Nix, created by a daemon.
pub const NIX_SOCKET: &str = "nix-socket";
/// The worker socket for Nix, created by a service manager.
pub const NIX: &str = "nix";
/// The [`RestartRecord`](super::RestartRecord).
pub const REQUEST: &str = "request";
/// Present while the next daemon should read the configuration again.
pub const REREAD: &str = "reread";
