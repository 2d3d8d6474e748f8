//! Profiles of the commands beside those of real Nix, without a mount.

use std::fs;
use std::process::Command;

use narfs::nix::hash::NarHash;
use narfs::profile::Package;
use serde_json::{Value, json};

use crate::environments::made;
use crate::support::{Sandbox, World, run, succeed};

/// A sandbox without a mount that fetches from the small world.
pub fn sources(world: &World) -> [String; 4] {
    let (url, key) = (world.url(), world.key());
    ["--from".into(), url, "--trusted-public-key".into(), key]
}

/// `narfs profile …` on a profile, with the small world as source.
pub fn profile(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> String {
    succeed(&mut profile_command(sandbox, name, arguments))
}

fn profile_command(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Command {
    let mut command = sandbox.command(&["profile", "-p", name]);
    command.args(arguments);
    if let ["install" | "remove" | "set" | "diff", ..] = arguments {
        command.args(sources(World::small()));
    }
    command
}

fn full(path: &str) -> String {
    format!("/nix/store/{path}")
}

fn history(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    let text = profile(sandbox, name, &["history", "--json"]);
    serde_json::from_str(&text).unwrap()
}

/// What the current generation of a profile points to.
fn current(sandbox: &Sandbox, name: &str) -> String {
    let history = history(sandbox, name);
    let mut current = history.iter().filter(|g| g["current"] == true);
    current.next().unwrap()["path"].as_str().unwrap().to_owned()
}

/// Real Nix, reading a profile that is restored from ours.
fn nix_lists(sandbox: &Sandbox, path: &str) -> String {
    let restored = sandbox.make_dir("restored").join("profile");
    let nar = sandbox.narfs_bytes(&["dump", path]);
    let mut restore = Command::new("nix-store");
    let ran = run(restore.arg("--restore").arg(&restored), &nar);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command"]);
    nix.args(["--store", "dummy://", "profile", "list", "--profile"]);
    let home = sandbox.make_dir("home");
    nix.arg(&restored)
        .env("HOME", &home)
        .env("NIX_CONF_DIR", &home);
    nix.env("NIX_STATE_DIR", home.join("state"));
    succeed(&mut nix)
}

#[test]
fn installed_profiles_are_the_store_paths_that_nix_profile_makes() {
    let made = made();
    let sandbox = Sandbox::empty();
    let world = World::small();
    let ours = ["hello", "bash", "coreutils"];
    for (name, path) in &made.packages {
        if !name.starts_with("random") && !ours.contains(&name.as_str()) {
            let added = sandbox.narfs(&[
                "add".as_ref(),
                "--name".as_ref(),
                name.as_ref(),
                made.on_disk(path).as_os_str(),
            ]);
            assert_eq!(added.trim(), full(&path.to_string()));
        }
    }
    let mut compared = 0;
    let by_profile = made.generations.iter().filter(|(_, is, _)| *is);
    for (generation, _, packages) in by_profile {
        let paths: Vec<_> = packages.iter().map(|p| p.path.to_string()).collect();
        let mut arguments = vec!["install"];
        arguments.extend(paths.iter().map(String::as_str));
        profile(&sandbox, generation, &arguments);
        let expected = full(&made.target(generation).to_string());
        assert_eq!(current(&sandbox, generation), expected, "{generation}");
        compared += 1;
    }
    assert!(compared > 5);
    // Nothing but what was linked was fetched.
    let there = sandbox.json(&["path-info"]);
    let there: Vec<_> = there.as_array().unwrap().iter().collect();
    let is_there = |name| there.iter().any(|p| p["path"] == full(world.package(name)));
    assert!(ours.iter().all(|name| is_there(name)) && !is_there("libc6"));
    let plain = |packages: &[Package]| packages.iter().all(|p| p.priority == 5);
    let failures = made.failures.iter();
    let mut refused = 0;
    for (packages, text) in failures.filter(|(p, text)| plain(p) && !text.is_empty()) {
        let paths: Vec<_> = packages.iter().map(|p| p.path.to_string()).collect();
        let mut arguments = vec!["install"];
        arguments.extend(paths.iter().map(String::as_str));
        let ran = run(&mut profile_command(&sandbox, "refused", &arguments), b"");
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        let complaint = ran.stderr;
        let said = complaint.trim().trim_start_matches("narfs: ");
        let said = said.split("; ").next().unwrap();
        assert!(text.contains(said), "{said} is not in {text}");
        refused += 1;
    }
    assert!(refused > 2, "{refused}");
    sandbox.complaint(&["profile", "-p", "refused", "list"]);
}

#[test]
fn nix_reads_a_profile_of_ours_and_its_hash_is_that_of_its_nar() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let packages = ["hello", "bash"].map(|name| world.package(name));
    profile(&sandbox, "x", &["install", packages[0], packages[1]]);
    let path = current(&sandbox, "x");
    let expected: String = (0..)
        .zip(packages)
        .map(|(index, package)| format!("{index} - - {}\n", full(package)))
        .collect();
    assert_eq!(nix_lists(&sandbox, &path), expected);
    let nar = sandbox.narfs_bytes(&["dump", &path]);
    let info = sandbox.json(&["path-info", &path]).as_array().unwrap()[0].clone();
    assert_eq!(info["narHash"], NarHash::of(&nar).to_sri());
    let mut references = packages.map(full);
    references.sort();
    assert_eq!(info["references"], json!(references));
    assert!(info["ca"].as_str().unwrap().starts_with("fixed:r:sha256:"));
    let listed = profile(&sandbox, "x", &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["version"], 3);
    assert_eq!(
        listed["elements"]["bash"]["storePaths"],
        json!([full(packages[1])])
    );
}

#[test]
fn closures_are_compared_as_nix_compares_them_though_only_their_narinfos_are_fetched() {
    let sandbox = Sandbox::empty();
    let worlds = World::both();
    let paths = [worlds[0].package("hello"), worlds[1].package("coreutils")];
    for (world, path) in worlds.iter().zip(paths) {
        let mut set = sandbox.command(&["profile", "-p", "system", "set", path]);
        succeed(set.args(sources(world)));
    }
    let mut diff = sandbox.command(&["profile", "-p", "system", "diff"]);
    for world in worlds {
        diff.args(sources(world));
    }
    let ours = succeed(&mut diff);
    // Real Nix, on one binary cache with both.
    let both = sandbox.make_dir("both");
    for world in worlds {
        let mut copy = Command::new("cp");
        succeed(copy.arg("-rT").arg(world.cache()).arg(&both));
    }
    let home = sandbox.make_dir("home");
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command", "--store"]);
    nix.arg(format!("file://{}", both.display()));
    nix.args(["store", "diff-closures"]).args(paths.map(full));
    nix.env("HOME", &home).env("NIX_CONF_DIR", &home);
    let theirs = succeed(&mut nix);
    let theirs = theirs
        .replace("\u{1b}[31;1m", "")
        .replace("\u{1b}[32;1m", "");
    let theirs = theirs.replace("\u{1b}[0m", "");
    let expected: String = theirs.lines().map(|line| format!("  {line}\n")).collect();
    assert_eq!(ours, format!("Version 1 → 2:\n{expected}"));
    assert!(expected.lines().count() > 5, "{expected}");
    assert!(
        sandbox.json(&["stats"])["paths"] == 0,
        "contents were fetched"
    );
    // Without any source what is not known is said, not passed over.
    let alone = Sandbox::empty();
    let mut copy = alone.command(&["copy", "--no-recursive", paths[0]]);
    succeed(copy.args(sources(worlds[0])));
    let file = alone.dir().join("config.toml");
    fs::write(&file, "from = []\n").unwrap();
    let mut set = alone.command(&["profile", "set", paths[0]]);
    succeed(set.env("NARFS_CONFIG", &file));
    let mut config = alone.command(&["profile", "diff", "1", "1", "--json"]);
    let ran = run(config.env("NARFS_CONFIG", &file), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("neither the state nor the sources"),
        "{}",
        ran.stderr
    );
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(!report["unknown"].as_array().unwrap().is_empty());
}

#[test]
fn what_is_installed_is_kept_and_a_generation_is_made_only_for_what_is_new() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let [hello, bash] = ["hello", "bash"].map(|name| world.package(name));
    let install = |arguments: &[&str]| {
        let arguments = [&["install"], arguments].concat();
        profile(&sandbox, "x", &arguments)
    };
    let would = install(&[hello, "--dry-run"]);
    assert!(
        would.contains("would install") && would.contains("version 1"),
        "{would}"
    );
    sandbox.complaint(&["profile", "-p", "x", "history"]);
    install(&[hello]);
    let first = current(&sandbox, "x");
    assert!(would.contains(&first), "{would}");
    let said = install(&[&full(hello), &hello[..32]]);
    assert!(
        said.contains("is installed already") && said.contains("stays at version 1"),
        "{said}"
    );
    install(&[bash, hello]);
    let second = current(&sandbox, "x");
    assert_eq!(history(&sandbox, "x").len(), 2);
    assert_eq!(
        profile(&sandbox, "x", &["rollback"]),
        "switching profile from version 2 to 1\n"
    );
    assert_eq!(current(&sandbox, "x"), first);
    // What the highest generation has already is that generation.
    let said = install(&[bash]);
    assert!(
        said.contains("switching profile from version 1 to 2"),
        "{said}"
    );
    assert_eq!(current(&sandbox, "x"), second);
    // Another priority is another environment, and version 2 of manifests has room for it.
    install(&[bash, "--priority", "-1"]);
    let listed: Value = serde_json::from_str(&profile(&sandbox, "x", &["list", "--json"])).unwrap();
    assert_eq!(listed["elements"]["bash"]["priority"], -1);
    assert_eq!(listed["elements"]["hello"]["priority"], 5);
    let said = profile(&sandbox, "x", &["remove", "hello", &bash[33..]]);
    assert!(said.contains(hello) && said.contains(bash), "{said}");
    assert_eq!(profile(&sandbox, "x", &["list"]), "");
    let by_hand = profile(
        &sandbox,
        "x",
        &["delete-generations", "2", "1", "--dry-run"],
    );
    assert_eq!(
        by_hand,
        "would remove profile version 1\nwould remove profile version 2\n"
    );
    assert_eq!(history(&sandbox, "x").len(), 4);
    let old = profile(&sandbox, "x", &["delete-generations", "old"]);
    assert_eq!(old.lines().count(), 3);
    assert_eq!(history(&sandbox, "x").len(), 1);
    let lines = profile(&sandbox, "x", &["history"]);
    assert!(
        lines.starts_with("   4   20") && lines.ends_with("   (current)\n"),
        "{lines}"
    );
}

