//! Collections under a mount: what programs use stays, and what goes is gone for the kernel too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::scope;

use serde_json::json;

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{PATIENT, SHORT, directory, errno, key, plain};
use crate::server::{Answer, Gate, Refusing, Server};
use crate::support::{Sandbox, World, nix_store, read_everything, succeed, wait_until};

/// Held by the test that compares with Nix and by the one whose programs, for a long time, use paths in
/// ways that Nix does not count.
static LONG_USES: Mutex<()> = Mutex::new(());

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Base names of a path and all that it refers to.
fn closure(world: &World, path: &str) -> BTreeSet<String> {
    let mut open = vec![path.to_owned()];
    let mut closure = BTreeSet::new();
    while let Some(path) = open.pop() {
        let info = &world.narinfos[&format!("/nix/store/{path}")];
        if closure.insert(path) {
            let references = info["References"].split_whitespace();
            open.extend(references.map(str::to_owned));
        }
    }
    closure
}

fn removed(report: &serde_json::Value) -> Vec<String> {
    let paths = report["paths"].as_array().unwrap().iter();
    let names = paths.map(|p| p.as_str().unwrap().trim_start_matches("/nix/store/"));
    names.map(str::to_owned).collect()
}

#[test]
fn what_running_programs_use_stays_with_its_closure() {
    let _alone = LONG_USES.lock().unwrap_or_else(PoisonError::into_inner);
    let sandbox = Sandbox::with_worlds();
    let garbage = sandbox.dir().join("garbage");
    fs::write(&garbage, "garbage").unwrap();
    let garbage = sandbox.add(&garbage);
    sandbox.mount();
    sandbox.bind_to_nix(&sandbox.at);
    let [small, rebuild] = World::both();
    let (coreutils, hello) = (small.package("coreutils"), rebuild.package("hello"));
    let bash = rebuild.package("bash");
    let sleep = format!("/nix/store/{coreutils}/bin/sleep");
    let _program = Running::start(Command::new(&sleep).arg("600"));
    let mut inside = Command::new("/bin/sleep");
    inside
        .arg("600")
        .current_dir(sandbox.store().join(hello).join("share"));
    let _inside = Running::start(&mut inside);
    let open = fs::File::open(sandbox.store().join(bash).join("bin/bash")).unwrap();
    let _reader = Running::start(Command::new("/bin/sleep").arg("600").stdin(open));

    let mut live = closure(small, coreutils);
    live.extend(closure(rebuild, hello));
    live.extend(closure(rebuild, bash));
    fs::metadata(sandbox.store().join(&garbage)).unwrap();
    let roots = sandbox.json(&["roots"]);
    let root = roots.as_array().unwrap().iter();
    let mut root = root.filter(|r| r["path"] == format!("/nix/store/{coreutils}"));
    let root = root.next().unwrap();
    assert_eq!(root["kind"], "process");
    assert!(
        root["from"].as_str().unwrap().starts_with("/proc/"),
        "{root}"
    );

    let gone = removed(&sandbox.json(&["gc"]));
    assert!(gone.contains(&garbage), "{gone:?}");
    let listing = sandbox.listing();
    for path in &gone {
        assert!(!live.contains(path), "{path}");
        assert!(!listing.contains(path), "{path}");
        let looked = fs::symlink_metadata(sandbox.store().join(path));
        assert_eq!(errno(looked), Some(libc::ENOENT), "{path}");
    }
    for path in &live {
        assert!(listing.contains(path), "{path}");
        read_everything(&sandbox.store().join(path));
    }
    assert_eq!(gone.len() + listing.len(), World::all_paths().len() + 1);
    assert!(succeed(Command::new(&sleep).arg("--version")).contains("sleep"));
    assert_eq!(sandbox.json(&["verify"])["failures"], json!([]));
}

