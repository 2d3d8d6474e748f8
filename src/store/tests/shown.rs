//! Paths that are read before they are published.

use super::*;

/// A directory with a file.
fn directory(contents: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory().unwrap();
    writer.entry(b"file").unwrap();
    writer.regular(false, contents.len() as u64).unwrap();
    writer.contents(contents).unwrap();
    writer.end_directory().unwrap();
    writer.finish().unwrap()
}

/// A directory that has arrived, of which something is registered.
fn arrived(store: &Store, contents: &[u8], kind: Option<RootKind>) -> Publication {
    let publication = kept_nar(store, &path(1), &directory(contents));
    let said = (publication.registration.clone(), kind);
    store.paths().register(&[said]).unwrap();
    publication
}

fn info(store: &Store) -> PathInfo {
    store.paths().info(path(1).hash()).unwrap().unwrap()
}

/// The node of the file, if the path can be read.
fn seen(store: &Store, ordinal: PathOrdinal) -> Option<u32> {
    let served = store.paths().serve(ordinal).unwrap()?;
    assert!(store.paths().can_be_read(&served).unwrap());
    served.lookup(0, b"file").unwrap()
}

const DIRECTORY: Option<RootKind> = Some(RootKind::Directory);

#[test]
fn what_is_shown_is_read_under_the_number_that_it_keeps_and_seen_by_mounts_alone() {
    let (_dir, store) = store();
    let publication = arrived(&store, b"contents", DIRECTORY);
    let ordinal = info(&store).ordinal;
    assert_eq!(seen(&store, ordinal), None);
    let shown = store.paths().show(&publication).unwrap().unwrap();
    let node = seen(&store, ordinal);
    assert!(node.is_some());
    assert!(store.paths().all().unwrap().is_empty());
    // Who reads a path in a mount finds it in the store directory.
    let listed = || store.paths().look_up_from(PathOrdinal(0), 10).unwrap();
    assert_eq!(listed(), [(ordinal, path(1), true)]);
    assert!(store.paths().load(ordinal).unwrap().is_none());
    assert_eq!(info(&store).contents, Contents::Absent(DIRECTORY));
    drop(shown);
    assert_eq!(seen(&store, ordinal), None);
    let shown = store.paths().show(&publication).unwrap().unwrap();
    store.paths().publish(&[publication]).unwrap();
    assert_eq!(seen(&store, ordinal), node);
    drop(shown);
    assert_eq!(
        (seen(&store, ordinal), info(&store).ordinal),
        (node, ordinal)
    );
    assert_eq!(store.paths().all().unwrap(), [path(1)]);
}

#[test]
fn what_is_not_as_the_kernel_was_told_is_not_shown() {
    let (_dir, store) = store();
    let is_shown = |publication: &Publication| store.paths().show(publication).unwrap().is_some();
    let unknown = kept_nar(&store, &path(1), &directory(b"contents"));
    assert!(!is_shown(&unknown));
    for kind in [None, Some(RootKind::File)] {
        let (_dir, store) = super::store();
        let publication = arrived(&store, b"contents", kind);
        assert!(store.paths().show(&publication).unwrap().is_none());
    }
    let publication = arrived(&store, b"contents", DIRECTORY);
    let file = kept(&store, &path(1), b"contents");
    let other = kept_nar(&store, &path(1), &directory(b"other"));
    assert!(is_shown(&publication) && !is_shown(&file) && !is_shown(&other));
    // Its own contents, if they come once more, are found as they are.
    store.paths().publish(&[publication]).unwrap();
    assert!(!is_shown(&kept_nar(
        &store,
        &path(1),
        &directory(b"contents")
    )));
}

#[test]
fn what_was_shown_when_the_process_was_killed_comes_again_under_the_same_numbers() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    let publication = arrived(&store, b"contents", DIRECTORY);
    let ordinal = info(&store).ordinal;
    let shown = store.paths().show(&publication).unwrap();
    let node = seen(&store, ordinal);
    assert!(shown.is_some() && node.is_some());
    let (_dir, again) = open_in_memory(disk.after(Loss::Process));
    assert_eq!(info(&again).contents, Contents::Absent(DIRECTORY));
    assert_eq!(
        (seen(&again, ordinal), info(&again).ordinal),
        (None, ordinal)
    );
    let publication = kept_nar(&again, &path(1), &directory(b"contents"));
    let _shown = again.paths().show(&publication).unwrap();
    assert_eq!(seen(&again, ordinal), node);
    again.paths().publish(&[publication]).unwrap();
    assert_eq!(
        (seen(&again, ordinal), info(&again).ordinal),
        (node, ordinal)
    );
}

#[test]
fn whoever_asks_what_is_here_can_wait_for_what_is_shown() {
    let (_dir, store) = store();
    store.paths().await_shown(Duration::from_secs(600));
    let publication = arrived(&store, b"contents", DIRECTORY);
    let shown = store.paths().show(&publication).unwrap().unwrap();
    // Not for ever.
    store.paths().await_shown(Duration::ZERO);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| {
            store.paths().await_shown(Duration::from_secs(600));
            store.paths().all().unwrap()
        });
        store.paths().publish(&[publication]).unwrap();
        drop(shown);
        assert_eq!(waiting.join().unwrap(), [path(1)]);
    });
}
