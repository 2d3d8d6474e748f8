//! Commands that change profiles, and collections, killed at any write to the state, alone and in
//! the daemon of a mount: afterwards the profiles are those of before or those of after, whole.
//!
//! `NARFS_KILLS` is how many commands are killed in all, roughly; the suite takes what fits into
//! its time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use narfs::command::{GcRequest, NoOutput, Report, Request, SourceRequest, chain};
use narfs::control;
use narfs::engine::Engine;
use narfs::store::{Store, StoreError, StoreOptions};
use rustix::mount::UnmountFlags;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::on_demand::key;
use crate::support::{Sandbox, is_alive, succeed, wait_until};
use crate::write_points::{Moment, Point, WritePoints};

/// Kills in the suite, if nobody says how many.
const KILLS: usize = 256;

/// Time for what takes a moment, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The commands, each on the state that [`Fixture::template`] makes. `FILE` is a file for `apply`.
const COMMANDS: [&str; 8] = [
    "profile -p x install --prefetch new",
    "profile -p x remove two",
    "profile -p x set --prefetch other",
    "profile -p x switch 3",
    "profile -p x rollback",
    "profile -p x delete-generations 1 3",
    "apply --prefetch FILE",
    "gc",
];

/// What is in a state: for each profile its current generation, and what each generation is.
type Profiles = BTreeMap<String, (Option<u64>, Vec<(u64, String)>)>;

/// A state as it can be seen from inside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    profiles: Profiles,
    /// Paths whose contents are here.
    paths: BTreeSet<String>,
    stored_bytes: u64,
}

