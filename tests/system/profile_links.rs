//! Profiles in a mount. The file system is served by the process of the test, which changes
//! profiles in the state itself.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::mount::UnmountFlags;

use narfs::fetch;
use narfs::fs::FileSystem;
use narfs::fuse::{FileHandles, MountRequest, Session, Subtree};
use narfs::nix::store_path::StorePath;
use narfs::store::{ProfileChange, Store, StoreOptions};

use crate::support::{Sandbox, succeed, undisturbed};

/// A mount with two store paths, `one` and `two`, whose files `name` and `again` say which.
struct Mounted {
    session: Option<Session>,
    store: Arc<Store>,
    paths: [StorePath; 2],
    /// It unmounts, so it goes after the session.
    sandbox: Sandbox,
}

impl Mounted {
    fn new() -> Self {
        Self::in_sandbox(Sandbox::for_library())
    }

    fn in_memory() -> Self {
        Self::in_sandbox(Sandbox::in_memory())
    }

    fn in_sandbox(sandbox: Sandbox) -> Self {
        let options = StoreOptions {
            memory: 64 << 20,
            create: true,
            store_dir: None,
        };
        let store = Arc::new(Store::open(&sandbox.state, &options).unwrap());
        let paths = ["one", "two"].map(|name| {
            let tree = sandbox.make_dir(name);
            fs::write(tree.join("name"), name).unwrap();
            fs::write(tree.join("again"), name).unwrap();
            fetch::add(&store, &tree, name).unwrap()
        });
        let session = Some(serve(&store, &sandbox));
        let mounted = Self {
            session,
            store,
            paths,
            sandbox,
        };
        // Where links to store paths lead to.
        mounted.sandbox.bind_to_nix(&mounted.sandbox.at);
        mounted
    }

    fn profiles(&self) -> PathBuf {
        self.sandbox.at.join("var/nix/profiles")
    }

    /// A profile with both paths as its generations.
    fn change(&self, name: &str, current: u64) -> ProfileChange {
        let generations = (1..).zip(&self.paths);
        let generations = generations.map(|(n, p)| (n, p.clone(), 1_000_000_000 + n as i64));
        ProfileChange {
            name: name.to_owned(),
            current: Some(current),
            generations: generations.collect(),
        }
    }

    fn switch(&self, name: &str, current: u64) {
        let change = self.change(name, current);
        self.store.profiles().change(|_| Ok(vec![change])).unwrap();
    }

    fn requests(&self) -> u64 {
        self.session.as_ref().unwrap().counters().snapshot().total
    }

    /// The number of requests that something costs that was done before, which should be none.
    fn requests_of_second(&self, action: impl Fn()) -> u64 {
        let measure = || {
            action();
            let before = self.requests();
            action();
            self.requests() - before
        };
        undisturbed(|requests| *requests == 0, measure)
    }
}

fn serve(store: &Arc<Store>, sandbox: &Sandbox) -> Session {
    let request = MountRequest {
        labels: Vec::new(),
        mountpoint: sandbox.at.clone(),
        subtree: Subtree::Whole,
        nonempty: false,
        writable_profiles: false,
    };
    let fs = FileSystem::new(store.clone(), None, Arc::default());
    Session::start(store, fs, &request, FileHandles::Refused).unwrap()
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let sorted: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(sorted.len(), names.len(), "a name comes twice: {names:?}");
    sorted
}

fn target(link: &Path) -> String {
    fs::read_link(link)
        .unwrap()
        .into_os_string()
        .into_string()
        .unwrap()
}

