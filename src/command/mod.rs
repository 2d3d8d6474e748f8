//! What is asked of a state, and what is told: requests, reports and errors, the same in a process
//! and over the control socket. No deeds.

mod channels;
mod closures;
mod collection;
mod contents;
mod debug;
mod exposition;
mod failure;
mod figures;
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
pub use output::{NoOutput, Output};
pub use paths::{EntryReport, KindReport, PathReport, StateReport, VerifyReport};
pub use profiles::{
    ApplyRequest, DeclaredPackage, DeclaredProfile, DeclaredTarget, ElementReport,
    GenerationReport, ProfileAction, ProfileChangeReport, ProfileDiffReport, ProfileOutcome,
    ProfileReport, ProfileRequest, ProfileSummary,
};
pub use source_request::{KeyError, SourceRequest};
pub use status::StatusReport;
pub use traces::{TraceCommand, TraceReport};

use crate::fuse::MountRequest;

/// What a user asks of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
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
    /// Show a record.
    Debug(DebugRequest),
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

/// What is reported of a request.
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
    /// See [`DebugReport`].
    Debug(DebugReport),
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
