//! A warm file system costs no request: entries, attributes, names that are not there, links,
//! listings and pages stay in the kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Sandbox, World, read_everything, succeed, undisturbed, walk};

/// A store path that nobody has.
const ABSENT: &str = "00000000000000000000000000000000-absent";

fn is_absent(path: &Path) {
    let error = fs::symlink_metadata(path).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::NotFound,
        "{}",
        path.display()
    );
}

/// Names that the loader and interpreters would probe in vain, in every directory of a path.
fn probe(directories: &[PathBuf]) {
    for directory in directories {
        for name in ["absent", "libabsent.so.1", ".so", "absent.pyc", "\u{e4}"] {
            is_absent(&directory.join(name));
        }
    }
}

fn open_and_close(files: &[PathBuf]) {
    for file in files {
        drop(File::open(file).unwrap());
    }
}

#[test]
fn a_second_use_of_everything_costs_no_request() {
    let sandbox = Sandbox::mounted();
    let seen = walk(&sandbox.store());
    let paths = |kind: fn(&fs::Metadata) -> bool| -> Vec<PathBuf> {
        let seen = seen.iter().filter(|s| kind(&s.metadata));
        seen.map(|s| s.path.clone()).collect()
    };
    let directories = paths(fs::Metadata::is_dir);
    // The store itself, which is the first, may get a name at any time.
    let directories = &directories[1..];
    let files = paths(fs::Metadata::is_file);
    let find = || succeed(Command::new("find").arg(&sandbox.at).arg("-ls"));
    let ls = || succeed(Command::new("ls").arg("-lR").arg(&sandbox.at));
    let program = format!("/nix/store/{}/bin/hello", World::small().package("hello"));
    let uses: [(&str, &dyn Fn()); 7] = [
        ("find -ls", &|| drop(find())),
        ("ls -lR", &|| drop(ls())),
        ("reading everything", &|| {
            assert!(read_everything(&sandbox.at) > 0)
        }),
        ("opening and closing every file", &|| open_and_close(&files)),
        ("names that are not there", &|| probe(directories)),
        ("running a program", &|| {
            drop(succeed(&mut Command::new(&program)))
        }),
        ("find, by name", &|| {
            succeed(
                Command::new("find")
                    .arg(&sandbox.at)
                    .args(["-name", "*.so*"]),
            );
        }),
    ];
    sandbox.bind_to_nix(&sandbox.at);
    for (what, use_it) in &uses {
        let cost = sandbox.requests_of_second("", use_it);
        assert_eq!(cost, "", "{what}, the second time, asked the daemon");
    }
}

#[test]
fn a_walk_brings_the_attributes_with_the_listings() {
    let sandbox = Sandbox::mounted();
    let top = sandbox.package(World::small(), "coreutils");
    // The names on the way to the path; nothing for each file.
    let is_little = |cost: &String| {
        let mut operations = cost.split(", ");
        operations.all(|operation| match operation.split_once(' ') {
            Some(("lookup", times)) => times.parse::<u64>().unwrap() <= 3,
            other => other.is_none_or(|(name, _)| name != "getattr"),
        })
    };
    let cost = undisturbed(is_little, || {
        sandbox.unmount();
        sandbox.mount();
        sandbox.requests_of(|| drop(walk(&top)))
    });
    assert!(is_little(&cost) && cost.contains("readdirplus "), "{cost}");
}

#[test]
fn a_name_that_is_not_in_a_path_is_asked_for_once() {
    let sandbox = Sandbox::mounted();
    let bin = sandbox.package(World::small(), "hello").join("bin");
    let names = std::cell::Cell::new(0);
    let cost = undisturbed(
        |cost| cost == "lookup 1",
        || {
            assert!(bin.exists());
            let name = format!("absent-{}", names.replace(names.get() + 1));
            sandbox.requests_of(|| is_absent(&bin.join(name)))
        },
    );
    assert_eq!(cost, "lookup 1");
    let cost = sandbox.requests_of_second("", || is_absent(&bin.join("absent")));
    assert_eq!(cost, "");
}

#[test]
fn a_store_path_that_is_absent_is_asked_for_again() {
    let sandbox = Sandbox::mounted();
    let absent = sandbox.store().join(ABSENT);
    is_absent(&absent);
    for _ in 0..3 {
        let cost = sandbox.requests_of_second("lookup 1", || is_absent(&absent));
        assert_eq!(cost, "lookup 1");
    }
}

#[test]
fn names_that_are_no_store_path_are_never_there() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    let (hash, name) = hello.split_at(32);
    let others = [
        ".git".to_owned(),
        "lost+found".to_owned(),
        hash.to_owned(),
        format!("{hash}-another-name"),
        format!("{hello}.lock"),
        format!("{}{name}", hash.to_uppercase()),
        "trash".to_owned(),
        "x".repeat(255),
    ];
    for name in &others {
        is_absent(&sandbox.store().join(name));
    }
    let too_long = fs::symlink_metadata(sandbox.store().join("x".repeat(256)));
    let error = too_long.unwrap_err().raw_os_error();
    assert_eq!(error, Some(libc::ENAMETOOLONG));
}

#[test]
fn what_is_asked_of_every_file_and_means_nothing_is_asked_once() {
    let sandbox = Sandbox::mounted();
    read_everything(&sandbox.package(World::small(), "hello"));
    read_everything(&sandbox.package(World::small(), "libc6"));
    let requests = sandbox.requests();
    for operation in [
        "open",
        "opendir",
        "flush",
        "release",
        "releasedir",
        "access",
    ] {
        let n = requests.get(operation).copied().unwrap_or(0);
        assert!(n <= 1, "{operation} was asked {n} times");
    }
}
