//! Real `nix-env` on the profiles of a mount, beside the same commands on an ordinary directory, and
//! whatever else a program may try there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary_cache::Cache;
use crate::on_demand::{SHORT, directory, key, plain};
use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, database_dump, load, nix_store, run, succeed, wait_until};

const OPTION: &str = "writable-profiles";

/// A mount with writable profiles of a state that has both worlds, and a state of real Nix that
/// knows their paths.
struct Writable {
    sandbox: Sandbox,
    nix: PathBuf,
}

impl Writable {
    fn new() -> Self {
        let sandbox = Sandbox::with_worlds();
        let nix = sandbox.make_dir("nix-state");
        let writable = Self { sandbox, nix };
        writable.mount();
        writable.show_store();
        fs::create_dir_all(writable.nix.join("etc")).unwrap();
        fs::write(writable.nix.join("etc/nix.conf"), "build-users-group =\n").unwrap();
        load(&writable.nix, &database_dump(&World::both()));
        writable
    }

    fn mount(&self) {
        let at = self.sandbox.at.to_str().unwrap();
        self.sandbox
            .narfs(&["mount", at, "--offline", "-o", OPTION]);
    }

    /// Shows the store where Nix wants it: a mount point of its own. The rest of `/nix` is empty but
    /// for a bind of the mount, which brings nothing along that is mounted below it.
    fn show_store(&self) {
        let host = self.sandbox.make_dir("host");
        self.sandbox.make_dir("host/bound");
        self.sandbox.make_dir("host/store");
        self.sandbox.bind_to_nix(&host);
        rustix::mount::mount_bind(self.sandbox.store(), "/nix/store").unwrap();
        rustix::mount::mount_bind(&self.sandbox.at, "/nix/bound").unwrap();
    }

    fn hide_store(&self) {
        rustix::mount::unmount("/nix", rustix::mount::UnmountFlags::DETACH).unwrap();
    }

    fn profiles(&self) -> PathBuf {
        self.sandbox.at.join("var/nix/profiles")
    }

    /// Real `nix-env` on a profile.
    fn nix_env(&self, profile: &Path) -> Command {
        let store = nix_store(&self.nix);
        let mut command = Command::new("nix-env");
        for (name, value) in store.get_envs() {
            command.env(name, value.unwrap());
        }
        command.env("TZ", "UTC").env("LC_ALL", "C");
        command.arg("-p").arg(profile);
        command
    }

    fn narfs(&self, profile: &str, arguments: &[&str]) -> String {
        let mut command = self.sandbox.command(&["profile", "-p", profile]);
        succeed(command.args(arguments).env("TZ", "UTC"))
    }

    fn history(&self, profile: &str) -> Vec<Value> {
        let text = self.narfs(profile, &["history", "--json"]);
        serde_json::from_str(&text).unwrap()
    }
}

/// Six store paths.
fn paths() -> Vec<String> {
    let names = ["hello", "bash", "coreutils"];
    let worlds = World::both();
    let each = worlds.iter().flat_map(|w| names.map(|n| w.package(n)));
    each.map(|path| format!("/nix/store/{path}")).collect()
}

