//! Errors of the file system, and the errno of each.
//!
//! Invariant: only this file maps errors to errno values.

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
    /// The inode does not exist, or no longer.
    #[error("no such inode")]
    Stale,
    #[error("not a directory")]
    NotADirectory,
    #[error("a name longer than {NAME_MAX} bytes")]
    NameTooLong,
    #[error("a directory")]
    IsADirectory,
    #[error("not a symbolic link")]
    NotALink,
    #[error("not a regular file")]
    NotAFile,
    /// The free space of the state's disk is unknown.
    #[error("cannot determine the free space of the state's disk")]
    UnknownSpace,
    #[error("no such name")]
    NotFound,
    /// A store path that is not registered.
    #[error("{0} is not in the state, and no source is configured")]
    Unknown(StorePath),
    #[error("the name exists")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("read-only")]
    ReadOnly,
    #[error("too many temporary files")]
    Full,
    /// RENAME_EXCHANGE.
    #[error("exchanging names is not supported")]
    NoExchange,
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The change of a profile failed.
    #[error("{0}")]
    Change(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fetch failed.
    #[error(transparent)]
    Fetch(Arc<FetchError>),
}

impl FsError {
    /// The errno. Any failure of the state is EIO, never ENOENT: what cannot be read is not absent.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Stale => libc::ESTALE,
            Self::NotADirectory => libc::ENOTDIR,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::IsADirectory => libc::EISDIR,
            Self::NotALink | Self::NotAFile | Self::NoExchange => libc::EINVAL,
            Self::NotFound | Self::Unknown(_) | Self::Generation(GenerationError::Absent(_)) => {
                libc::ENOENT
            }
            Self::Exists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::ReadOnly => libc::EROFS,
            Self::Full => libc::ENOSPC,
            Self::Generation(GenerationError::DeleteCurrent(_)) => libc::EBUSY,
            // All sources were queried, and none has the path.
            Self::Fetch(e) if matches!(**e, FetchError::Absent { .. }) => libc::ENOENT,
            // The process was killed, and does not see the errno.
            Self::Fetch(e) if matches!(**e, FetchError::Killed) => libc::EINTR,
            Self::UnknownSpace
            | Self::Store(_)
            | Self::Fetch(_)
            | Self::Generation(_)
            | Self::Change(_) => libc::EIO,
        }
    }
}
