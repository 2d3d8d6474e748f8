//! From a source to the state: narinfo → trust → unpack → verify → publish.
//!
//! Invariant: nothing is published whose NarHash and NarSize were not checked over the whole
//! NAR, nor (unless the user gave up on signatures) without a signature by a trusted key or a
//! content address that its contents fulfil; and of a closure nothing is published before its
//! references.

mod activity;
mod availability;
mod budget;
mod closure;
mod copy;
mod group;
mod lazy;
mod outcomes;
mod plan;
mod prefetch;
mod priorities;
mod rate_limit;
mod receive;
mod requester;
mod sources;
mod transfer;

use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

pub use activity::{Activity, FlightReport};
pub use availability::{SourceReport, SourceState};
pub use budget::{Budget, Keep};
pub use copy::{CopyFailure, CopyOptions, CopySummary, copy, repair};
pub use lazy::{Deadlines, FetchOptions, Fetcher, Need, PrefetchPolicy};
pub use outcomes::{FetcherTimes, OutcomeReport};
pub use plan::Wanted;
pub use prefetch::Prefetched;
pub use receive::{AddError, ReceiveError, Received, add};
pub use requester::Requester;
pub use sources::{AskedSource, CACHE_NIXOS_ORG, Source, Sources, Trust, ask_source};

use crate::nix::cache_info::CacheInfoError;
use crate::nix::hash::NarHash;
use crate::nix::narinfo::{Distrust, NarInfoError};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::StoreError;
use crate::substituter::SourceError;

/// Why a path, or a source, could not be used.
#[derive(Debug, Error)]
pub enum FetchError {
    /// What a try gave that others waited for as well.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<FetchError>),
    /// A source does not answer, or not in a way that makes sense.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A source is no binary cache.
    #[error("{url} is not a binary cache: it has no nix-cache-info")]
    NoBinaryCache { url: String },
    /// Its `nix-cache-info` is malformed.
    #[error("{url}: nix-cache-info is malformed")]
    CacheInfo {
        url: String,
        #[source]
        source: CacheInfoError,
    },
    /// It is for another store directory.
    #[error("binary cache '{url}' is for Nix stores with prefix '{theirs}', not '{ours}'")]
    OtherStoreDir {
        url: String,
        /// The source's store directory.
        theirs: String,
        /// The state's.
        ours: String,
    },
    /// A narinfo is malformed or for another path.
    #[error("{url}: the narinfo of {hash} is not usable")]
    NarInfo {
        url: String,
        hash: StorePathHash,
        #[source]
        source: NarInfoError,
    },
    /// Nobody who is trusted vouches for the path.
    #[error(
        "{url}: {distrust}; name the key with --trusted-public-key, or give --no-require-sigs to believe \
         this source"
    )]
    Untrusted { url: String, distrust: Distrust },
    /// No source has the path.
    #[error("{path} is in none of the sources: {sources}")]
    Absent {
        /// Hash or whole path, as asked for.
        path: String,
        /// The sources that were asked.
        sources: String,
    },
    /// The hash is that of another path, which is here.
    #[error("{0} is in the state, and no other path can have its hash")]
    OtherName(StorePath),
    /// References that wait for each other.
    #[error("not copied, because it and its reference {0} need each other, or others that do")]
    Circle(StorePath),
    /// A reference cannot be had.
    #[error("not copied, because its reference {0} could not be")]
    Reference(StorePath),
    /// Another NAR than the one whose contents were dropped.
    #[error(
        "{url} has another NAR of {path} than the one that is registered here ({theirs} instead of \
         {ours}), so that what was dropped cannot come back from it"
    )]
    OtherNar {
        url: String,
        path: StorePath,
        /// What the source has.
        theirs: NarHash,
        /// What is registered.
        ours: NarHash,
    },
    /// The NAR is not what the narinfo says.
    #[error("{url}: {error}")]
    Receive {
        /// The NAR.
        url: String,
        #[source]
        error: Box<ReceiveError>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The user stopped it.
    #[error("stopped")]
    Stopped,
    /// Whoever waited was killed.
    #[error("the process that waited was killed")]
    Killed,
    /// It takes longer than a program may wait; it goes on.
    #[error("{path} did not arrive within {} s; the transfer goes on", patience.as_secs())]
    Patience {
        /// What is waited for.
        path: StorePath,
        /// How long.
        patience: std::time::Duration,
    },
}

impl FetchError {
    /// Whether every source said that it has no such path.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Absent { .. } => true,
            Self::Shared(error) => error.is_absent(),
            _ => false,
        }
    }

    /// Whether a source did not answer, and may another time.
    fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Shared(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether another source may do better: neither the state nor the user ended it.
    fn is_of_source(&self) -> bool {
        match self {
            Self::Source(_) | Self::OtherNar { .. } => true,
            Self::Receive { error, .. } => !error.is_ours(),
            _ => false,
        }
    }
}

/// What a running copy has done; read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Narinfos that were read.
    pub narinfos: AtomicU64,
    /// Paths that are to be fetched, as far as is known.
    pub paths: AtomicU64,
    /// Of these, done.
    pub paths_done: AtomicU64,
    /// NAR bytes that are to be fetched, as far as is known.
    pub nar_bytes: AtomicU64,
    /// Of these, unpacked.
    pub nar_bytes_done: AtomicU64,
    /// Bytes that the sources sent for NARs, compressed.
    pub fetched_bytes: AtomicU64,
    /// How far into a NAR, as it is sent, any try has come.
    pub furthest: AtomicU64,
    /// Set to stop.
    pub stop: std::sync::atomic::AtomicBool,
}

/// [`Progress`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// See [`Progress`].
    pub narinfos: u64,
    /// See [`Progress`].
    pub paths: u64,
    /// See [`Progress`].
    pub paths_done: u64,
    /// See [`Progress`].
    pub nar_bytes: u64,
    /// See [`Progress`].
    pub nar_bytes_done: u64,
    /// See [`Progress`].
    pub fetched_bytes: u64,
}

impl Progress {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Snapshot {
            narinfos: get(&self.narinfos),
            paths: get(&self.paths),
            paths_done: get(&self.paths_done),
            nar_bytes: get(&self.nar_bytes),
            nar_bytes_done: get(&self.nar_bytes_done),
            fetched_bytes: get(&self.fetched_bytes),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
