//! Several sources of a mount, of which some are in trouble: none holds up what another one answers, and what
//! is known to be away costs nobody time.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use crate::binary_cache::{Cache, Offer};
use crate::on_demand::{directory, errno, key, plain};
use crate::server::{Answer, Gate, Refusing, Server};
use crate::support::{Sandbox, wait_until};

/// Far beyond what lookups wait here, on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);

fn place(sandbox: &Sandbox, offer: &Offer) -> PathBuf {
    sandbox.store().join(offer.path().base_name())
}

fn narinfo(offer: &Offer) -> String {
    format!("/{}.narinfo", offer.path().hash())
}

fn offers<const N: usize>(cache: &Cache, name: &str) -> [Offer; N] {
    let offers = std::array::from_fn(|n| directory(&format!("{name}-{n}"), name.as_bytes()));
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    offers
}

/// Narinfos that a server was asked for.
fn asked(server: &Server) -> usize {
    let log = server.log();
    log.iter().filter(|a| a.path.ends_with(".narinfo")).count()
}

#[test]
fn a_source_in_trouble_holds_up_no_lookup_that_another_one_answers() {
    let troubles = [
        None,
        Some(Answer::Stall),
        Some(Answer::SlowHead),
        Some(Answer::Status(403)),
        Some(Answer::Status(500)),
        Some(Answer::Redirect),
        Some(Answer::Later),
    ];
    for trouble in troubles {
        for (bad_priority, good_priority) in [(1, 2), (2, 1)] {
            let cache = Cache::new();
            let offers: [_; 12] = offers(&cache, "p");
            let good = plain(&cache);
            let refusing = Refusing::new();
            let bad = trouble.map(|bad| Server::new(cache.dir().to_owned(), move |_, _| bad));
            let bad = bad.as_ref().map_or(&refusing.url, |server| &server.url);
            let sandbox = Sandbox::empty();
            let bad = format!("{bad}?priority={bad_priority}");
            let good_url = format!("{}?priority={good_priority}", good.url);
            // A lookup that had to wait for it would fail.
            sandbox.mount_from(&[&bad, &good_url], &key(&cache), "lookup-timeout=30");
            let start = Instant::now();
            for offer in &offers {
                let found = fs::metadata(place(&sandbox, offer));
                assert!(found.is_ok(), "{trouble:?}, {bad_priority}: {found:?}");
            }
            let took = start.elapsed();
            // Less than two of them.
            assert!(took < Duration::from_secs(45), "{trouble:?}: {took:?}");
            assert_eq!(asked(&good), offers.len());
            sandbox.unmount();
        }
    }
}

#[test]
fn the_next_source_is_asked_only_after_the_head_start_of_the_one_before() {
    let cache = Cache::new();
    let [alone, absent, late] = offers(&cache, "p");
    let gate = Arc::new(Gate::default());
    let (held, without) = ((gate.clone(), narinfo(&late)), narinfo(&absent));
    let first = Server::new(cache.dir().to_owned(), move |path, _| {
        if path == held.1 {
            held.0.wait();
        }
        match path == without {
            true => Answer::Status(404),
            false => Answer::File,
        }
    });
    let second = plain(&cache);
    let urls = [format!("{}?priority=41", second.url), first.url.clone()];
    let urls = urls.each_ref().map(String::as_str);
    // Longer than the test.
    let sandbox = Sandbox::empty();
    let options = "lookup-timeout=600,head-start=600000";
    sandbox.mount_from(&urls, &key(&cache), options);
    assert!(place(&sandbox, &alone).is_dir());
    assert_eq!((asked(&first), asked(&second)), (1, 0));
    // It has not got the path, so that the next one is asked at once.
    assert!(place(&sandbox, &absent).is_dir());
    assert_eq!((asked(&first), asked(&second)), (2, 1));
    sandbox.unmount();

    let sandbox = Sandbox::empty();
    sandbox.mount_from(&urls, &key(&cache), "lookup-timeout=600,head-start=1");
    // A source that is still being opened may be asked after the other one has answered.
    assert!(place(&sandbox, &alone).is_dir());
    wait_until("both are open", || {
        let status = sandbox.json(&["status"]);
        let sources = status["sources"].as_array().unwrap();
        sources.iter().all(|source| source["state"] == "answers")
    });
    assert!(place(&sandbox, &late).is_dir());
    assert!(server_was_asked(&first, &late) && server_was_asked(&second, &late));
    gate.open();
}

fn server_was_asked(server: &Server, offer: &Offer) -> bool {
    server.requests(&narinfo(offer)) > 0
}

