//! What every command that writes leaves behind, wherever it is ended.
//!
//! Each command runs over records in memory, once for each of its writes: that write fails and so does
//! every one after it. What is found then, by this process, after it was killed, and after a power loss,
//! is before the command or after it for each path and each trace, and for all profiles with the views
//! that follow them; every path that is there can be read, and the same command then does what it was to
//! do. What a command has done when it returns survives a power loss. Channels and links of roots are
//! files, which no write here loses.

mod profiles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use tempfile::TempDir;

use super::Engine;
use super::binary_cache::{Cache, Offer};
use super::users::NOBODY;
use crate::command::{
    ApplyRequest, ChannelCommand, ClosureRequest, CopyRequest, DeclaredPackage, DeclaredProfile,
    DeclaredTarget, ForgetKeyRequest, ForgetRequest, GcRequest, NoOutput, OldGenerations,
    PrefetchRequest, ProfileAction, Report, Request, SourceRequest, TraceCommand,
};
use crate::store::{Loss, MemoryBackend, Store, StoreOptions};
use profiles::{full, install, profile, set};

macro_rules! samples {
    ($($sample:ident $name:literal,)*) => {
        /// A command that writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Sample { $($sample,)* }

        impl Sample {
            const ALL: &[Self] = &[$(Self::$sample,)*];

            fn name(self) -> &'static str {
                match self { $(Self::$sample => $name,)* }
            }
        }
    };
}

samples! {
    Copy "copy",
    Add "add",
    Repair "verify --repair",
    Prefetch "prefetch --pin",
    Unpin "unpin",
    Evict "evict",
    Collect "gc --delete-old",
    AddRoot "add-root",
    StopTrace "trace stop",
    DeleteTrace "trace delete",
    Install "profile install",
    Remove "profile remove",
    Set "profile set",
    Rollback "profile rollback",
    Switch "profile switch",
    DeleteProfile "profile delete",
    DeleteGenerations "profile delete-generations",
    Apply "apply",
    AddChannel "channel add",
    UpdateChannels "channel update",
    RemoveChannel "channel remove",
    Define "closure define",
    DeleteView "closure delete",
    ForgetKey "key forget",
    Forget "forget",
}

/// The sample of a command, unless it only reads or is for a daemon. A new command is not forgotten,
/// since this does not compile without it.
fn sample_of(request: &Request) -> Option<Sample> {
    Some(match request {
        Request::Copy(_) => Sample::Copy,
        Request::Add { .. } => Sample::Add,
        Request::Verify { .. } => Sample::Repair,
        Request::Prefetch(_) => Sample::Prefetch,
        Request::Unpin { .. } => Sample::Unpin,
        Request::Evict { .. } => Sample::Evict,
        Request::Gc(_) => Sample::Collect,
        Request::AddRoot { .. } => Sample::AddRoot,
        Request::Trace(command) => match command {
            TraceCommand::Stop(_) => Sample::StopTrace,
            TraceCommand::Delete(_) => Sample::DeleteTrace,
            TraceCommand::Start { .. } | TraceCommand::List | TraceCommand::Show(_) => return None,
        },
        Request::Profile(request) => match request.action {
            ProfileAction::Install { .. } => Sample::Install,
            ProfileAction::Remove(_) => Sample::Remove,
            ProfileAction::Set { .. } => Sample::Set,
            ProfileAction::Rollback => Sample::Rollback,
            ProfileAction::Switch(_) => Sample::Switch,
            ProfileAction::Delete => Sample::DeleteProfile,
            ProfileAction::DeleteGenerations(_) => Sample::DeleteGenerations,
            ProfileAction::List
            | ProfileAction::History
            | ProfileAction::ListAll
            | ProfileAction::Diff { .. } => return None,
        },
        Request::Apply(_) => Sample::Apply,
        Request::Channel(command) => match command {
            ChannelCommand::Add { .. } => Sample::AddChannel,
            ChannelCommand::Update { .. } => Sample::UpdateChannels,
            ChannelCommand::Remove { .. } => Sample::RemoveChannel,
            ChannelCommand::List => return None,
        },
        Request::Closure(request) => match request {
            ClosureRequest::Define { .. } => Sample::Define,
            ClosureRequest::Delete { .. } => Sample::DeleteView,
            ClosureRequest::List { .. } => return None,
        },
        Request::ForgetKey(_) => Sample::ForgetKey,
        Request::Forget(_) => Sample::Forget,
        // It registers what sources say of paths, as a lookup does, which nobody sees.
        Request::NixDb(_) => return None,
        Request::PathInfo { .. }
        | Request::Ls { .. }
        | Request::Cat { .. }
        | Request::Dump { .. }
        | Request::Stats { .. }
        | Request::Debug(_)
        | Request::Pins
        | Request::Roots
        | Request::Mount(_)
        | Request::Upgrade { .. }
        | Request::Status
        | Request::Figures => return None,
    })
}

