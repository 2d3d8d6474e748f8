//! Where the file system can be mounted and where not, and at how many places.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::support::{Sandbox, World, read_everything, run, succeed};

/// What a mount that is refused must leave: nothing mounted, no daemon, a free state.
fn nothing_remains(sandbox: &Sandbox) {
    assert!(sandbox.mounts().is_empty(), "{:?}", sandbox.mounts());
    let status = sandbox.complaint(&["status"]);
    assert!(status.contains("no daemon"), "{status}");
    // Opens the state itself.
    sandbox.narfs(&["stats"]);
}

fn refused(sandbox: &Sandbox, at: &Path, reason: &str) {
    for options in [&[][..], &["-o", "subtree=store"], &["--foreground"]] {
        let at = at.to_str().unwrap();
        let mut arguments = vec!["mount", at];
        arguments.extend(options);
        // A service manager need not try again what only the user can change.
        let is_occupied = ["is not empty", "has a store of its own"].contains(&reason);
        let said = match options {
            ["--foreground"] if is_occupied => sandbox.failure(78, &arguments),
            _ => sandbox.complaint(&arguments),
        };
        assert!(said.contains(at) && said.contains(reason), "{said}");
    }
}

#[test]
fn a_mount_point_that_is_absent_or_a_file_or_not_empty_is_refused() {
    let sandbox = Sandbox::with_worlds();
    refused(&sandbox, &sandbox.dir().join("absent"), "does not exist");
    nothing_remains(&sandbox);
    let file = sandbox.dir().join("file");
    fs::write(&file, "").unwrap();
    refused(&sandbox, &file, "is not a directory");
    refused(&sandbox, &file.join("below"), "directory");
    nothing_remains(&sandbox);
    let full = sandbox.make_dir("full");
    fs::write(full.join("something"), "").unwrap();
    refused(&sandbox, &full, "is not empty");
    nothing_remains(&sandbox);
}

#[test]
fn a_real_store_is_not_hidden_unless_the_user_says_so() {
    let sandbox = Sandbox::with_worlds();
    let real = sandbox.make_dir("real");
    let path = format!("store/{}-hello", "a".repeat(32));
    fs::create_dir_all(real.join(&path)).unwrap();
    refused(&sandbox, &real, "has a store of its own");
    refused(&sandbox, &real.join("store"), "has a store of its own");
    nothing_remains(&sandbox);
    // One that is a mount of its own, such as a volume of a disk.
    let volume = sandbox.make_dir("volume");
    rustix::mount::mount_bind(&real, &volume).unwrap();
    let said = sandbox.complaint(&["mount", volume.to_str().unwrap()]);
    assert!(
        said.contains("has a store of its own") && said.contains("unmount it first"),
        "{said}"
    );
    let at = real.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", "nonempty"]);
    assert!(!real.join(&path).exists());
    sandbox.narfs(&["umount", at]);
    assert!(real.join(&path).exists());
}

#[test]
fn a_mount_point_where_something_is_mounted_is_refused() {
    let sandbox = Sandbox::with_worlds();
    let busy = sandbox.make_dir("busy");
    let mut tmpfs = std::process::Command::new("mount");
    succeed(tmpfs.args(["-t", "tmpfs", "none"]).arg(&busy));
    refused(&sandbox, &busy, "tmpfs");
    succeed(std::process::Command::new("umount").arg(&busy));
    nothing_remains(&sandbox);

    // Ours is no exception.
    sandbox.mount();
    let said = sandbox.complaint(&["mount", sandbox.at.to_str().unwrap()]);
    assert!(said.contains("mounted at"), "{said}");
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(sandbox.package(World::small(), "hello").exists());
}

#[test]
fn a_full_mount_point_is_covered_if_the_user_says_so() {
    let sandbox = Sandbox::with_worlds();
    fs::write(sandbox.at.join("covered"), "").unwrap();
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", "nonempty"]);
    assert!(!sandbox.at.join("covered").exists());
    sandbox.unmount();
    assert!(sandbox.at.join("covered").exists());
}

