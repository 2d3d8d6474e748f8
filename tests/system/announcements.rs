//! What watchers of a directory of profiles hear (inotify(7)).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::support::{Sandbox, World};

/// What systemd's path units and desktops listen for.
fn watch(place: &Path, more: WatchFlags) -> OwnedFd {
    let watcher = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let events = WatchFlags::ATTRIB
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watcher, place, events | more).unwrap();
    watcher
}

/// What was heard since the last time. The kernel tells of a change before it is over.
fn heard(watcher: &OwnedFd) -> BTreeSet<(String, String)> {
    let mut room = [MaybeUninit::uninit(); 8192];
    let mut reader = inotify::Reader::new(watcher, &mut room);
    let mut all = BTreeSet::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|n| OsStr::from_bytes(n.to_bytes()));
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        for (flag, text) in [
            (ReadFlags::ATTRIB, "attributes"),
            (ReadFlags::CLOSE_WRITE, "close"),
            (ReadFlags::MOVED_TO, "moved to"),
            (ReadFlags::DELETE_SELF, "deleted"),
        ] {
            if event.events().contains(flag) {
                all.insert((name.clone(), text.to_owned()));
            }
        }
    }
    all
}

fn words(all: &BTreeSet<(String, String)>) -> Vec<(&str, &str)> {
    all.iter().map(|(a, b)| (&**a, &**b)).collect()
}

fn profiles(sandbox: &Sandbox) -> PathBuf {
    sandbox.at.join("var/nix/profiles")
}

fn with_generations(options: &[&str]) -> Sandbox {
    let sandbox = Sandbox::with_worlds();
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&[&["mount", at, "--offline"], options].concat());
    for package in ["hello", "bash"] {
        let package = World::small().package(package);
        for profile in ["default", "per-user/ann/profile"] {
            sandbox.narfs(&["profile", "-p", profile, "set", package]);
        }
    }
    sandbox
}

#[test]
fn who_watches_a_directory_of_profiles_hears_of_a_switch() {
    for options in [&[][..], &["-o", "writable-profiles"]] {
        let sandbox = with_generations(options);
        // The same directory is seen in containers.
        let bound = sandbox.make_dir("bound");
        rustix::mount::mount_bind(profiles(&sandbox), &bound).unwrap();
        let watchers = [
            watch(&profiles(&sandbox), WatchFlags::empty()),
            watch(&bound, WatchFlags::empty()),
        ];
        let mut expected = vec![("default.changed", "close")];
        if !options.is_empty() {
            expected.insert(0, ("default", "attributes"));
        }
        for change in [
            &["rollback"][..],
            &["switch", "2"],
            &["delete-generations", "1"],
        ] {
            sandbox.narfs(&[&["profile"], change].concat());
            for watcher in &watchers {
                assert_eq!(words(&heard(watcher)), expected, "{change:?}");
            }
        }
        // Nothing has changed, and another profile has.
        sandbox.narfs(&["profile", "switch", "2"]);
        sandbox.narfs(&["profile", "-p", "per-user/ann/profile", "rollback"]);
        for watcher in &watchers {
            assert_eq!(words(&heard(watcher)), []);
        }
    }
}

#[test]
fn the_pipe_of_a_profile_is_watched_by_itself() {
    let sandbox = with_generations(&[]);
    let pipe = profiles(&sandbox).join("per-user/ann/profile.changed");
    let m = fs::symlink_metadata(&pipe).unwrap();
    assert!(m.file_type().is_fifo());
    assert_eq!((m.mode() & 0o7777, m.uid()), (0o600, 0));
    let watcher = watch(&pipe, WatchFlags::empty());
    sandbox.narfs(&["profile", "-p", "per-user/ann/profile", "rollback"]);
    assert_eq!(words(&heard(&watcher)), [("", "close")]);

    let file = sandbox.dir().join("profiles.toml");
    let bash = World::small().package("bash");
    fs::write(
        &file,
        format!("[profile.\"per-user/ann/profile\"]\nset = \"{bash}\"\n"),
    )
    .unwrap();
    sandbox.narfs(&["apply", file.to_str().unwrap()]);
    assert_eq!(words(&heard(&watcher)), [("", "close")]);

    // It is nothing that Nix would have, and goes with the profile.
    let listed = fs::read_dir(profiles(&sandbox)).unwrap();
    assert!(
        listed
            .map(|e| e.unwrap().file_name())
            .all(|n| n != "default.changed")
    );
    sandbox.narfs(&["profile", "delete", "per-user/ann/profile"]);
    assert!(!pipe.exists());
    assert!(!profiles(&sandbox).join("other.changed").exists());
}

#[test]
fn who_watches_the_link_of_a_profile_hears_that_it_was_replaced() {
    let sandbox = with_generations(&[]);
    let link = profiles(&sandbox).join("default");
    let watcher = watch(&link, WatchFlags::DONT_FOLLOW);
    sandbox.narfs(&["profile", "rollback"]);
    assert_eq!(words(&heard(&watcher)), [("", "deleted")]);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("default-1-link"));
}

#[test]
fn what_programs_do_in_writable_profiles_is_heard_as_on_a_disk() {
    let sandbox = with_generations(&["-o", "writable-profiles"]);
    let at = profiles(&sandbox);
    let watcher = watch(&at, WatchFlags::empty());
    symlink("default-1-link", at.join(".0_default")).unwrap();
    fs::rename(at.join(".0_default"), at.join("default")).unwrap();
    let renamed = heard(&watcher);
    assert!(
        words(&renamed).contains(&("default", "moved to")),
        "{renamed:?}"
    );
    // Names that other programs than Nix give.
    let other = at.join("default.tmp-1");
    symlink("default-2-link", &other).unwrap();
    fs::rename(other, at.join("default")).unwrap();
    let renamed = heard(&watcher);
    assert!(
        words(&renamed).contains(&("default", "moved to")),
        "{renamed:?}"
    );
}
