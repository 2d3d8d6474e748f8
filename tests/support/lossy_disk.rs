//! A disk that loses at a power loss what was not synced.
//!
//! It is in memory, and is mounted through FUSE. What it assumes is what POSIX says, and no file system
//! does less:
//! - An fsync or fdatasync of a file makes its bytes and its size durable. It makes none of its names
//!   durable: a file that was synced may be lost with its name.
//! - An fsync of a directory makes its names durable, but not its own name, and nothing of the files that
//!   they name: such a file may be empty.
//! - Nothing else makes anything durable: no close, no rename, no sync_file_range(2), no passing of time.
//! - A name, or both names of a rename, change at once or not at all. Modes, and targets of symbolic
//!   links, are as durable as the name.
//! - A rename inside one directory survives only with what happened to the names of that directory before
//!   it. RocksDB relies on it: it makes a manifest, and syncs its name only after CURRENT, which says the
//!   manifest's name, was renamed into place. Journals of file systems keep this order.
//!
//! The kernel caches no writes here, so that each arrives before the system call returns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

use crate::namespaces::own_mounts;

/// Bytes of a write that survive together.
const PAGE: usize = 4096;
/// Number of the root directory.
const ROOT: u64 = 1;
/// Validity of what the kernel caches: it makes all changes itself.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// Free space, in pages: 1 TiB.
const FREE: u64 = 1 << 28;

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    Lost,
    /// Each page, size and name survives or not, as this seed says, whatever their order was.
    Random(u64),
}

/// What can be synced.
trait Contents: Clone + Default {
    type Change: Clone;

    fn apply(&mut self, change: &Self::Change);
}

/// Contents as processes see them, and as a power loss leaves them.
#[derive(Clone)]
struct Synced<C: Contents> {
    now: C,
    durable: C,
    /// What happened since the last sync, each with the number of its operation.
    unsynced: Vec<(u64, C::Change)>,
}

impl<C: Contents> Synced<C> {
    fn empty() -> Self {
        Self {
            now: C::default(),
            durable: C::default(),
            unsynced: Vec::new(),
        }
    }

    fn change(&mut self, operation: u64, change: C::Change) {
        self.now.apply(&change);
        self.unsynced.push((operation, change));
    }

    fn sync(&mut self) {
        for (_, change) in self.unsynced.drain(..) {
            self.durable.apply(&change);
        }
    }

    fn lose(&mut self, survives: impl Fn(u64, usize) -> bool) {
        for (at, (operation, change)) in self.unsynced.drain(..).enumerate() {
            if survives(operation, at) {
                self.durable.apply(&change);
            }
        }
        self.now = self.durable.clone();
    }
}

/// The bytes of a file.
type Bytes = Vec<u8>;

#[derive(Clone)]
enum BytesChange {
    Write(usize, Bytes),
    Size(usize),
}

impl Contents for Bytes {
    type Change = BytesChange;

    fn apply(&mut self, change: &BytesChange) {
        match change {
            BytesChange::Write(at, bytes) => {
                let end = at + bytes.len();
                self.resize(self.len().max(end), 0);
                self[*at..end].copy_from_slice(bytes);
            }
            BytesChange::Size(size) => self.resize(*size, 0),
        }
    }
}

/// The names of a directory.
type Names = BTreeMap<OsString, u64>;

impl Contents for Names {
    /// What the names are for after it.
    type Change = Vec<(OsString, Option<u64>)>;

    fn apply(&mut self, change: &Self::Change) {
        for (name, node) in change {
            match node {
                Some(node) => self.insert(name.clone(), *node),
                None => self.remove(name),
            };
        }
    }
}

#[derive(Clone)]
enum Kind {
    File(Synced<Bytes>),
    Directory(Synced<Names>),
    Link(OsString),
}

#[derive(Clone)]
struct Node {
    mode: u32,
    kind: Kind,
}

