//! Errors of roots.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::fuse::MountError;
use crate::store::StoreError;

#[derive(Debug, Error)]
pub enum RootsError {
    #[error("cannot look for roots at {}; nothing is collected until all roots are known", at.display())]
    Look {
        at: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the link {}", at.display())]
    Make {
        at: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The name is taken by something else.
    #[error("{} exists and is not a link into the store; choose another name, or remove it", .0.display())]
    Occupied(PathBuf),
    /// The mounts cannot be determined.
    #[error(transparent)]
    Mounts(#[from] MountError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
