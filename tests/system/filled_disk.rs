//! A disk that others fill to its last byte while narfs works, and then make room on again: everything goes
//! on by itself.
//!
//! A round does one thing, has the disk filled at a moment that its seed determines, and made room on a while
//! later. What was asked for meanwhile may fail, with words that say why; what is asked for afterwards may
//! not, once narfs has had its time to notice. See [`seeds`].

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::on_demand::{key, plain};
use crate::server::Server;
use crate::support::{Chance, PATIENCE, Sandbox, seeds, succeed};

/// Rounds in `make test`.
const FEW: u64 = 6;
/// Size of the disk in MiB.
const DISK: usize = 400;
/// Bytes of the contents of a path.
const DATA: usize = 8 << 20;
/// Paths.
const PATHS: u64 = 12;
/// Time after which narfs has noticed that there is room.
const NOTICED: Duration = Duration::from_secs(30);
const WAITS: &str = "lookup-timeout=15,contents-timeout=15,absent-ttl=1";

/// What goes on while the disk is filled.
#[derive(Clone, Copy, Debug)]
enum Work {
    Copy,
    Use,
    Switch,
    Collect,
    Restart,
}

const WORKS: [Work; 5] = [
    Work::Copy,
    Work::Use,
    Work::Switch,
    Work::Collect,
    Work::Restart,
];

struct Ground {
    sandbox: Sandbox,
    disk: PathBuf,
    _server: Server,
    from: Vec<String>,
    paths: Vec<(String, Vec<u8>)>,
}

