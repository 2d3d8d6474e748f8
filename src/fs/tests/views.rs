//! Closure views, without a kernel.

use super::*;
use crate::store::{ChangedView, ViewName};

fn define(fs: &FileSystem, name: &str, seeds: &[u8]) {
    let roots: Vec<_> = seeds.iter().map(|seed| path(*seed)).collect();
    let name = ViewName::parse(name).unwrap();
    fs.store.views().define(&name, &roots, &[]).unwrap();
}

/// Paths 1 to 6; `v` shows 1 and 2, `w` 2 and 3.
fn with_views() -> (TempDir, FileSystem) {
    let (dir, fs) = file_system(1..7);
    define(&fs, "v", &[1, 2]);
    define(&fs, "w", &[2, 3]);
    (dir, fs)
}

fn at(fs: &FileSystem, view: &str, place: &str) -> Option<Attributes> {
    let whole = format!(".narfs/closures/{view}/store/{place}");
    walk(fs, whole.trim_end_matches('/'))
}

#[test]
fn a_view_shows_its_paths_and_nothing_else() {
    let (_dir, fs) = with_views();
    let closures = walk(&fs, ".narfs/closures").unwrap();
    let v = walk(&fs, ".narfs/closures/v").unwrap();
    let store = at(&fs, "v", "").unwrap();
    for page in [1, 2, 100] {
        assert_eq!(names(&fs, closures.inode, page), [".", "..", "v", "w"]);
        assert_eq!(names(&fs, v.inode, page), [".", "..", "store"]);
        let mut listed = names(&fs, store.inode, page);
        listed.sort();
        let [one, two] = [1, 2].map(|n| path(n).base_name());
        assert_eq!(listed, [".", "..", &one, &two]);
    }
    let narfs = walk(&fs, ".narfs").unwrap();
    assert_eq!(names(&fs, narfs.inode, 10), [".", "..", "closures"]);
    assert!(!names(&fs, root(), 10).contains(&".narfs".to_owned()));
    for directory in [closures, v, store] {
        assert_eq!((directory.kind, directory.mode), (Kind::Directory, 0o755));
        assert_eq!(fs.attributes(directory.inode).unwrap(), directory);
    }
    let look = |parent: Attributes, name: &str| fs.lookup(parent.inode, name.as_bytes()).unwrap();
    for seed in 3..7 {
        // It may be added to the view later.
        assert_eq!(look(store, &path(seed).base_name()), Lookup::Absent);
    }
    let other = StorePath::new(path(1).hash(), "other").unwrap();
    assert_eq!(look(store, &other.base_name()), Lookup::Absent);
    for name in [".links", "store", "x", ""] {
        assert_eq!(look(store, name), Lookup::NeverExists, "{name}");
    }
    assert_eq!(look(v, "var"), Lookup::NeverExists);
    assert_eq!(look(closures, "x"), Lookup::Absent);
    assert!(matches!(
        fs.read(store.inode, 0, 1),
        Err(FsError::IsADirectory)
    ));
    assert!(matches!(fs.read_link(v.inode), Err(FsError::NotALink)));
}

#[test]
fn files_have_the_number_of_the_store_and_directories_their_own() {
    let (_dir, fs) = with_views();
    let p = path(2).base_name();
    for place in ["bin/x", "data", "link"] {
        let inside = format!("{p}/{place}");
        let expected = walk(&fs, &format!("store/{inside}")).unwrap();
        assert_eq!(at(&fs, "v", &inside).unwrap(), expected);
        assert_eq!(at(&fs, "w", &inside).unwrap(), expected);
    }
    for place in ["", "/bin"] {
        let inside = format!("{p}{place}");
        let same = walk(&fs, &format!("store/{inside}")).unwrap();
        let [v, w] = ["v", "w"].map(|view| at(&fs, view, &inside).unwrap());
        assert!(v.inode != w.inode && v.inode != same.inode && w.inode != same.inode);
        for seen in [v, w] {
            assert_eq!(fs.attributes(seen.inode).unwrap(), seen);
            let inode = same.inode;
            assert_eq!(Attributes { inode, ..seen }, same);
            assert_eq!(names(&fs, seen.inode, 2), names(&fs, inode, 2));
        }
    }
    // A listing says the same as lookups, and `..` leads into the view.
    let entries = |inode| {
        let mut all = Vec::new();
        let take = &mut |e: Entry| {
            all.push((String::from_utf8(e.name).unwrap(), e.attributes));
            false
        };
        fs.list(inode, 0, take).unwrap();
        all
    };
    let top = at(&fs, "v", "").unwrap();
    let path_root = at(&fs, "v", &p).unwrap();
    let bin = at(&fs, "v", &format!("{p}/bin")).unwrap();
    assert_eq!(entries(bin.inode)[1], ("..".to_owned(), path_root));
    assert_eq!(entries(path_root.inode)[1], ("..".to_owned(), top));
    assert!(entries(path_root.inode).contains(&("bin".to_owned(), bin)));
    assert!(entries(top.inode).contains(&(p, path_root)));
    let v = walk(&fs, ".narfs/closures/v").unwrap();
    assert_eq!(entries(top.inode)[1], ("..".to_owned(), v));
}

