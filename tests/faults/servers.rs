//! Binary caches behind HTTP servers in trouble.

use std::sync::Arc;

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::program::{Ran, State};
use crate::server::{Answer, Server};

fn copy(state: &State, cache: &Cache, server: &Server, what: &[&str]) -> Ran {
    let mut arguments = vec!["copy".to_owned()];
    arguments.extend(cache.arguments_from(&server.url));
    arguments.extend(what.iter().map(|w| (*w).to_owned()));
    state.run(&arguments)
}

#[test]
fn a_server_that_recovers_is_asked_again() {
    let cache = Cache::new();
    let names = [
        "fine",
        "error",
        "busy",
        "half",
        "hangup",
        "half-info",
        "error-info",
    ];
    let offers: Vec<_> = names
        .iter()
        .zip(1..)
        .map(|(name, seed)| Offer::named(name, file(&noise(seed, 300_000))))
        .collect();
    offers.iter().for_each(|o| cache.put(o));
    let hashes: Vec<_> = offers.iter().map(|o| o.path().hash().to_string()).collect();
    let known = Arc::new(hashes);
    let server = Server::new(cache.dir().to_owned(), move |path, before| {
        let name = known.iter().position(|h| path.contains(h.as_str()));
        let name = name.map_or("nix-cache-info", |at| names[at]);
        let is_info = path.ends_with(".narinfo");
        match (name, is_info, before) {
            ("nix-cache-info", _, 0) => Answer::Status(503),
            ("nix-cache-info", _, 1) => Answer::Half,
            ("error", false, 0) | ("error-info", true, 0) => Answer::Status(500),
            ("busy", false, 0) => Answer::Status(429),
            ("half", false, 0 | 1) | ("half-info", true, 0) => Answer::Half,
            ("hangup", _, 0) => Answer::Hangup,
            _ => Answer::File,
        }
    });
    let state = State::new();
    let paths: Vec<_> = offers.iter().map(|o| o.path().base_name()).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let ran = copy(&state, &cache, &server, &paths);
    ran.succeeds().counts(names.len(), 0);
    for offer in &offers {
        state.gives_out(offer.path(), &offer.stored);
    }
    let half = format!("/nar/{}.nar", offers[3].path().hash());
    assert_eq!(server.requests(&half), 3);
    let fine = format!("/nar/{}.nar", offers[0].path().hash());
    assert_eq!(server.requests(&fine), 1);
}

#[test]
fn a_server_that_does_not_recover_fails_the_paths_that_need_it() {
    let cache = Cache::new();
    let names = [
        "fine",
        "error",
        "half",
        "absent",
        "forbidden",
        "denied",
        "gone",
        "nonsense",
    ];
    let offers: Vec<_> = names
        .iter()
        .map(|name| Offer::named(name, file(&noise(1, 30_000))))
        .collect();
    offers.iter().for_each(|o| cache.put(o));
    let hashes: Vec<_> = offers.iter().map(|o| o.path().hash().to_string()).collect();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        let name = hashes.iter().position(|h| path.contains(h.as_str()));
        let is_info = path.ends_with(".narinfo");
        match (name.map_or("", |at| names[at]), is_info) {
            ("error", true) => Answer::Status(500),
            ("half", false) => Answer::Half,
            ("absent", true) => Answer::Status(404),
            ("forbidden", true) => Answer::Status(403),
            ("denied", true) => Answer::Status(401),
            ("gone", false) => Answer::Status(404),
            ("nonsense", true) => Answer::Nonsense(17 << 20),
            _ => Answer::File,
        }
    });
    let state = State::new();
    let paths: Vec<_> = offers.iter().map(|o| o.path().base_name()).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let ran = copy(&state, &cache, &server, &paths);
    let failures = [
        (offers[1].path(), "500"),
        (offers[2].path(), "broke off"),
        (offers[3].path(), "none of the sources"),
        (offers[4].path(), "none of the sources"),
        (offers[5].path(), "401"),
        (offers[6].path(), "the NAR is gone"),
        (offers[7].path(), "longer than"),
    ];
    ran.copies_but(1, &failures);
    for line in ran.stderr().lines() {
        assert!(line.contains(&server.url), "{line}");
    }
    state.has_exactly(&[offers[0].path()]);
    assert_eq!(state.is_whole(), 1);
}

#[test]
fn a_nar_that_one_server_cannot_send_comes_from_the_next() {
    let cache = Cache::new();
    let offer = Offer::named("hello", file(&noise(1, 30_000)));
    cache.put(&offer);
    for trouble in [
        Answer::Status(500),
        Answer::Status(401),
        Answer::Half,
        Answer::Status(404),
    ] {
        let server = Server::new(cache.dir().to_owned(), move |path, _| {
            if path.starts_with("/nar/") {
                trouble
            } else {
                Answer::File
            }
        });
        let good = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
        let state = State::new();
        let base = offer.path().base_name();
        let ran = copy(&state, &cache, &server, &["--from", &good.url, &base]);
        ran.succeeds().counts(1, 0);
        state.gives_out(offer.path(), &offer.stored);
    }
}

#[test]
fn a_server_cannot_be_listed() {
    let cache = Cache::new();
    let server = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    let state = State::new();
    let ran = copy(&state, &cache, &server, &["--all"]);
    ran.fails(&[&server.url, "cannot be listed", "give the paths"]);
    state.has_exactly(&[]);
}

#[test]
fn a_server_that_is_no_binary_cache_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let cache = Cache::new();
    let server = Server::new(empty.path().to_owned(), |_, _| Answer::Status(404));
    let ran = copy(&State::new(), &cache, &server, &["--all"]);
    ran.fails(&[&server.url, "is not a binary cache"]);
    // It may be one, for those whom it knows.
    let server = Server::new(empty.path().to_owned(), |_, _| Answer::Status(403));
    let ran = copy(&State::new(), &cache, &server, &["--all"]);
    ran.fails(&[&server.url, "403", "netrc"]);
    let server = Server::new(empty.path().to_owned(), |_, _| Answer::Status(500));
    let ran = copy(&State::new(), &cache, &server, &["--all"]);
    ran.fails(&[&server.url, "500", "try again later"]);
}