/// A listing of generations without its times, which are those of the moment.
fn without_times(text: &str) -> String {
    let line = |line: &str| {
        let is_time = |c: char| c.is_ascii_digit() || "-: ".contains(c);
        match line.get(7..26) {
            Some(time) if time.starts_with("20") && time.chars().all(is_time) => {
                format!("{}TIME{}\n", &line[..7], &line[26..])
            }
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

#[test]
fn nix_env_does_what_it_does_in_an_ordinary_directory() {
    let writable = Writable::new();
    let [hello, bash, coreutils, hello2, bash2, _] = &paths()[..] else {
        panic!("six paths")
    };
    let commands: &[&[&str]] = &[
        &["--list-generations"],
        &["--rollback"],
        &["--set", hello],
        &["--set", hello],
        &["--set", bash],
        &["--list-generations"],
        &["--set", coreutils],
        &["--set", hello2],
        &["--set", bash2],
        &["--rollback"],
        &["--rollback"],
        &["--list-generations"],
        &["--delete-generations", "3"],
        &["--delete-generations", "2", "77"],
        &["--rollback"],
        &["--rollback"],
        &["--switch-generation", "4"],
        &["--switch-generation", "2"],
        &["--switch-generation", "0"],
        // What the highest one has is no new one.
        &["--set", bash2],
        &["--rollback"],
        &["--set", hello],
        &["--list-generations"],
        &["--delete-generations", "+2"],
        &["--delete-generations", "+0"],
        &["--delete-generations", "2d"],
        &["--delete-generations", "x"],
        &["--rollback"],
        &["--list-generations"],
        &["--delete-generations", "--dry-run", "old"],
        &["--delete-generations", "old"],
        &["--set", coreutils],
        &["--list-generations"],
        // The number of the highest one is given again.
        &["--rollback"],
        &["--delete-generations", "old"],
        &["--set", hello2],
        &["--list-generations"],
    ];
    for (profile, link) in [("default", "default"), ("per-user/ann/work", "work")] {
        let ordinary = writable.sandbox.make_dir("ordinary").join(profile);
        let ours = writable.profiles().join(profile);
        let [there, here] = [&ordinary, &ours].map(|p| p.parent().unwrap());
        fs::create_dir_all(there).unwrap();
        fs::create_dir_all(here).unwrap();
        for command in commands {
            let [expected, found] = [&ordinary, &ours].map(|at| {
                let ran = run(writable.nix_env(at).args(*command), b"");
                let said = String::from_utf8(ran.stdout).unwrap() + &ran.stderr;
                let at = at.to_str().unwrap();
                (ran.code, without_times(&said.replace(at, "PROFILE")))
            });
            assert_eq!(found, expected, "{profile}: {command:?}");
            let [expected, found] = [there, here].map(|directory| links_of(directory, link));
            assert_eq!(found, expected, "{profile}: {command:?}");
        }
        let listed = succeed(writable.nix_env(&ours).arg("--list-generations"));
        // The program says the same, times included.
        assert_eq!(writable.narfs(profile, &["history"]), listed);
        assert!(listed.lines().count() > 1, "{listed}");
        let now = succeed(Command::new("date").args(["-u", "+%Y-%m-%d"]));
        assert!(listed.contains(now.trim()), "{listed}");
    }
}

/// The links of one profile in a directory that may have others.
fn links_of(directory: &Path, profile: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let is_link = |name: &String| directory.join(name).is_symlink();
    let names = names.filter(|n| n.starts_with(profile) && is_link(n));
    let mut names: Vec<_> = names.collect();
    names.sort();
    let link = |name: String| {
        let target = fs::read_link(directory.join(&name)).unwrap();
        (name, target.into_os_string().into_string().unwrap())
    };
    names.into_iter().map(link).collect()
}

#[test]
fn the_program_and_nix_env_see_each_others_changes_at_once() {
    let writable = Writable::new();
    let paths = paths();
    let ours = writable.profiles().join("default");
    // A plain bind, and the mount, show the same profiles, read-only.
    let read_only = Path::new("/nix/bound/var/nix/profiles/default");
    let leads_to = |number: u64| {
        let link = format!("default-{number}-link");
        for place in [&ours, read_only] {
            assert_eq!(fs::read_link(place).unwrap(), Path::new(&link));
        }
        let current = writable.history("default");
        let current = current.iter().find(|g| g["current"] == true).unwrap();
        assert_eq!(current["generation"], number);
    };
    for (number, path) in (1..).zip(&paths[..3]) {
        if number == 2 {
            writable.narfs("default", &["set", path]);
        } else {
            succeed(writable.nix_env(&ours).args(["--set", path]));
        }
        leads_to(number);
    }
    for number in [1, 3, 2] {
        let to = number.to_string();
        succeed(writable.nix_env(&ours).args(["--switch-generation", &to]));
        leads_to(number);
        let to = (number % 3 + 1).to_string();
        writable.narfs("default", &["switch", &to]);
        leads_to(number % 3 + 1);
    }
    assert_eq!(
        writable.narfs("default", &["rollback"]),
        "switching profile from version 3 to 2\n"
    );
    succeed(writable.nix_env(&ours).arg("--rollback"));
    leads_to(1);
    succeed(writable.nix_env(&ours).args(["--delete-generations", "2"]));
    writable.narfs("default", &["delete-generations", "3"]);
    let all: Vec<_> = writable.history("default");
    assert_eq!(all.len(), 1);
    assert_eq!(links_of(&writable.profiles(), "default").len(), 2);
    assert_eq!(
        links_of(Path::new("/nix/bound/var/nix/profiles"), "default").len(),
        2
    );
    // What nix-env set is a root.
    let roots = writable.sandbox.narfs(&["roots"]);
    assert!(roots.contains(&paths[0]), "{roots}");
    // The program runs from there.
    let greeting = succeed(&mut Command::new(ours.join("bin/hello")));
    assert_eq!(greeting, "Hello, world!\n");
    // They are the same after a restart.
    writable.hide_store();
    writable.sandbox.unmount();
    assert_eq!(writable.history("default"), all);
    writable.mount();
    assert_eq!(fs::read_link(&ours).unwrap(), Path::new("default-1-link"));
}

#[test]
fn several_at_once_leave_a_profile_that_is_whole() {
    let writable = Writable::new();
    let ours = writable.profiles().join("default");
    for path in paths() {
        succeed(writable.nix_env(&ours).args(["--set", &path]));
    }
    let done = AtomicBool::new(false);
    scope(|threads| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (writable, ours) = (&writable, &ours);
                threads.spawn(move || {
                    for turn in 0..12 {
                        // From a high one there is always one to roll back to.
                        let commands =
                            ["--switch-generation 6", "--rollback", "--list-generations"];
                        let command = commands[(turn + worker) % 3];
                        let mut nix = writable.nix_env(ours);
                        let ran = run(nix.args(command.split(' ')), b"");
                        let none_older = ran.stderr.contains("no profile version older");
                        assert!(
                            ran.code == Some(0) || none_older,
                            "{command}: {}",
                            ran.stderr
                        );
                    }
                })
            })
            .collect();
        // A reader sees one generation or another, never none.
        let reader = threads.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                let target = fs::read_link(&ours).unwrap();
                let target = target.to_str().unwrap();
                assert!(target.starts_with("default-"), "{target}");
                assert!(fs::read_link(ours.with_file_name(target)).is_ok());
                fs::metadata(&ours).unwrap();
                seen += 1;
            }
            seen
        });
        let failed: Vec<_> = workers.into_iter().filter_map(|w| w.join().err()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 10);
        assert!(failed.is_empty(), "{} failed", failed.len());
    });
    assert_eq!(writable.history("default").len(), 6);
    assert_eq!(links_of(&writable.profiles(), "").len(), 7);
}

