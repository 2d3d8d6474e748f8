//! Profiles, without a kernel.

use super::super::profiles::{first_listed, place_in_listing};
use super::*;
use crate::store::{Change, ProfileChange};

fn change(name: &str, current: u64, generations: &[(u64, u8)]) -> ProfileChange {
    let generation = |(number, seed): &(u64, u8)| (*number, path(*seed), 1000 + *number as i64);
    ProfileChange {
        name: name.to_owned(),
        current: Some(current),
        generations: generations.iter().map(generation).collect(),
    }
}

/// A state with two profiles and a directory.
fn with_profiles() -> (TempDir, FileSystem) {
    let (dir, fs) = file_system(1..3);
    let changes = [
        change("system", 2, &[(1, 1), (2, 2)]),
        change("per-user/ann/profile", 1, &[(1, 1)]),
    ];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    (dir, fs)
}

const PROFILES: &str = "var/nix/profiles";

fn inode(fs: &FileSystem, place: &str) -> Inode {
    let place = format!("{PROFILES}/{place}");
    walk(fs, place.trim_end_matches('/')).unwrap().inode
}

fn target(fs: &FileSystem, place: &str) -> String {
    String::from_utf8(fs.read_link(inode(fs, place)).unwrap()).unwrap()
}

#[test]
fn links_lead_from_the_name_to_the_store() {
    let (_dir, fs) = with_profiles();
    assert_eq!(target(&fs, "system"), "system-2-link");
    assert_eq!(target(&fs, "per-user/ann/profile"), "profile-1-link");
    for (number, seed) in [(1, 1), (2, 2)] {
        let link = format!("system-{number}-link");
        let expected = format!("/nix/store/{}", path(seed));
        assert_eq!(target(&fs, &link), expected);
        let a = fs.attributes(inode(&fs, &link)).unwrap();
        assert_eq!((a.kind, a.mode, a.links), (Kind::Link, 0o777, 1));
        assert_eq!(a.size, expected.len() as u64);
        assert_eq!(a.time, UNIX_EPOCH + Duration::from_secs(1000 + number));
    }
    let name = fs.attributes(inode(&fs, "system")).unwrap();
    assert_eq!(name.size, "system-2-link".len() as u64);
    assert!(name.time.elapsed().unwrap() < Duration::from_secs(60));
    for directory in ["", "per-user", "per-user/ann"] {
        let a = fs.attributes(inode(&fs, directory)).unwrap();
        assert_eq!((a.kind, a.mode), (Kind::Directory, 0o755), "{directory}");
        assert!(a.time.elapsed().unwrap() < Duration::from_secs(60));
    }
}

#[test]
fn names_that_may_come_are_not_said_to_be_absent_for_ever() {
    let (_dir, fs) = with_profiles();
    let all = inode(&fs, "");
    let link = inode(&fs, "system");
    for name in [
        "other",
        "system-3-link",
        "system-02-link",
        "per-user-1-link",
        ".lock",
        "system.lock",
        "profile",
        "a\u{1}",
    ] {
        let looked = fs.lookup(all, name.as_bytes()).unwrap();
        assert_eq!(looked, Lookup::Absent, "{name:?}");
    }
    assert_eq!(fs.lookup(all, b"\xff").unwrap(), Lookup::Absent);
    assert!(matches!(fs.lookup(link, b"x"), Err(FsError::NotADirectory)));
    assert!(matches!(fs.read(link, 0, 1), Err(FsError::NotAFile)));
    assert!(matches!(fs.read(all, 0, 1), Err(FsError::IsADirectory)));
    assert!(matches!(fs.read_link(all), Err(FsError::NotALink)));
    assert!(matches!(
        fs.list(link, 0, &mut |_| true),
        Err(FsError::NotADirectory)
    ));
}