/// Every number of a view that could be guessed, with its attributes.
fn guesses(fs: &FileSystem) -> Vec<(Inode, Attributes)> {
    let numbers = (0..20).flat_map(|list| (0..10).map(move |place| Member { list, place }));
    let inodes = numbers.flat_map(|member| (0..10).map(move |node| Inode::member(member, node)));
    let there = inodes.filter_map(|inode| Some((inode, fs.attributes(inode).ok()?)));
    there.collect()
}

#[test]
fn guessed_numbers_lead_to_what_is_shown_only() {
    let (_dir, fs) = with_views();
    // Two directories of each view, and two of each of its two paths.
    let before = guesses(&fs);
    assert_eq!(before.len(), 2 * (2 + 2 * 2));
    for (inode, attributes) in &before {
        assert_eq!(
            (attributes.inode, attributes.kind),
            (*inode, Kind::Directory)
        );
    }
    let gone = at(&fs, "v", &format!("{}/bin", path(1))).unwrap().inode;
    let stays = at(&fs, "v", &format!("{}/bin", path(2))).unwrap();
    define(&fs, "v", &[2]);
    assert_eq!(guesses(&fs).len(), before.len() - 2);
    assert!(matches!(fs.attributes(gone), Err(FsError::Stale)));
    assert!(matches!(fs.lookup(gone, b"x"), Err(FsError::Stale)));
    assert!(fs.list(gone, 0, &mut |_| true).is_err());
    assert_eq!(at(&fs, "v", &format!("{}/bin", path(2))).unwrap(), stays);
    let store = at(&fs, "v", "").unwrap().inode;
    fs.store.views().remove("v").unwrap();
    for inode in [store, stays.inode] {
        assert!(matches!(fs.attributes(inode), Err(FsError::Stale)));
        assert!(matches!(fs.lookup(inode, b"x"), Err(FsError::Stale)));
        assert!(fs.list(inode, 0, &mut |_| true).is_err());
    }
    // In the new view, nothing of the old one is reachable.
    define(&fs, "v", &[2]);
    assert!(at(&fs, "v", "").unwrap().inode != store);
    assert!(fs.attributes(stays.inode).is_err());
}

#[test]
fn what_is_not_here_is_not_shown_where_nobody_is_asked() {
    let (_dir, fs) = file_system(1..3);
    define(&fs, "v", &[1, 9]);
    let store = at(&fs, "v", "").unwrap().inode;
    assert_eq!(names(&fs, store, 10), [".", "..", &path(1).base_name()]);
    assert_eq!(at(&fs, "v", &path(9).base_name()), None);
    publish(&fs.store, 9);
    assert_eq!(names(&fs, store, 10).len(), 4);
    assert!(at(&fs, "v", &format!("{}/bin/x", path(9))).is_some());
}

#[test]
fn what_the_kernel_has_to_forget_of_a_view_is_named() {
    let changed = |name: &str, id, came_or_went, entries: &[&str]| ChangedView {
        id,
        name: name.to_owned(),
        came_or_went,
        entries: entries.iter().map(|e| (*e).to_owned()).collect(),
    };
    let stale = stale_views(&[changed("a", 1, false, &["x", "y"])]);
    assert_eq!(stale.views, None);
    let entries = StaleEntries {
        directory: Inode::view_store(1),
        above: Inode::view(1),
        names: vec!["x".into(), "y".into()],
    };
    assert_eq!(stale.paths, [entries]);
    let stale = stale_views(&[changed("a", 1, true, &[]), changed("b", 3, true, &["x"])]);
    let views = stale.views.unwrap();
    assert_eq!(views.directory, Inode::special(Special::Closures));
    assert_eq!(views.names, ["a", "b"]);
    // A listing in progress is waited for.
    assert_eq!(stale.paths[0].names, ["."]);
}

#[test]
fn a_listing_of_a_view_reads_no_tree_of_a_directory() {
    let (_dir, fs) = with_views();
    let store = at(&fs, "v", "").unwrap();
    let misses = || {
        let counts = fs.store.contents().cache_counts();
        counts.tree_hits + counts.tree_misses
    };
    let before = misses();
    assert_eq!(names(&fs, store.inode, 10).len(), 4);
    assert_eq!(misses(), before);
}
