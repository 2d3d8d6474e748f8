//! Notifications that fuser does not offer, or whose result it does not return.
//!
//! Layouts are those of `include/uapi/linux/fuse.h`. None of them waits for a request.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::fs::Inode;

/// FUSE_NOTIFY_STORE.
const STORE: i32 = 4;
/// FUSE_NOTIFY_PRUNE, of protocol 7.45 (Linux 6.18).
const PRUNE: i32 = 9;
/// Size of `struct fuse_out_header`.
const HEADER: usize = 16;
/// Inode numbers in one notification. The kernel processes them in batches of 512.
const PRUNED_AT_ONCE: usize = 1 << 14;

/// Notifications on one connection.
pub(super) struct Notices {
    device: OwnedFd,
    prunes: bool,
}

impl Notices {
    pub(super) fn new(device: OwnedFd) -> Self {
        let mut notices = Self {
            device,
            prunes: false,
        };
        // A kernel that does not know the notification returns EINVAL.
        notices.prunes = notices.prune_some(&[]).is_ok();
        notices
    }

    /// Whether the kernel can be asked to drop only unused inodes.
    pub(super) fn can_prune(&self) -> bool {
        self.prunes
    }

    /// Whether the kernel has an inode of this number. This changes nothing: it is an empty
    /// `fuse_notify_store`, for which the kernel looks up the inode first. It returns EINVAL if
    /// that is not a regular file.
    pub(super) fn is_known(&self, inode: Inode) -> bool {
        // nodeid, offset (8 each), size, padding (4 each).
        let mut body = [0; 24];
        body[..8].copy_from_slice(&inode.0.to_le_bytes());
        match self.send(STORE, &body) {
            Ok(()) => true,
            Err(e) => !is_unmounted(e) && e != Errno::NOENT,
        }
    }

    /// Makes the kernel drop the unused ones among these inodes, with their names. The contents of
    /// a directory come before it.
    pub(super) fn prune(&self, inodes: &[Inode]) {
        for some in inodes.chunks(PRUNED_AT_ONCE) {
            if let Err(e) = self.prune_some(some) {
                tracing::debug!("the kernel did not drop unused inodes: {e}");
                return;
            }
        }
    }

    fn prune_some(&self, inodes: &[Inode]) -> Result<(), Errno> {
        // count, padding (4 each), spare (8), and the numbers.
        let mut body = Vec::with_capacity(16 + inodes.len() * 8);
        body.extend_from_slice(&(inodes.len() as u32).to_le_bytes());
        body.resize(16, 0);
        for inode in inodes {
            body.extend_from_slice(&inode.0.to_le_bytes());
        }
        self.send(PRUNE, &body)
    }

    fn send(&self, code: i32, body: &[u8]) -> Result<(), Errno> {
        let length = (HEADER + body.len()) as u32;
        let [length, code] = [length.to_le_bytes(), code.to_le_bytes()];
        let notice = [&length[..], &code, &[0; 8], body].concat();
        rustix::io::retry_on_intr(|| rustix::io::write(&self.device, &notice)).map(drop)
    }
}

/// Whether the file system is no longer mounted.
fn is_unmounted(e: Errno) -> bool {
    matches!(
        e,
        Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED | Errno::PERM
    )
}