#[test]
fn directories_that_nix_wants_are_there_when_empty() {
    let (_dir, fs) = file_system(1..2);
    let var = walk(&fs, "var/nix").unwrap().inode;
    assert_eq!(
        names(&fs, var, 2),
        [".", "..", "gcroots", "profiles", "temproots"]
    );
    for empty in [
        "var/nix/profiles/per-user",
        "var/nix/gcroots/per-user",
        "var/nix/temproots",
    ] {
        let there = walk(&fs, empty).unwrap();
        assert_eq!(there.kind, Kind::Directory);
        assert_eq!(names(&fs, there.inode, 2), [".", ".."]);
    }
    let gcroots = walk(&fs, "var/nix/gcroots").unwrap().inode;
    assert_eq!(names(&fs, gcroots, 9), [".", "..", "per-user"]);
    assert_eq!(names(&fs, inode(&fs, ""), 9), [".", "..", "per-user"]);
}

#[test]
fn listings_agree_with_lookups_whatever_the_size_of_their_pages() {
    let (_dir, fs) = with_profiles();
    for page in [1, 2, 100] {
        let all = names(&fs, inode(&fs, ""), page);
        assert_eq!(
            all,
            [
                ".",
                "..",
                "per-user",
                "system",
                "system-1-link",
                "system-2-link"
            ]
        );
        assert_eq!(names(&fs, inode(&fs, "per-user"), page), [".", "..", "ann"]);
        let ann = names(&fs, inode(&fs, "per-user/ann"), page);
        assert_eq!(ann, [".", "..", "profile", "profile-1-link"]);
    }
    for directory in ["", "per-user", "per-user/ann"] {
        let above = directory.rsplit_once('/').map_or("", |(above, _)| above);
        let expected = match directory {
            "" => walk(&fs, "var/nix").unwrap().inode,
            _ => inode(&fs, above),
        };
        let own = inode(&fs, directory);
        fs.list(own, 0, &mut |entry| {
            let a = entry.attributes;
            match &entry.name[..] {
                b"." => assert_eq!(a.inode, own),
                b".." => assert_eq!(a.inode, expected),
                name => assert_eq!(fs.lookup(own, name).unwrap(), Lookup::Found(a)),
            }
            assert_eq!(fs.attributes(a.inode).unwrap(), a);
            false
        })
        .unwrap();
    }
}

#[test]
fn a_listing_that_goes_on_after_a_change_shows_what_stayed_once() {
    let (_dir, fs) = with_profiles();
    let all = inode(&fs, "");
    let (mut seen, mut offset) = (Vec::new(), 0);
    let mut page = |limit: usize| {
        let mut left = limit;
        fs.list(all, offset, &mut |entry| {
            if left == 0 {
                return true;
            }
            left -= 1;
            offset = entry.next;
            seen.push(String::from_utf8(entry.name).unwrap());
            false
        })
        .unwrap();
    };
    page(4);
    let changes = [
        change("system", 1, &[(1, 1), (2, 2), (3, 1)]),
        change("aaa", 1, &[(1, 1)]),
        change("per-user/ann/profile", 1, &[]),
    ];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    page(100);
    assert_eq!(seen[2..4], ["per-user", "system"]);
    let rest = [
        "system-1-link",
        "system-2-link",
        "system-3-link",
        "aaa",
        "aaa-1-link",
    ];
    assert_eq!(seen[4..], rest);
}

#[test]
fn a_link_that_changes_gets_another_number_and_the_old_one_is_stale() {
    let (_dir, fs) = with_profiles();
    let second = inode(&fs, "system");
    let generations = ["system-1-link", "system-2-link"].map(|link| inode(&fs, link));
    let generation = [(1, 1), (2, 2)];
    let switch = |to| {
        fs.store
            .profiles()
            .change(|_| Ok(vec![change("system", to, &generation)]))
            .unwrap();
    };
    switch(1);
    let first = inode(&fs, "system");
    assert_ne!(first, second);
    assert_eq!(target(&fs, "system"), "system-1-link");
    assert!(matches!(fs.attributes(second), Err(FsError::Stale)));
    assert!(matches!(fs.read_link(second), Err(FsError::Stale)));
    // The same target, so the same inode.
    switch(2);
    assert_eq!(inode(&fs, "system"), second);
    assert_eq!(
        ["system-1-link", "system-2-link"].map(|link| inode(&fs, link)),
        generations
    );
    // The number of a deleted generation, for another path.
    let changes = [change("system", 1, &[(1, 1)])];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    assert!(matches!(fs.attributes(generations[1]), Err(FsError::Stale)));
    let changes = [change("system", 2, &[(1, 1), (2, 1)])];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    let again = inode(&fs, "system-2-link");
    assert_ne!(again, generations[1]);
    assert_ne!(inode(&fs, "system"), second);
    assert_eq!(
        target(&fs, "system-2-link"),
        format!("/nix/store/{}", path(1))
    );
}

