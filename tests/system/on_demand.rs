//! A mount with sources: paths appear when they are looked up, contents when something looks
//! inside; each is asked for once.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::binary_cache::{Cache, Offer, Tree, file, nar, noise, path};
use crate::server::{Answer, Refusing, Server};
use crate::support::{Sandbox, World, run, succeed, wait_until};

/// Waits so short that tests can wait for them, and long enough for a server that is well.
pub const SHORT: &str = "lookup-timeout=6,contents-timeout=5,absent-ttl=1";

/// Waits longer than any test.
pub const PATIENT: &str = "lookup-timeout=600,contents-timeout=600";

/// A directory with one file.
pub fn directory(name: &str, contents: &[u8]) -> Offer {
    Offer::named(
        name,
        nar(&Tree::Directory(vec![("file", Tree::File(contents))])),
    )
}

/// The key of a cache, as a mount takes it.
pub fn key(cache: &Cache) -> String {
    cache.key.to_public().to_string()
}

/// A server that does what it should.
pub fn plain(cache: &Cache) -> Server {
    Server::new(cache.dir().to_owned(), |_, _| Answer::File)
}

pub fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

fn asked(server: &Server, offer: &Offer) -> [usize; 3] {
    let hash = offer.path().hash();
    [
        server.requests(&format!("/{hash}.narinfo")),
        server.requests(&format!("/{hash}.ls")),
        server.requests(&format!("/{}", offer.info.url)),
    ]
}

/// The NARs of a world that were sent, by store path.
fn sent(server: &Server, world: &World) -> Vec<String> {
    let requests = server.all_requests();
    let mut sent = Vec::new();
    for (path, info) in &world.narinfos {
        let times = requests.get(&format!("/{}", info["URL"])).copied();
        assert!(times.unwrap_or(0) < 2, "{path} was sent {times:?} times");
        sent.extend(times.map(|_| path.clone()));
    }
    sent
}

#[test]
fn a_program_brings_only_what_it_touches_and_stays_when_the_server_is_gone() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| Answer::File);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &world.key(), "");
    assert!(sandbox.listing().is_empty());
    assert!(server.all_requests().is_empty());

    let hello = world.package("hello");
    succeed(
        Command::new("ls")
            .arg("-ld")
            .arg(sandbox.store().join(hello)),
    );
    let hash = &hello[..32];
    for about in ["narinfo", "ls"] {
        assert_eq!(server.requests(&format!("/{hash}.{about}")), 1);
    }
    assert!(sent(&server, world).is_empty());
    assert!(sandbox.listing().is_empty());

    sandbox.bind_to_nix(&sandbox.at);
    let program = format!("/nix/store/{hello}/bin/hello");
    assert_eq!(succeed(&mut Command::new(&program)), "Hello, world!\n");
    let expected = ["hello", "libc6"].map(|p| world.package(p));
    let sent_now: Vec<_> = sent(&server, world);
    let names: Vec<_> = sent_now.iter().map(|p| &p["/nix/store/".len()..]).collect();
    for name in &expected {
        assert!(names.contains(name), "{names:?}");
    }
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(sandbox.listing(), names);
    succeed(
        Command::new("ls")
            .args(["-l", "--color"])
            .arg(sandbox.store()),
    );
    assert_eq!(sent(&server, world), sent_now);
    for (path, times) in server.all_requests() {
        assert_eq!(times, 1, "{path}");
    }
    assert_eq!(sandbox.json(&["verify"])["good"], 2);
    // What `stats` says was fetched is what these NARs have in the binary cache.
    let stored = |path: &str| {
        let narinfo = world.cache().join(format!("{}.narinfo", &path[..32]));
        let text = std::fs::read_to_string(narinfo).unwrap();
        let size = text.lines().find_map(|l| l.strip_prefix("FileSize: "));
        size.unwrap().parse::<u64>().unwrap()
    };
    let expected: u64 = expected.iter().map(|p| stored(p)).sum();
    assert_eq!(sandbox.json(&["stats"])["fetched_bytes"], expected);

    rustix::mount::unmount("/nix", rustix::mount::UnmountFlags::empty()).unwrap();
    sandbox.unmount();
    // Nor does it wait for a source that never answers.
    let silent = Server::new(world.cache(), |_, _| Answer::Stall);
    let refusing = Refusing::new();
    sandbox.mount_from(&[&silent.url, &refusing.url], &world.key(), "");
    sandbox.bind_to_nix(&sandbox.at);
    assert_eq!(succeed(&mut Command::new(&program)), "Hello, world!\n");
    assert!(silent.all_requests().is_empty());
}