#[test]
fn a_profile_is_a_chain_of_links_with_their_own_times() {
    let mounted = Mounted::new();
    let before = SystemTime::now() - Duration::from_secs(1);
    mounted.switch("system", 2);
    mounted.switch("per-user/ann/profile", 1);
    let system = mounted.profiles().join("system");
    assert_eq!(target(&system), "system-2-link");
    for (number, path) in (1..).zip(&mounted.paths) {
        let link = mounted.profiles().join(format!("system-{number}-link"));
        assert_eq!(target(&link), format!("/nix/store/{path}"));
        let seen = fs::symlink_metadata(&link).unwrap();
        assert_eq!(seen.mtime(), 1_000_000_000 + number);
        assert_eq!((seen.mode(), seen.uid()), (libc::S_IFLNK | 0o777, 0));
        assert_eq!(seen.len(), target(&link).len() as u64);
    }
    let switched = fs::symlink_metadata(&system).unwrap().modified().unwrap();
    assert!(switched >= before && switched <= SystemTime::now());
    assert_eq!(fs::read_to_string(system.join("name")).unwrap(), "two");
    let ann = Path::new("/nix/var/nix/profiles/per-user/ann/profile");
    assert_eq!(fs::read_to_string(ann.join("name")).unwrap(), "one");
    let resolved = fs::canonicalize(ann).unwrap();
    assert_eq!(
        resolved,
        Path::new("/nix/store").join(mounted.paths[0].base_name())
    );
    let mut ls = Command::new("ls");
    ls.args(["-l", "--time-style=+%s"]).arg(mounted.profiles());
    let listed = succeed(ls.env("TZ", "UTC"));
    let expected = format!(
        "lrwxrwxrwx 1 root root   {:>2} 1000000001 system-1-link -> /nix/store/{}",
        11 + mounted.paths[0].base_name().len(),
        mounted.paths[0]
    );
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed(&listed).contains(&squeezed(&expected)), "{listed}");
    assert!(listed.contains(" system -> system-2-link"), "{listed}");
    for directory in ["", "per-user", "per-user/ann"] {
        let seen = fs::metadata(mounted.profiles().join(directory)).unwrap();
        assert_eq!(seen.mode(), libc::S_IFDIR | 0o755, "{directory}");
    }
    for directory in ["gcroots/per-user", "temproots"] {
        let place = Path::new("/nix/var/nix").join(directory);
        assert!(names(&place).is_empty(), "{directory}");
    }
}

#[test]
fn profiles_that_were_seen_cost_no_request_until_they_change() {
    let mounted = Mounted::new();
    mounted.switch("system", 2);
    let profiles = mounted.profiles();
    let system = profiles.join("system");
    let uses: [(&str, &dyn Fn()); 5] = [
        ("reading through the link", &|| {
            fs::read(system.join("name")).unwrap();
        }),
        ("readlink", &|| drop(target(&system))),
        ("a listing", &|| drop(names(&profiles))),
        ("ls -lR", &|| {
            drop(succeed(Command::new("ls").arg("-lR").arg(&profiles)))
        }),
        ("stat", &|| {
            fs::symlink_metadata(&system).unwrap();
            fs::metadata(&profiles).unwrap();
        }),
    ];
    for (what, use_it) in &uses {
        assert_eq!(mounted.requests_of_second(use_it), 0, "{what}");
    }
    mounted.switch("system", 1);
    assert_eq!(fs::read_to_string(system.join("name")).unwrap(), "one");
    for (what, use_it) in &uses {
        assert_eq!(mounted.requests_of_second(use_it), 0, "{what}, switched");
    }
}

#[test]
fn changes_are_seen_when_they_return() {
    let mounted = Mounted::new();
    let profiles = mounted.profiles();
    let link = profiles.join("a/b/p");
    assert!(!link.exists());
    assert!(!names(&profiles).contains("a"));
    for round in 0..50 {
        mounted.switch("a/b/p", 1);
        assert_eq!(target(&link), "p-1-link", "round {round}");
        let inside = names(&profiles.join("a/b"));
        assert_eq!(inside.len(), 3, "round {round}: {inside:?}");
        assert!(names(&profiles).contains("a"));
        let number = |link: &Path| fs::symlink_metadata(link).unwrap().ino();
        let first = number(&link);
        mounted.switch("a/b/p", 2);
        assert_ne!(number(&link), first);
        // The number of a generation given to another path.
        let mut change = mounted.change("a/b/p", 1);
        change.generations.truncate(1);
        mounted
            .store
            .profiles()
            .change(|_| Ok(vec![change.clone()]))
            .unwrap();
        let second = profiles.join("a/b/p-2-link");
        assert!(fs::symlink_metadata(&second).is_err());
        change.generations.push((2, mounted.paths[0].clone(), 7));
        mounted
            .store
            .profiles()
            .change(|_| Ok(vec![change.clone()]))
            .unwrap();
        assert_eq!(target(&second), format!("/nix/store/{}", mounted.paths[0]));
        assert_eq!(fs::symlink_metadata(&second).unwrap().mtime(), 7);
        change.generations.clear();
        mounted
            .store
            .profiles()
            .change(|_| Ok(vec![change]))
            .unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
        assert!(fs::metadata(profiles.join("a")).is_err());
        assert!(!names(&profiles).contains("a"), "round {round}");
    }
}

