//! Sequences of commands, over records in memory, against a model of a state.
//!
//! After each command what can be seen is compared with the model. `PROPTEST_CASES` is how many
//! sequences there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::test_runner::TestCaseError;
use tempfile::TempDir;

use super::Engine;
use super::binary_cache::Cache;
use super::reference_model::{
    Command, Model, Name, PROFILES, Profile, Seen, Status, TREES, commands, offered, runner,
};
use super::users::NOBODY;
use crate::command::{
    CopyRequest, GcRequest, NoOutput, OldGenerations, Output, PrefetchRequest, ProfileAction,
    ProfileRequest, Report, Request, SourceRequest, chain,
};
use crate::fetch::Snapshot;
use crate::nix::store_path::StorePath;
use crate::store::{Loss, MemoryBackend, Store, StoreOptions};

/// Sequences in the suite.
const SEQUENCES: u32 = 40;

/// What a command writes out.
struct Bytes(Vec<u8>);

impl Output for Bytes {
    fn data(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn progress(&mut self, _: &Snapshot) -> std::io::Result<()> {
        Ok(())
    }
}

/// The binary cache and local trees.
struct World {
    cache: Cache,
    packages: Vec<StorePath>,
    trees: TempDir,
}

impl World {
    fn make() -> Self {
        let (cache, packages) = offered("");
        let trees = tempfile::tempdir().unwrap();
        for tree in &TREES {
            let programs = trees.path().join(tree.name).join("bin");
            std::fs::create_dir_all(&programs).unwrap();
            let program = programs.join(tree.program);
            std::fs::write(&program, tree.contents()).unwrap();
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&program, executable).unwrap();
        }
        Self {
            cache,
            packages,
            trees,
        }
    }
}

/// A state, with an engine as of the process that has it.
struct State<'w> {
    world: &'w World,
    dir: TempDir,
    disk: MemoryBackend,
    engine: Option<Engine>,
    /// What store paths are called.
    names: BTreeMap<String, Name>,
}

impl<'w> State<'w> {
    fn new(world: &'w World) -> Self {
        let packages = world.packages.iter().enumerate();
        let names = packages.map(|(n, path)| (full(path), Name::Package(n)));
        let mut state = Self {
            world,
            dir: tempfile::tempdir().unwrap(),
            disk: MemoryBackend::default(),
            engine: None,
            names: names.collect(),
        };
        state.open();
        state
    }

