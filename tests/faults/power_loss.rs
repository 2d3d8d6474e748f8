//! What a power loss leaves of what commands have done.
//!
//! A sample of commands, over the database on a disk that loses what was not synced; every command is
//! ended at every write over records in memory, by tests of the library. The power fails at some
//! operations of a command, and when it is done. The state opens again and is whole; each path, channels,
//! links of roots, and all profiles with the views that follow them, are as before or as after, and as
//! after if the command was done; and the same command then does what it was to do. Only what was removed
//! to make room may be there again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use narfs::command::{
    ChannelCommand, ClosureRequest, NoOutput, ProfileAction, ProfileRequest, Request, SourceRequest,
};
use narfs::engine::Engine;
use narfs::nix::store_path::StorePath;
use narfs::store::{Store, StoreError, StoreOptions};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise, path};
use crate::golden::Golden;
use crate::lossy_disk::{Disk, Mounted, Unsynced};
use crate::program::State;

/// Operations of a command at which the power fails: half of them while it opens the state.
const CUTS: u64 = 12;
/// Time for a command, with much else going on.
const PATIENCE: Duration = Duration::from_secs(60);
/// Things that change together or not at all.
const TOGETHER: [&str; 2] = ["profiles", "views"];
/// It is raised before anything that needs it.
const FORMAT: &str = "format";
/// That of a new state.
const NEW: &str = "narfs-state 3\nstore-dir /nix/store\n";

/// What a state shows, without times; nothing if there is no state.
type Seen = BTreeMap<String, Json>;

/// A cache, and a disk with a state.
struct Scene {
    cache: Cache,
    /// The list of a channel, and a link of a root.
    files: TempDir,
    /// A path that no command takes away, and its NAR.
    kept: (StorePath, Vec<u8>),
    disk: Disk,
}

/// A command that changes the state.
struct Sample {
    name: &'static str,
    arguments: Vec<String>,
    /// What it removes may be there again after a power loss.
    may_be_undone: bool,
}

impl Sample {
    fn new(name: &'static str, arguments: &[&str]) -> Self {
        Self {
            name,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            may_be_undone: false,
        }
    }

    fn from(mut self, cache: &Cache) -> Self {
        self.arguments.extend(cache.arguments());
        self
    }

    fn that_may_be_undone(mut self) -> Self {
        self.may_be_undone = true;
        self
    }
}

fn full(name: &str) -> String {
    format!("/nix/store/{}", path(name))
}

fn state(mounted: &Mounted) -> State {
    State::at(mounted.path().join("state"))
}

