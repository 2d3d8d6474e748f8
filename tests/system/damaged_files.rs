//! Every kind of file of a state, harmed while the state is mounted and in use.
//!
//! A round copies a state, mounts it, harms one of its files and looks at everything: whatever is read must
//! be what the source has, or, without a source, an error of what was hit. Rounds are numbered, and a number
//! fixes all that is chosen: see [`seeds`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::on_demand::key;
use crate::support::{Chance, PATIENCE, Sandbox, run, seeds, walk};

/// Rounds of a way of harming in `make test`.
const FEW: u64 = 15;
/// Waits of the mount: shorter than the time for a round.
const WAITS: &str = "lookup-timeout=20,contents-timeout=20,absent-ttl=1";

/// A way of harming a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// One byte is another one.
    Flip,
    /// The file is gone.
    Remove,
    /// The file ends early.
    Cut,
    /// A directory is where the file was.
    Replace,
}

/// A kind of file of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Keys, and the records that are not chunks.
    Table,
    /// Chunks.
    Blob,
    /// What is in no table yet.
    WriteAheadLog,
    /// What RocksDB writes for people, and for whoever opens it with other options.
    Notes,
    /// What narfs keeps beside the database.
    Beside,
    /// What says which files the database has, so that it cannot be opened.
    Manifest,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Table,
        Self::Blob,
        Self::WriteAheadLog,
        Self::Notes,
        Self::Beside,
        Self::Manifest,
    ];

    fn of(state: &Path, file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?;
        let extension = file.extension().unwrap_or_default();
        if file.parent() == Some(state) {
            // Whether a state is one that can be understood is not guessed.
            return (!["lock", "format"].contains(&name)).then_some(Self::Beside);
        }
        match name {
            _ if extension == "sst" => Some(Self::Table),
            _ if extension == "blob" => Some(Self::Blob),
            _ if extension == "log" => Some(Self::WriteAheadLog),
            _ if name.starts_with("OPTIONS") || name == "LOG" || name == "IDENTITY" => {
                Some(Self::Notes)
            }
            _ if name.starts_with("MANIFEST") || name == "CURRENT" => Some(Self::Manifest),
            _ => None,
        }
    }
}

/// A path, and what is below it.
struct Expected {
    name: String,
    files: BTreeMap<&'static str, Vec<u8>>,
}

const DATA: &str = "data";
const SMALL: &str = "share/small";
const LINK: &str = "share/link";

/// What every round begins with.
struct Ground {
    sandbox: Sandbox,
    cache: Cache,
    paths: Vec<Expected>,
    /// What `narfs add` has added, so that no source has it.
    added: String,
    memory: TempDir,
}

fn contents(n: u64) -> BTreeMap<&'static str, Vec<u8>> {
    let small = format!("small {n}\n").into_bytes();
    BTreeMap::from([(DATA, noise(n, 400_000)), (SMALL, small)])
}

impl Ground {
    fn new() -> Self {
        let mut sandbox = Sandbox::empty();
        let memory = TempDir::with_prefix_in("narfs-harm-", "/dev/shm").unwrap();
        let cache = Cache::new();
        let mut paths = Vec::new();
        let mut offers: Vec<Offer> = Vec::new();
        for n in 0..10 {
            let files = contents(n);
            let tree = Tree::Directory(vec![
                (DATA, Tree::File(&files[DATA])),
                (
                    "share",
                    Tree::Directory(vec![
                        ("link", Tree::Link("small")),
                        ("small", Tree::Program(&files[SMALL])),
                    ]),
                ),
            ]);
            let mut offer = Offer::named(&format!("harm-{n}"), nar(&tree));
            if n % 3 == 1 {
                offer = offer.referring(&[offers[offers.len() - 1].path()]);
            }
            cache.put(&offer);
            let name = offer.path().base_name();
            paths.push(Expected { name, files });
            offers.push(offer);
        }
        sandbox.state = memory.path().join("template");
        let ground = Self {
            added: String::new(),
            sandbox,
            cache,
            paths,
            memory,
        };
        ground.fill()
    }

