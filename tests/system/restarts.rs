//! A daemon that is killed or replaced: whoever uses the mount waits, and goes on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary_cache::{Cache, noise};
use crate::in_use::Done;
use crate::on_demand::{directory, key};
use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, is_alive, read_anew, run, succeed, wait_until};

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn who_has_something_open_when_the_daemon_is_killed_goes_on_with_it() {
    let sandbox = Sandbox::mounted();
    let bash = sandbox.package(World::small(), "bash").join("bin/bash");
    let (expected, before) = (fs::read(&bash).unwrap(), fs::metadata(&bash).unwrap());
    let file = File::open(&bash).unwrap();
    let directory = File::open(bash.parent().unwrap()).unwrap();
    let keeper = sandbox.keeper();
    for _ in 0..5 {
        let pid = sandbox.pid();
        kill(pid);
        assert!(read_anew(&file) == expected);
        assert_eq!(directory.metadata().unwrap().ino(), before_of(&bash));
        assert_ne!(sandbox.pid(), pid);
        assert_eq!(sandbox.keeper(), keeper);
    }
    assert_eq!(fs::metadata(&bash).unwrap().ino(), before.ino());
    assert_eq!(sandbox.json(&["status"])["supervisor"], "keeper");
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
    drop((file, directory));
    // A process that another test is about to start may have them open for a moment.
    let umount = ["umount", sandbox.at.to_str().unwrap()];
    wait_until("it can be unmounted", || {
        run(&mut sandbox.command(&umount), b"").code == Some(0)
    });
    wait_until("the keeper has ended", || !is_alive(keeper));
}

/// The number of the directory that something lies in.
fn before_of(file: &Path) -> u64 {
    fs::metadata(file.parent().unwrap()).unwrap().ino()
}

#[test]
fn what_the_kernel_has_cached_stays_cached() {
    let sandbox = Sandbox::mounted();
    let all = |sandbox: &Sandbox| {
        crate::support::read_everything(&sandbox.store());
    };
    // The store's listing may be asked for anew, and nothing else.
    let is_cached = |cost: &String| !cost.contains("read ") && !cost.contains("lookup");
    let after = crate::support::undisturbed(is_cached, || {
        let second = sandbox.requests_of_second("", || all(&sandbox));
        assert_eq!(second, "");
        let pid = sandbox.pid();
        kill(pid);
        wait_until("another daemon serves", || sandbox.pid() != pid);
        sandbox.requests_of(|| all(&sandbox))
    });
    assert!(is_cached(&after), "{after}");
}

#[test]
fn commands_wait_for_the_next_daemon() {
    let sandbox = Sandbox::mounted();
    let paths = sandbox.json(&["path-info"]);
    for _ in 0..5 {
        let pid = sandbox.pid();
        kill(pid);
        wait_until("the daemon has ended", || !is_alive(pid));
        assert_eq!(sandbox.json(&["path-info"]), paths);
    }
}

#[test]
fn the_state_stays_owned_between_two_daemons() {
    let sandbox = Sandbox::mounted();
    let (keeper, pid) = (sandbox.keeper(), sandbox.pid());
    let stop = |signal| kill_process(Pid::from_raw(keeper.cast_signed()).unwrap(), signal);
    // So that no other daemon comes.
    stop(Signal::STOP).unwrap();
    kill(pid);
    wait_until("the daemon has ended", || !is_alive(pid));
    let lock = File::open(sandbox.state.join("lock")).unwrap();
    assert!(lock.try_lock().is_err());
    drop(lock);
    stop(Signal::CONT).unwrap();
    assert_ne!(sandbox.pid(), pid);
}

