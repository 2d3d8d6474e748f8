//! Profiles that are changed by their links, without a kernel.

use super::*;
use crate::fetch::Requester;
use crate::profile::{Generation, GenerationNumber, Generations};
use crate::store::ProfileChange;

/// A state with the store paths 1 to 3, and writable profiles.
fn writable() -> (TempDir, Arc<Store>, WritableProfiles) {
    let (dir, fs) = file_system(1..4);
    let store = fs.store.clone();
    let changed = store.clone();
    let change: ChangeProfile = Box::new(move |name, change| {
        let record = changed.profiles().get(name.as_str())?;
        let list = record.iter().flat_map(|r| &r.generations).map(|g| {
            let (target, created) = (g.path.clone(), g.created);
            (GenerationNumber(g.number), Generation { target, created })
        });
        let current = record
            .as_ref()
            .and_then(|r| r.current)
            .map(GenerationNumber);
        let before = Generations::from_parts(current, list.collect());
        let after = change.apply(name, &before, 1000)?;
        let list = after.list().iter();
        changed.profiles().change(|_| {
            Ok(vec![ProfileChange {
                name: name.to_string(),
                current: after.current().map(|n| n.0),
                generations: list
                    .map(|(n, g)| (n.0, g.target.clone(), g.created))
                    .collect(),
            }])
        })?;
        Ok(())
    });
    (dir, store, WritableProfiles::new(Arc::new(fs), change))
}

fn full(seed: u8) -> String {
    format!("/nix/store/{}", path(seed))
}

impl WritableProfiles {
    fn at(&self, place: &str) -> Result<Attributes, FsError> {
        let mut at = self.attributes(root())?;
        for name in place.split('/').filter(|name| !name.is_empty()) {
            at = self.lookup(at.inode, name.as_bytes())?;
        }
        Ok(at)
    }

    fn in_directory<'p>(&self, place: &'p str) -> (Inode, &'p [u8]) {
        let (directory, name) = place.rsplit_once('/').unwrap_or(("", place));
        (self.at(directory).unwrap().inode, name.as_bytes())
    }

    fn target(&self, place: &str) -> Result<String, FsError> {
        let target = self.read_link(self.at(place)?.inode)?;
        Ok(String::from_utf8(target).unwrap())
    }

    fn link(&self, place: &str, target: &str) -> Result<Attributes, FsError> {
        let (directory, name) = self.in_directory(place);
        self.symlink(directory, name, target.as_bytes())
    }

    fn touch(&self, place: &str) -> Result<Inode, FsError> {
        let (directory, name) = self.in_directory(place);
        Ok(self.create(directory, name, 0o600, false)?.inode)
    }

    fn move_to(&self, from: &str, to: &str) -> Result<(), FsError> {
        let (from, to) = (self.in_directory(from), self.in_directory(to));
        self.rename(from, to, false, Requester::default())
    }

    fn take_away(&self, place: &str) -> Result<(), FsError> {
        let (directory, name) = self.in_directory(place);
        self.unlink(directory, name)
    }

    /// What `nix-env --set` does.
    fn set(&self, profile: &str, number: u64, target: &str) -> Result<(), FsError> {
        let link = format!("{profile}-{number}-link");
        let draft = format!("{link}.tmp-7-8");
        self.link(&draft, target)?;
        self.move_to(&draft, &link)?;
        self.switch(profile, number)
    }

    fn switch(&self, profile: &str, number: u64) -> Result<(), FsError> {
        let (directory, last) = profile.rsplit_once('/').unwrap_or(("", profile));
        let draft = format!("{directory}/.0_{last}");
        let draft = draft.trim_start_matches('/');
        self.link(draft, &format!("{last}-{number}-link"))?;
        self.move_to(draft, profile)
    }

    fn names(&self, place: &str, page: usize) -> Vec<String> {
        let inode = self.at(place).unwrap().inode;
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let mut taken = 0;
            self.list(inode, offset, &mut |entry| {
                if taken == page {
                    return true;
                }
                taken += 1;
                offset = entry.next;
                all.push(String::from_utf8(entry.name).unwrap());
                false
            })
            .unwrap();
            if taken == 0 {
                return all;
            }
        }
    }
}

fn errno<T: std::fmt::Debug>(outcome: Result<T, FsError>) -> i32 {
    outcome.unwrap_err().errno()
}

