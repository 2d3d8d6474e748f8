//! What can go wrong with a state.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::records::BackendError;
use crate::chunk::{ChunkDigest, RecordError};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::TreeError;

/// Why the state could not be opened, read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("cannot use the state directory {}: {what}", dir.display())]
    Directory {
        /// The state directory.
        dir: PathBuf,
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory holds something else.
    #[error("{} is not a narfs state directory (it has no file \"format\") and is not empty; name another \
        directory with --state", .0.display())]
    Foreign(PathBuf),
    /// The directory was written by a newer version.
    #[error("{} was written by a newer narfs (its format says {found:?}, this one knows \"narfs-state 1\" to \
        \"narfs-state 4\"); use that version", dir.display())]
    Newer {
        /// The state directory.
        dir: PathBuf,
        /// The first line of its format file.
        found: String,
    },
    /// The state has features that this version does not know.
    #[error("the state {} uses what this narfs does not know: {features}; use a newer narfs", dir.display())]
    UnknownFeatures {
        /// The state directory.
        dir: PathBuf,
        /// Their names.
        features: String,
    },
    /// The state is for paths of another store directory.
    #[error("the state {} is for the store directory {found}, not {wanted}; name another state with \
        --state", dir.display())]
    OtherStoreDir {
        /// The state directory.
        dir: PathBuf,
        /// The store directory of the state.
        found: String,
        /// The one that was asked for.
        wanted: String,
    },
    /// Another process has the state open.
    #[error("the state {} is owned by process {owner}; wait until it ends, or stop it", dir.display())]
    Owned {
        /// The state directory.
        dir: PathBuf,
        /// The owner's process number and command.
        owner: String,
    },
    /// Its daemon has ended, and its mount waits for the next one.
    #[error(
        "the daemon of the state {} was stopped (process {owner}), and its mount waits for the \
         next one: start that, as `systemctl start narfs` does, or unmount it", dir.display()
    )]
    Waiting {
        /// The state directory.
        dir: PathBuf,
        /// The process number and command of the daemon.
        owner: String,
    },
    /// There is no state yet, and the command does not make one.
    #[error("there is no narfs state in {}; `narfs copy` or `narfs mount` makes one", .0.display())]
    Absent(PathBuf),
    /// Too little room on the disk to go on safely.
    #[error("only {free} bytes are free for the state {}, and narfs keeps {reserve} free so that the \
        database stays whole; make room", dir.display())]
    Full {
        /// The state directory.
        dir: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// The process may open too few files.
    #[error(
        "this process may open {limit} files at once, and narfs needs {needed}; raise the limit: `ulimit -n \
         {needed}` or more in a shell (`ulimit -Hn` says how far it goes), LimitNOFILE= in a unit"
    )]
    FewDescriptors {
        /// How many.
        limit: u64,
        /// How many it takes.
        needed: u64,
    },
    /// The database failed.
    #[error("the database of the state failed while {what}{}", damage(source))]
    Database {
        /// What was done.
        what: &'static str,
        /// RocksDB's words.
        #[source]
        source: BackendError,
    },
    /// The database cannot be opened as it is.
    #[error(
        "the database of the state {} is damaged, or a part of it is missing; {}", dir.display(),
        remedy(*has_copy)
    )]
    Incomplete {
        /// The state directory.
        dir: PathBuf,
        /// Whether there is a second copy, of which it can be made anew.
        has_copy: bool,
        /// What could not be read.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is kept a second time.
    #[error(
        "it is damaged, or is not what the database has; `narfs verify --repair` makes it anew from the \
         database"
    )]
    SecondCopy,
    /// A record of the database cannot be understood.
    #[error("the database is damaged: {what}; `narfs verify` names the paths that suffer")]
    Damaged {
        /// Which record.
        what: String,
    },
    /// What is registered of a path cannot be read.
    #[error(
        "the path info of {path} in the database is damaged; `narfs verify --repair` fetches it again, \
        and `narfs forget` gives up what no source has any more"
    )]
    PathInfo {
        hash: StorePathHash,
        /// The path, or its hash where its name is not known.
        path: String,
    },
    /// A tree cannot be understood.
    #[error("the tree {digest} of the database is damaged")]
    Tree {
        /// Which tree.
        digest: ChunkDigest,
        #[source]
        source: TreeError,
    },
    /// The tree of a path cannot be read.
    #[error(
        "the tree of {path} cannot be read; `narfs verify --repair` fetches it again, as its next use does \
        where a source has it"
    )]
    PathTree {
        path: StorePath,
        #[source]
        source: Box<StoreError>,
    },
    /// A tree that is too large for memory.
    #[error(
        "tree {digest}, which is too large for the memory, cannot be read from its temporary file in the \
         state directory; the next access makes it anew"
    )]
    TemporaryTree {
        /// Which tree.
        digest: ChunkDigest,
        #[source]
        source: TreeError,
    },
    /// A chunk of a path is not there, or not what its digest says.
    #[error("chunk {digest} of {path} is {what}")]
    Chunk {
        /// The path that was read.
        path: StorePath,
        /// The chunk.
        digest: ChunkDigest,
        /// "missing" or "damaged".
        what: &'static str,
        /// Why, where a record could not be decoded.
        #[source]
        source: Option<RecordError>,
    },
    /// The contents of a path were dropped. It is no damage: whoever fetches the path again has
    /// them.
    #[error(
        "the contents of {path} were dropped to save space; `narfs prefetch` fetches them again"
    )]
    Dropped {
        /// The path that was read.
        path: StorePath,
    },
    /// More paths than an inode number can address.
    #[error("the state has used up all {0} path numbers; start a new one")]
    TooManyPaths(u32),
    /// More profiles and directories of profiles, in all its time, than inode numbers can address.
    #[error("the state has used up all numbers for profiles; start a new one")]
    TooManyProfiles,
    /// More generations of a profile, in all its time, than inode numbers can address.
    #[error("the profile {0} has used up all numbers for generations; set up a new one")]
    TooManyGenerations(String),
    /// A profile with the name of a directory that other profiles lie in.
    #[error("{0} is a directory of profiles, so no profile can have this name; choose another")]
    ProfileIsDirectory(String),
    /// More closure views, in all its time, than inode numbers can address.
    #[error("the state has used up all numbers for closure views; start a new one")]
    TooManyViews,
    /// More paths in a closure view than inode numbers can address.
    #[error(
        "the closure view {name} would have {paths} paths, and {most} are the most; name fewer"
    )]
    TooLargeView {
        /// The view.
        name: String,
        /// Its paths.
        paths: usize,
        /// As many as an inode number can tell apart.
        most: usize,
    },
    /// The file of a channel.
    #[error(
        "the channel's file {} cannot be used; if it stays so, remove the channel with `narfs \
         channel remove` and add it again",
        file.display()
    )]
    Channel {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It cannot be told what is in use, so nothing is removed.
    #[error(transparent)]
    InUse(Box<dyn std::error::Error + Send + Sync>),
    /// The compressor failed.
    #[error("cannot compress a chunk")]
    Compress(#[source] io::Error),
}

/// Names what was done when the database failed.
pub(super) fn failed<E: Into<BackendError>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |e| StoreError::Database {
        what,
        source: e.into(),
    }
}

