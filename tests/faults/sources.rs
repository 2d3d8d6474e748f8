//! Sources that are no binary caches or not ours, closures with holes, several sources.

use std::fs;

use narfs::nix::signature::SecretKey;

use crate::binary_cache::{Cache, Offer, file, noise, path};
use crate::program::State;
use crate::server::Refusing;

#[test]
fn what_is_no_binary_cache_is_named() {
    let cache = Cache::new();
    let state = State::new();
    let copy = |from: &str| state.run(&["copy", "--from", from, "--all"]);
    let gone = format!("{}/gone", cache.url());
    copy(&gone).fails(&[&gone, "No such file or directory"]);
    let text = format!("{}/nix-cache-info", cache.url());
    copy(&text).fails(&[&text, "is not a directory"]);
    let other = format!("{}/nar", cache.url());
    copy(&other).fails(&[&other, "is not a binary cache", "nix-cache-info"]);
    copy("/some/where").fails(&["/some/where", "file:///DIRECTORY"]);
    copy("ftp://example.org").fails(&["ftp://example.org", "http://"]);
    let refusing = Refusing::new();
    copy(&refusing.url).fails(&[&refusing.url, "cannot connect"]);
    fs::write(cache.dir().join("nix-cache-info"), "StoreDir: relative\n").unwrap();
    copy(&cache.url()).fails(&[&cache.url(), "store directory"]);
    // A command does not go on with fewer sources than it was given.
    let good = Cache::new();
    let from = good.url();
    let ran = state.run(&["copy", "--from", &from, "--from", &gone, "--all"]);
    ran.fails(&[&gone]);
    state.has_exactly(&[]);
}

#[test]
fn a_cache_for_another_store_directory_is_refused() {
    let cache = Cache::of_store_dir("/gnu/store");
    let offer = Offer::named("hello", file(b"hello"));
    cache.put(&offer);
    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    ran.fails(&[&cache.url(), "'/gnu/store'", "not '/nix/store'"]);
    state.has_exactly(&[]);
}

#[test]
fn a_state_for_guix_takes_what_is_for_guix() {
    let cache = Cache::of_store_dir("/gnu/store");
    let offer = Offer::named("hello", file(b"hello"));
    cache.put(&offer);
    let state = State::new();
    let mut arguments = vec!["--store-dir", "/gnu/store", "copy"];
    let from = cache.arguments();
    arguments.extend(from.iter().map(String::as_str));
    let full = format!("/gnu/store/{}", offer.path());
    arguments.push(&full);
    state.run(&arguments).succeeds();
    // The state knows from now on.
    let info = state.infos(&[&full]).remove(0);
    assert_eq!(info["path"], full);
    state.gives_out(offer.path(), &offer.stored);
    let ran = state.run(&["--store-dir", "/nix/store", "path-info"]);
    ran.fails(&["/gnu/store", "/nix/store", "--state"]);
    let ran = state.copy(&Cache::new(), &["--all"]);
    ran.fails(&["'/nix/store'", "not '/gnu/store'"]);
}

#[test]
fn a_path_that_no_source_has_is_named_with_the_sources() {
    let cache = Cache::new();
    let good = Offer::named("good", file(b"good"));
    cache.put(&good);
    let absent = path("absent");
    let state = State::new();
    let ran = state.copy(&cache, &[&absent.base_name(), &good.path().base_name()]);
    ran.copies_but(1, &[(&absent, &cache.url())]);
    assert!(ran.stderr().contains("is in none of the sources"));
    state.has_exactly(&[good.path()]);
    state
        .copy(&cache, &["nonsense"])
        .fails(&["nonsense", "HASH-NAME"]);
}

#[test]
fn what_needs_a_path_that_failed_is_not_published_either() {
    let cache = Cache::new();
    let absent = path("absent");
    let broken = {
        let mut offer = Offer::named("broken", file(&noise(1, 1000)));
        offer.stored[500] ^= 1;
        offer
    };
    let offer = |name, references: &[&narfs::nix::store_path::StorePath]| {
        Offer::named(name, file(name.as_bytes())).referring(references)
    };
    let leaf = offer("leaf", &[]);
    let needs_absent = offer("needs-absent", &[&absent, leaf.path()]);
    let needs_that = offer("needs-that", &[needs_absent.path()]);
    let needs_broken = offer("needs-broken", &[leaf.path(), broken.path()]);
    let top = offer("top", &[needs_that.path(), needs_broken.path()]);
    let fine = offer("fine", &[leaf.path()]);
    let all = [
        &broken,
        &leaf,
        &needs_absent,
        &needs_that,
        &needs_broken,
        &top,
        &fine,
    ];
    all.iter().for_each(|o| cache.put(o));
    let state = State::new();
    let failures = [
        (&absent, "none of the sources"),
        (broken.path(), "hash mismatch"),
        (needs_absent.path(), &absent.base_name()),
        (needs_that.path(), &needs_absent.path().base_name()),
        (needs_broken.path(), &broken.path().base_name()),
        (top.path(), "its reference"),
    ];
    for jobs in ["1", "8"] {
        let state = State::new();
        let ran = state.copy(&cache, &["--all", "--jobs", jobs]);
        ran.copies_but(2, &failures);
        state.has_exactly(&[leaf.path(), fine.path()]);
        assert_eq!(state.is_whole(), 2);
    }
    // Who wants a path without its references gets it.
    let base = |o: &Offer| o.path().base_name();
    let named = [base(&needs_absent), base(&broken), base(&needs_broken)];
    let mut what = vec!["--no-recursive"];
    what.extend(named.iter().map(String::as_str));
    let ran = state.copy(&cache, &what);
    ran.copies_but(2, &[(broken.path(), "hash mismatch")]);
    state.has_exactly(&[needs_absent.path(), needs_broken.path()]);
}

