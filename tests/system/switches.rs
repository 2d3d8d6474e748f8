//! A profile that is switched all the time, under processes that use it: they see the generation
//! of before or of after, whole, and that of after once the command has returned.
//!
//! `NARFS_SWITCHES` is how many switches there are, with ten minutes for them;
//! `NARFS_SWITCHES_ON=disk` has the state on the disk of `TMPDIR` rather than in memory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use narfs::command::{NoOutput, ProfileAction, ProfileRequest, Report, Request, SourceRequest};
use narfs::control;

use crate::binary_cache::{Cache, Offer, Tree, nar};
use crate::support::{Sandbox, succeed, wait_until};

const SWITCHES: u64 = 4000;
/// Beside other tests, and on a slow disk, there are fewer in the suite.
const PATIENCE: Duration = Duration::from_secs(10);
const READERS: usize = 8;
/// One of so many switches is made by the program itself; the others are told to the daemon as it
/// tells them.
const BY_PROGRAM: u64 = 100;
/// After one of so many switches, all readers have to look before the next one.
const ALL_LOOK: u64 = 50;

const PROFILE: &str = "/nix/var/nix/profiles/x";
/// Tells a process of this test that it is a reader, which one, and where the counts are.
const READER: &str = "NARFS_TEST_READER";

/// What the switching process and the readers share; zeros to begin with.
#[repr(C)]
struct Counts {
    /// Switches that have begun, and that have returned.
    begun: AtomicU64,
    returned: AtomicU64,
    over: AtomicU64,
    /// For each reader, how often it began to look, …
    looks: [AtomicU64; READERS],
    /// … and how often no switch had begun meanwhile, so that one answer only was right.
    certain: [AtomicU64; READERS],
}

impl Counts {
    /// The counts in a file, for as long as the process lives.
    fn map(file: &Path) -> &'static Self {
        let file = File::options().read(true).write(true).open(file).unwrap();
        file.set_len(size_of::<Self>() as u64).unwrap();
        // SAFETY: a new shared mapping of the whole length of the file, which nobody shortens.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        // SAFETY: it is mapped for ever, aligned to a page, and any bytes are such counts.
        unsafe { &*at.cast() }
    }
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::SeqCst)
}

/// Generation 1 after an even number of switches, 2 after an odd one.
fn generation_after(switches: u64) -> u64 {
    1 + switches % 2
}

/// The generation that names in its `bin` belong to; each has one of its own.
fn generation_of_names(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    let names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<_> = names.iter().map(String::as_str).collect();
    for n in [1, 2] {
        let own = format!("only-{n}");
        if names == BTreeSet::from(["common", "tool", own.as_str()]) {
            return n;
        }
    }
    panic!("neither generation: {names:?}");
}

/// The generation that a program says it is of.
fn generation_of_tool(tool: &Path) -> u64 {
    let text = fs::read_to_string(tool).unwrap_or_else(|e| panic!("{}: {e}", tool.display()));
    let number = text.strip_prefix("tool of ");
    number
        .and_then(|n| n.parse().ok())
        .expect("neither generation")
}

/// The ways to look at a profile; each says which generation it saw, and fails if that is not
/// whole.
struct Reader {
    /// What the generations lead to.
    targets: [PathBuf; 2],
}

impl Reader {
    /// Once, while nothing changes.
    fn new() -> Self {
        let link = |n| fs::read_link(format!("{PROFILE}-{n}-link")).unwrap();
        Self {
            targets: [link(1), link(2)],
        }
    }

    fn generation_of_target(&self, target: &Path) -> u64 {
        let at = self.targets.iter().position(|t| t == target);
        at.unwrap_or_else(|| panic!("neither generation: {}", target.display())) as u64 + 1
    }

    /// `profile/bin/tool`, resolved link by link.
    fn resolved(&self) -> u64 {
        let tool = fs::canonicalize(Path::new(PROFILE).join("bin/tool")).unwrap();
        generation_of_tool(&tool)
    }