    /// Makes the state, by commands whose batches lie in files of their own.
    fn fill(mut self) -> Self {
        let narfs = |words: &[&str]| self.sandbox.narfs(words);
        let from = self.cache.arguments();
        let from: Vec<_> = from.iter().map(String::as_str).collect();
        let names: Vec<_> = self.paths.iter().map(|p| p.name.as_str()).collect();
        for part in names.chunks(3) {
            narfs(&[&["copy"], &from[..], part].concat());
        }
        narfs(&["profile", "-p", "tools", "set", names[0]]);
        narfs(&["profile", "-p", "tools", "set", names[1]]);
        narfs(&[&["pin"], &from[..], &names[2..3]].concat());
        narfs(&["closure", "view", names[4]]);
        let tree = self.sandbox.make_dir("added");
        let files = contents(100);
        fs::create_dir(tree.join("share")).unwrap();
        fs::write(tree.join(DATA), &files[DATA]).unwrap();
        fs::write(tree.join(SMALL), &files[SMALL]).unwrap();
        symlink("small", tree.join(LINK)).unwrap();
        let name = self.sandbox.add(&tree);
        narfs(&["pin", &name]);
        self.added.clone_from(&name);
        self.paths.push(Expected { name, files });
        // A crash leaves what is in no table yet.
        self.sandbox.mount();
        narfs(&["profile", "-p", "tools", "set", &self.paths[2].name]);
        self.kill();
        for path in &self.paths {
            for (file, contents) in &path.files {
                let at = self.sandbox.dir().join("expected").join(&path.name);
                fs::create_dir_all(at.join("share")).unwrap();
                fs::write(at.join(file), contents).unwrap();
            }
        }
        self
    }

    /// Ends the daemon as a crash does.
    fn kill(&self) {
        self.sandbox.kill();
        // Nobody serves what is left of the mount.
        rustix::mount::unmount(&self.sandbox.at, UnmountFlags::DETACH).unwrap();
    }

    /// A round, which ends with the state unmounted; what was wrong, and what was harmed.
    fn round(&mut self, harm: Harm, seed: u64, has_source: bool) -> Outcome {
        let template = self.memory.path().join("template");
        let state = self.memory.path().join(format!("state-{seed}"));
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&template)
            .arg(&state)
            .status();
        assert!(copied.unwrap().success());
        self.sandbox.state.clone_from(&state);
        let mut round = Round {
            ground: self,
            chance: Chance::of(seed),
            harm,
            has_source,
            outcome: Outcome::default(),
        };
        match has_source {
            true => round.with_source(seed),
            false => round.without_source(seed),
        }
        let mut outcome = round.outcome;
        if self.sandbox.is_served() {
            let mut umount = self.sandbox.command(&["umount"]);
            let ended = run(umount.arg(&self.sandbox.at), b"");
            if ended.code != Some(0) {
                outcome.wrong(format!("umount: {}", ended.stderr));
            }
        }
        if !outcome.faults.is_empty() {
            let log = fs::read_to_string(state.join("narfs.log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(12).collect();
            outcome.log = last.into_iter().rev().collect::<Vec<_>>().join("\n    ");
        }
        if std::env::var_os("KEEP").is_none() {
            fs::remove_dir_all(&state).unwrap();
        }
        self.sandbox.state = template;
        outcome
    }
}

/// What came of a round.
#[derive(Default)]
struct Outcome {
    kind: Option<Kind>,
    /// What was harmed.
    what: String,
    faults: Vec<String>,
    log: String,
    /// The paths that gave an error.
    hit: usize,
}

impl Outcome {
    fn wrong(&mut self, what: String) {
        self.faults.push(what);
    }
}

struct Round<'g> {
    ground: &'g Ground,
    chance: Chance,
    harm: Harm,
    has_source: bool,
    outcome: Outcome,
}

