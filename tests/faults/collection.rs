//! Collections: what they take, what they leave, and what is left when they are killed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use narfs::nix::store_path::StorePath;
use narfs::store::{ProfileChange, Store, StoreOptions};
use serde_json::{Value, json};

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::crashes;
use crate::program::{Ran, State};
use crate::write_points::WritePoints;

fn full(path: &StorePath) -> String {
    format!("/nix/store/{path}")
}

/// Files of noise, without references.
fn noises(cache: &Cache, count: u64, length: usize) -> Vec<Offer> {
    let offers = (0..count).map(|n| Offer::named(&format!("n{n}"), file(&noise(n + 1, length))));
    let offers: Vec<_> = offers.collect();
    offers.iter().for_each(|o| cache.put(o));
    offers
}

fn json_of(ran: &Ran) -> Value {
    ran.succeeds();
    serde_json::from_str(&ran.stdout()).unwrap()
}

fn stored(state: &State) -> u64 {
    let stats = json_of(&state.run(&["stats", "--json"]));
    stats["stored_bytes"].as_u64().unwrap()
}

fn pin(state: &State, cache: &Cache, path: &StorePath) {
    let mut arguments = vec!["pin".to_owned()];
    arguments.extend(cache.arguments());
    arguments.push(path.base_name());
    state.run(&arguments).succeeds();
}

/// Makes a direct root.
fn root(state: &State, path: &StorePath) {
    let roots = state.dir().join("gcroots");
    fs::create_dir_all(&roots).unwrap();
    symlink(full(path), roots.join(path.name())).unwrap();
}