#[test]
fn names_cost_nobody_time_while_every_source_is_known_to_be_away_and_are_found_after_it_is_back() {
    const NAMES: usize = 200;
    let cache = Cache::new();
    let [offer] = offers(&cache, "back");
    let silent = Arc::new(AtomicBool::new(true));
    let is_silent = silent.clone();
    let server = Server::new(cache.dir().to_owned(), move |_, _| {
        match is_silent.load(Ordering::Relaxed) {
            true => Answer::Stall,
            false => Answer::File,
        }
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(
        &[&server.url],
        &key(&cache),
        "lookup-timeout=3,absent-ttl=1",
    );
    let unknown = |n: usize| place(&sandbox, &directory(&format!("unknown-{n}"), b""));
    let start = Instant::now();
    scope(|threads| {
        for n in 0..NAMES {
            let name = unknown(n);
            threads.spawn(move || assert_eq!(errno(fs::metadata(name)), Some(libc::EIO)));
        }
    });
    // Together, not one after the other.
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    let start = Instant::now();
    for n in NAMES..2 * NAMES {
        assert_eq!(errno(fs::metadata(unknown(n))), Some(libc::EIO));
    }
    // Less than a few deadlines for all.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(asked(&server), 0);
    assert_eq!(sandbox.json(&["status"])["sources"][0]["state"], "away");
    // Not each failure is logged.
    let mut names = 2 * NAMES..;
    wait_until("the log says since when", || {
        let name = unknown(names.next().unwrap());
        assert_eq!(errno(fs::metadata(name)), Some(libc::EIO));
        let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
        log.contains("has been away for")
    });

    silent.store(false, Ordering::Relaxed);
    wait_until("a probe was answered", || {
        sandbox.json(&["status"])["sources"][0]["state"] == "answers"
    });
    assert!(place(&sandbox, &offer).is_dir());
    let absent = errno(fs::metadata(unknown(names.next().unwrap())));
    assert_eq!(absent, Some(libc::ENOENT));
}

#[test]
fn a_directory_that_has_vanished_is_away_and_lacks_nothing() {
    let cache = Cache::new();
    let [here, later] = offers(&cache, "p");
    let sandbox = Sandbox::empty();
    let disk = sandbox.dir().join("disk");
    std::os::unix::fs::symlink(cache.dir(), &disk).unwrap();
    let url = format!("file://{}", disk.display());
    sandbox.mount_from(&[&url], &key(&cache), "absent-ttl=1");
    assert!(place(&sandbox, &here).is_dir());
    let absent = place(&sandbox, &directory("absent", b""));
    assert_eq!(errno(fs::metadata(&absent)), Some(libc::ENOENT));
    fs::remove_file(&disk).unwrap();
    let lost = place(&sandbox, &directory("lost", b""));
    assert_eq!(errno(fs::metadata(&lost)), Some(libc::EIO));
    // The mount point of a disk that is not mounted.
    fs::create_dir(&disk).unwrap();
    let lost = place(&sandbox, &directory("lost-too", b""));
    assert_eq!(errno(fs::metadata(&lost)), Some(libc::EIO));
    fs::remove_dir(&disk).unwrap();
    std::os::unix::fs::symlink(cache.dir(), &disk).unwrap();
    wait_until("it is back", || place(&sandbox, &later).is_dir());
    assert_eq!(errno(fs::metadata(&lost)), Some(libc::ENOENT));
}

#[test]
fn a_source_that_refuses_to_say_what_it_is_is_an_error_that_says_so() {
    let cache = Cache::new();
    let [offer] = offers(&cache, "p");
    let server = Server::new(cache.dir().to_owned(), |path, _| match path {
        "/nix-cache-info" => Answer::Status(403),
        _ => Answer::File,
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    assert_eq!(
        errno(fs::metadata(place(&sandbox, &offer))),
        Some(libc::EIO)
    );
    let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
    assert!(log.contains("403") && log.contains("netrc"), "{log}");
}

#[test]
fn a_server_without_nix_cache_info_is_believed_to_lack_a_path_after_it_had_one() {
    let cache = Cache::new();
    let [offer] = offers(&cache, "p");
    let server = Server::new(cache.dir().to_owned(), |path, _| match path {
        "/nix-cache-info" => Answer::Status(404),
        _ => Answer::File,
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let absent = |name: &str| errno(fs::metadata(place(&sandbox, &directory(name, b""))));
    assert_eq!(absent("before"), Some(libc::EIO));
    assert_eq!(
        fs::read(place(&sandbox, &offer).join("file")).unwrap(),
        b"p"
    );
    assert_eq!(absent("after"), Some(libc::ENOENT));
}