#[test]
fn unknown_options_are_refused() {
    let sandbox = Sandbox::with_worlds();
    let said = sandbox.misuse(&["mount", sandbox.at.to_str().unwrap(), "-o", "rw"]);
    assert!(said.contains("rw"), "{said}");
    nothing_remains(&sandbox);
}

#[test]
fn only_the_store_is_mounted_with_subtree_store() {
    let sandbox = Sandbox::with_worlds();
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", "subtree=store"]);
    let bash = sandbox.at.join(World::small().package("bash"));
    assert!(bash.join("bin/bash").exists());
    assert!(!sandbox.at.join("store").exists() && !sandbox.at.join("var").exists());
    // The private place where the whole was is not to be seen any more.
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
    sandbox.narfs(&["umount", at]);
    assert!(!sandbox.is_served());
    nothing_remains(&sandbox);
}

#[test]
fn a_second_mount_shows_the_same_superblock_and_shares_its_pages() {
    let sandbox = Sandbox::mounted();
    let store = sandbox.make_dir("second/store");
    let store_arguments = ["mount", store.to_str().unwrap(), "-o", "subtree=store"];
    sandbox.narfs(&store_arguments);
    let whole = sandbox.make_dir("third");
    sandbox.narfs(&["mount", whole.to_str().unwrap()]);
    let coreutils = World::small().package("coreutils");
    let [first, second, third] =
        [&sandbox.store(), &store, &whole.join("store")].map(|s| s.join(coreutils));
    for other in [&second, &third] {
        // Through one, then through the other.
        let turn = std::cell::Cell::new(&first);
        let cost = sandbox.requests_of_second("", || {
            let next = if turn.get() == &first { other } else { &first };
            assert!(read_everything(turn.replace(next)) > 0);
        });
        assert_eq!(cost, "", "read through {}", other.display());
        let [here, there] = [&first, other].map(|p| fs::metadata(p).unwrap());
        assert_eq!((here.dev(), here.ino()), (there.dev(), there.ino()));
    }
    let status = sandbox.json(&["status"]);
    assert_eq!(status["mountpoints"].as_array().unwrap().len(), 3);

    // The daemon serves until the last of them is gone.
    let pid = sandbox.pid();
    sandbox.unmount();
    assert_eq!(sandbox.pid(), pid);
    assert!(second.exists());
    for place in [&store, &whole] {
        sandbox.narfs(&["umount", place.to_str().unwrap()]);
    }
    assert!(!sandbox.is_served());
}

