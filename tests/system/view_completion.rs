//! Closure views that follow a profile which is switched before all of its closure is known.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary_cache::{Cache, Offer};
use crate::closures::listing;
use crate::on_demand::{SHORT, directory, key};
use crate::server::{Answer, Server};
use crate::support::{Sandbox, wait_until};

/// Paths whose narinfos nobody gets, and how they are refused.
#[derive(Default)]
struct Refused {
    held: HashSet<String>,
    away: HashSet<String>,
}

/// A mount with writable profiles, whose view `web` follows the profile `web`, which is at `old`.
struct Web {
    sandbox: Sandbox,
    cache: Cache,
    refused: Arc<Mutex<Refused>>,
    generations: std::cell::Cell<u32>,
    _server: Server,
}

fn narinfo(offer: &Offer) -> String {
    format!("/{}.narinfo", offer.path().hash())
}

fn names(offers: &[&Offer]) -> BTreeSet<String> {
    offers.iter().map(|o| o.path().to_string()).collect()
}

impl Web {
    fn new(offers: &[&Offer]) -> Self {
        let cache = Cache::new();
        let old = directory("old", b"old");
        for offer in offers.iter().chain([&&old]) {
            cache.put(offer);
        }
        let refused = Arc::new(Mutex::new(Refused::default()));
        let asked = refused.clone();
        let server = Server::new(cache.dir().to_owned(), move |path, _| {
            while asked.lock().unwrap().held.contains(path) {
                sleep(Duration::from_millis(10));
            }
            match asked.lock().unwrap().away.contains(path) {
                true => Answer::Hangup,
                false => Answer::File,
            }
        });
        let sandbox = Sandbox::empty();
        let options = format!("{SHORT},writable-profiles");
        sandbox.mount_from(&[&server.url], &key(&cache), &options);
        sandbox.narfs(&["profile", "-p", "web", "set", &old.path().to_string()]);
        sandbox.narfs(&["closure", "web", "--profile", "web"]);
        let web = Self {
            sandbox,
            cache,
            refused,
            generations: std::cell::Cell::new(1),
            _server: server,
        };
        assert_eq!(web.shown(), names(&[&old]));
        web
    }

    fn hold(&self, offers: &[&Offer]) {
        let held = offers.iter().map(|o| narinfo(o));
        self.refused.lock().unwrap().held.extend(held);
    }

    fn send_away(&self, offers: &[&Offer]) {
        let away = offers.iter().map(|o| narinfo(o));
        self.refused.lock().unwrap().away.extend(away);
    }

    fn answer_all(&self) {
        *self.refused.lock().unwrap() = Refused::default();
    }

    /// Switches the profile as `nix-env --set` does.
    fn switch(&self, to: &Offer) {
        let number = self.generations.get() + 1;
        self.generations.set(number);
        let profiles = self.sandbox.at.join("var/nix/profiles");
        let link = format!("web-{number}-link");
        let changes = [
            (format!("/nix/store/{}", to.path()), link.clone()),
            (link, "web".to_owned()),
        ];
        for (target, name) in changes {
            let temporary = profiles.join(format!(".0_{name}"));
            symlink(target, &temporary).unwrap();
            fs::rename(temporary, profiles.join(name)).unwrap();
        }
    }

    fn shown(&self) -> BTreeSet<String> {
        listing(&self.sandbox.at.join(".narfs/closures/web/store"))
    }

    fn report(&self) -> Value {
        self.sandbox.json(&["closures"])[0].clone()
    }

    fn becomes(&self, offers: &[&Offer]) {
        wait_until("the view is whole", || {
            self.shown() == names(offers) && self.report()["incomplete"] == false
        });
    }
}

/// A path that refers to others.
fn on(name: &str, others: &[&Offer]) -> Offer {
    let others: Vec<_> = others.iter().map(|o| o.path()).collect();
    directory(name, name.as_bytes()).referring(&others)
}