impl Ground {
    fn new() -> Self {
        let mut sandbox = Sandbox::empty();
        let disk = sandbox.make_dir("disk");
        let size = format!("size={DISK}m");
        succeed(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "none"])
                .arg(&disk),
        );
        sandbox.state = disk.join("state");
        let cache = Cache::new();
        let mut paths = Vec::new();
        for n in 0..PATHS {
            let data = noise(n, DATA);
            let tree = Tree::Directory(vec![("data", Tree::File(&data))]);
            let offer = Offer::named(&format!("full-{n}"), nar(&tree));
            cache.put(&offer);
            paths.push((offer.path().base_name(), data));
        }
        let server = plain(&cache);
        let from = cache.arguments_from(&server.url);
        let ground = Self {
            sandbox,
            disk,
            _server: server,
            from,
            paths,
        };
        let at = ground.sandbox.at.clone();
        let key = key(&cache);
        let url = ground.from[1].clone();
        ground.sandbox.mount_from(&[&url], &key, WAITS);
        assert!(at.join("store").is_dir());
        for path in [0, 1] {
            let mut set = vec!["profile", "-p", "tools", "set"];
            set.extend(ground.from.iter().map(String::as_str));
            set.push(&ground.paths[path].0);
            ground.sandbox.narfs(&set);
        }
        std::mem::forget(cache);
        ground
    }

    /// Has others fill the disk after a while, and make room again after another.
    fn fill(&self, after: Duration, keep: Duration) -> JoinHandle<()> {
        let (disk, others) = (self.disk.clone(), self.disk.join("others"));
        std::thread::spawn(move || {
            sleep(after);
            let file = File::create(&others).unwrap();
            let mut length = 0;
            let until = Instant::now() + keep;
            while Instant::now() < until {
                let free = free(&disk);
                let flags = FallocateFlags::empty();
                match rustix::fs::fallocate(&file, flags, length, free) {
                    Ok(()) if free > 0 => length += free,
                    _ => sleep(Duration::from_millis(5)),
                }
            }
            fs::remove_file(&others).unwrap();
        })
    }

    fn narfs(&self, words: &[&str]) -> Result<(), String> {
        let ran = self.sandbox.bounded(words);
        let what = words.join(" ");
        match ran.code {
            Some(0) => Ok(()),
            code => Err(format!("{what}: {code:?} {}", ran.stderr.trim())),
        }
    }

    fn command(&self, before: &[&str], path: usize) -> Result<(), String> {
        let from = self.from.iter().map(String::as_str);
        let mut words = before.to_vec();
        words.extend(from);
        words.push(&self.paths[path].0);
        self.narfs(&words)
    }

    fn read(&self, path: usize) -> Result<(), String> {
        let (name, data) = &self.paths[path];
        match fs::read(self.sandbox.store().join(name).join("data")) {
            Ok(read) if read == *data => Ok(()),
            Ok(_) => panic!("WRONG BYTES in {name}"),
            Err(e) => Err(format!("{name}: {e}")),
        }
    }

    /// What may fail while the disk is full.
    fn work(&self, work: Work, chance: &mut Chance) {
        let path = |chance: &mut Chance| chance.below(PATHS as usize);
        let done = match work {
            Work::Copy => self.command(&["copy"], path(chance)),
            Work::Use => self
                .read(path(chance))
                .and_then(|()| self.read(path(chance))),
            Work::Switch => self.narfs(&["profile", "-p", "tools", "switch", "1"]),
            Work::Collect => self.narfs(&["gc"]).and_then(|()| self.evict()),
            Work::Restart => {
                let pid = self.sandbox.pid().cast_signed();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                self.read(path(chance))
            }
        };
        drop(done);
    }

    fn evict(&self) -> Result<(), String> {
        self.narfs(&["evict", "--to", "30M"])
    }

    /// Does something until it succeeds; says how long it took, if not at once.
    fn eventually(&self, what: impl Fn() -> Result<(), String>) -> Result<Duration, String> {
        let begin = Instant::now();
        loop {
            match what() {
                Ok(()) => return Ok(begin.elapsed()),
                Err(e) if begin.elapsed() > NOTICED => return Err(e),
                Err(_) => sleep(Duration::from_millis(200)),
            }
        }
    }

    fn round(&self, seed: u64) -> Result<Duration, String> {
        let mut chance = Chance::of(seed);
        let work = WORKS[seed as usize % WORKS.len()];
        let after = Duration::from_millis(chance.below(400) as u64);
        let keep = Duration::from_millis(200 + chance.below(2000) as u64);
        let filler = self.fill(after, keep);
        let is_full = Arc::new(AtomicBool::new(true));
        std::thread::scope(|scope| {
            let ended = is_full.clone();
            scope.spawn(move || {
                filler.join().unwrap();
                ended.store(false, Ordering::SeqCst);
            });
            while is_full.load(Ordering::SeqCst) {
                self.work(work, &mut chance);
            }
        });
        let begin = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut goes_on = |what: &dyn Fn() -> Result<(), String>| {
            let took = self
                .eventually(what)
                .map_err(|e| format!("{work:?}: {e}"))?;
            slowest = slowest.max(took);
            Ok::<_, String>(())
        };
        let generation = ["2", "1"][chance.below(2)];
        goes_on(&|| self.narfs(&["profile", "-p", "tools", "switch", generation]))?;
        let (read, copied) = (chance.below(PATHS as usize), chance.below(PATHS as usize));
        goes_on(&|| self.read(read))?;
        goes_on(&|| self.command(&["copy"], copied))?;
        goes_on(&|| self.narfs(&["status"]))?;
        goes_on(&|| self.narfs(&["gc"]))?;
        goes_on(&|| self.evict())?;
        goes_on(&|| self.narfs(&["verify"]))?;
        assert!(begin.elapsed() < PATIENCE * 4);
        Ok(slowest)
    }
}

fn free(disk: &Path) -> u64 {
    let stat = rustix::fs::statvfs(disk).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn everything_goes_on_after_room_is_made_on_a_disk_that_others_had_filled() {
    let ground = Ground::new();
    let mut told = String::new();
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    for seed in seeds(FEW) {
        rounds += 1;
        match ground.round(seed) {
            Ok(took) => slowest = slowest.max(took),
            Err(e) => {
                eprintln!("SEED={seed}: {e}");
                let log = fs::read_to_string(ground.sandbox.state.join("narfs.log"));
                let log = log.unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(15).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                writeln!(told, "SEED={seed}: {e}\n    {}", last.join("\n    ")).unwrap();
            }
        }
    }
    println!("{rounds} moments; the slowest took {slowest:?} to go on");
    assert!(told.is_empty(), "{told}");
    ground.sandbox.unmount();
}
