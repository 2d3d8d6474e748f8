//! mount(8) and fstab, with `mount.narfs` installed where only the test sees it.

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Sandbox, World, is_alive, read_everything, run, succeed, wait_until};

/// What a daemon of a test must be told: mount(8) gives its helper no environment.
pub const OURS: &str = "ro,offline,config=/dev/null";

/// The helper, built as the program under test is.
pub fn helper() -> &'static Path {
    static HELPER: OnceLock<PathBuf> = OnceLock::new();
    HELPER.get_or_init(|| {
        let directory = Path::new(env!("CARGO_BIN_EXE_narfs")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "mount-narfs"]);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        build.arg("--target-dir").arg(directory.parent().unwrap());
        succeed(&mut build);
        directory.join("mount-narfs")
    })
}

/// Installs narfs and its helper, for this test's mount namespace.
pub fn install(sandbox: &Sandbox) {
    let sbin = sandbox.make_dir("sbin");
    fs::copy(helper(), sbin.join("mount.narfs")).unwrap();
    for link in ["umount.fuse.narfs", "mount.fuse.narfs"] {
        symlink("mount.narfs", sbin.join(link)).unwrap();
    }
    let bin = sandbox.make_dir("bin");
    symlink(env!("CARGO_BIN_EXE_narfs"), bin.join("narfs")).unwrap();
    let place = fs::canonicalize("/sbin").unwrap();
    rustix::mount::mount_bind(&sbin, &place).unwrap();
    rustix::mount::mount_bind(&bin, "/usr/local/bin").unwrap();
    // Where mount(8) notes what the kernel does not keep, such as _netdev.
    fs::create_dir_all("/run/mount").unwrap();
    rustix::mount::mount_bind(sandbox.make_dir("notes"), "/run/mount").unwrap();
}

pub fn installed() -> Sandbox {
    let sandbox = Sandbox::with_worlds();
    install(&sandbox);
    sandbox
}

/// `mount -t narfs` of the sandbox's state.
pub fn mount(sandbox: &Sandbox, at: &Path, options: &str) -> Command {
    let mut mount = Command::new("mount");
    mount.args(["-t", "narfs"]).arg(&sandbox.state).arg(at);
    mount.args(["-o", options]);
    mount
}

fn umount(at: &Path) {
    succeed(Command::new("umount").arg(at));
}

/// What mount(8) says when it fails with this exit status.
pub fn refusal(command: &mut Command, status: i32) -> String {
    let ran = run(command, b"");
    assert_eq!(ran.code, Some(status), "{command:?}: {}", ran.stderr);
    ran.stderr
}

/// A daemon without a mount of its own.
struct Waiting(Child);