    /// The link of the profile, and what is behind the generation that it names.
    fn named(&self) -> u64 {
        let link = fs::read_link(PROFILE).unwrap();
        let generation = match link.to_str().unwrap() {
            "x-1-link" => 1,
            "x-2-link" => 2,
            other => panic!("neither generation: {other}"),
        };
        let generations = Path::new(PROFILE).with_file_name(link);
        let target = fs::read_link(&generations).unwrap();
        assert_eq!(self.generation_of_target(&target), generation);
        let bin = generations.join("bin");
        assert_eq!(generation_of_names(&bin), generation, "a mixture");
        assert_eq!(generation_of_tool(&bin.join("tool")), generation);
        generation
    }

    /// A directory that was opened once: its names and files are of one generation.
    fn opened(&self) -> u64 {
        let opened = File::open(PROFILE).unwrap();
        let inside = PathBuf::from(format!("/proc/thread-self/fd/{}", opened.as_raw_fd()));
        let generation = self.generation_of_target(&fs::read_link(&inside).unwrap());
        let bin = inside.join("bin");
        assert_eq!(generation_of_names(&bin), generation, "a mixture");
        assert_eq!(generation_of_tool(&bin.join("tool")), generation);
        let own = bin.join(format!("only-{generation}"));
        assert_eq!(fs::read(own).unwrap(), b"own");
        generation
    }

    fn listed(&self) -> u64 {
        generation_of_names(&Path::new(PROFILE).join("bin"))
    }

    fn read(&self) -> u64 {
        generation_of_tool(&Path::new(PROFILE).join("bin/tool"))
    }

    fn look(&self, way: usize) -> (&'static str, u64) {
        match way % 5 {
            0 => ("resolved", self.resolved()),
            1 => ("its link", self.named()),
            2 => ("opened", self.opened()),
            3 => ("listed", self.listed()),
            _ => ("read", self.read()),
        }
    }
}

/// Called before `main`, as there is no test that a reader would be.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = be_a_reader;

/// One of the processes that the test below starts, if this is one; it ends when the switches are over, or
/// when it sees something wrong.
extern "C" fn be_a_reader() {
    let Ok(which) = std::env::var(READER) else {
        return;
    };
    let (which, file) = which.split_once(':').unwrap();
    let which: usize = which.parse().unwrap();
    let counts = Counts::map(Path::new(file));
    let reader = Reader::new();
    let mut way = which;
    while get(&counts.over) == 0 {
        counts.looks[which].fetch_add(1, Ordering::SeqCst);
        let returned = get(&counts.returned);
        let (what, seen) = reader.look(way);
        if get(&counts.begun) == returned {
            assert_eq!(seen, generation_after(returned), "{what} after {returned}");
            counts.certain[which].fetch_add(1, Ordering::SeqCst);
        }
        way += 1;
    }
    std::process::exit(0);
}

/// The reader processes, which end with the test.
struct Readers {
    counts: &'static Counts,
    running: Vec<Child>,
}

impl Readers {
    /// Starts them where `/nix` is what this thread sees there.
    fn start(file: &Path) -> Self {
        File::create(file).unwrap();
        let counts = Counts::map(file);
        let running = (0..READERS).map(|which| {
            let mut reader = Command::new(std::env::current_exe().unwrap());
            reader.env(READER, format!("{which}:{}", file.display()));
            reader.stdout(std::process::Stdio::null());
            reader.spawn().unwrap()
        });
        Self {
            running: running.collect(),
            counts,
        }
    }

    /// Fails if one has ended, which it does only if it saw something wrong.
    fn are_well(&mut self) {
        for reader in &mut self.running {
            assert!(reader.try_wait().unwrap().is_none(), "a reader failed");
        }
    }