/// Opens a state. A program that another test is about to start has its lock too, until it is
/// started.
#[track_caller]
fn open(state: &Path, what: &str) -> Store {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Store::open(state, &StoreOptions::default()) {
            Err(StoreError::Owned { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap_or_else(|e| panic!("{what}: {e}")),
        }
    }
}

/// Opens a state that nobody has, and checks that it is whole.
#[track_caller]
fn look(state: &Path, collect: bool, what: &str) -> Seen {
    let store = Arc::new(open(state, what));
    let engine = Engine::new(store.clone(), SourceRequest::default(), None);
    let execute = |request| {
        let done = engine.execute(request, &mut NoOutput);
        done.unwrap_or_else(|e| panic!("{what}: {}", chain(&e)))
    };
    if collect {
        execute(Request::Gc(GcRequest::default()));
    }
    // What generations lead to is here with all that it needs.
    let roots = store.profiles().roots().unwrap();
    let closure = store
        .paths()
        .closure(roots.iter().map(|p| p.hash()))
        .unwrap();
    let known: BTreeSet<_> = closure.iter().map(|i| &i.registration.path).collect();
    assert!(roots.iter().all(|p| known.contains(p)), "{what}: {roots:?}");
    for info in &closure {
        let path = &info.registration.path;
        assert!(store.paths().has_contents(info).unwrap(), "{what}: {path}");
        let mut references = info.registration.references.iter();
        assert!(references.all(|r| known.contains(r)), "{what}: {path}");
    }
    let paths = store.paths().all().unwrap();
    let paths: BTreeSet<_> = paths.iter().map(ToString::to_string).collect();
    let verify = Request::Verify {
        paths: Vec::new(),
        repair: None,
    };
    let Report::Verify(verified) = execute(verify) else {
        panic!("{what}: another report");
    };
    assert!(verified.failures.is_empty(), "{what}: {verified:?}");
    assert_eq!(verified.good, paths.len() as u64, "{what}");
    let profiles = store
        .profiles()
        .list()
        .unwrap()
        .into_iter()
        .map(|(name, record)| {
            let generations = record.generations.iter();
            let generations = generations.map(|g| (g.number, g.path.to_string()));
            (name, (record.current, generations.collect()))
        });
    Seen {
        profiles: profiles.collect(),
        paths,
        stored_bytes: store.upkeep().stored_bytes().unwrap(),
    }
}

/// A package with a program of its name.
fn package(seed: u64, name: &str, references: &[&Offer]) -> Offer {
    let (program, data) = (noise(seed, 20_000), noise(100 + seed, 90_000));
    let bin = Tree::Directory(vec![(name, Tree::Program(&program))]);
    let share = Tree::Directory(vec![(name, Tree::File(&data))]);
    let archive = nar(&Tree::Directory(vec![("bin", bin), ("share", share)]));
    let references: Vec<_> = references.iter().map(|o| o.path()).collect();
    Offer::named(name, archive).referring(&references)
}

struct Fixture {
    sandbox: Sandbox,
    cache: Cache,
    /// Store paths by their names.
    paths: BTreeMap<String, String>,
    /// A state that is copied for each round.
    template: PathBuf,
    points: WritePoints,
    before: Seen,
}

impl Fixture {
    fn new() -> Self {
        let library = package(1, "library", &[]);
        let mut offers = vec![];
        for (seed, name) in (2..).zip(["one", "two", "three", "new", "other"]) {
            offers.push(package(seed, name, &[&library]));
        }
        // What a collection takes.
        for seed in 10..30 {
            offers.push(package(seed, &format!("garbage-{seed}"), &[&library]));
        }
        offers.push(library);
        let cache = Cache::new();
        offers.iter().for_each(|o| cache.put(o));
        let paths = offers.iter().map(|o| o.path());
        let paths = paths.map(|p| (p.name().to_owned(), p.base_name()));
        let sandbox = Sandbox::in_memory();
        let template = sandbox.state.with_extension("template");
        let mut fixture = Self {
            points: WritePoints::new(sandbox.dir()),
            paths: paths.collect(),
            before: Seen {
                profiles: Profiles::new(),
                paths: BTreeSet::new(),
                stored_bytes: 0,
            },
            sandbox,
            cache,
            template,
        };
        fixture.make_template();
        fixture
    }

    /// `x` has `one`, then `two` as well, then `three`, and is at the second of these; `y` is `one`.
    fn make_template(&mut self) {
        let file = "[profile.x]\npackages = [\"@one\", \"@three\"]\n[profile.y]\nset = \"@two\"\n\
                    [profile.z]\npackages = [\"@new\"]\n";
        let file = self
            .paths
            .iter()
            .fold(file.to_owned(), |text, (name, path)| {
                text.replace(&format!("\"@{name}\""), &format!("\"{path}\""))
            });
        fs::write(self.sandbox.dir().join("FILE"), file).unwrap();
        let garbage = self.paths.iter().filter(|(n, _)| n.starts_with("garbage"));
        let mut copy = self.sandbox.command(&["copy"]);
        copy.args(garbage.map(|(_, path)| path));
        succeed(copy.args(self.cache.arguments()));
        for command in [
            "profile -p x install --prefetch one",
            "profile -p x install --prefetch two",
            "profile -p x install --prefetch three",
            "profile -p x switch 2",
            "profile -p y set --prefetch one",
        ] {
            succeed(&mut self.command(command, true));
        }
        fs::rename(&self.sandbox.state, &self.template).unwrap();
        self.restore();
        self.before = look(&self.sandbox.state, false, "the template");
    }

    /// Makes the state what it is before each round.
    fn restore(&self) {
        let _ = fs::remove_dir_all(&self.sandbox.state);
        let mut cp = Command::new("cp");
        succeed(cp.arg("-a").arg(&self.template).arg(&self.sandbox.state));
    }

    fn command(&self, command: &str, sources: bool) -> Command {
        let words = command.split(' ').map(|word| match word {
            "FILE" => self.sandbox.dir().join(word).into_os_string(),
            // It names an element of the profile as well.
            _ if command.contains("remove") => word.into(),
            _ => self.paths.get(word).map_or(word, String::as_str).into(),
        });
        let mut made = self.sandbox.command(&words.collect::<Vec<_>>());
        let fetches = ["install", "set", "apply"]
            .iter()
            .any(|w| command.contains(w));
        if sources && fetches {
            made.args(self.cache.arguments());
        }
        made
    }

    /// Starts a command that may be killed.
    fn spawn(&self, mut command: Command) -> Child {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// What a command that nothing stops leaves; the same after a collection; and the points that it
    /// came by.
    fn undisturbed(&self, command: &str) -> Undisturbed {
        self.restore();
        self.points.record();
        let mut whole = self.command(command, true);
        self.points.watch(&mut whole, &self.sandbox.state);
        succeed(&mut whole);
        assert!(!self.points.disarm());
        let state = &self.sandbox.state;
        let after = look(state, false, command);
        Undisturbed {
            opening: 0,
            points: self.points.reached(),
            after,
            collected: look(state, true, command),
        }
    }

    /// Checks what a killed command left, and in some rounds that it can be given again, with
    /// nothing left behind. Says whether the profiles are those of before.
    fn check(&self, command: &str, undisturbed: &Undisturbed, round: usize, what: &str) -> bool {
        let state = &self.sandbox.state;
        let seen = look(state, false, what);
        let Undisturbed {
            after, collected, ..
        } = undisturbed;
        let is_before = seen.profiles == self.before.profiles;
        assert!(
            is_before || seen.profiles == after.profiles,
            "{what}: {:#?}\nis neither {:#?}\nnor {:#?}",
            seen.profiles,
            self.before.profiles,
            after.profiles
        );
        if command == "gc" {
            assert!(seen.paths.is_superset(&after.paths), "{what}");
            assert!(seen.paths.is_subset(&self.before.paths), "{what}");
        } else {
            assert!(seen.paths.is_superset(&self.before.paths), "{what}");
        }
        if !round.is_multiple_of(3) {
            return is_before;
        }
        if is_before {
            succeed(&mut self.command(command, true));
        }
        let again = look(state, true, what);
        assert_eq!(again, *collected, "{what}: again and collected");
        is_before
    }
}

struct Undisturbed {
    after: Seen,
    collected: Seen,
    points: Vec<Point>,
    /// So many of them are there before it begins to work.
    opening: usize,
}

/// So many points, evenly spread; each can be before, in or after a call.
fn spread(points: &[Point], number: usize) -> Vec<Point> {
    let all = points.iter().flat_map(|point| {
        let moments = [0, 1, 2].into_iter();
        let is_write = point.place.to_string().starts_with("write");
        let moments = moments.filter(move |m| *m != 1 || is_write);
        moments.map(|m| Point {
            moment: Moment(m),
            ..*point
        })
    });
    let all: Vec<_> = all.collect();
    let number = number.min(all.len());
    let chosen = (0..number).map(|n| all[n * all.len() / number.max(1)]);
    chosen.collect()
}

impl Undisturbed {
    /// Where a command is to be killed, so many times: mostly at its writes, also at those by which
    /// the state is opened.
    fn deaths(&self, number: usize) -> Vec<Point> {
        let (opening, working) = self.points.split_at(self.opening);
        let mut points = spread(opening, if opening.is_empty() { 0 } else { number / 8 });
        points.extend(spread(working, number - points.len()));
        points
    }
}

/// Kills for each command, in each way.
fn kills() -> usize {
    let all = std::env::var("NARFS_KILLS");
    let all = all.map_or(KILLS, |text| text.parse().expect("NARFS_KILLS is a number"));
    (all / COMMANDS.len()).max(4)
}

/// How often a command was killed, and how often before it had taken effect.
#[derive(Default)]
struct Tally {
    killed: usize,
    before: usize,
    /// Commands that ended before they came to the point: RocksDB merges and deletes files in the
    /// background, now more of them before the end of a command and now less.
    missed: usize,
    places: BTreeSet<String>,
}

impl Tally {
    fn note(&mut self, point: Point, is_before: bool) {
        self.killed += 1;
        self.before += usize::from(is_before);
        self.places.insert(point.place.to_string());
    }

    fn finish(&self, what: &str) {
        let Self {
            killed,
            before,
            missed,
            places,
        } = self;
        println!(
            "{what}: {killed} were killed, {before} before they took effect, at {places:?}; \
             {missed} had ended"
        );
        assert!(*before > 0 && before < killed, "{before} of {killed}");
        assert!(
            missed * 3 <= *killed,
            "{missed} had ended, {killed} were killed"
        );
    }
}

#[test]
fn a_command_that_is_killed_leaves_the_profiles_of_before_or_after() {
    let fixture = Fixture::new();
    let mut tally = Tally::default();
    let number = kills();
    let idle = fixture.undisturbed("profile -p x list");
    for command in COMMANDS {
        let mut undisturbed = fixture.undisturbed(command);
        let both = idle.points.iter().zip(&undisturbed.points);
        undisturbed.opening = both.take_while(|(a, b)| a.place == b.place).count();
        for (round, point) in undisturbed.deaths(number).into_iter().enumerate() {
            fixture.restore();
            let mut killed = fixture.command(command, true);
            fixture.points.watch(&mut killed, &fixture.sandbox.state);
            fixture.points.kill_at(point);
            let status = fixture.spawn(killed).wait().unwrap();
            let what = format!("narfs {command}, killed {point}");
            if !fixture.points.disarm() {
                assert!(status.success(), "{what}: it never came there: {status}");
                tally.missed += 1;
                continue;
            }
            assert_eq!(status.code(), None, "{what}");
            let is_before = fixture.check(command, &undisturbed, round, &what);
            tally.note(point, is_before);
        }
    }
    tally.finish("alone");
}

/// Unmounts whatever is mounted, and waits until nobody has the state.
fn end_daemon(sandbox: &Sandbox) {
    for place in sandbox.mounts().iter().rev() {
        let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
    }
    assert!(control::wait_until_unmounted(&sandbox.state, PATIENCE));
}

impl Fixture {
    fn mount(&self, watched: bool) {
        let sandbox = &self.sandbox;
        let (url, key) = (self.cache.url(), key(&self.cache));
        let at = sandbox.at.to_str().unwrap();
        let mount = ["mount", at, "--from", &url, "--trusted-public-key", &key];
        let mut mount = sandbox.command(&mount);
        if watched {
            self.points.watch(&mut mount, &sandbox.state);
        }
        succeed(&mut mount);
    }

    /// Where a path of the store, or a link to one, is in the mount.
    fn mounted(&self, path: &Path) -> PathBuf {
        let at = |path: &Path| match path.strip_prefix("/nix/store") {
            Ok(inside) => self.sandbox.store().join(inside),
            Err(_) => path.to_owned(),
        };
        let path = at(path);
        fs::read_link(&path).map_or(path, |target| at(&target))
    }

    /// The links of the mount are what `history` says.
    fn check_links(&self, what: &str) {
        let sandbox = &self.sandbox;
        let profiles = sandbox.at.join("var/nix/profiles");
        let mut expected = BTreeSet::from(["per-user".to_owned()]);
        for profile in ["x", "y", "z"] {
            if !profiles.join(profile).is_symlink() {
                continue;
            }
            let target = |link: &str| fs::read_link(profiles.join(link)).unwrap();
            let history = sandbox.json(&["profile", "-p", profile, "history"]);
            expected.insert(profile.to_owned());
            for generation in history.as_array().unwrap() {
                let link = format!("{profile}-{}-link", generation["generation"]);
                let path = generation["path"].as_str().unwrap();
                assert_eq!(target(&link), Path::new(path), "{what}");
                if generation["current"] == true {
                    assert_eq!(target(profile), Path::new(&link), "{what}");
                }
                let bin = self.mounted(&Path::new(path).join("bin"));
                for program in fs::read_dir(bin).unwrap() {
                    let program = self.mounted(&program.unwrap().path());
                    assert_eq!(fs::read(program).unwrap().len(), 20_000, "{what}");
                }
                expected.insert(link);
            }
        }
        let names = fs::read_dir(profiles).unwrap();
        let names: BTreeSet<_> = names
            .map(|n| n.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, expected, "{what}");
    }
}

#[test]
fn a_daemon_that_is_killed_in_a_command_leaves_the_profiles_of_before_or_after() {
    let fixture = Fixture::new();
    let sandbox = &fixture.sandbox;
    let mut tally = Tally::default();
    let number = kills() / 8;
    for command in COMMANDS {
        let mut undisturbed = fixture.undisturbed(command);
        // In the daemon it comes by other points.
        fixture.restore();
        fixture.mount(true);
        fixture.points.record();
        succeed(&mut fixture.command(command, false));
        fixture.points.disarm();
        undisturbed.points = fixture.points.reached();
        end_daemon(sandbox);
        for (round, point) in undisturbed.deaths(number).into_iter().enumerate() {
            fixture.restore();
            fixture.mount(true);
            let pid = sandbox.pid();
            let what = format!("narfs {command}, the daemon killed {point}");
            fixture.points.kill_at(point);
            // Done by this daemon before it is there, or by the next one.
            fixture
                .spawn(fixture.command(command, false))
                .wait()
                .unwrap();
            let killed = fixture.points.disarm();
            if !killed {
                tally.missed += 1;
                end_daemon(sandbox);
                continue;
            }
            wait_until("the daemon has ended", || !is_alive(pid));
            end_daemon(sandbox);
            fixture.mount(false);
            fixture.check_links(&what);
            end_daemon(sandbox);
            let is_before = fixture.check(command, &undisturbed, round, &what);
            tally.note(point, is_before);
        }
    }
    tally.finish("in a daemon");
}
