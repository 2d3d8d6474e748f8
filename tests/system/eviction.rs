//! Contents that are dropped to stay within a budget, and come back.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{SHORT, directory, errno, key, plain};
use crate::server::{Answer, Refusing, Server};
use crate::support::{Sandbox, run, wait_until};
use narfs::nix::store_path::{ContentAddress, StorePath};

/// Bytes of each path; noise does not compress.
const SIZE: usize = 400_000;

fn offers(cache: &Cache, count: u64) -> Vec<Offer> {
    let offers = (0..count).map(|n| directory(&format!("evicted-{n}"), &noise(n + 1, SIZE)));
    let offers: Vec<_> = offers.collect();
    for offer in &offers {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    offers
}

fn file(sandbox: &Sandbox, offer: &Offer) -> PathBuf {
    sandbox.store().join(offer.path().base_name()).join("file")
}

/// Has the kernel forget what it has of this mount: the next read is a request.
fn forget(sandbox: &Sandbox) {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    assert!(sandbox.at.exists());
}

fn stored(sandbox: &Sandbox) -> u64 {
    sandbox.json(&["stats"])["stored_bytes"].as_u64().unwrap()
}

#[test]
fn what_is_added_after_it_was_fetched_is_never_dropped() {
    let sandbox = Sandbox::empty();
    let tree = sandbox.make_dir("tree");
    fs::write(tree.join("file"), noise(1, SIZE)).unwrap();
    // The path that `add` makes of it, as a source has it.
    let elsewhere = Sandbox::empty();
    let added = elsewhere.add(&tree);
    let info = elsewhere.json(&["path-info", &added])[0].clone();
    let path = StorePath::parse_base_name(added.as_bytes()).unwrap();
    let mut offer = Offer::new(&path, elsewhere.narfs_bytes(&["dump", &added]));
    offer.info.ca = Some(ContentAddress::parse(info["ca"].as_str().unwrap()).unwrap());
    offer.info.deriver = Some(crate::binary_cache::path("tree.drv"));
    let cache = Cache::new();
    cache.put(&offer);
    cache.put_listing(&offer, "directory");
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let read = || fs::read(file(&sandbox, &offer)).unwrap() == noise(1, SIZE);
    let path_info = || sandbox.json(&["path-info", &added])[0].clone();
    assert!(read());
    let fetched = path_info();
    assert_eq!(fetched["signatures"].as_array().unwrap().len(), 1);
    let evict = || drop(run(&mut sandbox.command(&["evict", "--to", "0"]), b""));
    evict();
    forget(&sandbox);
    assert_eq!(sandbox.json(&["verify"])["dropped"], 1);
    // What was dropped comes back with it, though nobody is asked.
    let asked = server.requests(&format!("/{}", offer.info.url));
    assert_eq!(sandbox.add(&tree), added);
    assert_eq!(sandbox.json(&["verify"])["dropped"], 0);
    // Who has vouched for it still does.
    assert_eq!(path_info(), fetched);
    evict();
    forget(&sandbox);
    assert!(read());
    assert_eq!(server.requests(&format!("/{}", offer.info.url)), asked);
    // Nor does it become fetched again.
    let arguments = cache.arguments();
    let mut copy = vec!["copy", added.as_str()];
    copy.extend(arguments.iter().map(String::as_str));
    for words in [
        &copy[..],
        &["pin", &added],
        &["unpin", &added],
        &["verify", "--repair"],
    ] {
        sandbox.narfs(words);
    }
    evict();
    fs::remove_dir_all(cache.dir().join("nar")).unwrap();
    forget(&sandbox);
    assert!(read());
    sandbox.unmount();
    sandbox.mount();
    assert!(read());
    assert_eq!(path_info(), fetched);
}

#[test]
fn a_mount_stays_within_its_budget_while_more_is_read_twice() {
    let cache = Cache::new();
    let offers = offers(&cache, 30);
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let budget = 10 * SIZE as u64;
    let option = format!("budget={budget}");
    sandbox.mount_from(&[&server.url], &key(&cache), &option);
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|threads| {
        let watch = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let status = sandbox.json(&["status"]);
                let stored = status["stored_bytes"].as_u64().unwrap();
                most.fetch_max(stored, Ordering::Relaxed);
            }
        });
        for _ in 0..2 {
            for (n, offer) in (0..).zip(&offers) {
                let read = fs::read(file(&sandbox, offer)).unwrap();
                assert!(read == noise(n + 1, SIZE), "{n}");
            }
            forget(&sandbox);
        }
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    });
    let (most, path) = (most.into_inner(), SIZE as u64 + 4096);
    assert!(most <= budget + path, "{most} of {budget}");
    assert!(most > budget / 2, "{most} of {budget}");
    assert!(sandbox.json(&["status"])["evicted"].as_u64().unwrap() > 30);
    // All are listed and can be looked at.
    assert_eq!(sandbox.listing().len(), 30);
    let verified = sandbox.json(&["verify"]);
    assert_eq!(verified["failures"], serde_json::json!([]));
    assert!(verified["dropped"].as_u64().unwrap() >= 20);
    let sum = verified["good"].as_u64().unwrap() + verified["dropped"].as_u64().unwrap();
    assert_eq!(sum, 30);
    // The same after a restart.
    sandbox.unmount();
    assert!(stored(&sandbox) <= budget + path);
    sandbox.mount_from(&[&server.url], &key(&cache), &option);
    for (n, offer) in (0..).zip(&offers) {
        assert!(fs::read(file(&sandbox, offer)).unwrap() == noise(n + 1, SIZE));
    }
}