impl Scene {
    /// A cache and an empty disk.
    fn new() -> Self {
        let cache = Cache::new();
        let package = |name: &str, seed| {
            // Several chunks, and a small file.
            let program = noise(seed, 400_000);
            let tree = Tree::Directory(vec![
                ("program", Tree::Program(&program)),
                ("readme", Tree::File(name.as_bytes())),
            ]);
            Offer::named(name, nar(&tree))
        };
        let base = package("base", 1);
        let referring = |name, seed| package(name, seed).referring(&[base.path()]);
        let (tool, other) = (referring("tool", 2), referring("other", 3));
        let (late, later) = (referring("late", 4), referring("later", 5));
        let garbage = package("garbage", 6);
        for offer in [&base, &tool, &other, &late, &later, &garbage] {
            cache.put(offer);
        }
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("list"), full("tool") + "\n").unwrap();
        Self {
            cache,
            files,
            kept: (other.path().clone(), other.stored),
            disk: Disk::empty(),
        }
    }

    /// A state of an older format.
    fn with_golden(golden: &Golden) -> Self {
        let mut scene = Self::new();
        let kept = golden.path("joint-1.0");
        let parsed = StorePath::parse_base_name(&kept.as_bytes()["/nix/store/".len()..]);
        scene.kept = (parsed.unwrap(), golden.nar_of(&kept));
        let mounted = Mounted::new(scene.disk, None);
        let mut cp = Command::new("cp");
        cp.arg("-r")
            .arg(golden.state.dir())
            .arg(state(&mounted).dir());
        assert!(cp.status().unwrap().success());
        scene.disk = mounted.unmount().synced();
        scene
    }

    /// A state that has something of everything.
    fn with_state() -> Self {
        let mut scene = Self::new();
        let mounted = Mounted::new(scene.disk, None);
        let state = state(&mounted);
        let copied = ["tool", "other", "garbage"].map(full);
        let copied = copied.each_ref().map(String::as_str);
        state.copy(&scene.cache, &copied).succeeds();
        for name in ["tool", "other"] {
            let set = ["profile", "-p", "x", "set", &full(name)];
            state.run(&set).succeeds();
        }
        let define = ["closure", "view", "--profile", "x"];
        state.run(&define).succeeds();
        scene.disk = mounted.unmount();
        scene
    }

    /// A file that is not on the disk.
    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// Has a command run on a disk until it is done or the power fails. Says whether it was done, with
    /// how many operations, and what is on the disk.
    fn run(disk: &Disk, sample: &Sample, operations: Option<u64>) -> (bool, u64, Disk) {
        let mounted = Mounted::new(disk.clone(), operations);
        let mut command = state(&mounted).command(&sample.arguments);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let start = Instant::now();
        let succeeded = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status.success();
            }
            if !mounted.has_power() || start.elapsed() > PATIENCE {
                process.kill().unwrap();
                process.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let done = succeeded && mounted.has_power();
        let operations = mounted.operations();
        (done, operations, mounted.unmount())
    }

    /// Has the power fail everywhere in a command.
    fn end_everywhere(&self, sample: &Sample) {
        let name = sample.name;
        let before = look(&self.disk);
        let (done, operations, disk) = Self::run(&self.disk, sample, None);
        assert!(done, "{name} fails");
        let (_, opening, _) = Self::run(&self.disk, &Sample::new("pins", &["pins"]), None);
        let after = look(&disk);
        assert_ne!(before, after, "{name} changes nothing");
        for unsynced in [
            Unsynced::Lost,
            Unsynced::Random(CUTS),
            Unsynced::Random(CUTS + 1),
        ] {
            let when = format!("{name} was done, and then the power failed ({unsynced:?})");
            let left = disk.clone().without_power(unsynced);
            self.check(left, sample, (&before, &after), true, &when);
        }
        let spread = |from, to| (0..CUTS / 2).map(move |n| from + (to - from) * n / (CUTS / 2));
        // None, if it makes the state.
        let opening = match opening {
            0 => operations / 2,
            opening => opening.min(operations),
        };
        let cuts = spread(0, opening).chain(spread(opening, operations));
        for (n, cut) in (0..).zip(BTreeSet::from_iter(cuts)) {
            let (done, _, disk) = Self::run(&self.disk, sample, Some(cut));
            let unsynced = match n % 2 {
                0 => Unsynced::Lost,
                _ => Unsynced::Random(n),
            };
            let when = format!("{name}, without power from {cut} of {operations} ({unsynced:?})");
            let left = disk.without_power(unsynced);
            self.check(left, sample, (&before, &after), done, &when);
        }
    }

    /// That a state is whole and as before or as after a command, and that the command then does what it
    /// was to do.
    fn check(
        &self,
        disk: Disk,
        sample: &Sample,
        (before, after): (&Seen, &Seen),
        done: bool,
        when: &str,
    ) {
        let seen = look(&disk);
        if done && !sample.may_be_undone {
            assert_eq!(seen, *after, "{when}");
        }
        compare(&seen, before, after, when);
        let mounted = Mounted::new(disk, None);
        let state = state(&mounted);
        if !seen.is_empty() {
            check_whole(&state, when);
        }
        if seen != *after {
            let ran = state.run(&sample.arguments);
            let code = ran.output.status.code();
            assert_eq!(code, Some(0), "{when}, once more: {}", ran.stderr());
            check_whole(&state, when);
        }
        state.gives_out(&self.kept.0, &self.kept.1);
        assert_eq!(look(&mounted.unmount()), *after, "{when}, once more");
    }
}

fn check_whole(state: &State, when: &str) {
    let ran = state.run(&["verify"]);
    let code = ran.output.status.code();
    assert_eq!(code, Some(0), "{when}: {}{}", ran.stdout(), ran.stderr());
}

/// Looks at a copy of what is on a disk. What this process had open on the disk itself, processes that
/// other tests start would have open for a moment, too.
fn look(disk: &Disk) -> Seen {
    let mut seen = Seen::new();
    let copy = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
    let copy = copy.unwrap();
    disk.copy_to(copy.path());
    let options = StoreOptions {
        memory: 32 << 20,
        create: false,
        store_dir: None,
    };
    let store = match Store::open(&copy.path().join("state"), &options) {
        Ok(store) => Arc::new(store),
        Err(StoreError::Absent(_)) => return seen,
        Err(e) => panic!("{e}"),
    };
    let format = fs::read_to_string(store.dir().join("format")).unwrap();
    seen.insert(FORMAT.to_owned(), format.into());
    for path in store.paths().all().unwrap() {
        let info = store.paths().info(path.hash()).unwrap().unwrap();
        let is_whole = match store.paths().load_info(info).unwrap() {
            Some(loaded) => Json::from(loaded.is_complete()),
            None => Json::Null,
        };
        seen.insert(format!("path {path}"), is_whole);
    }
    for pin in store.roots().pins().unwrap() {
        seen.insert(format!("pin {}", pin.path), Json::Null);
    }
    let links = fs::read_dir(store.dir().join("gcroots/auto"));
    let links = links.into_iter().flatten().map(|link| {
        let target = fs::read_link(link.unwrap().path()).unwrap();
        target.display().to_string()
    });
    // Some may be there twice, in one that was to replace another.
    let links = BTreeSet::from_iter(links);
    seen.insert("links".to_owned(), links.into_iter().collect());
    let profiles = store.profiles().list().unwrap();
    let engine = Engine::new(store, SourceRequest::default(), None);
    let ask = |request| {
        let report = engine.execute(request, &mut NoOutput).unwrap();
        let mut report = serde_json::to_value(report).unwrap();
        forget_times(&mut report);
        report
    };
    let history = |name| {
        let history = Request::Profile(ProfileRequest {
            profile: name,
            action: ProfileAction::History,
            sources: SourceRequest::default(),
            dry_run: false,
        });
        ask(history)
    };
    let histories = profiles.into_iter().map(|(name, _)| history(name));
    seen.insert("profiles".to_owned(), histories.collect());
    let views = ClosureRequest::List { names: Vec::new() };
    let views = Request::Closure(views);
    seen.insert("views".to_owned(), ask(views));
    let channels = Request::Channel(ChannelCommand::List);
    seen.insert("channels".to_owned(), ask(channels));
    seen
}

