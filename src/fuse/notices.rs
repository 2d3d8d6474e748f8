//! Notifications that fuser does not send, or whose answer it keeps to itself.
//!
//! Layouts are those of `include/uapi/linux/fuse.h`. But for [`Notices::expire`], none of them waits for a request.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::fs::Inode;

/// FUSE_NOTIFY_INVAL_ENTRY, with FUSE_EXPIRE_ONLY: the name is asked for when it is looked up next, and
/// nothing is forgotten. Since 7.38 (Linux 6.2); an older kernel takes it for any invalidation.
const INVALIDATE_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;
const KNOWS_EXPIRY: u32 = 38;
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
    expires: bool,
}

impl Notices {
    /// `minor` is that of the protocol's version.
    pub(super) fn new(device: OwnedFd, minor: u32) -> Self {
        let mut notices = Self {
            device,
            prunes: false,
            expires: minor >= KNOWS_EXPIRY,
        };
        // A kernel that does not know the notification says that it is invalid.
        notices.prunes = notices.prune_some(&[]).is_ok();
        notices
    }

    /// Whether the kernel can be told to forget what nobody uses and to leave the rest as it is.
    pub(super) fn can_prune(&self) -> bool {
        self.prunes
    }

    /// Whether the kernel can be told to ask for a name again.
    pub(super) fn can_expire(&self) -> bool {
        self.expires
    }

    /// Has the kernel ask for a name in a directory when it is looked up next. Waits for what is asked
    /// there now.
    pub(super) fn expire(&self, directory: Inode, name: &str) {
        // parent (8), length of the name, flags (4 each), the name with a zero.
        let mut body = directory.0.to_le_bytes().to_vec();
        body.extend_from_slice(&(name.len() as u32).to_le_bytes());
        body.extend_from_slice(&EXPIRE_ONLY.to_le_bytes());
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        // That it is not known is no error.
        let _ = self.send(INVALIDATE_ENTRY, &body);
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
