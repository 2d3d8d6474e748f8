//! What a daemon serves, and how: all that it is told, so that another one can go on with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::command::SourceRequest;
use crate::fetch::{Deadlines, PrefetchPolicy};
use crate::fuse::{FileHandles, MountRequest};
use crate::http::Address;
use crate::nix::store_path::StoreDir;
use crate::store::StoreOptions;

/// What a daemon serves, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeRequest {
    /// The state directory, absolute.
    pub state: PathBuf,
    /// The store directory of a new state, or the one that it must have.
    pub store_dir: Option<String>,
    /// The bound of the daemon's memory, in bytes.
    pub memory: usize,
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

/// Who mounts what a daemon serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mounting {
    /// The daemon does; it ends when that is unmounted.
    Itself(MountRequest),
    /// Others do, one after the other, and hand over what they have mounted.
    Others {
        /// The daemon ends when the first of them is unmounted.
        until_unmounted: bool,
    },
}

impl Mounting {
    /// What the daemon mounts.
    pub(super) fn itself(&self) -> Option<&MountRequest> {
        match self {
            Self::Itself(request) => Some(request),
            Self::Others { .. } => None,
        }
    }
}

impl ServeRequest {
    /// How the state is opened; it is made if it is not there.
    pub(super) fn options(&self) -> StoreOptions {
        let store_dir = self.store_dir.as_deref();
        StoreOptions {
            memory: self.memory,
            create: true,
            // It was one when the request was made.
            store_dir: store_dir.and_then(|dir| StoreDir::parse(dir).ok()),
        }
    }
}