#[test]
fn what_generations_point_to_is_not_dropped() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let [hello, bash] = ["hello", "bash"].map(|name| world.package(name));
    profile(&sandbox, "x", &["install", hello, "--prefetch"]);
    sandbox.copy(world, bash);
    let dropped = || {
        let mut evict = sandbox.command(&["evict", "--to", "0", "--json"]);
        let ran = run(&mut evict, b"");
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        let paths = report["paths"].as_array().unwrap().iter();
        paths
            .map(|p| p.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let first = dropped();
    let libc = full(world.package("libc6"));
    assert!(first.contains(&full(bash)), "{first:?}");
    assert!(
        !first.contains(&full(hello)) && !first.contains(&libc),
        "{first:?}"
    );
    profile(&sandbox, "x", &["remove", "hello"]);
    assert_eq!(
        dropped(),
        Vec::<String>::new(),
        "the generation before is a root too"
    );
    profile(&sandbox, "x", &["delete-generations", "old"]);
    let last = dropped();
    assert!(
        last.contains(&full(hello)) && last.contains(&libc),
        "{last:?}"
    );
}

#[test]
fn a_file_makes_profiles_what_it_declares_and_does_so_once() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let [hello, bash, coreutils] = ["hello", "bash", "coreutils"].map(|name| world.package(name));
    let file = sandbox.dir().join("profiles.toml");
    let apply = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        let mut command = sandbox.command(&["apply", file.to_str().unwrap()]);
        run(command.args(sources(world)).args(more), b"")
    };
    let two = format!(
        "[profile.default]\npackages = [\"{hello}\", {{ path = \"{bash}\", priority = 4 }}]\n\
         [profile.\"per-user/ann/profile\"]\nset = \"/nix/store/{coreutils}\"\n"
    );
    let planned = apply(&two, &["--dry-run"]);
    assert_eq!(planned.code, Some(0), "{}", planned.stderr);
    sandbox.complaint(&["profile", "list"]);
    let applied = apply(&two, &["--json"]);
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    let reports: Value = serde_json::from_slice(&applied.stdout).unwrap();
    assert_eq!(reports[0]["outcome"], "created");
    assert_eq!(reports[1]["outcome"], "created");
    let planned = String::from_utf8(planned.stdout).unwrap();
    assert!(
        planned.contains(reports[0]["path"].as_str().unwrap()),
        "{planned}"
    );
    assert_eq!(current(&sandbox, "per-user/ann/profile"), full(coreutils));
    let listed = sandbox.json(&["profile", "list"]);
    assert_eq!(listed["elements"]["bash"]["priority"], 4);
    let again = apply(&two, &["--json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(
        again
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["outcome"] == "unchanged")
    );
    assert_eq!(history(&sandbox, "default").len(), 1);
    // One that cannot be had keeps all of them from being switched.
    let bad = "[profile.default]\npackages = []\n\
         [profile.other]\nset = \"00000000000000000000000000000000-gone\"\n";
    let failed = apply(bad, &[]);
    assert_eq!(failed.code, Some(1));
    assert!(
        failed.stderr.contains("-gone is in none of the sources"),
        "{}",
        failed.stderr
    );
    assert_eq!(history(&sandbox, "default").len(), 1);
    sandbox.complaint(&["profile", "-p", "other", "list"]);
    // What is not named is left alone.
    let one = apply("[profile.default]\npackages = []\n", &[]);
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    assert_eq!(history(&sandbox, "default").len(), 2);
    assert_eq!(history(&sandbox, "per-user/ann/profile").len(), 1);
}

