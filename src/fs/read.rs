//! File contents, and the free space of the file system.

use super::{FileSystem, FsError, Inode, Place, Special};
use crate::tree::NodeKind;

/// Free space as in statfs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size of the state's disk.
    pub total: u64,
    /// Free bytes.
    pub free: u64,
    /// Free bytes for unprivileged users.
    pub available: u64,
}

impl FileSystem {
    /// At most `length` bytes of a file, from `offset` on; fewer only at its end.
    ///
    /// # Errors
    /// It is not a file, or its contents cannot be read.
    pub fn read(&self, inode: Inode, offset: u64, length: u32) -> Result<Vec<u8>, FsError> {
        let (ordinal, node) = match inode.place()? {
            Place::Node(ordinal, node) => (ordinal, node),
            Place::Special(Special::File) => return Ok(Vec::new()),
            Place::Special(_)
            | Place::Profile(_, 0)
            | Place::View(_)
            | Place::ViewStore(_)
            | Place::Member(..) => return Err(FsError::IsADirectory),
            Place::Profile(..) => return Err(FsError::NotAFile),
        };
        let path = self.path(ordinal)?;
        match path.kind(node)?.ok_or(FsError::Stale)? {
            NodeKind::File {
                offset: start,
                size,
                ..
            } => {
                let length = u64::from(length).min(size.saturating_sub(offset));
                let mut out = Vec::with_capacity(length as usize);
                if length > 0 {
                    let from = start + offset;
                    let part = (from, from + length);
                    let reads_on = self.read_ahead.is_read(&self.store, ordinal, &path, part);
                    let contents = self.store.contents();
                    contents.serve(path.contents(), (from, length), reads_on, &mut out)?;
                }
                Ok(out)
            }
            NodeKind::Directory { .. } => Err(FsError::IsADirectory),
            NodeKind::Link { .. } => Err(FsError::NotAFile),
        }
    }

    /// The free space on the disk of the state.
    ///
    /// # Errors
    /// The disk does not report it.
    pub fn space(&self) -> Result<Space, FsError> {
        let stat = rustix::fs::statvfs(self.store.dir()).map_err(|_| FsError::UnknownSpace)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            total: bytes(stat.f_blocks),
            free: bytes(stat.f_bfree),
            available: bytes(stat.f_bavail),
        })
    }
}