/// A cache, and a state that has something of everything.
struct Scene {
    cache: Cache,
    channel: TempDir,
    state: TempDir,
    disk: MemoryBackend,
}

/// A state at one moment: what each thing in it is, as users see it, without times.
type Seen = BTreeMap<String, Json>;

/// Things that change together or not at all.
const TOGETHER: [&str; 2] = ["profiles", "views"];

impl Scene {
    fn set() -> Self {
        let cache = Cache::new();
        let package = |name, seed| Offer::package(name, seed, 40_000);
        let base = package("base", 1);
        for offer in [
            package("tool", 2).referring(&[base.path()]),
            package("other", 3).referring(&[base.path()]),
            package("late", 4).referring(&[base.path()]),
            package("garbage", 5),
            base,
        ] {
            cache.put(&offer);
        }
        let channel = tempfile::tempdir().unwrap();
        let list = format!("{}\n", full("tool"));
        fs::write(channel.path().join("store-paths"), list).unwrap();
        let scene = Self {
            cache,
            channel,
            state: tempfile::tempdir().unwrap(),
            disk: MemoryBackend::default(),
        };
        let engine = scene.engine(scene.state.path(), &scene.disk);
        for request in [
            scene.copy(&["tool", "other", "garbage"]),
            Request::Prefetch(PrefetchRequest {
                paths: vec![full("base")],
                pin: true,
                ..PrefetchRequest::default()
            }),
            set("tool", false),
            set("other", false),
            profile("x", ProfileAction::Switch(1)),
            profile("env", install("tool")),
            Request::Closure(ClosureRequest::Define {
                name: "view".to_owned(),
                paths: vec![full("base")],
                profiles: vec!["x".to_owned()],
                sources: SourceRequest::default(),
            }),
            scene.add_channel("there"),
        ] {
            done(&engine, &request);
        }
        engine.recorder.start("kept");
        done(
            &engine,
            &Request::Trace(TraceCommand::Stop("kept".to_owned())),
        );
        scene
    }

    fn engine(&self, state: &Path, disk: &MemoryBackend) -> Engine {
        let options = StoreOptions {
            memory: 32 << 20,
            create: true,
            store_dir: None,
        };
        let store = Store::open_in_memory(state, &options, disk.clone()).unwrap();
        let sources = SourceRequest {
            from: vec![self.cache.url()],
            trusted_public_keys: vec![self.cache.key.to_public().to_string()],
            ..SourceRequest::default()
        };
        Engine::among(NOBODY, Arc::new(store), sources, None)
    }

    fn copy(&self, names: &[&str]) -> Request {
        Request::Copy(CopyRequest {
            paths: names.iter().map(|n| full(n)).collect(),
            recursive: true,
            jobs: 1,
            ..CopyRequest::default()
        })
    }

    fn add_channel(&self, name: &str) -> Request {
        let list = self.channel.path().join("store-paths");
        Request::Channel(ChannelCommand::Add {
            name: name.to_owned(),
            url: format!("file://{}", list.display()),
            update: true,
            netrc: None,
        })
    }