#[test]
fn all_profiles_are_named_and_one_is_deleted_whole_only_by_its_very_name() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let [hello, bash] = ["hello", "bash"].map(|name| world.package(name));
    profile(&sandbox, "default", &["install", hello]);
    assert_eq!(sandbox.narfs(&["profiles"]).lines().count(), 1);
    profile(&sandbox, "default", &["install", bash]);
    profile(&sandbox, "default", &["rollback"]);
    profile(&sandbox, "per-user/ann/profile", &["set", bash]);
    let listed = sandbox.narfs(&["profiles"]);
    let expected = format!(
        "default   generation 1, of 2   {}\nper-user/ann/profile   generation 1   {}\n",
        current(&sandbox, "default"),
        full(bash)
    );
    assert_eq!(listed, expected);
    let listed = sandbox.json(&["profiles"]);
    assert_eq!(listed[0]["profile"], "default");
    assert_eq!(listed[0]["generation"], 1);
    assert_eq!(listed[0]["generations"], 2);
    assert_eq!(listed[1]["path"], full(bash));

    // A typo, no name, and two names delete nothing.
    let complaint = sandbox.complaint(&["profile", "delete", "defualt"]);
    assert!(complaint.contains("no profile 'defualt'"), "{complaint}");
    assert!(complaint.contains("default, per-user/ann"), "{complaint}");
    let nameless = run(&mut sandbox.command(&["profile", "delete"]), b"");
    assert_eq!(nameless.code, Some(2), "{}", nameless.stderr);
    let misuse = ["profile", "-p", "default", "delete", "per-user/ann/profile"];
    sandbox.misuse(&misuse);
    let would = sandbox.narfs(&["profile", "delete", "default", "--dry-run"]);
    assert_eq!(
        would,
        "would remove profile version 1\nwould remove profile version 2\n\
         would delete profile 'default'\n"
    );
    assert_eq!(history(&sandbox, "default").len(), 2);

    let path = "/nix/var/nix/profiles/per-user/ann/profile";
    let said = sandbox.narfs(&["profile", "delete", path]);
    assert!(said.ends_with("deleted profile 'per-user/ann/profile'\n"));
    let report = sandbox.json(&["profile", "delete", "default"]);
    assert_eq!(report["outcome"], "deleted");
    assert_eq!(report["deleted"], json!([1, 2]));
    assert_eq!(report["path"], Value::Null);
    assert_eq!(sandbox.json(&["profiles"]), json!([]));
    assert_eq!(sandbox.json(&["roots"]), json!([]));
    sandbox.complaint(&["profile", "delete", "default"]);
    // The next one begins anew.
    profile(&sandbox, "default", &["install", bash]);
    assert_eq!(history(&sandbox, "default")[0]["generation"], 1);
}

