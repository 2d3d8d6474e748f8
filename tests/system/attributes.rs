//! What `ls -l` and stat show.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Sandbox, Seen, World, succeed, walk};

#[test]
fn ls_shows_read_only_modes_root_and_the_epoch() {
    let sandbox = Sandbox::mounted();
    let mut seen = BTreeMap::new();
    for package in ["hello", "bash", "libc6"] {
        let mut ls = Command::new("ls");
        ls.args(["-lR", "--time-style=+%b %e %Y"]);
        ls.env("TZ", "UTC").env("LC_ALL", "C");
        let listing = succeed(ls.arg(sandbox.package(World::small(), package)));
        for line in listing.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [mode, _, user, group, _, month, day, year, ..] = fields[..] else {
                continue;
            };
            assert_eq!((user, group), ("root", "root"), "{line}");
            assert_eq!((month, day, year), ("Jan", "1", "1970"), "{line}");
            seen.entry(mode.to_owned()).or_insert(line.to_owned());
        }
    }
    let modes: Vec<_> = seen.keys().map(String::as_str).collect();
    let expected = ["-r--r--r--", "-r-xr-xr-x", "dr-xr-xr-x", "lrwxrwxrwx"];
    assert_eq!(modes, expected, "{seen:?}");
}

#[test]
fn everything_in_a_path_has_the_time_one_and_exact_sizes_and_link_counts() {
    let sandbox = Sandbox::mounted();
    for top in ["hello", "libc6", "coreutils"] {
        for Seen { path, metadata: m } in walk(&sandbox.package(World::small(), top)) {
            let at = path.display();
            for (time, nanoseconds) in [
                (m.mtime(), m.mtime_nsec()),
                (m.atime(), m.atime_nsec()),
                (m.ctime(), m.ctime_nsec()),
            ] {
                assert_eq!((time, nanoseconds), (1, 0), "{at}");
            }
            assert_eq!((m.uid(), m.gid()), (0, 0), "{at}");
            assert_eq!(m.blksize(), 4096, "{at}");
            assert_eq!(m.nlink(), 1, "{at}");
            if m.is_dir() {
                assert_eq!(m.len(), 4096, "{at}");
            } else {
                assert_eq!(m.blocks(), m.len().div_ceil(512), "{at}");
            }
            if m.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                assert_eq!(m.len(), target.as_os_str().len() as u64, "{at}");
            }
        }
    }
}

#[test]
fn a_listing_and_stat_agree_on_number_and_kind() {
    let sandbox = Sandbox::mounted();
    let tops = ["", "store", "var", "var/nix", "var/nix/profiles"].map(|d| sandbox.at.join(d));
    let bash = sandbox.package(World::small(), "bash");
    let directories = walk(&bash).into_iter().filter(|s| s.metadata.is_dir());
    for directory in tops.into_iter().chain(directories.map(|s| s.path)) {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let (path, m) = (entry.path(), fs::symlink_metadata(entry.path()).unwrap());
            let shown = std::os::unix::fs::DirEntryExt::ino(&entry);
            assert_eq!(shown, m.ino(), "{}", path.display());
            assert_eq!(entry.file_type().unwrap(), m.file_type());
        }
    }
}

#[test]
fn the_directories_above_the_paths_have_real_times() {
    let before = SystemTime::now() - Duration::from_secs(1);
    let sandbox = Sandbox::empty();
    sandbox.copy(World::small(), World::small().package("hello"));
    sandbox.mount();
    for directory in ["", "store", "var", "var/nix", "var/nix/profiles"] {
        let m = fs::metadata(sandbox.at.join(directory)).unwrap();
        let time = m.modified().unwrap();
        assert!(time >= before && time <= SystemTime::now(), "{directory}");
        assert_eq!(m.mode() & 0o7777, 0o755, "{directory}");
    }
    let store = fs::metadata(sandbox.store()).unwrap().modified().unwrap();
    sandbox.copy(World::small(), World::small().package("bash"));
    let changed = fs::metadata(sandbox.store()).unwrap().modified().unwrap();
    assert!(
        changed > store,
        "a publication changes the time of the store"
    );
    sandbox.unmount();
    sandbox.mount();
    let again = fs::metadata(sandbox.store()).unwrap().modified().unwrap();
    assert_eq!(again, changed, "a mount does not");
}

#[test]
fn inode_numbers_are_unique_and_the_same_after_a_remount() {
    let numbers = |sandbox: &Sandbox| -> BTreeMap<PathBuf, u64> {
        let seen = walk(&sandbox.at).into_iter();
        seen.map(|s| (s.path, s.metadata.ino())).collect()
    };
    let sandbox = Sandbox::mounted();
    let first = numbers(&sandbox);
    let mut unique: Vec<_> = first.values().collect();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), first.len());
    sandbox.unmount();
    sandbox.mount();
    assert_eq!(numbers(&sandbox), first);
}

#[test]
fn statfs_tells_of_the_disk_of_the_state() {
    let sandbox = Sandbox::mounted();
    let mount = rustix::fs::statvfs(sandbox.store()).unwrap();
    let disk = rustix::fs::statvfs(&sandbox.state).unwrap();
    assert_eq!((mount.f_bsize, mount.f_frsize), (4096, 4096));
    assert_eq!(mount.f_namemax, 255);
    let bytes = |s: &rustix::fs::StatVfs, blocks: u64| blocks * s.f_frsize;
    let total = bytes(&disk, disk.f_blocks);
    assert_eq!(bytes(&mount, mount.f_blocks) >> 12, total >> 12);
    let free = bytes(&disk, disk.f_bfree).abs_diff(bytes(&mount, mount.f_bfree));
    assert!(
        free < total / 20,
        "others write to the disk, but not so much"
    );
    assert!(mount.f_bavail <= mount.f_bfree);
}