#[test]
fn references_in_a_circle_are_refused() {
    let cache = Cache::new();
    let (first, second) = (path("first"), path("second"));
    let offers = [
        Offer::new(&first, file(b"1")).referring(&[&second]),
        Offer::new(&second, file(b"2")).referring(&[&first]),
        Offer::named("needs-first", file(b"3")).referring(&[&first]),
        Offer::named("fine", file(b"4")),
    ];
    offers.iter().for_each(|o| cache.put(o));
    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    let failures = [
        (&first, second.name()),
        (&second, first.name()),
        (offers[2].path(), first.name()),
    ];
    ran.copies_but(1, &failures);
    state.has_exactly(&[offers[3].path()]);
}

/// Both sources, the first asked first, with the keys of both.
fn both(state: &State, first: &Cache, second: &Cache, what: &str) -> crate::program::Ran {
    let mut arguments = vec!["copy".to_owned(), what.to_owned()];
    arguments.extend(first.arguments());
    arguments.extend(second.arguments());
    state.run(&arguments)
}

#[test]
fn where_one_source_fails_the_next_is_asked() {
    let (first, second) = (Cache::new(), Cache::new());
    let data = noise(1, 5000);
    let names = [
        "flipped",
        "cut",
        "gone",
        "unreadable",
        "unsigned",
        "malformed",
        "absent",
    ];
    let good: Vec<_> = names.iter().map(|n| Offer::named(n, file(&data))).collect();
    for (name, offer) in names.into_iter().zip(&good) {
        second.put(offer);
        let mut bad = Offer::named(name, file(&data));
        match name {
            "flipped" => bad.stored[500] ^= 1,
            "cut" => bad.stored.truncate(500),
            "unsigned" => bad.signed = false,
            _ => {}
        }
        first.put(&bad);
        let (nar_file, narinfo) = (first.nar_file(&bad), first.narinfo_file(bad.path()));
        match name {
            "gone" => fs::remove_file(nar_file).unwrap(),
            "unreadable" => {
                fs::remove_file(&nar_file).unwrap();
                fs::create_dir(nar_file).unwrap();
            }
            "malformed" => fs::write(narinfo, "what?").unwrap(),
            "absent" => fs::remove_file(narinfo).unwrap(),
            _ => {}
        }
    }
    let state = State::new();
    both(&state, &first, &second, "--all")
        .succeeds()
        .counts(names.len(), 0);
    for offer in &good {
        state.gives_out(offer.path(), &offer.stored);
    }
    assert_eq!(state.is_whole(), names.len() as u64);
}

#[test]
fn a_second_source_that_tells_another_story_is_not_mixed_with_the_first() {
    let (first, mut second) = (Cache::new(), Cache::new());
    second.key = SecretKey::from_seed("second-1", [2; 32]).unwrap();
    let nar = file(&noise(1, 500));
    // Signed by a key that is trusted too, but with a reference that nobody has.
    let absent = path("absent");
    let mut broken = Offer::named("hello", nar.clone());
    broken.stored[200] ^= 1;
    first.put(&broken);
    second.put(&Offer::named("hello", nar.clone()).referring(&[&absent]));
    let state = State::new();
    let ran = both(&state, &first, &second, &broken.path().base_name());
    assert_eq!(ran.output.status.code(), Some(1), "{}", ran.stderr());
    state.has_exactly(&[]);
    // Under another name.
    let other = narfs::nix::store_path::StorePath::new(path("hello").hash(), "hullo").unwrap();
    second.put(&Offer::new(&other, nar));
    let ran = both(&state, &first, &second, &broken.path().base_name());
    assert_eq!(ran.output.status.code(), Some(1), "{}", ran.stderr());
    state.has_exactly(&[]);
}

#[test]
fn a_wrong_name_at_one_source_is_right_at_the_next() {
    let (first, second) = (Cache::new(), Cache::new());
    let nar = file(b"hello");
    let good = Offer::named("hello", nar.clone());
    let other = narfs::nix::store_path::StorePath::new(good.path().hash(), "hullo").unwrap();
    first.put(&Offer::new(&other, nar));
    second.put(&good);
    let state = State::new();
    both(&state, &first, &second, &good.path().base_name()).succeeds();
    state.has_exactly(&[good.path()]);
}
