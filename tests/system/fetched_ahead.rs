//! What is fetched before anything asks for it: closures, pins, traces.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{PATIENT, SHORT, directory, errno, key, plain};
use crate::server::{Answer, Gate, Refusing, Server};
use crate::support::{Sandbox, World, run, succeed, wait_until};

/// The NARs that a server was asked for, the first first.
fn nars(server: &Server) -> Vec<String> {
    let asked = server.log().into_iter().map(|asked| asked.path);
    asked.filter(|path| path.starts_with("/nar/")).collect()
}

fn url(offer: &Offer) -> String {
    format!("/{}", offer.info.url)
}

/// A chain: each refers to the next, which is in the list before it.
fn chain(cache: &Cache, length: u64, bytes: usize) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for n in 0..length {
        let offer = directory(&format!("link-{n}"), &noise(n + 1, bytes));
        let offer = match offers.last() {
            Some(next) => offer.referring(&[next.path()]),
            None => offer,
        };
        offers.push(offer);
    }
    offers.iter().for_each(|o| cache.put(o));
    offers
}

/// Whether a program waits for the contents of a path.
fn is_waited_for(sandbox: &Sandbox, offer: &Offer) -> bool {
    let status = sandbox.json(&["status"]);
    let fetches = status["fetches"].as_array().unwrap();
    let mut fetches = fetches.iter();
    fetches.any(|f| f["path"] == offer.path().base_name() && f["waiting"] == 1)
}

fn file(sandbox: &Sandbox, offer: &Offer) -> std::path::PathBuf {
    sandbox.store().join(offer.path().base_name()).join("file")
}

#[test]
fn a_prefetched_closure_is_complete_and_needs_no_source_any_more() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| Answer::File);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &world.key(), SHORT);
    let hello = world.package("hello");
    let said = sandbox.narfs(&["prefetch", "--check", hello]);
    assert!(said.starts_with("complete: "), "{said}");
    let again = sandbox.json(&["prefetch", hello]);
    assert_eq!(again["complete"], true);
    assert_eq!(again["fetched"], 0);
    let closure = sandbox.json(&["path-info", "--closure", hello]);
    assert_eq!(again["paths"], closure.as_array().unwrap().len());
    let sizes = closure.as_array().unwrap().iter();
    let sizes: u64 = sizes.map(|p| p["narSize"].as_u64().unwrap()).sum();
    assert_eq!(again["nar_bytes"], sizes);
    for (path, times) in server.all_requests() {
        assert_eq!(times, 1, "{path}");
    }

    sandbox.unmount();
    let refusing = Refusing::new();
    sandbox.mount_from(&[&refusing.url], &world.key(), SHORT);
    sandbox.bind_to_nix(&sandbox.at);
    let program = format!("/nix/store/{hello}/bin/hello");
    assert_eq!(succeed(&mut Command::new(program)), "Hello, world!\n");
    assert_eq!(sandbox.json(&["prefetch", hello])["complete"], true);
    // What is not here cannot be had any more, and it is said which path that is.
    let other = world.package("coreutils");
    let mut prefetch = sandbox.command(&["prefetch", other]);
    let ran = run(&mut prefetch, b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(other), "{}", ran.stderr);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.starts_with("incomplete: 1 "), "{said}");
}

#[test]
fn paths_to_prefetch_are_read_from_stdin_and_come_alone_if_asked() {
    let cache = Cache::new();
    let offers = chain(&cache, 3, 1000);
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let mut prefetch = sandbox.command(&["prefetch", "--no-recursive", "-"]);
    let names = format!("{}\n\n", offers[2].path().base_name());
    let ran = run(&mut prefetch, names.as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(nars(&server), [url(&offers[2])]);
    assert_eq!(sandbox.listing(), [offers[2].path().base_name()]);
    sandbox.misuse(&["prefetch"]);
    sandbox.complaint(&["prefetch", "nonsense"]);
    sandbox.complaint(&["prefetch", "--trace", "none"]);
}

#[test]
fn a_mount_that_prefetches_closures_has_them_once_something_looks_inside() {
    let cache = Cache::new();
    let offers = chain(&cache, 12, 5000);
    offers
        .iter()
        .for_each(|o| cache.put_listing(o, "directory"));
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "prefetch=closure");
    let last = offers.last().unwrap();
    let place = sandbox.store().join(last.path().base_name());
    assert!(fs::symlink_metadata(&place).unwrap().is_dir());
    assert!(nars(&server).is_empty());
    assert_eq!(fs::read(place.join("file")).unwrap(), noise(12, 5000));
    wait_until("the closure is here", || {
        sandbox.listing().len() == offers.len()
    });
    for (path, times) in server.all_requests() {
        assert_eq!(times, 1, "{path}");
    }
}

