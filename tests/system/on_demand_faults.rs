//! Sources in trouble: the right errno in bounded time, nothing wrong served, what is here not held
//! up meanwhile, and everything there when the trouble is over.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{PATIENT, SHORT, directory, errno, key, plain};
use crate::server::{Answer, Gate, Refusing, Server};
use crate::support::{Sandbox, wait_until};

/// Far beyond the longest deadline of [`SHORT`], and shorter than waiting for ever.
const BOUND: Duration = Duration::from_secs(60);

/// Where the trouble is, what it is, and how a read ends meanwhile; 0 is well. A source that wants
/// to be left alone is not among them: it holds up all that is asked of it.
const TROUBLES: [(&str, Answer, i32); 23] = [
    (".narinfo", Answer::Hangup, libc::EIO),
    (".narinfo", Answer::Stall, libc::EIO),
    (".narinfo", Answer::HalfAndStall, libc::EIO),
    (".narinfo", Answer::Status(500), libc::EIO),
    (".narinfo", Answer::Status(401), libc::EIO),
    (".narinfo", Answer::Status(403), libc::ENOENT),
    (".narinfo", Answer::Status(404), libc::ENOENT),
    (".narinfo", Answer::Truncated, libc::EIO),
    (".narinfo", Answer::Nonsense(3 << 20), libc::EIO),
    (".narinfo", Answer::Redirect, libc::EIO),
    (".narinfo", Answer::Endless, libc::EIO),
    (".ls", Answer::Stall, 0),
    (".ls", Answer::Status(500), 0),
    ("/nar/", Answer::Half, libc::EIO),
    ("/nar/", Answer::Stall, libc::EIO),
    ("/nar/", Answer::HalfAndStall, libc::EIO),
    ("/nar/", Answer::Status(500), libc::EIO),
    ("/nar/", Answer::Status(404), libc::EIO),
    ("/nar/", Answer::Truncated, libc::EIO),
    ("/nar/", Answer::Flipped, libc::EIO),
    ("/nar/", Answer::Redirect, libc::EIO),
    ("/nar/", Answer::Endless, libc::EIO),
    // Longer than any deadline, but it keeps coming.
    ("/nar/", Answer::Slow(30), 0),
];

fn contents(n: usize) -> Vec<u8> {
    noise(n as u64 + 1, 200_000)
}

/// The paths of [`TROUBLES`], in a cache with listings.
fn offers(cache: &Cache) -> Vec<Offer> {
    let numbers = 0..TROUBLES.len();
    let offers = numbers.map(|n| directory(&format!("trouble-{n}"), &contents(n)));
    let offers: Vec<_> = offers.collect();
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    offers
}

#[test]
fn each_trouble_ends_in_the_right_error_and_is_over_when_it_is_over() {
    let cache = Cache::new();
    let offers = offers(&cache);
    let troubled: HashMap<_, _> = (0..)
        .zip(&offers)
        .map(|(n, o)| (o.path().hash().to_string(), n))
        .collect();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        let trouble = troubled
            .iter()
            .find(|(hash, _)| path.contains(hash.as_str()));
        match trouble.map(|(_, n)| TROUBLES[*n]) {
            Some((at, answer, _)) if !is_over.load(Ordering::Relaxed) && path.contains(at) => {
                answer
            }
            _ => Answer::File,
        }
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let read =
        |offer: &Offer| fs::read(sandbox.store().join(offer.path().base_name()).join("file"));
    let (sandbox, read) = (&sandbox, &read);
    scope(|threads| {
        let reads = offers.iter().zip(TROUBLES).map(|(offer, trouble)| {
            threads.spawn(move || {
                let start = Instant::now();
                let got = errno(read(offer)).unwrap_or(0);
                let took = start.elapsed();
                let log = || fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
                assert_eq!(got, trouble.2, "{trouble:?}, {took:?}:\n{}", log());
                assert!(took < BOUND, "{trouble:?}: {took:?}");
            })
        });
        let reads: Vec<_> = reads.collect();
        let failed = reads.into_iter().filter_map(|r| r.join().err()).count();
        assert_eq!(failed, 0);
    });
    let well = TROUBLES.iter().filter(|t| t.2 == 0).count();
    assert_eq!(sandbox.listing().len(), well);

    over.store(true, Ordering::Relaxed);
    for (n, offer) in offers.iter().enumerate() {
        wait_until(&format!("{:?} is over", TROUBLES[n]), || {
            read(offer).is_ok_and(|read| read == contents(n))
        });
    }
    assert_eq!(sandbox.json(&["verify"])["good"], offers.len());
}

