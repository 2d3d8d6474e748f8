//! What the configuration file means to a mount.

use std::fs;

use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, run, succeed};

/// A store path that no world has.
const ABSENT: &str = "00000000000000000000000000000000-absent";

/// Writes the sandbox's configuration file; its name.
fn configure(sandbox: &Sandbox, text: &str) -> String {
    let path = sandbox.dir().join("narfs.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn lookup(sandbox: &Sandbox, name: &str) -> Option<i32> {
    let error = fs::symlink_metadata(sandbox.store().join(name)).err()?;
    Some(error.raw_os_error().unwrap())
}

/// How the daemon was started.
fn command_line(sandbox: &Sandbox) -> Vec<String> {
    let line = fs::read_to_string(format!("/proc/{}/cmdline", sandbox.pid())).unwrap();
    line.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn an_offline_mount_says_at_once_that_a_path_is_absent() {
    let sandbox = Sandbox::empty();
    let silent = Server::new(sandbox.dir().to_owned(), |_, _| Answer::Stall);
    let config = configure(&sandbox, &format!("from = [\"{}\"]\n", silent.url));
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["--config", &config, "mount", at, "--offline"]);
    assert_eq!(lookup(&sandbox, ABSENT), Some(libc::ENOENT));
    assert_eq!(silent.connections(), 0);
}

#[test]
fn a_file_that_asks_nobody_makes_a_mount_offline() {
    let sandbox = Sandbox::empty();
    let config = configure(&sandbox, "from = []\n");
    sandbox.narfs(&["--config", &config, "mount", sandbox.at.to_str().unwrap()]);
    assert_eq!(lookup(&sandbox, ABSENT), Some(libc::ENOENT));
}

#[test]
fn a_mount_without_sources_starts_at_once_and_asks_the_public_cache() {
    let sandbox = Sandbox::empty();
    let at = sandbox.at.to_str().unwrap();
    let mut mount = sandbox.command(&["mount", at, "-o", "lookup-timeout=1"]);
    // Nothing of it leaves this machine.
    let silent = Server::new(sandbox.dir().to_owned(), |_, _| Answer::Stall);
    let proxy = &*silent.url;
    succeed(mount.env("https_proxy", proxy).env("HTTPS_PROXY", proxy));
    assert!(sandbox.store().exists() && sandbox.listing().is_empty());
    assert_eq!(silent.connections(), 0);
    // Whoever asks nobody would know that it is absent.
    assert_eq!(lookup(&sandbox, ABSENT), Some(libc::EIO));
    assert!(silent.connections() > 0);
}

#[test]
fn a_mount_takes_sources_keys_and_options_from_the_file() {
    let sandbox = Sandbox::empty();
    let world = World::small();
    let config = configure(
        &sandbox,
        &format!(
            "from = [\"{}\"]\ntrusted-public-keys = [\"{}\"]\n[mount]\nabsent-ttl = 1\n",
            world.url(),
            world.key()
        ),
    );
    sandbox.narfs(&["--config", &config, "mount", sandbox.at.to_str().unwrap()]);
    let hello = sandbox.package(world, "hello");
    assert!(fs::read(hello.join("bin/hello")).unwrap().len() > 1000);
    assert_eq!(lookup(&sandbox, ABSENT), Some(libc::ENOENT));
}

#[test]
fn the_background_has_the_settings_of_whoever_started_it() {
    let sandbox = Sandbox::empty();
    configure(&sandbox, "from = []\nmemory = 64\n");
    let at = sandbox.at.to_str().unwrap();
    let arguments = ["mount", at, "-o", "prefetch=closure,budget=20G"];
    let netrc = ["--netrc-file", "netrc"];
    let mut mount = sandbox.command(&[&arguments[..], &netrc].concat());
    mount.env("NARFS_CONFIG", "narfs.toml");
    succeed(mount.current_dir(sandbox.dir()));
    let line = command_line(&sandbox);
    let after = |flag: &str| {
        let at = line.iter().position(|a| a == flag);
        let at = at.unwrap_or_else(|| panic!("no {flag} in {line:?}"));
        line[at + 1].clone()
    };
    let place = |name: &str| sandbox.dir().join(name).to_str().unwrap().to_owned();
    assert_eq!(after("--config"), place("narfs.toml"));
    assert_eq!(after("--netrc-file"), place("netrc"));
    assert_eq!(after("--state"), sandbox.state.to_str().unwrap());
    assert_eq!(after("--memory"), "64");
    assert_eq!(after("-o"), "prefetch=closure,budget=20G");
    assert!(!line.contains(&"--offline".to_owned()));
    assert_eq!(lookup(&sandbox, ABSENT), Some(libc::ENOENT));
}

#[test]
fn a_wrong_file_leaves_no_mount_and_no_daemon() {
    let sandbox = Sandbox::empty();
    let config = configure(&sandbox, "[mount]\nlookup-timeout = 0\n");
    let at = sandbox.at.to_str().unwrap();
    let said = sandbox.complaint(&["--config", &config, "mount", at]);
    assert!(
        said.contains(&format!("{config}:2: mount.lookup-timeout")),
        "{said}"
    );
    assert!(sandbox.mounts().is_empty() && !sandbox.is_served());
    assert!(!sandbox.state.exists());
}

#[test]
fn mount_options_and_flags_that_contradict_are_misuse() {
    let sandbox = Sandbox::empty();
    let at = sandbox.at.to_str().unwrap();
    for (option, reason) in [
        ("prefetch=all", "none or closure"),
        ("budget=20Q", "20G or none"),
    ] {
        let said = sandbox.misuse(&["mount", at, "-o", option]);
        assert!(said.contains(reason), "{said}");
    }
    let mut both = sandbox.command(&["mount", at, "--offline", "--from", "file:///x"]);
    assert_eq!(run(&mut both, b"").code, Some(2));
}

#[test]
fn a_mount_warns_of_a_file_that_believes_without_signatures() {
    let sandbox = Sandbox::empty();
    let text = "from = [\"file:///\"]\nrequire-sigs = false\n";
    let config = configure(&sandbox, text);
    let at = sandbox.at.to_str().unwrap();
    let mut mount = sandbox.command(&["--config", &config, "mount", at]);
    let ran = run(&mut mount, b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let place = format!("warning: {config}:2: require-sigs = false");
    assert!(ran.stderr.contains(&place), "{}", ran.stderr);
    sandbox.unmount();
}
