//! A mount of a state whose database was lost and made anew.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::{Sandbox, World, read_everything, run};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Where a link below the profiles leads to, and its inode number.
fn links(sandbox: &Sandbox) -> Vec<(PathBuf, u64)> {
    let profiles = sandbox.at.join("var/nix/profiles");
    let links = names(&profiles)
        .into_iter()
        .filter(|n| n.contains("-link") || n == "env");
    let each = links.map(|name| {
        let link = profiles.join(name);
        let number = fs::symlink_metadata(&link).unwrap().ino();
        (fs::read_link(link).unwrap(), number)
    });
    each.collect()
}

/// What a profile leads to, in the mount.
fn environment(sandbox: &Sandbox) -> PathBuf {
    let profiles = sandbox.at.join("var/nix/profiles");
    let link = fs::read_link(profiles.join("env")).unwrap();
    let target = fs::read_link(profiles.join(link)).unwrap();
    sandbox.store().join(target.file_name().unwrap())
}

fn number(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn everything_is_shown_again_after_the_database_was_lost() {
    let world = World::small();
    let (url, key) = (world.url(), world.key());
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&url], &key, "");
    let [hello, bash, coreutils] = ["hello", "bash", "coreutils"].map(|n| world.package(n));
    sandbox.narfs(&["profile", "-p", "env", "install", hello]);
    sandbox.narfs(&["profile", "-p", "env", "install", bash]);
    sandbox.narfs(&["pin", coreutils]);
    sandbox.narfs(&["closure", "app", hello, "--profile", "env"]);
    let link = sandbox.dir().join("root");
    sandbox.narfs(&["add-root", link.to_str().unwrap(), bash]);
    let view = sandbox.at.join(".narfs/closures/app/store");
    let seen = |sandbox: &Sandbox| {
        let packages = ["hello", "bash", "coreutils"];
        let packages = packages.map(|name| sandbox.package(world, name));
        (
            links(sandbox),
            names(&view),
            packages.each_ref().map(|p| number(p)),
            names(&environment(sandbox)),
            sandbox.json(&["pins"])[0]["path"].clone(),
            sandbox.json(&["profile", "-p", "env", "history"]),
        )
    };
    let before = seen(&sandbox);
    sandbox.unmount();
    fs::remove_dir_all(sandbox.state.join("db")).unwrap();

    let at = sandbox.at.to_str().unwrap();
    for arguments in [&["pins"][..], &["mount", at, "--offline"]] {
        let said = sandbox.complaint(arguments);
        assert!(said.contains("narfs verify --repair"), "{said}");
    }
    let repair = [
        "verify",
        "--repair",
        "--from",
        &url,
        "--trusted-public-key",
        &key,
    ];
    let ran = run(&mut sandbox.command(&repair), b"");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // What is pinned is here without a source.
    sandbox.mount();
    read_everything(&sandbox.package(world, "coreutils"));
    assert_eq!(sandbox.json(&["pins"])[0]["missing"], 0);
    sandbox.unmount();

    sandbox.mount_from(&[&url], &key, "");
    assert_eq!(seen(&sandbox), before);
    for name in names(&view) {
        read_everything(&view.join(name));
    }
    let env = sandbox.at.join("var/nix/profiles/env");
    sandbox.narfs(&["profile", "-p", "env", "rollback"]);
    assert_eq!(fs::read_link(&env).unwrap(), Path::new("env-1-link"));
    assert!(!names(&environment(&sandbox)).is_empty());
    sandbox.narfs(&["profile", "-p", "env", "switch", "2"]);
    let roots = sandbox.json(&["roots"]).to_string();
    assert!(roots.contains(link.to_str().unwrap()), "{roots}");
    let report = sandbox.json(&["verify"]);
    assert_eq!(report["failures"].as_array().unwrap().len(), 0, "{report}");
}

#[test]
fn a_mount_that_runs_is_not_touched_by_a_repair() {
    let sandbox = Sandbox::with_worlds();
    sandbox.mount();
    let current = sandbox.state.join("db/CURRENT");
    let before = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    run(&mut sandbox.command(&["verify", "--repair"]), b"");
    assert!(!sandbox.state.join("damaged-db").exists() && sandbox.is_served());
    read_everything(&sandbox.package(World::small(), "hello"));
    fs::write(&current, before).unwrap();
    sandbox.unmount();
}