#[test]
fn numbers_of_profiles_are_the_same_after_a_restart() {
    let (dir, fs) = with_profiles();
    let places = [
        "",
        "per-user",
        "per-user/ann",
        "per-user/ann/profile",
        "per-user/ann/profile-1-link",
        "system",
        "system-2-link",
    ];
    let numbers = |fs: &FileSystem| places.map(|place| inode(fs, place));
    let before = numbers(&fs);
    drop(fs);
    let options = StoreOptions {
        memory: 32 << 20,
        ..StoreOptions::default()
    };
    let store = Arc::new(Store::open(dir.path(), &options).unwrap());
    let fs = FileSystem::new(store, None, Arc::default());
    assert_eq!(numbers(&fs), before);
    let different: std::collections::HashSet<_> = before.iter().collect();
    assert_eq!(different.len(), before.len());
}

#[test]
fn profiles_that_are_gone_leave_stale_numbers() {
    let (_dir, fs) = with_profiles();
    let places = ["per-user/ann", "per-user/ann/profile"];
    let old = places.map(|place| inode(&fs, place));
    let changes = [change("per-user/ann/profile", 1, &[])];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    for old in old {
        assert!(matches!(fs.attributes(old), Err(FsError::Stale)));
        assert!(matches!(fs.lookup(old, b"profile"), Err(FsError::Stale)));
        assert!(matches!(
            fs.list(old, 0, &mut |_| true),
            Err(FsError::Stale)
        ));
    }
    assert_eq!(names(&fs, inode(&fs, "per-user"), 9), [".", ".."]);
    let changes = [change("per-user/ann/profile", 1, &[(1, 1)])];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    assert!(places.map(|place| inode(&fs, place)) != old);
}

#[test]
fn what_a_change_makes_stale_is_named() {
    let (_dir, fs) = with_profiles();
    let reported = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = reported.clone();
    fs.store.observe(move |change| {
        if let Change::Profiles(changed) = change {
            log.lock().unwrap().push(stale_entries(changed));
        }
    });
    let all = inode(&fs, "");
    let per_user = inode(&fs, "per-user");
    let ann = inode(&fs, "per-user/ann");
    let stale = |changes: &[ProfileChange]| -> Vec<(Inode, String)> {
        fs.store
            .profiles()
            .change(|_| Ok(changes.to_vec()))
            .unwrap();
        let stale: Vec<StaleEntries> = reported.lock().unwrap().pop().unwrap();
        for s in &stale {
            // Unless it was removed.
            let _ = fs.list(s.directory, 0, &mut |entry| {
                assert!(entry.name != b".." || entry.attributes.inode == s.above);
                false
            });
        }
        let names = stale.into_iter().map(|s| (s.directory, s.names.join(" ")));
        names.collect()
    };
    // A switch: only the name.
    let switched = stale(&[change("system", 1, &[(1, 1), (2, 2)])]);
    assert_eq!(switched, [(all, "system".to_owned())]);
    let added = stale(&[change("system", 3, &[(1, 1), (2, 2), (3, 1)])]);
    assert_eq!(added, [(all, "system system-3-link".to_owned())]);
    let deleted = stale(&[change("system", 3, &[(3, 1)])]);
    let expected = "system-1-link system-2-link".to_owned();
    assert_eq!(deleted, [(all, expected)]);
    let gone = stale(&[change("per-user/ann/profile", 1, &[])]);
    assert_eq!(
        gone,
        [
            (ann, "profile profile-1-link profile.changed".to_owned()),
            (per_user, "ann".to_owned())
        ]
    );
    let both = stale(&[change("system", 1, &[]), change("x/y", 1, &[(1, 1)])]);
    assert_eq!(
        both,
        [
            (inode(&fs, "x"), "y y-1-link y.changed".to_owned()),
            (all, "system system-3-link system.changed x".to_owned())
        ]
    );
}