#[test]
fn a_source_that_wants_to_be_left_alone_is_an_error_until_it_answers() {
    let cache = Cache::new();
    let offers = ["told", "other"].map(|name| directory(name, name.as_bytes()));
    offers.iter().for_each(|o| cache.put(o));
    let over = Arc::new(AtomicBool::new(false));
    let (is_over, told) = (over.clone(), offers[0].path().hash().to_string());
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if path.contains(&told) && !is_over.load(Ordering::Relaxed) {
            Answer::Later
        } else {
            Answer::File
        }
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let read =
        |offer: &Offer| fs::read(sandbox.store().join(offer.path().base_name()).join("file"));
    let start = Instant::now();
    assert_eq!(errno(read(&offers[0])), Some(libc::EIO));
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    over.store(true, Ordering::Relaxed);
    for (offer, contents) in offers.iter().zip(["told", "other"]) {
        wait_until("it answers", || {
            read(offer).is_ok_and(|read| read == contents.as_bytes())
        });
    }
}

#[test]
fn what_is_here_is_not_held_up_by_what_does_not_come() {
    const TIMES: usize = 20;
    let cache = Cache::new();
    let gates: [Arc<Gate>; 2] = Default::default();
    let places = [".narinfo", "/nar/"];
    let offers = [0, 1].map(|n| directory(&format!("held-{n}"), &contents(n)));
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let names = offers.each_ref().map(|o| o.path().hash().to_string());
    let held = (names, gates.clone());
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        for n in [0, 1] {
            if path.contains(&held.0[n]) && path.contains(places[n]) {
                held.1[n].wait();
            }
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    let local = sandbox.dir().join("local");
    fs::write(&local, "here").unwrap();
    let local = sandbox.add(&local);
    sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
    scope(|threads| {
        let _open = OpenAtEnd(&gates);
        let readers = [0, 1].map(|n| {
            let place = sandbox.store().join(offers[n].path().base_name());
            threads.spawn(move || fs::read(place.join("file")).unwrap())
        });
        for (offer, at) in offers.iter().zip(places) {
            let hash = offer.path().hash().to_string();
            wait_until("both wait", || {
                let asked = server.log().into_iter().map(|asked| asked.path);
                asked
                    .filter(|p| p.contains(&hash) && p.contains(at))
                    .count()
                    > 0
            });
        }
        for n in 0..TIMES {
            assert_eq!(fs::read(sandbox.store().join(&local)).unwrap(), b"here");
            assert!(sandbox.listing().contains(&local));
            // A name that the kernel does not know yet.
            let unknown = sandbox.store().join(format!(".x{n}"));
            assert_eq!(errno(fs::symlink_metadata(unknown)), Some(libc::ENOENT));
        }
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        gates.iter().for_each(|gate| gate.open());
        for (n, reader) in readers.into_iter().enumerate() {
            assert!(reader.join().unwrap() == contents(n));
        }
    });
}

/// Lets everything go, also when something fails.
struct OpenAtEnd<'a>(&'a [Arc<Gate>]);

impl Drop for OpenAtEnd<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|gate| gate.open());
    }
}

#[test]
fn a_source_that_recovers_soon_is_waited_for() {
    let cache = Cache::new();
    let offer = directory("soon", b"x");
    cache.put(&offer);
    for first in [
        Answer::Status(500),
        Answer::Later,
        Answer::Hangup,
        Answer::Half,
    ] {
        let server = Server::new(cache.dir().to_owned(), move |path, before| {
            let once = before == 0 && !path.ends_with(".ls");
            // Three seconds of "later" are more than a lookup has.
            if once && (path.starts_with("/nar") || !matches!(first, Answer::Later)) {
                first
            } else {
                Answer::File
            }
        });
        let sandbox = Sandbox::empty();
        sandbox.mount_from(&[&server.url], &key(&cache), "");
        let place = sandbox.store().join(offer.path().base_name());
        assert_eq!(fs::read(place.join("file")).unwrap(), b"x", "{first:?}");
    }
}

#[test]
fn a_server_that_nobody_runs_is_an_error_until_somebody_does() {
    let cache = Cache::new();
    let offer = directory("late", b"x");
    cache.put(&offer);
    let sandbox = Sandbox::empty();
    let refusing = Refusing::new();
    sandbox.mount_from(&[&refusing.url], &key(&cache), SHORT);
    let place = sandbox.store().join(offer.path().base_name()).join("file");
    let start = Instant::now();
    // Those that want the same do not wait one after the other.
    scope(|threads| {
        for _ in 0..16 {
            threads.spawn(|| assert_eq!(errno(fs::read(&place)), Some(libc::EIO)));
        }
    });
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    let _server = refusing.serve(cache.dir().to_owned(), |_, _| Answer::File);
    wait_until("it is found", || fs::read(&place).is_ok());
}

