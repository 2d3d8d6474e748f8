//! Trees that are larger than their share of the memory.

use super::*;

const FILES: usize = 30_000;

/// A directory of empty files and, at its end, one with contents.
fn many() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory().unwrap();
    for n in 0..FILES {
        writer.entry(name(n).as_bytes()).unwrap();
        writer.regular(false, 0).unwrap();
    }
    writer.entry(b"last").unwrap();
    writer.regular(false, 5).unwrap();
    writer.contents(b"hello").unwrap();
    writer.end_directory().unwrap();
    writer.finish().unwrap()
}

fn name(n: usize) -> String {
    format!("a file with a name that is rather long {n:06}")
}

fn large() -> (TempDir, Store, PathOrdinal) {
    let (dir, store) = store();
    let publication = kept_nar(&store, &path(1), &many());
    assert!(publication.tree.bytes().len() > 2_000_000);
    store.paths().publish(&[publication]).unwrap();
    (dir, store, PathOrdinal(1))
}

fn serve(store: &Store, ordinal: PathOrdinal) -> ServedPath {
    store.paths().serve(ordinal).unwrap().unwrap()
}

#[test]
fn a_tree_that_is_larger_than_its_share_is_loaded_once() {
    let (_dir, store, ordinal) = large();
    serve(&store, ordinal);
    let before = store.contents().cache_counts();
    for n in 0..200 {
        let name = name(n * 7919 % FILES);
        let path = serve(&store, ordinal);
        let node = path.lookup(0, name.as_bytes()).unwrap().unwrap();
        assert_eq!(path.name(node).unwrap(), name.as_bytes());
        assert_eq!(path.parent(node).unwrap(), 0);
    }
    let after = store.contents().cache_counts();
    assert_eq!(after.tree_misses, before.tree_misses);
    assert!(after.tree_bytes < 1 << 20, "{} bytes", after.tree_bytes);
    // Whoever wants it whole still has it whole.
    let whole = store.paths().load(ordinal).unwrap().unwrap();
    assert_eq!(whole.tree().len() as usize, FILES + 2);
    assert_eq!(serve(&store, ordinal).node_count(), whole.tree().len());
}

#[test]
fn contents_of_a_large_tree_are_read_dropped_and_read_again() {
    let (_dir, store, ordinal) = large();
    let read = |path: &ServedPath| {
        let last = path.lookup(0, b"last").unwrap().unwrap();
        let Some(crate::tree::NodeKind::File { offset, size, .. }) = path.kind(last).unwrap()
        else {
            panic!("not a file");
        };
        let mut out = Vec::new();
        let read = store
            .contents()
            .serve(path.contents(), (offset, size), false, &mut out);
        read.map(|()| out)
    };
    let early = serve(&store, ordinal);
    assert_eq!(read(&early).unwrap(), b"hello");
    assert!(store.paths().can_be_read(&early).unwrap());
    evict(&store, 0, &HashSet::new()).unwrap();
    store.contents().forget_all();
    let misses = || store.contents().cache_counts().chunk_misses;
    let before = misses();
    // It is not decoded ahead, nor is that an error.
    store.contents().load_ahead(early.contents(), 0);
    assert!(matches!(read(&early), Err(StoreError::Dropped { .. })));
    assert!(!store.paths().can_be_read(&serve(&store, ordinal)).unwrap());
    let again = kept_nar(&store, &path(1), &many());
    store.paths().publish(&[again]).unwrap();
    store.contents().forget_all();
    let now = serve(&store, ordinal);
    for chunk in now.chunks_in(0, 5).unwrap() {
        store.contents().load_ahead(now.contents(), chunk);
    }
    let loaded = misses();
    assert_eq!(loaded, before + 3);
    assert_eq!(read(&now).unwrap(), b"hello");
    assert_eq!(misses(), loaded);
    assert_eq!(read(&early).unwrap(), b"hello");
}

#[test]
fn a_temporary_file_that_fails_is_an_error_once_and_made_anew() {
    let (_dir, store, ordinal) = large();
    let path = serve(&store, ordinal);
    store.contents().damage_large(path.contents());
    let error = path.lookup(0, b"last").unwrap_err();
    assert!(matches!(error, StoreError::TemporaryTree { .. }), "{error}");
    // It is no damage of the state.
    assert!(!error.is_damage());
    assert!(serve(&store, ordinal).lookup(0, b"last").unwrap().is_some());
}

#[test]
fn a_large_tree_is_served_from_memory_where_no_temporary_file_can_be_made() {
    let (_dir, store, ordinal) = large();
    std::fs::remove_dir(store.spool()).unwrap();
    let path = serve(&store, ordinal);
    assert!(path.lookup(0, b"last").unwrap().is_some());
}