/// What is on a disk.
#[derive(Clone)]
pub struct Disk {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl Disk {
    pub fn empty() -> Self {
        let root = Node {
            mode: 0o755,
            kind: Kind::Directory(Synced::empty()),
        };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            next: ROOT + 1,
        }
    }

    /// The same, with everything durable.
    pub fn synced(mut self) -> Self {
        for node in self.nodes.values_mut() {
            match &mut node.kind {
                Kind::File(bytes) => bytes.sync(),
                Kind::Directory(names) => names.sync(),
                Kind::Link(_) => {}
            }
        }
        self
    }

    /// What is on it after a power loss.
    pub fn without_power(mut self, unsynced: Unsynced) -> Self {
        for (number, node) in &mut self.nodes {
            match &mut node.kind {
                // One page of a write may survive without the next.
                Kind::File(bytes) => {
                    bytes.lose(|_, at| unsynced.survives((number << 32) + at as u64));
                }
                // Both names of a rename survive or none, and with them what was before.
                Kind::Directory(names) => {
                    let survives = |(operation, change): &(u64, Vec<_>)| {
                        change.len() > 1 && unsynced.survives(*operation)
                    };
                    let renamed = names.unsynced.iter().rposition(survives);
                    names.lose(|operation, at| {
                        renamed.is_some_and(|last| at <= last) || unsynced.survives(operation)
                    });
                }
                Kind::Link(_) => {}
            }
        }
        let (mut found, mut next) = (HashSet::new(), vec![ROOT]);
        while let Some(number) = next.pop() {
            found.insert(number);
            if let Kind::Directory(names) = &self.nodes[&number].kind {
                next.extend(names.now.values());
            }
        }
        self.nodes.retain(|number, _| found.contains(number));
        self
    }

    /// Writes what is on it to a directory that is there.
    pub fn copy_to(&self, dir: &Path) {
        self.copy_node(ROOT, dir);
    }

    fn copy_node(&self, number: u64, to: &Path) {
        match &self.nodes[&number].kind {
            Kind::File(bytes) => fs::write(to, &bytes.now).unwrap(),
            Kind::Link(target) => symlink(target, to).unwrap(),
            Kind::Directory(names) => {
                if number != ROOT {
                    fs::create_dir(to).unwrap();
                }
                for (name, number) in &names.now {
                    self.copy_node(*number, &to.join(name));
                }
            }
        }
    }

