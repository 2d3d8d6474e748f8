//! The file system of a small state, without a kernel.

mod profiles;
mod views;
mod writable;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::attributes::DIRECTORY_SIZE;
use super::*;
use crate::nix::hash::NarHash;
use crate::nix::nar::Writer;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Origin, PathOrdinal, Publication, Registration, Store, StoreOptions};
use crate::tree::Unpacker;

fn path(seed: u8) -> StorePath {
    let hash = StorePathHash::from_bytes([seed; 20]);
    StorePath::new(hash, &format!("path-{seed}")).unwrap()
}

/// `bin/x` (executable), `data`, `link`.
fn nar() -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    out.directory().unwrap();
    out.entry(b"bin").unwrap();
    out.directory().unwrap();
    out.entry(b"x").unwrap();
    out.regular(true, 2).unwrap();
    out.contents(b"#!").unwrap();
    out.end_directory().unwrap();
    out.entry(b"data").unwrap();
    out.regular(false, 10).unwrap();
    out.contents(b"0123456789").unwrap();
    out.entry(b"link").unwrap();
    out.symlink(b"../else where").unwrap();
    out.end_directory().unwrap();
    out.finish().unwrap()
}

fn publish(store: &Store, seed: u8) {
    publish_nar(store, seed, &nar());
}

fn publish_nar(store: &Store, seed: u8, nar: &[u8]) {
    let mut writer = store.contents().chunk_writer().unwrap();
    let unpacked = Unpacker::new(&mut writer, &[], &store.spool());
    let unpacked = unpacked.unpack(nar).unwrap();
    let registration = Registration {
        path: path(seed),
        nar_hash: NarHash::of(nar),
        nar_size: nar.len() as u64,
        references: unpacked.references,
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        vouched: false,
    };
    let tree = unpacked.tree;
    let publication = Publication {
        registration,
        origin: Origin::Fetched,
        tree,
        hold: writer.finish().unwrap(),
    };
    store.paths().publish(&[publication]).unwrap();
}

fn file_system(paths: std::ops::Range<u8>) -> (TempDir, FileSystem) {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        memory: 32 << 20,
        create: true,
        store_dir: None,
    };
    let store = Arc::new(Store::open(dir.path(), &options).unwrap());
    paths.for_each(|seed| publish(&store, seed));
    (dir, FileSystem::new(store, None, Arc::default()))
}

fn root() -> Inode {
    Inode::special(Special::Root)
}

fn walk(fs: &FileSystem, place: &str) -> Option<Attributes> {
    let mut at = fs.attributes(root()).unwrap();
    for name in place.split('/') {
        match fs.lookup(at.inode, name.as_bytes()).unwrap() {
            Lookup::Found(found) => at = found,
            Lookup::NeverExists | Lookup::Absent => return None,
        }
    }
    Some(at)
}

/// The names of a listing, read with a limited number of entries at a time.
fn names(fs: &FileSystem, inode: Inode, page: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let mut taken = 0;
        fs.list(inode, offset, &mut |entry| {
            if taken == page {
                return true;
            }
            taken += 1;
            offset = entry.next;
            all.push(String::from_utf8(entry.name).unwrap());
            false
        })
        .unwrap();
        if taken == 0 {
            return all;
        }
    }
}

#[test]
fn a_listing_says_of_the_roots_of_paths_what_lookups_say() {
    let (_dir, fs) = file_system(1..3);
    let mut file = Writer::new(Vec::new());
    file.regular(true, 2).unwrap();
    file.contents(b"#!").unwrap();
    publish_nar(&fs.store, 3, &file.finish().unwrap());
    let mut link = Writer::new(Vec::new());
    link.symlink(b"elsewhere").unwrap();
    publish_nar(&fs.store, 4, &link.finish().unwrap());
    let mut kinds = Vec::new();
    fs.list(Inode::special(Special::Store), 2, &mut |entry| {
        let name = String::from_utf8(entry.name).unwrap();
        let looked_up = walk(&fs, &format!("store/{name}")).unwrap();
        assert_eq!(entry.attributes, looked_up, "{name}");
        assert!(looked_up.settled);
        kinds.push(looked_up.kind);
        false
    })
    .unwrap();
    use Kind::{Directory, File, Link};
    assert_eq!(kinds, [Directory, Directory, File, Link]);
}

#[test]
fn a_name_has_at_most_as_many_bytes_as_the_kernel_allows() {
    let (_dir, fs) = file_system(1..2);
    let bin = walk(&fs, &format!("store/{}/bin", path(1))).unwrap().inode;
    for directory in [root(), Inode::special(Special::Store), bin] {
        let found = fs.lookup(directory, &[b'x'; NAME_MAX]).unwrap();
        assert!(!matches!(found, Lookup::Found(_)));
        let error = fs.lookup(directory, &[b'x'; NAME_MAX + 1]).unwrap_err();
        assert!(matches!(error, FsError::NameTooLong), "{error}");
    }
}