fn refused(what: &str, at: &Path, outcome: rustix::io::Result<()>) {
    assert_eq!(outcome, Err(Errno::ROFS), "{what} {}", at.display());
}

#[test]
fn all_else_is_refused_as_read_only() {
    let writable = Writable::new();
    let profiles = writable.profiles();
    let ours = profiles.join("default");
    for path in &paths()[..2] {
        succeed(writable.nix_env(&ours).args(["--set", path]));
    }
    let before = links_of(&profiles, "default");
    nothing_is_made(&profiles);
    nothing_is_changed(&profiles);
    no_link_means_anything_else(&profiles);
    // Temporary files are small.
    let lock = profiles.join("default.lock");
    fs::write(&lock, vec![0; 4096]).unwrap();
    let too_long = fs::write(&lock, vec![0; 4097]).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(libc::EROFS));
    assert_eq!(links_of(&profiles, "default"), before);
    the_store_is_read_only(&writable);
}

/// Attempts to make something that a profile could be, or be in.
fn nothing_is_made(profiles: &Path) {
    let mode = Mode::from_raw_mode(0o644);
    for new in [
        "new",
        "per-user/new/x",
        "default-7-link",
        "per-user/default-1-link",
    ] {
        let at = profiles.join(new);
        if new == "per-user/new/x" {
            fs::create_dir(at.parent().unwrap()).unwrap();
        }
        for flags in [
            OFlags::WRONLY | OFlags::CREATE,
            OFlags::CREATE | OFlags::EXCL,
        ] {
            refused("create", &at, rustix::fs::open(&at, flags, mode).map(drop));
        }
        if new != "per-user/default-1-link" {
            refused("mkdir", &at, rustix::fs::mkdir(&at, mode));
        }
        refused("symlink", &at, rustix::fs::symlink("default-1-link", &at));
        refused("link", &at, rustix::fs::link(profiles.join("default"), &at));
        for kind in [
            FileType::RegularFile,
            FileType::Fifo,
            FileType::CharacterDevice,
        ] {
            refused("mknod", &at, rustix::fs::mknodat(CWD, &at, kind, mode, 0));
        }
    }
}

