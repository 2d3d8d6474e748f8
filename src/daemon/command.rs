//! Commands and what they report; the same in a process and over the control socket.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::location::LocationError;
use crate::fetch::{AddError, Deadlines, FetchError, Snapshot};
use crate::fuse::{MountError, MountRequest, RequestCounts};
use crate::nix::signature::KeyError;
use crate::store::{PathStatistics, Statistics, StoreError};
use crate::tree::DumpError;

/// What a user asks of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Bring closures from binary caches.
    Copy(CopyRequest),
    /// Add a local tree.
    Add {
        /// An absolute path.
        from: PathBuf,
        /// The name in the store; by default the last part of `from`.
        name: Option<String>,
    },
    /// Say what is registered.
    PathInfo {
        /// Store paths or hashes; empty for all.
        paths: Vec<String>,
        /// With everything that they refer to.
        closure: bool,
        /// With the size of each one's closure.
        sizes: bool,
    },
    /// List what is at a place in a path.
    Ls {
        /// A store path, with or without a place in it.
        path: String,
        /// Directories with all below them.
        recursive: bool,
    },
    /// Give the contents of a file.
    Cat {
        /// A place in a store path.
        path: String,
    },
    /// Give the NAR of a path, or of a place in it.
    Dump {
        /// A store path, with or without a place in it.
        path: String,
    },
    /// Count.
    Stats {
        /// Paths to count each for itself.
        paths: Vec<String>,
    },
    /// Read everything and compare it with digests and NAR hashes.
    Verify {
        /// Store paths or hashes; empty for all.
        paths: Vec<String>,
        /// Where to fetch what is damaged; `None` only reports.
        repair: Option<CopyRequest>,
    },
    /// Mount at one more place.
    Mount(MountRequest),
    /// Say what the daemon is doing.
    Status,
}

/// What to copy, from where, and whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// Sources; empty for cache.nixos.org.
    pub from: Vec<String>,
    /// Store paths or hashes.
    pub paths: Vec<String>,
    /// Whatever the sources list.
    pub all: bool,
    /// With everything that they refer to.
    pub recursive: bool,
    /// Public keys to trust besides that of cache.nixos.org.
    pub trusted_public_keys: Vec<String>,
    /// Whether signatures are needed.
    pub require_signatures: bool,
    /// NARs unpacked at once; 0 for one a core.
    pub jobs: usize,
    /// How long programs wait for what a mount fetches.
    pub deadlines: Deadlines,
}

/// A path that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Store path or hash.
    pub path: String,
    /// What is wrong, and what to do.
    pub error: String,
}

/// What [`Command::Copy`] reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Paths that are new.
    pub copied: u64,
    /// Paths that were there before.
    pub already: u64,
    /// NAR bytes of the new paths.
    pub nar_bytes: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// Paths that could not be copied.
    pub failures: Vec<Failure>,
}

/// What [`Command::PathInfo`] reports of each path; named as `nix path-info --json` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// The store path.
    pub path: String,
    /// Hash of its NAR, SRI.
    pub nar_hash: String,
    /// Length of its NAR, in bytes.
    pub nar_size: u64,
    /// NAR bytes of it and all that it refers to, as far as that is here; if asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closure_size: Option<u64>,
    /// What it refers to, sorted.
    pub references: Vec<String>,
    /// The derivation that it came from.
    pub deriver: Option<String>,
    /// Signatures.
    pub signatures: Vec<String>,
    /// Content address.
    pub ca: Option<String>,
    /// When it was registered, in seconds since 1970.
    pub registration_time: u64,
}

/// What kind of file an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KindReport {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A regular file with x bits.
    Executable,
    /// A symbolic link.
    Symlink,
}

/// What [`Command::Ls`] reports of each entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReport {
    /// Place below the one that was asked for; empty for that itself.
    pub name: String,
    /// What it is.
    pub kind: KindReport,
    /// Bytes of contents or target.
    pub size: u64,
    /// Target of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What [`Command::Stats`] reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// Sums over the state.
    #[serde(flatten)]
    pub state: Statistics,
    /// Each path that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub each: Vec<PathStatistics>,
    /// Requests of the kernel, of a running daemon.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fuse: Option<RequestCounts>,
    /// The counts of `fuse` by operation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requests: Option<std::collections::BTreeMap<String, u64>>,
    /// Bytes that this daemon fetched from sources.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fetched_bytes: Option<u64>,
}

/// What [`Command::Verify`] reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Paths that were read whole and are what they must be.
    pub good: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Paths that were damaged and are good again.
    pub repaired: Vec<String>,
    /// Paths that are damaged.
    pub failures: Vec<Failure>,
}

/// What [`Command::Status`] reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the serving program.
    pub version: String,
    /// The serving process.
    pub pid: u32,
    /// The state directory.
    pub state: PathBuf,
    /// Where it is mounted, in the daemon's mount namespace.
    pub mountpoints: Vec<PathBuf>,
    /// The first of these.
    pub mountpoint: Option<PathBuf>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Registered paths.
    pub paths: u64,
    /// Copies that run now.
    pub fetches: Vec<Snapshot>,
}

/// What a command reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Nothing to say.
    Done,
    /// See [`CopyReport`].
    Copy(CopyReport),
    /// The store path that was added.
    Added(String),
    /// See [`PathReport`].
    Paths(Vec<PathReport>),
    /// See [`EntryReport`].
    Entries(Vec<EntryReport>),
    /// See [`StateReport`].
    Stats(StateReport),
    /// See [`VerifyReport`].
    Verify(VerifyReport),
    /// See [`StatusReport`].
    Status(StatusReport),
}

/// Where a running command puts what is not its report.
pub trait Output {
    /// Takes bytes of a file or a NAR.
    ///
    /// # Errors
    /// Nobody reads them.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes how far a copy is.
    ///
    /// # Errors
    /// Nobody listens any more; the command stops.
    fn progress(&mut self, snapshot: &Snapshot) -> io::Result<()>;
}

/// Why a command failed as a whole.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sources.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A path that is not here, or not a path.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A local tree.
    #[error("cannot add {}", from.display())]
    Add {
        /// What was to be added.
        from: PathBuf,
        /// Why.
        #[source]
        source: AddError,
    },
    /// A key.
    #[error("--trusted-public-key {text:?}")]
    Key {
        /// As it was given.
        text: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A NAR that cannot be given out.
    #[error(transparent)]
    Dump(#[from] DumpError<StoreError>),
    /// Mounting.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Whoever asked does not listen any more.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// No threads or sockets to be had.
    #[error("cannot start the network runtime")]
    Runtime(#[source] io::Error),
    /// The command needs what is not given.
    #[error("{0}")]
    Usage(&'static str),
    /// The daemon said so.
    #[error("{0}")]
    Remote(String),
    /// The daemon went away in the middle.
    #[error("the daemon that owns the state {} broke off", state.display())]
    BrokenOff {
        /// The state.
        state: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
