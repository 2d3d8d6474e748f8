//! A state, a mount point and a mount namespace for one test.
//!
//! Invariant: what a test mounts is seen by its own thread and by the processes and threads that
//! it starts, and is gone with the sandbox, the daemon with it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use super::process::{Ran, is_alive, run, succeed};
use super::world::World;
use crate::namespaces::{own_descriptors, own_mounts};
use crate::waiting::wait_until;

/// Programs that the tests call.
const PROGRAMS: [&str; 17] = [
    "cc",
    "nix",
    "nix-store",
    "nix-hash",
    "patchelf",
    "unshare",
    "mount",
    "umount",
    "findmnt",
    "fusermount3",
    "flock",
    "chroot",
    "diff",
    "find",
    "tar",
    "mke2fs",
    "python3",
];

/// A state, a mount point and a mount namespace.
pub struct Sandbox {
    _dir: TempDir,
    root: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// An empty directory, where [`Sandbox::mount`] mounts.
    pub at: PathBuf,
    /// What the state is in, if not the sandbox.
    _memory: Option<TempDir>,
}

impl Sandbox {
    /// A sandbox without a state.
    pub fn empty() -> Self {
        own_descriptors();
        Self::for_library()
    }

    /// One for a test that opens the state or mounts by itself: the threads of RocksDB serve all tests of
    /// this program, which therefore share their descriptors, and `/proc/self` has those of the main
    /// thread.
    pub fn for_library() -> Self {
        need_everything();
        let may_mount = own_mounts();
        assert!(
            may_mount,
            "these tests need the right to mount: in a container, CAP_SYS_ADMIN"
        );
        let dir = TempDir::with_prefix("narfs-system-").unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let state = root.join("state");
        let at = root.join("nix");
        fs::create_dir(&at).unwrap();
        Self {
            _dir: dir,
            root,
            state,
            at,
            _memory: None,
        }
    }

    /// The same, with a state that will be in memory, if there is room: changes do not wait for a disk.
    pub fn in_memory() -> Self {
        const MEMORY: &str = "/dev/shm";
        let mut sandbox = Self::for_library();
        let room = rustix::fs::statvfs(MEMORY).map(|s| s.f_bavail * s.f_frsize);
        if room.is_ok_and(|bytes| bytes > 4 << 30) {
            let memory = TempDir::with_prefix_in("narfs-system-", MEMORY).unwrap();
            sandbox.state = memory.path().join("state");
            sandbox._memory = Some(memory);
        }
        sandbox
    }

    /// A sandbox whose state has the small world and its rebuild.
    pub fn with_worlds() -> Self {
        let sandbox = Self::empty();
        let mut copy = Command::new("cp");
        succeed(copy.arg("-a").arg(template()).arg(&sandbox.state));
        sandbox
    }

    /// The same, mounted.
    pub fn mounted() -> Self {
        let sandbox = Self::with_worlds();
        sandbox.mount();
        sandbox
    }

