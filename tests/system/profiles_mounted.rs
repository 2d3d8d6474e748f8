//! Profiles as a mount shows them while commands change them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::scope;

use narfs::nix::hash::NarHash;

use crate::support::{Sandbox, World, run, succeed};

fn mounted() -> Sandbox {
    let world = World::small();
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&world.url()], &world.key(), "");
    sandbox.bind_to_nix(&sandbox.at);
    sandbox
}

fn profiles(sandbox: &Sandbox) -> PathBuf {
    sandbox.at.join("var/nix/profiles")
}

fn target(path: &Path) -> String {
    let target = fs::read_link(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    target.into_os_string().into_string().unwrap()
}

fn runs(program: &str) -> bool {
    let ran = || run(Command::new(program).arg("--version"), b"");
    Path::new(program).exists() && ran().code == Some(0)
}

#[test]
fn every_link_of_the_chain_follows_the_commands_at_once() {
    let sandbox = mounted();
    let world = World::small();
    let [hello, bash, coreutils] = ["hello", "bash", "coreutils"].map(|name| world.package(name));
    let at = profiles(&sandbox);
    assert!(!at.join("default").exists());
    sandbox.narfs(&["profile", "install", hello, bash]);
    assert_eq!(target(&at.join("default")), "default-1-link");
    let first = target(&at.join("default-1-link"));
    assert!(first.ends_with("-profile"), "{first}");
    let inside = format!("/nix/store/{hello}/bin/hello");
    assert_eq!(target(&at.join("default/bin/hello")), inside);
    assert!(runs("/nix/var/nix/profiles/default/bin/hello"));
    let mut ls = Command::new("ls");
    let ls = succeed(ls.arg("-l").arg(&at).env("LC_ALL", "C"));
    assert!(ls.contains(" default -> default-1-link\n"), "{ls}");
    assert!(
        ls.contains(&format!(" default-1-link -> {first}\n")),
        "{ls}"
    );
    assert!(!runs("/nix/var/nix/profiles/default/bin/ls"));
    sandbox.narfs(&["profile", "install", coreutils]);
    assert_eq!(target(&at.join("default")), "default-2-link");
    let second = target(&at.join("default-2-link"));
    assert!(runs("/nix/var/nix/profiles/default/bin/ls"));
    sandbox.narfs(&["profile", "rollback"]);
    assert_eq!(target(&at.join("default")), "default-1-link");
    assert_eq!(
        fs::canonicalize("/nix/var/nix/profiles/default").unwrap(),
        Path::new(&first)
    );
    assert!(!runs("/nix/var/nix/profiles/default/bin/ls"));
    sandbox.narfs(&["profile", "switch", "2"]);
    assert_eq!(
        fs::canonicalize("/nix/var/nix/profiles/default").unwrap(),
        Path::new(&second)
    );
    assert!(at.join("default-1-link").is_symlink());
    sandbox.narfs(&["profile", "delete-generations", "1"]);
    assert!(!at.join("default-1-link").is_symlink());
    // The program, and real Nix, see the same profile at its path.
    let at_path = ["profile", "-p", "/nix/var/nix/profiles/default", "list"];
    assert!(sandbox.narfs(&at_path).contains(coreutils));
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command"]);
    nix.args(["--store", "dummy://", "profile", "list", "--profile"]);
    let home = sandbox.make_dir("home");
    nix.arg("/nix/var/nix/profiles/default");
    nix.env("HOME", &home).env("NIX_CONF_DIR", &home);
    nix.env("NIX_STATE_DIR", home.join("state"));
    let listed = succeed(&mut nix);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(
        listed.contains(&format!("/nix/store/{coreutils}")),
        "{listed}"
    );
    let mut dump = Command::new("nix-store");
    let nar = run(dump.arg("--dump").arg(&second), b"").stdout;
    let info = sandbox.json(&["path-info", &second]);
    assert_eq!(info[0]["narHash"], NarHash::of(&nar).to_sri());
}

#[test]
fn profiles_are_the_same_after_a_restart() {
    let sandbox = mounted();
    let world = World::small();
    sandbox.narfs(&[
        "profile",
        "-p",
        "per-user/ann/profile",
        "install",
        world.package("hello"),
    ]);
    let link = profiles(&sandbox).join("per-user/ann/profile-1-link");
    let before = target(&link);
    rustix::mount::unmount("/nix", rustix::mount::UnmountFlags::DETACH).unwrap();
    sandbox.unmount();
    sandbox.mount();
    assert_eq!(target(&link), before);
    // With nobody to ask, what is here is enough for a change.
    sandbox.narfs(&["profile", "-p", "per-user/ann/profile", "remove", "hello"]);
    assert_eq!(
        target(&profiles(&sandbox).join("per-user/ann/profile")),
        "profile-2-link"
    );
    let complaint = sandbox.complaint(&["profile", "install", world.package("bash")]);
    assert!(complaint.contains("no source is configured"), "{complaint}");
}

#[test]
fn changes_at_the_same_time_are_all_made() {
    let sandbox = mounted();
    let world = World::small();
    let packages = ["hello", "bash", "coreutils", "libc6"].map(|name| world.package(name));
    scope(|threads| {
        for package in packages {
            let mut install = sandbox.command(&["profile", "install", package]);
            threads.spawn(move || succeed(&mut install));
        }
    });
    let listed = sandbox.narfs(&["profile", "list"]);
    assert!(
        packages.iter().all(|package| listed.contains(package)),
        "{listed}"
    );
    assert_eq!(
        sandbox
            .json(&["profile", "history"])
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn a_link_outside_leads_to_the_profile_and_replaces_nothing_but_links() {
    let sandbox = mounted();
    let world = World::small();
    sandbox.narfs(&["profile", "-p", "a/b", "install", world.package("hello")]);
    let place = sandbox.dir().join("current");
    let place_text = place.to_str().unwrap();
    let link = |more: &[&str]| {
        let arguments = [&["profile", "-p", "a/b", "link", place_text], more].concat();
        run(&mut sandbox.command(&arguments), b"")
    };
    assert_eq!(link(&["--check"]).code, Some(1));
    assert_eq!(link(&["--dry-run"]).code, Some(0));
    assert!(!place.is_symlink());
    assert_eq!(link(&[]).code, Some(0));
    let expected = profiles(&sandbox).join("a/b");
    assert_eq!(target(&place), expected.to_str().unwrap());
    assert!(place.join("bin").is_symlink());
    assert_eq!(link(&["--check"]).code, Some(0));
    fs::remove_file(&place).unwrap();
    symlink("elsewhere", &place).unwrap();
    let ran = link(&["--check"]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("elsewhere"),
        "{}",
        ran.stderr
    );
    assert_eq!(link(&[]).code, Some(0));
    assert_eq!(target(&place), expected.to_str().unwrap());
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    let ran = link(&[]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("not a symlink"),
        "{}",
        ran.stderr
    );
    let left: Vec<_> = fs::read_dir(sandbox.dir()).unwrap().collect();
    let drafts = left.iter().flatten().filter(|e| {
        let name = e.file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(drafts.count(), 0);
    sandbox.complaint(&["profile", "-p", "absent", "link", place_text]);
}

/// The store path that a link outside leads to by a profile's link and that of this generation.
fn end_of_chain(outside: &Path, profile: &Path, generation: u64) -> String {
    assert_eq!(target(outside), profile.to_str().unwrap());
    let link = format!("profile-{generation}-link");
    assert_eq!(target(profile), link);
    let path = target(&profile.with_file_name(link));
    assert_eq!(fs::canonicalize(outside).unwrap(), Path::new(&path));
    assert!(path.starts_with("/nix/store/") && path.ends_with("-profile"));
    path
}

/// The names in the directory of a profile.
fn links_beside(profile: &Path) -> String {
    let entries = fs::read_dir(profile.parent().unwrap()).unwrap().flatten();
    let names = entries.map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.join(" ")
}

/// What a user does in a day, each link of the chain looked at after each step.
#[test]
fn a_rollback_leads_to_the_very_store_path_of_before_until_its_generation_is_collected() {
    let world = World::small();
    let mut sandbox = Sandbox::empty();
    fs::create_dir_all("/nix").unwrap();
    sandbox.at = "/nix".into();
    sandbox.mount_from(&[&world.url()], &world.key(), "nonempty");
    let profile = "per-user/ann/profile";
    let narfs =
        |arguments: &[&str]| sandbox.narfs(&[&["profile", "-p", profile], arguments].concat());
    let home = sandbox.make_dir("home");
    let home_link = home.join(".nix-profile");
    let [hello, bash, coreutils] = ["hello", "bash", "coreutils"].map(|name| world.package(name));
    let at = Path::new("/nix/var/nix/profiles").join(profile);
    let chain = |generation| end_of_chain(&home_link, &at, generation);
    let has = |program: &str| runs(home_link.join("bin").join(program).to_str().unwrap());
    let links = || links_beside(&at);

    narfs(&["install", hello, bash]);
    narfs(&["link", home_link.to_str().unwrap()]);
    let first = chain(1);
    assert!(has("hello") && has("bash") && !has("ls"));
    let inside = target(Path::new(&first).join("bin/hello").as_path());
    assert_eq!(inside, format!("/nix/store/{hello}/bin/hello"));

    narfs(&["install", coreutils]);
    let second = chain(2);
    assert_ne!(second, first);
    assert!(has("hello") && has("bash") && has("ls"));
    assert_eq!(links(), "profile profile-1-link profile-2-link");
    // What is behind the old link is still there, whatever is current.
    assert!(runs(&format!("{first}/bin/hello")));

    let said = narfs(&["rollback"]);
    assert_eq!(said, "switching profile from version 2 to 1\n");
    assert_eq!(chain(1), first);
    assert!(has("hello") && !has("ls"));
    narfs(&["switch", "2"]);
    assert_eq!(chain(2), second);
    assert!(has("ls"));

    sandbox.narfs(&["gc"]);
    assert!(
        runs(&format!("{first}/bin/hello")),
        "a generation is a root"
    );
    let said = narfs(&["delete-generations", "1"]);
    assert_eq!(said, "removing profile version 1\n");
    assert_eq!(links(), "profile profile-2-link");
    assert_eq!(chain(2), second);
    let report = sandbox.json(&["gc"]);
    assert_eq!(report["paths"], serde_json::json!([first]));
    assert!(!Path::new(&first).exists());
    assert_eq!(chain(2), second);
    assert!(has("hello") && has("bash") && has("ls"));
    // Numbers are never used again.
    narfs(&["remove", "coreutils"]);
    assert_eq!(chain(3), first, "the same packages are the same path");
    assert!(has("hello") && !has("ls"));
    sandbox.narfs(&["profile", "delete", profile]);
    assert!(!at.is_symlink() && !home_link.exists());
    let users = fs::read_dir("/nix/var/nix/profiles/per-user").unwrap();
    assert_eq!(users.count(), 0, "the directory goes with its last profile");
}