#[test]
fn what_one_source_cannot_give_comes_from_the_next() {
    let (cache, liar) = (Cache::new(), Cache::new());
    let offers: Vec<_> = (0..4)
        .map(|n| directory(&format!("p{n}"), &contents(n)))
        .collect();
    offers.iter().for_each(|o| cache.put(o));
    let good = plain(&cache);
    let second = format!("{}?priority=50", good.url);
    // Signed by nobody; another contents under a good signature.
    let forged = directory("p0", b"forged").unsigned();
    liar.put(&forged);
    let mut damaged = directory("p1", &contents(1));
    damaged.stored[500] ^= 1;
    liar.put(&damaged);
    // And the narinfo of another path.
    liar.put_as(&offers[2], cache.text(&offers[3]).as_bytes());
    let bad = plain(&liar);
    let stalled = Server::new(cache.dir().to_owned(), |_, _| Answer::Stall);
    let sandboxes = [(); 3].map(|()| Sandbox::empty());
    let refusing = Refusing::new();
    for (first, sandbox) in [&bad.url, &refusing.url, &stalled.url]
        .into_iter()
        .zip(sandboxes)
    {
        sandbox.mount_from(&[first, &second], &key(&cache), "lookup-timeout=30");
        for (n, offer) in offers.iter().enumerate() {
            let place = sandbox.store().join(offer.path().base_name()).join("file");
            let start = Instant::now();
            assert_eq!(fs::read(&place).unwrap(), contents(n), "{first}");
            // Less than a wait for the source would take.
            assert!(start.elapsed() < Duration::from_secs(25), "{first}");
        }
        if *first != bad.url {
            let absent = sandbox
                .store()
                .join(directory("absent", b"").path().base_name());
            assert_eq!(
                errno(fs::symlink_metadata(absent)),
                Some(libc::EIO),
                "{first}"
            );
        }
    }
}

#[test]
fn what_is_signed_by_nobody_is_an_error_and_so_is_another_paths_narinfo() {
    let cache = Cache::new();
    let (unsigned, wrong, other) = (
        directory("unsigned", b"x").unsigned(),
        directory("wrong", b"x"),
        directory("other", b"x"),
    );
    cache.put(&unsigned);
    cache.put_as(&wrong, cache.text(&other).as_bytes());
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for offer in [&unsigned, &wrong] {
        let place = sandbox.store().join(offer.path().base_name());
        assert_eq!(errno(fs::symlink_metadata(&place)), Some(libc::EIO));
        cache.put(&directory(offer.path().name(), b"x"));
        wait_until("it is mended", || place.join("file").exists());
    }
    assert_eq!(sandbox.listing().len(), 2);
}

#[test]
fn a_full_disk_is_an_error_at_once_and_over_when_there_is_room() {
    let cache = Cache::new();
    let offers = (0..4).map(|n| directory(&format!("full-{n}"), &contents(n)));
    let offers: Vec<_> = offers.collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let server = plain(&cache);
    let mut sandbox = Sandbox::empty();
    // The log is on it, too.
    let disk = sandbox.make_dir("disk");
    let mut mount = std::process::Command::new("mount");
    crate::support::succeed(
        mount
            .args(["-t", "tmpfs", "-o", "size=200m", "disk"])
            .arg(&disk),
    );
    sandbox.state = disk.join("state");
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let read = |n: usize| {
        fs::read(
            sandbox
                .store()
                .join(offers[n].path().base_name())
                .join("file"),
        )
    };
    assert!(read(0).unwrap() == contents(0));
    let ballast = disk.join("ballast");
    let mut filling = fs::File::create(&ballast).unwrap();
    while std::io::Write::write(&mut filling, &[0; 1 << 16]).is_ok_and(|n| n > 0) {}
    let began = Instant::now();
    for n in 1..4 {
        assert_eq!(errno(read(n)), Some(libc::EIO));
    }
    // Well before the deadlines of programs that wait.
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    assert!(read(0).unwrap() == contents(0));
    // After this RocksDB was seen to write what it has in memory, whether there is room or not.
    sandbox.json(&["status"]);
    drop(filling);
    fs::remove_file(&ballast).unwrap();
    for n in 1..4 {
        wait_until("it is fetched", || read(n).is_ok_and(|c| c == contents(n)));
    }
    let status = sandbox.json(&["status"]);
    assert_eq!(status["fetches"].as_array().unwrap().len(), 0, "{status}");
}