#[test]
fn dropped_contents_leave_names_and_sizes_and_come_back_by_themselves() {
    let cache = Cache::new();
    let offers = offers(&cache, 4);
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for offer in &offers {
        fs::read(file(&sandbox, offer)).unwrap();
    }
    let report = sandbox.json(&["evict", "--to", &(2 * SIZE + 100_000).to_string()]);
    let dropped: Vec<_> = report["paths"].as_array().unwrap().iter().collect();
    let full = |o: &Offer| format!("/nix/store/{}", o.path().base_name());
    assert_eq!(dropped, [&full(&offers[0]), &full(&offers[1])]);
    sandbox.narfs(&["evict", "--to", "0"]);
    // Metadata stay, and it is said that this is more than was asked for.
    let said = sandbox.complaint(&["evict", "--to", "1"]);
    assert!(said.contains("metadata"), "{said}");
    forget(&sandbox);
    let asked = server.all_requests();
    for offer in &offers {
        let metadata = fs::metadata(file(&sandbox, offer)).unwrap();
        assert_eq!(metadata.len(), SIZE as u64);
    }
    sandbox.narfs(&["ls", "-l", "-R", &full(&offers[0])]);
    assert_eq!(server.all_requests(), asked);
    for (n, offer) in (0..).zip(&offers) {
        assert!(fs::read(file(&sandbox, offer)).unwrap() == noise(n + 1, SIZE));
    }
    // Without a source, what is dropped is an error that says so, and nothing else is.
    sandbox.narfs(&["evict", "--to", &(2 * SIZE + 100_000).to_string()]);
    sandbox.unmount();
    let refusing = Refusing::new();
    sandbox.mount_from(&[&refusing.url], &key(&cache), SHORT);
    assert_eq!(errno(fs::read(file(&sandbox, &offers[0]))), Some(libc::EIO));
    assert!(fs::read(file(&sandbox, &offers[3])).is_ok());
    let said = sandbox.complaint(&["cat", &format!("{}/file", full(&offers[0]))]);
    assert!(said.contains(offers[0].path().name()), "{said}");
    let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
    assert!(log.contains("WARN") && !log.contains('\u{1b}'), "{log}");
    sandbox.unmount();
    let said = sandbox.complaint(&["cat", &format!("{}/file", full(&offers[0]))]);
    assert!(said.contains("prefetch"), "{said}");
    // The commands of a mount that has a source bring it back, too.
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let cat = sandbox.narfs_bytes(&["cat", &format!("{}/file", full(&offers[0]))]);
    assert!(cat == noise(1, SIZE));
    assert_eq!(sandbox.json(&["prefetch", &full(&offers[1])])["fetched"], 1);
    assert_eq!(sandbox.json(&["verify"])["good"], 4);
}