/// Attempts to change what is there.
fn nothing_is_changed(profiles: &Path) {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let second = rustix::fs::Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: second,
        last_modification: second,
    };
    for there in ["default", "default-1-link", "default-2-link", "per-user"] {
        let at = profiles.join(there);
        let owner = rustix::fs::chownat(
            CWD,
            &at,
            Some(Uid::from_raw(7)),
            Some(Gid::from_raw(7)),
            nofollow,
        );
        refused("chown", &at, owner);
        refused(
            "utimensat",
            &at,
            rustix::fs::utimensat(CWD, &at, &times, nofollow),
        );
        refused(
            "rename",
            &at,
            rustix::fs::rename(&at, profiles.join(".aside")),
        );
        if there != "per-user" {
            // It is there, or cannot be changed through what it leads to.
            let opened = rustix::fs::open(&at, OFlags::WRONLY, Mode::empty()).map(drop);
            assert!(
                matches!(opened, Err(Errno::ROFS | Errno::ISDIR)),
                "{opened:?}"
            );
            refused(
                "touch",
                &at.join("x"),
                fs::write(at.join("x"), "x").map_err(|e| Errno::from_io_error(&e).unwrap()),
            );
        }
    }
    for directory in [profiles, &profiles.join("per-user")] {
        refused("chmod", directory, rustix::fs::chmod(directory, Mode::RWXU));
        let set = rustix::fs::setxattr(directory, "user.x", b"x", XattrFlags::empty());
        refused("setxattr", directory, set);
    }
    refused(
        "rmdir",
        profiles,
        rustix::fs::rmdir(profiles.join("per-user")),
    );
    let ours = profiles.join("default");
    refused("unlink", &ours, rustix::fs::unlink(&ours));
}

/// Attempts to change a profile by links otherwise than Nix does.
fn no_link_means_anything_else(profiles: &Path) {
    let ours = profiles.join("default");
    // The current one is not removed, nor what is not there.
    let current = profiles.join("default-2-link");
    assert_eq!(rustix::fs::unlink(&current), Err(Errno::BUSY));
    let absent = profiles.join("default-9-link");
    assert_eq!(rustix::fs::unlink(&absent), Err(Errno::NOENT));
    // A link that means nothing.
    let draft = profiles.join(".0_default");
    for (target, to, error) in [
        (&*paths()[0], "default", Errno::ROFS),
        ("default-9-link", "default", Errno::NOENT),
        ("/etc/passwd", "default-9-link", Errno::ROFS),
        ("default-1-link", "default-9-link", Errno::ROFS),
    ] {
        symlink(target, &draft).unwrap();
        let moved = rustix::fs::rename(&draft, profiles.join(to));
        assert_eq!(moved, Err(error), "{target} as {to}");
        fs::remove_file(&draft).unwrap();
    }
    symlink("default-1-link", &draft).unwrap();
    let exchanged = rustix::fs::renameat_with(CWD, &draft, CWD, &ours, RenameFlags::EXCHANGE);
    assert_eq!(exchanged, Err(Errno::INVAL));
    let kept = rustix::fs::renameat_with(CWD, &draft, CWD, &ours, RenameFlags::NOREPLACE);
    assert_eq!(kept, Err(Errno::EXIST));
}