#[test]
fn what_was_opened_in_a_generation_stays_that_generation() {
    let mounted = Mounted::new();
    mounted.switch("system", 1);
    let system = mounted.profiles().join("system");
    let opened = File::open(&system).unwrap();
    let file = File::open(system.join("name")).unwrap();
    mounted.switch("system", 2);
    assert_eq!(fs::read_to_string(system.join("name")).unwrap(), "two");
    let old = PathBuf::from(format!(
        "/proc/thread-self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&opened)
    ));
    assert_eq!(fs::read_to_string(old.join("name")).unwrap(), "one");
    assert_eq!(names(&old).len(), 2);
    assert_eq!(io::read_to_string(file).unwrap(), "one");
}

#[test]
fn numbers_of_links_are_the_same_in_the_next_mount() {
    let mut mounted = Mounted::new();
    mounted.switch("system", 1);
    mounted.switch("per-user/ann/profile", 2);
    let profiles = mounted.profiles();
    let numbers = || {
        ["", "system", "system-1-link", "per-user/ann/profile"]
            .map(|name| fs::symlink_metadata(profiles.join(name)).unwrap().ino())
    };
    let before = numbers();
    let unmount = |place: &Path| {
        rustix::mount::unmount(place, UnmountFlags::DETACH).unwrap();
    };
    unmount(Path::new("/nix"));
    unmount(&mounted.sandbox.at);
    mounted.session.take().unwrap().join().unwrap();
    mounted.session = Some(serve(&mounted.store, &mounted.sandbox));
    assert_eq!(numbers(), before);
}

/// Ends the looking, even if the test fails.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A name that comes and goes beside others, while a thread looks. With each return of a change,
/// listings and lookups must agree with it.
#[test]
fn listings_under_readers_are_true_when_a_change_returns() {
    const ROUNDS: u64 = 5_000;
    const PATIENCE: Duration = Duration::from_secs(30);
    let mounted = Mounted::in_memory();
    mounted.switch("system", 1);
    let profiles = mounted.profiles();
    let per_user = profiles.join("per-user");
    let profile = per_user.join("ann/profile");
    let over = AtomicBool::new(false);
    // A directory may go while somebody is on the way through it, even twice.
    let is_gone = |e: &io::Error| {
        use io::ErrorKind::{NotFound, StaleNetworkFileHandle};
        assert!(matches!(e.kind(), NotFound | StaleNetworkFileHandle), "{e}");
    };
    let look = || {
        assert_eq!(names(&profiles).len(), 4);
        // What goes and comes back during a listing may be in it twice.
        for user in fs::read_dir(&per_user).unwrap() {
            assert_eq!(user.unwrap().file_name(), "ann");
        }
        let _ = fs::read_dir(per_user.join("ann")).map(Iterator::count);
        match fs::read_link(&profile) {
            Ok(target) => assert_eq!(target, Path::new("profile-1-link")),
            Err(e) => is_gone(&e),
        }
        match fs::read_to_string(profile.join("name")) {
            Ok(contents) => assert_eq!(contents, "one"),
            Err(e) => is_gone(&e),
        }
    };
    let mut gone = mounted.change("per-user/ann/profile", 1);
    gone.generations.clear();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    look();
                }
            });
        }
        let _over = Over(&over);
        let start = Instant::now();
        for round in 0..ROUNDS {
            let changed = || fs::metadata(&per_user).unwrap().modified().unwrap();
            mounted.switch("per-user/ann/profile", 1);
            assert_eq!(names(&per_user).len(), 1, "round {round}");
            assert_eq!(names(&per_user.join("ann")).len(), 3, "round {round}");
            assert_eq!(fs::read_to_string(profile.join("name")).unwrap(), "one");
            assert!(changed().elapsed().unwrap() < Duration::from_secs(60));
            mounted
                .store
                .profiles()
                .change(|_| Ok(vec![gone.clone()]))
                .unwrap();
            assert!(names(&per_user).is_empty(), "round {round}");
            assert!(fs::symlink_metadata(&profile).is_err(), "round {round}");
            if start.elapsed() > PATIENCE {
                break;
            }
        }
    });
}
