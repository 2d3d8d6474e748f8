//! Reading in every way that programs do it, and names, targets and directories that are odd.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, SeekFrom};
use rustix::io::Errno;

use crate::support::{Sandbox, World, read_everything, run, wait_until, walk};

const MIB: usize = 1 << 20;

/// Bytes that look random and are the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = std::iter::repeat_with(|| next().to_le_bytes());
    words.flatten().take(length).collect()
}

/// A tree of 40 MiB, added to the mounted state; the tree, and the same in the mount.
fn big_tree(sandbox: &Sandbox) -> (PathBuf, PathBuf) {
    let tree = sandbox.make_dir("big");
    fs::write(tree.join("noise"), noise(1, 24 * MIB)).unwrap();
    fs::write(tree.join("zeros"), vec![0; 8 * MIB]).unwrap();
    let text: String = (0..400_000).map(|n| format!("line {n}\n")).collect();
    fs::write(tree.join("text"), text).unwrap();
    fs::write(tree.join("repeated"), noise(2, MIB).repeat(4)).unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    for size in [1, 4095, 4096, 4097, 65_535, 131_072, 131_073] {
        fs::write(
            tree.join(format!("size-{size}")),
            noise(size, size as usize),
        )
        .unwrap();
    }
    let added = sandbox.store().join(sandbox.add(&tree));
    (tree, added)
}

/// The chunks that were read from the database so far.
fn decoded(sandbox: &Sandbox) -> u64 {
    let metrics = sandbox.narfs(&["metrics"]);
    let line = metrics
        .lines()
        .find(|l| l.starts_with("narfs_cache_misses_total{cache=\"chunk\"}"));
    let count = line.and_then(|l| l.split(' ').nth(1)).unwrap();
    count.parse().unwrap()
}

#[test]
fn what_follows_is_decoded_ahead_of_a_reader_in_order_and_nothing_twice() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let tree = sandbox.make_dir("big");
    let content = noise(7, 16 * MIB);
    fs::write(tree.join("noise"), &content).unwrap();
    // What is read in part is decoded again by who reads all, and so lies in a file of its own.
    fs::write(tree.join("jumps"), noise(8, 16 * MIB)).unwrap();
    let name = sandbox.add(&tree);
    let path = format!("/nix/store/{name}");
    let chunks = sandbox.json(&["debug", "tree", &path])["chunks"].clone();
    let is_of_noise = |chunk: &&serde_json::Value| chunk["offset"].as_u64().unwrap() >= 16 << 20;
    let chunks = chunks
        .as_array()
        .unwrap()
        .iter()
        .filter(is_of_noise)
        .count() as u64;
    let other = File::open(sandbox.store().join(&name).join("jumps")).unwrap();
    let file = File::open(sandbox.store().join(&name).join("noise")).unwrap();

    let before = decoded(&sandbox);
    let mut jumped = vec![0; 4096];
    for at in [3, 14, 1, 9, 6, 12] {
        other.read_exact_at(&mut jumped, at << 20).unwrap();
    }
    // At most two chunks have a page.
    let jumps = decoded(&sandbox) - before;
    assert!((6..=12).contains(&jumps), "{jumps}");

    let mut read = vec![0; MIB];
    for (at, part) in read.chunks_mut(64 << 10).enumerate() {
        file.read_exact_at(part, (at as u64) << 16).unwrap();
    }
    assert!(read == content[..MIB]);
    // The kernel asks for 256 KiB ahead at most.
    let within = content.len() as u64 / chunks;
    let asked = (MIB as u64 + (256 << 10)) / within;
    wait_until("it is ahead", || {
        decoded(&sandbox) - before > jumps + asked + 2
    });

    let mut rest = vec![0; content.len() - MIB];
    file.read_exact_at(&mut rest, MIB as u64).unwrap();
    assert!(rest == content[MIB..]);
    // The first one may have been begun before it was known that it is read in order.
    let all = decoded(&sandbox) - before - jumps;
    assert!((chunks..=chunks + 1).contains(&all), "{all} of {chunks}");
}

