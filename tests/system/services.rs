//! A daemon under a service manager that keeps descriptors, and the units that it is given.
//!
//! The manager is a small one of the test's own, which does what sd_notify(3) and sd_listen_fds(3) say of
//! systemd: so the test needs none as process 1.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Sandbox, World, is_alive, read_anew, run, wait_until};

/// A service manager for one service.
struct Manager<'s> {
    sandbox: &'s Sandbox,
    name: PathBuf,
    socket: UnixDatagram,
    store: BTreeMap<String, OwnedFd>,
    daemon: Option<Child>,
    pings: u32,
}

impl<'s> Manager<'s> {
    fn new(sandbox: &'s Sandbox) -> Self {
        let name = sandbox.dir().join("notify");
        let socket = UnixDatagram::bind(&name).unwrap();
        Self {
            sandbox,
            name,
            socket,
            store: BTreeMap::new(),
            daemon: None,
            pings: 0,
        }
    }

    /// Starts the service with what is kept for it, and waits until it is ready.
    fn start(&mut self) {
        let at = self.sandbox.at.to_str().unwrap();
        let mount = self
            .sandbox
            .command(&["mount", at, "--offline", "--foreground"]);
        // The number of the process stands in its environment, which only it knows in time.
        let mut command = Command::new("sh");
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
        command.arg(mount.get_program()).args(mount.get_args());
        for (name, value) in mount.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("NOTIFY_SOCKET", &self.name)
            .env("FDSTORE", "16");
        command.env("NARFS_CONFIG", self.configuration());
        command.env("WATCHDOG_USEC", "300000");
        command.env("LISTEN_FDS", self.store.len().to_string());
        let names: Vec<_> = self.store.keys().cloned().collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        let numbers: Vec<_> = self.store.values().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // First out of the way of each other.
                let high = numbers.iter().map(|n| libc::fcntl(*n, libc::F_DUPFD, 100));
                let high: Vec<_> = high.collect();
                for (place, number) in (3..).zip(high) {
                    libc::dup2(number, place);
                    libc::close(number);
                }
                Ok(())
            });
        }
        self.daemon = Some(command.spawn().unwrap());
        while !self.hear().lines().any(|l| l == "READY=1") {}
    }

    /// The configuration file of the service, which may be absent.
    fn configuration(&self) -> PathBuf {
        let file = self.sandbox.dir().join("config.toml");
        if file.exists() {
            file
        } else {
            "/dev/null".into()
        }
    }

    /// The next message; what it says of descriptors is done.
    fn hear(&mut self) -> String {
        self.socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let socket = self.socket.as_fd();
        let length = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, flags);
        let length = length.unwrap().bytes;
        let mut descriptor = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut all) = message {
                descriptor = all.next();
            }
        }
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let name = text.lines().find_map(|l| l.strip_prefix("FDNAME="));
        match (name, descriptor) {
            (Some(name), Some(descriptor)) => {
                self.store.insert(name.to_owned(), descriptor);
            }
            (Some(name), None) if text.contains("FDSTOREREMOVE=1") => {
                self.store.remove(name);
            }
            _ => self.pings += u32::from(text.contains("WATCHDOG=1")),
        }
        text
    }

    /// Hears what is there to be heard.
    fn catch_up(&mut self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let is_there = |socket: &UnixDatagram| {
            let mut asked = [PollFd::new(socket, PollFlags::IN)];
            poll(&mut asked, Some(&now)).unwrap() > 0
        };
        while is_there(&self.socket) {
            self.hear();
        }
    }

    /// Sends a signal to the service, and waits for its end.
    fn end(&mut self, signal: Signal) -> ExitStatus {
        let daemon = self.daemon.as_ref().unwrap();
        kill_process(Pid::from_child(daemon), signal).unwrap();
        self.ended()
    }

    /// Waits for the end of the service. Who sends to a manager that hears nothing waits for it, too.
    fn ended(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let mut status = None;
        wait_until("the service ends", || {
            self.catch_up();
            status = daemon.try_wait().unwrap();
            status.is_some()
        });
        self.catch_up();
        status.unwrap()
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

#[test]
fn a_service_that_is_killed_stopped_or_replaced_leaves_its_mount_to_the_next() {
    let sandbox = Sandbox::with_worlds();
    let mut manager = Manager::new(&sandbox);
    manager.start();
    assert_eq!(sandbox.json(&["status"])["supervisor"], "service manager");
    let bash = sandbox.package(World::small(), "bash").join("bin/bash");
    let file = File::open(&bash).unwrap();
    let expected = read_anew(&file);
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL, Signal::INT] {
        let status = manager.end(signal);
        assert_eq!(status.code(), (signal != Signal::KILL).then_some(75));
        assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
        let reader = {
            let file = file.try_clone().unwrap();
            std::thread::spawn(move || read_anew(&file))
        };
        manager.start();
        assert!(reader.join().unwrap() == expected);
        assert_eq!(sandbox.pid(), manager.daemon.as_ref().unwrap().id());
    }
    // `narfs upgrade` ends it, so that the manager starts the program of the unit.
    let program = std::env::current_exe().unwrap();
    let said = sandbox.complaint(&["upgrade", "--program", env!("CARGO_BIN_EXE_narfs")]);
    assert!(said.contains("unit"), "{said} {}", program.display());
    let mut upgrade = sandbox.command(&["upgrade"]).spawn().unwrap();
    assert_eq!(manager.ended().code(), Some(75));
    manager.start();
    assert!(upgrade.wait().unwrap().success());
    assert!(read_anew(&file) == expected);

    drop(file);
    // A process that another test is about to start may have the file open for a moment.
    wait_until("it can be unmounted", || {
        rustix::mount::unmount(&sandbox.at, rustix::mount::UnmountFlags::empty()).is_ok()
    });
    assert_eq!(manager.ended().code(), Some(0));
    let kept: Vec<_> = manager.store.keys().collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn a_service_over_another_store_says_by_its_status_that_no_try_will_succeed() {
    let sandbox = Sandbox::with_worlds();
    let manager = Manager::new(&sandbox);
    let other = format!("store/{}-hello", "a".repeat(32));
    fs::create_dir_all(sandbox.at.join(&other)).unwrap();
    let at = sandbox.at.to_str().unwrap();
    let mut service = sandbox.command(&["mount", at, "--offline", "--foreground"]);
    service
        .env("NOTIFY_SOCKET", &manager.name)
        .env("FDSTORE", "16");
    let ran = run(&mut service, b"");
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("has a store of its own"),
        "{}",
        ran.stderr
    );
    assert!(sandbox.at.join(&other).exists());
}

