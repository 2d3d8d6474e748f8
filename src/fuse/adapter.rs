//! The FUSE adapter: one method for each operation.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::counters::{Counters, InFlight, Operation};
use super::entries::{Entries, Listing};
use super::file_handles::FileHandles;
use super::reply::{
    BLOCK, FOREVER, GENERATION, IDMAPPED, attr, errno, requester, statfs, validity,
};
use crate::fs::{Entry, FileSystem, FsError, Inode, Lookup};

/// Limit of concurrent read-aheads. With fuser's default of 16, a few slow ones would block all
/// others.
const MAX_BACKGROUND: u16 = 1024;
pub(super) struct Adapter {
    fs: Arc<FileSystem>,
    counters: Arc<Counters>,
    entries: Arc<Entries>,
    handles: FileHandles,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<FileSystem>,
        counters: Arc<Counters>,
        entries: Entries,
        handles: FileHandles,
    ) -> Self {
        Self {
            fs,
            counters,
            entries: Arc::new(entries),
            handles,
        }
    }

    fn begin(&self, operation: Operation) -> InFlight {
        self.counters.begin(operation)
    }
}

fn list(
    fs: &FileSystem,
    here: Result<(), FsError>,
    inode: INodeNo,
    offset: u64,
    mut add: impl FnMut(&Entry) -> bool,
) -> Result<(), Errno> {
    here.and_then(|()| fs.list(Inode(inode.0), offset, &mut |entry| add(&entry)))
        .map_err(errno)
}

/// An entry with the inode number 0 is a negative entry, which the kernel caches.
fn nothing() -> FileAttr {
    let time = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            // One slow lookup must not block its whole directory.
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // A listing includes attributes, so that `find` and `ls -l` need no LOOKUPs.
            InitFlags::FUSE_DO_READDIRPLUS,
            IDMAPPED,
            match self.handles {
                FileHandles::Given => InitFlags::FUSE_EXPORT_SUPPORT,
                // Otherwise a container with CAP_DAC_READ_SEARCH could open by handle whatever the
                // kernel knows of the store, beyond the closure view that it has. Linux 6.9 and
                // newer.
                FileHandles::Refused => InitFlags::FUSE_NO_EXPORT_SUPPORT,
            },
        ] {
            // An older kernel works without it.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answering = self.begin(Operation::Lookup);
        let (parent, name) = (Inode(parent.0), name.as_bytes().to_vec());
        let looked = name.clone();
        let requester = requester(request);
        let in_store = parent
            .is_store()
            .then(|| self.counters.begin_store_lookup());
        let (entries, unique) = (self.entries.clone(), request.unique());
        self.fs
            .when_resolvable(parent, &looked, requester, move |fs, known| {
                match known.and_then(|()| fs.lookup(parent, &name)) {
                    Ok(Lookup::Found(found)) => entries.found(unique, &found, reply),
                    Ok(Lookup::NeverExists) => reply.entry(&FOREVER, &nothing(), GENERATION),
                    Ok(Lookup::Absent) => reply.error(Errno::ENOENT),
                    Err(e) => reply.error(errno(e)),
                }
                drop((answering, in_store));
            });
    }

    fn forget(&self, _request: &Request, _inode: INodeNo, _lookups: u64) {
        // Inode numbers are addresses: there is no inode table.
        self.counters.count(Operation::Forget);
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let _answering = self.begin(Operation::Getattr);
        match self.fs.attributes(Inode(inode.0)) {
            Ok(a) => reply.attr(validity(&a), &attr(&a, self.entries.numbers)),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let answering = self.begin(Operation::Readlink);
        let inode = Inode(inode.0);
        self.fs
            .when_local(inode, requester(request), move |fs, here| {
                match here.and_then(|()| fs.read_link(inode)) {
                    Ok(target) => reply.data(&target),
                    Err(e) => reply.error(errno(e)),
                }
                drop(answering);
            });
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _answering = self.begin(Operation::Open);
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answering = self.begin(Operation::Read);
        let (inode, part) = (Inode(inode.0), (offset, size));
        let reading = self.counters.begin_read(inode.path_number());
        self.fs
            .read_when_local(inode, part, requester(request), move |read| {
                match read {
                    Ok(bytes) => {
                        answering.served(bytes.len());
                        reply.data(&bytes);
                    }
                    Err(e) => reply.error(errno(e)),
                }
                drop(reading);
            });
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _answering = self.begin(Operation::Flush);
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _answering = self.begin(Operation::Release);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _answering = self.begin(Operation::Opendir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let answering = self.begin(Operation::Readdir);
        let (requester, numbers) = (requester(request), self.entries.numbers);
        self.fs
            .when_local(Inode(inode.0), requester, move |fs, here| {
                let listed = list(fs, here, inode, offset, |entry| {
                    let attr = attr(&entry.attributes, numbers);
                    let name = OsStr::from_bytes(&entry.name);
                    reply.add(attr.ino, entry.next, attr.kind, name)
                });
                match listed {
                    Ok(()) => reply.ok(),
                    Err(e) => reply.error(e),
                }
                drop(answering);
            });
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let answering = self.begin(Operation::Readdirplus);
        let requester = requester(request);
        let (entries, unique) = (self.entries.clone(), request.unique());
        self.fs
            .when_local(Inode(inode.0), requester, move |fs, here| {
                let mut listing = Listing::new();
                let listed = list(fs, here, inode, offset, |entry| {
                    let attr = attr(&entry.attributes, entries.numbers);
                    let name = OsStr::from_bytes(&entry.name);
                    // Only fuser knows when the kernel's buffer is full.
                    let full = reply.add(attr.ino, entry.next, name, &FOREVER, &attr, GENERATION);
                    if !full {
                        listing.add(&entries, entry);
                    }
                    full
                });
                match listed {
                    Ok(()) => entries.listed(unique, listing, reply),
                    Err(e) => reply.error(e),
                }
                drop(answering);
            });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _answering = self.begin(Operation::Releasedir);
        reply.error(Errno::ENOSYS);
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let _answering = self.begin(Operation::Statfs);
        statfs(self.fs.space(), reply);
    }

    fn access(&self, _request: &Request, _inode: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks the mode bits itself (default_permissions).
        let _answering = self.begin(Operation::Access);
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        let _answering = self.begin(Operation::Getxattr);
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _inode: INodeNo, _size: u32, reply: ReplyXattr) {
        let _answering = self.begin(Operation::Listxattr);
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        // ENOSYS would break overlayfs on top, and Nix calls FS_IOC_GETFLAGS.
        let _answering = self.begin(Operation::Ioctl);
        reply.error(Errno::ENOTTY);
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // ENOSYS: the kernel handles SEEK_DATA and SEEK_HOLE itself, for files without holes.
        let _answering = self.begin(Operation::Lseek);
        reply.error(Errno::ENOSYS);
    }
}