#[test]
fn random_reads_of_a_big_file_are_equal() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let (tree, added) = big_tree(&sandbox);
    let offsets = noise(3, 8 * 400);
    let offsets: Vec<u64> = offsets
        .chunks_exact(8)
        .map(|b| u64::from_le_bytes(b.try_into().unwrap()))
        .collect();
    for entry in fs::read_dir(&tree).unwrap() {
        let name = entry.unwrap().file_name();
        let expected = fs::read(tree.join(&name)).unwrap();
        let file = File::open(added.join(&name)).unwrap();
        for (at, offset) in offsets.iter().enumerate() {
            let offset = offset % (expected.len() as u64 + 5000);
            let length = [1, 7, 4096, 5000, 131_072, 300_000][at % 6];
            let mut buffer = vec![0xaa; length];
            let read = file.read_at(&mut buffer, offset).unwrap();
            let start = expected.len().min(offset as usize);
            let end = expected.len().min(start + length);
            assert_eq!(read, end - start, "{name:?} {offset}+{length}");
            assert!(
                buffer[..read] == expected[start..end],
                "{name:?} {offset}+{length}"
            );
        }
    }
    assert_eq!(read_everything(&added), read_everything(&tree));
}

#[test]
fn reads_past_the_page_cache_are_equal() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let (tree, added) = big_tree(&sandbox);
    for name in ["noise", "text", "size-131073", "size-1", "empty"] {
        let expected = fs::read(tree.join(name)).unwrap();
        let direct = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(added.join(name))
            .unwrap();
        let mut contents = Vec::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = direct.read_at(&mut buffer, contents.len() as u64).unwrap();
            if read == 0 {
                break;
            }
            contents.extend_from_slice(&buffer[..read]);
        }
        assert!(contents == expected, "{name}");
    }
}

#[test]
fn concurrent_readers_of_one_file_see_the_same() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let (tree, added) = big_tree(&sandbox);
    let expected = fs::read(tree.join("noise")).unwrap();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (expected, added) = (&expected, &added);
            scope.spawn(move || {
                let file = File::open(added.join("noise")).unwrap();
                let mut buffer = vec![0; 200_000];
                // Each from another place on, so that they meet.
                for step in 0..120 {
                    let at = (step * 200_000 + reader * 3_000_000) % (expected.len() - 200_000);
                    file.read_exact_at(&mut buffer, at as u64).unwrap();
                    assert!(buffer == expected[at..at + buffer.len()], "{at}");
                }
            });
        }
    });
}

#[test]
fn a_mapped_file_has_the_contents_of_the_file() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let (tree, added) = big_tree(&sandbox);
    for name in ["noise", "size-4097"] {
        let expected = fs::read(tree.join(name)).unwrap();
        let file = File::open(added.join(name)).unwrap();
        for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: a new mapping of an open file, which nobody can shorten.
            let mapped = unsafe {
                let none = std::ptr::null_mut();
                libc::mmap(none, expected.len(), protection, flags, file.as_raw_fd(), 0)
            };
            assert_ne!(
                mapped,
                libc::MAP_FAILED,
                "{}",
                std::io::Error::last_os_error()
            );
            // SAFETY: the mapping is as long as this and lives until it is unmapped below.
            unsafe {
                let bytes = std::slice::from_raw_parts(mapped.cast::<u8>(), expected.len());
                assert!(bytes == expected, "{name}");
                libc::munmap(mapped, expected.len());
            }
        }
        // SAFETY: as above; it must not succeed.
        let writable = unsafe {
            let (none, both) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
            libc::mmap(none, 4096, both, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_eq!(writable, libc::MAP_FAILED, "a shared writable mapping");
    }
}

