//! What is in use in whatever way stays, with a source or without one, and what is not goes.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{SHORT, directory, key, plain};
use crate::support::{Sandbox, read_everything, run, succeed, wait_until};

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends what goes on until something is done, however that ends.
pub struct Done<'a>(pub &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A mounted state that was filled from a cache.
struct Filled {
    sandbox: Sandbox,
    offers: Vec<Offer>,
    _server: crate::server::Server,
    _cache: Cache,
}

impl Filled {
    /// Paths of one file each, which are here and were looked into.
    fn with(name: &str, count: u64) -> Self {
        let cache = Cache::new();
        let offers = (0..count).map(|n| directory(&format!("{name}-{n}"), &noise(n + 1, 300_000)));
        let offers: Vec<_> = offers.collect();
        for offer in &offers {
            cache.put(offer);
        }
        let server = plain(&cache);
        let sandbox = Sandbox::empty();
        sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
        let filled = Self {
            sandbox,
            offers,
            _server: server,
            _cache: cache,
        };
        for n in 0..filled.offers.len() {
            filled.read(n);
            // The kernel remembers what is not there, too.
            assert!(!filled.at(n).join("absent").exists());
        }
        filled
    }

    fn at(&self, n: usize) -> PathBuf {
        let name = self.offers[n].path().base_name();
        self.sandbox.store().join(name)
    }

    fn read(&self, n: usize) -> Vec<u8> {
        fs::read(self.at(n).join("file")).unwrap()
    }

    /// Base names of what a command took away.
    fn gone(&self, arguments: &[&str]) -> Vec<String> {
        // An eviction fails where something is left.
        let ran = run(self.sandbox.command(arguments).arg("--json"), b"");
        let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        let paths = report["paths"].as_array().unwrap().iter();
        let names = paths.map(|p| p.as_str().unwrap().trim_start_matches("/nix/store/"));
        names.map(str::to_owned).collect()
    }

    /// Asserts that an eviction and a collection leave the path `n` alone, and take all others.
    fn only_stays(&self, n: usize) {
        let own = self.offers[n].path().base_name();
        let others = self.offers.len() - 1;
        for arguments in [&["evict", "--to", "0"][..], &["gc"]] {
            let mut gone = Vec::new();
            // What the kernel does not let go in time is left to the next one.
            wait_until("the others are gone", || {
                gone.extend(self.gone(arguments));
                gone.len() >= others
            });
            gone.extend(self.gone(arguments));
            assert!(!gone.contains(&own), "{arguments:?} took {own}");
            assert_eq!(gone.len(), others, "{arguments:?}: {gone:?}");
        }
        assert!(self.read(n) == noise(n as u64 + 1, 300_000));
    }

    fn collect_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        wait_until(what, || {
            self.sandbox.narfs(&["gc"]);
            is_so(self)
        });
    }

    /// Asserts that nothing is left when nobody uses anything.
    fn all_goes(&self) {
        self.collect_until("nothing is left", |filled| {
            filled.sandbox.json(&["stats"])["stored_bytes"] == 0
        });
    }

    fn roots(&self) -> String {
        self.sandbox.narfs(&["roots"])
    }
}

/// A shell that binds `from` to `to` in a mount namespace of its own, and says so.
fn bound(from: &Path, to: &Path) -> Running {
    let script = format!(
        "mount --bind '{}' '{}' && touch '{}.bound' && cd / && exec sleep 600",
        from.display(),
        to.display(),
        to.display()
    );
    let mut shell = Command::new("unshare");
    let shell = Running::start(shell.args(["-m", "sh", "-c", &script]));
    let said = to.with_extension("bound");
    wait_until("it is bound", || said.exists());
    shell
}

#[test]
fn a_bind_of_a_path_or_of_a_part_of_it_in_another_mount_namespace_is_a_use() {
    let filled = Filled::with("bound", 3);
    let [whole, part] = ["whole", "part"].map(|name| filled.sandbox.make_dir(name));
    let file = filled.sandbox.dir().join("file");
    fs::write(&file, "").unwrap();
    for (from, to) in [
        (filled.at(1), &whole),
        (filled.at(1).join("file"), &file),
        (filled.at(1), &part),
    ] {
        let _user = bound(&from, to);
        let name = filled.offers[1].path().base_name();
        let roots = filled.roots();
        let line = roots.lines().find(|line| line.contains(&name));
        assert!(line.is_some_and(|l| l.contains("/mountinfo")), "{roots}");
        filled.only_stays(1);
        for n in [0, 2] {
            filled.read(n);
        }
    }
    filled.all_goes();
}

#[test]
fn what_is_mounted_over_a_part_of_a_path_stays_mounted() {
    let filled = Filled::with("over", 2);
    let file = filled.sandbox.dir().join("other");
    fs::write(&file, "other").unwrap();
    let place = filled.at(1).join("file");
    succeed(Command::new("mount").arg("--bind").args([&file, &place]));
    for arguments in [&["evict", "--to", "0"][..], &["gc"]] {
        filled.gone(arguments);
        assert_eq!(fs::read_to_string(&place).unwrap(), "other");
    }
    filled.collect_until("the other is gone", |filled| {
        filled.sandbox.listing() == [filled.offers[1].path().base_name()]
    });
    assert_eq!(fs::read_to_string(&place).unwrap(), "other");
    succeed(Command::new("umount").arg(&place));
    assert!(filled.read(1) == noise(2, 300_000));
    filled.all_goes();
}