#[test]
fn a_collection_deletes_the_old_generations_of_all_profiles_first_if_it_is_told_to() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let [hello, bash] = ["hello", "bash"].map(|name| world.package(name));
    profile(&sandbox, "x", &["install", hello]);
    profile(&sandbox, "x", &["install", bash]);
    profile(&sandbox, "x", &["remove", "hello"]);
    profile(&sandbox, "y", &["set", hello]);
    profile(&sandbox, "y", &["set", bash]);
    profile(&sandbox, "y", &["rollback"]);
    let kept = [current(&sandbox, "x"), full(bash), full(hello)];
    let misuse = ["gc", "-d", "--delete-older-than", "3d"];
    assert_eq!(run(&mut sandbox.command(&misuse), b"").code, Some(2));
    let would = sandbox.narfs(&["gc", "--delete-old", "--dry-run"]);
    let planned = would.lines().filter(|l| l.starts_with("would remove"));
    let planned: Vec<_> = planned.collect();
    let expected = ["1", "2", "2"].map(|n| format!("would remove profile version {n}"));
    assert_eq!(planned, expected, "{would}");
    assert_eq!(history(&sandbox, "x").len(), 3);
    let report = sandbox.json(&["gc", "-d"]);
    let expected = json!([
        { "profile": "x", "generation": 1 },
        { "profile": "x", "generation": 2 },
        // What is newer than the current one is old too, as to nix-collect-garbage.
        { "profile": "y", "generation": 2 },
    ]);
    assert_eq!(report["generations"], expected);
    assert_eq!(report["paths"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(history(&sandbox, "x").len(), 1);
    assert_eq!(current(&sandbox, "y"), full(hello));
    let there = sandbox.json(&["path-info"]);
    for path in kept {
        let mut there = there.as_array().unwrap().iter();
        assert!(there.any(|info| info["path"] == path), "{path}");
    }
    assert_eq!(sandbox.json(&["gc", "-d"])["generations"], json!([]));
}

#[test]
fn what_is_pinned_is_unpinned_by_the_name_of_its_package() {
    let sandbox = Sandbox::empty();
    let worlds = World::both();
    let hello = worlds.map(|world| world.package("hello"));
    let bash = worlds[0].package("bash");
    let pin = |world: &World, path: &str| {
        let mut pin = sandbox.command(&["pin", "--no-recursive", path]);
        succeed(pin.args(sources(world)));
    };
    pin(worlds[0], hello[0]);
    pin(worlds[0], bash);
    let name = &hello[0][33..];
    assert_eq!(
        sandbox.narfs(&["unpin", name]),
        format!("unpinned {}\n", full(hello[0]))
    );
    pin(worlds[0], hello[0]);
    pin(worlds[1], hello[1]);
    let complaint = sandbox.complaint(&["unpin", "bash", "hello"]);
    for path in hello {
        assert!(complaint.contains(&full(path)), "{complaint}");
    }
    assert_eq!(sandbox.json(&["pins"]).as_array().unwrap().len(), 3);
    sandbox.narfs(&["unpin", hello[1]]);
    let said = sandbox.narfs(&["unpin", "hello", "bash"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    let complaint = run(&mut sandbox.command(&["unpin", "hello"]), b"");
    assert_eq!(complaint.code, Some(1));
    assert!(
        complaint.stderr.contains("not pinned"),
        "{}",
        complaint.stderr
    );
}

#[test]
fn a_link_out_of_the_store_is_left_out_whatever_this_machine_has_there() {
    let sandbox = Sandbox::empty();
    let tree = sandbox.make_dir("package/bin");
    fs::write(tree.join("tool"), "tool\n").unwrap();
    std::os::unix::fs::symlink("/bin/sh", tree.with_file_name("shell")).unwrap();
    assert!(fs::metadata("/bin/sh").is_ok());
    let package = sandbox.add(tree.parent().unwrap());
    let mut install = sandbox.command(&["profile", "install", &package, "--json"]);
    let report: Value = serde_json::from_str(&succeed(&mut install)).unwrap();
    let warning = format!(
        "skipping dangling symlink 'shell' (of '{}/shell')",
        full(&package)
    );
    assert_eq!(report["warnings"], json!([warning]));
    let path = current(&sandbox, "default");
    assert_eq!(sandbox.narfs(&["ls", &path]), "bin\nmanifest.json\n");
    let bin = sandbox.json(&["ls", &path]);
    assert_eq!(bin[0]["target"], format!("{}/bin", full(&package)));
}
