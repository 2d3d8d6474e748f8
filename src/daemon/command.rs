//! Commands and what they report; the same in a process and over the control socket.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::adopt::Mounting;
use super::channels::{ChannelCommand, ChannelError, ChannelReport, ChannelUpdateReport};
use super::closures::{ClosureError, ClosureReport, ClosureRequest};
use super::collect::{GcReport, GcRequest};
use super::figures::FiguresReport;
use super::keeping::PinReport;
use super::location::LocationError;
use super::profiles::{
    ApplyRequest, GenerationReport, ProfileChangeReport, ProfileDiffReport, ProfileError,
    ProfileReport, ProfileRequest, ProfileSummary,
};
use super::roots::{RootReport, RootsError};
pub use super::source_request::SourceRequest;
use super::upgrade::UpgradeError;
use crate::fetch::{Activity, AddError, Deadlines, FetchError, PrefetchPolicy, Snapshot};
use crate::fuse::{FileHandles, MountError, MountRequest, RequestCounts, SessionError};
use crate::http::Address;
use crate::nix::signature::KeyError;
use crate::nix::store_path::StorePath;
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
        repair: Option<SourceRequest>,
    },
    /// Make closures wholly local, and keep them if asked to.
    Prefetch(PrefetchRequest),
    /// Keep closures no longer.
    Unpin {
        /// Store paths, hashes, or names of packages that are pinned.
        paths: Vec<String>,
    },
    /// Say what is pinned.
    Pins,
    /// Drop contents that can be fetched again.
    Evict {
        /// Stored bytes that may stay.
        to: u64,
    },
    /// Remove what no root reaches.
    Gc(GcRequest),
    /// Say what the roots are.
    Roots,
    /// Make a link to a path, and a root of it.
    AddRoot {
        /// An absolute path.
        link: PathBuf,
        /// A store path or hash.
        path: String,
    },
    /// Record or show what runs touch.
    Trace(TraceCommand),
    /// Show or change a profile.
    Profile(ProfileRequest),
    /// Make profiles what is declared.
    Apply(ApplyRequest),
    /// Show or change the channels.
    Channel(ChannelCommand),
    /// Show or change closure views.
    Closure(ClosureRequest),
    /// Mount at one more place.
    Mount(MountRequest),
    /// Let another daemon go on.
    Upgrade {
        /// The program that it is to be, where a keeper starts it; `None` for the same.
        program: Option<PathBuf>,
    },
    /// Say what the daemon is doing.
    Status,
    /// Say what the daemon counts.
    Figures,
}

/// What to do with a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceCommand {
    /// Begin to record.
    Start {
        /// Its name.
        name: String,
        /// Have the kernel forget what it has cached, of all file systems, so that it asks.
        drop_caches: bool,
    },
    /// Keep what was recorded.
    Stop(String),
    /// Name all traces.
    List,
    /// Say which paths a trace has.
    Show(String),
    /// Forget a trace.
    Delete(String),
}

/// What to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// From where.
    pub sources: SourceRequest,
    /// Store paths or hashes.
    pub paths: Vec<String>,
    /// Whatever the sources list.
    pub all: bool,
    /// With everything that they refer to.
    pub recursive: bool,
    /// NARs unpacked at once; 0 for one a core.
    pub jobs: usize,
}

/// What to make local.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchRequest {
    /// From where.
    pub sources: SourceRequest,
    /// Store paths or hashes, in the order in which they are wanted.
    pub paths: Vec<String>,
    /// A trace whose paths are wanted too, first.
    pub trace: Option<String>,
    /// With everything that the paths refer to. The paths of a trace come alone.
    pub recursive: bool,
    /// Read all of it again afterwards, past every digest, and compare the NAR hashes.
    pub check: bool,
    /// Keep it from now on.
    pub pin: bool,
}

/// What a daemon serves, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeRequest {
    /// Who mounts it, and where.
    pub mounting: Mounting,
    /// Sources for what is looked up and not here, and for commands; none to ask nobody.
    pub sources: SourceRequest,
    /// How long programs wait for what is fetched.
    pub deadlines: Deadlines,
    /// What is fetched ahead.
    pub prefetch: PrefetchPolicy,
    /// Stored bytes above which contents are dropped; `None` for no bound.
    pub budget: Option<u64>,
    /// Whether files can be opened by their handles.
    pub file_handles: FileHandles,
    /// Where to serve HTTP.
    pub listen: Option<Address>,
    /// The socket for container engines, besides what a service manager hands over.
    pub volume_plugin: Option<PathBuf>,
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
    /// Paths whose contents were dropped meanwhile to stay within the budget, those of this copy
    /// among them if nothing else could go.
    pub dropped: u64,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What is fetched on demand, of a daemon with sources.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fetcher: Option<Activity>,
}

/// What [`Command::Prefetch`] reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchReport {
    /// Whether everything that was wanted is here.
    pub complete: bool,
    /// Paths that are here, of those that were wanted with their closures.
    pub paths: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Of the paths, those that were not here before.
    pub fetched: u64,
    /// Bytes that the sources sent for them.
    pub fetched_bytes: u64,
    /// Paths that are not here, or that are damaged.
    pub failures: Vec<Failure>,
}

