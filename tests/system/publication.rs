//! A path that is published while the state is mounted is there when the command returns.

use std::fs;
use std::io::{ErrorKind, Read};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{PATIENT, directory, key, plain};
use crate::server::Refusing;
use crate::support::{Sandbox, World, run, succeed};

fn listing(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.store()).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_copied_path_appears_in_lookups_and_listings_before_the_command_returns() {
    let world = World::small();
    let hello = world.package("hello");
    for rounds in 0..3 {
        let sandbox = Sandbox::empty();
        sandbox.mount();
        for _ in 0..rounds {
            assert!(listing(&sandbox).is_empty());
        }
        let program = sandbox.store().join(hello).join("bin/hello");
        let absent = fs::read(&program).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);

        sandbox.copy(world, hello);
        assert!(program.exists());
        let names = listing(&sandbox);
        assert!(names.contains(&hello.to_owned()), "{names:?}");
        for name in names {
            fs::symlink_metadata(sandbox.store().join(name)).unwrap();
        }
    }
}

#[test]
fn what_a_program_has_read_is_there_for_commands_and_after_an_unmount() {
    let cache = Cache::new();
    // More than goes to the log of the database.
    let offers = (1..=6).map(|n| directory(&format!("read-{n}"), &noise(n, 2 << 20)));
    let offers: Vec<_> = offers.collect();
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let place = |offer: &Offer| sandbox.store().join(offer.path().base_name()).join("file");
    for (n, offer) in (1..).zip(&offers) {
        let name = offer.path().base_name();
        sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
        assert!(fs::read(place(offer)).unwrap() == noise(n, 2 << 20));
        match n % 3 {
            0 => assert!(listing(&sandbox).contains(&name)),
            1 => assert_eq!(sandbox.json(&["verify", &name])["good"], 1),
            _ => {}
        }
        sandbox.unmount();
        assert!(sandbox.narfs(&["ls", &name]).contains("file"));
    }
    let refusing = Refusing::new();
    sandbox.mount_from(&[&refusing.url], &key(&cache), PATIENT);
    for (n, offer) in (1..).zip(&offers) {
        assert!(fs::read(place(offer)).unwrap() == noise(n, 2 << 20));
    }
}

#[test]
fn an_added_path_appears_at_once_too() {
    let sandbox = Sandbox::mounted();
    let before = listing(&sandbox);
    let file = sandbox.dir().join("greeting");
    for round in 0..20 {
        fs::write(&file, format!("hello {round}")).unwrap();
        let name = sandbox.add(&file);
        assert!(!before.contains(&name));
        let names = listing(&sandbox);
        assert!(names.contains(&name), "{name} in round {round}");
        let read = fs::read_to_string(sandbox.store().join(name)).unwrap();
        assert_eq!(read, format!("hello {round}"));
    }
    assert_eq!(listing(&sandbox).len(), before.len() + 20);
}

#[test]
fn listings_during_publications_are_whole_and_without_repetitions() {
    let sandbox = Sandbox::mounted();
    let before = listing(&sandbox);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = sandbox.dir().join("file");
            for round in 0..30 {
                fs::write(&file, format!("{round}")).unwrap();
                sandbox.add(&file);
            }
            ended.store(true, Ordering::Relaxed);
        });
        while !ended.load(Ordering::Relaxed) {
            let names = listing(&sandbox);
            let mut unique = names.clone();
            unique.dedup();
            assert_eq!(unique, names);
            for name in &before {
                assert!(names.contains(name), "{name} is missing");
            }
        }
    });
    assert_eq!(listing(&sandbox).len(), before.len() + 30);
}

#[test]
fn a_rebuild_that_is_copied_into_the_mount_runs_and_what_was_there_goes_on() {
    let sandbox = Sandbox::empty();
    let worlds = World::both();
    sandbox.copy(worlds[0], worlds[0].package("hello"));
    sandbox.mount();
    sandbox.bind_to_nix(&sandbox.at);
    let program = |world: &World| format!("/nix/store/{}/bin/hello", world.package("hello"));
    let (old, new) = (program(worlds[0]), program(worlds[1]));
    assert_eq!(succeed(&mut Command::new(&old)), "Hello, world!\n");
    let mut open = fs::File::open(&old).unwrap();
    sandbox.copy(worlds[1], worlds[1].package("hello"));
    for hello in [&new, &old] {
        assert_eq!(succeed(&mut Command::new(hello)), "Hello, world!\n");
    }
    let mut through = Vec::new();
    open.read_to_end(&mut through).unwrap();
    assert_eq!(through, fs::read(&old).unwrap());
}

#[test]
fn a_copy_that_fails_leaves_the_mount_as_it_was() {
    let sandbox = Sandbox::mounted();
    let before = listing(&sandbox);
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let (url, key) = (World::small().url(), World::small().key());
    let copy = ["copy", "--from", &url, "--trusted-public-key", &key, absent];
    let ran = run(&mut sandbox.command(&copy), b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("absent"), "{}", ran.stderr);
    assert_eq!(listing(&sandbox), before);
}
