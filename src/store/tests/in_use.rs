//! What a kernel holds or somebody looks up while a removal runs.

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::store::{Cached, KernelCaches, Leaving};

/// A kernel of which the test says what it has of paths, and that does something when it is asked.
struct Kernel {
    has: HashMap<StorePathHash, Cached>,
    /// What it holds no more when it has forgotten the name.
    forgotten: HashSet<StorePathHash>,
    settles: bool,
    meanwhile: Box<dyn Fn() + Send + Sync>,
}

impl Kernel {
    fn that_has(has: &[(u8, Cached)]) -> Self {
        Self {
            has: has.iter().map(|(n, c)| (path(*n).hash(), *c)).collect(),
            forgotten: HashSet::new(),
            settles: true,
            meanwhile: Box::new(|| ()),
        }
    }
}

impl KernelCaches for Kernel {
    fn settle(&self, _: Duration) -> bool {
        self.settles
    }

    fn drop_cached(&self, paths: &[Leaving]) -> Vec<Cached> {
        (self.meanwhile)();
        let hashes = paths.iter().map(|p| p.hash);
        let has = |hash| self.has.get(&hash).copied().unwrap_or(Cached::Nothing);
        hashes.map(has).collect()
    }

    fn forget(&self, paths: &[Leaving], _: Duration) -> Vec<Cached> {
        let cached = |path: &Leaving| match self.forgotten.contains(&path.hash) {
            true => Cached::Dropped,
            false => Cached::Held,
        };
        paths.iter().map(cached).collect()
    }
}

/// Five paths of contents that are their own: 5 refers to 4.
fn five(store: &Store) {
    for n in 1..=5 {
        let mut publication = kept(store, &path(n), &noise(u64::from(n) * 2, 100_000));
        publication.registration.references = (n == 5).then(|| path(4)).into_iter().collect();
        store.paths().publish(&[publication]).unwrap();
    }
}

fn left(store: &Store) -> Vec<StorePath> {
    store.paths().all().unwrap()
}

#[test]
fn what_the_kernel_holds_stays_with_what_it_refers_to() {
    let (_dir, store) = store();
    five(&store);
    let kernel = Kernel::that_has(&[(1, Cached::Held), (2, Cached::Dropped), (5, Cached::Held)]);
    store.paths().set_kernel_caches(Arc::new(kernel));
    let none = HashSet::new();
    assert_eq!(collect(&store, &none, None).paths.len(), 2);
    assert_eq!(left(&store), [path(1), path(4), path(5)]);
    let evicted = evict(&store, 0, &none).unwrap();
    // 4 is not held itself, and what is read of it is fetched again.
    assert_eq!(evicted.paths, [path(4)]);
    // One it merely had cached, after all.
    let kernel = Kernel {
        forgotten: HashSet::from([path(1).hash()]),
        ..Kernel::that_has(&[(1, Cached::Held), (5, Cached::Held)])
    };
    store.paths().set_kernel_caches(Arc::new(kernel));
    assert_eq!(evict(&store, 0, &none).unwrap().paths, [path(1)]);
    assert_eq!(collect(&store, &none, None).paths, [path(1)]);
    store
        .paths()
        .set_kernel_caches(Arc::new(Kernel::that_has(&[])));
    assert_eq!(collect(&store, &none, None).paths.len(), 2);
}

#[test]
fn what_is_in_use_by_name_is_asked_for_when_the_kernel_has_dropped_something() {
    let (_dir, store) = store();
    five(&store);
    let in_use = || Ok(HashSet::from([path(1).hash(), path(5).hash()]));
    let none = HashSet::new();
    store
        .paths()
        .set_kernel_caches(Arc::new(Kernel::that_has(&[(1, Cached::Dropped)])));
    let evicted = store.upkeep().evict(0, &none, &in_use, true).unwrap();
    assert_eq!(evicted.paths, [path(2), path(3), path(4)]);
    let collection = store.upkeep().begin_collection();
    let gone = collection.remove(&none, None, &in_use, &mut |_| true);
    assert_eq!(gone.unwrap().paths.len(), 2);
    assert_eq!(left(&store), [path(1), path(4), path(5)]);
    // An error is no "nothing".
    let fails = || Err(StoreError::InUse("no".into()));
    let collection = store.upkeep().begin_collection();
    let failed = collection.remove(&none, None, &fails, &mut |_| true);
    assert!(matches!(failed, Err(StoreError::InUse(_))));
    assert_eq!(left(&store).len(), 3);
}

