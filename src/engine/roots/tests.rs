//! Roots of every kind, in a directory laid out by Nix's rules.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;
use crate::fetch;
use crate::store::StoreOptions;

/// A state with two paths, and a directory outside of it.
struct State {
    dir: tempfile::TempDir,
    store: Store,
    a: StorePath,
    b: StorePath,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            memory: 16 << 20,
            create: true,
            store_dir: None,
        };
        let store = Store::open(&dir.path().join("state"), &options).unwrap();
        let add = |name: &str| {
            let file = dir.path().join(name);
            fs::write(&file, name).unwrap();
            fetch::add(&store, &file, name).unwrap()
        };
        let (a, b) = (add("a"), add("b"));
        fs::create_dir_all(store.dir().join("gcroots/auto")).unwrap();
        Self { dir, store, a, b }
    }

    fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.store.dir().join(DIRECTORY).join(name.as_ref())
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn full(&self, path: &StorePath) -> String {
        path.to_full(self.store.store_dir())
    }

    /// Paths and origins of all roots, sorted, and stale links.
    fn look(&self) -> (Vec<(StorePath, String)>, Vec<PathBuf>) {
        let links = links(&self.store).unwrap();
        let roots = links.roots.into_iter().map(|r| (r.path, r.from));
        let mut roots: Vec<_> = roots.collect();
        roots.sort();
        let stale = links.stale.into_iter().map(|s| s.link);
        (roots, stale.collect())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn no_directory_is_no_roots() {
    let state = State::new();
    fs::remove_dir_all(state.store.dir().join(DIRECTORY)).unwrap();
    assert_eq!(state.look(), (vec![], vec![]));
}

#[test]
fn links_into_the_store_are_roots_however_deep_they_point_and_lie() {
    let state = State::new();
    fs::create_dir_all(state.at("x/y/z")).unwrap();
    symlink(state.full(&state.a), state.at("direct")).unwrap();
    let deep = format!("{}/share/doc", state.full(&state.b));
    symlink(deep, state.at("x/y/z/deep")).unwrap();
    // Through mount points elsewhere, also relative to the link.
    symlink(format!("/mnt/n/store/{}", state.b), state.at("mounted")).unwrap();
    symlink(format!("../../nix/store/{}", state.a), state.at("x/near")).unwrap();
    let expected = [
        (&state.a, "direct"),
        (&state.a, "x/near"),
        (&state.b, "mounted"),
        (&state.b, "x/y/z/deep"),
    ];
    let mut expected = expected.map(|(path, name)| (path.clone(), text(&state.at(name))));
    expected.sort();
    assert_eq!(state.look(), (expected.to_vec(), vec![]));
}

#[test]
fn a_link_to_a_link_outside_is_a_root_named_by_that_link() {
    let state = State::new();
    let result = state.outside("result");
    symlink(state.full(&state.a), &result).unwrap();
    symlink(&result, state.at("auto/by-name")).unwrap();
    symlink("../../../result", state.at("auto/relative")).unwrap();
    // A link to a link to a link is no root, as in Nix; nor is a link to a file or a directory.
    let further = state.outside("further");
    symlink(&result, &further).unwrap();
    symlink(&further, state.at("further")).unwrap();
    symlink(state.dir.path(), state.at("auto/directory")).unwrap();
    symlink("/dev/null", state.at("auto/device")).unwrap();
    let (roots, stale) = state.look();
    let relative = state.at("auto").join("../../../result");
    let mut expected = vec![
        (state.a.clone(), text(&result)),
        (state.a.clone(), text(&relative)),
    ];
    expected.sort();
    assert_eq!(roots, expected);
    assert!(stale.is_empty());
}

#[test]
fn links_in_auto_are_stale_when_their_links_are_gone_and_others_never_are() {
    let state = State::new();
    let gone = state.outside("gone");
    for name in ["auto/gone", "gone"] {
        symlink(&gone, state.at(name)).unwrap();
    }
    // A path below a regular file does not exist either.
    symlink(state.outside("a").join("x"), state.at("auto/below-a-file")).unwrap();
    // A link into the store is not treated as one elsewhere.
    let unknown = format!("/nix/store/{}-unknown", "7".repeat(32));
    symlink(unknown, state.at("auto/unknown")).unwrap();
    let (roots, mut stale) = state.look();
    stale.sort();
    assert_eq!(roots, []);
    assert_eq!(
        stale,
        [state.at("auto/below-a-file"), state.at("auto/gone")]
    );
    // A scan changes nothing.
    assert_eq!(state.look().1.len(), 2);
}

#[test]
fn files_named_as_a_path_are_roots_and_others_are_not() {
    let state = State::new();
    File::create(state.at(state.a.base_name())).unwrap();
    fs::create_dir(state.at("x")).unwrap();
    File::create(state.at("x").join(state.b.base_name())).unwrap();
    File::create(state.at("README")).unwrap();
    let other = format!("{}-other", state.a.hash());
    File::create(state.at(&other)).unwrap();
    let _socket = UnixListener::bind(state.at(format!("{}-socket", "7".repeat(32)))).unwrap();
    let roots: Vec<_> = state.look().0.into_iter().map(|(p, _)| p).collect();
    let mut expected = [state.a.clone(), state.b.clone()];
    expected.sort();
    assert_eq!(roots, expected);
}

#[test]
fn loops_and_linked_directories_are_not_followed() {
    let state = State::new();
    symlink("loop", state.at("loop")).unwrap();
    symlink("there", state.at("back")).unwrap();
    symlink("back", state.at("there")).unwrap();
    symlink("..", state.at("auto/up")).unwrap();
    let elsewhere = state.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(state.full(&state.a), elsewhere.join("link")).unwrap();
    symlink(&elsewhere, state.at("elsewhere")).unwrap();
    assert_eq!(state.look(), (vec![], vec![]));
}

#[test]
fn names_may_be_any_bytes() {
    let state = State::new();
    for name in [&b"\xff\xfe"[..], b"a\nb", b" ", b"-", b"\xe2\x82"] {
        symlink(state.full(&state.a), state.at(OsStr::from_bytes(name))).unwrap();
    }
    let odd = state
        .outside("x")
        .with_file_name(OsStr::from_bytes(b"r\xff"));
    symlink(state.full(&state.b), &odd).unwrap();
    symlink(&odd, state.at("auto/odd")).unwrap();
    symlink(OsStr::from_bytes(b"/nix/store/\xff\xff"), state.at("no")).unwrap();
    let (roots, stale) = state.look();
    assert_eq!(roots.iter().filter(|(p, _)| *p == state.a).count(), 5);
    assert_eq!(roots.iter().filter(|(p, _)| *p == state.b).count(), 1);
    assert!(stale.is_empty());
}

#[test]
fn a_root_that_cannot_be_looked_at_is_an_error() {
    let state = State::new();
    let long = "x".repeat(300);
    symlink(format!("/tmp/{long}"), state.at("auto/long")).unwrap();
    let Err(RootsError::Look { at, .. }) = links(&state.store) else {
        panic!("the root was accepted");
    };
    assert_eq!(at, Path::new("/tmp").join(long));
}

#[test]
fn a_root_that_is_made_is_found_and_is_stale_when_its_link_is_removed() {
    let state = State::new();
    let link = state.outside("result");
    make(&state.store, &link, &state.full(&state.a)).unwrap();
    assert_eq!(state.look(), (vec![(state.a.clone(), text(&link))], vec![]));
    // The same link to another path: one link, one root.
    make(&state.store, &link, &state.full(&state.b)).unwrap();
    assert_eq!(state.look(), (vec![(state.b.clone(), text(&link))], vec![]));
    assert_eq!(fs::read_dir(state.at("auto")).unwrap().count(), 1);
    // The name is the one that Nix uses.
    let name = Hash::of(HashAlgo::Sha1, link.as_os_str().as_bytes());
    let name = nix32::encode(name.as_bytes());
    assert_eq!(fs::read_link(state.at("auto").join(&name)).unwrap(), link);
    fs::remove_file(&link).unwrap();
    assert_eq!(state.look(), (vec![], vec![state.at("auto").join(name)]));
}

#[test]
fn what_is_no_link_into_the_store_is_not_replaced() {
    let state = State::new();
    let (file, directory, link) = (
        state.outside("a"),
        state.outside("directory"),
        state.outside("link"),
    );
    fs::create_dir(&directory).unwrap();
    symlink("/etc/passwd", &link).unwrap();
    for there in [file, directory, link] {
        let made = make(&state.store, &there, &state.full(&state.a));
        assert!(matches!(made, Err(RootsError::Occupied(at)) if at == there));
    }
    assert!(fs::read_dir(state.at("auto")).unwrap().next().is_none());
    let nowhere = state.outside("no/such/directory");
    let made = make(&state.store, &nowhere, &state.full(&state.a));
    assert!(matches!(made, Err(RootsError::Make { .. })));
}

#[test]
fn a_root_is_replaced_in_one_step() {
    let state = State::new();
    let link = state.outside("link");
    let paths = [&state.a, &state.b].map(|path| state.full(path));
    make(&state.store, &link, &paths[0]).unwrap();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !is_done.load(order) {
                fs::read_link(&link).unwrap();
            }
        });
        for n in 0..500 {
            make(&state.store, &link, &paths[n % 2]).unwrap();
        }
        is_done.store(true, order);
        reader.join().unwrap();
    });
}
