//! The daemon's life: it starts, says so, ends with its mount, and what a killed one leaves is
//! taken away.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Sandbox, World, is_alive, run, succeed, wait_until};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// A process that is ended with the test.
struct Other(Child);

impl Other {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn status_names_the_process_and_the_mount_point() {
    let sandbox = Sandbox::mounted();
    let status = sandbox.json(&["status"]);
    assert_eq!(status["mountpoint"], sandbox.at.to_str().unwrap());
    assert_eq!(status["state"], sandbox.state.to_str().unwrap());
    let pid = sandbox.pid();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let ours = fs::canonicalize(env!("CARGO_BIN_EXE_narfs")).unwrap();
    assert_eq!(program, ours);
}

#[test]
fn a_mount_runs_in_a_session_of_its_own_and_holds_nothing_of_the_caller() {
    let sandbox = Sandbox::with_worlds();
    // Returns at the end of its output: a daemon that held the pipe would make it wait.
    sandbox.mount();
    let pid = sandbox.pid();
    for fd in [0, 1, 2] {
        let to = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        let expected = if fd == 0 {
            Path::new("/dev/null").to_owned()
        } else {
            sandbox.state.join("narfs.log")
        };
        assert_eq!(to, expected, "descriptor {fd}");
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap();
    assert_eq!(session, pid.to_string());
}

#[test]
fn the_daemon_does_not_keep_the_callers_directory_busy() {
    let sandbox = Sandbox::with_worlds();
    let other = sandbox.make_dir("other");
    succeed(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&other),
    );
    let mut mount = sandbox.command(&["mount", "../nix", "--offline"]);
    succeed(mount.current_dir(&other));
    assert!(sandbox.store().exists());
    succeed(Command::new("umount").arg(&other));
    sandbox.unmount();
}

#[test]
fn the_daemon_holds_no_descriptor_of_whoever_started_it() {
    let sandbox = Sandbox::with_worlds();
    let lock = sandbox.dir().join("lock");
    let mount = sandbox.command(&["mount", "--offline", sandbox.at.to_str().unwrap()]);
    let mut script = Command::new("bash");
    script
        .args(["-c", "exec 9>\"$0\"; flock 9; \"$@\""])
        .arg(&lock);
    script.arg(mount.get_program()).args(mount.get_args());
    script.env("NARFS_CONFIG", "/dev/null");
    succeed(script.env("NARFS_STATE", &sandbox.state));
    let held = fs::read_dir(format!("/proc/{}/fd", sandbox.pid())).unwrap();
    let held = held.filter_map(|e| fs::read_link(e.ok()?.path()).ok());
    let held: Vec<_> = held.filter(|f| *f == lock).collect();
    assert!(held.is_empty(), "the daemon would keep it locked for ever");
}

#[test]
fn commands_in_another_pid_namespace_reach_the_daemon() {
    let mut sandbox = Sandbox::with_worlds();
    let pid_namespace = |sandbox: &Sandbox, arguments: &[&str]| {
        let command = sandbox.command(arguments);
        let mut unshare = Command::new("unshare");
        // As for who enters the mounts of a container only: /proc does not know this process.
        let entered = "unshare --pid --fork mount -t proc proc /proc && exec \"$@\"";
        unshare.args(["--mount", "sh", "-c", entered, "sh"]);
        unshare.arg(command.get_program()).args(command.get_args());
        unshare.env("NARFS_CONFIG", "/dev/null");
        unshare.env("NARFS_STATE", &sandbox.state);
        run(&mut unshare, b"")
    };
    sandbox.mount();
    let served = format!("process {}", sandbox.pid());
    for arguments in [&["status"][..], &["path-info"], &["pins"]] {
        let ran = pid_namespace(&sandbox, arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
    }
    let ran = pid_namespace(&sandbox, &["status"]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(said.contains(&served), "{said}");
    sandbox.unmount();
    // The address of a socket has no room for a path like this one.
    let long = sandbox.make_dir(&"long/".repeat(30));
    let from = std::mem::replace(&mut sandbox.state, long.join("state"));
    fs::rename(from, &sandbox.state).unwrap();
    sandbox.mount();
    sandbox.narfs(&["status"]);
    let ran = pid_namespace(&sandbox, &["status"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("PID namespace"), "{ran:?}");
    sandbox.unmount();
}

#[test]
fn umount_ends_the_daemon_and_frees_the_state() {
    let sandbox = Sandbox::mounted();
    let pid = sandbox.pid();
    assert!(is_alive(pid));
    sandbox.unmount();
    wait_until("the daemon has ended", || !is_alive(pid));
    assert!(sandbox.mounts().is_empty());
    assert!(!sandbox.store().exists());
    // Opens the state itself, and as its owner.
    let file = sandbox.dir().join("file");
    fs::write(&file, "x").unwrap();
    sandbox.add(&file);
    sandbox.mount();
    assert_ne!(sandbox.pid(), pid);
}

#[test]
fn umount_of_a_busy_mount_says_who_uses_it_and_changes_nothing() {
    let sandbox = Sandbox::mounted();
    let umount = ["umount", sandbox.at.to_str().unwrap()];
    let hello = sandbox.package(World::small(), "hello");
    let sleep = || {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdin(Stdio::null());
        sleep
    };
    let is_busy_by = |user: &Other, name: &str| {
        // Between fork and exec it is called otherwise.
        let comm = format!("/proc/{}/comm", user.0.id());
        wait_until("the program runs", || {
            fs::read_to_string(&comm).is_ok_and(|c| c.trim() == name)
        });
        let said = sandbox.complaint(&umount);
        let expected = format!("{} ({name})", user.0.id());
        assert!(
            said.contains("in use by") && said.contains(&expected),
            "{said}"
        );
        assert!(hello.exists());
    };
    is_busy_by(&Other::start(sleep().current_dir(&hello)), "sleep");
    let file = File::open(hello.join("bin/hello")).unwrap();
    is_busy_by(&Other::start(sleep().stdin(file)), "sleep");

    // A program of the mount, with its libraries, which it holds open only as mappings.
    sandbox.bind_to_nix(&sandbox.at);
    let program = format!(
        "/nix/store/{}/bin/sleep",
        World::small().package("coreutils")
    );
    let running = Other::start(Command::new(program).arg("1000"));
    let said = sandbox.complaint(&["umount", "/nix"]);
    assert!(
        said.contains(&format!("{} (sleep)", running.0.id())),
        "{said}"
    );
    drop(running);
    rustix::mount::unmount("/nix", rustix::mount::UnmountFlags::DETACH).unwrap();
    sandbox.unmount();
}

#[test]
fn a_mapped_file_counts_as_use() {
    let sandbox = Sandbox::mounted();
    let file = File::open(sandbox.package(World::small(), "bash").join("bin/bash")).unwrap();
    // SAFETY: a new mapping, which is unmapped below and not read.
    let mapped = unsafe {
        use std::os::fd::AsRawFd;
        let (none, private) = (std::ptr::null_mut(), libc::MAP_PRIVATE);
        libc::mmap(none, 4096, libc::PROT_READ, private, file.as_raw_fd(), 0)
    };
    assert_ne!(mapped, libc::MAP_FAILED);
    drop(file);
    let said = sandbox.complaint(&["umount", sandbox.at.to_str().unwrap()]);
    let own = format!("{} (", std::process::id());
    assert!(said.contains(&own), "{said}");
    // SAFETY: the mapping from above.
    unsafe { libc::munmap(mapped, 4096) };
    sandbox.unmount();
}

#[test]
fn a_lazy_umount_takes_the_mount_away_and_serves_its_users_to_the_end() {
    let sandbox = Sandbox::mounted();
    let pid = sandbox.pid();
    let bash = sandbox.package(World::small(), "bash").join("bin/bash");
    let expected = fs::read(&bash).unwrap();
    let file = File::open(&bash).unwrap();
    sandbox.narfs(&["umount", "--lazy", sandbox.at.to_str().unwrap()]);
    assert!(!sandbox.store().exists());
    assert!(is_alive(pid));
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut contents = Vec::new();
    std::io::Read::read_to_end(&mut &file, &mut contents).unwrap();
    assert_eq!(contents, expected);
    drop(file);
    wait_until("the daemon has ended", || !is_alive(pid));
}

#[test]
fn sigterm_unmounts_and_ends_the_daemon() {
    for (what, number) in [("SIGTERM", Signal::TERM), ("SIGINT", Signal::INT)] {
        let sandbox = Sandbox::mounted();
        let second = sandbox.make_dir("second");
        sandbox.narfs(&["mount", second.to_str().unwrap(), "-o", "subtree=store"]);
        let pid = sandbox.pid();
        signal(pid, number);
        wait_until(&format!("{what} ends the daemon"), || !is_alive(pid));
        assert!(
            sandbox.mounts().is_empty(),
            "{what}: {:?}",
            sandbox.mounts()
        );
        sandbox.narfs(&["stats"]);
    }
}

#[test]
fn sigterm_ends_a_daemon_whose_mount_is_in_use() {
    let sandbox = Sandbox::mounted();
    let pid = sandbox.pid();
    let file = File::open(sandbox.package(World::small(), "bash").join("bin/bash")).unwrap();
    signal(pid, Signal::TERM);
    wait_until("the daemon has ended", || !is_alive(pid));
    assert!(sandbox.mounts().is_empty());
    // Not a hang.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut buffer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut &file, &mut buffer);
}

#[test]
fn the_dead_mount_of_a_killed_daemon_is_recovered_by_the_next() {
    let sandbox = Sandbox::with_worlds();
    let hello = World::small().package("hello");
    for (options, path) in [(vec![], "store"), (vec!["-o", "subtree=store"], "")] {
        let at = sandbox.at.to_str().unwrap();
        let mut mount = vec!["mount", at, "--offline"];
        mount.extend(options);
        sandbox.narfs(&mount);
        sandbox.kill();
        // Of attributes, what the kernel has kept would still be shown.
        wait_until("the mount is dead", || {
            rustix::fs::statvfs(&sandbox.at).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
        });
        assert!(!sandbox.is_served());
        sandbox.narfs(&mount);
        assert!(sandbox.at.join(path).join(hello).exists());
        assert_eq!(sandbox.mounts().len(), 1);
        sandbox.unmount();
        assert!(sandbox.mounts().is_empty());
    }
}

#[test]
fn umount_takes_a_dead_mount_away() {
    let sandbox = Sandbox::mounted();
    sandbox.kill();
    sandbox.unmount();
    assert!(sandbox.mounts().is_empty());
    assert_eq!(fs::read_dir(&sandbox.at).unwrap().count(), 0);
}

#[test]
fn a_daemon_in_the_foreground_tells_its_service_manager() {
    let sandbox = Sandbox::with_worlds();
    let manager = sandbox.dir().join("notify");
    let socket = UnixDatagram::bind(&manager).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let receive = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let at = sandbox.at.to_str().unwrap();
    let mut mount = sandbox.command(&["mount", at, "--offline", "--foreground"]);
    let mut daemon = Other::start(mount.env("NOTIFY_SOCKET", &manager));
    let hears = |line: &str| while !receive().lines().any(|l| l == line) {};
    hears("READY=1");
    // Ready is ready: the mount answers and commands go to it.
    assert!(sandbox.store().exists());
    assert_eq!(sandbox.pid(), daemon.0.id());
    sandbox.unmount();
    hears("STOPPING=1");
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn a_daemon_in_the_foreground_is_refused_where_another_serves_the_state() {
    let sandbox = Sandbox::mounted();
    let second = sandbox.make_dir("second");
    let said = sandbox.complaint(&["mount", "--foreground", second.to_str().unwrap()]);
    assert!(said.contains("--foreground"), "{said}");
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
}

#[test]
fn many_read_aheads_may_wait_at_once() {
    let sandbox = Sandbox::mounted();
    let connections = sandbox.make_dir("connections");
    succeed(
        Command::new("mount")
            .args(["-t", "fusectl", "none"])
            .arg(&connections),
    );
    let device = fs::metadata(&sandbox.at).unwrap().dev();
    let number = rustix::fs::minor(device);
    let limit = connections.join(number.to_string()).join("max_background");
    let limit = fs::read_to_string(limit).unwrap();
    assert!(limit.trim().parse::<u32>().unwrap() >= 512, "{limit}");
}
