//! Notifications that fuser does not send, or whose answer it keeps to itself.
//!
//! Layouts are those of `include/uapi/linux/fuse.h`. None of them waits for a request.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::fs::Inode;

/// FUSE_NOTIFY_STORE.
const STORE: i32 = 4;
/// FUSE_NOTIFY_PRUNE, of protocol 7.45 (Linux 6.18).
const PRUNE: i32 = 9;
/// Bytes of `struct fuse_out_header`.
const HEADER: usize = 16;
/// Numbers in one notification. The kernel takes them in parts of 512.
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
        // A kernel that does not know the notification says that it is invalid.
        notices.prunes = notices.prune_some(&[]).is_ok();
        notices
    }

    /// Whether the kernel can be told to forget what nobody uses and to leave the rest as it is.
    pub(super) fn can_prune(&self) -> bool {
        self.prunes
    }

    /// Whether the kernel has an inode of this number. Nothing changes by the question: it is to take
    /// over nothing, for which it looks for the inode first (`fuse_notify_store`). One that is no
    /// regular file is EINVAL.
    pub(super) fn is_known(&self, inode: Inode) -> bool {
        // nodeid, offset (8 each), size, padding (4 each).
        let mut body = [0; 24];
        body[..8].copy_from_slice(&inode.0.to_le_bytes());
        match self.send(STORE, &body) {
            Ok(()) => true,
            Err(e) => !is_gone(e) && e != Errno::NOENT,
        }
    }

    /// Has the kernel forget the names and the inodes of these numbers that nobody uses. What is
    /// in a directory comes before it.
    pub(super) fn prune(&self, inodes: &[Inode]) {
        for some in inodes.chunks(PRUNED_AT_ONCE) {
            if let Err(e) = self.prune_some(some) {
                tracing::debug!("the kernel did not forget what nobody uses: {e}");
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

/// Whether the file system is mounted no more.
fn is_gone(e: Errno) -> bool {
    matches!(
        e,
        Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED | Errno::PERM
    )
}