#[test]
fn files_have_no_holes_and_lseek_says_so() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let (_, added) = big_tree(&sandbox);
    let file = File::open(added.join("zeros")).unwrap();
    let size = 8 * MIB as u64;
    let seek = |from| rustix::fs::seek(&file, from);
    for _ in 0..2 {
        assert_eq!(seek(SeekFrom::Hole(0)), Ok(size));
        assert_eq!(seek(SeekFrom::Hole(5000)), Ok(size));
        assert_eq!(seek(SeekFrom::Data(0)), Ok(0));
        assert_eq!(seek(SeekFrom::Data(5000)), Ok(5000));
        assert_eq!(seek(SeekFrom::Data(size)), Err(Errno::NXIO));
        assert_eq!(seek(SeekFrom::End(-1)), Ok(size - 1));
    }
}

#[test]
fn there_are_no_extended_attributes_and_no_flags() {
    let sandbox = Sandbox::mounted();
    let bash = sandbox.package(World::small(), "bash");
    for at in [&sandbox.at, &sandbox.store(), &bash, &bash.join("bin/bash")] {
        // Twice: by the daemon's answer, and by what the kernel made of it.
        for _ in 0..2 {
            let mut buffer = [0; 64];
            for name in ["user.x", "security.capability", "trusted.overlay.opaque"] {
                let got = rustix::fs::getxattr(at, name, &mut buffer);
                assert_eq!(got, Err(Errno::OPNOTSUPP), "{name} {}", at.display());
            }
            // The kernel's own answer for access control lists.
            let list = rustix::fs::getxattr(at, "system.posix_acl_access", &mut buffer);
            let none = [Err(Errno::OPNOTSUPP), Err(Errno::NODATA)];
            assert!(none.contains(&list), "{list:?}");
            let listed = rustix::fs::listxattr(at, &mut buffer);
            assert!(
                matches!(listed, Err(Errno::OPNOTSUPP) | Ok(0)),
                "{listed:?}"
            );
            let file = File::open(at).unwrap();
            let mut flags: libc::c_long = 0;
            // SAFETY: FS_IOC_GETFLAGS writes at most a long.
            let got = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) };
            let error = std::io::Error::last_os_error().raw_os_error();
            assert_eq!((got, error), (-1, Some(libc::ENOTTY)), "{}", at.display());
        }
    }
}

#[test]
fn a_directory_of_thousands_is_listed_whole_from_any_place() {
    const COUNT: usize = 7000;
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let tree = sandbox.make_dir("many");
    for n in 0..COUNT {
        fs::write(tree.join(format!("a-name-that-takes-some-room-{n:05}")), "").unwrap();
    }
    let added = sandbox.store().join(sandbox.add(&tree));
    let mut directory = Dir::new(
        rustix::fs::open(
            &added,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap(),
    )
    .unwrap();
    let rest = |directory: &mut Dir| -> Vec<(Vec<u8>, i64)> {
        std::iter::from_fn(|| directory.read())
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().to_bytes().to_owned(), e.offset()))
            .collect()
    };
    let first = rest(&mut directory);
    let unique: BTreeSet<_> = first.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!((first.len(), unique.len()), (COUNT + 2, COUNT + 2));
    assert_eq!((&*first[0].0, &*first[1].0), (&b"."[..], &b".."[..]));
    directory.rewind();
    assert_eq!(rest(&mut directory), first, "after rewinddir");
    for at in [0, 1, 2, 63, 64, 3500, COUNT, COUNT + 1] {
        directory.seek(first[at].1).unwrap();
        assert_eq!(
            rest(&mut directory),
            first[at + 1..],
            "after seekdir to {at}"
        );
    }
}