/// Without the room that is kept for collections on full disks.
fn disk_usage(state: &State) -> u64 {
    let du = Command::new("du")
        .args(["-sk", "--exclude=ballast"])
        .arg(state.dir())
        .output();
    let text = String::from_utf8(du.unwrap().stdout).unwrap();
    text.split('\t').next().unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn what_no_pin_reaches_goes_and_is_said_as_nix_says_it() {
    let cache = Cache::new();
    let library = Offer::named("library", file(&noise(1, 200_000)));
    let app = Offer::named("app", file(&noise(2, 100_000))).referring(&[library.path()]);
    let other = Offer::named("other", file(&noise(3, 300_000))).referring(&[library.path()]);
    for offer in [&library, &app, &other] {
        cache.put(offer);
    }
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    pin(&state, &cache, app.path());
    let before = stored(&state);
    let other_full = full(other.path());

    let ran = state.run(&["gc", "--dry-run"]);
    ran.succeeds();
    let said = ran.stdout();
    let lines: Vec<_> = said.lines().collect();
    let expected = [
        "finding garbage collector roots...".to_owned(),
        format!("would delete '{other_full}'"),
        "1 store paths would be deleted, 0.29 MiB would be freed".to_owned(),
    ];
    assert_eq!(lines, expected);
    let dry = json_of(&state.run(&["gc", "--dry-run", "--json"]));
    assert_eq!(dry["paths"], json!([other_full]));
    state.has_exactly(&[library.path(), app.path(), other.path()]);
    assert_eq!(stored(&state), before);

    let ran = state.run(&["gc"]);
    ran.succeeds();
    let said = ran.stdout();
    let lines: Vec<_> = said.lines().collect();
    let expected = [
        "finding garbage collector roots...".to_owned(),
        "deleting garbage...".to_owned(),
        format!("deleting '{other_full}'"),
        "1 store paths deleted, 0.29 MiB freed".to_owned(),
    ];
    assert_eq!(lines, expected);
    state.has_exactly(&[library.path(), app.path()]);
    assert_eq!(state.is_whole(), 2);
    assert_eq!(dry["freed_bytes"], before - stored(&state));
    state.gives_out(app.path(), &app.stored);

    // Without the pin all of it, referrers first; and again nothing.
    state.run(&["unpin", &app.path().base_name()]).succeeds();
    let report = json_of(&state.run(&["gc", "--json"]));
    assert_eq!(
        report["paths"],
        json!([full(app.path()), full(library.path())])
    );
    assert_eq!(report["stored_bytes"], 0);
    state.has_exactly(&[]);
    let report = json_of(&state.run(&["gc", "--json"]));
    assert_eq!(report["paths"], json!([]));
    state.copy(&cache, &["--all"]).succeeds();
    assert_eq!(state.is_whole(), 3);
}

#[test]
fn roots_are_listed_and_kept_and_go_with_their_links() {
    let cache = Cache::new();
    let offers = noises(&cache, 4, 1000);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    let outside = tempfile::tempdir().unwrap();
    let link = outside.path().join("result");
    let link = link.to_str().unwrap();
    let path = |n: usize| offers[n].path();
    pin(&state, &cache, path(0));
    root(&state, path(1));
    let added = state.run(&["add-root", link, &path(2).base_name()]);
    assert_eq!(
        added.succeeds().stdout(),
        format!("{link} -> {}\n", full(path(2)))
    );
    assert_eq!(
        fs::read_link(link).unwrap().to_str().unwrap(),
        full(path(2))
    );
    let direct = state.dir().join("gcroots/n1");
    let listed = state.run(&["roots"]).succeeds().stdout();
    for (from, path) in [
        ("pin", path(0)),
        (direct.to_str().unwrap(), path(1)),
        (link, path(2)),
    ] {
        let line = format!("{from} -> {}", full(path));
        assert!(listed.lines().any(|l| l == line), "{line}: {listed}");
    }
    let listed = json_of(&state.run(&["roots", "--json"]));
    let of_links = listed.as_array().unwrap().iter();
    assert_eq!(of_links.filter(|r| r["kind"] == "link").count(), 2);
    state.run(&["gc"]).succeeds();
    state.has_exactly(&[path(0), path(1), path(2)]);

    fs::remove_file(link).unwrap();
    let auto = || {
        fs::read_dir(state.dir().join("gcroots/auto"))
            .unwrap()
            .count()
    };
    state.run(&["gc", "--dry-run"]).succeeds();
    state.run(&["roots"]).succeeds();
    assert_eq!(auto(), 1);
    let said = state.run(&["gc"]).succeeds().stdout();
    assert!(said.contains("removing stale link from"), "{said}");
    assert_eq!(auto(), 0);
    state.has_exactly(&[path(0), path(1)]);
    state
        .run(&["add-root", link, &path(2).base_name()])
        .fails(&[&path(2).base_name(), "not in the state"]);
    fs::write(link, "mine").unwrap();
    state
        .run(&["add-root", link, &path(1).base_name()])
        .fails(&[link, "not a link into the store"]);
    assert_eq!(fs::read_to_string(link).unwrap(), "mine");
}

#[test]
fn old_generations_go_first_where_that_is_asked() {
    const DAY: i64 = 24 * 3600;
    let cache = Cache::new();
    let offers = noises(&cache, 5, 1000);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_secs() as i64;
    let generation = |number: u64, days: i64| {
        let path = offers[number as usize - 1].path().clone();
        (number, path, now - days * DAY)
    };
    let profile = |name: &str, generations: Vec<_>| ProfileChange {
        name: name.into(),
        current: Some(4),
        generations,
    };
    {
        let store = Store::open(state.dir(), &StoreOptions::default()).unwrap();
        let all = (1..=4).map(|n| generation(n, 50 - 10 * n as i64)).collect();
        let changes = [
            profile("default", all),
            profile("x", vec![generation(4, 99)]),
        ];
        store.profiles().change(|_| Ok(changes.to_vec())).unwrap();
    }
    state.run(&["gc"]).succeeds();
    let path = |n: usize| offers[n].path();
    state.has_exactly(&[path(0), path(1), path(2), path(3)]);
    // Of 40, 30, 20 and 10 days, the second was current until 20 days ago.
    let days = ["--delete-older-than", "25d"];
    let dry = state.run(&[&["gc", "--dry-run"], &days[..]].concat());
    let said = dry.succeeds().stdout();
    assert!(said.contains("would remove profile version 1\n"), "{said}");
    assert!(said.contains(&format!("would delete '{}'", full(path(0)))));
    state.has_exactly(&[path(0), path(1), path(2), path(3)]);
    let said = state
        .run(&[&["gc"], &days[..]].concat())
        .succeeds()
        .stdout();
    let lines: Vec<_> = said.lines().take(3).collect();
    let expected = [
        "removing old generations of profile default",
        "removing profile version 1",
        "finding garbage collector roots...",
    ];
    assert_eq!(lines, expected);
    state.has_exactly(&[path(1), path(2), path(3)]);
    let report = json_of(&state.run(&["gc", "--delete-older-than", "1d", "--json"]));
    let old = |n: u64| json!({"profile": "default", "generation": n});
    assert_eq!(report["generations"], json!([old(3), old(2)]));
    state.has_exactly(&[path(3)]);
    for wrong in ["30", "0d", "-1d", "d", "30w"] {
        let ran = state.run(&[&format!("--delete-older-than={wrong}")]);
        assert_eq!(ran.output.status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_collection_ends_when_it_has_freed_enough() {
    let cache = Cache::new();
    let offers = noises(&cache, 10, 1 << 20);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    for (limit, left) in [("0", 10), ("3M", 7), ("1", 6), ("100G", 0)] {
        let report = json_of(&state.run(&["gc", "--max-freed", limit, "--json"]));
        assert_eq!(state.registered().len(), left, "{limit}: {report}");
        assert_eq!(report["stored_bytes"], stored(&state));
    }
    assert_eq!(offers.len(), 10);
}

#[test]
fn what_is_freed_leaves_the_disk() {
    let cache = Cache::new();
    let offers = noises(&cache, 24, 4 << 20);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    let all = disk_usage(&state);
    assert!(all > 96 << 20, "{all}");
    // A little that lies between what stays; then most of the rest; then all.
    for (n, offer) in offers.iter().enumerate() {
        if n % 10 != 5 {
            root(&state, offer.path());
        }
    }
    let gone = |most: u64| {
        state.run(&["gc"]).succeeds();
        let used = disk_usage(&state);
        let files = Command::new("du").arg("-ak").arg(state.dir()).output();
        let files = String::from_utf8(files.unwrap().stdout).unwrap();
        assert!(used < most << 20, "{used} of {most} MiB:\n{files}");
    };
    // Garbage may be a sixteenth of all, or 1 MiB.
    gone(88 + 6 + 1);
    for offer in &offers[2..] {
        let _ = fs::remove_file(state.dir().join("gcroots").join(offer.path().name()));
    }
    gone(8 + 3);
    assert_eq!(state.is_whole(), 2);
    fs::remove_dir_all(state.dir().join("gcroots")).unwrap();
    gone(2);
}

#[test]
fn a_collection_that_is_killed_leaves_every_path_whole_or_absent_and_the_next_one_completes() {
    const ROUNDS: usize = 16;
    let (cache, offers) = crashes::cache();
    let full_state = State::new();
    full_state.copy(&cache, &["--all"]).succeeds();
    root(&full_state, offers[250].path());
    let copy = || {
        let parent = tempfile::tempdir().unwrap();
        let state = State::at(parent.path().join("state"));
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(full_state.dir()).arg(state.dir());
        assert!(cp.status().unwrap().success());
        (parent, state)
    };
    let directory = tempfile::tempdir().unwrap();
    let points = WritePoints::new(directory.path());
    let gc = ["gc".to_owned()];
    let (_whole, state) = copy();
    let reached = crashes::points_of(&points, &state, &gc);
    let removals = crashes::writes(&reached, "write WAL");
    let live: BTreeSet<_> = state.registered();
    let stored_of_live = stored(&state);
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let (_parent, state) = copy();
        // One while the state is opened, the others while it removes.
        let point = match round {
            0 => {
                reached[reached
                    .iter()
                    .position(|p| p.place == removals[0].place)
                    .unwrap()
                    / 2]
            }
            _ => removals[removals.len() * (round - 1) / (ROUNDS - 1)],
        };
        crashes::kill_at(&points, &state, &gc, point);
        let there = crashes::check(&state);
        println!("killed at {point}: {there} paths");
        seen.insert(there);
        state.run(&gc).succeeds();
        assert_eq!(state.registered(), live);
        assert_eq!(crashes::check(&state), live.len());
        assert_eq!(stored(&state), stored_of_live);
        if round % 5 == 0 {
            state.copy(&cache, &["--all"]).succeeds();
            assert_eq!(crashes::check(&state), crashes::PATHS);
        }
    }
    let between = live.len() + 1..crashes::PATHS;
    assert!(seen.iter().any(|n| between.contains(n)), "{seen:?}");
}
