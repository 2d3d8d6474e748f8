//! What both connections, the read-only one and that of writable profiles, reply with.

use std::time::Duration;

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, InitFlags, ReplyStatfs, Request};

use crate::fetch::Requester;
use crate::fs::{Attributes, FsError, Kind, NAME_MAX, Numbers, Space};

/// Validity of entries and attributes that never change: 34 years.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 30);
/// An inode number is never reused, so FUSE generations are not needed.
pub(super) const GENERATION: Generation = Generation(0);
/// Block size in `st_blksize` and statfs.
pub(super) const BLOCK: u32 = 4096;

/// Enables id-mapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP), as for containers in user
/// namespaces. The user of a request is then often unknown, and not needed: the kernel checks
/// permissions itself (default_permissions). Linux 6.12 and newer.
pub(super) const IDMAPPED: InitFlags = InitFlags::FUSE_ALLOW_IDMAP;

/// The process that waits for the reply.
pub(super) fn requester(request: &Request) -> Requester {
    Requester::new(request.pid())
}

/// How long the kernel may cache attributes.
pub(super) fn validity(a: &Attributes) -> &'static Duration {
    if a.settled { &FOREVER } else { &Duration::ZERO }
}

pub(super) fn errno(error: FsError) -> Errno {
    if let FsError::Store(e) = &error {
        tracing::warn!("a request failed: {e}");
    }
    Errno::from_i32(error.errno())
}

/// The attributes in FUSE's form.
pub(super) fn attr(a: &Attributes, numbers: Numbers) -> FileAttr {
    FileAttr {
        ino: INodeNo(numbers.shown(a)),
        size: a.size,
        blocks: a.size.div_ceil(512),
        atime: a.time,
        mtime: a.time,
        ctime: a.time,
        crtime: a.time,
        kind: match a.kind {
            Kind::Directory => FileType::Directory,
            Kind::File => FileType::RegularFile,
            Kind::Link => FileType::Symlink,
            Kind::Pipe => FileType::NamedPipe,
        },
        perm: a.mode,
        nlink: a.links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Replies with the free space of a disk.
pub(super) fn statfs(space: Result<Space, FsError>, reply: ReplyStatfs) {
    match space {
        Ok(space) => {
            let blocks = |bytes: u64| bytes / u64::from(BLOCK);
            reply.statfs(
                blocks(space.total),
                blocks(space.free),
                blocks(space.available),
                0,
                0,
                BLOCK,
                NAME_MAX as u32,
                BLOCK,
            );
        }
        Err(e) => reply.error(errno(e)),
    }
}