    fn open(&mut self) {
        let options = StoreOptions {
            memory: 32 << 20,
            create: true,
            store_dir: None,
        };
        let store = Store::open_in_memory(self.dir.path(), &options, self.disk.clone()).unwrap();
        let sources = SourceRequest {
            from: vec![self.world.cache.url()],
            trusted_public_keys: vec![self.world.cache.key.to_public().to_string()],
            ..SourceRequest::default()
        };
        self.engine = Some(Engine::among(NOBODY, Arc::new(store), sources, None));
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Ends the process, and begins another one with what it leaves.
    fn end(&mut self, loss: Loss) {
        let left = self.disk.after(loss);
        self.engine = None;
        self.disk = left;
        self.open();
    }

    /// The store path of a name.
    fn path(&self, name: &Name) -> String {
        let mut paths = self.names.iter();
        paths.find(|(_, of)| *of == name).unwrap().0.clone()
    }

    /// Carries out a command; an error is all that is wrong, in words.
    fn execute(&self, request: Request) -> Result<Report, String> {
        let report = self.engine().execute(request, &mut NoOutput);
        let report = report.map_err(|e| chain(&e))?;
        let failures = match &report {
            Report::Copy(report) => &report.failures,
            Report::Prefetch(report) => &report.failures,
            Report::Unpinned(paths) if paths.is_empty() => return Err("not pinned".to_owned()),
            _ => return Ok(report),
        };
        match failures.first() {
            None => Ok(report),
            Some(failure) => Err(format!("{}: {}", failure.path, failure.error)),
        }
    }

    fn change(&self, profile: &str, action: ProfileAction) -> Result<(), String> {
        self.execute(profile_request(profile, action)).map(drop)
    }

    fn apply(&mut self, command: &Command) -> Result<(), String> {
        let request = match command {
            Command::Copy { package, recursive } => Request::Copy(CopyRequest {
                paths: vec![self.path(&Name::Package(*package))],
                recursive: *recursive,
                jobs: 2,
                ..CopyRequest::default()
            }),
            Command::Add(tree) => return self.add(*tree),
            Command::Read(name) => return self.read(name),
            Command::Prefetch {
                path,
                recursive,
                pin,
            } => Request::Prefetch(PrefetchRequest {
                paths: vec![self.path(path)],
                recursive: *recursive,
                pin: *pin,
                ..PrefetchRequest::default()
            }),
            Command::Unpin(name) => Request::Unpin {
                paths: vec![self.path(name)],
            },
            Command::Evict => Request::Evict { to: 0 },
            Command::Gc { delete_old } => Request::Gc(GcRequest {
                delete: delete_old.then_some(OldGenerations::All),
                ..GcRequest::default()
            }),
            Command::Install(profile, package) => {
                let paths = vec![self.path(package)];
                let action = ProfileAction::Install {
                    paths,
                    priority: None,
                    prefetch: false,
                };
                profile_request(profile, action)
            }
            Command::Remove(profile, package) => {
                profile_request(profile, ProfileAction::Remove(vec![self.path(package)]))
            }
            Command::Set(profile, path) => {
                let path = self.path(path);
                let prefetch = false;
                profile_request(profile, ProfileAction::Set { path, prefetch })
            }
            Command::Rollback(profile) => return self.change(profile, ProfileAction::Rollback),
            Command::Switch(profile, to) => {
                return self.change(profile, ProfileAction::Switch(*to));
            }
            Command::DeleteOld(profile) => {
                let old = ProfileAction::DeleteGenerations(vec!["old".to_owned()]);
                return self.change(profile, old);
            }
            Command::Delete(profile) => return self.change(profile, ProfileAction::Delete),
            Command::Reopen => {
                self.engine = None;
                self.open();
                return Ok(());
            }
            Command::Kill => {
                self.end(Loss::Process);
                return Ok(());
            }
            Command::LosePower => {
                self.end(Loss::Power);
                return Ok(());
            }
        };
        self.execute(request).map(drop)
    }

    fn add(&mut self, tree: usize) -> Result<(), String> {
        let name = TREES[tree].name;
        let request = Request::Add {
            from: self.world.trees.path().join(name),
            name: Some(name.to_owned()),
        };
        let Report::Added(path) = self.execute(request)? else {
            return Err("another report".to_owned());
        };
        let before = self.names.insert(path, Name::Added(tree));
        assert!(before.is_none_or(|name| name == Name::Added(tree)));
        Ok(())
    }

    fn read(&self, name: &Name) -> Result<(), String> {
        let package = name.package().unwrap();
        let path = format!("{}/bin/{}", self.path(name), package.program);
        let mut read = Bytes(Vec::new());
        let report = self.engine().execute(Request::Cat { path }, &mut read);
        report.map_err(|e| chain(&e))?;
        assert!(read.0 == package.contents(), "{name:?} has other contents");
        Ok(())
    }

    /// What is seen. What the model has in a generation names an environment that is new.
    fn look(&mut self, expected: &Seen) -> Seen {
        let mut seen = Seen::default();
        for profile in PROFILES {
            let Ok(history) = self.execute(profile_request(profile, ProfileAction::History)) else {
                continue;
            };
            let Report::Generations(history) = history else {
                panic!("{history:?}");
            };
            let mut found = Profile::default();
            for generation in history {
                let number = generation.generation;
                let model = expected.profiles.get(profile);
                let model = model.and_then(|p| p.generations.get(&number));
                if let Some(name @ Name::Environment(_)) = model
                    && !self.names.values().any(|known| known == name)
                {
                    self.names
                        .entry(generation.path.clone())
                        .or_insert_with(|| name.clone());
                }
                let name = self.names.get(&generation.path);
                let name = name.unwrap_or_else(|| panic!("{} has no name", generation.path));
                found.generations.insert(number, name.clone());
                if generation.current {
                    found.current = Some(number);
                }
            }
            seen.profiles.insert(profile, found);
        }
        let store = &self.engine().store;
        let pins = store.roots().pins().unwrap();
        seen.pins = pins
            .iter()
            .map(|pin| self.names[&full(&pin.path)].clone())
            .collect();
        for (path, name) in &self.names {
            let path = StorePath::parse_full(store.store_dir(), path).unwrap();
            let Some(info) = store.paths().info(path.hash()).unwrap() else {
                continue;
            };
            let status = match store.paths().load_info(info).unwrap() {
                None => Status::Registered,
                Some(path) if path.is_complete() => Status::Local,
                Some(_) => Status::Dropped,
            };
            seen.paths.insert(name.clone(), status);
        }
        seen
    }

    /// That nothing is here that has no name, and that all that is local can be read.
    fn verify(&self, seen: &Seen) {
        let all = self.engine().store.paths().all().unwrap();
        for path in &all {
            assert!(self.names.contains_key(&full(path)), "{path} has no name");
        }
        let paths = Vec::new();
        let repair = None;
        let report = self.execute(Request::Verify { paths, repair }).unwrap();
        let Report::Verify(report) = report else {
            panic!("{report:?}");
        };
        assert!(report.failures.is_empty(), "{report:?}");
        let local = seen.paths.values().filter(|s| **s == Status::Local);
        assert_eq!(report.good, local.count() as u64);
    }
}

fn full(path: &StorePath) -> String {
    format!("/nix/store/{}", path.base_name())
}

fn profile_request(name: &str, action: ProfileAction) -> Request {
    Request::Profile(ProfileRequest {
        profile: name.to_owned(),
        action,
        sources: SourceRequest::default(),
        dry_run: false,
    })
}

fn run(world: &World, commands: &[Command]) {
    let mut state = State::new(world);
    let mut model = Model::new(false);
    for command in commands {
        if !model.can_be_given(command) {
            continue;
        }
        let (expected, outcome) = (model.apply(command), state.apply(command));
        assert_eq!(
            outcome.is_ok(),
            expected.is_ok(),
            "{command:?}: {outcome:?} instead of {expected:?}"
        );
        let seen = state.look(&model.seen());
        if matches!(command, Command::LosePower) {
            model.recover(&seen).unwrap();
        }
        assert_eq!(seen, model.seen(), "after {command:?} ({outcome:?})");
        state.verify(&seen);
    }
}

#[test]
fn a_state_holds_what_the_model_says_after_any_commands() {
    let world = World::make();
    let outcome = runner(SEQUENCES).run(&commands(1..24, true), |commands| {
        run(&world, &commands);
        Ok::<_, TestCaseError>(())
    });
    outcome.unwrap();
}