/// The first superblock is what it is without writable profiles.
fn the_store_is_read_only(writable: &Writable) {
    let (at, profiles) = (&writable.sandbox.at, writable.profiles());
    let hello = paths().swap_remove(0);
    let inside = at
        .join("store")
        .join(hello.trim_start_matches("/nix/store/"));
    for directory in [at, &at.join("store"), &at.join("var/nix"), &inside] {
        let new = directory.join("x.lock");
        let made = rustix::fs::open(&new, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
        refused("create", &new, made.map(drop));
    }
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let options = |place: &Path| {
        let place = place.to_str().unwrap();
        let line = table.lines().find(|l| l.split(' ').nth(4) == Some(place));
        let (mount, superblock) = line.unwrap().split_once(" - ").unwrap();
        let mount = mount.split(' ').nth(5).unwrap().to_owned();
        let superblock: Vec<_> = superblock.split(' ').map(str::to_owned).collect();
        (mount, superblock)
    };
    let has = |options: &str, wanted: &str| options.split(',').any(|o| o == wanted);
    let (mount, superblock) = options(at);
    assert!(
        has(&mount, "ro") && has(&superblock[2], "ro"),
        "{mount} {superblock:?}"
    );
    let (mount, superblock) = options(&profiles);
    assert_eq!(superblock[0], "fuse.narfs-profiles");
    for option in ["rw", "nosuid", "nodev", "noatime"] {
        assert!(has(&mount, option), "{mount}");
    }
    // Without it, nothing can be written there: the plain bind shows what is below.
    let new = Path::new("/nix/bound/var/nix/profiles/x.lock");
    let made = rustix::fs::open(new, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
    refused("create", new, made.map(drop));
}

#[test]
fn both_mounts_come_and_go_together() {
    let writable = Writable::new();
    let (sandbox, profiles) = (&writable.sandbox, writable.profiles());
    writable.hide_store();
    let both = [sandbox.at.clone(), profiles.clone()];
    assert_eq!(sandbox.mounts(), both);
    let status = sandbox.json(&["status"]);
    assert_eq!(status["writable_profiles"][0], profiles.to_str().unwrap());
    assert_eq!(status["mountpoints"].as_array().unwrap().len(), 1);
    let text = sandbox.narfs(&["status"]);
    assert!(
        text.contains(&format!("writable    {}\n", profiles.display())),
        "{text}"
    );

    // A user of either keeps both.
    let at = sandbox.at.to_str().unwrap();
    for place in [&profiles, &sandbox.store()] {
        let user = fs::File::open(place).unwrap();
        let said = sandbox.complaint(&["umount", at]);
        assert!(said.contains("is in use"), "{said}");
        assert_eq!(sandbox.mounts(), both);
        fs::write(profiles.join("still.lock"), "x").unwrap();
        drop(user);
    }
    // One more place has them if it is asked for, with the same locks.
    let plain = sandbox.make_dir("plain");
    sandbox.narfs(&["mount", plain.to_str().unwrap()]);
    assert!(!plain.join("var/nix/profiles/still.lock").exists());
    let second = sandbox.make_dir("second");
    sandbox.narfs(&["mount", second.to_str().unwrap(), "-o", OPTION]);
    assert!(second.join("var/nix/profiles/still.lock").exists());
    for place in [&second, &plain] {
        sandbox.narfs(&["umount", place.to_str().unwrap()]);
    }
    assert_eq!(sandbox.mounts(), both);
    fs::write(profiles.join("still.lock"), "y").unwrap();
    // With the second alone gone, the first shows what is below it.
    succeed(Command::new("umount").arg(&profiles));
    assert!(fs::write(profiles.join("still.lock"), "x").is_err());
    assert!(sandbox.is_served());
    sandbox.unmount();
    assert!(sandbox.mounts().is_empty() && !sandbox.is_served());

    let ways: [&dyn Fn(); 4] = [
        &|| sandbox.unmount(),
        &|| drop(sandbox.narfs(&["umount", "--lazy", at])),
        &|| drop(succeed(Command::new("umount").arg("-l").arg(at))),
        &|| signal(sandbox.pid(), Signal::TERM),
    ];
    for way in ways {
        writable.mount();
        assert_eq!(sandbox.mounts(), both);
        way();
        wait_until("both are gone", || sandbox.mounts().is_empty());
        wait_until("the daemon ends", || !sandbox.is_served());
    }
}

#[test]
fn writable_profiles_are_asked_for_and_need_profiles() {
    let sandbox = Sandbox::with_worlds();
    let at = sandbox.at.to_str().unwrap();
    let said = sandbox.misuse(&["mount", at, "-o", "subtree=store,writable-profiles"]);
    assert!(said.contains("subtree=store shows no profiles"), "{said}");
    assert!(sandbox.mounts().is_empty());
    // Where a daemon serves the state already, too.
    sandbox.mount();
    let profiles = sandbox.at.join("var/nix/profiles");
    assert_eq!(
        sandbox.json(&["status"])["writable_profiles"],
        Value::Array(Vec::new())
    );
    assert!(fs::write(profiles.join("x.lock"), "").is_err());
    let second = sandbox.make_dir("second");
    sandbox.misuse(&[
        "mount",
        second.to_str().unwrap(),
        "-o",
        "writable-profiles,subtree=store",
    ]);
    sandbox.narfs(&["mount", second.to_str().unwrap(), "-o", OPTION]);
    fs::write(second.join("var/nix/profiles/x.lock"), "").unwrap();
    assert!(fs::write(profiles.join("x.lock"), "").is_err());
    sandbox.narfs(&["umount", second.to_str().unwrap()]);
    sandbox.unmount();
    // By the configuration.
    let config = sandbox.dir().join("config.toml");
    fs::write(&config, "[mount]\nwritable-profiles = true\n").unwrap();
    let mount = |more: &[&str]| {
        let mut mount = sandbox.command(&["mount", at, "--offline"]);
        succeed(mount.args(more).env("NARFS_CONFIG", &config));
    };
    mount(&[]);
    fs::write(profiles.join("x.lock"), "").unwrap();
    sandbox.unmount();
    for other in ["writable-profiles=false", "subtree=store"] {
        mount(&["-o", other]);
        assert_eq!(sandbox.mounts().len(), 1, "{other}");
        sandbox.unmount();
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

#[test]
fn a_daemon_that_is_killed_leaves_a_profile_as_it_was_before_or_after() {
    let writable = Writable::new();
    let ours = writable.profiles().join("default");
    let paths = paths();
    for path in &paths[..3] {
        succeed(writable.nix_env(&ours).args(["--set", path]));
    }
    for turn in 0..3 {
        let begun = AtomicUsize::new(0);
        scope(|threads| {
            let worker = threads.spawn(|| {
                // It ends with an error when the daemon is gone.
                for number in (1..=3).cycle().take(60) {
                    begun.fetch_add(1, Ordering::SeqCst);
                    let to = number.to_string();
                    let mut nix = writable.nix_env(&ours);
                    if run(nix.args(["--switch-generation", &to]), b"").code != Some(0) {
                        break;
                    }
                }
            });
            wait_until("it switches", || {
                begun.load(Ordering::SeqCst) >= 3 + 5 * turn
            });
            writable.sandbox.kill();
            worker.join().unwrap();
            let begun = begun.load(Ordering::SeqCst);
            assert!(begun < 60, "nothing was ended");
        });
        writable.hide_store();
        // What is left of both is taken away.
        writable.mount();
        writable.show_store();
        let history = writable.history("default");
        let all: Vec<_> = history
            .iter()
            .map(|g| g["path"].as_str().unwrap())
            .collect();
        assert_eq!(all, paths[..3]);
        assert_eq!(history.iter().filter(|g| g["current"] == true).count(), 1);
        let listed = succeed(writable.nix_env(&ours).arg("--list-generations"));
        assert_eq!(listed, writable.narfs("default", &["history"]));
        assert_eq!(links_of(&writable.profiles(), "").len(), 4);
        succeed(writable.nix_env(&ours).args(["--set", &paths[2]]));
    }
}

#[test]
fn profiles_stay_writable_when_the_daemon_is_killed_and_started_again() {
    let writable = Writable::new();
    let ours = writable.profiles().join("default");
    let paths = paths();
    for path in &paths[..3] {
        succeed(writable.nix_env(&ours).args(["--set", path]));
    }
    for turn in 0..6 {
        let to = (turn % 3 + 1).to_string();
        signal(writable.sandbox.pid(), Signal::KILL);
        succeed(writable.nix_env(&ours).args(["--switch-generation", &to]));
        let current = |path: &Path| fs::read_link(path).unwrap().into_os_string();
        assert_eq!(current(&ours), *format!("default-{to}-link"));
        let history = writable.history("default");
        let current = history.iter().find(|g| g["current"] == true).unwrap();
        assert_eq!(current["generation"].to_string(), to);
    }
    let status = writable.sandbox.json(&["status"]);
    assert_eq!(status["writable_profiles"].as_array().unwrap().len(), 1);
    writable.hide_store();
    writable.sandbox.unmount();
    assert!(writable.sandbox.mounts().is_empty());
}

#[test]
fn a_store_path_is_looked_for_before_a_generation_leads_to_it() {
    let offers = [directory("one", b"1"), directory("two", b"2")];
    let cache = Cache::new();
    offers.iter().for_each(|offer| cache.put(offer));
    let nowhere = directory("nowhere", b"0");
    let server = plain(&cache);
    let silent = Server::new(cache.dir().to_owned(), |_, _| Answer::Stall);
    let sandbox = Sandbox::empty();
    let options = format!("{SHORT},writable-profiles");
    sandbox.mount_from(&[&server.url], &key(&cache), &options);
    let profiles = sandbox.at.join("var/nix/profiles");
    let set = |path: &str| {
        let draft = profiles.join("x-1-link.tmp-3-4");
        let _ = fs::remove_file(&draft);
        symlink(format!("/nix/store/{path}"), &draft).unwrap();
        rustix::fs::rename(&draft, profiles.join("x-1-link"))
    };
    let [one, two] = [&offers[0], &offers[1]].map(|o| o.path().base_name());
    assert_eq!(set(&one), Ok(()));
    assert_eq!(
        server.requests(&format!("/{}.narinfo", offers[0].path().hash())),
        1
    );
    let link = fs::read_link(profiles.join("x-1-link")).unwrap();
    assert_eq!(link, Path::new("/nix/store").join(&one));
    // There is a generation, and none is current yet.
    assert!(!profiles.join("x").is_symlink());
    let absent = nowhere.path().base_name();
    assert_eq!(set(&absent), Err(Errno::NOENT));
    let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
    assert!(log.contains(&absent), "{log}");
    sandbox.unmount();

    sandbox.mount_from(&[&silent.url], &key(&cache), &options);
    let start = Instant::now();
    assert_eq!(set(&two), Err(Errno::IO));
    assert!(start.elapsed() < Duration::from_secs(60));
    // What is known needs no source, and what failed has changed nothing.
    assert_eq!(set(&one), Ok(()));
    sandbox.unmount();
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", OPTION]);
    assert_eq!(set(&two), Err(Errno::NOENT));
    assert_eq!(fs::read_link(profiles.join("x-1-link")).unwrap(), link);
}
