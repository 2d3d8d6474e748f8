//! The numbers that stat and listings show, as programs take them that have room for 32 bits.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary_cache::{Cache, Offer, Tree, nar};
use crate::support::{Sandbox, run, succeed, wait_until, walk};

/// More than have numbers below 2^32 by their addresses.
const PATHS: usize = 300;

/// A program of 32 bits that looks at its arguments; `None` where the kernel runs none.
fn program(sandbox: &Sandbox) -> Option<PathBuf> {
    let program = sandbox.dir().join("stat-32-bits");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/stat_32_bits.c");
    let mut cc = Command::new("cc");
    cc.args("-m32 -O1 -nostdlib -static -ffreestanding -fno-stack-protector -fno-pic".split(' '));
    succeed(cc.args(["-no-pie", "-o"]).arg(&program).arg(source));
    let runs = Command::new(&program).arg("/proc").output();
    runs.is_ok_and(|ran| ran.status.success())
        .then_some(program)
}

/// Mounts a state that knows many paths, with a profile and a view; the last path.
fn mounted(sandbox: &Sandbox) -> PathBuf {
    let cache = Cache::new();
    let mut last = None;
    for i in 0..PATHS {
        let number = i.to_string();
        let library = Tree::File(number.as_bytes());
        let tree = Tree::Directory(vec![("lib", Tree::Directory(vec![("x.so", library)]))]);
        let offer = Offer::named(&format!("library-{i}"), nar(&tree));
        cache.put(&offer);
        last = Some(offer.path().base_name());
    }
    let last = last.unwrap();
    let mut copy = vec!["copy".to_owned(), "--all".to_owned()];
    copy.extend(cache.arguments());
    sandbox.narfs(&copy);
    for profile in ["default", "per-user/ann/profile"] {
        sandbox.narfs(&["profile", "-p", profile, "set", &last]);
    }
    sandbox.mount();
    sandbox.narfs(&["closure", "web", &last]);
    sandbox.store().join(last)
}

#[test]
fn programs_of_32_bits_see_and_list_everything() {
    let sandbox = Sandbox::empty();
    let last = mounted(&sandbox);
    let view = sandbox.at.join(".narfs/closures/web");
    let places = [
        sandbox.at.clone(),
        sandbox.store(),
        last.clone(),
        last.join("lib"),
        last.join("lib/x.so"),
        sandbox.at.join("var/nix/profiles"),
        sandbox.at.join("var/nix/profiles/default"),
        sandbox.at.join("var/nix/profiles/default-1-link"),
        sandbox.at.join("var/nix/profiles/per-user/ann"),
        sandbox.at.join(".narfs/closures"),
        view.clone(),
        view.join("store"),
        view.join("store")
            .join(last.file_name().unwrap())
            .join("lib"),
    ];
    for place in &places {
        let number = fs::symlink_metadata(place).unwrap().ino();
        assert!(number >> 32 == 0, "{}: {number}", place.display());
    }
    let Some(program) = program(&sandbox) else {
        eprintln!("this kernel runs no programs of 32 bits");
        return;
    };
    // What was listed before comes from the kernel.
    for _ in 0..2 {
        let code = run(Command::new(&program).args(&places), b"").code;
        let failed = code.and_then(|code| usize::try_from(code).ok()).unwrap();
        let failed = failed.checked_sub(1).map(|i| &places[i]);
        assert_eq!(failed, None);
    }
}

#[test]
fn a_directory_of_a_view_has_the_number_that_it_has_in_the_store() {
    let sandbox = Sandbox::empty();
    let last = mounted(&sandbox);
    let view = sandbox.at.join(".narfs/closures/web/store");
    let seen = view.join(last.file_name().unwrap());
    for below in ["", "lib", "lib/x.so"] {
        let [here, there] = [&last, &seen].map(|at| fs::metadata(at.join(below)).unwrap());
        assert_eq!(
            (here.dev(), here.ino()),
            (there.dev(), there.ino()),
            "{below:?}"
        );
    }
}

#[test]
fn numbers_are_unique_and_the_same_for_every_daemon() {
    let sandbox = Sandbox::empty();
    mounted(&sandbox);
    let numbers = || -> BTreeMap<PathBuf, u64> {
        let seen = walk(&sandbox.at).into_iter();
        seen.map(|s| (s.path, s.metadata.ino())).collect()
    };
    let first = numbers();
    let mut unique: Vec<_> = first.values().collect();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), first.len());
    let pid = sandbox.pid();
    let daemon = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
    wait_until("another daemon serves", || {
        sandbox.is_served() && sandbox.pid() != pid
    });
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(numbers(), first);
}