fn generations(store: &Store, name: &str) -> (Option<u64>, Vec<(u64, StorePath)>) {
    let record = store.profiles().get(name).unwrap().unwrap();
    let list = record.generations.into_iter().map(|g| (g.number, g.path));
    (record.current, list.collect())
}

#[test]
fn what_nix_env_does_with_links_are_changes_of_the_profile() {
    let (_dir, store, at) = writable();
    for profile in ["default", "per-user/ann/x"] {
        let (directory, _) = profile.rsplit_once('/').unwrap_or(("", profile));
        if !directory.is_empty() {
            let (above, name) = at.in_directory(directory);
            at.make_directory(above, name).unwrap();
        }
        at.set(profile, 1, &full(1)).unwrap();
        at.set(profile, 2, &full(2)).unwrap();
        let both = vec![(1, path(1)), (2, path(2))];
        assert_eq!(generations(&store, profile), (Some(2), both.clone()));
        at.switch(profile, 1).unwrap();
        assert_eq!(generations(&store, profile), (Some(1), both));
        assert!(at.target(profile).unwrap().ends_with("-1-link"));
        at.take_away(&format!("{profile}-2-link")).unwrap();
        assert_eq!(generations(&store, profile), (Some(1), vec![(1, path(1))]));
        // The draft links are gone.
        let draft = format!("{profile}-1-link.tmp-7-8");
        assert_eq!(errno(at.at(&draft)), FsError::NotFound.errno());
        // An existing link is replaced, as on any file system.
        at.link(&draft, &full(3)).unwrap();
        at.move_to(&draft, &format!("{profile}-1-link")).unwrap();
        assert_eq!(generations(&store, profile), (Some(1), vec![(1, path(3))]));
    }
}

#[test]
fn a_lock_file_serves_who_waits_for_it_after_it_was_removed() {
    let (_dir, _store, at) = writable();
    let lock = at.touch("default.lock").unwrap();
    // Another process waits for the same file.
    assert_eq!(at.touch("default.lock").unwrap(), lock);
    let (directory, name) = at.in_directory("default.lock");
    assert_eq!(
        errno(at.create(directory, name, 0o600, true)),
        FsError::Exists.errno()
    );
    at.open(lock).unwrap();
    at.take_away("default.lock").unwrap();
    at.write(lock, 0, b"d").unwrap();
    for _ in 0..2 {
        assert_eq!(at.attributes(lock).unwrap().size, 1);
        at.release(lock);
    }
    assert_eq!(at.read(lock, 0, 9).unwrap(), b"d");
    assert_ne!(at.touch("default.lock").unwrap(), lock);
    at.release(lock);
    // So may a process that had found it when it was removed, and opens it now.
    at.open(lock).unwrap();
    assert_eq!(at.read(lock, 0, 9).unwrap(), b"d");
    at.release(lock);
}

/// A profile points to one of its generations, a generation to a store path.
fn links_lead_only_where_nix_has_them_lead(at: &WritableProfiles) {
    let targets = [
        full(1),
        "default-1-link/x".into(),
        "other-1-link".into(),
        "../default-1-link".into(),
        "default".into(),
    ];
    for target in &targets {
        at.link(".0_default", target).unwrap();
        let moved = at.move_to(".0_default", "default");
        assert_eq!(errno(moved), FsError::ReadOnly.errno(), "{target}");
        at.take_away(".0_default").unwrap();
    }
    let targets = [
        "/elsewhere/x".to_owned(),
        format!("{}/bin", full(1)),
        full(1).trim_start_matches('/').to_owned(),
        "default-1-link".to_owned(),
    ];
    for target in &targets {
        at.link(".x", target).unwrap();
        let moved = at.move_to(".x", "default-3-link");
        assert_eq!(errno(moved), FsError::ReadOnly.errno(), "{target}");
        at.take_away(".x").unwrap();
    }
}