#[test]
fn what_is_pinned_in_use_or_added_here_is_not_dropped() {
    let cache = Cache::new();
    let mut offers = offers(&cache, 5);
    // A pin keeps what its path refers to.
    let top = directory("top", &noise(77, SIZE)).referring(&[offers[1].path()]);
    cache.put(&top);
    offers.push(top);
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let local = sandbox.dir().join("local");
    fs::write(&local, noise(5000, SIZE)).unwrap();
    let local = sandbox.add(&local);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let pinned = sandbox.json(&["pin", &offers[5].path().base_name()]);
    assert_eq!(pinned["complete"], true);
    assert_eq!(pinned["paths"], 2);
    for offer in &offers {
        fs::read(file(&sandbox, offer)).unwrap();
    }
    // A program that has a file of a path open.
    let open = fs::File::open(file(&sandbox, &offers[2])).unwrap();
    let sleep = |open| {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("600").stdin(open).spawn().unwrap()
    };
    let mut sleeper = sleep(open);
    run(&mut sandbox.command(&["evict", "--to", "0"]), b"");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    forget(&sandbox);
    let before = server.all_requests();
    for offer in [&offers[1], &offers[2], &offers[5]] {
        fs::read(file(&sandbox, offer)).unwrap();
    }
    assert!(fs::read(sandbox.store().join(&local)).unwrap() == noise(5000, SIZE));
    assert_eq!(server.all_requests(), before);
    assert_eq!(sandbox.json(&["stats"])["dropped_paths"], 3);

    let pins = sandbox.json(&["pins"]);
    assert_eq!(pins[0]["closure"], 2);
    assert_eq!(pins[0]["missing"], 0);
    let full = format!("/nix/store/{}", offers[5].path().base_name());
    assert_eq!(pins[0]["path"], full);
    sandbox.narfs(&["unpin", &full]);
    let said = sandbox.complaint(&["unpin", &full]);
    assert!(said.contains("not pinned"), "{said}");
    assert_eq!(sandbox.json(&["pins"]), serde_json::json!([]));
    run(&mut sandbox.command(&["evict", "--to", "0"]), b"");
    assert_eq!(sandbox.json(&["stats"])["dropped_paths"], 6);
    assert!(fs::read(sandbox.store().join(&local)).is_ok());
}

/// A mount of eight paths, by these names, whose budget has room for the contents of three; and what
/// serves them.
fn eight_and_room_for_three() -> (Sandbox, Vec<String>, (Cache, Server)) {
    let cache = Cache::new();
    let offers = offers(&cache, 8);
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let option = format!("budget={}", 3 * SIZE);
    sandbox.mount_from(&[&server.url], &key(&cache), &option);
    let names = offers.iter().map(|o| o.path().base_name()).collect();
    (sandbox, names, (cache, server))
}

#[test]
fn a_prefetch_that_does_not_fit_into_the_budget_is_not_complete() {
    let (sandbox, names, _served) = eight_and_room_for_three();
    let prefetch = |more: &[&str]| {
        let mut prefetch = sandbox.command(&["prefetch", "--json"]);
        let ran = run(prefetch.args(more).args(&names), b"");
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        serde_json::from_slice::<serde_json::Value>(&ran.stdout).unwrap()
    };
    for more in [&[][..], &["--check"], &["--no-recursive"]] {
        let report = prefetch(more);
        assert_eq!(report["complete"], false);
        let failures = report["failures"].as_array().unwrap();
        let here = report["paths"].as_u64().unwrap();
        assert_eq!(here + failures.len() as u64, 8, "{report}");
        assert!(failures.len() >= 4, "{report}");
        let said = failures[0]["error"].as_str().unwrap();
        assert!(said.contains("budget"), "{said}");
    }
    let mut fitting = vec!["prefetch"];
    fitting.extend(names.iter().take(2).map(String::as_str));
    assert_eq!(sandbox.json(&fitting)["complete"], true);
}