/// Takes away what differs between two runs.
fn forget_times(value: &mut Json) {
    match value {
        Json::Object(fields) => {
            for time in ["created", "changed", "updated", "store"] {
                fields.remove(time);
            }
            fields.values_mut().for_each(forget_times);
        }
        Json::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// Whether there are lists without anything in them only.
fn is_nothing(listed: &Json) -> bool {
    match listed {
        Json::Array(items) => items.is_empty(),
        Json::Object(fields) => fields.values().all(is_nothing),
        _ => false,
    }
}

fn compare(seen: &Seen, before: &Seen, after: &Seen, when: &str) {
    // A new state has the format of all new ones until there is something in it that needs more.
    let is_new = !before.contains_key(FORMAT) && seen.get(FORMAT) == Some(&NEW.into());
    let all = [seen, before, after];
    let things: BTreeSet<_> = all.into_iter().flat_map(Seen::keys).collect();
    for thing in things {
        let (now, then) = (seen.get(thing), [before.get(thing), after.get(thing)]);
        assert!(
            then.contains(&now) || (thing == FORMAT && is_new),
            "{when}: {thing} is {now:?}, not one of {then:?}"
        );
    }
    let differs = seen.iter().any(|(thing, now)| {
        thing != FORMAT && before.get(thing) != Some(now) && !(is_new && is_nothing(now))
    });
    assert!(
        !differs || seen.get(FORMAT) == after.get(FORMAT),
        "{when}: something is new, and the format is {:?}: {seen:?}",
        seen.get(FORMAT)
    );
    let [seen, before, after] = all.map(|s| TOGETHER.map(|thing| s.get(thing)));
    assert!(
        [before, after].contains(&seen),
        "{when}: {TOGETHER:?} are not of one moment: {seen:?}"
    );
}

#[test]
fn a_copy_to_a_new_state_survives_a_power_loss() {
    let scene = Scene::new();
    let copy = Sample::new("the first copy", &["copy", &full("tool"), &full("other")]);
    scene.end_everywhere(&copy.from(&scene.cache));
}

#[test]
fn a_state_of_an_older_format_that_gets_more_survives_a_power_loss() {
    let golden = Golden::new(1);
    let scene = Scene::with_golden(&golden);
    let base = golden.path("base-1.0");
    scene.end_everywhere(&Sample::new("pin", &["pin", &base]));
    drop(golden);
    let golden = Golden::new(2);
    let scene = Scene::with_golden(&golden);
    scene.end_everywhere(&Sample::new("closure", &["closure", "view", &base]));
}

#[test]
fn what_brings_paths_survives_a_power_loss() {
    let scene = Scene::with_state();
    let copy = Sample::new("copy", &["copy", &full("late"), &full("later")]);
    let list = scene.file("list");
    let add = Sample::new("add", &["add", &list]);
    let pin = Sample::new("pin", &["pin", &full("late")]);
    for sample in [copy.from(&scene.cache), add, pin.from(&scene.cache)] {
        scene.end_everywhere(&sample);
    }
}

#[test]
fn profiles_and_the_views_that_follow_them_survive_a_power_loss_together() {
    let scene = Scene::with_state();
    let set = ["profile", "-p", "x", "set", &full("late")];
    let set = Sample::new("profile set", &set).from(&scene.cache);
    let switch = Sample::new("profile switch", &["profile", "-p", "x", "switch", "1"]);
    for sample in [set, switch] {
        scene.end_everywhere(&sample);
    }
}

#[test]
fn what_is_removed_to_make_room_is_there_or_not_after_a_power_loss() {
    let scene = Scene::with_state();
    // Some of it is in a profile, and stays.
    let evict = Sample::new("evict", &["evict", "--to", "1300K"]);
    let collect = Sample::new("gc", &["gc", "--delete-old"]);
    for sample in [evict, collect] {
        scene.end_everywhere(&sample.that_may_be_undone());
    }
}

#[test]
fn channels_and_links_of_roots_survive_a_power_loss() {
    let scene = Scene::with_state();
    let (list, link) = (scene.file("list"), scene.file("link"));
    let add = Sample::new("channel add", &["channel", "add", "tools", &list]);
    let root = Sample::new("add-root", &["add-root", &link, &full("garbage")]);
    for sample in [add, root] {
        scene.end_everywhere(&sample);
    }
}
