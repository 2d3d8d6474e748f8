//! Why roots cannot be found or made.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::fuse::MountError;
use crate::store::StoreError;

/// Why roots cannot be found or made.
#[derive(Debug, Error)]
pub enum RootsError {
    /// One cannot be looked at.
    #[error("cannot look for roots at {}; nothing is collected before all are known", at.display())]
    Look {
        at: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A link cannot be made.
    #[error("cannot make the link {}", at.display())]
    Make {
        at: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something else is there.
    #[error("{} is there and is no link into the store; choose another name, or remove it", .0.display())]
    Occupied(PathBuf),
    /// It cannot be told what is mounted.
    #[error(transparent)]
    Mounts(#[from] MountError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