    fn node(&mut self, number: INodeNo) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&number.0).ok_or(Errno::ENOENT)
    }

    fn file(&mut self, number: INodeNo) -> Result<&mut Synced<Bytes>, Errno> {
        match &mut self.node(number)?.kind {
            Kind::File(bytes) => Ok(bytes),
            _ => Err(Errno::EINVAL),
        }
    }

    fn directory(&mut self, number: INodeNo) -> Result<&mut Synced<Names>, Errno> {
        match &mut self.node(number)?.kind {
            Kind::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Result<INodeNo, Errno> {
        let found = self.directory(parent)?.now.get(name);
        found.copied().map(INodeNo).ok_or(Errno::ENOENT)
    }

    fn attr(&mut self, number: INodeNo) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        let (kind, size) = match &node.kind {
            Kind::File(bytes) => (FileType::RegularFile, bytes.now.len()),
            Kind::Directory(_) => (FileType::Directory, PAGE),
            Kind::Link(target) => (FileType::Symlink, target.len()),
        };
        let time = SystemTime::UNIX_EPOCH;
        Ok(FileAttr {
            ino: number,
            size: size as u64,
            blocks: size.div_ceil(512) as u64,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: node.mode as u16 & 0o7777,
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }
}

impl Unsynced {
    /// Whether the change with this number does.
    fn survives(self, change: u64) -> bool {
        match self {
            Self::Lost => false,
            Self::Random(seed) => {
                // The finalizer of SplitMix64.
                let mut x = seed.wrapping_add(change.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (x ^ (x >> 31)) & 1 == 1
            }
        }
    }
}

/// A disk while it is mounted.
struct Running {
    disk: Disk,
    /// The operations so far that change or sync something.
    operations: u64,
    /// The first operation that is not done, nor any after it.
    cut_at: u64,
}

impl Running {
    fn has_power(&self) -> bool {
        self.operations <= self.cut_at
    }

    /// The number of the operation that begins.
    fn operation(&mut self) -> Result<u64, Errno> {
        if self.has_power() {
            self.operations += 1;
        }
        match self.has_power() {
            true => Ok(self.operations),
            false => Err(Errno::EIO),
        }
    }

    fn rename(&mut self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Result<(), Errno> {
        let operation = self.operation()?;
        let node = self.disk.find(from.0, from.1)?.0;
        let gone = (from.1.to_owned(), None);
        let there = (to.1.to_owned(), Some(node));
        if from.0 == to.0 {
            let names = self.disk.directory(from.0)?;
            names.change(operation, vec![gone, there]);
            return Ok(());
        }
        self.disk.directory(to.0)?.change(operation, vec![there]);
        let names = self.disk.directory(from.0)?;
        names.change(operation, vec![gone]);
        Ok(())
    }

    fn make(
        &mut self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        kind: Kind,
    ) -> Result<FileAttr, Errno> {
        let operation = self.operation()?;
        let number = self.disk.next;
        self.disk.next += 1;
        self.disk.nodes.insert(number, Node { mode, kind });
        let names = self.disk.directory(parent)?;
        names.change(operation, vec![(name.to_owned(), Some(number))]);
        self.disk.attr(INodeNo(number))
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let node = self.disk.find(parent, name)?;
        if let Kind::Directory(names) = &self.disk.node(node)?.kind
            && !names.now.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        // Processes may have it open, so that it stays until the disk is without power.
        let operation = self.operation()?;
        let names = self.disk.directory(parent)?;
        names.change(operation, vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn write(&mut self, number: INodeNo, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let operation = self.operation()?;
        let bytes = self.disk.file(number)?;
        let (mut at, mut rest) = (offset as usize, data);
        while !rest.is_empty() {
            let (page, more) = rest.split_at(rest.len().min(PAGE - at % PAGE));
            bytes.change(operation, BytesChange::Write(at, page.to_owned()));
            (at, rest) = (at + page.len(), more);
        }
        Ok(data.len() as u32)
    }

    fn read(&mut self, number: INodeNo, offset: u64, size: u32) -> Result<&[u8], Errno> {
        let bytes = &self.disk.file(number)?.now;
        let from = bytes.len().min(offset as usize);
        let to = bytes.len().min(from + size as usize);
        Ok(&bytes[from..to])
    }

    /// Sets size and mode.
    fn set(
        &mut self,
        number: INodeNo,
        size: Option<u64>,
        mode: Option<u32>,
    ) -> Result<FileAttr, Errno> {
        if let Some(size) = size {
            let operation = self.operation()?;
            let bytes = self.disk.file(number)?;
            bytes.change(operation, BytesChange::Size(size as usize));
        }
        if let Some(mode) = mode {
            self.disk.node(number)?.mode = mode;
        }
        self.disk.attr(number)
    }
}

/// A mounted disk. It is seen by this thread and by the processes that it starts.
pub struct Mounted {
    running: Arc<Mutex<Running>>,
    session: BackgroundSession,
    at: TempDir,
}

impl Mounted {
    /// Mounts a disk that does `operations`, all if that is `None`, and then loses power: whatever would
    /// change it or sync it fails.
    pub fn new(disk: Disk, operations: Option<u64>) -> Self {
        // Who may not have mounts of their own mounts with fusermount3, where everyone sees it.
        own_mounts();
        let running = Arc::new(Mutex::new(Running {
            disk,
            operations: 0,
            cut_at: operations.unwrap_or(u64::MAX),
        }));
        let at = TempDir::with_prefix("narfs-lossy-").unwrap();
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("lossy".to_owned()),
            MountOption::DefaultPermissions,
        ];
        let session = fuser::spawn_mount(Served(running.clone()), at.path(), &config)
            .expect("these tests need /dev/fuse, and the right to mount");
        Self {
            running,
            session,
            at,
        }
    }

    pub fn path(&self) -> &Path {
        self.at.path()
    }

    pub fn has_power(&self) -> bool {
        self.running.lock().unwrap().has_power()
    }

    /// The operations so far that change or sync something.
    pub fn operations(&self) -> u64 {
        self.running.lock().unwrap().operations
    }

    /// Unmounts the disk, which no process uses any more.
    pub fn unmount(self) -> Disk {
        match self.session.umount_and_join() {
            // The thread was reading a request that nobody waits for, like RELEASE, when the kernel ended
            // the connection.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
            ended => ended.unwrap(),
        }
        let running = self.running.lock().unwrap();
        running.disk.clone()
    }
}

/// Translates between the kernel and a [`Running`] disk.
struct Served(Arc<Mutex<Running>>);

impl Served {
    fn disk(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap()
    }
}

fn reply_entry(reply: ReplyEntry, made: Result<FileAttr, Errno>) {
    match made {
        Ok(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
        Err(e) => reply.error(e),
    }
}

fn reply_attr(reply: ReplyAttr, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attr) => reply.attr(&FOREVER, &attr),
        Err(e) => reply.error(e),
    }
}

fn reply_empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = &mut self.disk().disk;
        let found = disk.find(parent, name);
        reply_entry(reply, found.and_then(|number| disk.attr(number)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(reply, self.disk().disk.attr(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply_attr(reply, self.disk().set(ino, size, mode));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.disk().disk.node(ino).map(|node| &node.kind) {
            Ok(Kind::Link(target)) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(e) => reply.error(e),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let directory = Kind::Directory(Synced::empty());
        reply_entry(reply, self.disk().make(parent, name, mode, directory));
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let link = Kind::Link(PathBuf::from(target).into_os_string());
        reply_entry(reply, self.disk().make(parent, name, 0o777, link));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let file = Kind::File(Synced::empty());
        match self.disk().make(parent, name, mode, file) {
            Ok(attr) => reply.created(
                &FOREVER,
                &attr,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(e) => reply.error(e),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.disk().remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.disk().remove(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // The kernel has looked whether the new name is there.
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self.disk().rename((parent, name), (new_parent, new_name));
        reply_empty(reply, renamed);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().read(ino, offset, size) {
            Ok(bytes) => reply.data(bytes),
            Err(e) => reply.error(e),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(ino, offset, data) {
            Ok(written) => reply.written(written),
            Err(e) => reply.error(e),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut disk = self.disk();
        let begun = disk.operation();
        let synced = begun.and_then(|_| disk.disk.file(ino).map(Synced::sync));
        reply_empty(reply, synced);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut disk = self.disk();
        let begun = disk.operation();
        let synced = begun.and_then(|_| disk.disk.directory(ino).map(Synced::sync));
        reply_empty(reply, synced);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let disk = &mut self.disk().disk;
        let names = match disk.directory(ino) {
            Ok(names) => names.now.clone(),
            Err(e) => return reply.error(e),
        };
        // In the order of their numbers, so that none is left out while others are removed.
        let mut entries: Vec<_> = names.into_iter().filter(|(_, n)| *n > offset).collect();
        entries.sort_by_key(|(_, number)| *number);
        for (name, number) in entries {
            let Ok(attr) = disk.attr(INodeNo(number)) else {
                continue;
            };
            if reply.add(INodeNo(number), number, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let page = PAGE as u32;
        reply.statfs(FREE, FREE, FREE, FREE, FREE, page, 255, page);
    }
}