#[test]
fn what_is_not_what_nix_does_is_refused_and_changes_nothing() {
    let (_dir, store, at) = writable();
    at.set("default", 1, &full(1)).unwrap();
    at.set("default", 2, &full(2)).unwrap();
    let before = store.profiles().get("default").unwrap();
    let draft = "default-3-link.tmp-1-2";
    at.link(draft, &full(3)).unwrap();
    at.touch("file").unwrap_err();
    at.touch("a.lock").unwrap();
    // Names of profiles are not available for files.
    for name in ["new", "default", "default-1-link", "default-9-link"] {
        assert_eq!(errno(at.touch(name)), FsError::ReadOnly.errno(), "{name}");
        let (directory, name) = at.in_directory(name);
        let made = at.make_directory(directory, name);
        assert!(matches!(made, Err(FsError::ReadOnly | FsError::Exists)));
    }
    assert_eq!(errno(at.link("new", &full(1))), FsError::ReadOnly.errno());
    assert_eq!(errno(at.link("default", &full(1))), FsError::Exists.errno());
    links_lead_only_where_nix_has_them_lead(&at);
    at.link(".x", &full(9)).unwrap();
    let unknown = at.move_to(".x", "default-3-link");
    assert_eq!(errno(unknown), FsError::NotFound.errno());
    at.link(".y", "default-7-link").unwrap();
    assert_eq!(
        errno(at.move_to(".y", "default")),
        FsError::NotFound.errno()
    );
    // Files cannot become links, and links of profiles cannot be moved.
    assert_eq!(
        errno(at.move_to("a.lock", "default-3-link")),
        FsError::ReadOnly.errno()
    );
    assert_eq!(
        errno(at.move_to("default-1-link", "default-3-link")),
        FsError::ReadOnly.errno()
    );
    assert_eq!(
        errno(at.move_to("default", ".moved")),
        FsError::ReadOnly.errno()
    );
    assert_eq!(
        errno(at.move_to(draft, "per-user")),
        FsError::IsADirectory.errno()
    );
    assert_eq!(
        errno(at.move_to("none", "default")),
        FsError::NotFound.errno()
    );
    let (from, to) = (at.in_directory(draft), at.in_directory("default-2-link"));
    let moved = at.rename(from, to, true, Requester::default());
    assert_eq!(errno(moved), FsError::Exists.errno());
    // They cannot be removed either.
    let current = at.take_away("default-2-link").unwrap_err();
    assert!(
        current
            .to_string()
            .contains("cannot delete current version")
    );
    assert_eq!(errno(at.take_away("default")), FsError::ReadOnly.errno());
    assert_eq!(
        errno(at.take_away("per-user")),
        FsError::IsADirectory.errno()
    );
    assert_eq!(
        errno(at.take_away("default-3-link")),
        FsError::NotFound.errno()
    );
    assert_eq!(store.profiles().get("default").unwrap(), before);
}

#[test]
fn attributes_of_profiles_do_not_change() {
    let (_dir, _store, at) = writable();
    at.set("default", 1, &full(1)).unwrap();
    let set = |place: &str, new: NewAttributes| at.set_attributes(at.at(place).unwrap().inode, new);
    let mode = |mode| NewAttributes {
        mode: Some(mode),
        ..NewAttributes::default()
    };
    for place in ["", "per-user", "default", "default-1-link"] {
        assert_eq!(
            errno(set(place, mode(0o700))),
            FsError::ReadOnly.errno(),
            "{place}"
        );
        let owner = Some(7);
        let other = NewAttributes {
            owner,
            ..NewAttributes::default()
        };
        assert_eq!(
            errno(set(place, other)),
            FsError::ReadOnly.errno(),
            "{place}"
        );
        let size = Some(0);
        let shorter = NewAttributes {
            size,
            ..NewAttributes::default()
        };
        assert_eq!(
            errno(set(place, shorter)),
            FsError::ReadOnly.errno(),
            "{place}"
        );
    }
    // Watchers are notified; nothing has changed.
    let touched = NewAttributes {
        time: Some(SystemTime::now()),
        is_now: true,
        ..NewAttributes::default()
    };
    let before = at.at("default").unwrap();
    assert_eq!(set("default", touched).unwrap(), before);
    let dated = NewAttributes {
        is_now: false,
        ..touched
    };
    assert_eq!(errno(set("default", dated)), FsError::ReadOnly.errno());
    assert_eq!(errno(set("per-user", touched)), FsError::ReadOnly.errno());
    // Nix does this whenever it opens a state.
    let as_it_is = NewAttributes {
        mode: Some(0o755),
        owner: Some(0),
        group: Some(0),
        ..NewAttributes::default()
    };
    set("per-user", as_it_is).unwrap();
    let lock = at.touch("x.lock").unwrap();
    at.write(lock, 0, b"text").unwrap();
    let time = Some(UNIX_EPOCH);
    let size = Some(1);
    let changed = NewAttributes {
        time,
        size,
        ..NewAttributes::default()
    };
    let seen = set("x.lock", changed).unwrap();
    assert_eq!((seen.size, seen.time), (1, UNIX_EPOCH));
    assert_eq!(errno(set("x.lock", mode(0o666))), FsError::ReadOnly.errno());
}

