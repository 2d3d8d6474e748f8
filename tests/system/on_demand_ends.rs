//! A mount ends while it fetches: by umount, by a signal, by kill -9.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{PATIENT, SHORT, directory, key};
use crate::server::{Answer, Server};
use crate::support::{Sandbox, is_alive, wait_until};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Waits for a process; fails if it hangs.
fn ends(mut child: Child) {
    wait_until("the program that waited has ended", || {
        child.try_wait().unwrap().is_some()
    });
}

/// A mount whose source says nothing more, a process that waits for it, and the daemon.
fn hanging(
    sandbox: &Sandbox,
    cache: &Cache,
    at: &'static str,
    options: &str,
) -> (Server, Child, u32) {
    let offer = directory("hangs", &noise(1, 100_000));
    cache.put(&offer);
    cache.put_listing(&offer, "directory");
    let server = Server::new(cache.dir().to_owned(), move |path, _| match path {
        p if p.contains(at) => Answer::HalfAndStall,
        _ => Answer::File,
    });
    sandbox.mount_from(&[&server.url], &key(cache), options);
    let place = sandbox.store().join(offer.path().base_name()).join("file");
    let mut cat = Command::new("cat");
    cat.arg(place).stdout(Stdio::null()).stderr(Stdio::null());
    let cat = cat.spawn().unwrap();
    wait_until("it hangs", || {
        let asked = server.all_requests();
        asked.keys().any(|path| path.contains(at))
    });
    let pid = sandbox.pid();
    (server, cat, pid)
}

#[test]
fn a_lazy_umount_ends_the_daemon_when_the_last_one_has_let_go() {
    let (sandbox, cache) = (Sandbox::empty(), Cache::new());
    let (_server, mut cat, pid) = hanging(&sandbox, &cache, "/nar/", SHORT);
    let at = sandbox.at.to_str().unwrap();
    let busy = sandbox.complaint(&["umount", at]);
    assert!(busy.contains("in use"), "{busy}");
    sandbox.narfs(&["umount", "--lazy", at]);
    assert!(sandbox.mounts().is_empty());
    cat.kill().unwrap();
    wait_until("the daemon has ended", || !is_alive(pid));
    ends(cat);
}

#[test]
fn a_signal_ends_the_daemon_in_the_middle_of_a_fetch() {
    for at in ["/nar/", ".narinfo"] {
        let (sandbox, cache) = (Sandbox::empty(), Cache::new());
        // Nobody waits for the deadlines.
        let (_server, cat, pid) = hanging(&sandbox, &cache, at, PATIENT);
        signal(pid, Signal::TERM);
        wait_until("the daemon has ended", || !is_alive(pid));
        ends(cat);
        assert!(sandbox.mounts().is_empty());
        assert_eq!(sandbox.json(&["verify"])["good"], 0);
    }
}

/// Rounds of the test below, and paths that are fetched in each when the daemon is killed.
const ROUNDS: u64 = 50;
const FETCHES: u64 = 100;

#[test]
fn a_daemon_that_is_killed_during_fetches_leaves_a_whole_state() {
    let cache = Cache::new();
    // So many NARs are sent whole, and no more.
    let (asked, whole) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (asked.clone(), whole.clone());
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        let (asked, whole) = (&counts.0, counts.1.load(Ordering::SeqCst));
        match path.starts_with("/nar/") && asked.fetch_add(1, Ordering::SeqCst) >= whole {
            true => Answer::HalfAndStall,
            false => Answer::File,
        }
    });
    let sandbox = Sandbox::empty();
    let mut had = 0;
    let mut all: Vec<(Offer, Vec<u8>)> = Vec::new();
    for round in 0..ROUNDS {
        let new = (round * FETCHES..(round + 1) * FETCHES).map(|n| {
            let contents = noise(n + 1, 30_000);
            let offer = directory(&format!("p{n}"), &contents);
            cache.put(&offer);
            cache.put_listing(&offer, "directory");
            (offer, contents)
        });
        let new: Vec<_> = new.collect();
        sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
        let verified = sandbox.json(&["verify"]);
        assert_eq!(verified["failures"], serde_json::json!([]), "{round}");
        let good = verified["good"].as_u64().unwrap();
        let kept = good + verified["dropped"].as_u64().unwrap();
        assert!(kept >= had, "{round}: {kept} of {had}");
        had = kept;
        whole.store(round * 7 % (FETCHES - 10), Ordering::SeqCst);
        asked.store(0, Ordering::SeqCst);
        let readers = new.iter().map(|(offer, _)| {
            let place = sandbox.store().join(offer.path().base_name()).join("file");
            let mut cat = Command::new("cat");
            cat.arg(place).stdout(Stdio::null()).stderr(Stdio::null());
            cat.spawn().unwrap()
        });
        let readers: Vec<_> = readers.collect();
        // Every third time in the middle of an eviction as well.
        let evicting = (round % 3 == 2).then(|| {
            let mut evict = sandbox.command(&["evict", "--to", "500K"]);
            let evict = evict.stdout(Stdio::null()).stderr(Stdio::null());
            evict.spawn().unwrap()
        });
        wait_until("one is on its way", || {
            asked.load(Ordering::SeqCst) > whole.load(Ordering::SeqCst)
        });
        sandbox.kill();
        readers.into_iter().chain(evicting).for_each(ends);
        all.extend(new);
    }
    whole.store(u64::MAX, Ordering::SeqCst);
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    for (offer, contents) in all.iter().step_by(23) {
        let place = sandbox.store().join(offer.path().base_name()).join("file");
        assert!(fs::read(place).unwrap() == *contents);
    }
    let verified = sandbox.json(&["verify"]);
    assert_eq!(verified["failures"], serde_json::json!([]));
}