/// A tree with the oddest names and targets that Linux allows.
fn odd_tree(dir: &Path) {
    let bytes = |b: &'static [u8]| OsStr::from_bytes(b);
    let names: [&[u8]; 7] = [
        b"\xff\xfe not UTF-8 \x80",
        b"line\nbreak",
        b"\x01\x1b[31mcolour",
        b" blank ",
        b"back\\slash\"quote'",
        "\u{fc}ml\u{e4}ut".as_bytes(),
        b"...",
    ];
    for name in names {
        fs::write(dir.join(bytes(name)), name).unwrap();
    }
    fs::write(dir.join("n".repeat(255)), "the longest name").unwrap();
    fs::create_dir(dir.join(bytes(b"dir\xff"))).unwrap();
    fs::write(dir.join(bytes(b"dir\xff")).join(bytes(b"\xff")), "").unwrap();
    symlink(bytes(b"\xff\xfe\n nowhere"), dir.join("odd-target")).unwrap();
    symlink("t/".repeat(2047), dir.join("long-target")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    symlink("/", dir.join("root")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
}

#[test]
fn odd_names_and_targets_are_kept_byte_for_byte() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let tree = sandbox.make_dir("odd");
    odd_tree(&tree);
    let added = sandbox.store().join(sandbox.add(&tree));
    let names = |top: &Path| -> BTreeSet<Vec<u8>> {
        let seen = walk(top).into_iter();
        seen.map(|s| {
            s.path
                .strip_prefix(top)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_owned()
        })
        .collect()
    };
    assert_eq!(names(&added), names(&tree));
    for seen in walk(&tree) {
        let here = added.join(seen.path.strip_prefix(&tree).unwrap());
        if seen.metadata.is_symlink() {
            for _ in 0..2 {
                assert_eq!(
                    fs::read_link(&here).unwrap(),
                    fs::read_link(&seen.path).unwrap()
                );
            }
        } else if seen.metadata.is_file() {
            assert_eq!(fs::read(&here).unwrap(), fs::read(&seen.path).unwrap());
        }
    }
    let looped = fs::metadata(added.join("loop")).unwrap_err();
    assert_eq!(looped.raw_os_error(), Some(libc::ELOOP));
    let dumps = [&tree, &added].map(|top| {
        let mut nix = std::process::Command::new("nix-store");
        run(nix.arg("--dump").arg(top), b"").stdout
    });
    assert!(dumps[0] == dumps[1]);
}

#[test]
fn a_path_that_is_a_file_or_a_link_is_served_as_one() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let file = sandbox.dir().join("builder.sh");
    fs::write(&file, "#!/bin/sh\necho it runs\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&file, mode).unwrap();
    let link = sandbox.dir().join("link");
    symlink("builder.sh", &link).unwrap();
    let added = sandbox.store().join(sandbox.add(&file));
    assert_eq!(fs::read(&added).unwrap(), fs::read(&file).unwrap());
    let ran = run(&mut std::process::Command::new(&added), b"");
    assert_eq!(ran.stdout, b"it runs\n");
    let inside = fs::metadata(added.join("inside")).unwrap_err();
    assert_eq!(inside.raw_os_error(), Some(libc::ENOTDIR));
    let added = sandbox.store().join(sandbox.add(&link));
    assert_eq!(fs::read_link(&added).unwrap(), Path::new("builder.sh"));
}

#[test]
fn links_of_nix_optimisation_are_an_empty_directory_that_is_not_listed() {
    let sandbox = Sandbox::mounted();
    let links = sandbox.store().join(".links");
    assert!(fs::metadata(&links).unwrap().is_dir());
    assert_eq!(fs::read_dir(&links).unwrap().count(), 0);
    let listed = fs::read_dir(sandbox.store()).unwrap();
    let hidden = listed
        .map(|e| e.unwrap().file_name())
        .filter(|n| n == ".links");
    assert_eq!(hidden.count(), 0);
    let store = fs::metadata(links.join("..")).unwrap();
    let expected = fs::metadata(sandbox.store()).unwrap();
    let number = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(number(&store), number(&expected));
}
