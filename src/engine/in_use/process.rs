//! What proc(5) says that one process uses.
//!
//! Invariant: no file system is asked anything, least of all our own: a daemon that waits for its own
//! answer could not even be killed. So links in /proc are looked at with `AT_STATX_DONT_SYNC`, which
//! shows what the kernel has.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use narfs_mounting::mountinfo::{self, Mounted};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::nix::store_path::StorePathHash;

/// Length of a hash in text.
const HASH: usize = 32;

/// Links in /proc/PID that are a use, besides those of open files.
/// The type of an overlay, which holds what lies below it.
const OVERLAY: &str = "overlay";
const LINKS: [&str; 3] = ["exe", "cwd", "root"];

/// What counts as a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Use {
    /// That a process has it open, mapped, mounted or on its command line: its contents are to stay.
    Open,
    /// Also that a process has it in its environment, or that the kernel may start it: whoever
    /// knows the name may come back for it.
    Known,
}

/// Things in use, each with a file in /proc or /sys that says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// By the hashes in their names.
    pub(super) hashes: HashMap<StorePathHash, PathBuf>,
    /// By their inode numbers in our file system.
    pub(super) inodes: HashMap<u64, PathBuf>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty() && self.inodes.is_empty()
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for (hash, from) in &other.hashes {
            self.hashes.entry(*hash).or_insert_with(|| from.clone());
        }
        for (inode, from) in &other.inodes {
            self.inodes.entry(*inode).or_insert_with(|| from.clone());
        }
    }

    /// Takes in the hashes in a text.
    pub(super) fn read(&mut self, from: &Path, text: &[u8]) {
        find(text, |hash| {
            self.hashes.entry(hash).or_insert_with(|| from.to_owned());
        });
    }

    /// The same of a file, if it can be read.
    pub(super) fn read_file(&mut self, file: &Path) {
        if let Ok(text) = fs::read(file) {
            self.read(file, &text);
        }
    }
}

/// The mounts that processes see, each list once: most processes share one.
#[derive(Default)]
pub(super) struct Mounts {
    seen: HashMap<(PathBuf, u64, u64), Vec<PathBuf>>,
}

/// Looks at processes.
pub(super) struct Looker {
    pub(super) which: Use,
    /// Our file system, by its device number.
    pub(super) superblock: Option<u32>,
    pub(super) mounts: Mounts,
}

impl Looker {
    /// What can be told without a lock of the process's memory; never waits.
    pub(super) fn look_quickly(&mut self, process: &Path) -> Found {
        let mut found = Found::default();
        let links = LINKS.map(|link| process.join(link));
        let open = fs::read_dir(process.join("fd")).into_iter().flatten();
        let open = open.flatten().map(|entry| entry.path());
        for link in links.into_iter().chain(open) {
            if let Ok(target) = fs::read_link(&link) {
                found.read(&link, target.as_os_str().as_bytes());
            }
            if let Some(inode) = self.our_inode(&link) {
                found.inodes.entry(inode).or_insert(link);
            }
        }
        self.look_at_mounts(process, &mut found);
        found
    }

    /// What is told with the lock of the process's memory held: waits as long as that process waits
    /// for a page of a file while it holds the lock itself, as in the middle of execve(2).
    pub(super) fn look_inside(&mut self, process: &Path) -> Found {
        let mut found = Found::default();
        let maps = process.join("maps");
        if let Ok(text) = fs::read(&maps) {
            found.read(&maps, &text);
            for inode in text.split(|b| *b == b'\n').filter_map(|l| self.mapped(l)) {
                found.inodes.entry(inode).or_insert_with(|| maps.clone());
            }
        }
        let file = process.join("cmdline");
        if let Ok(arguments) = fs::read(&file) {
            let key = place_of(process);
            let prefixes = key.and_then(|key| self.mounts.seen.get(&key));
            for argument in arguments.split(|b| *b == 0) {
                let names = prefixes.is_some_and(|all| names_something_in(argument, all));
                if names {
                    found.read(&file, argument);
                }
            }
        }
        if self.which == Use::Known {
            found.read_file(&process.join("environ"));
        }
        found
    }

    /// The number of what a link in /proc leads to, if it is in our file system.
    fn our_inode(&self, link: &Path) -> Option<u64> {
        let superblock = self.superblock?;
        let asked = rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
        let ours = (asked.stx_dev_major, asked.stx_dev_minor) == (0, superblock);
        ours.then_some(asked.stx_ino)
    }

    /// `FROM-TO FLAGS OFFSET MAJOR:MINOR INODE PATH`, the device in hexadecimal digits.
    fn mapped(&self, line: &[u8]) -> Option<u64> {
        let mut fields = line.split(|b| *b == b' ').skip(3);
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (major, minor) = text()?.split_once(':')?;
        let number = |digits| u32::from_str_radix(digits, 16).ok();
        let is_ours = number(major)? == 0 && number(minor) == self.superblock;
        is_ours.then(|| text()?.parse().ok()).flatten()
    }

    /// What is mounted for a process: parts of store paths, overlays above them, and what lies over
    /// something in them.
    fn look_at_mounts(&mut self, process: &Path, found: &mut Found) {
        let (Some(superblock), Some(key)) = (self.superblock, place_of(process)) else {
            return;
        };
        if self.mounts.seen.contains_key(&key) {
            return;
        }
        let file = process.join("mountinfo");
        let text = fs::read(&file).unwrap_or_default();
        let mounts: Vec<_> = mountinfo::parse(&text).collect();
        let is_ours = |mount: &Mounted<'_>| mount.is_of(Some(superblock));
        let ours = mounts.iter().filter(|m| is_ours(m)).map(|m| m.number);
        let ours: HashSet<_> = ours.collect();
        let mut prefixes = Vec::new();
        for mount in mounts {
            let leads_here = is_ours(&mount) || mount.kind == OVERLAY;
            // The root of the mount, a lower directory of the overlay, or what it lies over.
            if leads_here || ours.contains(&mount.parent) {
                found.read(&file, &mountinfo::unescape(&mount.line));
            }
            if leads_here {
                prefixes.push(mount.at);
            }
        }
        self.mounts.seen.insert(key, prefixes);
    }
}

/// What a list of mounts depends on: the mount namespace, and the root below which mounts are
/// shown.
fn place_of(process: &Path) -> Option<(PathBuf, u64, u64)> {
    let namespace = fs::read_link(process.join("ns/mnt")).ok()?;
    let flags = AtFlags::STATX_DONT_SYNC;
    let root = rustix::fs::statx(CWD, process.join("root"), flags, StatxFlags::INO).ok()?;
    let device = u64::from(root.stx_dev_major) << 32 | u64::from(root.stx_dev_minor);
    Some((namespace, device, root.stx_ino))
}

/// Whether an argument of a command line is, as a whole or after a `=`, the path of something below
/// one of some mount points.
fn names_something_in(argument: &[u8], mount_points: &[PathBuf]) -> bool {
    let parts = argument.splitn(2, |b| *b == b'=');
    let mut paths = parts.filter(|p| p.first() == Some(&b'/') && !p.contains(&b' '));
    paths.any(|path| {
        let path = Path::new(OsStr::from_bytes(path));
        mount_points.iter().any(|at| path.starts_with(at))
    })
}

/// Names of store paths: `/HASH-`.
pub(super) fn find(text: &[u8], mut each: impl FnMut(StorePathHash)) {
    for part in text.split(|b| *b == b'/').skip(1) {
        if part.get(HASH) == Some(&b'-')
            && let Ok(hash) = StorePathHash::parse(&part[..HASH])
        {
            each(hash);
        }
    }
}