    /// A directory for what the test makes.
    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// Makes a directory in the sandbox.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// The program, on the sandbox's state.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        narfs(&self.state, arguments)
    }

    /// Runs a command that must succeed; its output.
    pub fn narfs<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Runs a command that must succeed; its output, whatever bytes that are.
    pub fn narfs_bytes<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Vec<u8> {
        let mut command = self.command(arguments);
        let ran = run(&mut command, b"");
        assert_eq!(ran.code, Some(0), "{command:?} failed: {}", ran.stderr);
        ran.stdout
    }

    /// Runs a command that must fail with exit status 1 and one line on stderr; that line.
    pub fn complaint<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        self.failure(1, arguments)
    }

    /// Runs a command that cannot be understood: exit status 2 and one line on stderr; that line.
    pub fn misuse<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        self.failure(2, arguments)
    }

    /// Runs a command that fails with this exit status and one line on stderr; that line.
    pub fn failure<A: AsRef<OsStr>>(&self, status: i32, arguments: &[A]) -> String {
        let mut command = self.command(arguments);
        let Ran { code, stderr, .. } = run(&mut command, b"");
        assert_eq!(code, Some(status), "{command:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{command:?}: {stderr}");
        assert!(stderr.starts_with("narfs: "), "{command:?}: {stderr}");
        stderr
    }

    /// The report of a command with `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut command = self.command(arguments);
        serde_json::from_str(&succeed(command.arg("--json"))).unwrap()
    }

    /// Adds a local tree; the store path, `HASH-NAME`.
    pub fn add(&self, tree: &Path) -> String {
        let path = self.narfs(&[OsStr::new("add"), tree.as_os_str()]);
        path.trim().trim_start_matches("/nix/store/").to_owned()
    }

    /// Copies a path of a world with all that it refers to.
    pub fn copy(&self, world: &World, path: &str) {
        let (url, key) = (world.url(), world.key());
        self.narfs(&["copy", "--from", &url, "--trusted-public-key", &key, path]);
    }

    /// Mounts what the state has at [`Sandbox::at`].
    pub fn mount(&self) {
        let [mount, offline] = ["mount", "--offline"].map(OsStr::new);
        self.narfs(&[mount, self.at.as_os_str(), offline]);
    }

    /// Mounts with sources for what is not here; `options` go after `-o`.
    pub fn mount_from(&self, sources: &[&str], key: &str, options: &str) {
        let at = self.at.to_str().unwrap();
        let mut mount = vec!["mount", at, "--trusted-public-key", key];
        for url in sources {
            mount.extend(["--from", url]);
        }
        if !options.is_empty() {
            mount.extend(["-o", options]);
        }
        self.narfs(&mount);
    }

    /// The names that a listing of the store shows, sorted.
    pub fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store()).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Unmounts from [`Sandbox::at`].
    pub fn unmount(&self) {
        self.narfs(&[OsStr::new("umount"), self.at.as_os_str()]);
    }

    /// The store directory in the mount.
    pub fn store(&self) -> PathBuf {
        self.at.join("store")
    }

    /// A path of a world in the mount.
    pub fn package(&self, world: &World, name: &str) -> PathBuf {
        self.store().join(world.package(name))
    }

    /// Shows a directory at `/nix`, where programs look for their store.
    pub fn bind_to_nix(&self, directory: &Path) {
        fs::create_dir_all("/nix").unwrap();
        rustix::mount::mount_bind(directory, "/nix").unwrap();
    }

    /// The number of the daemon's process.
    pub fn pid(&self) -> u32 {
        let pid = self.json(&["status"])["pid"].as_u64().unwrap();
        pid.try_into().unwrap()
    }

    /// The number of the keeper's process.
    pub fn keeper(&self) -> u32 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name: state, parent.
        let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap();
        let name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap();
        assert_eq!(name.trim(), "narfs-keeper");
        parent.parse().unwrap()
    }

    /// Kills keeper and daemon: what a crash of the machine's memory, or of both, leaves.
    pub fn kill(&self) {
        let (keeper, pid) = (self.keeper(), self.pid());
        let send = |process: u32, signal| {
            let process = rustix::process::Pid::from_raw(process.cast_signed()).unwrap();
            rustix::process::kill_process(process, signal).unwrap();
        };
        // Whichever of them outlived the other would start another one.
        send(keeper, rustix::process::Signal::STOP);
        send(pid, rustix::process::Signal::KILL);
        wait_until("the daemon is gone", || !is_alive(pid));
        send(keeper, rustix::process::Signal::KILL);
        wait_until("the keeper is gone", || !is_alive(keeper));
    }

    /// Whether a daemon serves the state.
    pub fn is_served(&self) -> bool {
        run(&mut self.command(&["status"]), b"").code == Some(0)
    }

    /// The kernel's requests so far, by operation.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        let stats = self.json(&["stats"]);
        serde_json::from_value(stats["requests"].clone()).unwrap()
    }

    /// The requests that something cost: `lookup 2, read 1`; empty for none.
    pub fn requests_of(&self, action: impl FnOnce()) -> String {
        let before = self.requests();
        action();
        let after = self.requests().into_iter();
        let more = after.map(|(name, n)| (n - before.get(&name).unwrap_or(&0), name));
        let more = more.filter(|(n, _)| *n > 0);
        let more: Vec<_> = more.map(|(n, name)| format!("{name} {n}")).collect();
        more.join(", ")
    }

    /// The requests that something costs that was done before, which should be `expected`.
    pub fn requests_of_second(&self, expected: &str, action: impl Fn()) -> String {
        let measure = || {
            action();
            self.requests_of(&action)
        };
        undisturbed(|cost| cost == expected, measure)
    }

    /// What is mounted below the sandbox, in the order of mounting.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let mut mounts = mounts();
        mounts.retain(|m| m.starts_with(self.dir()));
        mounts
    }
}

