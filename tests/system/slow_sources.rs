//! Sources that are slow to begin, or slow all along: what another source has does not wait for them, and
//! what only they have arrives all the same.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::scope;

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{PATIENT, SHORT, directory, errno, key, plain};
use crate::server::{Answer, Gate, Ranges, Server};
use crate::support::{Sandbox, wait_until};

/// Readers at once: more than the transfers from one source.
const READERS: usize = 24;

/// Programs that wait for a file, until this is dropped.
struct Waiting(Vec<Child>);

impl Waiting {
    fn for_files(sandbox: &Sandbox, offers: &[Offer]) -> Self {
        let cats = offers.iter().map(|offer| {
            let mut cat = Command::new("cat");
            cat.arg(file(sandbox, offer));
            cat.stdout(Stdio::null()).stderr(Stdio::null());
            cat.spawn().unwrap()
        });
        Self(cats.collect())
    }

    fn all_wait(&mut self) -> bool {
        let mut all = self.0.iter_mut();
        all.all(|cat| cat.try_wait().unwrap().is_none())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for cat in &mut self.0 {
            let _ = cat.kill();
            let _ = cat.wait();
        }
    }
}

fn file(sandbox: &Sandbox, offer: &Offer) -> std::path::PathBuf {
    let place = sandbox.store().join(offer.path().base_name());
    place.join("file")
}

/// Offers in a cache with listings, so that only reads need their NARs.
fn offers(cache: &Cache, name: &str, number: usize) -> Vec<Offer> {
    let offers = (0..number).map(|n| directory(&format!("{name}-{n}"), &noise(n as u64, 50_000)));
    let offers: Vec<_> = offers.collect();
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    offers
}

fn is_nar(path: &str) -> bool {
    path.starts_with("/nar/")
}

#[test]
fn a_source_that_trickles_holds_up_nobody_else_and_in_the_end_not_itself() {
    let (slow, good) = (Cache::new(), Cache::new());
    let held = offers(&slow, "held", READERS);
    let quick = offers(&slow, "quick", 1).remove(0);
    let others = offers(&good, "other", 4);
    let quick_nar = format!("/{}", quick.info.url);
    let first_kinds = [Answer::Stall, Answer::HalfAndStall, Answer::Slow(50_000)];
    let server = Server::new(slow.dir().to_owned(), move |path, _| {
        let kind = path.bytes().map(usize::from).sum::<usize>() % first_kinds.len();
        match is_nar(path) && path != quick_nar {
            true => first_kinds[kind],
            false => Answer::File,
        }
    });
    let good_server = plain(&good);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url, &good_server.url], &key(&slow), PATIENT);
    let mut waiting = Waiting::for_files(&sandbox, &held);
    wait_until("all places are taken", || {
        let asked = server.log();
        asked.iter().filter(|asked| is_nar(&asked.path)).count() >= 16
    });
    for (n, other) in others.iter().enumerate() {
        assert_eq!(
            fs::read(file(&sandbox, other)).unwrap(),
            noise(n as u64, 50_000)
        );
    }
    // What is fetched ahead as well.
    let ahead = offers(&good, "ahead", 2);
    for offer in &ahead {
        sandbox.narfs(&["prefetch", &offer.path().base_name()]);
    }
    assert!(waiting.all_wait());
    // Those that are too slow have left their places to others of the same source.
    assert_eq!(fs::read(file(&sandbox, &quick)).unwrap(), noise(0, 50_000));
    assert!(waiting.all_wait());
    let nars = |server: &Server| {
        let asked = server.log();
        let asked = asked.iter().filter(|asked| is_nar(&asked.path));
        asked.count()
    };
    assert!(nars(&server) <= READERS + 1);
    assert_eq!(nars(&good_server), others.len() + ahead.len());
}

/// What a source does with the NARs that another one has, too.
const TROUBLES: [Answer; 12] = [
    Answer::Stall,
    Answer::HalfAndStall,
    Answer::Slow(1000),
    Answer::Slow(50_000),
    Answer::Hangup,
    Answer::Half,
    Answer::Status(500),
    Answer::Status(404),
    Answer::Truncated,
    Answer::Flipped,
    Answer::Redirect,
    Answer::Ranges(Ranges {
        stall: true,
        ..Ranges::end_after(30_000)
    }),
];

#[test]
fn what_a_source_does_badly_comes_from_another_source_asked_first_or_last() {
    for bad_is_first in [true, false] {
        let (bad, good) = (Cache::new(), Cache::new());
        let offers_there = offers(&good, "both", TROUBLES.len());
        offers_there.iter().for_each(|offer| bad.put(offer));
        let urls: Vec<_> = offers_there
            .iter()
            .map(|o| format!("/{}", o.info.url))
            .collect();
        let server = Server::new(bad.dir().to_owned(), move |path, _| {
            let at = urls.iter().position(|url| url == path);
            at.map_or(Answer::File, |at| TROUBLES[at])
        });
        let good_server = plain(&good);
        let priorities = match bad_is_first {
            true => [10, 20],
            false => [20, 10],
        };
        let [first, second] = [(&server, priorities[0]), (&good_server, priorities[1])]
            .map(|(server, priority)| format!("{}?priority={priority}", server.url));
        let sandbox = Sandbox::empty();
        // Contents have to come before the deadline of a program is over.
        sandbox.mount_from(&[&first, &second], &key(&good), "lookup-timeout=600");
        scope(|threads| {
            for (n, offer) in offers_there.iter().enumerate() {
                let place = file(&sandbox, offer);
                threads.spawn(move || {
                    let read = fs::read(place);
                    assert!(
                        read.is_ok_and(|read| read == noise(n as u64, 50_000)),
                        "{n}"
                    );
                });
            }
        });
        for (offer, trouble) in offers_there.iter().zip(TROUBLES) {
            let nar = format!("/{}", offer.info.url);
            assert_eq!(good_server.requests(&nar), 1, "{trouble:?}");
            assert!(bad_is_first == (server.requests(&nar) > 0), "{trouble:?}");
        }
        assert_eq!(sandbox.json(&["verify"])["good"], offers_there.len());
    }
}

#[test]
fn a_first_byte_that_takes_its_time_is_asked_for_once() {
    let cache = Cache::new();
    let offer = offers(&cache, "late", 1).remove(0);
    let gate: Arc<Gate> = Arc::default();
    let held = gate.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if is_nar(path) {
            held.wait();
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let place = file(&sandbox, &offer);
    for _ in 0..2 {
        assert_eq!(errno(fs::read(&place)), Some(libc::EIO));
    }
    gate.open();
    wait_until("it is here", || fs::read(&place).is_ok());
    let nar = format!("/{}", offer.info.url);
    assert_eq!(server.requests(&nar), 1);
}

#[test]
fn what_only_a_slow_source_has_arrives() {
    let cache = Cache::new();
    let offer = directory("slow", b"x");
    cache.put(&offer);
    cache.put_listing(&offer, "directory");
    // Some fifty bytes a second, for longer than a program waits without progress.
    let server = Server::new(cache.dir().to_owned(), |path, _| match is_nar(path) {
        true => Answer::Slow(40),
        false => Answer::File,
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    assert_eq!(fs::read(file(&sandbox, &offer)).unwrap(), b"x");
}
