//! Commands with two sources, of which one is in trouble: they bring all that the other one has.

use std::fs;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::program::{Ran, State};
use crate::server::{Answer, Refusing, Server};

/// Far more than a source in trouble may cost a command on a loaded machine, and less than it takes itself.
const BOUND: Duration = Duration::from_secs(60);

/// How long a server waits before it says anything.
const LATE: Duration = Duration::from_secs(4);

/// What is wrong with a source: for narinfos, or for all that it is asked.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Away,
    Every(Answer),
    Narinfos(Answer),
    Late,
    Liar,
}

const TROUBLES: [Trouble; 13] = [
    Trouble::Away,
    Trouble::Every(Answer::Stall),
    Trouble::Every(Answer::SlowHead),
    Trouble::Every(Answer::Status(500)),
    Trouble::Every(Answer::Later),
    Trouble::Narinfos(Answer::Stall),
    Trouble::Narinfos(Answer::SlowHead),
    Trouble::Narinfos(Answer::Status(500)),
    Trouble::Narinfos(Answer::Status(403)),
    Trouble::Narinfos(Answer::Redirect),
    Trouble::Narinfos(Answer::Later),
    Trouble::Late,
    Trouble::Liar,
];

/// A source in trouble, of what `cache` has.
struct Bad {
    url: String,
    _kept: (Option<Refusing>, Option<Cache>),
}

impl Bad {
    fn new(trouble: Trouble, cache: &Cache, offers: &[Offer]) -> Self {
        let serving = |answer: fn(&str) -> bool, bad: Answer| {
            let server = Server::new(cache.dir().to_owned(), move |path, _| {
                if answer(path) { bad } else { Answer::File }
            });
            (server.url, (None, None))
        };
        let (url, kept) = match trouble {
            Trouble::Away => {
                let refusing = Refusing::new();
                (refusing.url.clone(), (Some(refusing), None))
            }
            Trouble::Every(answer) => serving(|_| true, answer),
            Trouble::Narinfos(answer) => serving(|path| path.ends_with(".narinfo"), answer),
            Trouble::Late => {
                let server = Server::new(cache.dir().to_owned(), |_, _| {
                    sleep(LATE);
                    Answer::File
                });
                (server.url, (None, None))
            }
            Trouble::Liar => {
                let liar = Cache::new();
                for offer in offers {
                    liar.put(&Offer::new(offer.path(), file(b"lie")).unsigned());
                }
                let server = Server::new(liar.dir().to_owned(), |_, _| Answer::File);
                (server.url, (None, Some(liar)))
            }
        };
        Self { url, _kept: kept }
    }
}

/// A closure of two paths.
fn closure(cache: &Cache) -> [Offer; 2] {
    let leaf = Offer::named("leaf", file(&noise(1, 30_000)));
    let top = Offer::named("top", file(&noise(2, 30_000))).referring(&[leaf.path()]);
    let offers = [top, leaf];
    offers.iter().for_each(|offer| cache.put(offer));
    offers
}