#[test]
fn what_is_looked_up_while_a_removal_runs_stays() {
    let (_dir, store) = store();
    let store = Arc::new(store);
    five(&store);
    let looks = store.clone();
    let look = move || {
        let store = &looks;
        store.paths().look_up(path(5).hash()).unwrap().unwrap();
        store.paths().look_up_from(PathOrdinal(2), 1).unwrap();
    };
    // What was looked up before is no use by itself.
    look();
    std::thread::sleep(Duration::from_millis(3));
    let kernel = || Kernel {
        meanwhile: Box::new(look.clone()),
        ..Kernel::that_has(&[])
    };
    store.paths().set_kernel_caches(Arc::new(kernel()));
    let none = HashSet::new();
    assert_eq!(evict(&store, 0, &none).unwrap().paths.len(), 3);
    let all = [1, 2, 3, 4, 5].map(path);
    let dropped = all.each_ref().map(|p| is_dropped(&store, p));
    assert_eq!(dropped, [true, false, true, true, false]);
    collect(&store, &none, None);
    assert_eq!(left(&store), [path(2), path(4), path(5)]);
    // It was a moment ago, and the kernel may not have taken in the answer yet.
    let unsettled = |has: &[_]| Kernel {
        settles: false,
        ..Kernel::that_has(has)
    };
    store.paths().set_kernel_caches(Arc::new(unsettled(&[])));
    collect(&store, &none, None);
    assert_eq!(left(&store), [path(2), path(4), path(5)]);
    // It has, and nobody uses it.
    std::thread::sleep(Duration::from_millis(3));
    store.paths().set_kernel_caches(Arc::new(unsettled(&[
        (2, Cached::Dropped),
        (5, Cached::Dropped),
    ])));
    collect(&store, &none, None);
    assert_eq!(left(&store), []);
}

#[test]
fn where_a_fetch_waits_the_kernel_is_not_asked() {
    let (_dir, store) = store();
    five(&store);
    let in_use = || {
        // Whoever looks all the time keeps nothing above the budget.
        store.paths().look_up(path(3).hash())?;
        Ok(HashSet::from([path(1).hash()]))
    };
    let kernel = Kernel {
        meanwhile: Box::new(|| panic!("it was asked to drop what it has")),
        ..Kernel::that_has(&[2, 4, 5].map(|n| (n, Cached::Held)))
    };
    store.paths().set_kernel_caches(Arc::new(kernel));
    let evicted = store
        .upkeep()
        .evict(0, &HashSet::new(), &in_use, false)
        .unwrap();
    assert_eq!(evicted.paths, [2, 3, 4, 5].map(path));
}

#[test]
fn a_path_that_comes_back_has_its_ordinal_again_if_its_nar_is_the_same() {
    let (dir, store) = store();
    five(&store);
    let none = HashSet::new();
    collect(&store, &none, None);
    let ordinal = |store: &Store, n| {
        let info = store.paths().info(path(n).hash()).unwrap();
        info.unwrap().ordinal
    };
    // First known, then here; here at once; another NAR.
    let publication = kept(&store, &path(3), &noise(6, 100_000));
    let known = (publication.registration.clone(), None);
    store.paths().register(&[known]).unwrap();
    assert_eq!(ordinal(&store, 3), PathOrdinal(3));
    store.paths().publish(&[publication]).unwrap();
    publish(&store, &path(2), &noise(4, 100_000));
    publish(&store, &path(1), b"another");
    let ordinals = [1, 2, 3].map(|n| ordinal(&store, n));
    assert_eq!(ordinals, [6, 2, 3].map(PathOrdinal));
    // Again, after a restart, and not twice.
    collect(&store, &none, None);
    drop(store);
    let store = open(dir.path()).unwrap();
    publish(&store, &path(1), b"another");
    publish(&store, &path(4), &noise(8, 100_000));
    publish(&store, &path(6), b"new");
    let ordinals = [1, 4, 6].map(|n| ordinal(&store, n));
    assert_eq!(ordinals, [6, 4, 7].map(PathOrdinal));
    assert_eq!(
        store.paths().with_ordinal(PathOrdinal(6)).unwrap(),
        Some(path(1))
    );
    assert_sound(&store);
}

#[test]
fn a_crash_gives_no_ordinal_to_something_else() {
    let (dir, store) = store();
    let register = |store: &Store, n| {
        let publication = kept(store, &path(n), &[n; 3000]);
        store
            .paths()
            .register(&[(publication.registration, None)])
            .unwrap();
        let info = store.paths().info(path(n).hash()).unwrap();
        info.unwrap().ordinal.0
    };
    for n in 1..=150 {
        assert_eq!(register(&store, n), u32::from(n));
        let noted = store
            .records
            .get(Family::Meta, b"next-ordinal")
            .unwrap()
            .unwrap();
        let noted = u32::from_le_bytes(noted.as_ref().try_into().unwrap());
        // What the kernel has seen is set apart, and not much more.
        assert!(
            (u32::from(n) + 1..=u32::from(n) + 65).contains(&noted),
            "{n}: {noted}"
        );
    }
    let (_copy, after_crash) = crashed(&dir);
    assert!(register(&after_crash, 151) >= 151);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(register(&store, 151), 151);
}