/// What [`Command::Evict`] reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictReport {
    /// Paths whose contents were dropped, the least recently used first.
    pub paths: Vec<String>,
    /// Stored bytes that this freed.
    pub freed_bytes: u64,
    /// Bytes that the disk got back; the rest of what was freed is used for what comes next.
    pub reclaimed_bytes: u64,
    /// Bytes that are stored now.
    pub stored_bytes: u64,
}

/// A trace, as [`TraceCommand::List`] reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    /// Its name.
    pub name: String,
    /// Its paths so far.
    pub paths: u64,
    /// Whether it is being recorded.
    pub recording: bool,
}

/// What [`Command::Verify`] reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Paths that were read whole and are what they must be.
    pub good: u64,
    /// Their NAR bytes.
    pub nar_bytes: u64,
    /// Paths whose contents are not here, because they were dropped.
    pub dropped: u64,
    /// Paths that were damaged and are good again.
    pub repaired: Vec<String>,
    /// Paths that are damaged.
    pub failures: Vec<Failure>,
}

/// What [`Command::Status`] reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Who starts it again if it ends: `keeper` or `service manager`.
    pub supervisor: Option<String>,
    /// Where programs may change profiles.
    pub writable_profiles: Vec<PathBuf>,
    /// Where it serves HTTP.
    #[serde(default)]
    pub listen: Option<Address>,
    /// The socket at which container engines ask for volumes.
    #[serde(default)]
    pub volume_plugin: Option<PathBuf>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Registered paths.
    pub paths: u64,
    /// Bytes that are stored.
    pub stored_bytes: u64,
    /// Bytes above which contents are dropped.
    pub budget: Option<u64>,
    /// Paths whose contents this daemon has dropped.
    pub evicted: u64,
    /// What is fetched on demand; empty without sources.
    #[serde(flatten)]
    pub activity: Activity,
    /// Copies and prefetches that run now.
    pub commands: Vec<Snapshot>,
    /// Traces that are being recorded.
    pub traces: Vec<TraceReport>,
}

/// What a command reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// See [`PrefetchReport`].
    Prefetch(PrefetchReport),
    /// Those of the paths to unpin that were pinned.
    Unpinned(Vec<String>),
    /// See [`PinReport`].
    Pins(Vec<PinReport>),
    /// See [`EvictReport`].
    Evict(EvictReport),
    /// See [`GcReport`].
    Gc(GcReport),
    /// See [`RootReport`].
    Roots(Vec<RootReport>),
    /// See [`TraceReport`].
    Traces(Vec<TraceReport>),
    /// The store paths of a trace, in order.
    Trace(Vec<String>),
    /// See [`ProfileReport`].
    Profile(ProfileReport),
    /// See [`ProfileSummary`].
    Profiles(Vec<ProfileSummary>),
    /// See [`ProfileChangeReport`].
    ProfileChanges(Vec<ProfileChangeReport>),
    /// See [`GenerationReport`].
    Generations(Vec<GenerationReport>),
    /// See [`ProfileDiffReport`].
    ProfileDiff(ProfileDiffReport),
    /// See [`ChannelReport`].
    Channels(Vec<ChannelReport>),
    /// See [`ChannelUpdateReport`].
    ChannelUpdate(ChannelUpdateReport),
    /// See [`ClosureReport`].
    Closures(Vec<ClosureReport>),
    /// See [`StatusReport`].
    Status(StatusReport),
    /// See [`FiguresReport`].
    Figures(Box<FiguresReport>),
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
    /// Roots that cannot be found or made.
    #[error(transparent)]
    Roots(#[from] RootsError),
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
    /// A mount that the daemon cannot serve.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Whoever asked does not listen any more.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// No threads or sockets to be had.
    #[error("cannot start the network runtime")]
    Runtime(#[source] io::Error),
    /// The command needs what is not given.
    #[error("{0}")]
    Usage(&'static str),
    /// Contents that were dropped, and that cannot be had now.
    #[error("the contents of {path} were dropped to save space, and could not be fetched again")]
    Contents {
        /// The path.
        path: StorePath,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// There are no sources.
    #[error(
        "nobody is asked: the mount is --offline, or from = [] in the configuration; give --from"
    )]
    Nobody,
    /// A trace that is not there, or is.
    #[error("{0}")]
    Trace(String),
    /// A profile.
    #[error(transparent)]
    Profile(Box<ProfileError>),
    /// A channel.
    #[error(transparent)]
    Channel(Box<ChannelError>),
    /// A closure view.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// No other daemon can go on.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The daemon said so.
    #[error("{0}")]
    Remote(String),
    /// Nobody serves the state.
    #[error("no daemon serves the state {}; `narfs mount` starts one", .0.display())]
    NoDaemon(PathBuf),
    /// Its control socket cannot be reached.
    #[error("cannot ask the daemon of the state {}", state.display())]
    NotReached {
        /// The state.
        state: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not say anything.
    #[error("the daemon of the state {} does not answer in time", .0.display())]
    Silent(PathBuf),
    /// It says something else.
    #[error("the daemon gave another report than the one that was asked for")]
    OtherReport,
    /// There is no daemon to ask, and the state belongs to somebody else.
    #[error(
        "no daemon serves the state {}, and user {} may not change it; run the command as root, or name \
         a state of your own with --state", state.display(), rustix::process::geteuid().as_raw()
    )]
    NotAllowed {
        /// The state.
        state: PathBuf,
        /// What was tried.
        #[source]
        source: io::Error,
    },
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
