//! Programs that start and run while everything that may be taken from the state is taken: none loses
//! a page, and afterwards nothing is left.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::in_use::Done;
use crate::on_demand::key;
use crate::server::{Answer, Server};
use crate::support::{Sandbox, run, succeed, wait_until};

/// How a program runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// From the store.
    Store,
    /// From a bind of its path.
    Bind,
    /// From a bind of a directory in its path.
    Part,
    /// In a container with a closure view.
    View,
    /// As a script that imports modules late, by an interpreter that lies elsewhere.
    Script,
    /// From a file system whose image lies in the store.
    Image,
}

const KINDS: [Kind; 6] = [
    Kind::Store,
    Kind::Bind,
    Kind::Part,
    Kind::View,
    Kind::Script,
    Kind::Image,
];
/// Paths of each kind.
const PATHS: usize = 3;
/// Bytes of a program that it reads late.
const SIZE: usize = 512 << 10;
/// Behind it stands the checksum of the noise.
const MARK: &[u8] = b"CRC follows:";

const BIND: &str = r#"mount --bind "$1" "$2" && cd / && exec env -i "$2/$3""#;
const VIEW: &str = r#"mount --bind "$1" "$2/nix/store" && mount -t proc proc "$2/proc" &&
    cd / && exec env -i "$(command -v chroot)" "$2" "$3""#;
const IMAGE: &str = r#"mount -t ext2 -o loop,ro "$1" "$2" && cd / && exec env -i "$2/late""#;
const SCRIPT: &str = "import sys
print('up', flush=True)
sys.stdin.readline()
import zlib, part
print('sum is right' if zlib.crc32(part.NOISE) == part.CRC else 'wrong bytes')
";

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    let mut windows = haystack.windows(needle.len());
    windows.position(|w| w == needle).unwrap()
}

/// The program of `tests/torture/late.c`, with some noise.
fn compiled(dir: &Path) -> Vec<u8> {
    fs::write(dir.join("noise.bin"), noise(0, SIZE)).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/late.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-static", "-o", "late"]).arg(source);
    succeed(cc.current_dir(dir));
    fs::read(dir.join("late")).unwrap()
}

/// The same with noise of its own.
fn with_noise(program: &[u8], seed: u64) -> Vec<u8> {
    let (mut program, noise) = (program.to_vec(), noise(seed, SIZE));
    let old = find(&program, &crate::binary_cache::noise(0, SIZE));
    program[old..old + SIZE].copy_from_slice(&noise);
    let sum = find(&program, MARK) + MARK.len();
    program[sum..sum + 4].copy_from_slice(&crc(&noise).to_le_bytes());
    program
}

fn image(dir: &Path, program: &[u8]) -> Vec<u8> {
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("late"), program).unwrap();
    succeed(Command::new("chmod").arg("755").arg(tree.join("late")));
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-F", "-t", "ext2", "-d"]).arg(&tree);
    succeed(make.arg(&image).arg("4M"));
    let bytes = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    bytes
}

/// A store path for programs of a kind.
fn offer(dir: &Path, program: &[u8], kind: Kind, n: usize) -> Offer {
    let seed = 1 + n as u64 * 16 + kind as u64;
    let program = with_noise(program, seed);
    let (part, disk);
    let tree = match kind {
        Kind::Script => {
            let noise = noise(seed, SIZE / 2);
            let sum = crc(&noise);
            let hex: String = noise.iter().map(|b| format!("{b:02x}")).collect();
            part = format!("NOISE = bytes.fromhex('{hex}')\nCRC = {sum}\n");
            Tree::Directory(vec![
                ("part.py", Tree::File(part.as_bytes())),
                ("script", Tree::File(SCRIPT.as_bytes())),
            ])
        }
        Kind::Image => {
            disk = image(dir, &program);
            Tree::Directory(vec![("disk", Tree::File(&disk))])
        }
        _ => Tree::Directory(vec![(
            "bin",
            Tree::Directory(vec![("late", Tree::Program(&program))]),
        )]),
    };
    Offer::named(&format!("{kind:?}-{n}").to_lowercase(), nar(&tree))
}