#[test]
fn a_view_is_whole_when_the_narinfos_are_known_and_incomplete_until_then() {
    let third = on("third", &[]);
    let second = on("second", &[&third]);
    let first = on("first", &[&second]);
    let new = on("new", &[&first]);
    let web = Web::new(&[&new, &first, &second, &third]);
    web.hold(&[&second]);
    web.switch(&new);
    // What is known so far is shown, and the view does not pass for whole.
    wait_until("the first is shown", || {
        web.shown() == names(&[&new, &first])
    });
    let report = web.report();
    assert_eq!(
        (&report["incomplete"], &report["unknown"]),
        (&true.into(), &1.into())
    );
    let unknown = &report["unknown_paths"][0]["path"];
    assert_eq!(*unknown, format!("/nix/store/{}", second.path()));
    let text = web.sandbox.narfs(&["closures"]);
    assert!(text.contains("incomplete: 1 path"), "{text}");
    assert!(text.contains(&second.path().to_string()), "{text}");
    web.answer_all();
    web.becomes(&[&new, &first, &second, &third]);
    let text = web.sandbox.narfs(&["closures"]);
    assert!(!text.contains("incomplete"), "{text}");
}

#[test]
fn it_goes_on_when_the_source_is_back_even_with_another_daemon() {
    let second = on("second", &[]);
    let first = on("first", &[&second]);
    let new = on("new", &[&first]);
    let web = Web::new(&[&new, &first, &second]);
    web.send_away(&[&first, &second]);
    web.switch(&new);
    wait_until("a source was asked", || {
        !web.report()["unknown_paths"][0]["error"].is_null()
    });
    assert_eq!(web.shown(), names(&[&new]));
    let pid = web.sandbox.pid();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait_until("another daemon serves", || web.sandbox.pid() != pid);
    assert_eq!(web.report()["incomplete"], true);
    assert_eq!(web.shown(), names(&[&new]));
    web.answer_all();
    web.becomes(&[&new, &first, &second]);
}

#[test]
fn of_two_switches_the_last_one_counts() {
    let first = on("first", &[]);
    let new = on("new", &[&first]);
    let other = on("other", &[]);
    let last = on("last", &[&other]);
    let web = Web::new(&[&new, &first, &other, &last]);
    web.hold(&[&first, &other]);
    web.switch(&new);
    assert_eq!(web.report()["incomplete"], true);
    web.switch(&last);
    let report = web.report();
    assert_eq!(
        (&report["paths"], &report["unknown"]),
        (&2.into(), &1.into())
    );
    // It does not wait for what only the first one needs.
    web.refused.lock().unwrap().held.remove(&narinfo(&other));
    web.becomes(&[&last, &other]);
    web.answer_all();
    web.switch(&new);
    web.becomes(&[&new, &first]);
}

#[test]
fn what_no_source_has_is_named_and_asked_for_again() {
    let absent = on("absent", &[]);
    let first = on("first", &[]);
    let new = on("new", &[&absent, &first]);
    let web = Web::new(&[&new, &first]);
    web.switch(&new);
    let expected = format!("/nix/store/{}", absent.path());
    wait_until("it is said to be in no source", || {
        let unknown = &web.report()["unknown_paths"];
        let error = unknown[0]["error"].as_str().unwrap_or_default().to_owned();
        unknown.as_array().unwrap().len() == 1
            && unknown[0]["path"] == expected
            && error.contains("in none of the sources")
    });
    assert_eq!(web.shown(), names(&[&new, &first]));
    web.cache.put(&absent);
    web.becomes(&[&new, &first, &absent]);
}

#[test]
fn a_copy_completes_a_view_too() {
    let first = on("first", &[]);
    let new = on("new", &[&first]);
    let web = Web::new(&[&new, &first]);
    let url = web.cache.url();
    let sandbox = &web.sandbox;
    sandbox.unmount();
    let at = sandbox.at.to_str().unwrap();
    let copy = |path: &Offer| {
        let (path, key) = (path.path().to_string(), key(&web.cache));
        let sources = ["--from", &url, "--trusted-public-key", &key];
        let mut arguments = vec!["copy", "--no-recursive", &path];
        arguments.extend(sources);
        sandbox.narfs(&arguments);
    };
    sandbox.narfs(&["mount", at, "--offline", "-o", "writable-profiles"]);
    copy(&new);
    web.switch(&new);
    assert_eq!(web.report()["incomplete"], true);
    assert_eq!(web.shown(), names(&[&new]));
    copy(&first);
    web.becomes(&[&new, &first]);
}