#[test]
fn a_switch_of_which_the_kernel_was_not_told_is_seen_after_the_restart() {
    let sandbox = Sandbox::mounted();
    let (hello, bash) = (
        World::small().package("hello"),
        World::small().package("bash"),
    );
    for package in [hello, bash] {
        sandbox.narfs(&["profile", "-p", "p", "set", package]);
    }
    let link = sandbox.at.join("var/nix/profiles/p");
    let target = |link: &Path| fs::read_link(link).unwrap().into_os_string();
    assert_eq!(target(&link), "p-2-link");
    // While the kernel keeps what it knows, the state is changed behind its back: no daemon is there
    // to tell it.
    let keeper = Pid::from_raw(sandbox.keeper().cast_signed()).unwrap();
    let pid = sandbox.pid();
    kill_process(keeper, Signal::STOP).unwrap();
    kill(pid);
    wait_until("the daemon has ended", || !is_alive(pid));
    let copy = sandbox.make_dir("copy");
    succeed(
        Command::new("cp")
            .arg("-a")
            .arg(sandbox.state.join("db"))
            .arg(&copy),
    );
    succeed(
        Command::new("cp")
            .arg("-a")
            .arg(sandbox.state.join("format"))
            .arg(&copy),
    );
    let mut rollback = sandbox.command(&["profile", "-p", "p", "rollback"]);
    succeed(rollback.env("NARFS_STATE", &copy));
    let mut delete = sandbox.command(&["profile", "-p", "p", "delete-generations", "2"]);
    succeed(delete.env("NARFS_STATE", &copy));
    fs::remove_dir_all(sandbox.state.join("db")).unwrap();
    fs::rename(copy.join("db"), sandbox.state.join("db")).unwrap();
    kill_process(keeper, Signal::CONT).unwrap();
    wait_until("another daemon serves", || sandbox.pid() != pid);
    assert_eq!(target(&link), "p-1-link");
    assert!(!sandbox.at.join("var/nix/profiles/p-2-link").is_symlink());
    let names = fs::read_dir(link.parent().unwrap()).unwrap();
    let names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|n| n == "p-2-link"), "{names:?}");
}