/// A mount with a source of all these paths, and a budget for few of them.
struct Programs {
    sandbox: Sandbox,
    offers: Vec<(Kind, Offer)>,
    is_away: Arc<AtomicBool>,
    number: AtomicUsize,
    _cache: Cache,
    _server: Server,
}

/// One that runs.
struct Running {
    kind: Kind,
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    view: Option<String>,
}

impl Programs {
    fn new() -> Self {
        let (sandbox, cache) = (Sandbox::empty(), Cache::new());
        let program = compiled(sandbox.dir());
        let each = KINDS.iter().flat_map(|kind| (0..PATHS).map(|n| (*kind, n)));
        let each = each.map(|(kind, n)| (kind, offer(sandbox.dir(), &program, kind, n)));
        let offers: Vec<_> = each.collect();
        for (_, offer) in &offers {
            cache.put(offer);
            cache.put_listing(offer, "directory");
        }
        let is_away = Arc::new(AtomicBool::new(false));
        let away = is_away.clone();
        let server = Server::new(cache.dir().to_owned(), move |_, _| {
            match away.load(Ordering::Relaxed) {
                true => Answer::Hangup,
                false => Answer::File,
            }
        });
        sandbox.mount_from(&[&server.url], &key(&cache), "budget=1M");
        Self {
            sandbox,
            offers,
            is_away,
            number: AtomicUsize::new(0),
            _cache: cache,
            _server: server,
        }
    }

    /// A command in a mount namespace of its own, with a directory to mount things at.
    fn enclosed(&self, number: usize, what: &str, from: &Path, name: &OsStr) -> Command {
        let at = self.sandbox.make_dir(&format!("at-{number}"));
        for dir in ["nix/store", "proc"] {
            fs::create_dir_all(at.join(dir)).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", what, "sh"]);
        command.arg(from).arg(at).arg(name);
        command
    }

    /// Starts the program of an offer; what is wrong with that is an error.
    fn start(&self, kind: Kind, offer: &Offer) -> Result<Running, String> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let path = offer.path().base_name();
        let at = self.sandbox.store().join(&path);
        let mut view = None;
        let mut command = match kind {
            Kind::Store => Command::new(at.join("bin/late")),
            Kind::Bind => self.enclosed(number, BIND, &at, OsStr::new("bin/late")),
            Kind::Part => self.enclosed(number, BIND, &at.join("bin"), OsStr::new("late")),
            Kind::View => {
                let name = format!("view-{number}");
                self.sandbox.narfs(&["closure", &name, &path]);
                let store = format!(".narfs/closures/{name}/store");
                view = Some(name);
                let program = PathBuf::from(format!("/nix/store/{path}/bin/late"));
                let store = self.sandbox.at.join(store);
                self.enclosed(number, VIEW, &store, program.as_os_str())
            }
            Kind::Script => {
                let mut python = Command::new("python3");
                python.arg("-B").arg(at.join("script"));
                python
            }
            Kind::Image => self.enclosed(number, IMAGE, &at.join("disk"), OsStr::new("")),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| format!("{kind:?} is not started: {e}"))?;
        let mut running = Running {
            kind,
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            view,
        };
        let mut said = String::new();
        running.output.read_line(&mut said).unwrap();
        match said.as_str() {
            "up\n" => Ok(running),
            _ => Err(self
                .end(running)
                .unwrap_or_else(|()| "it ended at once".into())),
        }
    }

    fn delete_view(&self, running: &mut Running) {
        if let Some(name) = running.view.take() {
            self.sandbox.narfs(&["closure", "--delete", &name]);
        }
    }