#[test]
fn a_copy_that_does_not_fit_into_the_budget_says_what_was_dropped() {
    let (sandbox, names, _served) = eight_and_room_for_three();
    let (fitting, more) = names.split_at(2);
    let copy = |names: &[String]| {
        let mut copy = sandbox.command(&["copy", "--json"]);
        let ran = run(copy.args(names), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        (report["dropped"].as_u64().unwrap(), ran.stderr)
    };
    let (dropped, said) = copy(fitting);
    assert!(dropped == 0 && !said.contains("budget"), "{said}");
    let (dropped, said) = copy(more);
    assert!(
        dropped >= 4 && said.contains("to stay within the budget"),
        "{said}"
    );
}

#[test]
fn what_arrives_together_is_within_the_budget_soon() {
    let cache = Cache::new();
    let offers = offers(&cache, 8);
    // All of them arrive at the same time, so that none can be dropped for another.
    let server = Server::new(cache.dir().to_owned(), |path, _| match path {
        p if p.starts_with("/nar/") => Answer::Slow(5),
        _ => Answer::File,
    });
    let sandbox = Sandbox::empty();
    let budget = 3 * SIZE as u64;
    sandbox.mount_from(&[&server.url], &key(&cache), &format!("budget={budget}"));
    scope(|threads| {
        for (n, offer) in (0..).zip(&offers) {
            let place = file(&sandbox, offer);
            threads.spawn(move || assert!(fs::read(place).unwrap() == noise(n + 1, SIZE)));
        }
    });
    wait_until("it is within its budget", || stored(&sandbox) <= budget);
}

#[test]
fn nothing_of_a_pinned_closure_is_dropped_while_its_root_is_on_its_way() {
    let cache = Cache::new();
    let small: Vec<_> = (0..6)
        .map(|n| directory(&format!("small{n}"), &noise(n + 1, SIZE)))
        .collect();
    let references: Vec<_> = small.iter().map(Offer::path).collect();
    let root = directory("root", &noise(99, SIZE)).referring(&references);
    small.iter().chain([&root]).for_each(|o| cache.put(o));
    let slow = format!("/{}", root.info.url);
    let server = Server::new(cache.dir().to_owned(), move |path, _| match path {
        p if p == slow => Answer::Slow(15),
        _ => Answer::File,
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "budget=1M");
    let report = sandbox.json(&["pin", &root.path().base_name()]);
    assert_eq!(report["complete"], true);
    assert_eq!(report["paths"], 7);
    let pins = sandbox.json(&["pins"]);
    assert_eq!([&pins[0]["closure"], &pins[0]["missing"]], [7, 0]);
}

#[test]
fn a_pin_of_what_no_source_has_is_refused() {
    let cache = Cache::new();
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let absent = directory("absent", b"x").path().base_name();
    let said = sandbox.complaint(&["pin", &absent]);
    assert!(said.contains(&absent), "{said}");
    assert_eq!(sandbox.json(&["pins"]), serde_json::json!([]));
}

#[test]
fn freed_space_leaves_the_disk() {
    let cache = Cache::new();
    let offers = (0..24).map(|n| directory(&format!("big{n}"), &noise(n + 1, 8 << 20)));
    let offers: Vec<_> = offers.collect();
    offers.iter().for_each(|o| cache.put(o));
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let mut prefetch = vec!["prefetch".to_owned()];
    prefetch.extend(offers.iter().map(|o| o.path().base_name()));
    sandbox.narfs(&prefetch);
    let used = || {
        let mut du = std::process::Command::new("du");
        let text = crate::support::succeed(du.arg("-sk").arg(&sandbox.state));
        text.split('\t').next().unwrap().parse::<u64>().unwrap() << 10
    };
    let all = used();
    assert!(all > 190_000_000, "{all}");
    sandbox.narfs(&["evict", "--to", "40M"]);
    wait_until("the disk has it back", || used() < 90_000_000);
}

#[test]
fn what_was_dropped_comes_back_only_as_what_it_was() {
    let (cache, other) = (Cache::new(), Cache::new());
    let offer = directory("p", &noise(1, SIZE));
    cache.put(&offer);
    // A build that is not reproducible: another NAR under the same name, signed all the same.
    other.put(&directory("p", &noise(2, SIZE)));
    let (server, second) = (plain(&cache), plain(&other));
    let keys = [key(&cache), key(&other)];
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &keys[0], SHORT);
    assert!(fs::read(file(&sandbox, &offer)).unwrap() == noise(1, SIZE));
    run(&mut sandbox.command(&["evict", "--to", "0"]), b"");
    sandbox.unmount();
    sandbox.mount_from(&[&second.url], &keys[1], SHORT);
    assert_eq!(errno(fs::read(file(&sandbox, &offer))), Some(libc::EIO));
    let said = sandbox.complaint(&["cat", &format!("{}/file", offer.path().base_name())]);
    assert!(said.contains("another NAR"), "{said}");
    sandbox.unmount();
    // With both, the one that has it is found, although the other is asked first.
    let at = sandbox.at.to_str().unwrap();
    let last = format!("{}?priority=99", server.url);
    sandbox.narfs(&[
        "mount",
        at,
        "--from",
        &second.url,
        "--from",
        &last,
        "--trusted-public-key",
        &keys[0],
        "--trusted-public-key",
        &keys[1],
    ]);
    assert!(fs::read(file(&sandbox, &offer)).unwrap() == noise(1, SIZE));
}