#[test]
fn a_service_serves_on_what_it_did_when_its_configuration_is_wrong() {
    let sandbox = Sandbox::with_worlds();
    let configuration = sandbox.dir().join("config.toml");
    let configure = |text: &str| fs::write(&configuration, text).unwrap();
    let budget = || sandbox.json(&["status"])["budget"].clone();
    let mistake = || sandbox.json(&["status"])["configuration"].clone();
    configure("[mount]\nbudget = \"30M\"\n");
    let mut manager = Manager::new(&sandbox);
    manager.start();
    configure("no-such-setting = 3\n");
    manager.end(Signal::KILL);
    manager.start();
    assert_eq!((budget(), mistake().is_null()), ((30 << 20).into(), true));
    // As `systemctl restart` does.
    manager.end(Signal::TERM);
    manager.start();
    assert_eq!(budget(), 30 << 20);
    let said = mistake().to_string();
    assert!(said.contains("config.toml:1: "), "{said}");
    configure("[mount]\nbudget = \"40M\"\n");
    manager.end(Signal::KILL);
    manager.start();
    assert_eq!(budget(), 30 << 20);
    manager.end(Signal::TERM);
    manager.start();
    assert_eq!((budget(), mistake().is_null()), ((40 << 20).into(), true));
}

#[test]
fn a_service_that_was_stopped_is_named_to_who_wants_its_state() {
    let sandbox = Sandbox::with_worlds();
    let mut manager = Manager::new(&sandbox);
    manager.start();
    let pid = sandbox.pid();
    manager.end(Signal::TERM);
    let said = sandbox.complaint(&["path-info"]);
    assert!(
        said.contains("was stopped") && said.contains(&pid.to_string()),
        "{said}"
    );
    assert!(said.contains("systemctl start narfs"), "{said}");
    // Unmounted meanwhile, which waits for no daemon: the next one mounts anew.
    sandbox.unmount();
    manager.start();
    assert!(sandbox.package(World::small(), "bash").exists());
    assert_eq!(sandbox.mounts(), std::slice::from_ref(&sandbox.at));
}