    /// Has a program read the rest of itself; what went wrong, or `Err` if nothing.
    fn end(&self, mut running: Running) -> Result<String, ()> {
        // It may have died.
        let _ = running.child.stdin.take().unwrap().write_all(b"go\n");
        let (mut said, mut complaint) = (String::new(), String::new());
        running.output.read_to_string(&mut said).unwrap();
        let mut errors = running.child.stderr.take().unwrap();
        errors.read_to_string(&mut complaint).unwrap();
        let status = running.child.wait().unwrap();
        self.delete_view(&mut running);
        if status.success() && said.contains("sum is right") {
            return Err(());
        }
        let (kind, signal) = (running.kind, status.signal());
        Ok(format!(
            "{kind:?}: {status}, signal {signal:?}: {said}{complaint}"
        ))
    }

    fn evict(&self) {
        // It says so if metadata stay.
        let ran = run(&mut self.sandbox.command(&["evict", "--to", "0"]), b"");
        let is_good = ran.code == Some(0) || ran.stderr.contains("are stored");
        assert!(is_good, "{}", ran.stderr);
    }

    /// Nothing is left when nothing runs.
    fn nothing_is_left(&self) {
        // The kernel lets a loop device go a moment after its last user.
        wait_until("everything is collected", || {
            self.sandbox.narfs(&["gc"]);
            self.sandbox.listing().is_empty()
        });
        let stats = self.sandbox.json(&["stats"]);
        assert_eq!((&stats["paths"], &stats["chunks"]), (&0.into(), &0.into()));
        let files = fs::read_dir(self.sandbox.state.join("db")).unwrap();
        let files = files.map(|e| e.unwrap().path());
        let blobs = files.filter(|f| f.extension() == Some(OsStr::new("blob")));
        let left: u64 = blobs.map(|f| fs::metadata(f).map_or(0, |m| m.len())).sum();
        // Less than this is not worth giving back.
        assert!(left <= 1 << 20, "{left} bytes are left on the disk");
    }
}

#[test]
fn a_program_that_starts_while_everything_is_taken_loses_nothing() {
    const STARTERS: usize = 3;
    let programs = Programs::new();
    let (collections, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let taking = |take: &dyn Fn(), rounds: &AtomicUsize| {
        let _done = Done(&done);
        while !done.load(Ordering::Relaxed) {
            take();
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    // It is over a whole collection when it reads the rest of itself.
    let late = || {
        let before = collections.load(Ordering::Relaxed);
        let is_over = || collections.load(Ordering::Relaxed) >= before + 2;
        while !is_over() && !done.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(1));
        }
    };
    let wrong: BTreeSet<String> = scope(|threads| {
        let _done = Done(&done);
        threads.spawn(|| taking(&|| drop(programs.sandbox.narfs(&["gc"])), &collections));
        threads.spawn(|| taking(&|| programs.evict(), &AtomicUsize::new(0)));
        let starters: Vec<_> = (0..STARTERS)
            .map(|first| {
                let (programs, late) = (&programs, &late);
                threads.spawn(move || {
                    let mut wrong = Vec::new();
                    // Each starter goes through all, from another one on, and no two are alike.
                    for n in 0..programs.offers.len() {
                        let at = (n * 5 + first * 7) % programs.offers.len();
                        let (kind, offer) = &programs.offers[at];
                        match programs.start(*kind, offer) {
                            Ok(mut running) => {
                                if n % 2 == 0 {
                                    programs.delete_view(&mut running);
                                }
                                late();
                                wrong.extend(programs.end(running));
                            }
                            Err(error) => wrong.push(error),
                        }
                    }
                    wrong
                })
            })
            .collect();
        let wrong = starters.into_iter().flat_map(|s| s.join().unwrap());
        wrong.collect()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
    programs.nothing_is_left();
}

#[test]
fn a_program_goes_on_without_its_source_whatever_is_taken() {
    let programs = Programs::new();
    let started = programs.offers.iter();
    let started = started.map(|(kind, offer)| programs.start(*kind, offer).unwrap());
    let mut started: Vec<_> = started.collect();
    for running in started.iter_mut().step_by(2) {
        programs.delete_view(running);
    }
    programs.is_away.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        programs.evict();
        programs.sandbox.narfs(&["gc"]);
    }
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let wrong = started.into_iter().filter_map(|r| programs.end(r).ok());
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    programs.nothing_is_left();
}