    /// A command of each name.
    fn request(&self, sample: Sample) -> Request {
        match sample {
            Sample::Copy => self.copy(&["late"]),
            Sample::Add => Request::Add {
                from: self.channel.path().to_owned(),
                name: Some("added".to_owned()),
            },
            Sample::Repair => verify(sample, Some(SourceRequest::default())),
            Sample::Prefetch => Request::Prefetch(PrefetchRequest {
                paths: vec![full("late")],
                recursive: true,
                pin: true,
                ..PrefetchRequest::default()
            }),
            Sample::Unpin => Request::Unpin {
                paths: vec![full("base")],
            },
            Sample::Evict => Request::Evict { to: 0 },
            Sample::Collect => Request::Gc(GcRequest {
                delete: Some(OldGenerations::All),
                ..GcRequest::default()
            }),
            Sample::AddRoot => Request::AddRoot {
                link: self.channel.path().join("root"),
                path: full("garbage"),
            },
            Sample::StopTrace => Request::Trace(TraceCommand::Stop("new".to_owned())),
            Sample::DeleteTrace => Request::Trace(TraceCommand::Delete("kept".to_owned())),
            Sample::Apply => apply(),
            Sample::AddChannel => self.add_channel("new"),
            Sample::UpdateChannels => Request::Channel(ChannelCommand::Update {
                names: Vec::new(),
                netrc: None,
            }),
            Sample::RemoveChannel => Request::Channel(ChannelCommand::Remove {
                name: "there".to_owned(),
            }),
            Sample::Define => Request::Closure(ClosureRequest::Define {
                name: "new".to_owned(),
                paths: vec![full("late")],
                profiles: vec!["env".to_owned()],
                sources: SourceRequest::default(),
            }),
            Sample::DeleteView => Request::Closure(ClosureRequest::Delete {
                name: "view".to_owned(),
            }),
            Sample::ForgetKey => Request::ForgetKey(ForgetKeyRequest {
                key: self.cache.key.to_public().to_string(),
                ..ForgetKeyRequest::default()
            }),
            Sample::Forget => Request::Forget(ForgetRequest {
                paths: vec![full("garbage")],
                ..ForgetRequest::default()
            }),
            _ => profile_request(sample),
        }
    }

    /// The scene once more, for a command that is to be ended.
    fn again(&self, sample: Sample) -> (TempDir, MemoryBackend, Engine) {
        let disk = self.disk.after(Loss::Process);
        let (state, engine) = self.reopened(&self.state, &disk);
        Self::prepare(&engine, &disk, sample);
        (state, disk, engine)
    }

    /// What the next process finds in `state`.
    fn reopened(&self, state: &TempDir, left: &MemoryBackend) -> (TempDir, Engine) {
        let next = tempfile::tempdir().unwrap();
        copy_files(state.path(), next.path());
        let engine = self.engine(next.path(), left);
        (next, engine)
    }

    /// Does first what the command needs, in the process that is to carry it out.
    fn prepare(engine: &Engine, disk: &MemoryBackend, sample: Sample) {
        match sample {
            Sample::StopTrace => drop(engine.recorder.start("new")),
            Sample::Repair => {
                disk.damage_chunks();
                engine.store.contents().forget_chunks();
            }
            Sample::Rollback => done(engine, &profile("x", ProfileAction::Switch(2))),
            _ => {}
        }
    }
}

/// The command of a sample that changes one profile.
fn profile_request(sample: Sample) -> Request {
    match sample {
        Sample::Install => profile("env", install("other")),
        Sample::Remove => profile("env", ProfileAction::Remove(vec!["tool".to_owned()])),
        Sample::Set => set("late", true),
        Sample::Rollback => profile("x", ProfileAction::Rollback),
        Sample::Switch => profile("x", ProfileAction::Switch(2)),
        Sample::DeleteProfile => profile("x", ProfileAction::Delete),
        Sample::DeleteGenerations => profile(
            "x",
            ProfileAction::DeleteGenerations(vec!["old".to_owned()]),
        ),
        other => panic!("{other:?} changes no profile alone"),
    }
}