impl Waiting {
    fn start(sandbox: &Sandbox) -> Self {
        let mut daemon = sandbox.command(&["daemon", "--offline"]);
        let daemon = Self(daemon.stdin(Stdio::null()).spawn().unwrap());
        wait_until("the daemon listens", || sandbox.is_served());
        daemon
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn mount_starts_a_daemon_that_umount_ends() {
    let sandbox = installed();
    for (options, store) in [("", "store"), (",subtree=store", "")] {
        let said = run(
            &mut mount(&sandbox, &sandbox.at, &format!("{OURS}{options}")),
            b"",
        );
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
        let hello = sandbox.at.join(store).join(World::small().package("hello"));
        assert!(read_everything(&hello) > 0);
        let mut findmnt = Command::new("findmnt");
        findmnt.args(["-n", "-o", "FSTYPE,OPTIONS", "-M"]);
        let shown = succeed(findmnt.arg(&sandbox.at));
        for expected in ["fuse.narfs", "ro,nosuid,nodev,noatime", "allow_other"] {
            assert!(shown.contains(expected), "{shown}");
        }
        assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
        let written = fs::write(sandbox.at.join("x"), "").unwrap_err();
        assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let (pid, keeper) = (sandbox.pid(), sandbox.keeper());
        umount(&sandbox.at);
        wait_until("daemon and keeper have ended", || {
            !is_alive(pid) && !is_alive(keeper)
        });
        assert!(sandbox.mounts().is_empty());
    }
}

#[test]
fn mount_of_a_state_that_is_served_shows_the_same_superblock() {
    let sandbox = installed();
    sandbox.mount();
    let [store, whole] = ["other/store", "whole"].map(|d| sandbox.make_dir(d));
    let said = run(
        &mut mount(&sandbox, &store, &format!("{OURS},subtree=store,noexec")),
        b"",
    );
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("change nothing: offline,config"),
        "{}",
        said.stderr
    );
    succeed(&mut mount(&sandbox, &whole, "ro"));
    let bash = |store: &Path| store.join(World::small().package("bash")).join("bin/bash");
    let places = [sandbox.store(), whole.join("store"), store.clone()];
    let files = places.each_ref().map(|p| bash(p));
    for file in &files {
        let [first, other] = [&files[0], file].map(|f| fs::metadata(f).unwrap());
        assert_eq!((first.dev(), first.ino()), (other.dev(), other.ino()));
    }
    let executed = Command::new(bash(&store)).arg("--version").output();
    let denied = executed.unwrap_err();
    assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
    let pid = sandbox.pid();
    for at in [&sandbox.at, &whole, &store] {
        assert_eq!(sandbox.pid(), pid);
        umount(at);
    }
    wait_until("the daemon has ended", || !is_alive(pid));
}

#[test]
fn the_whole_is_not_to_be_had_where_only_the_store_is_mounted() {
    let sandbox = installed();
    let options = format!("{OURS},subtree=store");
    succeed(&mut mount(&sandbox, &sandbox.at, &options));
    let second = sandbox.make_dir("second");
    let said = refusal(&mut mount(&sandbox, &second, "ro"), 32);
    assert!(said.contains("only the store is mounted"), "{said}");
    succeed(&mut mount(&sandbox, &second, "ro,subtree=store"));
    assert!(second.join(World::small().package("hello")).exists());
}

#[test]
fn calls_at_the_same_time_share_one_daemon_and_one_superblock() {
    let sandbox = installed();
    let places: Vec<_> = (0..4).map(|n| sandbox.make_dir(&format!("m{n}"))).collect();
    let mut calls: Vec<_> = places
        .iter()
        .map(|at| mount(&sandbox, at, OURS).spawn().unwrap())
        .collect();
    for call in &mut calls {
        assert!(call.wait().unwrap().success());
    }
    let devices = places.iter().map(|at| fs::metadata(at).unwrap().dev());
    let devices: std::collections::BTreeSet<_> = devices.collect();
    assert_eq!(devices.len(), 1);
    assert_eq!(sandbox.mounts().len(), places.len());
}

#[test]
fn a_waiting_daemon_serves_one_mount_after_the_other() {
    let sandbox = installed();
    let daemon = Waiting::start(&sandbox);
    let hello = sandbox.package(World::small(), "hello");
    let at = sandbox.at.to_str().unwrap();
    let umounts: [&[&str]; 4] = [
        &["umount", at],
        &["umount", "-l", at],
        &["fusermount3", "-u", at],
        &["fusermount3", "-u", "-z", at],
    ];
    for unmount in umounts {
        succeed(&mut mount(&sandbox, &sandbox.at, "ro"));
        assert!(read_everything(&hello) > 0, "{unmount:?}");
        assert_eq!(sandbox.pid(), daemon.0.id());
        succeed(Command::new(unmount[0]).args(&unmount[1..]));
        assert!(!hello.exists() && sandbox.mounts().is_empty());
        wait_until("the daemon waits", || {
            sandbox.json(&["status"])["mountpoints"] == serde_json::json!([])
        });
    }
    // The program's own mount and umount go through it too.
    for _ in 0..2 {
        sandbox.narfs(&["mount", at]);
        assert!(hello.exists());
        assert_eq!(sandbox.pid(), daemon.0.id());
        sandbox.unmount();
    }
    // What changes now is seen by the mount that comes.
    let file = sandbox.dir().join("file");
    fs::write(&file, "x").unwrap();
    succeed(&mut mount(&sandbox, &sandbox.at, "ro"));
    let before = sandbox.listing();
    let added = sandbox.add(&file);
    assert!(!before.contains(&added) && sandbox.listing().contains(&added));
    drop(daemon);
    assert!(sandbox.mounts().is_empty());
}

#[test]
fn fstab_lines_are_mounted_once() {
    let sandbox = installed();
    let second = sandbox.make_dir("a place/second");
    let fstab = sandbox.dir().join("fstab");
    let state = sandbox.state.to_str().unwrap();
    let lines = [
        format!(
            "{state} {} narfs {OURS},_netdev,nofail,x-systemd.requires=narfs-daemon.service 0 0",
            sandbox.at.display()
        ),
        format!(
            "{state} {} narfs ro,nosuid,auto,comment=second 0 0",
            second.to_str().unwrap().replace(' ', "\\040")
        ),
        format!("{state} {state}/absent narfs ro,noauto 0 0"),
    ];
    fs::write(&fstab, lines.join("\n") + "\n").unwrap();
    let all = || {
        let mut all = Command::new("mount");
        all.arg("-a").arg("-T").arg(&fstab);
        all
    };
    succeed(&mut all());
    let hello = World::small().package("hello");
    assert!(sandbox.store().join(hello).exists() && second.join("store").join(hello).exists());
    succeed(&mut all());
    assert_eq!(sandbox.mounts().len(), 2);
    umount(&second);
    umount(&sandbox.at);
    // By the mount point alone, and not what is only to be looked at.
    wait_until("the daemon has ended", || !sandbox.is_served());
    let mut one = Command::new("mount");
    one.arg("-T").arg(&fstab).arg("--fake").arg(&sandbox.at);
    succeed(&mut one);
    assert!(sandbox.mounts().is_empty() && !sandbox.is_served());
    let mut one = Command::new("mount");
    succeed(one.arg("-T").arg(&fstab).arg(&sandbox.at));
    assert!(sandbox.store().join(hello).exists());
}

#[test]
fn what_cannot_be_mounted_has_its_exit_status_and_says_what_to_do() {
    let sandbox = installed();
    let said =
        |options: &str, at: &Path, status: i32| refusal(&mut mount(&sandbox, at, options), status);
    let full = sandbox.make_dir("full");
    fs::write(full.join("file"), "").unwrap();
    let busy = sandbox.make_dir("busy");
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&busy),
    );
    for (options, at, status, why) in [
        ("ro,typo", &sandbox.at, 1, "unknown option \"typo\""),
        ("ro,from", &sandbox.at, 1, "from needs a value"),
        ("ro,remount", &sandbox.at, 32, "no narfs is mounted"),
        ("ro,budget=1Q", &sandbox.at, 1, "budget"),
        ("ro,subtree=var", &sandbox.at, 1, "subtree=store"),
        (
            "ro,subtree=store,writable-profiles",
            &sandbox.at,
            1,
            "no profiles",
        ),
        ("ro", &full, 32, "is not empty"),
        ("ro", &full.join("file"), 32, "is not a directory"),
        ("ro", &full.join("absent"), 32, "does not exist"),
        ("ro", &busy, 32, "tmpfs from none"),
        ("ro,key=nonsense", &sandbox.at, 32, "nonsense"),
    ] {
        let said = said(options, at, status);
        assert!(said.contains(why), "{options}: {said}");
        assert!(!sandbox.is_served(), "{options}");
    }
    assert_eq!(sandbox.mounts(), [busy]);
    let mut sloppy = mount(&sandbox, &sandbox.at, &format!("{OURS},typo"));
    succeed(sloppy.arg("-s"));
    let said = said("ro", &sandbox.at, 32);
    assert!(
        said.contains("mounted at") && said.contains("fuse.narfs"),
        "{said}"
    );
}