/// Reads, looks and runs in a mount until it is told to stop; how often, and the longest wait.
struct Load {
    stop: AtomicBool,
    done: AtomicU64,
    longest: AtomicU64,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        }
    }

    fn repeat(&self, work: impl Fn()) {
        while !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            work();
            let took = start.elapsed().as_millis() as u64;
            self.longest.fetch_max(took, Ordering::Relaxed);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Kills the daemon again and again, by `next`, while everything in the mount is used.
fn under_load(rounds: usize, next: impl Fn(&Sandbox)) {
    let sandbox = Sandbox::mounted();
    sandbox.bind_to_nix(&sandbox.at);
    let world = World::small();
    let [bash, hello, coreutils] = ["bash", "hello", "coreutils"].map(|p| world.package(p));
    let store = Path::new("/nix/store");
    let files = [
        store.join(bash).join("bin/bash"),
        store.join(coreutils).join("bin/sort"),
        store.join(hello).join("bin/hello"),
    ];
    let contents = files.map(|f| (fs::read(&f).unwrap(), f));
    let greeting = succeed(&mut Command::new(&contents[2].1));
    let load = Load::new();
    std::thread::scope(|scope| {
        let reader = || {
            load.repeat(|| {
                for (expected, file) in &contents {
                    let file = File::open(file).unwrap();
                    assert!(read_anew(&file) == *expected);
                }
            });
        };
        scope.spawn(reader);
        scope.spawn(|| {
            load.repeat(|| {
                let listed = fs::read_dir(store).unwrap().map(|e| e.unwrap().metadata());
                assert!(listed.map(|m| m.unwrap().ino()).all(|i| i > 0));
                assert!(!store.join(hello).join("no-such-name").exists());
            });
        });
        scope.spawn(|| {
            load.repeat(|| {
                let ran = run(&mut Command::new(&contents[2].1), b"");
                assert_eq!(
                    (ran.code, ran.stdout),
                    (Some(0), greeting.clone().into_bytes())
                );
            });
        });
        scope.spawn(|| {
            load.repeat(|| succeed(sandbox.command(&["status"]).stdout(Stdio::null())).clear())
        });
        let stop = Done(&load.stop);
        for round in 0..rounds {
            let before = load.done.load(Ordering::Relaxed);
            next(&sandbox);
            wait_until("the load goes on", || {
                load.done.load(Ordering::Relaxed) > before + 8
            });
            sleep(Duration::from_millis(round as u64 * 7 % 60));
        }
        drop(stop);
    });
    let longest = load.longest.load(Ordering::Relaxed);
    let done = load.done.load(Ordering::Relaxed);
    println!("{rounds} restarts, {done} rounds of the load, longest {longest} ms");
}

#[test]
fn nobody_notices_that_the_daemon_is_killed_again_and_again() {
    under_load(25, |sandbox| kill(sandbox.pid()));
}

#[test]
fn nobody_notices_that_the_keeper_is_killed_again_and_again() {
    under_load(25, |sandbox| {
        let pid = sandbox.pid();
        kill(sandbox.keeper());
        wait_until("another daemon serves", || sandbox.pid() != pid);
    });
}

#[test]
fn nobody_notices_an_upgrade() {
    under_load(10, |sandbox| {
        let keeper = sandbox.keeper();
        let said = sandbox.narfs(&["upgrade"]);
        assert!(said.contains("took over from process"), "{said}");
        assert_eq!(sandbox.keeper(), keeper, "it goes on as the same process");
    });
}

#[test]
fn an_upgrade_to_a_program_that_fails_goes_back() {
    let sandbox = Sandbox::mounted();
    let bash = sandbox.package(World::small(), "bash").join("bin/bash");
    let file = File::open(&bash).unwrap();
    let expected = read_anew(&file);
    let program = sandbox.dir().join("new-narfs");
    let script = |text: &str| {
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let place = program.to_str().unwrap();
    let pid = sandbox.pid();
    let upgrade = ["upgrade", "--program", place];

    script("#!/bin/sh\necho nonsense\n");
    let said = sandbox.complaint(&upgrade);
    assert!(
        said.contains("is not narfs") && said.contains(place),
        "{said}"
    );
    fs::remove_file(&program).unwrap();
    let said = sandbox.complaint(&upgrade);
    assert!(
        said.contains("cannot find the program") && said.contains(place),
        "{said}"
    );
    assert_eq!(sandbox.pid(), pid, "nothing was ended for it");

    // Says that it is another version, and then does not serve.
    script("#!/bin/sh\ncase \"$*\" in --version) echo narfs 9.9;; *) exit 3;; esac\n");
    let said = sandbox.complaint(&upgrade);
    assert!(said.contains("9.9") && said.contains("narfs.log"), "{said}");
    assert!(read_anew(&file) == expected);
    // The program that served before serves on, and again after a crash.
    let pid = sandbox.pid();
    kill(pid);
    assert!(read_anew(&file) == expected);
    // A wrapper is as good as the program.
    let ours = env!("CARGO_BIN_EXE_narfs");
    script(&format!("#!/bin/sh\nexec {ours} \"$@\"\n"));
    sandbox.narfs(&upgrade);
    kill(sandbox.pid());
    assert!(read_anew(&file) == expected);
    // It was taken away since.
    fs::remove_file(&program).unwrap();
    kill(sandbox.pid());
    assert!(read_anew(&file) == expected);
}

/// A path of a round of kills: where its file is, what is in it, and where its NAR is.
struct Kept {
    file: PathBuf,
    contents: Vec<u8>,
    nar: String,
}

/// Puts a path with a file of several READs into a cache.
fn offer(sandbox: &Sandbox, cache: &Cache, name: &str, seed: u64) -> Kept {
    let contents = noise(seed, 300_000);
    let offer = directory(name, &contents);
    cache.put(&offer);
    cache.put_listing(&offer, "directory");
    Kept {
        file: sandbox.store().join(offer.path().base_name()).join("file"),
        contents,
        nar: format!("/{}", offer.info.url),
    }
}

#[test]
fn a_hundred_kills_each_in_the_middle_of_reads_and_of_a_fetch_lose_nothing() {
    const KILLS: u64 = 100;
    let (sandbox, cache) = (Sandbox::empty(), Cache::new());
    let offers = |kind: &str, seeds: u64| {
        let rounds = 0..KILLS;
        let each = rounds.map(|n| offer(&sandbox, &cache, &format!("{kind}{n}"), seeds + n));
        each.collect::<Vec<_>>()
    };
    let (dropped, absent) = (offers("dropped", 1), offers("absent", 1 + KILLS));
    // What was fetched, and has been dropped, comes to a halt when it is fetched again, and what is absent at
    // once; the next daemon gets both.
    let halts = dropped.iter().map(|k| (k.nar.clone(), 1));
    let halts: HashMap<_, _> = halts
        .chain(absent.iter().map(|k| (k.nar.clone(), 0)))
        .collect();
    let server = Server::new(cache.dir().to_owned(), move |path, before| {
        match halts.get(path) == Some(&before) {
            true => Answer::HalfAndStall,
            false => Answer::File,
        }
    });
    sandbox.mount_from(&[&server.url], &key(&cache), "");
    for kept in &dropped {
        // Looking inside fetches, and leaves no page of the file in the kernel.
        fs::metadata(&kept.file).unwrap();
    }
    // Too little for any of them, and enough for what is known of them.
    sandbox.narfs(&["evict", "--to", "200K"]);
    let keeper = sandbox.keeper();
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    for (dropped, absent) in dropped.iter().zip(&absent) {
        std::thread::scope(|scope| {
            let readers = [dropped, absent].map(|kept| {
                let read = || assert!(fs::read(&kept.file).unwrap() == kept.contents);
                scope.spawn(read)
            });
            // Names and sizes of what was dropped are there: it is READs that have it fetched again.
            wait_until("both are on their way", || {
                server.requests(&dropped.nar) == 2 && server.requests(&absent.nar) == 1
            });
            let (pid, since) = (sandbox.pid(), Instant::now());
            assert!(readers.iter().all(|r| !r.is_finished()));
            kill(pid);
            readers.into_iter().for_each(|r| r.join().unwrap());
            longest = longest.max(since.elapsed());
            assert_ne!(sandbox.pid(), pid);
        });
        assert_eq!(server.requests(&dropped.nar), 3);
        assert_eq!(server.requests(&absent.nar), 2);
    }
    let (took, longest) = (began.elapsed().as_secs_f64(), longest.as_millis());
    println!("{KILLS} kills in {took:.1} s, longest wait {longest} ms");
    assert_eq!(sandbox.keeper(), keeper);
    assert_eq!(sandbox.json(&["verify"])["failures"], serde_json::json!([]));
}

#[test]
fn a_keeper_that_is_killed_is_replaced() {
    let sandbox = Sandbox::mounted();
    let bash = sandbox.package(World::small(), "bash").join("bin/bash");
    let file = File::open(&bash).unwrap();
    let expected = read_anew(&file);
    for round in 0..3 {
        let (keeper, pid) = (sandbox.keeper(), sandbox.pid());
        kill(keeper);
        assert!(read_anew(&file) == expected);
        wait_until("another daemon serves", || sandbox.pid() != pid);
        assert_ne!(sandbox.keeper(), keeper);
        assert!(read_anew(&file) == expected);
        // It is as good as the first.
        match round {
            0 => kill(sandbox.pid()),
            1 => drop(sandbox.narfs(&["upgrade"])),
            _ => {}
        }
        assert!(read_anew(&file) == expected);
    }
    let (keeper, pid) = (sandbox.keeper(), sandbox.pid());
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
    drop(file);
    wait_until("it can be unmounted", || {
        let umount = ["umount", sandbox.at.to_str().unwrap()];
        run(&mut sandbox.command(&umount), b"").code == Some(0)
    });
    wait_until("both have ended", || !is_alive(keeper) && !is_alive(pid));
}

#[test]
fn a_file_can_be_closed_while_no_daemon_is_there() {
    let sandbox = Sandbox::mounted();
    let keeper = Pid::from_raw(sandbox.keeper().cast_signed()).unwrap();
    let pid = sandbox.pid();
    // The first that is ever opened here, so that nobody else has told the kernel not to ask.
    let file = File::open(sandbox.package(World::small(), "bash").join("bin/bash")).unwrap();
    kill_process(keeper, Signal::STOP).unwrap();
    kill(pid);
    wait_until("the daemon has ended", || !is_alive(pid));
    let closed = std::thread::spawn(move || drop(file));
    wait_until("it is closed", || closed.is_finished());
    kill_process(keeper, Signal::CONT).unwrap();
    assert_ne!(sandbox.pid(), pid);
}