#[test]
fn a_service_says_that_it_is_well_while_it_answers() {
    let sandbox = Sandbox::with_worlds();
    let mut manager = Manager::new(&sandbox);
    manager.start();
    let (pid, began) = (sandbox.pid(), Instant::now());
    while manager.pings < 5 {
        manager.hear();
    }
    // One every third of the time that the manager waits.
    assert!(began.elapsed() > Duration::from_millis(200));
    assert!(is_alive(pid));
}

/// The units, with a program where they want it; their files.
fn units(sandbox: &Sandbox) -> Vec<PathBuf> {
    let units = sandbox.make_dir("units");
    let bin = sandbox.make_dir("bin");
    fs::copy("/bin/true", bin.join("narfs")).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut found = Vec::new();
    for entry in fs::read_dir(&source)
        .unwrap()
        .chain(fs::read_dir(source.join("examples")).unwrap())
    {
        let path = entry.unwrap().path();
        let kind = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if ["service", "timer", "socket", "mount", "automount"].contains(&kind) {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.replace("/usr/local/bin", bin.to_str().unwrap());
            let unit = units.join(path.file_name().unwrap());
            fs::write(&unit, text).unwrap();
            found.push(unit);
        }
    }
    assert!(found.len() >= 6);
    found
}

#[test]
fn the_units_are_what_systemd_understands() {
    let sandbox = Sandbox::empty();
    let names = units(&sandbox);
    let units = names[0].parent().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&names);
    verify.env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()));
    let ran = run(&mut verify, b"");
    // Older versions do not know all settings, and say so.
    let newer = [
        "RestartSteps",
        "RestartMaxDelaySec",
        "FileDescriptorStorePreserve",
    ];
    let said: Vec<_> = ran
        .stderr
        .lines()
        .filter(|l| l.contains(units.to_str().unwrap()))
        .filter(|l| !newer.iter().any(|n| l.contains(n)))
        .collect();
    assert!(said.is_empty(), "{said:#?}");
    // It has read them.
    let service = names.iter().find(|n| n.extension().unwrap() == "service");
    fs::write(service.unwrap(), "[Service]\nNonsense=1\n").unwrap();
    let ran = run(&mut verify, b"");
    assert!(ran.stderr.contains("Nonsense"), "{}", ran.stderr);
}

/// The exposure that systemd sees in a service, from 0 to 10. Less is better, and more would be a
/// change for the worse. Versions of systemd differ by some tenths.
const EXPOSED: [(&str, f64); 4] = [
    // These mount, as root, so that much cannot be taken from them.
    ("narfs.service", 4.9),
    ("narfs-daemon.service", 4.9),
    ("narfs-gc.service", 2.5),
    ("narfs-http.service", 0.4),
];

#[test]
fn services_are_no_more_exposed_than_they_must_be() {
    let sandbox = Sandbox::empty();
    let all = units(&sandbox);
    let services = all.iter().filter(|u| u.extension().unwrap() == "service");
    for unit in services {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let bound = EXPOSED.iter().find(|(n, _)| *n == name);
        let (_, bound) = bound.unwrap_or_else(|| panic!("{name} has no bound"));
        let mut analyze = Command::new("systemd-analyze");
        analyze
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(unit);
        let ran = run(&mut analyze, b"");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let rating = format!("exposure level for {name}: ");
        let (_, rating) = said
            .split_once(&rating)
            .unwrap_or_else(|| panic!("{said}{}", ran.stderr));
        let exposed: f64 = rating.split(' ').next().unwrap().parse().unwrap();
        assert!(exposed <= *bound, "{said}");
    }
}