#[test]
fn attributes_are_those_of_nix() {
    let (_dir, fs) = file_system(1..2);
    let base = format!("store/{}", path(1));
    let seen = |place: &str| {
        let a = walk(&fs, &format!("{base}{place}")).unwrap();
        assert_eq!(a.time, UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(fs.attributes(a.inode).unwrap(), a);
        (a.kind, a.mode, a.size, a.links)
    };
    assert_eq!(seen(""), (Kind::Directory, 0o555, DIRECTORY_SIZE, 1));
    assert_eq!(seen("/bin"), (Kind::Directory, 0o555, DIRECTORY_SIZE, 1));
    assert_eq!(seen("/bin/x"), (Kind::File, 0o555, 2, 1));
    assert_eq!(seen("/data"), (Kind::File, 0o444, 10, 1));
    assert_eq!(seen("/link"), (Kind::Link, 0o777, 13, 1));
    let link = walk(&fs, &format!("{base}/link")).unwrap();
    assert_eq!(fs.read_link(link.inode).unwrap(), b"../else where");
}

#[test]
fn names_that_are_not_there_are_told_apart() {
    let (_dir, fs) = file_system(1..2);
    let store = Inode::special(Special::Store);
    let look = |parent, name: &str| fs.lookup(parent, name.as_bytes()).unwrap();
    // It may appear later, so its absence must not be cached for ever.
    assert_eq!(look(store, &path(2).base_name()), Lookup::Absent);
    // The hash exists, but with another name.
    let other = StorePath::new(path(1).hash(), "other").unwrap();
    assert_eq!(look(store, &other.base_name()), Lookup::Absent);
    // Not a store path, or within an immutable path.
    for name in [".git", "lost+found", "", &path(1).hash().to_string()] {
        assert_eq!(look(store, name), Lookup::NeverExists, "{name:?}");
    }
    let inside = walk(&fs, &format!("store/{}", path(1))).unwrap().inode;
    assert_eq!(look(inside, "nothing"), Lookup::NeverExists);
    assert_eq!(look(inside, "dat"), Lookup::NeverExists);
    let file = walk(&fs, &format!("store/{}/data", path(1))).unwrap().inode;
    assert!(matches!(fs.lookup(file, b"x"), Err(FsError::NotADirectory)));
    // Nix creates this one when it opens a store; it exists, and is not listed.
    assert!(matches!(look(store, ".links"), Lookup::Found(_)));
    assert!(!names(&fs, store, 100).contains(&".links".to_owned()));
}

#[test]
fn listings_are_whole_whatever_the_size_of_their_pages() {
    let (_dir, fs) = file_system(1..8);
    let store = Inode::special(Special::Store);
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    expected.extend((1..8).map(|s| path(s).base_name()));
    let inside = walk(&fs, &format!("store/{}", path(1))).unwrap().inode;
    for page in [1, 2, 3, 100] {
        assert_eq!(names(&fs, store, page), expected);
        assert_eq!(names(&fs, inside, page), [".", "..", "bin", "data", "link"]);
        assert_eq!(names(&fs, root(), page), [".", "..", "store", "var"]);
    }
}

#[test]
fn reads_end_where_the_file_ends() {
    let (_dir, fs) = file_system(1..2);
    let inode = |place| {
        walk(&fs, &format!("store/{}/{place}", path(1)))
            .unwrap()
            .inode
    };
    let data = inode("data");
    assert_eq!(fs.read(data, 0, 100).unwrap(), b"0123456789");
    assert_eq!(fs.read(data, 3, 4).unwrap(), b"3456");
    assert_eq!(fs.read(data, 9, 4).unwrap(), b"9");
    assert_eq!(fs.read(data, 10, 4).unwrap(), b"");
    assert_eq!(fs.read(data, u64::MAX, u32::MAX).unwrap(), b"");
    assert!(matches!(
        fs.read(inode("bin"), 0, 1),
        Err(FsError::IsADirectory)
    ));
    assert!(matches!(
        fs.read(inode("link"), 0, 1),
        Err(FsError::NotAFile)
    ));
    assert!(matches!(fs.read_link(data), Err(FsError::NotALink)));
    assert!(matches!(fs.read_link(root()), Err(FsError::NotALink)));
}

#[test]
fn what_a_handle_leads_to_is_found_by_dots() {
    let (_dir, fs) = file_system(1..2);
    let dots = |inode: Inode| {
        [&b"."[..], b".."].map(|name| match fs.lookup(inode, name).unwrap() {
            Lookup::Found(found) => found.inode,
            other => panic!("{other:?}"),
        })
    };
    let top = Inode::node(PathOrdinal(1), 0);
    let mut below = Vec::new();
    fs.list(top, 0, &mut |entry| {
        below.push((entry.name, entry.attributes.inode));
        false
    })
    .unwrap();
    for (name, inode) in below {
        match &name[..] {
            b"." | b".." => {}
            _ => assert_eq!(dots(inode), [inode, top]),
        }
    }
    let [root, store] = [Special::Root, Special::Store].map(Inode::special);
    assert_eq!(dots(top), [top, store]);
    assert_eq!(dots(store), [store, root]);
    assert_eq!(dots(root), [root, root]);
    let gone = fs.lookup(Inode::node(PathOrdinal(77), 0), b".");
    assert!(matches!(gone, Err(FsError::Stale)));
}

#[test]
fn numbers_that_were_never_given_out_are_stale() {
    let (_dir, fs) = file_system(1..2);
    let beyond = Inode::node(PathOrdinal(1), 100);
    let unassigned = Inode::node(PathOrdinal(77), 0);
    for inode in [beyond, unassigned, Inode(0), Inode(u64::MAX), Inode(99)] {
        assert!(fs.attributes(inode).is_err(), "{inode:?}");
        assert!(fs.lookup(inode, b"x").is_err(), "{inode:?}");
        assert!(fs.read(inode, 0, 1).is_err(), "{inode:?}");
        assert!(fs.read_link(inode).is_err(), "{inode:?}");
        assert!(fs.list(inode, 0, &mut |_| true).is_err(), "{inode:?}");
    }
}