impl Round<'_> {
    /// Harms a file of the state, of a kind that the seed determines as far as there is one.
    fn do_harm(&mut self, seed: u64) {
        let state = &self.ground.sandbox.state;
        let mut files: BTreeMap<Kind, Vec<PathBuf>> = BTreeMap::new();
        for seen in walk(state) {
            let length = seen.metadata.len();
            if let Some(kind) = Kind::of(state, &seen.path).filter(|_| seen.metadata.is_file())
                && length > 0
            {
                files.entry(kind).or_default().push(seen.path);
            }
        }
        let is_wanted = |kind: &&Kind| {
            let needs_source = **kind == Kind::Manifest;
            files.contains_key(kind) && (self.has_source || !needs_source)
        };
        let kinds: Vec<_> = Kind::ALL.iter().filter(is_wanted).collect();
        let kind = *kinds[seed as usize % kinds.len()];
        let files = &files[&kind];
        let file = &files[self.chance.below(files.len())];
        if kind == Kind::Beside && self.harm == Harm::Replace {
            // Nobody puts a directory there but on purpose.
            self.harm = Harm::Remove;
        }
        let length = fs::metadata(file).unwrap().len() as usize;
        let at = self.chance.below(length) as u64;
        let opened = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(file)
                .unwrap()
        };
        match self.harm {
            Harm::Flip => {
                let mut byte = [0];
                opened().read_exact_at(&mut byte, at).unwrap();
                byte[0] ^= 1 << self.chance.below(8);
                opened().write_all_at(&byte, at).unwrap();
            }
            Harm::Cut => opened().set_len(at).unwrap(),
            Harm::Remove => fs::remove_file(file).unwrap(),
            Harm::Replace => {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            }
        }
        let name = file.strip_prefix(state).unwrap().display();
        self.outcome.kind = Some(kind);
        self.outcome.what = format!("{:?} of {name} at {at} of {length}", self.harm);
    }

    /// Runs a command that must succeed; its output.
    fn narfs<S: AsRef<str>>(&mut self, words: &[S]) -> String {
        let ran = self.ground.sandbox.bounded(words);
        if ran.code != Some(0) {
            let what = words.first().map_or("", AsRef::as_ref);
            let stdout = String::from_utf8_lossy(&ran.stdout).into_owned();
            let said = format!("{what}: {:?} {}{stdout}", ran.code, ran.stderr);
            self.outcome.wrong(said.trim().to_owned());
        }
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    fn mount(&mut self) {
        let at = self.ground.sandbox.at.to_str().unwrap().to_owned();
        let mut words = vec!["mount".to_owned(), at];
        match self.has_source {
            true => {
                words.extend(["--from".to_owned(), self.ground.cache.url()]);
                words.extend(["--trusted-public-key".to_owned(), key(&self.ground.cache)]);
                words.extend(["-o".to_owned(), WAITS.to_owned()]);
            }
            false => words.push("--offline".to_owned()),
        }
        self.narfs(&words);
    }

    fn umount(&mut self) {
        let at = self.ground.sandbox.at.to_str().unwrap().to_owned();
        self.narfs(&["umount", &at]);
    }

    /// Has another daemon serve what this one left behind, at its end or when it was killed.
    fn restart(&mut self) {
        self.end();
        self.mount();
    }

    fn end(&mut self) {
        match self.chance.below(2) {
            0 => self.umount(),
            _ => self.ground.kill(),
        }
    }

    /// Reads every file of `paths` and compares it; the names of the paths that gave an error.
    fn read(&mut self, paths: std::ops::Range<usize>) -> BTreeSet<String> {
        let store = self.ground.sandbox.store();
        let mut tasks = Vec::new();
        for path in &self.ground.paths[paths] {
            for file in path.files.keys() {
                tasks.push((path.name.clone(), *file, store.join(&path.name)));
            }
        }
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for (name, file, at) in tasks {
                let link = fs::read_link(at.join(LINK));
                let link = link.map(|target| target == Path::new("small"));
                let read = fs::read(at.join(file));
                if sender.send((name, file, link, read)).is_err() {
                    return;
                }
            }
        });
        let mut failed = BTreeSet::new();
        loop {
            let (name, file, link, read) = match receiver.recv_timeout(PATIENCE) {
                Ok(read) => read,
                Err(mpsc::RecvTimeoutError::Disconnected) => return failed,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.outcome.wrong("a read hangs".to_owned());
                    self.ground.kill();
                    return failed;
                }
            };
            let expected = self.ground.paths.iter().find(|p| p.name == name).unwrap();
            match (&read, &link) {
                (Ok(bytes), _) if *bytes != expected.files[file] => {
                    self.outcome.wrong(format!("WRONG BYTES in {name}/{file}"));
                }
                (_, Ok(false)) => self.outcome.wrong(format!("WRONG LINK in {name}")),
                (Ok(_), Ok(true)) => {}
                (Err(e), _) | (_, Err(e)) if e.raw_os_error() == Some(libc::EIO) => {
                    failed.insert(name);
                }
                (Err(e), _) | (_, Err(e)) => self.outcome.wrong(format!("{name}/{file}: {e}")),
            }
        }
    }

    /// The same, where a source has everything but what was added.
    fn read_all_but_added(&mut self, paths: std::ops::Range<usize>, when: &str) {
        for name in self.read(paths) {
            match name == self.ground.added {
                true => self.outcome.hit += 1,
                false => self.outcome.wrong(format!("EIO of {name} {when}")),
            }
        }
    }

    /// Reads the data of all paths but the added one through mappings.
    fn map_all(&mut self) {
        const COMPARE: &str = "\
import mmap, sys
for name in sys.argv[3:]:
    with open(f'{sys.argv[1]}/{name}/data', 'rb') as f, open(f'{sys.argv[2]}/{name}/data', 'rb') as g:
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            if m[:] != g.read(): sys.exit(f'WRONG BYTES in {name}, mapped')
";
        let sandbox = &self.ground.sandbox;
        let mut python = Command::new("timeout");
        python
            .arg(PATIENCE.as_secs().to_string())
            .args(["python3", "-I", "-S", "-c", COMPARE]);
        python
            .arg(sandbox.store())
            .arg(sandbox.dir().join("expected"));
        let fetched = self
            .ground
            .paths
            .iter()
            .filter(|p| p.name != self.ground.added);
        python.args(fetched.map(|p| &p.name));
        let ran = run(&mut python, b"");
        if ran.code != Some(0) {
            self.outcome
                .wrong(format!("mapped: {:?} {}", ran.code, ran.stderr.trim()));
        }
    }

    /// What lists and collects goes on, whatever is damaged.
    fn goes_on(&mut self) {
        self.narfs(&["status"]);
        self.narfs(&["gc"]);
        self.narfs(&["evict", "--to", "3M"]);
    }

    /// What no source could bring back is there.
    fn has_its_own(&mut self, generation: usize) {
        let history = self.narfs(&["profile", "-p", "tools", "history"]);
        let names: Vec<_> = self.ground.paths.iter().map(|p| &p.name).collect();
        let (pins, views) = (self.narfs(&["pins"]), self.narfs(&["closures"]));
        if !pins.contains(names[2].as_str()) {
            self.outcome.wrong(format!("the pin is gone: {pins}"));
        }
        if !views.contains("view") {
            self.outcome.wrong(format!("the view is gone: {views}"));
        }
        if history.lines().count() < generation {
            self.outcome
                .wrong(format!("a generation is gone: {history}"));
        }
    }

    /// What a command has promised stays true.
    fn is_switched(&mut self) {
        let link = self.ground.sandbox.at.join("var/nix/profiles/tools");
        match fs::read_link(link) {
            Ok(target) if target == Path::new("tools-1-link") => {}
            other => self
                .outcome
                .wrong(format!("the switch is undone: {other:?}")),
        }
    }

    fn with_source(&mut self, seed: u64) {
        let (half, all) = (self.ground.paths.len() / 2, self.ground.paths.len());
        self.mount();
        self.read_all_but_added(0..half, "before the harm");
        self.do_harm(seed);
        self.read_all_but_added(0..all, "after the harm");
        self.narfs(&["profile", "-p", "tools", "switch", "1"]);
        self.goes_on();
        self.has_its_own(3);
        if self.outcome.kind == Some(Kind::Manifest) {
            self.end();
            self.repair();
            self.mount();
        } else {
            self.restart();
        }
        self.read_all_but_added(0..all, "after a restart");
        self.map_all();
        self.is_switched();
        self.goes_on();
        self.umount();
        self.repair();
        self.has_its_own(3);
        self.narfs(&["gc"]);
    }

    /// Afterwards the state has no damage, apart from what only it had.
    fn repair(&mut self) {
        let from = self.ground.cache.arguments();
        let from: Vec<_> = from.iter().map(String::as_str).collect();
        let (repair, verify) = ([&["verify", "--repair"], &from[..]].concat(), ["verify"]);
        for words in [&repair[..], &verify] {
            let before = self.outcome.faults.len();
            self.narfs(words);
            // Of an added path nothing is left but its name.
            let added = format!("{}: ", self.ground.added);
            let is_added = |fault: &String| {
                let lines = fault.lines().filter(|l| l.contains("narfs: "));
                lines.clone().count() > 0 && lines.clone().all(|l| l.contains(&added))
            };
            let faults = &mut self.outcome.faults;
            let told: Vec<_> = faults.drain(before..).collect();
            faults.extend(told.into_iter().filter(|fault| !is_added(fault)));
        }
    }

    fn without_source(&mut self, seed: u64) {
        let all = self.ground.paths.len();
        self.mount();
        self.read(0..all / 2);
        self.do_harm(seed);
        self.read(0..all);
        self.restart();
        let failed = self.read(0..all);
        self.outcome.hit = failed.len();
        let log = self.ground.sandbox.state.join("narfs.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        for name in &failed {
            if !log.contains(name.as_str()) {
                self.outcome.wrong(format!("the log does not name {name}"));
            }
        }
        self.narfs(&["status"]);
        let mut verify = self.ground.sandbox.command(&["verify"]);
        let verified = run(&mut verify, b"");
        for path in &self.ground.paths {
            let is_named = verified.stderr.contains(&path.name);
            if is_named != failed.contains(&path.name) {
                let said = verified.stderr.trim();
                let name = &path.name;
                let fault = match is_named {
                    true => format!("verify names {name}, which can be read: {said}"),
                    false => format!("verify does not name {name}, which cannot be read: {said}"),
                };
                self.outcome.wrong(fault);
            }
        }
        self.umount();
    }
}

