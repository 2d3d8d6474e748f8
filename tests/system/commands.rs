//! Commands while the state is mounted: they go to the daemon and mean the same.

use std::fs;

use crate::support::{Sandbox, World, run};

#[test]
fn commands_say_the_same_by_the_daemon_and_without() {
    let bash = format!("/nix/store/{}", World::small().package("bash"));
    let program = format!("{bash}/bin/bash");
    let sandbox = Sandbox::mounted();
    let commands: [&[&str]; 9] = [
        &["path-info", "--closure", "--size", &bash],
        &["path-info", "--json"],
        &["ls", "-lR", &bash],
        &["ls", "--json", "-R", &bash],
        &["cat", &program],
        &["dump", &bash],
        &["dump", &program],
        &["debug", "tree", &bash],
        &["debug", "tree", "--json", &bash],
    ];
    let by_daemon = commands.map(|c| sandbox.narfs_bytes(c));
    let mounted = sandbox.package(World::small(), "bash").join("bin/bash");
    assert!(by_daemon[4] == fs::read(mounted).unwrap());
    sandbox.unmount();
    let without = commands.map(|c| sandbox.narfs_bytes(c));
    for ((command, a), b) in commands.iter().zip(&by_daemon).zip(&without) {
        assert!(a == b, "{command:?}");
        assert!(!a.is_empty(), "{command:?}");
    }
}

#[test]
fn statistics_have_the_requests_of_a_running_daemon_only() {
    let sandbox = Sandbox::mounted();
    fs::metadata(sandbox.package(World::small(), "hello")).unwrap();
    let mounted = sandbox.json(&["stats"]);
    assert!(
        mounted["requests"]["lookup"].as_u64().unwrap() > 0,
        "{mounted}"
    );
    assert!(mounted["requests"].get("forget").is_none());
    assert_eq!(mounted["fetched_bytes"], 0);
    sandbox.unmount();
    let alone = sandbox.json(&["stats"]);
    assert!(alone.get("requests").is_none(), "{alone}");
    for count in [
        "nar_bytes",
        "unique_bytes",
        "stored_bytes",
        "paths",
        "files",
        "chunks",
    ] {
        assert_eq!(mounted[count], alone[count], "{count}");
        assert!(alone[count].as_u64().unwrap() > 0, "{count}");
    }
}

#[test]
fn what_the_daemon_fetches_is_counted() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    sandbox.copy(World::small(), World::small().package("hello"));
    let stats = sandbox.json(&["stats"]);
    assert!(
        stats["fetched_bytes"].as_u64().unwrap() > 100_000,
        "{stats}"
    );
}

#[test]
fn commands_that_change_the_state_go_to_the_daemon() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let world = World::small();
    let hello = world.package("hello");
    let (url, key) = (world.url(), world.key());
    let copy = ["copy", "--from", &url, "--trusted-public-key", &key, hello];
    let report = sandbox.json(&copy);
    assert!(report["copied"].as_u64().unwrap() > 1, "{report}");
    let report = sandbox.json(&copy);
    assert_eq!(report["copied"], 0, "{report}");
    assert!(report["already"].as_u64().unwrap() > 0, "{report}");
    let file = sandbox.dir().join("file");
    fs::write(&file, "contents").unwrap();
    let added = sandbox.add(&file);
    assert_eq!(sandbox.narfs(&["cat", &added]), "contents");
    let verified = sandbox.json(&["verify", hello, &added]);
    assert_eq!(verified["good"], 2, "{verified}");
    let listed = sandbox.narfs(&["path-info"]);
    assert!(listed.contains(&added) && listed.contains(hello));
}

#[test]
fn relative_places_mean_the_callers_directory() {
    let sandbox = Sandbox::empty();
    sandbox.mount();
    let dir = sandbox.make_dir("work");
    fs::write(dir.join("here"), "from here").unwrap();
    let ran = run(sandbox.command(&["add", "here"]).current_dir(&dir), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let path = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(sandbox.narfs(&["cat", path.trim()]), "from here");
}

#[test]
fn mistakes_are_told_in_one_line_by_the_daemon_too() {
    let sandbox = Sandbox::mounted();
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let hello = format!("/nix/store/{}", World::small().package("hello"));
    let nothing = format!("{hello}/bin/nothing");
    let directory = format!("{hello}/bin");
    let mistakes: [&[&str]; 7] = [
        &["path-info", absent],
        &["ls", absent],
        &["dump", absent],
        &["cat", &nothing],
        &["cat", &directory],
        &["ls", &nothing],
        &["verify", "no path"],
    ];
    let by_daemon = mistakes.map(|m| sandbox.complaint(m));
    sandbox.unmount();
    let without = mistakes.map(|m| sandbox.complaint(m));
    assert_eq!(by_daemon, without);
}

#[test]
fn a_reader_that_goes_away_does_not_harm_the_daemon() {
    let sandbox = Sandbox::mounted();
    let coreutils = format!("/nix/store/{}", World::small().package("coreutils"));
    for _ in 0..5 {
        let mut dump = sandbox.command(&["dump", &coreutils]);
        let mut child = dump.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut first = [0; 100];
        let mut stdout = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
        drop(stdout);
        child.wait().unwrap();
    }
    assert_eq!(sandbox.json(&["status"])["fetches"], serde_json::json!([]));
    assert!(sandbox.package(World::small(), "hello").exists());
}
