//! What first uses cost: requests of the kernel, as the daemon counts them, and requests at a binary cache.
//! The budgets are bounds: where the kernel merges requests, it may need fewer.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::binary_cache::noise;
use crate::server::{Answer, Server};
use crate::support::{Sandbox, Seen, World, succeed, undisturbed, walk};

type Requests = BTreeMap<String, u64>;

/// Bytes that the kernel reads ahead in a file on FUSE.
const READ_AHEAD: u64 = 128 << 10;
/// Entries that fit into the smallest listing that a kernel asks for, a page, where names are not long.
const LISTED_AT_ONCE: usize = 16;
/// Operations that are answered with ENOSYS, once for a mount.
const ONCE: [&str; 8] = [
    "access",
    "flush",
    "getxattr",
    "listxattr",
    "open",
    "opendir",
    "release",
    "releasedir",
];

fn is_within(cost: &Requests, budget: &[(&str, u64)]) -> bool {
    cost.iter().all(|(operation, times)| {
        let allowed = budget.iter().find(|(name, _)| name == operation);
        let once = u64::from(ONCE.contains(&operation.as_str()));
        *times <= allowed.map_or(once, |(_, times)| *times)
    })
}

/// What something costs for which the kernel has nothing in its caches, after `before`.
fn of_cold_after(
    sandbox: &Sandbox,
    budget: &[(&str, u64)],
    before: impl Fn(),
    action: impl Fn(),
) -> Requests {
    let measure = || {
        sandbox.unmount();
        sandbox.mount();
        before();
        let already = sandbox.requests();
        action();
        let mut cost = sandbox.requests();
        for (operation, times) in already {
            *cost.get_mut(&operation).unwrap() -= times;
        }
        cost.retain(|_, times| *times > 0);
        cost
    };
    let cost = undisturbed(|cost| is_within(cost, budget), measure);
    assert!(is_within(&cost, budget), "{cost:?} of {budget:?}");
    cost
}

fn of_cold(sandbox: &Sandbox, budget: &[(&str, u64)], action: impl Fn()) -> Requests {
    of_cold_after(sandbox, budget, || {}, action)
}

fn count(seen: &[Seen], kind: fn(&Metadata) -> bool) -> u64 {
    seen.iter().filter(|s| kind(&s.metadata)).count() as u64
}

/// Listings of these: for each directory what is in it and that there is no more, and for longer ones more.
fn listings(seen: &[Seen]) -> u64 {
    2 * count(seen, Metadata::is_dir) + (seen.len() / LISTED_AT_ONCE) as u64
}

#[test]
fn a_cold_find_asks_for_listings_and_for_nothing_in_them() {
    let sandbox = Sandbox::mounted();
    let seen = walk(&sandbox.store());
    // And, since it shows them, for targets.
    let links = count(&seen, Metadata::is_symlink);
    let budget = [
        ("readdirplus", listings(&seen)),
        ("readlink", links),
        ("lookup", 1),
    ];
    let cost = of_cold(&sandbox, &budget, || {
        succeed(
            Command::new("find")
                .arg(sandbox.store())
                .arg("-ls")
                .env("LC_ALL", "C"),
        );
    });
    assert!(
        cost["readdirplus"] > count(&seen, Metadata::is_dir),
        "{cost:?}"
    );
}

#[test]
fn a_small_file_costs_one_request_once_it_was_listed() {
    let sandbox = Sandbox::mounted();
    let package = sandbox.package(World::small(), "coreutils");
    let seen = walk(&package);
    let is_small = |s: &&Seen| s.metadata.is_file() && s.metadata.len() <= READ_AHEAD;
    let files: Vec<_> = seen.iter().filter(is_small).collect();
    let not_empty = files.iter().filter(|s| s.metadata.len() > 0).count() as u64;
    let of_cold = of_cold_after(
        &sandbox,
        &[("read", not_empty)],
        || drop(walk(&package)),
        || {
            for file in &files {
                let read = fs::read(&file.path).unwrap();
                assert_eq!(read.len() as u64, file.metadata.len());
            }
        },
    );
    assert_eq!(of_cold["read"], not_empty);
}

/// A mount with a path of one large file, of which the kernel has nothing.
fn with_large_file(length: u64) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::empty();
    let tree = sandbox.dir().join("large");
    fs::write(&tree, noise(1, length as usize)).unwrap();
    let path = sandbox.add(&tree);
    sandbox.mount();
    let path = sandbox.store().join(path.rsplit('/').next().unwrap());
    (sandbox, path)
}

#[test]
fn a_sequential_read_asks_for_each_byte_once_in_large_parts() {
    const LENGTH: u64 = 8 << 20;
    let (sandbox, path) = with_large_file(LENGTH);
    // One more than its parts, should the first be cut.
    let budget = [("read", LENGTH / READ_AHEAD + 1), ("lookup", 2)];
    of_cold(&sandbox, &budget, || {
        let mut file = File::open(&path).unwrap();
        let mut part = vec![0; READ_AHEAD as usize];
        while file.read(&mut part).unwrap() > 0 {}
    });
}

#[test]
fn a_random_read_costs_one_request() {
    const LENGTH: u64 = 8 << 20;
    const READS: u64 = 50;
    let (sandbox, path) = with_large_file(LENGTH);
    let budget = [("read", READS), ("lookup", 2)];
    of_cold(&sandbox, &budget, || {
        let file = File::open(&path).unwrap();
        let mut part = [0; 4096];
        for n in 0..READS {
            // Far from each other, backwards.
            let at = LENGTH - (n + 1) * (LENGTH / READS / 4096 * 4096);
            file.read_exact_at(&mut part, at).unwrap();
        }
    });
}

#[test]
fn ls_l_of_a_profile_costs_one_request_for_each_link() {
    let sandbox = Sandbox::with_worlds();
    for package in ["coreutils", "bash"] {
        let path = World::small().package(package);
        sandbox.narfs(&["profile", "-p", "p", "install", path]);
    }
    sandbox.mount();
    let profiles = sandbox.at.join("var/nix/profiles");
    let bin = || {
        let generation = fs::read_link(profiles.join("p")).unwrap();
        let environment = fs::read_link(profiles.join(generation)).unwrap();
        let environment = environment.file_name().unwrap();
        sandbox.store().join(environment).join("bin")
    };
    let links = fs::read_dir(bin()).unwrap().count();
    assert!(links > 50);
    // The link of the profile and that of its generation, and the names on the way to both and to the
    // environment.
    let budget = [
        ("readlink", links as u64 + 2),
        ("lookup", 10),
        ("readdirplus", 2 + (links / LISTED_AT_ONCE) as u64),
    ];
    let cost = of_cold(&sandbox, &budget, || {
        succeed(Command::new("ls").arg("-l").arg(bin()));
    });
    assert!(cost["readlink"] >= links as u64, "{cost:?}");
}

#[test]
fn the_first_use_of_a_program_asks_once_for_what_it_needs() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| Answer::File);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &world.key(), "");
    sandbox.bind_to_nix(&sandbox.at);
    let program = format!("/nix/store/{}/bin/hello", world.package("hello"));
    assert_eq!(succeed(&mut Command::new(&program)), "Hello, world!\n");
    let requests = server.all_requests();
    // The program and its C library, and the narinfo of what that refers to.
    for (kind, most) in [("/nar/", 2), (".narinfo", 3), (".ls", 2), ("", 8)] {
        let times = requests.iter().filter(|(path, _)| path.contains(kind));
        let times: usize = times.map(|(_, times)| times).sum();
        assert!(times <= most, "{times} times {kind:?}: {requests:?}");
    }
}