#[test]
fn links_that_are_replaced_are_named_with_what_they_were() {
    let (_dir, fs) = with_profiles();
    let reported = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = reported.clone();
    fs.store.observe(move |change| {
        if let Change::Profiles(changed) = change {
            log.lock().unwrap().extend(replaced_links(changed));
        }
    });
    let all = inode(&fs, "");
    let [name, second] = ["system", "system-2-link"].map(|place| inode(&fs, place));
    let replaced = |changes: &[ProfileChange]| -> Vec<(String, Inode)> {
        fs.store
            .profiles()
            .change(|_| Ok(changes.to_vec()))
            .unwrap();
        let replaced = std::mem::take(&mut *reported.lock().unwrap()).into_iter();
        let replaced = replaced.inspect(|r| assert_eq!(r.directory, all));
        replaced.map(|r| (r.name, r.link)).collect()
    };
    let generations = [(1, 1), (2, 2)];
    let switched = replaced(&[change("system", 1, &generations)]);
    assert_eq!(switched, [("system".to_owned(), name)]);
    let same = replaced(&[change("system", 1, &generations)]);
    assert_eq!(same, []);
    let deleted = replaced(&[change("system", 1, &[(1, 1)])]);
    assert_eq!(deleted, [("system-2-link".to_owned(), second)]);
    let added = replaced(&[change("system", 1, &[(1, 1), (3, 2)])]);
    assert_eq!(added, []);
    let gone = replaced(&[change("system", 1, &[])]).into_iter();
    let gone: Vec<_> = gone.map(|(name, _)| name).collect();
    let expected = ["system", "system-1-link", "system-3-link", "system.changed"];
    assert_eq!(gone, expected);
}

#[test]
fn a_profile_has_a_pipe_that_is_not_listed() {
    let (_dir, fs) = with_profiles();
    let pipe = walk(&fs, "var/nix/profiles/per-user/ann/profile.changed").unwrap();
    assert_eq!((pipe.kind, pipe.mode), (Kind::Pipe, 0o600));
    assert_eq!(fs.attributes(pipe.inode).unwrap(), pipe);
    let ann = inode(&fs, "per-user/ann");
    assert_eq!(names(&fs, ann, 9), [".", "..", "profile", "profile-1-link"]);
    for name in ["other.changed", "profile-1-link.changed", ".changed"] {
        let looked = fs.lookup(ann, name.as_bytes()).unwrap();
        assert_eq!(looked, Lookup::Absent, "{name}");
    }
    // A profile of that name takes precedence.
    let changes = [change("per-user/ann/profile.changed", 1, &[(1, 1)])];
    fs.store
        .profiles()
        .change(|_| Ok(changes.to_vec()))
        .unwrap();
    let link = walk(&fs, "var/nix/profiles/per-user/ann/profile.changed").unwrap();
    assert_eq!(link.kind, Kind::Link);
}

#[test]
fn places_in_a_listing_have_31_bits_and_others_come_last() {
    let (_dir, fs) = with_profiles();
    let mut places = Vec::new();
    for directory in ["", "per-user", "per-user/ann"] {
        fs.list(inode(&fs, directory), 0, &mut |entry| {
            places.push(entry.next);
            false
        })
        .unwrap();
    }
    assert!(places.iter().all(|place| place >> 31 == 0), "{places:?}");
    for (id, node) in [(16, 3), ((1 << 16) - 1, (1 << 14) - 1)] {
        let place = place_in_listing(id, node);
        assert!((place + 3) >> 31 == 0);
        assert_eq!(first_listed(place, false), id);
        assert_eq!(first_listed(place, true), 0);
    }
    for (id, node) in [(1 << 16, 0), (16, 1 << 14), ((1 << 28) - 1, (1 << 24) - 1)] {
        let place = place_in_listing(id, node);
        assert!(place > 1 << 31);
        assert_eq!(first_listed(place, true), id);
        assert_eq!(first_listed(place, false), u32::MAX);
    }
}