#[test]
fn of_large_nars_two_are_fetched_ahead_at_once_and_a_program_waits_for_none_of_them() {
    const BYTES: usize = 200_000;
    let cache = Cache::new();
    let offers = chain(&cache, 6, BYTES);
    offers
        .iter()
        .for_each(|o| cache.put_listing(o, "directory"));
    let (last, first) = (offers.last().unwrap(), &offers[0]);
    let (read_at_once, gate) = (url(last), Arc::new(Gate::default()));
    let held = gate.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if path.starts_with("/nar/") && path != read_at_once {
            held.wait();
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    let options = format!("prefetch=closure,{PATIENT}");
    sandbox.mount_from(&[&server.url], &key(&cache), &options);
    assert!(fs::read(file(&sandbox, last)).unwrap() == noise(6, BYTES));
    // Two are asked for, and the other three wait for a place.
    wait_until("all are known", || sandbox.json(&["status"])["queued"] == 3);
    wait_until("two are asked for", || nars(&server).len() == 3);
    // The end of the chain is found last.
    let asked = nars(&server);
    assert!(!asked.contains(&url(first)), "{asked:?}");
    let reader = std::thread::spawn({
        let place = file(&sandbox, first);
        move || fs::read(place).unwrap()
    });
    wait_until("it is asked for at once", || {
        nars(&server).contains(&url(first))
    });
    assert_eq!(nars(&server).len(), 4);
    gate.open();
    assert!(reader.join().unwrap() == noise(1, BYTES));
    wait_until("the closure is here", || {
        sandbox.listing().len() == offers.len()
    });
    for (path, times) in server.all_requests() {
        assert_eq!(times, 1, "{path}");
    }
}

#[test]
fn what_a_program_waits_for_comes_before_what_is_fetched_ahead() {
    let cache = Cache::new();
    let ahead: Vec<_> = (0..40)
        .map(|n| directory(&format!("ahead-{n}"), &noise(n + 1, 30_000)))
        .collect();
    let urgent = directory("urgent", &noise(99, 30_000));
    ahead.iter().chain([&urgent]).for_each(|o| cache.put(o));
    cache.put_listing(&urgent, "directory");
    // Nothing that is fetched ahead arrives before both wait.
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if path.starts_with("/nar/") {
            held.wait();
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
    let mut prefetch = vec!["prefetch".to_owned()];
    prefetch.extend(ahead.iter().map(|o| o.path().base_name()));
    let mut prefetching = sandbox.command(&prefetch).spawn().unwrap();
    wait_until("it has begun", || !nars(&server).is_empty());
    // One of those that are queued, too: it is fetched once, and at once.
    let queued = ahead.last().unwrap();
    let readers = [&urgent, queued].map(|offer| {
        let place = file(&sandbox, offer);
        std::thread::spawn(move || fs::read(place).unwrap())
    });
    for offer in [&urgent, queued] {
        wait_until("a program waits for it", || is_waited_for(&sandbox, offer));
    }
    gate.open();
    for reader in readers {
        assert_eq!(reader.join().unwrap().len(), 30_000);
    }
    assert!(prefetching.wait().unwrap().success());
    let order = nars(&server);
    assert_eq!(order.len(), 41);
    for offer in [&urgent, queued] {
        let at = order.iter().position(|path| *path == url(offer));
        // What has a place keeps it; those that wait for one would be the last.
        assert!(at.unwrap() < 30, "{at:?}: {order:?}");
    }
    assert_eq!(sandbox.json(&["verify"])["good"], 41);
}

#[test]
fn a_copy_and_a_program_that_want_a_path_at_once_share_one_transfer() {
    let cache = Cache::new();
    let offers = [1, 2, 3].map(|n| directory(&format!("both-{n}"), &noise(n, 50_000)));
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let slow = |cache: &Cache| {
        Server::new(cache.dir().to_owned(), |path, _| match path {
            p if p.starts_with("/nar/") => Answer::Slow(10),
            _ => Answer::File,
        })
    };
    let server = slow(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let copy = |server: &Server, offer: &Offer| {
        let mut copy = vec!["copy".to_owned(), offer.path().base_name()];
        copy.extend(cache.arguments_from(&server.url));
        let mut copy = sandbox.command(&copy);
        copy.stdout(Stdio::null()).stderr(Stdio::null());
        copy.spawn().unwrap()
    };
    let read = |offer: &Offer, n| {
        let (place, expected) = (file(&sandbox, offer), noise(n, 50_000));
        std::thread::spawn(move || assert!(fs::read(place).unwrap() == expected))
    };
    let [first, second, third] = &offers;
    // The program first.
    let reading = read(first, 1);
    wait_until("it is read", || nars(&server).len() == 1);
    assert!(copy(&server, first).wait().unwrap().success());
    reading.join().unwrap();
    // The copy first.
    let mut copying = copy(&server, second);
    wait_until("it is copied", || nars(&server).len() == 2);
    read(second, 2).join().unwrap();
    assert!(copying.wait().unwrap().success());
    assert_eq!(nars(&server), [url(first), url(second)]);
    // Where the sources of the copy fail, those of the mount are asked.
    let mut broken = Cache::new();
    broken.key = cache.key.clone();
    let mut flipped = directory("both-3", &noise(3, 50_000));
    flipped.stored[20_000] ^= 1;
    broken.put(&flipped);
    let other = slow(&broken);
    let mut copying = copy(&other, third);
    wait_until("it is copied", || nars(&other).len() == 1);
    read(third, 3).join().unwrap();
    assert!(!copying.wait().unwrap().success());
    assert_eq!(nars(&server).last(), Some(&url(third)));
    assert_eq!(sandbox.json(&["verify"])["good"], 3);
}

#[test]
fn a_trace_is_recorded_kept_and_replayed_in_its_order() {
    let cache = Cache::new();
    let offers: Vec<_> = (0..6)
        .map(|n| directory(&format!("p{n}"), &noise(n + 1, 2000)))
        .collect();
    offers.iter().for_each(|o| cache.put(o));
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let order = [4, 1, 5, 0];
    fs::read(file(&sandbox, &offers[3])).unwrap();
    sandbox.narfs(&["trace", "start", "job"]);
    let said = sandbox.complaint(&["trace", "start", "job"]);
    assert!(said.contains("already"), "{said}");
    sandbox.complaint(&["trace", "start", "../job"]);
    for n in order {
        fs::read(file(&sandbox, &offers[n])).unwrap();
        fs::read(file(&sandbox, &offers[order[0]])).unwrap();
    }
    let status = sandbox.json(&["status"]);
    assert_eq!(status["traces"][0]["name"], "job");
    assert_eq!(sandbox.narfs(&["trace", "stop", "job"]), "4 paths\n");
    sandbox.complaint(&["trace", "stop", "job"]);
    let wanted: Vec<_> = order
        .iter()
        .map(|n| format!("/nix/store/{}", offers[*n].path().base_name()))
        .collect();
    sandbox.unmount();
    // It is kept, and can be carried to another state.
    assert_eq!(sandbox.narfs(&["trace", "list"]), "job   4 paths\n");
    let shown = sandbox.narfs(&["trace", "show", "job"]);
    assert_eq!(shown.lines().collect::<Vec<_>>(), wanted);

    let server = plain(&cache);
    let other = Sandbox::empty();
    other.mount_from(&[&server.url], &key(&cache), "");
    let ran = run(
        &mut other.command(&["prefetch", "--no-recursive", "-"]),
        shown.as_bytes(),
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut listed = other.listing();
    let mut names: Vec<_> = wanted
        .iter()
        .map(|w| w["/nix/store/".len()..].to_owned())
        .collect();
    names.sort();
    listed.sort();
    assert_eq!(listed, names);

    let server = plain(&cache);
    let again = Sandbox::empty();
    fs::create_dir_all(&again.state).unwrap();
    succeed(
        Command::new("cp")
            .arg("-a")
            .arg(sandbox.state.join("."))
            .arg(&again.state),
    );
    again.mount_from(&[&server.url], &key(&cache), "");
    let report = again.json(&["prefetch", "--trace", "job"]);
    assert_eq!(report["paths"], 4);
    assert_eq!(report["fetched"], 0, "the state had them");
    again.narfs(&["trace", "delete", "job"]);
    again.complaint(&["trace", "show", "job"]);
    again.complaint(&["prefetch", "--trace", "job"]);
    assert_eq!(again.narfs(&["trace", "list"]), "");
}

#[test]
fn a_trace_is_replayed_from_its_beginning() {
    const PATHS: usize = 60;
    let cache = Cache::new();
    let offers = (0..PATHS).map(|n| directory(&format!("p{n}"), &noise(n as u64 + 1, 2000)));
    let offers: Vec<_> = offers.collect();
    offers.iter().for_each(|o| cache.put(o));
    let is_held = Arc::new(AtomicBool::new(false));
    let (holds, gate) = (is_held.clone(), Arc::new(Gate::default()));
    let held = gate.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if path.starts_with("/nar/") && holds.load(Ordering::SeqCst) {
            held.wait();
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
    sandbox.narfs(&["trace", "start", "job"]);
    let order: Vec<_> = (0..PATHS).map(|n| (n * 7 + 3) % PATHS).collect();
    for n in &order {
        fs::read(file(&sandbox, &offers[*n])).unwrap();
    }
    sandbox.narfs(&["trace", "stop", "job"]);
    // It says so if metadata stay.
    run(&mut sandbox.command(&["evict", "--to", "0"]), b"");
    is_held.store(true, Ordering::SeqCst);
    let again = |server: &Server| nars(server).split_off(PATHS);
    let mut prefetching = sandbox.command(&["prefetch", "--trace", "job"]);
    let mut prefetching = prefetching.stdout(Stdio::null()).spawn().unwrap();
    wait_until("some are on their way", || again(&server).len() > 1);
    let first = again(&server);
    // More than are on their way at once, of which any may come first.
    let beginning = order.iter().take(PATHS / 2);
    let beginning: Vec<_> = beginning.map(|n| url(&offers[*n])).collect();
    assert!(
        first.iter().all(|path| beginning.contains(path)),
        "{first:?} of {beginning:?}"
    );
    gate.open();
    assert!(prefetching.wait().unwrap().success());
    assert_eq!(again(&server).len(), PATHS);
}

#[test]
fn what_waits_for_a_place_waits_as_long_as_others_arrive() {
    let cache = Cache::new();
    // More than have a place at once, and each takes longer than a program waits for nothing.
    let offers = (0..20).map(|n| directory(&format!("slow{n}"), &noise(n + 1, 50_000)));
    let offers: Vec<_> = offers.collect();
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let server = Server::new(cache.dir().to_owned(), |path, _| match path {
        p if p.starts_with("/nar/") => Answer::Slow(30),
        _ => Answer::File,
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "contents-timeout=5");
    std::thread::scope(|threads| {
        for offer in &offers {
            let place = file(&sandbox, offer);
            threads.spawn(move || assert_eq!(fs::read(place).unwrap().len(), 50_000));
        }
    });
}

#[test]
fn status_and_stats_show_sources_and_what_is_on_its_way() {
    let cache = Cache::new();
    let (slow, quick) = (
        directory("slow", &noise(1, 50_000)),
        directory("quick", b"x"),
    );
    cache.put(&slow);
    cache.put(&quick);
    let (slow_url, gate) = (url(&slow), Arc::new(Gate::default()));
    let held = gate.clone();
    let server = Server::new(cache.dir().to_owned(), move |path, _| {
        if path == slow_url {
            held.wait();
        }
        Answer::File
    });
    let sandbox = Sandbox::empty();
    let refusing = Refusing::new();
    sandbox.mount_from(&[&server.url, &refusing.url], &key(&cache), "");
    let source = |n: usize| sandbox.json(&["status"])["sources"][n].clone();
    assert_eq!(source(0)["state"], "not-asked");
    fs::read(file(&sandbox, &quick)).unwrap();
    assert_eq!(source(0)["state"], "answers");
    assert_eq!(source(0)["url"], server.url);
    assert!(source(0)["traffic"]["requests"].as_u64().unwrap() >= 3);
    assert!(source(0)["traffic"]["received_bytes"].as_u64().unwrap() > 0);
    assert_eq!(source(1)["state"], "away");
    let place = file(&sandbox, &slow);
    let reader = std::thread::spawn(move || fs::read(place).unwrap());
    wait_until("it is seen", || is_waited_for(&sandbox, &slow));
    let text = sandbox.narfs(&["status"]);
    assert!(text.contains(&slow.path().base_name()), "{text}");
    gate.open();
    assert_eq!(reader.join().unwrap().len(), 50_000);
    let before = sandbox.json(&["stats"])["fetcher"].clone();
    assert!(before["misses"].as_u64().unwrap() >= 2);
    let unseen = sandbox.store().join(quick.path().base_name()).join("none");
    assert_eq!(errno(fs::read(unseen)), Some(libc::ENOENT));
    let after = sandbox.json(&["stats"])["fetcher"].clone();
    assert!(after["hits"].as_u64() > before["hits"].as_u64());
    assert_eq!(after["misses"], before["misses"]);
}

#[test]
fn a_process_that_waits_for_a_fetch_can_be_killed() {
    for at in ["/nar/", ".narinfo"] {
        let cache = Cache::new();
        let offer = directory("hangs", b"x");
        cache.put(&offer);
        cache.put_listing(&offer, "directory");
        let server = Server::new(cache.dir().to_owned(), move |path, _| match path {
            p if p.contains(at) => Answer::Stall,
            _ => Answer::File,
        });
        let sandbox = Sandbox::empty();
        sandbox.mount_from(&[&server.url], &key(&cache), PATIENT);
        let mut cat = Command::new("cat");
        cat.arg(file(&sandbox, &offer)).stderr(Stdio::null());
        let mut cat = cat.spawn().unwrap();
        wait_until("it waits", || {
            server.all_requests().keys().any(|path| path.contains(at))
        });
        assert!(cat.try_wait().unwrap().is_none());
        cat.kill().unwrap();
        wait_until("it has ended", || cat.try_wait().unwrap().is_some());
        assert!(Path::new(&sandbox.at).exists());
    }
}