/// What real Nix would delete, by `links` in its state.
fn dead_for_nix(outside: &Path) -> BTreeSet<String> {
    let mut nix = nix_store(outside);
    let said = succeed(nix.args(["--gc", "--print-dead"]));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn the_paths_that_go_are_those_that_real_nix_would_delete() {
    let _alone = LONG_USES.lock().unwrap_or_else(PoisonError::into_inner);
    let sandbox = Sandbox::mounted();
    let outside = sandbox.real_nix();

    let [small, rebuild] = World::both();
    let full = |path: &str| format!("/nix/store/{path}");
    let result = sandbox.dir().join("result");
    symlink(full(rebuild.package("hello")), &result).unwrap();
    let states = [outside.join("var/gcroots"), sandbox.state.join("gcroots")];
    // More roots from round to round.
    let add: [&dyn Fn(&Path); 5] = [
        &|_| (),
        &|roots| symlink(&result, roots.join("auto/result")).unwrap(),
        &|roots| {
            let deep = format!("{}/bin/bash", full(small.package("bash")));
            fs::create_dir_all(roots.join("x/y")).unwrap();
            symlink(deep, roots.join("x/y/bash")).unwrap();
        },
        &|roots| symlink(sandbox.dir().join("gone"), roots.join("auto/gone")).unwrap(),
        &|roots| fs::write(roots.join(rebuild.package("coreutils")), "").unwrap(),
    ];
    for (round, add) in add.iter().enumerate() {
        for roots in &states {
            fs::create_dir_all(roots.join("auto")).unwrap();
            add(roots);
        }
        // Other tests run programs of the worlds, which both take for roots.
        let same = (0..10).any(|_| {
            let ours = sandbox.json(&["gc", "--dry-run"]);
            let ours: BTreeSet<_> = removed(&ours).iter().map(|p| full(p)).collect();
            ours == dead_for_nix(&outside) && ours.len() < World::all_paths().len() + 1
        });
        assert!(same, "round {round}");
    }
    // And these they are.
    let gone: BTreeSet<_> = removed(&sandbox.json(&["gc"])).into_iter().collect();
    for (world, package) in [(rebuild, "hello"), (small, "bash"), (rebuild, "coreutils")] {
        let live = closure(world, world.package(package));
        assert!(live.is_disjoint(&gone), "{package}");
    }
    assert!(!gone.is_empty());
}

#[test]
fn what_was_collected_is_gone_at_once_and_can_be_fetched_again() {
    let cache = Cache::new();
    let library = directory("collected-library", &noise(1, 300_000));
    let app = directory("collected-app", &noise(2, 300_000)).referring(&[library.path()]);
    for offer in [&library, &app] {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let refusing = Refusing::new();
    let read = |offer: &Offer| {
        let place = sandbox.store().join(offer.path().base_name());
        fs::read(place.join("file"))
    };
    for round in 0..3 {
        sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
        assert!(read(&library).unwrap() == noise(1, 300_000));
        assert!(read(&app).unwrap() == noise(2, 300_000));
        assert_eq!(sandbox.listing().len(), 2);
        let mut gone = 0;
        wait_until("both are collected", || {
            gone += removed(&sandbox.json(&["gc"])).len();
            sandbox.listing().is_empty()
        });
        assert_eq!(gone, 2, "{round}");
        // Under the same name and number.
        assert!(read(&app).unwrap() == noise(2, 300_000));
        assert_eq!(sandbox.listing(), [app.path().base_name()]);
        wait_until("it is collected", || {
            sandbox.narfs(&["gc"]);
            sandbox.listing().is_empty()
        });
        sandbox.unmount();
        sandbox.mount_from(&[&refusing.url], &key(&cache), SHORT);
        assert_eq!(errno(read(&app)), Some(libc::EIO));
        sandbox.unmount();
    }
    assert_eq!(sandbox.json(&["stats"])["stored_bytes"], 0);
}

#[test]
fn a_lookup_that_waits_for_the_network_does_not_hold_up_a_collection() {
    let cache = Cache::new();
    let offers = [1, 2].map(|n| directory(&format!("not-held-up-{n}"), &noise(n, 100_000)));
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let slow = directory("slow", b"x");
    cache.put(&slow);
    let hash = slow.path().hash().to_string();
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if path.contains(&hash) {
            held.wait();
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
    let place = |offer: &Offer| sandbox.store().join(offer.path().base_name());
    for offer in &offers {
        fs::read(place(offer).join("file")).unwrap();
    }
    let number = |offer: &Offer| fs::metadata(place(offer)).unwrap().ino();
    let before = offers.each_ref().map(number);
    scope(|threads| {
        let waits = threads.spawn(|| fs::metadata(place(&slow)));
        let asked = format!("/{}.narinfo", slow.path().hash());
        wait_until("it waits", || server.requests(&asked) > 0);
        // What the kernel does not let go in time is left to the next one.
        wait_until("both are collected", || {
            sandbox.narfs(&["gc"]);
            sandbox.listing().is_empty()
        });
        assert!(!waits.is_finished());
        gate.open();
        assert!(waits.join().unwrap().unwrap().is_dir());
    });
    // The name is looked up anew: the source has it still, and it has its number again.
    for (offer, before) in offers.iter().zip(before) {
        fs::read(place(offer).join("file")).unwrap();
        assert_eq!(number(offer), before);
    }
}

#[test]
fn closures_that_arrive_while_others_are_collected_stay_whole() {
    const CHAIN: u64 = 30;
    let cache = Cache::new();
    let mut offers: Vec<Offer> = Vec::new();
    for n in 0..CHAIN {
        let mut offer = directory(&format!("c{n}"), &noise(n + 1, 60_000));
        if let Some(last) = offers.last() {
            offer = offer.referring(&[last.path()]);
        }
        cache.put(&offer);
        offers.push(offer);
    }
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let (top, half) = (&offers[CHAIN as usize - 1], &offers[CHAIN as usize / 2]);
    let (top, half) = (top.path().base_name(), half.path().base_name());
    let done = AtomicBool::new(false);
    scope(|threads| {
        let collections = threads.spawn(|| {
            let mut gone = 0;
            while !done.load(Ordering::Relaxed) {
                gone += removed(&sandbox.json(&["gc"])).len();
            }
            gone
        });
        for round in 0..12 {
            // Half of it may be here, and half of that be gone, when the rest is asked for.
            sandbox.narfs(&["copy", &half]);
            let pinned = sandbox.json(&["pin", &top]);
            assert_eq!(pinned["complete"], true, "{round}");
            for _ in 0..2 {
                let pins = sandbox.json(&["pins"]);
                assert_eq!(pins[0]["closure"], CHAIN, "{round}");
                assert_eq!(pins[0]["missing"], 0, "{round}");
            }
            sandbox.narfs(&["unpin", &top]);
        }
        done.store(true, Ordering::Relaxed);
        assert!(collections.join().unwrap() > 0);
    });
    sandbox.narfs(&["copy", &top]);
    assert_eq!(sandbox.json(&["verify"])["good"], CHAIN);
}