fn apply() -> Request {
    Request::Apply(ApplyRequest {
        profiles: vec![
            DeclaredProfile {
                name: "x".to_owned(),
                target: DeclaredTarget::Path(full("late")),
            },
            DeclaredProfile {
                name: "new".to_owned(),
                target: DeclaredTarget::Packages(vec![DeclaredPackage {
                    path: full("other"),
                    priority: None,
                }]),
            },
        ],
        sources: SourceRequest::default(),
        prefetch: false,
        dry_run: false,
    })
}

/// Verifies all paths, or those that can be repaired.
fn verify(sample: Sample, repair: Option<SourceRequest>) -> Request {
    let paths = match sample {
        Sample::Repair => vec![full("tool"), full("other"), full("base"), full("garbage")],
        _ => Vec::new(),
    };
    Request::Verify { paths, repair }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            fs::create_dir(&to).unwrap();
            copy_files(&entry.path(), &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), to).unwrap();
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Carries out a command; an error is all that is wrong, in words.
fn execute(engine: &Engine, request: &Request) -> Result<Report, String> {
    let report = engine
        .execute(request.clone(), &mut NoOutput)
        .map_err(|e| crate::command::chain(&e))?;
    let failures = match &report {
        Report::Copy(report) => &report.failures,
        Report::Prefetch(report) => &report.failures,
        Report::Verify(report) => &report.failures,
        Report::ChannelUpdate(report) => &report.failures,
        Report::Forgot(report) => &report.failures,
        _ => return Ok(report),
    };
    match failures.first() {
        None => Ok(report),
        Some(failure) => Err(format!("{}: {}", failure.path, failure.error)),
    }
}

fn done(engine: &Engine, request: &Request) {
    execute(engine, request).unwrap_or_else(|e| panic!("{request:?}: {e}"));
}

fn look(engine: &Engine) -> Seen {
    let mut seen = Seen::new();
    let ask = |request: Request| {
        let report = execute(engine, &request).unwrap_or_else(|e| panic!("{request:?}: {e}"));
        let mut report = serde_json::to_value(report).unwrap();
        forget_times(&mut report);
        report
    };
    for path in engine.store.paths().all().unwrap() {
        let info = engine.store.paths().info(path.hash()).unwrap().unwrap();
        let is_whole = match engine.store.paths().load_info(info).unwrap() {
            Some(loaded) => Json::from(loaded.is_complete()),
            None => Json::Null,
        };
        seen.insert(format!("path {path}"), is_whole);
    }
    for pin in engine.store.roots().pins().unwrap() {
        seen.insert(format!("pin {}", pin.path), Json::Null);
    }
    let linked = engine.store.roots().linked().unwrap();
    seen.insert("linked roots".to_owned(), linked.len().into());
    let mut profiles = Vec::new();
    for (name, _) in engine.store.profiles().list().unwrap() {
        profiles.push(Json::from(name.clone()));
        profiles.push(ask(profile(&name, ProfileAction::History)));
    }
    seen.insert("profiles".to_owned(), profiles.into());
    let views = ClosureRequest::List { names: Vec::new() };
    seen.insert("views".to_owned(), ask(Request::Closure(views)));
    for (name, _) in engine.store.traces().list().unwrap() {
        let shown = ask(Request::Trace(TraceCommand::Show(name.clone())));
        seen.insert(format!("trace {name}"), shown);
    }
    seen.insert(
        "channels".to_owned(),
        ask(Request::Channel(ChannelCommand::List)),
    );
    seen
}

