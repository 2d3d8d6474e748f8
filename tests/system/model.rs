//! Sequences of commands, by the program on a mount that fetches on demand, against a model of a state.
//!
//! After each command what the mount and the program show is compared with the model. The sequences
//! are the same in every run; `PROPTEST_CASES` is how many others are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::binary_cache::Cache;
use crate::on_demand::key;
use crate::reference_model::{
    Command, Model, Name, PROFILES, Profile, Seen, Status, TREES, commands, offered, runner, sample,
};
use crate::support::{Sandbox, run, wait_until};

/// Sequences in the suite, and commands of each.
const SEQUENCES: u32 = 10;
const COMMANDS: usize = 12;

struct Mounted {
    sandbox: Sandbox,
    cache: Cache,
    /// What store paths are called, by `HASH-NAME`.
    names: BTreeMap<String, Name>,
}

impl Mounted {
    fn new(salt: &str) -> Self {
        let (cache, paths) = offered(salt);
        let sandbox = Sandbox::empty();
        for tree in &TREES {
            let programs = sandbox.make_dir(&format!("{}/bin", tree.name));
            let program = programs.join(tree.program);
            fs::write(&program, tree.contents()).unwrap();
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&program, executable).unwrap();
        }
        let paths = paths.iter().enumerate();
        let names = paths.map(|(n, path)| (path.base_name(), Name::Package(n)));
        let mounted = Self {
            sandbox,
            cache,
            names: names.collect(),
        };
        mounted.mount();
        mounted
    }

    fn mount(&self) {
        let url = self.cache.url();
        self.sandbox.mount_from(&[&url], &key(&self.cache), "");
    }

    /// The store path of a name, `HASH-NAME`.
    fn path(&self, name: &Name) -> &str {
        let mut paths = self.names.iter();
        paths.find(|(_, of)| *of == name).unwrap().0
    }

    /// Runs the program; an error is what it complains about.
    fn narfs(&self, arguments: &[&str]) -> Result<(), String> {
        let ran = run(&mut self.sandbox.command(arguments), b"");
        match ran.code {
            Some(0) => Ok(()),
            Some(1) => Err(ran.stderr),
            other => panic!("{arguments:?} ended with {other:?}: {}", ran.stderr),
        }
    }

    fn profile(&self, profile: &str, arguments: &[&str]) -> Result<(), String> {
        self.narfs(&[&["profile", "-p", profile], arguments].concat())
    }

    /// Carries out a command, after which the state is to be as the model says.
    fn apply(&mut self, command: &Command, model: &Model) -> Result<(), String> {
        let alone = |recursive: bool| match recursive {
            true => &[][..],
            false => &["--no-recursive"],
        };
        match command {
            Command::Copy { package, recursive } => {
                let path = self.path(&Name::Package(*package));
                self.narfs(&[&["copy", path], alone(*recursive)].concat())
            }
            Command::Add(tree) => {
                let name = self
                    .sandbox
                    .add(&self.sandbox.dir().join(TREES[*tree].name));
                self.names.insert(name, Name::Added(*tree));
                Ok(())
            }
            Command::Read(name) => self.read(name, model.known_closure(name)),
            Command::Prefetch {
                path,
                recursive,
                pin,
            } => {
                let verb = if *pin { "pin" } else { "prefetch" };
                self.narfs(&[&[verb, self.path(path)], alone(*recursive)].concat())
            }
            Command::Unpin(name) => self.narfs(&["unpin", self.path(name)]),
            Command::Evict => {
                // It complains: metadata stay. On a busy machine a process that could not be looked into
                // may have kept something.
                let left = model.seen().paths.into_values();
                let left = left.filter(|s| *s == Status::Dropped).count();
                wait_until("all is dropped", || {
                    let _ = self.narfs(&["evict", "--to", "0"]);
                    self.sandbox.json(&["verify"])["dropped"] == left
                });
                Ok(())
            }
            Command::Gc { delete_old } => {
                let old = if *delete_old {
                    &["--delete-old"][..]
                } else {
                    &[]
                };
                wait_until("all processes were looked into", || {
                    let report = self.sandbox.json(&[&["gc"], old].concat());
                    report["unseen"].as_array().is_none_or(Vec::is_empty)
                });
                Ok(())
            }
            Command::Install(profile, name) => self.profile(profile, &["install", self.path(name)]),
            Command::Remove(profile, name) => self.profile(profile, &["remove", self.path(name)]),
            Command::Set(profile, name) => self.profile(profile, &["set", self.path(name)]),
            Command::Rollback(profile) => self.profile(profile, &["rollback"]),
            Command::Switch(profile, to) => self.profile(profile, &["switch", &to.to_string()]),
            Command::DeleteOld(profile) => self.profile(profile, &["delete-generations", "old"]),
            Command::Delete(profile) => self.narfs(&["profile", "delete", profile]),
            Command::Reopen => {
                self.sandbox.unmount();
                self.mount();
                Ok(())
            }
            Command::Kill => {
                let pid = self.sandbox.pid();
                let process = Pid::from_raw(pid.cast_signed()).unwrap();
                kill_process(process, Signal::KILL).unwrap();
                wait_until("another daemon serves", || {
                    self.sandbox.is_served() && self.sandbox.pid() != pid
                });
                Ok(())
            }
            Command::LosePower => panic!("a program cannot do this"),
        }
    }

    /// Reads a path, of which `closure` paths are to be registered then.
    fn read(&self, name: &Name, closure: usize) -> Result<(), String> {
        let package = name.package().unwrap();
        let path = self.sandbox.store().join(self.path(name));
        let read = fs::read(path.join("bin").join(package.program)).map_err(|e| e.to_string())?;
        assert!(read == package.contents(), "{name:?} has other contents");
        // What it refers to is registered in the background.
        let path = ["path-info", "--closure", self.path(name)];
        wait_until("its references are registered", || {
            self.sandbox.json(&path).as_array().unwrap().len() == closure
        });
        Ok(())
    }

    fn link(&self, profile: &str) -> PathBuf {
        self.sandbox.at.join("var/nix/profiles").join(profile)
    }

    /// A profile, by its links. What the model has in a generation names an environment that is new.
    fn look_at(&mut self, profile: &str, expected: Option<&Profile>) -> Option<Profile> {
        let link = self.link(profile);
        let last = link.file_name().unwrap().to_str().unwrap().to_owned();
        let mut found = Profile::default();
        let entries = fs::read_dir(link.parent().unwrap()).ok()?;
        for entry in entries {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let number = name.strip_prefix(&last).and_then(|n| n.strip_prefix('-'));
            let Some(number) = number.and_then(|n| n.strip_suffix("-link")?.parse().ok()) else {
                continue;
            };
            let target = fs::read_link(entry.path()).unwrap();
            let path = target.strip_prefix("/nix/store").unwrap();
            let path = path.to_str().unwrap().to_owned();
            if let Some(name @ Name::Environment(_)) =
                expected.and_then(|p| p.generations.get(&number))
                && !self.names.values().any(|known| known == name)
            {
                self.names
                    .entry(path.clone())
                    .or_insert_with(|| name.clone());
            }
            let name = self.names.get(&path);
            let name = name.unwrap_or_else(|| panic!("{path} has no name"));
            found.generations.insert(number, name.clone());
        }
        let current = fs::read_link(&link).ok();
        found.current = current.map(|target| {
            let target = target.to_str().unwrap();
            let number = target.strip_prefix(&last).unwrap();
            number
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse()
                .unwrap()
        });
        (found != Profile::default()).then_some(found)
    }

    /// Compares all that is seen.
    fn compare(&mut self, expected: &Seen) {
        for profile in PROFILES {
            let expected = expected.profiles.get(profile);
            assert_eq!(
                self.look_at(profile, expected).as_ref(),
                expected,
                "{profile}"
            );
        }
        let here = |status: &Status| *status != Status::Registered;
        let paths = expected.paths.iter().filter(|(_, status)| here(status));
        let listed = paths.map(|(name, _)| self.path(name).to_owned());
        let listed: BTreeSet<_> = listed.collect();
        assert_eq!(BTreeSet::from_iter(self.sandbox.listing()), listed);
        let pins = self.sandbox.json(&["pins"]);
        let pins = pins.as_array().unwrap().iter().map(|pin| {
            let path = pin["path"].as_str().unwrap();
            self.names[path.trim_start_matches("/nix/store/")].clone()
        });
        assert_eq!(pins.collect::<BTreeSet<_>>(), expected.pins);
        // Everything that is here is read.
        let verified = self.sandbox.json(&["verify"]);
        let count = |status| expected.paths.values().filter(|s| **s == status).count();
        assert_eq!(verified["failures"], serde_json::json!([]));
        assert_eq!(verified["good"], count(Status::Local), "{expected:#?}");
        assert_eq!(verified["dropped"], count(Status::Dropped), "{expected:#?}");
    }
}

#[test]
fn a_mount_shows_what_the_model_says_after_any_commands() {
    let mut runner = runner(SEQUENCES);
    let sequences = commands(COMMANDS..COMMANDS + 1, false);
    for number in 0..runner.config().cases {
        let commands = sample(&sequences, &mut runner);
        let mut mounted = Mounted::new(&format!("{}-{number}-", std::process::id()));
        let mut model = Model::new(true);
        let mut done = Vec::new();
        for command in commands {
            if !model.can_be_given(&command) {
                continue;
            }
            let expected = model.apply(&command);
            let outcome = mounted.apply(&command, &model);
            done.push(command);
            eprintln!("{done:?}: {outcome:?}");
            assert_eq!(outcome.is_ok(), expected.is_ok(), "{expected:?}");
            mounted.compare(&model.seen());
        }
    }
}
