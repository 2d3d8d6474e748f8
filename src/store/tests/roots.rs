//! Pins, closures and traces.

use super::*;

#[test]
fn pins_are_kept_until_they_are_taken_away() {
    let (dir, store) = store();
    store.roots().pin(&[path(2), path(1), path(2)]).unwrap();
    let pins = store.roots().pins().unwrap();
    let pinned: Vec<_> = pins.iter().map(|p| p.path.clone()).collect();
    assert_eq!(pinned, [path(1), path(2)]);
    assert!(pins.iter().all(|p| p.since > 1_700_000_000));
    drop(store);
    let store = open(dir.path()).unwrap();
    // Pinned again, it is pinned since when it was.
    store.roots().pin(&[path(1)]).unwrap();
    assert_eq!(store.roots().pins().unwrap(), pins);
    let unpinned = store.roots().unpin(&[path(3), path(1), path(1)]).unwrap();
    assert_eq!(unpinned, [path(1)]);
    assert_eq!(store.roots().pins().unwrap(), pins[1..]);
    assert!(store.roots().unpin(&[path(1)]).unwrap().is_empty());
}

#[test]
fn pins_and_links_survive_a_power_loss() {
    let disk = MemoryBackend::default();
    let (_dir, store) = open_in_memory(disk.clone());
    store.roots().pin(&[path(1)]).unwrap();
    let (_dir, next) = open_in_memory(disk.after(Loss::Power));
    assert_eq!(next.roots().pins().unwrap().len(), 1);
    let root = LinkedRoot {
        path: path(2),
        mount_point: "/a".into(),
    };
    let linked = LinkedRoots::from([("/a/b".into(), root)]);
    store.roots().set_linked(&linked).unwrap();
    let (_dir, next) = open_in_memory(disk.after(Loss::Power));
    assert_eq!(next.roots().linked().unwrap(), linked);
}

#[test]
fn a_closure_has_what_is_registered_once() {
    let (_dir, store) = store();
    for (seed, references) in [(1, vec![2, 1]), (2, vec![3, 9]), (3, vec![1]), (4, vec![])] {
        let mut publication = kept(&store, &path(seed), &[seed; 10]);
        publication.registration.references = references.into_iter().map(path).collect();
        store.paths().publish(&[publication]).unwrap();
    }
    let closure = |roots: &[u8]| -> Vec<_> {
        let closure = store.paths().closure(roots.iter().map(|r| path(*r).hash()));
        let closure = closure.unwrap().into_iter();
        closure.map(|i| i.registration.path).collect()
    };
    assert_eq!(closure(&[1]), [path(1), path(2), path(3)]);
    assert_eq!(closure(&[4, 2, 4]), [path(4), path(2), path(3), path(1)]);
    assert!(closure(&[9]).is_empty());
}

#[test]
fn traces_keep_their_order_and_are_replaced_whole() {
    let (dir, store) = store();
    assert_eq!(store.traces().get("boot").unwrap(), None);
    store
        .traces()
        .put("boot", &[path(3), path(1), path(3)])
        .unwrap();
    store.traces().put("empty", &[]).unwrap();
    store.traces().put("a b/ü", &[path(1)]).unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(
        store.traces().get("boot").unwrap().unwrap(),
        [path(3), path(1), path(3)]
    );
    let expected = [
        ("a b/ü".to_owned(), 1),
        ("boot".to_owned(), 3),
        ("empty".to_owned(), 0),
    ];
    assert_eq!(store.traces().list().unwrap(), expected);
    store.traces().put("boot", &[path(2)]).unwrap();
    assert_eq!(store.traces().get("boot").unwrap().unwrap(), [path(2)]);
    assert!(store.traces().delete("boot").unwrap());
    assert!(!store.traces().delete("boot").unwrap());
    assert_eq!(store.traces().get("boot").unwrap(), None);
}
