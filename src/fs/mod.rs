//! The file system: lookups, listings and reads, without a kernel.
//!
//! Invariants: an inode number is an address (see [`Inode`]), so there is no inode table, and
//! numbers survive a restart; everything below a store path is immutable and may be cached for
//! ever; a name that is absent within a path may be cached for ever as well, but not one that is
//! absent from a store directory, the profiles or the views.

mod appearances;
mod attributes;
mod errno;
mod file_system;
mod inode;
mod numbers;
mod on_demand;
mod profiles;
mod read;
mod read_ahead;
mod trace;
mod views;
mod writable;

pub use appearances::Appearances;
pub use attributes::{Attributes, Entry, Kind, Lookup};
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