    /// Waits until each has looked once since now.
    fn all_look(&mut self) {
        /// Time for a look, on a loaded machine.
        const LOOK: Duration = Duration::from_secs(120);
        let before = self.counts.looks.each_ref().map(get);
        let have_looked = || {
            let mut both = self.counts.looks.iter().zip(before);
            // The look that runs now may have begun before.
            both.all(|(now, before)| get(now) > before + 1)
        };
        let end = Instant::now() + LOOK;
        while !have_looked() {
            assert!(Instant::now() < end, "a reader hangs");
            self.are_well();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(mut self) {
        self.counts.over.store(1, Ordering::SeqCst);
        for reader in &mut self.running {
            assert!(reader.wait().unwrap().success(), "a reader failed");
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.counts.over.store(1, Ordering::SeqCst);
        for reader in &mut self.running {
            let _ = reader.wait();
        }
    }
}

/// What `narfs profile -p x switch N` does, without the program.
fn switch(sandbox: &Sandbox, to: u64) {
    let request = ProfileRequest {
        profile: "x".into(),
        action: ProfileAction::Switch(to),
        sources: SourceRequest::default(),
        dry_run: false,
    };
    let state = &sandbox.state;
    let stream = control::connect(state).unwrap();
    let request = Request::Profile(request);
    let done = control::ask(state, stream, &request, &mut NoOutput, None);
    match done.unwrap() {
        Report::ProfileChanges(changes) => assert_eq!(changes[0].to, Some(to)),
        other => panic!("another report: {other:?}"),
    }
}

/// A state that is mounted at `/nix`, with a profile `x` of two generations that share a package.
fn mounted() -> Sandbox {
    let cache = Cache::new();
    let package = |name: &str, files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(n, text)| (*n, Tree::Program(text.as_bytes())));
        let bin = Tree::Directory(files.collect());
        let offer = Offer::named(name, nar(&Tree::Directory(vec![("bin", bin)])));
        cache.put(&offer);
        offer.path().base_name()
    };
    let common = package("common", &[("common", "own")]);
    let one = package("one", &[("only-1", "own"), ("tool", "tool of 1")]);
    let two = package("two", &[("only-2", "own"), ("tool", "tool of 2")]);
    let sandbox = match std::env::var("NARFS_SWITCHES_ON").as_deref() {
        Ok("disk") => Sandbox::empty(),
        _ => Sandbox::in_memory(),
    };
    for own in [one, two] {
        let file = sandbox.dir().join("profiles.toml");
        let text = format!("[profile.x]\npackages = [\"{common}\", \"{own}\"]\n");
        fs::write(&file, text).unwrap();
        let mut apply = sandbox.command(&["apply".as_ref(), file.as_os_str()]);
        succeed(apply.args(cache.arguments()));
    }
    sandbox.narfs(&["profile", "-p", "x", "switch", "1"]);
    sandbox.mount();
    sandbox.bind_to_nix(&sandbox.at);
    sandbox
}

#[test]
fn processes_see_the_old_or_the_new_generation_and_never_neither() {
    let wanted = std::env::var("NARFS_SWITCHES");
    let wanted = wanted.map(|text| text.parse().expect("NARFS_SWITCHES is a number"));
    let (wanted, patience) = match wanted {
        Ok(wanted) => (wanted, Duration::from_secs(600)),
        Err(_) => (SWITCHES, PATIENCE),
    };
    let sandbox = mounted();
    let mut readers = Readers::start(&sandbox.dir().join("counts"));
    let counts = readers.counts;
    wait_until("all readers look", || {
        counts.looks.iter().all(|n| get(n) > 0)
    });
    let own = Reader::new();
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for n in 1..=wanted {
        counts.begun.store(n, Ordering::SeqCst);
        let to = generation_after(n);
        let began = Instant::now();
        if n % BY_PROGRAM == 0 {
            sandbox.narfs(&["profile", "-p", "x", "switch", &to.to_string()]);
        } else {
            switch(&sandbox, to);
            slowest = slowest.max(began.elapsed());
        }
        let (what, seen) = own.look(n as usize);
        assert_eq!(seen, to, "{what} after switch {n}");
        counts.returned.store(n, Ordering::SeqCst);
        if n % ALL_LOOK == 0 {
            readers.all_look();
            if start.elapsed() > patience {
                break;
            }
        }
    }
    // Without a switch, at the latest now.
    readers.all_look();
    let made = get(&counts.returned);
    let rate = made as f64 / start.elapsed().as_secs_f64();
    readers.finish();
    let looks = counts.looks.each_ref().map(get);
    let certain = counts.certain.each_ref().map(get);
    println!(
        "{made} switches, {rate:.0} per second, the slowest in {slowest:?}, under {} looks of \
         {READERS} processes, {} of them between switches",
        looks.iter().sum::<u64>(),
        certain.iter().sum::<u64>()
    );
    assert!(certain.iter().all(|n| *n > 0), "{certain:?}");
}