/// What is to be done about a database that cannot be opened.
fn remedy(has_copy: bool) -> &'static str {
    match has_copy {
        true => {
            "`narfs verify --repair` makes a new one: what no source has is restored from the second \
                copy, contents that can still be read stay, and others are fetched again (if the \
                state is a copy itself, rather copy all of it again, while no narfs uses it)"
        }
        false => {
            "if it is a copy, copy all of it again, while no narfs uses it; otherwise \
                `narfs verify --repair` saves what can still be read, and where that fails, remove \
                the state: what sources have is fetched again, but profiles, roots and what was \
                added here are lost"
        }
    }
}

/// What is said of a database that is damaged.
fn damage(source: &BackendError) -> &'static str {
    match source.is_corruption() {
        true => {
            ", since it is damaged, or a part of it is missing (if it is a copy, copy all of it again)"
        }
        false => "",
    }
}

impl StoreError {
    /// What damage means that keeps the state in `dir` from being opened; other errors are what they are.
    pub(super) fn of_opening(self, dir: &Path, has_copy: bool) -> Self {
        let is_known = matches!(self, Self::Incomplete { .. });
        if is_known || !self.is_damage() {
            return self;
        }
        Self::Incomplete {
            dir: dir.to_owned(),
            has_copy,
            source: self.into(),
        }
    }

    /// Whether something of the state cannot be read, or is not what was written.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Database { source, .. } => source.is_corruption(),
            Self::Damaged { .. }
            | Self::PathInfo { .. }
            | Self::PathTree { .. }
            | Self::Tree { .. }
            | Self::Chunk { .. } => true,
            _ => false,
        }
    }

    /// Whether the cause of an error is that something of the database cannot be read, or that it refuses to
    /// write for that reason.
    pub fn comes_of_damage(error: &(dyn std::error::Error + 'static)) -> bool {
        let mut causes = std::iter::successors(Some(error), |e| e.source());
        causes.any(|cause| {
            cause
                .downcast_ref()
                .is_some_and(BackendError::is_corruption)
        })
    }
}