/// Takes away what differs between two runs.
fn forget_times(value: &mut Json) {
    match value {
        Json::Object(fields) => {
            for time in ["since", "created", "changed", "updated", "store"] {
                fields.remove(time);
            }
            // What a view lacks follows from its paths, and changes when damage is found or mended.
            fields.remove("missing");
            fields.values_mut().for_each(forget_times);
        }
        Json::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

/// That each thing that is found is as it was before or as it is after, and those that change together
/// are so together.
fn check(found: &Seen, before: &Seen, after: &Seen, when: &str) {
    let things: BTreeSet<_> = before
        .keys()
        .chain(after.keys())
        .chain(found.keys())
        .collect();
    for thing in things {
        let (now, then) = (found.get(thing), [before.get(thing), after.get(thing)]);
        assert!(
            then.contains(&now),
            "{when}: {thing} is {now:?}, and was to be one of {then:?}"
        );
    }
    let together = |seen: &Seen| TOGETHER.map(|thing| seen.get(thing).cloned());
    let sides = [before, after].map(together);
    assert!(
        sides.contains(&together(found)),
        "{when}: {TOGETHER:?} are not of one moment: {found:#?}"
    );
}

/// That all that is there can be read, and that the command does now what it was to do.
fn check_goes_on(
    engine: &Engine,
    disk: &MemoryBackend,
    sample: Sample,
    request: &Request,
    after: &Seen,
    when: &str,
) {
    if sample != Sample::Repair {
        execute(engine, &verify(sample, None)).unwrap_or_else(|e| panic!("{when}: {e}"));
    }
    if look(engine) != *after || sample == Sample::Repair {
        if sample == Sample::StopTrace {
            Scene::prepare(engine, disk, sample);
        }
        execute(engine, request).unwrap_or_else(|e| panic!("{when}: once more: {e}"));
    }
    assert_eq!(look(engine), *after, "{when}: once more");
    execute(engine, &verify(sample, None)).unwrap_or_else(|e| panic!("{when}: {e}"));
}

/// Ends a command at each of its writes. Returns how many there are.
fn end_everywhere(scene: &Scene, sample: Sample) -> u64 {
    let (name, request) = (sample.name(), scene.request(sample));
    let (state, disk, engine) = scene.again(sample);
    let before = look(&engine);
    disk.fail_from(None);
    done(&engine, &request);
    let writes = disk.writes();
    let after = look(&engine);
    assert!(
        before != after || [Sample::UpdateChannels, Sample::Repair].contains(&sample),
        "{name} changes nothing"
    );
    let may_come_back = [Sample::Evict, Sample::Collect].contains(&sample);
    for loss in [Loss::Process, Loss::Power] {
        let left = disk.after(loss);
        let (_next, engine) = scene.reopened(&state, &left);
        if loss == Loss::Power && may_come_back {
            // What was removed may be there again.
            let when = format!("{name} was done, and then the power failed");
            check(&look(&engine), &before, &after, &when);
            check_goes_on(&engine, &left, sample, &request, &after, &when);
            continue;
        }
        assert_eq!(
            look(&engine),
            after,
            "{name} was done, and then {loss:?} was lost"
        );
        done(&engine, &verify(sample, None));
    }
    for write in 0..writes {
        let (state, disk, engine) = scene.again(sample);
        disk.fail_from(Some(write));
        // Some failures are only logged, or are of no consequence for the command.
        let outcome = execute(&engine, &request);
        let (killed, lost) = (disk.after(Loss::Process), disk.after(Loss::Power));
        disk.fail_from(None);
        let seen = look(&engine);
        let when = format!("{name}, write {write} of {writes} fails ({outcome:?})");
        for (loss, left) in [("a kill", killed), ("a power loss", lost)] {
            let when = format!("{when}, {loss}");
            let (_next, engine) = scene.reopened(&state, &left);
            let found = look(&engine);
            check(&found, &before, &after, &when);
            if loss == "a kill" {
                assert_eq!(found, seen, "{when}: what was seen before it is not there");
            }
            check_goes_on(&engine, &left, sample, &request, &after, &when);
        }
        check(&seen, &before, &after, &when);
        check_goes_on(&engine, &disk, sample, &request, &after, &when);
        let (_next, engine) = scene.reopened(&state, &disk.after(Loss::Power));
        done(&engine, &verify(sample, None));
        assert!(may_come_back || look(&engine) == after, "{when}: once more");
    }
    writes
}

#[test]
fn a_command_that_is_ended_at_any_write_is_not_done_or_done_and_what_is_there_can_be_read() {
    let scene = Scene::set();
    let mut failed = Vec::new();
    for sample in Sample::ALL {
        assert_eq!(sample_of(&scene.request(*sample)), Some(*sample));
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| end_everywhere(&scene, *sample)));
        match ended {
            Ok(writes) => eprintln!("{}: {writes} writes", sample.name()),
            Err(_) => failed.push(sample.name()),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