/// Has rounds of these ways of harming; they must all be right.
fn torture(harms: &[Harm], has_source: bool, few: u64) {
    let mut ground = Ground::new();
    let mut told = String::new();
    let mut counts: BTreeMap<(Harm, Kind), [usize; 3]> = BTreeMap::new();
    let mut is_wrong = false;
    for seed in seeds(few) {
        let harm = harms[(seed / Kind::ALL.len() as u64) as usize % harms.len()];
        let outcome = ground.round(harm, seed, has_source);
        let count = outcome.kind.map(|kind| counts.entry((harm, kind)));
        let count = count.unwrap().or_default();
        count[0] += 1;
        count[1] += usize::from(outcome.hit > 0);
        count[2] += usize::from(!outcome.faults.is_empty());
        if !outcome.faults.is_empty() {
            is_wrong = true;
            writeln!(told, "SEED={seed}: {}", outcome.what).unwrap();
            for fault in &outcome.faults {
                writeln!(told, "  {}", fault.replace('\n', "\n    ")).unwrap();
            }
            writeln!(told, "  log:\n    {}", outcome.log).unwrap();
            eprintln!("SEED={seed}: {}: {}", outcome.what, outcome.faults[0]);
        }
    }
    for ((harm, kind), [rounds, hit, wrong]) in counts {
        println!("{harm:?} {kind:?}: {rounds} rounds, {hit} with an error, {wrong} wrong");
    }
    assert!(!is_wrong, "{told}");
}

#[test]
fn a_flipped_byte_of_any_file_is_healed_by_the_source() {
    torture(&[Harm::Flip], true, FEW);
}

#[test]
fn a_file_that_is_gone_cut_or_unreadable_is_healed_by_the_source() {
    torture(&[Harm::Remove, Harm::Cut, Harm::Replace], true, FEW);
}

#[test]
fn without_a_source_only_what_was_hit_is_an_error_and_named() {
    let all = [Harm::Flip, Harm::Remove, Harm::Cut, Harm::Replace];
    torture(&all, false, FEW + 5);
}
