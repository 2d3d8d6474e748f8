//! Databases that cannot be opened any more, made anew of what is kept a second time and of the sources.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise, path};
use crate::golden::Golden;
use crate::program::{Ran, State};
use crate::server::{Answer, Server};

fn full(name: &str) -> String {
    format!("/nix/store/{}", path(name))
}

fn json(state: &State, arguments: &[&str]) -> Value {
    let ran = state.run(&[arguments, &["--json"]].concat());
    ran.succeeds();
    serde_json::from_str(&ran.stdout()).unwrap()
}

/// Files of the database of a state whose names begin so.
fn files(state: &State, prefix: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.dir().join("db")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .filter(|p| extension.is_empty() || p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

/// A cache, and a state that has something of everything.
struct Scene {
    cache: Cache,
    files: TempDir,
    state: State,
    /// Paths that were added: a small one and one that is not.
    small: String,
    large: String,
}

impl Scene {
    fn set() -> Self {
        let cache = Cache::new();
        let package = |name, seed| Offer::package(name, seed, 300_000);
        let base = package("base", 1);
        for offer in [
            package("tool", 2).referring(&[base.path()]),
            package("other", 3).referring(&[base.path()]),
            base,
        ] {
            cache.put(&offer);
        }
        let files = tempfile::tempdir().unwrap();
        for (name, length) in [("small", 1000), ("large", 2 << 20)] {
            fs::write(files.path().join(name), noise(length as u64, length)).unwrap();
        }
        let state = State::new();
        state
            .copy(&cache, &[&full("tool"), &full("other")])
            .succeeds();
        let add = |name: &str| {
            let ran = state.run(&["add", files.path().join(name).to_str().unwrap()]);
            ran.succeeds().stdout().trim().to_owned()
        };
        let (small, large) = (add("small"), add("large"));
        let link = files.path().join("link").display().to_string();
        for arguments in [
            &["profile", "-p", "x", "set", &full("tool")][..],
            &["profile", "-p", "x", "set", &full("other")],
            &["profile", "-p", "env", "install", &full("tool")],
            &["profile", "-p", "env", "install", &full("other")],
            &["pin", &full("base")],
            &["closure", "view", &full("base"), "--profile", "x"],
            &["add-root", &link, &full("tool")],
            &["profile", "-p", "added", "set", &large],
        ] {
            state.run(arguments).succeeds();
        }
        Self {
            cache,
            files,
            state,
            small,
            large,
        }
    }

    /// The state once more.
    fn again(&self, name: &str) -> State {
        let at = self.files.path().join(name);
        let mut cp = Command::new("cp");
        cp.arg("-r").arg(self.state.dir()).arg(&at);
        assert!(cp.status().unwrap().success());
        State::at(at)
    }

    fn repair(&self, state: &State) -> Ran {
        self.repair_from(&self.cache.url(), state)
    }

    fn repair_from(&self, url: &str, state: &State) -> Ran {
        let mut arguments = vec!["verify".to_owned(), "--repair".to_owned()];
        arguments.extend(self.cache.arguments_from(url));
        state.run(&arguments)
    }

    /// What is shown of a state.
    fn look(&self, state: &State) -> Vec<Value> {
        let mut seen: Vec<_> = [
            &["pins"][..],
            &["profiles"],
            &["profile", "-p", "x", "history"],
            &["profile", "-p", "env", "history"],
            &["profile", "-p", "env", "list"],
            &["closures"],
            &["roots"],
            &[
                "path-info",
                "--closure",
                &full("tool"),
                &full("other"),
                &self.large,
            ],
        ]
        .iter()
        .map(|arguments| json(state, arguments))
        .collect();
        for name in [full("base"), full("tool"), self.small.clone()] {
            seen.push(json(state, &["debug", "path", &name])["ordinal"].clone());
        }
        seen.iter_mut().for_each(forget);
        seen
    }
}

/// Takes away what depends on which contents are here and since when, and what other processes use.
fn forget(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["missing", "store", "registrationTime", "ca"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(forget);
        }
        Value::Array(items) => {
            items.retain(|item| item["kind"] != "process");
            items.iter_mut().for_each(forget);
        }
        _ => {}
    }
}

type Damage = fn(&State);

const DAMAGES: [(&str, Damage); 5] = [
    ("without CURRENT", |state| {
        fs::remove_file(state.dir().join("db/CURRENT")).unwrap();
    }),
    ("with another CURRENT", |state| {
        fs::write(state.dir().join("db/CURRENT"), "nonsense").unwrap();
    }),
    ("without a manifest", |state| {
        fs::remove_file(&files(state, "MANIFEST-", "")[0]).unwrap();
    }),
    ("with a manifest that is cut off", |state| {
        let manifest = fs::File::options()
            .write(true)
            .open(&files(state, "MANIFEST-", "")[0]);
        manifest.unwrap().set_len(100).unwrap();
    }),
    ("without a database", |state| {
        fs::remove_dir_all(state.dir().join("db")).unwrap();
    }),
];

#[test]
fn a_database_that_cannot_be_opened_is_made_anew_of_the_second_copy() {
    let scene = Scene::set();
    let before = scene.look(&scene.state);
    for (what, damage) in DAMAGES {
        let state = scene.again(what);
        damage(&state);
        for arguments in [&["stats"][..], &["pins"], &["verify"], &["gc"]] {
            state.run(arguments).fails(&[
                "is damaged, or a part of it is missing",
                "verify --repair",
                state.dir().to_str().unwrap(),
            ]);
        }
        let server = Server::new(scene.cache.dir().to_owned(), |_, _| Answer::File);
        let ran = scene.repair_from(&server.url, &state);
        let said = ran.stderr();
        // Where only the name of the list of files is lost, there is nothing to restore.
        let is_named = what.ends_with("CURRENT");
        let is_copied = said.contains("was made anew from the second copy");
        assert!(said.contains("was made anew"), "{what}: {said}");
        assert_eq!(is_copied, !is_named, "{what}: {said}");
        let is_lost = what == "without a database";
        let has_contents = said.contains("contents that can be read are still there");
        assert_eq!(has_contents, !is_lost, "{what}: {said}");
        let lines = said.lines();
        let errors: Vec<_> = lines.filter(|l| l.starts_with("narfs: /nix")).collect();
        // Nobody has what was added, but for what is small.
        assert_eq!(errors.len(), usize::from(is_lost), "{what}: {said}");
        for error in errors {
            assert!(error.contains(&scene.large) && error.contains("was added here"));
        }
        let code = ran.output.status.code();
        assert_eq!(code, Some(i32::from(is_lost)), "{what}: {said}");
        // Nothing is fetched that is there.
        assert_eq!(
            server.log().is_empty(),
            !is_lost,
            "{what}: {:?}",
            server.log()
        );
        let aside = state.dir().join("damaged-db");
        let is_aside = !is_lost && !is_named;
        assert_eq!(aside.exists(), is_aside, "{what}");
        assert_eq!(said.contains("damaged-db"), is_aside, "{what}: {said}");

        assert_eq!(scene.look(&state), before, "{what}");
        state.is_whole();
        // What is pinned is here, and so are environments and what is small.
        state.run(&["dump", &full("base")]).succeeds();
        let small = fs::read(scene.files.path().join("small")).unwrap();
        assert!(
            state.run(&["cat", &scene.small]).output.stdout == small,
            "{what}"
        );
        if !is_lost {
            for path in [&full("tool"), &full("other"), &scene.large] {
                state.run(&["dump", path]).succeeds();
            }
        }
        let history = json(&state, &["profile", "-p", "env", "history"]);
        let target = history[1]["path"].as_str().unwrap();
        state.run(&["ls", "-R", target]).succeeds();
        if is_lost {
            state.run(&["dump", &scene.large]).fails(&[&scene.large]);
        }
        state.run(&["profile", "-p", "x", "rollback"]).succeeds();
        state.copy(&scene.cache, &[&full("other")]).succeeds();
        state.run(&["dump", &full("other")]).succeeds();
        // It is added again, and is what it was.
        let large = scene.files.path().join("large");
        let added = state.run(&["add", large.to_str().unwrap()]);
        assert_eq!(added.stdout().trim(), scene.large);
        scene.repair(&state).succeeds();
    }
}

#[test]
fn contents_that_can_be_read_outlive_the_list_of_files_and_the_second_copy() {
    let cache = Cache::new();
    let nar = nar(&Tree::Directory(vec![
        ("a", Tree::File(b"small")),
        ("b", Tree::File(&noise(7, 700_000))),
    ]));
    let offer = Offer::named("first", nar.clone());
    cache.put(&offer);
    let server = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    for is_cut in [true, false] {
        for has_copy in [true, false] {
            // One command only, so that most of it is in the log alone.
            let state = State::new();
            state.copy(&cache, &[&full("first")]).succeeds();
            let what = format!("cut: {is_cut}, copy: {has_copy}");
            if !has_copy {
                fs::remove_file(state.dir().join("second-copy")).unwrap();
            }
            let manifest = &files(&state, "MANIFEST-", "")[0];
            match is_cut {
                true => {
                    let file = fs::File::options().write(true).open(manifest).unwrap();
                    file.set_len(fs::metadata(manifest).unwrap().len() / 2)
                        .unwrap();
                }
                false => {
                    fs::remove_file(manifest).unwrap();
                    fs::remove_file(state.dir().join("db/CURRENT")).unwrap();
                }
            }
            // Nothing is taken for a database that has less.
            state.run(&["path-info"]).fails(&["verify --repair"]);
            let mut arguments = vec!["verify".to_owned(), "--repair".to_owned()];
            arguments.extend(cache.arguments_from(&server.url));
            state.run(&arguments).succeeds();
            assert!(server.log().is_empty(), "{what}: {:?}", server.log());
            state.has_exactly(&[offer.path()]);
            state.gives_out(offer.path(), &nar);
            assert_eq!(state.is_whole(), 1, "{what}");
            // New contents get numbers of their own.
            let more = Offer::named("more", crate::binary_cache::file(&noise(9, 500_000)));
            cache.put(&more);
            state.copy(&cache, &[&full("more")]).succeeds();
            assert_eq!(state.is_whole(), 2, "{what}");
        }
    }
}

#[test]
fn what_is_lost_with_a_table_or_a_blob_file_is_fetched_and_the_rest_is_saved() {
    let scene = Scene::set();
    let before = scene.look(&scene.state);
    for extension in ["sst", "blob"] {
        let count = files(&scene.state, "", extension).len();
        for at in 0..count.min(4) {
            let state = scene.again(&format!("without {extension} {at}"));
            fs::remove_file(&files(&state, "MANIFEST-", "")[0]).unwrap();
            fs::remove_file(&files(&state, "", extension)[at]).unwrap();
            let ran = scene.repair(&state);
            let said = ran.stderr();
            assert!(
                said.contains("contents that can be read are still there"),
                "{said}"
            );
            // What was added here may be lost, and is named then.
            if ran.output.status.code() != Some(0) {
                let is_named = |l: &str| l.starts_with("narfs: /nix") && l.contains(&scene.large);
                assert!(said.lines().any(is_named), "{extension} {at}: {said}");
            }
            assert_eq!(scene.look(&state), before, "{extension} {at}");
            state
                .copy(&scene.cache, &[&full("tool"), &full("other")])
                .succeeds();
            for name in ["base", "tool", "other"] {
                state.run(&["dump", &full(name)]).succeeds();
            }
        }
    }
}

#[test]
fn a_table_that_is_gone_costs_nothing_that_is_kept_a_second_time() {
    let scene = Scene::set();
    let before = scene.look(&scene.state);
    let tables = files(&scene.state, "", "sst").len();
    for at in [0, tables / 2, tables - 1] {
        let state = scene.again(&format!("without table {at}"));
        fs::remove_file(&files(&state, "", "sst")[at]).unwrap();
        // It opens, and goes on.
        state.run(&["pins"]).succeeds();
        scene.repair(&state);
        assert_eq!(scene.look(&state), before, "table {at}");
        state.run(&["profile", "-p", "x", "rollback"]).succeeds();
        state.copy(&scene.cache, &[&full("other")]).succeeds();
        state.run(&["dump", &full("other")]).succeeds();
    }
}

#[test]
fn a_repair_that_is_ended_is_done_by_the_next_one() {
    let scene = Scene::set();
    let before = scene.look(&scene.state);
    // Between the two renames there is no database, and what was made of the copy is beside it.
    let state = scene.again("ended");
    let db = state.dir().join("db");
    fs::rename(&db, state.dir().join("damaged-db")).unwrap();
    fs::create_dir(state.dir().join("db-new")).unwrap();
    fs::write(state.dir().join("db-new/CURRENT"), "half").unwrap();
    state.run(&["pins"]).fails(&["verify --repair"]);
    assert!(!db.exists());
    scene.repair(&state);
    assert_eq!(scene.look(&state), before);
    assert!(!state.dir().join("db-new").exists());
}

#[test]
fn a_repair_goes_on_where_the_daemon_ends_that_was_asked_for_it() {
    let scene = Scene::set();
    let before = scene.look(&scene.state);
    for is_read in [true, false] {
        let state = scene.again(&format!("read {is_read}"));
        fs::remove_file(state.dir().join("db/CURRENT")).unwrap();
        let lock = fs::File::options()
            .write(true)
            .open(state.dir().join("lock"));
        let lock = lock.unwrap();
        lock.lock().unwrap();
        let socket = UnixListener::bind(state.dir().join("control.sock")).unwrap();
        let daemon = thread::spawn(move || {
            let (mut client, _) = socket.accept().unwrap();
            // The version and the request, each behind its kind and its length.
            for _ in 0..if is_read { 2 } else { 0 } {
                let mut head = [0; 5];
                client.read_exact(&mut head).unwrap();
                let length = u32::from_le_bytes(head[1..].try_into().unwrap());
                client.read_exact(&mut vec![0; length as usize]).unwrap();
            }
            drop((socket, lock));
        });
        let ran = scene.repair(&state);
        daemon.join().unwrap();
        ran.succeeds();
        assert!(ran.stderr().contains("was made anew"), "{}", ran.stderr());
        assert_eq!(scene.look(&state), before);
    }
}

#[test]
fn a_database_that_can_be_opened_is_left_alone() {
    let scene = Scene::set();
    let before = scene.look(&scene.state);
    scene.repair(&scene.state).succeeds();
    assert_eq!(scene.look(&scene.state), before);
    assert!(!scene.state.dir().join("damaged-db").exists());
}

#[test]
fn damage_of_the_second_copy_is_found_and_mended() {
    let scene = Scene::set();
    let copy = scene.state.dir().join("second-copy");
    let good = fs::read(&copy).unwrap();
    type Damage = fn(&Path, &[u8]);
    let damages: [Damage; 4] = [
        |copy, _| fs::remove_file(copy).unwrap(),
        |copy, good| fs::write(copy, &good[..good.len() / 2]).unwrap(),
        |copy, good| {
            let mut flipped = good.to_vec();
            flipped[good.len() / 3] ^= 4;
            fs::write(copy, flipped).unwrap();
        },
        |copy, _| fs::write(copy, "").unwrap(),
    ];
    for damage in damages {
        damage(&copy, &good);
        // Nothing of the state is worse for it.
        scene.state.run(&["pins"]).succeeds();
        let ran = scene.state.run(&["verify"]);
        if ran.output.status.code() != Some(0) {
            assert!(ran.stderr().contains("second-copy"), "{}", ran.stderr());
            assert!(ran.stderr().contains("verify --repair"), "{}", ran.stderr());
        }
        scene.repair(&scene.state).succeeds();
        scene.state.is_whole();
        // It is of use again.
        let state = scene.again("lost");
        fs::remove_dir_all(state.dir().join("db")).unwrap();
        scene.repair(&state);
        assert_eq!(scene.look(&state), scene.look(&scene.state));
        fs::remove_dir_all(state.dir()).unwrap();
    }
}

#[test]
fn what_can_still_be_read_of_a_damaged_copy_is_restored() {
    let scene = Scene::set();
    let copy = scene.state.dir().join("second-copy");
    let mut bytes = fs::read(&copy).unwrap();
    let length = bytes.len();
    bytes[20] ^= 1;
    bytes[length - 5] ^= 1;
    fs::write(&copy, &bytes).unwrap();
    fs::remove_dir_all(scene.state.dir().join("db")).unwrap();
    let ran = scene.repair(&scene.state);
    assert!(
        ran.stderr().contains("was damaged, too"),
        "{}",
        ran.stderr()
    );
    assert!(fs::read(scene.state.dir().join("damaged-second-copy")).unwrap() == bytes);
    let profiles = json(&scene.state, &["profiles"]);
    assert!(profiles.as_array().unwrap().len() >= 2, "{profiles}");
}

#[test]
fn an_older_state_gets_its_second_copy_by_its_first_change() {
    for format in [1, 2, 3] {
        let golden = Golden::new(format);
        let state = &golden.state;
        let copy = state.dir().join("second-copy");
        state.run(&["path-info"]).succeeds();
        state.run(&["verify"]).succeeds();
        assert!(!copy.exists(), "{format}");
        let base = golden.path("base-1.0");
        state.run(&["pin", &base]).succeeds();
        assert!(copy.exists(), "{format}");
        state.is_whole();
        let look = || {
            let seen = [&["pins"][..], &["profiles"], &["closures"]];
            let mut seen = seen.map(|arguments| json(state, arguments));
            seen.iter_mut().for_each(forget);
            seen
        };
        let before = look();
        fs::remove_dir_all(state.dir().join("db")).unwrap();
        golden.fetching(&["verify", "--repair"]);
        assert_eq!(look(), before, "{format}");
        state.is_whole();
        state.run(&["dump", &base]).succeeds();
    }
}