#[test]
fn a_second_mount_says_which_options_it_does_not_heed() {
    let sandbox = Sandbox::mounted();
    let mount = |at: &Path, more: &[&str]| {
        let mut mount = sandbox.command(&["mount", at.to_str().unwrap()]);
        let ran = run(mount.args(more), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stderr
    };
    let said = mount(&sandbox.make_dir("plain"), &["-o", "ro,nonempty"]);
    assert_eq!(said, "");
    let from = "http://user:secret@127.0.0.1:1";
    let options = ["--from", from, "-o", "ro,budget=1G,prefetch=closure"];
    let said = mount(&sandbox.make_dir("other"), &options);
    for unheeded in ["127.0.0.1:1", "-o budget=1G", "-o prefetch=closure"] {
        assert!(said.contains(unheeded), "{said}");
    }
    assert!(!said.contains("secret"), "{said}");
    let status = sandbox.json(&["status"]);
    assert_eq!(status["sources"], serde_json::json!([]));
    assert_eq!(status["budget"], serde_json::Value::Null);
}

#[test]
fn a_store_that_is_mounted_alone_can_be_shown_again() {
    let sandbox = Sandbox::with_worlds();
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", "subtree=store"]);
    let second = sandbox.make_dir("second");
    let second = second.to_str().unwrap();
    sandbox.narfs(&["mount", second, "-o", "subtree=store"]);
    let hello = World::small().package("hello");
    assert!(Path::new(second).join(hello).exists());
    sandbox.narfs(&["umount", second]);
    assert!(sandbox.at.join(hello).exists());
    // What is above the store was never mounted.
    let said = sandbox.complaint(&["mount", second]);
    assert!(said.contains("subtree=store"), "{said}");
}

#[test]
fn mount_points_are_found_however_they_are_written() {
    let sandbox = Sandbox::with_worlds();
    let odd = sandbox.make_dir("a place\\with \u{e4}/mount");
    let link = sandbox.dir().join("link");
    symlink(odd.parent().unwrap(), &link).unwrap();
    let through_link = link.join("mount");
    let direct_link = sandbox.dir().join("direct");
    symlink(&odd, &direct_link).unwrap();
    let dotted = sandbox.at.join("../a place\\with \u{e4}/./mount/");
    let forms = [&odd, &through_link, &direct_link, &dotted];
    for mounted in forms {
        for unmounted in forms {
            let arguments = |command: &str, at: &Path| {
                [command.as_ref(), at.as_os_str()].map(ToOwned::to_owned)
            };
            let mut mount = arguments("mount", mounted).to_vec();
            mount.push("--offline".into());
            sandbox.narfs(&mount);
            assert!(odd.join("store").exists());
            let again = sandbox.complaint(&arguments("mount", unmounted));
            assert!(again.contains("mounted at"), "{again}");
            sandbox.narfs(&arguments("umount", unmounted));
            assert!(!odd.join("store").exists());
        }
    }
    assert!(odd.as_os_str().as_bytes().contains(&b'\\'));
}

#[test]
fn umount_of_what_is_not_ours_is_refused() {
    let sandbox = Sandbox::with_worlds();
    let busy = sandbox.make_dir("busy");
    let mut tmpfs = std::process::Command::new("mount");
    succeed(tmpfs.args(["-t", "tmpfs", "none"]).arg(&busy));
    for place in [&busy, &sandbox.at, &sandbox.dir().join("absent")] {
        let said = sandbox.complaint(&["umount", place.to_str().unwrap()]);
        assert!(said.contains("no narfs is mounted"), "{said}");
    }
    assert_eq!(sandbox.mounts(), [busy]);
}

#[test]
fn mounts_of_a_new_state_at_one_moment_join_each_other() {
    for _ in 0..3 {
        let sandbox = Sandbox::empty();
        let tree = sandbox.dir().join("tree");
        fs::write(&tree, "x").unwrap();
        let places: Vec<_> = (0..8)
            .map(|n| sandbox.make_dir(&format!("place-{n}")))
            .collect();
        let mounts = places.iter().map(|at| {
            let at = at.to_str().unwrap();
            sandbox.command(&["mount", at, "--offline"])
        });
        let same = [0, 1].map(|_| {
            let at = sandbox.at.to_str().unwrap();
            sandbox.command(&["mount", at, "--offline"])
        });
        let add = sandbox.command(&["add", tree.to_str().unwrap()]);
        let all = mounts.chain(same).chain([add]);
        let ran: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = all
                .map(|mut command| scope.spawn(move || run(&mut command, b"")))
                .collect();
            running.into_iter().map(|r| r.join().unwrap()).collect()
        });
        for (n, ran) in ran.iter().enumerate() {
            if n != 8 && n != 9 {
                assert_eq!(ran.code, Some(0), "{n}: {}", ran.stderr);
            }
        }
        // At one place one after the other: the second finds the first.
        let codes = [ran[8].code, ran[9].code];
        assert!(codes.contains(&Some(0)), "{codes:?}");
        for late in ran[8..10].iter().filter(|r| r.code != Some(0)) {
            assert!(late.stderr.contains("mounted at"), "{}", late.stderr);
        }
        let added = String::from_utf8(ran[10].stdout.clone()).unwrap();
        let name = added.trim().trim_start_matches("/nix/store/");
        for place in places.iter().chain([&sandbox.at]) {
            assert_eq!(fs::read(place.join("store").join(name)).unwrap(), b"x");
        }
        assert_eq!(sandbox.mounts().len(), 9);
    }
}
