//! The file system: what a lookup, a listing, a read means. No kernel here.
//!
//! Invariants: an inode number is an address (see [`Inode`]), so there is no table of inodes and
//! numbers are the same after a restart; everything below a store path is immutable and may be
//! cached for ever; a name that is not there inside a path may be cached for ever too, one that
//! is not there in a store directory, among profiles or among views not at all.

mod appearances;
mod attributes;
mod errno;
mod file_system;
mod inode;
mod numbers;
mod on_demand;
mod profiles;
mod read;
mod trace;
mod views;
mod writable;

pub use appearances::Appearances;
pub use attributes::{Attributes, Entry, Kind, Looked};
pub use errno::{FsError, NAME_MAX};
pub use file_system::FileSystem;
pub use inode::{Inode, Member, Place, Special};
pub use numbers::Numbers;
pub use profiles::{
    CHANGED, ReplacedLink, StaleEntries, all_entries, replaced_links, stale_entries,
};
pub use read::Space;
pub use trace::Recorder;
pub use views::{StaleViews, stale_views};
pub use writable::{ChangeProfile, NewAttributes, WritableProfiles};

#[cfg(test)]
mod tests;
