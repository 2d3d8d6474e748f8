//! Registrations for the database of a real Nix.

use std::collections::BTreeSet;

use crate::binary_cache::{Cache, noise};
use crate::on_demand::{SHORT, directory, key, plain};
use crate::support::{Sandbox, World, database_dump, load, nix_store, run, succeed};

/// The records of a dump, each as its lines, in no order.
fn records(dump: &str) -> BTreeSet<Vec<&str>> {
    let mut records = BTreeSet::new();
    let mut lines = dump.lines();
    while let Some(path) = lines.next() {
        let mut record = vec![path];
        record.extend(lines.by_ref().take(4));
        let references = record.last().and_then(|n| n.parse().ok());
        record.extend(
            lines
                .by_ref()
                .take(references.expect("a number of references")),
        );
        records.insert(record);
    }
    records
}

#[test]
fn all_registrations_are_those_of_nix_and_verify_over_the_mount() {
    let sandbox = Sandbox::mounted();
    let dump = sandbox.narfs(&["nix-db", "--all"]);
    let expected = database_dump(&World::both());
    assert_eq!(records(&dump), records(&expected));

    let outside = sandbox.nix_that_knows_nothing();
    load(&outside, &dump);
    let verify = ["--verify", "--check-contents"];
    let verified = run(nix_store(&outside).args(verify), b"");
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    assert!(!verified.stderr.contains("modified"), "{}", verified.stderr);
}

#[test]
fn a_closure_is_registered_from_narinfos_alone() {
    let world = World::small();
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&world.url()], &world.key(), "");
    let hello = format!("/nix/store/{}", world.package("hello"));
    let dump = sandbox.narfs(&["nix-db", &hello]);
    assert_eq!(
        sandbox.json(&["stats"])["paths"],
        0,
        "contents were fetched"
    );
    let outside = sandbox.nix_that_knows_nothing();
    load(&outside, &dump);

    let closure = succeed(nix_store(&outside).args(["-qR", &hello]));
    assert!(closure.lines().count() > 1);
    for path in closure.lines() {
        let hash = succeed(nix_store(&outside).args(["-q", "--hash", path]));
        let expected = &world.nar_hashes[path];
        let said = succeed(
            std::process::Command::new("nix-hash")
                .args(["--type", "sha256", "--to-base16"])
                .arg(hash.trim()),
        );
        assert_eq!(said.trim(), expected, "{path}");
    }
    let verified = run(nix_store(&outside).args(["--verify-path", &hello]), b"");
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
}

#[test]
fn a_profile_is_registered_with_what_it_needs() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    sandbox.narfs(&["profile", "install", hello]);
    let profiles = sandbox.json(&["profile", "history"]);
    let path = profiles[0]["path"].as_str().unwrap().to_owned();
    let outside = sandbox.nix_that_knows_nothing();
    load(&outside, &sandbox.narfs(&["nix-db", &path]));
    let closure = succeed(nix_store(&outside).args(["-qR", &path]));
    assert!(closure.contains(hello), "{closure}");
    let verified = run(nix_store(&outside).args(["--verify-path", &path]), b"");
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
}

#[test]
fn what_refers_to_something_unknown_is_left_out_of_all_and_an_error_by_name() {
    let cache = Cache::new();
    let unknown = directory("unknown", &noise(1, 3000));
    let lower = directory("lower", &noise(2, 3000)).referring(&[unknown.path()]);
    let upper = directory("upper", &noise(3, 3000)).referring(&[lower.path()]);
    let whole = directory("whole", &noise(4, 3000));
    for offer in [&lower, &upper, &whole] {
        cache.put(offer);
    }
    let sandbox = Sandbox::empty();
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for offer in [&lower, &upper, &whole] {
        std::fs::read(sandbox.store().join(offer.path().base_name()).join("file")).unwrap();
    }
    let ran = run(&mut sandbox.command(&["nix-db", "--all"]), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let dump = String::from_utf8(ran.stdout).unwrap();
    let written: Vec<_> = records(&dump)
        .into_iter()
        .map(|r| r[0].to_owned())
        .collect();
    assert_eq!(written, [format!("/nix/store/{}", whole.path())]);
    assert!(
        ran.stderr.contains("2 of the known paths"),
        "{}",
        ran.stderr
    );

    let ran = run(
        &mut sandbox.command(&["nix-db", &upper.path().to_string()]),
        b"",
    );
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.is_empty());
    assert!(
        ran.stderr.contains(&unknown.path().to_string()),
        "{}",
        ran.stderr
    );
}
