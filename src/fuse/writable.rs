//! The FUSE connection of writable profiles. It translates and decides nothing.
//!
//! Invariant: the kernel caches nothing here, neither names nor attributes, targets or listings, so
//! that nothing has to be invalidated; changes of the state, which may block, are made on threads
//! of their own, so that other requests are not delayed. File locks are kept by the kernel: they
//! are not enabled in the handshake.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use narfs_mounting::{MountError, NewSuperblock, PROFILES_TYPE};
use rustix::mount::MountFlags;

use super::handshake::{self, Agreement, Origin};
use super::mount;
use super::reply::{GENERATION, IDMAPPED, attr, errno, requester, statfs};
use crate::fs::{Attributes, FsError, Inode, NewAttributes, Numbers, WritableProfiles};
use crate::sync;

/// Validity of everything on this connection.
const UNCACHED: Duration = Duration::ZERO;
/// Permission bits, without the file type.
const MODE: u32 = 0o7777;

/// Threads that read requests; slow work is done by others.
const THREADS: usize = 2;

/// The FUSE connection of writable profiles.
#[derive(Debug)]
pub struct ProfilesSession {
    device: OwnedFd,
    agreement: Agreement,
}

impl ProfilesSession {
    /// Makes the profiles of the state in `state` writable at `mountpoint`, where its superblock
    /// `superblock` is mounted: mounts `fs` over its directory of profiles. Returns once that
    /// answers; it is served until it is unmounted.
    ///
    /// # Errors
    /// See [`MountError`]; earlier mounts are unchanged.
    pub fn start(
        fs: &Arc<WritableProfiles>,
        state: &Path,
        superblock: u32,
        mountpoint: &Path,
    ) -> Result<Self, MountError> {
        let (at, labels) = mount::place_of_profiles(superblock, mountpoint)?;
        let new = NewSuperblock {
            state,
            kind: PROFILES_TYPE,
            read_only: false,
            labels: &labels,
            flags: MountFlags::empty(),
        };
        let new = new.make()?;
        let session = Self::serve(fs, new.device, &Origin::New(new.number))
            .map_err(|e| MountError::call("start a FUSE session at", &at.path, e))?;
        let answered = new.mount.answers();
        answered.map_err(|e| MountError::call("get an answer from the mount at", &at.path, e))?;
        new.mount.attach(&at)?;
        Ok(session)
    }

    /// Takes over a connection of a previous daemon. Files that were open there are not known any
    /// more.
    ///
    /// # Errors
    /// The connection cannot be taken over.
    pub fn take_over(
        fs: &Arc<WritableProfiles>,
        device: OwnedFd,
        agreement: &Agreement,
    ) -> io::Result<Self> {
        Self::serve(fs, device, &Origin::After(agreement))
    }

    fn serve(
        fs: &Arc<WritableProfiles>,
        device: OwnedFd,
        beginning: &Origin<'_>,
    ) -> io::Result<Self> {
        let mut config = fuser::Config::default();
        config.n_threads = Some(THREADS);
        let adapter = WritableAdapter {
            fs: fs.clone(),
            numbers: beginning.numbers(),
        };
        let (session, agreement) = handshake::begin(adapter, device.as_fd(), beginning, config)?;
        // It ends with the last mount; no thread waits for that.
        session.spawn()?;
        Ok(Self { device, agreement })
    }

    /// Mounts it over the directory of profiles at one more mount point, so that locks apply to
    /// both; `false` if it is not visible anywhere.
    ///
    /// # Errors
    /// It cannot be mounted there.
    pub fn bind_again(&self, mountpoint: &Path) -> Result<bool, MountError> {
        mount::show_profiles_again(self.agreement.superblock, mountpoint)
    }

    /// Its mount points.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn mountpoints(&self) -> Result<Vec<PathBuf>, MountError> {
        mount::mounts_of_superblock(self.agreement.superblock)
    }

    /// Unmounts it everywhere.
    ///
    /// # Errors
    /// A mount cannot be unmounted.
    pub fn detach(&self) -> Result<(), MountError> {
        mount::detach_everywhere(self.agreement.superblock)
    }

    /// What a successor needs to take it over.
    pub fn connection(&self) -> (BorrowedFd<'_>, Agreement) {
        (self.device.as_fd(), self.agreement)
    }
}

struct WritableAdapter {
    fs: Arc<WritableProfiles>,
    numbers: Numbers,
}

