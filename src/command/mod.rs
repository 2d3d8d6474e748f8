//! Requests to a state, reports and errors. They are the same within a process and over the control
//! socket. This layer has data types only.

mod channels;
mod closures;
mod collection;
mod contents;
mod debug;
mod exposition;
mod failure;
mod figures;
mod forget;
mod keys;
mod nix_db;
mod output;
mod paths;
mod profiles;
mod source_request;
mod status;
mod traces;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use channels::{ChannelCommand, ChannelReport, ChannelUpdateReport};
pub use closures::{ClosureReport, ClosureRequest, UnknownPath};
pub use collection::{GcReport, GcRequest, OldGeneration, OldGenerations, RootKind, RootReport};
pub use contents::{
    CopyReport, CopyRequest, EvictReport, PinReport, PrefetchReport, PrefetchRequest,
};
pub use debug::{
    ChunkEntryReport, ChunkReport, DebugReport, DebugRequest, MaskReport, NodeReport,
    PathRecordReport, ReferenceReport, TreeReport,
};
pub use failure::{ErrorKind, Failure, RequestError, chain};
pub use figures::{FiguresReport, ProcessFigures};
pub use forget::{ForgetReport, ForgetRequest};
pub use keys::{ForgetKeyReport, ForgetKeyRequest};
pub use nix_db::{NixDbReport, NixDbRequest};
pub use output::{NoOutput, Output};
pub use paths::{EntryReport, KindReport, PathReport, RebuiltReport, StateReport, VerifyReport};
pub use profiles::{
    ApplyRequest, DeclaredPackage, DeclaredProfile, DeclaredTarget, ElementReport,
    GenerationReport, ProfileAction, ProfileChangeReport, ProfileDiffReport, ProfileOutcome,
    ProfileReport, ProfileRequest, ProfileSummary,
};
pub use source_request::{KeyError, SourceRequest};
pub use status::StatusReport;
pub use traces::{TraceCommand, TraceReport};

use crate::fuse::MountRequest;

/// A request to a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Fetch closures from binary caches.
    Copy(CopyRequest),
    /// Add a local tree.
    Add {
        /// An absolute path.
        from: PathBuf,
        /// Name in the store; the last component of `from` by default.
        name: Option<String>,
    },
    /// Show path infos.
    PathInfo {
        /// Store paths or hashes; empty for all.
        paths: Vec<String>,
        /// Include the closures.
        closure: bool,
        /// Include closure sizes.
        sizes: bool,
    },
    /// List a file or directory within a store path.
    Ls {
        /// A store path, optionally followed by a path within it.
        path: String,
        /// Descend into directories.
        recursive: bool,
    },
    /// Read a file.
    Cat {
        /// A path within a store path.
        path: String,
    },
    /// Write the NAR of a store path, or of a file or directory within it.
    Dump {
        /// A store path, optionally followed by a path within it.
        path: String,
    },
    /// Compute statistics.
    Stats {
        /// Paths to report individually.
        paths: Vec<String>,
    },
    /// Read everything, and check digests and NAR hashes.
    Verify {
        /// Store paths or hashes; empty for all.
        paths: Vec<String>,
        /// Sources for damaged contents; `None` only reports damage.
        repair: Option<SourceRequest>,
    },
    /// Show a record of the state, decoded.
    Debug(DebugRequest),
    /// Fetch closures completely, and pin them if requested.
    Prefetch(PrefetchRequest),
    Unpin {
        /// Store paths, hashes, or names of pinned packages.
        paths: Vec<String>,
    },
    Pins,
    /// Drop contents that can be fetched again.
    Evict {
        /// Stored bytes to keep at most.
        to: u64,
    },
    /// Remove what no root reaches.
    Gc(GcRequest),
    Roots,
    /// Create a symlink to a store path, and register it as a root.
    AddRoot {
        /// An absolute path.
        link: PathBuf,
        /// A store path or hash.
        path: String,
    },
    /// Record or show traces.
    Trace(TraceCommand),
    /// Show or change a profile.
    Profile(ProfileRequest),
    /// Bring profiles into the declared state.
    Apply(ApplyRequest),
    /// Show or change the channels.
    Channel(ChannelCommand),
    /// Show or change closure views.
    Closure(ClosureRequest),
    /// Take back what a key alone has vouched for.
    ForgetKey(ForgetKeyRequest),
    /// Forget paths that no source vouches for any more.
    Forget(ForgetRequest),
    /// Write registrations for Nix's own database.
    NixDb(NixDbRequest),
    /// Mount at one more mount point.
    Mount(MountRequest),
    /// Hand over to a new daemon.
    Upgrade {
        /// Executable of the new daemon, where a keeper starts it; `None` for the same executable.
        program: Option<PathBuf>,
    },
    Status,
    /// Report the metrics of the daemon.
    Figures,
}

impl Request {
    /// Whether a request whose daemon has ended may be done once more: nothing of it is told or done twice.
    pub fn can_be_repeated(&self) -> bool {
        matches!(
            self,
            Self::Copy(_)
                | Self::PathInfo { .. }
                | Self::Stats { .. }
                | Self::Verify { .. }
                | Self::Prefetch(_)
                | Self::Pins
                | Self::Evict { .. }
                | Self::Gc(_)
                | Self::Roots
        )
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    Done,
    Copy(CopyReport),
    /// The store path that was added.
    Added(String),
    Paths(Vec<PathReport>),
    Entries(Vec<EntryReport>),
    Stats(StateReport),
    Verify(VerifyReport),
    Debug(DebugReport),
    Prefetch(PrefetchReport),
    /// The paths that were pinned before.
    Unpinned(Vec<String>),
    Pins(Vec<PinReport>),
    Evict(EvictReport),
    Gc(GcReport),
    Roots(Vec<RootReport>),
    Traces(Vec<TraceReport>),
    /// The store paths of a trace, in order.
    Trace(Vec<String>),
    Profile(ProfileReport),
    Profiles(Vec<ProfileSummary>),
    ProfileChanges(Vec<ProfileChangeReport>),
    Generations(Vec<GenerationReport>),
    ProfileDiff(ProfileDiffReport),
    Channels(Vec<ChannelReport>),
    ChannelUpdate(ChannelUpdateReport),
    Closures(Vec<ClosureReport>),
    ForgotKey(ForgetKeyReport),
    Forgot(ForgetReport),
    NixDb(NixDbReport),
    Status(StatusReport),
    Figures(Box<FiguresReport>),
}