#[test]
fn sixty_four_processes_that_touch_one_path_fetch_it_once() {
    let cache = Cache::new();
    let offer = directory("shared", &noise(1, 300_000));
    cache.put(&offer);
    cache.put_listing(&offer, "directory");
    let server = Server::new(cache.dir().to_owned(), |path, _| match path {
        p if p.starts_with("/nar/") => Answer::Slow(3),
        _ => Answer::File,
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    let place = sandbox.store().join(offer.path().base_name()).join("file");
    let mut all = Command::new("bash");
    all.args([
        "-c",
        "for i in {1..64}; do cat \"$0\" | sha256sum & done; wait",
    ]);
    let sums = succeed(all.arg(&place));
    let sum = crate::support::sha256(&noise(1, 300_000));
    assert_eq!(sums.lines().filter(|l| l.starts_with(&sum)).count(), 64);
    assert_eq!(asked(&server, &offer), [1, 1, 1]);
    assert_eq!(sandbox.listing(), [offer.path().base_name()]);
}

#[test]
fn a_fetched_path_appears_in_listings_that_were_cached() {
    let cache = Cache::new();
    let offers: Vec<_> = (0..5).map(|n| directory(&format!("p{n}"), b"x")).collect();
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    for (n, offer) in offers.iter().enumerate() {
        cache.put(offer);
        cache.put_listing(offer, "directory");
        assert_eq!(sandbox.listing().len(), n);
        assert_eq!(sandbox.listing().len(), n);
        let place = sandbox.store().join(offer.path().base_name());
        assert!(fs::symlink_metadata(&place).unwrap().is_dir());
        assert_eq!(sandbox.listing().len(), n);
        assert_eq!(fs::read(place.join("file")).unwrap(), b"x");
        assert!(sandbox.listing().contains(&offer.path().base_name()));
    }
}

/// `file`, `link` or `directory`.
fn kind(place: &Path) -> &'static str {
    let kind = fs::symlink_metadata(place).unwrap().file_type();
    match (kind.is_dir(), kind.is_symlink()) {
        (true, _) => "directory",
        (_, true) => "link",
        _ => "file",
    }
}

#[test]
fn a_root_is_what_it_is_whatever_its_listing_says() {
    let cache = Cache::new();
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let (data, target) = (noise(3, 10_000), "/somewhere");
    let mut offers = Vec::new();
    for hint in ["none", "directory", "regular", "symlink"] {
        let link = Offer::named(&format!("link-{hint}"), nar(&Tree::Link(target)));
        let file = Offer::named(&format!("file-{hint}"), file(&data));
        let directory = directory(&format!("directory-{hint}"), &data);
        for (kind, offer) in [("file", file), ("link", link), ("directory", directory)] {
            cache.put(&offer);
            if hint != "none" {
                cache.put_listing(&offer, hint);
            }
            offers.push((kind, hint, offer));
        }
    }
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for (is, hint, offer) in &offers {
        let place = sandbox.store().join(offer.path().base_name());
        if *hint == "directory" {
            assert_eq!(kind(&place), "directory");
            // Someone looks inside: at the latest then it is seen what it is.
            run(Command::new("ls").arg("-l").arg(place.join("")), b"");
        }
        for _ in 0..2 {
            assert_eq!(kind(&place), *is, "{is}, said to be {hint}");
            let ls = succeed(Command::new("ls").arg("-ld").arg(&place));
            let letter = match *is {
                "file" => "-",
                "link" => "l",
                _ => "d",
            };
            assert!(ls.starts_with(letter), "{is}, said to be {hint}: {ls}");
            match *is {
                "file" => assert_eq!(fs::read(&place).unwrap(), data),
                "link" => assert_eq!(fs::read_link(&place).unwrap(), Path::new(target)),
                _ => assert_eq!(fs::read(place.join("file")).unwrap(), data),
            }
        }
        assert_eq!(asked(&server, offer)[2], 1, "{is}, said to be {hint}");
    }
    assert_eq!(sandbox.listing().len(), offers.len());
    assert_eq!(sandbox.json(&["verify"])["good"], offers.len());
}

#[test]
fn what_is_no_path_is_never_asked_for_and_what_is_absent_once_in_a_while() {
    let cache = Cache::new();
    let offer = directory("here", b"x");
    cache.put(&offer);
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "absent-ttl=3600");
    let look = |name: &str| errno(fs::symlink_metadata(sandbox.store().join(name)));
    for name in [".git", "lost+found", "HEAD", ".trash", "nix-support"] {
        assert_eq!(look(name), Some(libc::ENOENT), "{name}");
    }
    assert!(server.all_requests().is_empty());
    let other = format!("{}-other", offer.path().hash());
    for _ in 0..3 {
        assert_eq!(look(&other), Some(libc::ENOENT));
    }
    assert_eq!(asked(&server, &offer), [1, 0, 0]);

    let absent = directory("absent", b"soon");
    let name = path("absent").base_name();
    for _ in 0..5 {
        assert_eq!(look(&name), Some(libc::ENOENT));
    }
    assert_eq!(asked(&server, &absent)[0], 1);

    let late = directory("late", b"soon");
    let name = path("late").base_name();
    sandbox.unmount();
    sandbox.mount_from(&[&server.url], &key(&cache), "absent-ttl=1");
    wait_until("it is asked for again", || {
        assert_eq!(look(&name), Some(libc::ENOENT));
        asked(&server, &late)[0] > 1
    });
    cache.put(&late);
    wait_until("it is found", || look(&name).is_none());
}

#[test]
fn a_mount_option_that_is_no_number_of_seconds_is_refused() {
    let sandbox = Sandbox::empty();
    let at = sandbox.at.to_str().unwrap();
    for value in ["0", "x", "-1", ""] {
        let option = format!("lookup-timeout={value}");
        let said = sandbox.misuse(&["mount", at, "-o", &option]);
        assert!(said.contains("seconds"), "{said}");
    }
}

#[test]
fn what_a_server_encodes_for_the_way_is_what_it_was() {
    let cache = Cache::new();
    let offer = directory("encoded", &noise(1, 100_000));
    cache.put(&offer);
    cache.put_listing(&offer, "directory");
    let server = Server::new(cache.dir().to_owned(), |_, _| Answer::Encoded);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let place = sandbox.store().join(offer.path().base_name());
    // The listing says that it is a directory, so that the NAR need not come.
    assert_eq!(kind(&place), "directory");
    assert_eq!(asked(&server, &offer), [1, 1, 0]);
    assert!(fs::read(place.join("file")).unwrap() == noise(1, 100_000));
}
