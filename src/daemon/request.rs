//! The serve request: what a daemon serves and how; complete, so that a successor can continue with
//! it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::command::SourceRequest;
use crate::fetch::{Deadlines, PrefetchPolicy};
use crate::fuse::{FileHandles, MountRequest};
use crate::http::Address;
use crate::nix::store_path::StoreDir;
use crate::store::StoreOptions;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeRequest {
    /// The state directory, absolute.
    pub state: PathBuf,
    /// Store directory of a new state; that of an existing state must match.
    pub store_dir: Option<String>,
    /// Memory limit of the daemon, in bytes.
    pub memory: usize,
    pub mounting: Mounting,
    /// Sources for fetches on demand and for commands; none to stay offline.
    pub sources: SourceRequest,
    /// Timeouts of programs that wait for fetches.
    pub deadlines: Deadlines,
    /// What to fetch ahead.
    pub prefetch: PrefetchPolicy,
    /// Stored bytes above which contents are dropped; `None` for no budget.
    pub budget: Option<u64>,
    /// Whether files can be opened by handle.
    pub file_handles: FileHandles,
    /// Address of the HTTP server.
    pub listen: Option<Address>,
    /// Socket of the volume plugin, besides those from a service manager.
    pub volume_plugin: Option<PathBuf>,
    /// Socket of the worker for Nix, besides those from a service manager.
    pub nix_socket: Option<PathBuf>,
}

/// Who makes the mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mounting {
    /// The daemon mounts, and ends after the unmount.
    Itself(MountRequest),
    /// Other processes mount, and hand over the connections, one after the other.
    Others {
        /// Whether the daemon ends after the first unmount.
        until_unmounted: bool,
    },
}

impl Mounting {
    /// The mount request, if the daemon mounts.
    pub(super) fn itself(&self) -> Option<&MountRequest> {
        match self {
            Self::Itself(request) => Some(request),
            Self::Others { .. } => None,
        }
    }
}

impl ServeRequest {
    /// Options for opening the state, which is created if absent.
    pub(super) fn options(&self) -> StoreOptions {
        let store_dir = self.store_dir.as_deref();
        StoreOptions {
            memory: self.memory,
            create: true,
            // The request was made from a valid one.
            store_dir: store_dir.and_then(|dir| StoreDir::parse(dir).ok()),
        }
    }
}