#[test]
fn the_link_of_a_profile_is_one_inode_that_leads_where_it_leads_now() {
    let (_dir, store, at) = writable();
    at.set("default", 1, &full(1)).unwrap();
    let link = at.at("default").unwrap();
    at.set("default", 2, &full(2)).unwrap();
    assert_eq!(at.read_link(link.inode).unwrap(), b"default-2-link");
    assert_eq!(at.at("default").unwrap().inode, link.inode);
    assert_eq!(at.attributes(link.inode).unwrap().inode, link.inode);
    // Changed by a command.
    store
        .profiles()
        .change(|_| {
            Ok(vec![ProfileChange {
                name: "default".into(),
                current: Some(1),
                generations: vec![(1, path(1), 5)],
            }])
        })
        .unwrap();
    assert_eq!(at.read_link(link.inode).unwrap(), b"default-1-link");
    assert_eq!(at.target("default-1-link").unwrap(), full(1));
}

#[test]
fn a_listing_has_profiles_and_directories_and_nothing_temporary() {
    let (_dir, _store, at) = writable();
    at.set("default", 1, &full(1)).unwrap();
    for name in ["ann", "bob"] {
        let directory = at.at("per-user").unwrap().inode;
        at.make_directory(directory, name.as_bytes()).unwrap();
        let again = at.make_directory(directory, name.as_bytes());
        assert_eq!(errno(again), FsError::Exists.errno());
    }
    at.touch("default.lock").unwrap();
    at.link("default-2-link.tmp-1-2", &full(2)).unwrap();
    at.link("per-user/ann/.0_x", "x").unwrap();
    for page in [1, 2, 99] {
        assert_eq!(
            at.names("", page),
            [".", "..", "per-user", "default", "default-1-link"]
        );
        assert_eq!(at.names("per-user", page), [".", "..", "ann", "bob"]);
        assert_eq!(at.names("per-user/ann", page), [".", ".."]);
    }
    let inode = at.at("per-user/ann").unwrap().inode;
    at.set("per-user/ann/x", 1, &full(1)).unwrap_err();
    at.take_away("per-user/ann/.0_x").unwrap();
    at.switch("per-user/ann/x", 1).unwrap();
    // The same directory, whatever number it was opened by.
    let mut entries = Vec::new();
    at.list(inode, 2, &mut |entry| {
        entries.push(String::from_utf8(entry.name).unwrap());
        false
    })
    .unwrap();
    assert_eq!(entries, ["x", "x-1-link"]);
    assert_eq!(at.names("per-user", 9), [".", "..", "ann", "bob"]);
    let directory = at.at("per-user").unwrap().inode;
    assert_eq!(
        errno(at.remove_directory(directory, b"ann")),
        FsError::ReadOnly.errno()
    );
    at.link("per-user/bob/.x", "x").unwrap();
    assert_eq!(
        errno(at.remove_directory(directory, b"bob")),
        FsError::NotEmpty.errno()
    );
    at.take_away("per-user/bob/.x").unwrap();
    at.remove_directory(directory, b"bob").unwrap();
    assert_eq!(errno(at.at("per-user/bob")), FsError::NotFound.errno());
    for name in ["directory", "per-user-x", ".d", "x.lock"] {
        let (directory, name) = at.in_directory(name);
        let made = at.make_directory(directory, name);
        assert_eq!(errno(made), FsError::ReadOnly.errno());
    }
}

#[test]
fn numbers_of_what_is_not_here_name_nothing() {
    let (_dir, _store, at) = writable();
    for inode in [
        Inode::special(Special::Store),
        Inode::special(Special::Profiles),
        Inode::node(PathOrdinal(1), 0),
        Inode::temporary(1),
        Inode(u64::MAX),
    ] {
        assert_eq!(errno(at.attributes(inode)), FsError::Stale.errno());
        assert_eq!(errno(at.lookup(inode, b"x")), FsError::Stale.errno());
        assert_eq!(errno(at.read_link(inode)), FsError::Stale.errno());
    }
    assert_eq!(
        errno(at.lookup(root(), &[b'x'; 255])),
        FsError::NotFound.errno()
    );
    assert_eq!(
        errno(at.lookup(root(), &[b'x'; 256])),
        FsError::NameTooLong.errno()
    );
    assert_eq!(errno(at.lookup(root(), b"\xff")), FsError::NotFound.errno());
    at.touch(".\u{fffd}").unwrap();
}
