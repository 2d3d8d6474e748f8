//! What can go wrong in the file system, and the errno that says so to programs.
//!
//! Invariant: this is the one place where an error becomes an errno.

use std::sync::Arc;

use thiserror::Error;

use crate::fetch::FetchError;
use crate::nix::store_path::StorePath;
use crate::profile::GenerationError;
use crate::store::StoreError;

/// Longest name, in bytes, as Linux file systems have it; FUSE would let 1024 through.
pub const NAME_MAX: usize = 255;

/// Why a request fails.
#[derive(Debug, Error)]
pub enum FsError {
    /// The number names nothing (any more).
    #[error("no such inode")]
    Stale,
    /// Something else was meant to be a directory.
    #[error("not a directory")]
    NotADirectory,
    /// A name that no directory here can have.
    #[error("a name longer than {NAME_MAX} bytes")]
    NameTooLong,
    /// A directory was meant to be a file.
    #[error("a directory")]
    IsADirectory,
    /// Something else was meant to be a symbolic link.
    #[error("not a symbolic link")]
    NotALink,
    /// Something else was meant to be a regular file.
    #[error("not a regular file")]
    NotAFile,
    /// The disk of the state does not say how full it is.
    #[error("the state's disk cannot be asked")]
    NoSpaceKnown,
    /// Nothing has this name.
    #[error("nothing has this name")]
    NotThere,
    /// A store path that nobody knows.
    #[error("{0} is not in the state, and nobody is asked for it")]
    Unknown(StorePath),
    /// Something has this name.
    #[error("something has this name")]
    Exists,
    /// A directory was meant to be empty.
    #[error("a directory that is not empty")]
    NotEmpty,
    /// What cannot be changed, or not like this.
    #[error("read-only")]
    ReadOnly,
    /// There are too many temporary files.
    #[error("too many temporary files")]
    Full,
    /// A way of renaming that means nothing here.
    #[error("names cannot be exchanged here")]
    NoExchange,
    /// Generations cannot be changed like this.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A change of a profile failed; the text says why.
    #[error("{0}")]
    Change(String),
    /// The state fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is not here could not be fetched.
    #[error(transparent)]
    Fetch(Arc<FetchError>),
}

impl FsError {
    /// The errno. Whatever is wrong with the state is EIO, never ENOENT: what cannot be read is
    /// not absent.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Stale => libc::ESTALE,
            Self::NotADirectory => libc::ENOTDIR,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::IsADirectory => libc::EISDIR,
            Self::NotALink | Self::NotAFile | Self::NoExchange => libc::EINVAL,
            Self::NotThere | Self::Unknown(_) | Self::Generation(GenerationError::Absent(_)) => {
                libc::ENOENT
            }
            Self::Exists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::ReadOnly => libc::EROFS,
            Self::Full => libc::ENOSPC,
            Self::Generation(GenerationError::DeleteCurrent(_)) => libc::EBUSY,
            // Every source was asked, and none has it.
            Self::Fetch(e) if matches!(**e, FetchError::Absent { .. }) => libc::ENOENT,
            // Nobody will see it.
            Self::Fetch(e) if matches!(**e, FetchError::Killed) => libc::EINTR,
            Self::NoSpaceKnown
            | Self::Store(_)
            | Self::Fetch(_)
            | Self::Generation(_)
            | Self::Change(_) => libc::EIO,
        }
    }
}
