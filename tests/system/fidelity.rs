//! What comes out is what real Nix put in, for every path of the world and of its rebuild.

use std::fs;
use std::process::Command;

use crate::support::{Sandbox, World, nix_store, run, sha256, succeed};

#[test]
fn every_path_has_its_nar_hash_from_the_mount_and_by_command() {
    let sandbox = Sandbox::mounted();
    for (path, expected) in World::both().iter().flat_map(|w| &w.nar_hashes) {
        let dumped = sandbox.narfs_bytes(&["dump", path]);
        assert_eq!(sha256(&dumped), *expected, "narfs dump {path}");
        let name = path.trim_start_matches("/nix/store/");
        let mounted = sandbox.store().join(name);
        let ran = run(Command::new("nix-store").arg("--dump").arg(&mounted), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(sha256(&ran.stdout), *expected, "nix-store --dump {path}");
        assert!(ran.stdout == dumped, "{path}");
    }
}

#[test]
fn every_path_is_the_same_as_what_nix_restores_from_its_nar() {
    let sandbox = Sandbox::mounted();
    for path in World::all_paths() {
        let name = path.trim_start_matches("/nix/store/");
        let restored = sandbox.make_dir("restored").join(name);
        let nar = sandbox.narfs_bytes(&["dump", path]);
        let ran = run(
            Command::new("nix-store").arg("--restore").arg(&restored),
            &nar,
        );
        assert_eq!(ran.code, Some(0), "{path}: {}", ran.stderr);
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference"]);
        let found = run(diff.arg(&restored).arg(sandbox.store().join(name)), b"");
        assert_eq!(found.code, Some(0), "{}", found.stderr);
        assert!(found.stdout.is_empty());
        fs::remove_dir_all(&restored).unwrap();
    }
}

#[test]
fn nix_verifies_the_mounted_store_against_its_own_database() {
    let sandbox = Sandbox::mounted();
    let outside = sandbox.real_nix();
    let verify = ["--verify", "--check-contents"];
    let verified = run(nix_store(&outside).args(verify), b"");
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
    for bad in ["modified", "disappeared", "error", "warning"] {
        assert!(!verified.stderr.contains(bad), "{}", verified.stderr);
    }

    let hello = format!("/nix/store/{}", World::small().package("hello"));
    let closure = succeed(nix_store(&outside).args(["-qR", &hello]));
    let ours = sandbox.narfs(&["path-info", "--closure", &hello]);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&closure), sorted(&ours));
}

#[test]
fn narfs_verifies_the_state_that_it_serves() {
    let sandbox = Sandbox::mounted();
    let report = sandbox.json(&["verify"]);
    let paths = World::all_paths().len();
    assert_eq!(report["good"], paths);
    assert_eq!(report["failures"], serde_json::json!([]));
}
