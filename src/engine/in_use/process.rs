//! Inspection of one process through proc(5).
//!
//! Invariant: no file system receives a request, least of all our own: a daemon that waits for its
//! own reply could not even be killed. Links in /proc are therefore read with `AT_STATX_DONT_SYNC`,
//! which returns what the kernel has cached.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use narfs_mounting::mountinfo::{self, Mounted};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::nix::store_path::StorePathHash;

/// Length of a hash in characters.
const HASH: usize = 32;

/// File system type of an overlay, which uses what lies below it.
const OVERLAY: &str = "overlay";
const LINKS: [&str; 3] = ["exe", "cwd", "root"];

/// What counts as a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::engine) enum Use {
    /// A process has it open, mapped, mounted or on its command line; its contents must stay.
    Open,
    /// Also: a process has it in its environment, or the kernel may start it; it may be opened by
    /// name later.
    Known,
}

/// Uses found, each with the file in /proc or /sys that shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Store path hashes.
    pub(super) hashes: HashMap<StorePathHash, PathBuf>,
    /// Inode numbers in our file system.
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

    /// Adds the hashes in a text.
    pub(super) fn read(&mut self, from: &Path, text: &[u8]) {
        find(text, |hash| {
            self.hashes.entry(hash).or_insert_with(|| from.to_owned());
        });
    }

    /// Adds the hashes in a file, if it can be read.
    pub(super) fn read_file(&mut self, file: &Path) {
        if let Ok(text) = fs::read(file) {
            self.read(file, &text);
        }
    }
}

/// The mounts of processes, by mount namespace and root: most processes share one.
#[derive(Default)]
pub(super) struct Mounts {
    seen: HashMap<(PathBuf, u64, u64), Vec<PathBuf>>,
}

/// Inspects processes.
pub(super) struct Inspector {
    pub(super) which: Use,
    /// Device number of our file system.
    pub(super) superblock: Option<u32>,
    pub(super) mounts: Mounts,
}

/// Whether these are the arguments of `narfs forget`, which does not use what it names; nor does `sudo` with
/// the same arguments.
fn forgets(arguments: &[u8]) -> bool {
    let mut all = arguments.split(|b| *b == 0);
    all.any(|argument| argument.ends_with(b"narfs")) && all.any(|argument| argument == b"forget")
}

impl Inspector {
    /// Inspects what needs no lock of the process's memory; never blocks.
    pub(super) fn inspect_unlocked(&mut self, process: &Path) -> Found {
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
        self.inspect_mounts(process, &mut found);
        found
    }

    /// Inspects what needs the lock of the process's memory; blocks while the process waits for a
    /// page of a file with the lock held, as in the middle of execve(2).
    pub(super) fn inspect_locked(&mut self, process: &Path) -> Found {
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
            let key = mount_list_key(process);
            let prefixes = key.and_then(|key| self.mounts.seen.get(&key));
            let is_forgotten = forgets(&arguments);
            for argument in arguments.split(|b| *b == 0) {
                let names = prefixes.is_some_and(|all| is_path_below(argument, all));
                let names = names && !is_forgotten;
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

    /// The inode number of the target of a link in /proc, if that is in our file system.
    fn our_inode(&self, link: &Path) -> Option<u64> {
        let superblock = self.superblock?;
        let stat = rustix::fs::statx(CWD, link, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
        let ours = (stat.stx_dev_major, stat.stx_dev_minor) == (0, superblock);
        ours.then_some(stat.stx_ino)
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

    /// Inspects the mounts of a process: parts of store paths, overlays above them, and mounts
    /// within them.
    fn inspect_mounts(&mut self, process: &Path, found: &mut Found) {
        let (Some(superblock), Some(key)) = (self.superblock, mount_list_key(process)) else {
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
            // The root of the mount, a lower directory of the overlay, or the directory that is
            // mounted over.
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

/// Identifies a list of mounts: by the mount namespace, and the root below which mounts are shown.
fn mount_list_key(process: &Path) -> Option<(PathBuf, u64, u64)> {
    let namespace = fs::read_link(process.join("ns/mnt")).ok()?;
    let flags = AtFlags::STATX_DONT_SYNC;
    let root = rustix::fs::statx(CWD, process.join("root"), flags, StatxFlags::INO).ok()?;
    let device = u64::from(root.stx_dev_major) << 32 | u64::from(root.stx_dev_minor);
    Some((namespace, device, root.stx_ino))
}

/// Whether a command line argument, or its part after a `=`, is a path below one of the mount
/// points.
fn is_path_below(argument: &[u8], mount_points: &[PathBuf]) -> bool {
    let parts = argument.splitn(2, |b| *b == b'=');
    let mut paths = parts.filter(|p| p.first() == Some(&b'/') && !p.contains(&b' '));
    paths.any(|path| {
        let path = Path::new(OsStr::from_bytes(path));
        mount_points.iter().any(|at| path.starts_with(at))
    })
}

/// Finds names of store paths: `/HASH-`.
pub(super) fn find(text: &[u8], mut each: impl FnMut(StorePathHash)) {
    for part in text.split(|b| *b == b'/').skip(1) {
        if part.get(HASH) == Some(&b'-')
            && let Ok(hash) = StorePathHash::parse(&part[..HASH])
        {
            each(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_forgets_a_path_does_not_use_it() {
        for (arguments, expected) in [
            ("/usr/bin/narfs\0--state\0/s\0forget\0/nix/store/x\0", true),
            ("sudo\0narfs\0forget\0/nix/store/x\0", true),
            ("narfs\0cat\0/nix/store/x\0", false),
            ("cat\0/nix/store/x/forget\0narfs\0", false),
            ("", false),
        ] {
            assert_eq!(forgets(arguments.as_bytes()), expected, "{arguments}");
        }
    }
}
