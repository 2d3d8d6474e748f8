//! Copies that are killed at a write to the state, or interrupted at a request to a server.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::program::State;
use crate::server::{Answer, Server};
use crate::waiting::wait_until;
use crate::write_points::{Moment, Point, WritePoints};

pub const PATHS: usize = 300;
const ROUNDS: usize = 9;

/// Paths of which most refer to others, some 70 MB together: three groups of a copy.
pub fn cache() -> (Cache, Vec<Offer>) {
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

/// The points that a command comes by which nobody kills.
pub fn points_of(points: &WritePoints, state: &State, arguments: &[String]) -> Vec<Point> {
    points.record();
    let mut command = state.command(arguments);
    points.watch(&mut command, state.dir());
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.success() && !points.disarm());
    points.reached()
}

/// Those at a place that are reached in each run: how often a database gathers what it has written does not
/// depend on that alone, how often it writes does.
pub fn writes(points: &[Point], place: &str) -> Vec<Point> {
    let mut at_place = points.to_vec();
    at_place.retain(|p| p.place.to_string() == place);
    assert!(at_place.len() > 16, "{} times {place}", at_place.len());
    at_place.truncate(at_place.len() * 7 / 8);
    at_place
}

/// Runs a command, which is killed before, in or after a point.
pub fn kill_at(points: &WritePoints, state: &State, arguments: &[String], mut point: Point) {
    point.moment = Moment(point.nth % 3);
    points.kill_at(point);
    let mut command = state.command(arguments);
    points.watch(&mut command, state.dir());
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(points.disarm(), "{arguments:?} never came to {point}");
    assert_eq!(status.code(), None, "{arguments:?}, killed {point}");
}

/// Interrupts a copy when it waits for one of the NARs.
fn interrupt(state: &State, cache: &Cache, offers: &[Offer], nth: usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        let is_nar = path.starts_with("/nar/");
        match is_nar && counted.fetch_add(1, Ordering::SeqCst) >= nth {
            true => Answer::HalfAndStall,
            false => Answer::File,
        }
    });
    let mut arguments = vec!["copy".to_owned()];
    arguments.extend(cache.arguments_from(&server.url));
    arguments.extend(offers.iter().map(|o| o.path().base_name()));
    let mut copy = state.command(&arguments);
    let mut copy = copy.stdout(Stdio::null()).spawn().unwrap();
    wait_until("it waits for a NAR", || {
        assert!(copy.try_wait().unwrap().is_none(), "it has ended");
        asked.load(Ordering::SeqCst) > nth
    });
    // Not yet waited for, so the number is still that of our child.
    kill_process(Pid::from_child(&copy), Signal::INT).unwrap();
    assert!(!copy.wait().unwrap().success());
}

/// Everything that is registered is there with all that it refers to, and is what it must be.
pub fn check(state: &State) -> usize {
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
    let directory = tempfile::tempdir().unwrap();
    let points = WritePoints::new(directory.path());
    let mut copy = vec!["copy".to_owned(), "--all".to_owned()];
    copy.extend(cache.arguments());
    let reached = points_of(&points, &State::new(), &copy);
    let contents = writes(&reached, "write blob");
    let opening = reached.iter().position(|p| p.place == contents[0].place);
    let opening = &reached[..opening.unwrap()];
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let state = State::new();
        // While the state is made, and from the first contents to the last group; and then the one that goes
        // on, which has to do as much at least.
        let (first, rest) = match round {
            0..3 => (opening[opening.len() * (2 * round + 1) / 6], contents.len()),
            _ => {
                let at = contents.len() * (round - 3) / (ROUNDS - 3);
                (contents[at], contents.len() - at)
            }
        };
        let mut before = 0;
        for point in [first, contents[rest / 2]] {
            kill_at(&points, &state, &copy, point);
            let there = check(&state);
            println!("killed at {point}: {there} paths");
            assert!(there >= before, "{there} paths after {before}");
            seen.insert(there);
            before = there;
        }
        if before < PATHS - 20 {
            interrupt(&state, &cache, &offers, round);
            let there = check(&state);
            assert!(
                (before..PATHS).contains(&there),
                "{there} paths after {before}"
            );
        }
        if round % 3 == 0 {
            state.copy(&cache, &["--all"]).succeeds();
            assert_eq!(check(&state), PATHS);
            let last = offers.last().unwrap();
            state.gives_out(last.path(), &last.stored);
        }
    }
    // Not all rounds hit before or after everything.
    assert!(seen.iter().any(|n| (1..PATHS).contains(n)), "{seen:?}");
}