#[test]
fn a_source_in_trouble_keeps_no_command_from_what_another_one_has() {
    let commands: [&[&str]; 5] = [
        &["copy"],
        &["prefetch"],
        &["pin"],
        &["closure", "view"],
        &["profile", "install"],
    ];
    let cache = Cache::new();
    let offers = closure(&cache);
    let (cache, offers) = (&cache, &offers);
    scope(|threads| {
        for trouble in TROUBLES {
            threads.spawn(move || {
                for (number, command) in commands.iter().enumerate() {
                    // Asked first and asked last.
                    for (bad_priority, good_priority) in [(1, 2), (2, 1)] {
                        // That is the same for these, and the test long enough.
                        if number > 1 && bad_priority == 2 {
                            continue;
                        }
                        let bad = Bad::new(trouble, cache, offers);
                        let good = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
                        let url = format!("{}?priority={good_priority}", good.url);
                        let mut arguments: Vec<_> =
                            command.iter().map(|c| (*c).to_owned()).collect();
                        arguments.extend(cache.arguments_from(&url));
                        let url = format!("{}?priority={bad_priority}", bad.url);
                        arguments.extend(["--from".to_owned(), url]);
                        arguments.push(offers[0].path().base_name());
                        let (state, start) = (State::new(), Instant::now());
                        let ran: Ran = state.run(&arguments);
                        let (took, said) = (start.elapsed(), ran.stderr());
                        let what = format!("{trouble:?}, {bad_priority}, {command:?}, {took:?}");
                        assert!(ran.output.status.success(), "{what}: {said}");
                        assert!(took < BOUND, "{what}: {said}");
                        // The last two register what they name; the others bring it.
                        if number < 3 {
                            assert_eq!(state.registered().len(), 2, "{what}: {said}");
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn a_directory_that_is_no_binary_cache_any_more_lacks_nothing() {
    let cache = Cache::new();
    let offers = closure(&cache);
    // What the leaf refers to is asked for when the disk has gone.
    let state = State::new();
    let top = offers[0].path().base_name();
    state.copy(&cache, &["--no-recursive", &top]).succeeds();
    fs::remove_file(cache.dir().join("nix-cache-info")).unwrap();
    fs::remove_file(cache.narinfo_file(offers[1].path())).unwrap();
    let mut prefetch = vec!["prefetch".to_owned(), top];
    prefetch.extend(cache.arguments());
    let ran = state.run(&prefetch);
    let said = ran.stderr();
    assert_eq!(ran.output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not a binary cache"), "{said}");
    assert!(!said.contains("none of the sources"), "{said}");
}

#[test]
fn a_server_without_nix_cache_info_is_used_for_the_narinfos_that_it_has() {
    let cache = Cache::new();
    let offers = closure(&cache);
    let server = Server::new(cache.dir().to_owned(), |path, _| match path {
        "/nix-cache-info" => Answer::Status(404),
        _ => Answer::File,
    });
    let state = State::new();
    let copy = |what: &str| {
        let mut arguments = vec!["copy".to_owned(), what.to_owned()];
        arguments.extend(cache.arguments_from(&server.url));
        state.run(&arguments)
    };
    let absent = crate::binary_cache::path("absent");
    // As long as it had none, it may be anything.
    let ran = copy(&absent.base_name());
    let said = ran.stderr();
    assert_eq!(ran.output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not a binary cache"), "{said}");
    copy(&offers[0].path().base_name()).succeeds().counts(2, 0);
    assert_eq!(state.is_whole(), 2);
}

#[test]
fn a_copy_of_what_is_here_asks_no_source() {
    let cache = Cache::new();
    let [top, leaf] = closure(&cache);
    let server = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    let refusing = Refusing::new();
    let state = State::new();
    let copy = |from: &str, more: &[&str], path: &Offer| {
        let mut arguments = vec!["copy".to_owned()];
        arguments.extend(cache.arguments_from(from));
        arguments.extend(more.iter().map(|m| (*m).to_owned()));
        arguments.push(path.path().base_name());
        state.run(&arguments)
    };
    copy(&server.url, &["--no-recursive"], &top).counts(1, 0);
    // What it refers to is not here yet.
    copy(&refusing.url, &[], &top).fails(&["cannot connect"]);
    let ran = copy(&refusing.url, &["--no-recursive"], &top);
    ran.succeeds().counts(0, 0);
    copy(&server.url, &[], &top).counts(1, 0);
    let asked = server.log().len();
    for path in [&top, &leaf] {
        for from in [&server.url, &refusing.url] {
            let ran = copy(from, &[], path);
            ran.succeeds().counts(0, 0);
            assert!(ran.stdout().contains("were there"), "{}", ran.stdout());
        }
    }
    assert_eq!(server.log().len(), asked);
}