/// Mount points in the namespace of this thread, in the order of mounting.
fn mounts() -> Vec<PathBuf> {
    let list = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let places = list.lines().filter_map(|l| l.split(' ').nth(4));
    let plain = |p: &str| p.replace("\\040", " ").replace("\\134", "\\");
    places.map(|p| PathBuf::from(plain(p))).collect()
}

/// What was measured of the kernel's caches. If that is not right because it lost some of them meanwhile (a
/// benchmark beside the tests may have it drop them, and others may need the memory), which is no reason to
/// fail, it is measured again.
pub fn undisturbed<T>(is_right: impl Fn(&T) -> bool, measure: impl Fn() -> T) -> T {
    const ROUNDS: usize = 50;
    /// The kernel counts a drop only when it is through with it.
    const UNCOUNTED: Duration = Duration::from_secs(10);
    /// Not all that takes pages away is counted: a few such measurements are not taken at their word.
    const UNEXPLAINED: usize = 10;
    let mut unexplained = 0;
    for _ in 0..ROUNDS {
        let before = caches_lost();
        let measured = measure();
        if is_right(&measured) {
            return measured;
        }
        let end = Instant::now() + UNCOUNTED;
        while caches_lost() == before {
            if Instant::now() > end {
                unexplained += 1;
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if unexplained == UNEXPLAINED {
            return measured;
        }
    }
    panic!("the kernel loses its caches all the time");
}

/// How often the kernel was told to drop pages and entries, and how many it took for other uses.
fn caches_lost() -> Vec<String> {
    let counts = fs::read_to_string("/proc/vmstat").unwrap();
    let loss = |line: &&str| {
        ["drop_", "pgsteal_", "slabs_scanned"]
            .iter()
            .any(|l| line.starts_with(l))
    };
    counts.lines().filter(loss).map(str::to_owned).collect()
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let status = self.command(&["status", "--json"]).output();
        let status = status
            .ok()
            .and_then(|o| serde_json::from_slice(&o.stdout).ok());
        let pid = status.and_then(|s: serde_json::Value| s["pid"].as_u64());
        for place in mounts().iter().rev() {
            if place.starts_with(self.dir()) || place.starts_with("/nix") {
                let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
            }
        }
        let Some(pid) = pid.and_then(|p| u32::try_from(p).ok()) else {
            return;
        };
        let patience = Instant::now() + Duration::from_secs(5);
        while is_alive(pid) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_alive(pid)
            && let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed())
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn narfs<A: AsRef<OsStr>>(state: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_narfs"));
    command.env("NARFS_STATE", state).args(arguments);
    // Not what this machine is configured to do.
    command.env("NARFS_CONFIG", "/dev/null");
    let unwanted = [
        "NARFS_LOG",
        "NARFS_MEMORY",
        "NOTIFY_SOCKET",
        "NARFS_READY_FD",
        "NARFS_KEEPER_FD",
        "http_proxy",
    ];
    for unwanted in unwanted {
        command.env_remove(unwanted);
    }
    command
}

fn need_everything() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests must be run by root, who may mount"
    );
    assert!(
        Path::new("/dev/fuse").exists(),
        "there is no /dev/fuse: `modprobe fuse`, or in a container pass --device /dev/fuse"
    );
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in PROGRAMS {
        assert!(
            std::env::split_paths(&path).any(|dir| dir.join(program).exists()),
            "{program} is missing; `make test` installs what the tests need"
        );
    }
}

/// A state with both worlds, made once in each run and copied from there.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let lock = File::create(dir.join("system-state.lock")).unwrap();
        lock.lock().unwrap();
        let state = dir.join("system-state");
        if state.exists() {
            fs::remove_dir_all(&state).unwrap();
        }
        for world in World::both() {
            let (url, key) = (world.url(), world.key());
            let copy = [
                "copy",
                "--all",
                "--from",
                &url,
                "--trusted-public-key",
                &key,
            ];
            succeed(&mut narfs(&state, &copy));
        }
        // No other run makes it anew while this program runs, longer than the test that opened the lock.
        std::thread::spawn(move || {
            let _lock = lock;
            loop {
                std::thread::park();
            }
        });
        state
    })
}