#[test]
fn the_helper_by_itself_checks_how_it_is_called() {
    let sandbox = installed();
    let (state, at) = (
        sandbox.state.to_str().unwrap(),
        sandbox.at.to_str().unwrap(),
    );
    let above = format!("{at}/../nix");
    for (arguments, why) in [
        (&[][..], "source is missing"),
        (&[at], "source is missing"),
        (&[state, at, "more"], "too many"),
        (&["state", at], "absolute"),
        (&[state, &above], "absolute path without"),
        (&[state, at, "-z"], "unknown flag -z"),
        (&[state, at, "-N", "1"], "nsenter"),
        (&[state, at, "-o"], "-o needs options"),
    ] {
        let said = refusal(Command::new(helper()).args(arguments), 1);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    let help = succeed(Command::new(helper()).arg("-h"));
    assert!(help.contains("subtree=store"), "{help}");
    let version = succeed(Command::new(helper()).arg("-V"));
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    // For others than root there is nothing to be had, setuid or not.
    let mut user = Command::new("/sbin/mount.narfs");
    user.args([state, at]).uid(65534).gid(65534);
    fs::set_permissions(sandbox.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let said = refusal(&mut user, 1);
    assert!(said.contains("only root"), "{said}");
    fs::set_permissions("/sbin/mount.narfs", fs::Permissions::from_mode(0o4755)).unwrap();
    let said = refusal(&mut user, 1);
    assert!(said.contains("must not be setuid"), "{said}");
    // Whoever can write to the state decides what programs are.
    fs::set_permissions(&sandbox.state, fs::Permissions::from_mode(0o777)).unwrap();
    let said = refusal(&mut mount(&sandbox, &sandbox.at, OURS), 1);
    assert!(said.contains("must belong to root"), "{said}");
    assert!(sandbox.mounts().is_empty());
}

#[test]
fn what_is_missing_on_the_machine_is_named() {
    let sandbox = installed();
    fs::remove_file(sandbox.dir().join("bin/narfs")).unwrap();
    let said = refusal(&mut mount(&sandbox, &sandbox.at, OURS), 2);
    assert!(said.contains("the program narfs is missing"), "{said}");
    let _daemon = Waiting::start(&sandbox);
    let dev = sandbox.make_dir("dev");
    rustix::mount::mount_bind(&dev, "/dev").unwrap();
    let said = refusal(&mut mount(&sandbox, &sandbox.at, OURS), 2);
    rustix::mount::unmount("/dev", rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(
        said.contains("/dev/fuse") && said.contains("modprobe"),
        "{said}"
    );
    assert!(sandbox.mounts().is_empty());
}

#[test]
fn a_read_only_file_system_says_so_to_who_wants_to_write() {
    let sandbox = installed();
    // mount(8) itself says rw where nobody says ro.
    let said = run(
        &mut mount(&sandbox, &sandbox.at, "offline,config=/dev/null"),
        b"",
    );
    assert_eq!(said.code, Some(0));
    assert!(said.stderr.contains("read-only"), "{}", said.stderr);
    let file = fs::File::create(sandbox.at.join("x")).unwrap_err();
    assert_eq!(file.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_killed_daemon_that_was_handed_its_mount_is_started_again() {
    let sandbox = installed();
    let options = format!("{OURS},writable-profiles");
    succeed(&mut mount(&sandbox, &sandbox.at, &options));
    let profiles = sandbox.at.join("var/nix/profiles");
    let writable = serde_json::json!([profiles.to_str().unwrap()]);
    let directory = sandbox.package(World::small(), "bash");
    let inode = fs::metadata(&directory).unwrap().ino();
    for _ in 0..2 {
        let pid = sandbox.pid();
        let process = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
        assert!(read_everything(&directory) > 0);
        assert_eq!(fs::metadata(&directory).unwrap().ino(), inode);
        assert_ne!(sandbox.pid(), pid);
        assert_eq!(sandbox.json(&["status"])["writable_profiles"], writable);
    }
    let pid = sandbox.pid();
    succeed(Command::new("umount").arg("-R").arg(&sandbox.at));
    wait_until("the daemon has ended", || !is_alive(pid));
    assert!(sandbox.mounts().is_empty());
}

#[test]
fn a_dead_mount_is_taken_away_by_the_next() {
    let sandbox = installed();
    for options in [OURS, "ro,offline,config=/dev/null,subtree=store"] {
        succeed(&mut mount(&sandbox, &sandbox.at, options));
        sandbox.kill();
        wait_until("the mount is dead", || {
            rustix::fs::statvfs(&sandbox.at).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
        });
        let said = run(&mut mount(&sandbox, &sandbox.at, options), b"");
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stderr.contains("dead mount"), "{}", said.stderr);
        assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
        assert!(fs::read_dir(&sandbox.at).unwrap().count() > 0);
        let pid = sandbox.pid();
        umount(&sandbox.at);
        wait_until("the daemon has ended", || !is_alive(pid));
    }
}

#[test]
fn an_interrupted_call_leaves_nothing() {
    let sandbox = installed();
    // Somebody who never answers.
    let _silent = UnixListener::bind(sandbox.state.join("control.sock")).unwrap();
    let mut call = Command::new(helper());
    call.arg(&sandbox.state).arg(&sandbox.at).args(["-o", OURS]);
    let mut call = call.spawn().unwrap();
    let stack = format!("/proc/{}/wchan", call.id());
    wait_until("it waits for an answer", || {
        fs::read_to_string(&stack).is_ok_and(|w| w.contains("unix_stream"))
    });
    let process = Pid::from_raw(call.id().cast_signed()).unwrap();
    kill_process(process, Signal::INT).unwrap();
    assert_eq!(call.wait().unwrap().code(), Some(8));
    assert!(sandbox.mounts().is_empty());
}

/// What the service is started by; it notes what it was told.
const SYSTEMCTL: &str = "#!/bin/sh
echo \"$@\" >>CALLS
case $5 in
absent.service) exit 5 ;;
broken.service) echo it is broken >&2; exit 1 ;;
esac
NARFS_CONFIG=/dev/null narfs --state STATE daemon --offline </dev/null >/dev/null 2>&1 &
";

#[test]
fn where_systemd_runs_its_service_is_started() {
    let sandbox = installed();
    let run_dir = sandbox.make_dir("run");
    fs::create_dir_all(run_dir.join("systemd/system")).unwrap();
    rustix::mount::mount_bind(&run_dir, "/run").unwrap();
    let systemctl = sandbox.dir().join("bin/systemctl");
    let calls = sandbox.dir().join("calls");
    let script = SYSTEMCTL.replace("CALLS", calls.to_str().unwrap());
    let script = script.replace("STATE", sandbox.state.to_str().unwrap());
    fs::write(&systemctl, script.replace("$5", "$4")).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();

    let with = |unit: &str| mount(&sandbox, &sandbox.at, &format!("{OURS},unit={unit}"));
    let said = refusal(&mut with("broken.service"), 32);
    assert!(
        said.contains("broken.service") && said.contains("it is broken"),
        "{said}"
    );
    let said = refusal(&mut with("--host=x"), 1);
    assert!(said.contains("name a systemd service"), "{said}");

    let said = run(&mut with("ours.service"), b"");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.stderr.contains("change nothing: offline"),
        "{}",
        said.stderr
    );
    assert!(sandbox.package(World::small(), "hello").exists());
    assert_eq!(
        sandbox.json(&["status"])["supervisor"],
        serde_json::Value::Null
    );
    let pid = sandbox.pid();
    umount(&sandbox.at);
    // It goes on.
    assert_eq!(sandbox.pid(), pid);
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::TERM).unwrap();
    wait_until("the service has ended", || !sandbox.is_served());

    // Without a service there is a daemon all the same, and it has a keeper.
    for unit in ["absent.service", "none"] {
        succeed(&mut with(unit));
        let status = sandbox.json(&["status"]);
        assert_eq!(status["supervisor"], "keeper", "{unit}");
        umount(&sandbox.at);
        wait_until("the daemon has ended", || !sandbox.is_served());
    }
    let told = fs::read_to_string(&calls).unwrap();
    let expected = ["broken", "ours", "absent"].map(|u| format!("start --quiet -- {u}.service\n"));
    assert_eq!(told, expected.concat());
}