#[test]
fn a_file_that_only_the_kernel_knows_to_be_open_is_in_use() {
    let filled = Filled::with("sent", 3);
    let file = fs::File::open(filled.at(2).join("file")).unwrap();
    let (from, to) = UnixStream::pair().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let sent = [file.as_fd()];
    assert!(message.push(SendAncillaryMessage::ScmRights(&sent)));
    let byte = [std::io::IoSlice::new(b"x")];
    sendmsg(&from, &byte, &mut message, SendFlags::empty()).unwrap();
    drop(file);
    // It lies in the socket: no process has it.
    filled.only_stays(2);
    drop((from, to));
    filled.all_goes();
}

#[test]
fn an_overlay_goes_on_with_what_it_has_seen_and_with_what_comes_back() {
    let filled = Filled::with("below-overlay", 2);
    let names = [0, 1].map(|n| filled.offers[n].path().base_name());
    let disk = filled.sandbox.make_dir("disk");
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "upper"])
            .arg(&disk),
    );
    let [upper, work, at] = ["upper", "work", "at"].map(|name| {
        let dir = disk.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    });
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        filled.sandbox.store().display(),
        upper.display(),
        work.display()
    );
    let mut mount = Command::new("mount");
    succeed(
        mount
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(&at),
    );
    let through = |name: &String| fs::read(at.join(name).join("file"));
    let numbers = [0, 1].map(|n| fs::metadata(filled.at(n)).unwrap().ino());
    assert!(through(&names[0]).unwrap() == filled.read(0));
    assert!(!at.join(&names[0]).join("absent").exists());
    // What the overlay has looked at it holds, and it can read it after a collection.
    filled.sandbox.narfs(&["gc"]);
    assert!(through(&names[0]).unwrap() == noise(1, 300_000));
    // When it lets go, the path goes too, and comes back as what it was.
    succeed(Command::new("mount").args(["-o", "remount"]).arg(&at));
    filled.sandbox.narfs(&["gc"]);
    for (n, name) in names.iter().enumerate() {
        assert!(through(name).unwrap() == noise(n as u64 + 1, 300_000));
        assert_eq!(fs::metadata(filled.at(n)).unwrap().ino(), numbers[n]);
    }
    succeed(Command::new("umount").arg(&at));
    succeed(Command::new("umount").arg(&disk));
    filled.all_goes();
}

#[test]
fn a_working_directory_stays_a_path_and_a_script_counts_by_the_command_line() {
    let filled = Filled::with("working", 2);
    let script = filled.sandbox.make_dir("script");
    fs::write(script.join("later"), "later").unwrap();
    let text = "#!/bin/sh\necho up\nread line\ncat \"${0%/*}/later\"\n";
    fs::write(script.join("run"), text).unwrap();
    fs::set_permissions(script.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let added = filled.sandbox.add(&script);
    // A shell that reads from a pipe keeps no file open: all but its command line is given away.
    let mut shell = Command::new("/bin/sh");
    let shell = shell.arg("-c").arg("exec 3<&0; . \"$0\" <&3");
    let file = filled.sandbox.store().join(&added).join("run");
    let shell = shell.arg(&file).current_dir("/").env_clear();
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 3];
    let mut out = shell.stdout.take().unwrap();
    out.read_exact(&mut said).unwrap();
    let mut inside = Command::new("/bin/sleep");
    let inside = Running::start(inside.arg("600").current_dir(filled.at(1)));
    filled.collect_until("the other is gone", |f| f.sandbox.listing().len() == 2);
    let working = fs::read_link(format!("/proc/{}/cwd", inside.0.id())).unwrap();
    assert_eq!(working, filled.at(1));
    let mut left = filled.sandbox.listing();
    left.sort();
    let mut expected = vec![added, filled.offers[1].path().base_name()];
    expected.sort();
    assert_eq!(left, expected);
    drop(inside);
    writeln!(shell.stdin.take().unwrap(), "go").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("later"), "{rest}");
    shell.wait().unwrap();
    filled.all_goes();
}

#[test]
fn what_starts_while_collections_run_is_not_disturbed_and_all_garbage_goes() {
    let filled = Filled::with("busy", 12);
    let (done, collections) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        let collecting = threads.spawn(|| {
            let mut gone = 0;
            while !done.load(Ordering::Relaxed) {
                gone += filled.gone(&["evict", "--to", "0"]).len();
                gone += filled.gone(&["gc"]).len();
                collections.fetch_add(1, Ordering::Relaxed);
            }
            gone
        });
        let _done = Done(&done);
        for round in 0..12 {
            let n = round % 12;
            let mut file = fs::File::open(filled.at(n).join("file")).unwrap();
            let expected = noise(n as u64 + 1, 300_000);
            let mut first = [0; 10_000];
            file.read_exact(&mut first).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            // A whole collection passes.
            let before = collections.load(Ordering::Relaxed);
            wait_until("there is a collection", || {
                collections.load(Ordering::Relaxed) >= before + 2 || collecting.is_finished()
            });
            let mut rest = Vec::new();
            file.read_to_end(&mut rest).unwrap();
            assert!([&first[..], &rest].concat() == expected, "round {round}");
            read_everything(&filled.at(n));
        }
        done.store(true, Ordering::Relaxed);
        assert!(collecting.join().unwrap() > 0);
    });
    filled.all_goes();
}
