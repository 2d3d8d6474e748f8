//! Copies that are killed at any moment.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::program::State;

const PATHS: usize = 300;
const ROUNDS: u64 = 24;

/// Paths of which most refer to others, some 70 MB together: three groups of a copy.
fn cache() -> (Cache, Vec<Offer>) {
    let cache = Cache::new();
    let mut offers: Vec<Offer> = Vec::new();
    for n in 0..PATHS {
        let own = noise(n as u64, 30_000 + n * 1300);
        // Something that several have, in a chunk of its own.
        let shared = noise(1000 + n as u64 % 7, 150_000);
        let archive = nar(&Tree::Directory(vec![
            ("own", Tree::Program(&own)),
            ("shared", Tree::File(&shared)),
        ]));
        let references = [n / 2, n / 3].map(|r| offers.get(r).map(|o| o.path().clone()));
        let references: Vec<_> = references.iter().flatten().collect();
        let offer = Offer::named(&format!("path-{n}"), archive).referring(&references);
        cache.put(&offer);
        offers.push(offer);
    }
    (cache, offers)
}

/// Copies, and sends a signal after a while; says whether the copy was done before.
fn interrupted(state: &State, cache: &Cache, after: Duration, signal: Signal) -> bool {
    let mut arguments = vec!["copy".to_owned(), "--all".to_owned()];
    arguments.extend(cache.arguments());
    let mut command = state.command(&arguments);
    let mut copy = command.stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    // Not yet waited for, so the number is still that of our child.
    let _ = kill_process(Pid::from_child(&copy), signal);
    copy.wait().unwrap().success()
}

/// Everything that is registered is there with all that it refers to, and is what it must be.
fn check(state: &State) -> usize {
    if !state.dir().join("format").exists() {
        // Killed before it had made the state.
        state
            .run(&["path-info"])
            .fails(&["there is no narfs state in"]);
        return 0;
    }
    let infos = state.infos(&[]);
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let paths: BTreeSet<_> = infos.iter().map(|i| text(&i["path"])).collect();
    for info in &infos {
        for reference in info["references"].as_array().unwrap() {
            assert!(
                paths.contains(&text(reference)),
                "{} is incomplete",
                info["path"]
            );
        }
    }
    assert_eq!(state.is_whole(), paths.len() as u64);
    paths.len()
}

#[test]
fn a_copy_that_is_killed_leaves_every_path_whole_or_absent() {
    let (cache, offers) = cache();
    let start = Instant::now();
    State::new().copy(&cache, &["--all"]).succeeds();
    let whole = start.elapsed().as_millis() as u64;
    let mut state = State::new();
    let mut before = 0;
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let signal = if round % 4 == 3 {
            Signal::INT
        } else {
            Signal::KILL
        };
        // From the making of the state to the last group; a few early, most spread out over the
        // time that a copy takes here.
        let random = u64::from_le_bytes(noise(round, 8).try_into().unwrap());
        let longest = if round % 6 == 0 { 60 } else { whole };
        let after = Duration::from_millis(random % longest);
        let done = interrupted(&state, &cache, after, signal);
        let there = check(&state);
        assert!(there >= before, "{there} paths after {before}");
        assert!(!done || there == PATHS);
        seen.insert(there);
        before = there;
        if there == PATHS {
            (state, before) = (State::new(), 0);
        }
    }
    // Not all rounds hit before or after everything.
    assert!(seen.iter().any(|n| (1..PATHS).contains(n)), "{seen:?}");
    state.copy(&cache, &["--all"]).succeeds();
    assert_eq!(check(&state), PATHS);
    let last = offers.last().unwrap();
    state.gives_out(last.path(), &last.stored);
}