/// A mount of autofs, as systemd has one for an `.automount` unit.
struct Automount {
    control: fs::File,
    asked: fs::File,
}

impl Automount {
    const READY: libc::Ioctl = 0x9360;
    const CATATONIC: libc::Ioctl = 0x9362;

    /// Who is in this process group does not set it off, as what systemd has mount does not.
    fn start(at: &Path) -> Self {
        let mut ends = [0; 2];
        // SAFETY: there is room for both ends.
        let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_DIRECT | libc::O_CLOEXEC) };
        assert_eq!(made, 0);
        // SAFETY: both are open, and each is taken once.
        let [asked, writer] = ends.map(|end| unsafe { fs::File::from_raw_fd(end) });
        // That of whoever has started the tests is outside of their namespace, and has no number here.
        rustix::process::setpgid(None, None).unwrap();
        let group = rustix::process::getpgrp().as_raw_pid();
        let writer_number = writer.as_raw_fd();
        let options = format!("fd={writer_number},pgrp={group},minproto=5,maxproto=5,direct");
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("systemd-1", at, "autofs", flags, options.as_c_str()).unwrap();
        let control = fs::File::open(at).unwrap();
        Self { control, asked }
    }

    /// The number of the next question, which is for what is missing.
    fn question(&mut self) -> u32 {
        // struct autofs_v5_packet: proto_version, type, wait_queue_token, …
        let mut packet = [0; 512];
        assert!(self.asked.read(&mut packet).unwrap() >= 12);
        let word = |at: usize| u32::from_ne_bytes(packet[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 5, "autofs_ptype_missing_direct");
        word(8)
    }

    fn tell(&self, what: libc::Ioctl, number: u32) -> libc::c_int {
        // SAFETY: the argument is a number.
        unsafe { libc::ioctl(self.control.as_raw_fd(), what, libc::c_ulong::from(number)) }
    }
}

impl Drop for Automount {
    fn drop(&mut self) {
        // Nobody waits for a test that has failed.
        self.tell(Self::CATATONIC, 0);
    }
}

#[test]
fn an_automount_is_filled_when_something_looks_into_it() {
    let sandbox = installed();
    let mut automount = Automount::start(&sandbox.at);
    let mut look = Command::new("ls");
    look.arg(sandbox.package(World::small(), "hello"));
    let look = look.stdout(Stdio::piped()).process_group(0).spawn();
    let number = automount.question();
    // The daemon is in another group: if it looked, it would wait for itself.
    let mounting = mount(&sandbox, &sandbox.at, OURS);
    let mut bounded = Command::new("timeout");
    bounded.args(["--foreground", "30", "mount"]);
    succeed(bounded.args(mounting.get_args()));
    assert_eq!(automount.tell(Automount::READY, number), 0);
    let seen = look.unwrap().wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&seen.stdout).contains("bin"));
    umount(&sandbox.at);
    wait_until("the daemon has ended", || !sandbox.is_served());
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
}
