//! What stat shows of inodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::inode::Inode;
use crate::store::PathOrdinal;

/// atime, mtime and ctime of everything in a store path: one second after the epoch, as Nix sets.
pub(super) const EPOCH: Duration = Duration::from_secs(1);

/// Size of a directory, in bytes: what ext4 says of a small one, and always the same.
pub(super) const DIRECTORY_SIZE: u64 = 4096;

/// Hard links of everything, directories too. Where a directory's count tells of subdirectories,
/// find(1) saves itself a look at the rest, and asks statfs whether it may: a request, each time.
pub(super) const LINKS: u32 = 1;

/// What kind of file an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Link,
    /// A named pipe.
    Pipe,
}

/// What stat shows; owner and group are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The number.
    pub inode: Inode,
    /// What a directory of a closure view is in the store; for all else the number. See `Numbers`.
    pub in_store: Inode,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of contents, of a target, or [`DIRECTORY_SIZE`].
    pub size: u64,
    /// Hard links: [`LINKS`].
    pub links: u32,
    /// mtime, atime and ctime.
    pub time: SystemTime,
    /// Whether this will never be otherwise. The directory of a path whose contents are not here
    /// may turn out to be a file or a link, under another number.
    pub settled: bool,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is there.
    Found(Attributes),
    /// It is not there, and never will be.
    NeverExists,
    /// It is not there now.
    Absent,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    /// Where the listing goes on after it.
    pub next: u64,
    pub attributes: Attributes,
}

/// A directory above the store paths.
pub(super) fn above_paths(inode: Inode, time: SystemTime) -> Attributes {
    Attributes {
        inode,
        in_store: inode,
        kind: Kind::Directory,
        mode: 0o755,
        size: DIRECTORY_SIZE,
        links: LINKS,
        time,
        settled: true,
    }
}

/// The root of a path that is said to be a directory, whatever is in it.
pub(super) fn expected(ordinal: PathOrdinal) -> Attributes {
    Attributes {
        inode: Inode::node(ordinal, 0),
        in_store: Inode::node(ordinal, 0),
        kind: Kind::Directory,
        mode: 0o555,
        size: DIRECTORY_SIZE,
        links: LINKS,
        time: UNIX_EPOCH + EPOCH,
        settled: false,
    }
}