impl WritableAdapter {
    /// Replies with an entry. The visible inode number comes with GETATTR, which is never cached.
    fn entry(&self, reply: ReplyEntry, found: Result<Attributes, FsError>) {
        match found {
            Ok(found) => reply.entry(&UNCACHED, &known(&found), GENERATION),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn attributes(&self, reply: ReplyAttr, found: Result<Attributes, FsError>) {
        match found {
            Ok(found) => reply.attr(&UNCACHED, &attr(&found, self.numbers)),
            Err(e) => reply.error(errno(e)),
        }
    }

    /// Runs an operation that may block on another thread, and replies.
    fn reply_later(
        &self,
        reply: ReplyEmpty,
        work: impl FnOnce(&WritableProfiles) -> Result<(), FsError> + Send + 'static,
    ) {
        let fs = self.fs.clone();
        let answer = move || reply_empty(reply, work(&fs));
        // The reply is dropped with the closure, which answers EIO.
        if let Err(e) = sync::spawn("narfs-profile", answer) {
            tracing::warn!("cannot start the thread to change a profile: {e}");
        }
    }
}

fn reply_empty(reply: ReplyEmpty, outcome: Result<(), FsError>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

/// The attributes with the number that the kernel uses.
fn known(found: &Attributes) -> FileAttr {
    attr(found, Numbers::Addresses)
}

fn mode(mode: u32) -> u16 {
    (mode & MODE) as u16
}

fn inode(number: INodeNo) -> Inode {
    Inode(number.0)
}

impl Filesystem for WritableAdapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // An older kernel works without it.
        let _ = config.add_capabilities(IDMAPPED);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, self.fs.lookup(inode(parent), name.as_bytes()));
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.attributes(reply, self.fs.attributes(inode(number)));
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        new_mode: Option<u32>,
        owner: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let is_now = matches!(mtime, Some(TimeOrNow::Now));
        let time = mtime.or(atime).map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let new = NewAttributes {
            mode: new_mode.map(mode),
            owner,
            group,
            size,
            time,
            is_now,
        };
        self.attributes(reply, self.fs.set_attributes(inode(number), new));
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        match self.fs.read_link(inode(number)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(
            reply,
            self.fs.make_directory(inode(parent), name.as_bytes()),
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (inode(parent), name.as_bytes().to_vec());
        self.reply_later(reply, move |fs| fs.unlink(parent, &name));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(
            reply,
            self.fs.remove_directory(inode(parent), name.as_bytes()),
        );
    }

    fn symlink(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        self.entry(
            reply,
            self.fs.symlink(inode(parent), name.as_bytes(), target),
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let new = flags == RenameFlags::RENAME_NOREPLACE;
        if !(new || flags.is_empty()) {
            return reply_empty(reply, Err(FsError::NoExchange));
        }
        let requester = requester(request);
        let from = (inode(parent), name.as_bytes().to_vec());
        let to = (inode(new_parent), new_name.as_bytes().to_vec());
        self.reply_later(reply, move |fs| {
            fs.rename((from.0, &from.1), (to.0, &to.1), new, requester)
        });
    }

    fn link(
        &self,
        _request: &Request,
        _number: INodeNo,
        _parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (parent, name) = (inode(parent), name.as_bytes());
        let new = flags & libc::O_EXCL != 0;
        match self.fs.create(parent, name, mode(new_mode), new) {
            Ok(made) => {
                let direct = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&UNCACHED, &known(&made), GENERATION, FileHandle(0), direct);
            }
            Err(e) => reply.error(errno(e)),
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open(inode(number)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.fs.read(inode(number), offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.fs.write(inode(number), offset, data) {
            // The length of a request fits into 32 bits.
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(inode(number));
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        // Temporary files need not be durable, and a change of a profile is when it is answered.
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.fs.list(inode(number), offset, &mut |listed| {
            let attr = attr(&listed.attributes, self.numbers);
            let name = OsStr::from_bytes(&listed.name);
            reply.add(attr.ino, listed.next, attr.kind, name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        statfs(self.fs.space(), reply);
    }

    fn access(&self, _request: &Request, _number: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks the mode bits itself (default_permissions).
        reply.error(Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _request: &Request,
        _number: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn removexattr(&self, _request: &Request, _number: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn getxattr(
        &self,
        _request: &Request,
        _number: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _number: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(FsError::ReadOnly));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        // ENOSYS would break overlayfs on top, and Nix calls FS_IOC_GETFLAGS.
        reply.error(Errno::ENOTTY);
    }
}
