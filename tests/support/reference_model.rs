//! What a state holds after commands, by rules that are plain enough to be checked by eye. The engine
//! and the program are compared with it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::binary_cache::{Cache, Offer, Tree, nar, noise, path};

/// A package of the binary cache: a program with contents that a number determines.
pub struct Package {
    pub name: &'static str,
    pub program: &'static str,
    /// `None` for an empty file.
    contents: Option<u64>,
    pub references: &'static [usize],
}

const fn package(
    name: &'static str,
    program: &'static str,
    contents: Option<u64>,
    references: &'static [usize],
) -> Package {
    Package {
        name,
        program,
        contents,
        references,
    }
}

pub const PACKAGES: [Package; 9] = [
    package("base", "base", Some(0), &[]),
    package("library", "library", Some(1), &[0]),
    package("tool", "tool", Some(2), &[1]),
    package("other", "other", Some(3), &[0, 1]),
    // Cannot be in a profile together with `tool`.
    package("clash", "tool", Some(4), &[]),
    // The same tree twice, and the same chunks in another tree.
    package("twin-1", "twin", Some(5), &[]),
    package("twin-2", "twin", Some(5), &[]),
    package("copycat", "copycat", Some(5), &[]),
    package("hollow", "hollow", None, &[]),
];

/// Trees on this machine that are added. The second is the tree of the twins.
pub const TREES: [Package; 2] = [
    package("added-1", "added", Some(6), &[]),
    package("added-2", "twin", Some(5), &[]),
];

impl Package {
    pub fn contents(&self) -> Vec<u8> {
        self.contents
            .map_or_else(Vec::new, |n| noise(1 + n, 20_000))
    }
}

/// A store path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Of [`PACKAGES`].
    Package(usize),
    /// Of [`TREES`].
    Added(usize),
    /// The environment of these packages, in the order in which they were installed.
    Environment(Vec<Name>),
}

impl Name {
    pub fn package(&self) -> Option<&'static Package> {
        match self {
            Self::Package(n) => Some(&PACKAGES[*n]),
            Self::Added(n) => Some(&TREES[*n]),
            Self::Environment(_) => None,
        }
    }

    fn references(&self) -> Vec<Self> {
        match self {
            Self::Package(n) => PACKAGES[*n]
                .references
                .iter()
                .map(|r| Self::Package(*r))
                .collect(),
            Self::Added(_) => Vec::new(),
            Self::Environment(packages) => packages.clone(),
        }
    }

    /// Two paths with the same value here have the same tree.
    fn tree(&self) -> Self {
        match self.package() {
            Some(Package {
                program: "twin", ..
            }) => Self::Package(5),
            _ => self.clone(),
        }
    }

    /// Likewise with the chunk, if there is one.
    fn chunk(&self) -> Option<Self> {
        match self.package() {
            Some(Package { contents: None, .. }) => None,
            Some(Package {
                contents: Some(5), ..
            }) => Some(Self::Package(5)),
            _ => Some(self.clone()),
        }
    }
}

/// How much of a path is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Its path info.
    Registered,
    /// Its tree.
    Dropped,
    Local,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub current: Option<u64>,
    pub generations: BTreeMap<u64, Name>,
}

/// What can be seen of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub paths: BTreeMap<Name, Status>,
    pub pins: BTreeSet<Name>,
    pub profiles: BTreeMap<&'static str, Profile>,
}

pub const PROFILES: [&str; 2] = ["default", "per-user/ann/profile"];

#[derive(Clone, Debug)]
pub enum Command {
    Copy {
        package: usize,
        recursive: bool,
    },
    Add(usize),
    /// Read what is in a path.
    Read(Name),
    Prefetch {
        path: Name,
        recursive: bool,
        pin: bool,
    },
    Unpin(Name),
    /// Drop whatever can be fetched again.
    Evict,
    Gc {
        delete_old: bool,
    },
    Install(&'static str, Name),
    Remove(&'static str, Name),
    Set(&'static str, Name),
    Rollback(&'static str),
    Switch(&'static str, u64),
    DeleteOld(&'static str),
    Delete(&'static str),
    Reopen,
    /// The process is killed.
    Kill,
    LosePower,
}

/// Sequences of commands. There is no power loss if the program itself is to be run.
pub fn commands(
    length: std::ops::Range<usize>,
    with_power_loss: bool,
) -> impl Strategy<Value = Vec<Command>> {
    let package = || 0..PACKAGES.len();
    let name = || {
        prop_oneof![
            6 => package().prop_map(Name::Package),
            1 => (0..TREES.len()).prop_map(Name::Added),
        ]
    };
    let profile = || proptest::sample::select(PROFILES.to_vec());
    let command = prop_oneof![
        6 => (package(), any::<bool>())
            .prop_map(|(package, recursive)| Command::Copy { package, recursive }),
        2 => (0..TREES.len()).prop_map(Command::Add),
        4 => name().prop_map(Command::Read),
        4 => (name(), any::<bool>(), any::<bool>())
            .prop_map(|(path, recursive, pin)| Command::Prefetch { path, recursive, pin }),
        2 => name().prop_map(Command::Unpin),
        4 => Just(Command::Evict),
        3 => any::<bool>().prop_map(|delete_old| Command::Gc { delete_old }),
        6 => (profile(), name()).prop_map(|(p, path)| Command::Install(p, path)),
        3 => (profile(), name()).prop_map(|(p, path)| Command::Remove(p, path)),
        2 => (profile(), name()).prop_map(|(p, path)| Command::Set(p, path)),
        2 => profile().prop_map(Command::Rollback),
        2 => (profile(), 1u64..5).prop_map(|(p, n)| Command::Switch(p, n)),
        1 => profile().prop_map(Command::DeleteOld),
        1 => profile().prop_map(Command::Delete),
        1 => Just(Command::Reopen),
        1 => Just(Command::Kill),
        2 => Just(if with_power_loss { Command::LosePower } else { Command::Kill }),
    ];
    proptest::collection::vec(command, length)
}

/// `cases` cases that are the same each time, or as many as `PROPTEST_CASES` says, which are others
/// each time.
pub fn runner(cases: u32) -> TestRunner {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => Config {
            cases,
            rng_seed: RngSeed::Fixed(1),
            ..config
        },
    })
}

/// One of the sequences of a strategy.
pub fn sample(
    strategy: &impl Strategy<Value = Vec<Command>>,
    runner: &mut TestRunner,
) -> Vec<Command> {
    strategy.new_tree(runner).unwrap().current()
}

/// A binary cache with the packages, and their store paths. `salt` keeps apart what runs at the same
/// time: a path in use by any process is not collected.
pub fn offered(salt: &str) -> (Cache, Vec<narfs::nix::store_path::StorePath>) {
    let cache = Cache::new();
    let mut paths = Vec::new();
    for package in &PACKAGES {
        let contents = package.contents();
        let programs = Tree::Directory(vec![(package.program, Tree::Program(&contents))]);
        let archive = nar(&Tree::Directory(vec![("bin", programs)]));
        let hash = path(&format!("{salt}{}", package.name)).hash();
        let path = narfs::nix::store_path::StorePath::new(hash, package.name).unwrap();
        let references: Vec<_> = package.references.iter().map(|r| &paths[*r]).collect();
        cache.put(&Offer::new(&path, archive).referring(&references));
        paths.push(path);
    }
    (cache, paths)
}

/// The state that there should be.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The paths that are registered, and whether their trees are here.
    paths: BTreeMap<Name, bool>,
    /// The trees whose chunks are here.
    complete: BTreeSet<Name>,
    pins: BTreeSet<Name>,
    profiles: BTreeMap<&'static str, Profile>,
    /// Whether what is read is fetched first.
    fetches_on_demand: bool,
    /// What has been added at some time, so that its store path is known.
    added: BTreeSet<usize>,
    /// The states of which the removals may be undone by a power loss, oldest first.
    undurable: Vec<Seen>,
}

impl Model {
    pub fn new(fetches_on_demand: bool) -> Self {
        Self {
            fetches_on_demand,
            ..Self::default()
        }
    }

    pub fn status(&self, name: &Name) -> Option<Status> {
        Some(match self.paths.get(name)? {
            false => Status::Registered,
            true if name.chunk().is_none() || self.complete.contains(&name.tree()) => Status::Local,
            true => Status::Dropped,
        })
    }

    pub fn seen(&self) -> Seen {
        let paths = self.paths.keys();
        let paths = paths.filter_map(|name| Some((name.clone(), self.status(name)?)));
        Seen {
            paths: paths.collect(),
            pins: self.pins.clone(),
            profiles: self.profiles.clone(),
        }
    }

    /// Whether a command can be given: what was never added has no store path.
    pub fn can_be_given(&self, command: &Command) -> bool {
        match command {
            Command::Read(name)
            | Command::Prefetch { path: name, .. }
            | Command::Unpin(name)
            | Command::Install(_, name)
            | Command::Remove(_, name)
            | Command::Set(_, name) => match name {
                Name::Added(n) => self.added.contains(n),
                _ => true,
            },
            _ => true,
        }
    }

    /// Does what a command does; an error if it is to fail.
    pub fn apply(&mut self, command: &Command) -> Result<(), &'static str> {
        let before = self.seen();
        let outcome = self.change(command);
        let removes = matches!(command, Command::Evict | Command::Gc { .. });
        match command {
            Command::LosePower => {}
            _ if removes => self.undurable.push(before),
            _ if self.is_durable_since(&before) => self.undurable.clear(),
            _ => {}
        }
        outcome
    }

    /// Whether something has changed that is durable, with all that was before it. What is only
    /// registered can be looked up again.
    fn is_durable_since(&self, before: &Seen) -> bool {
        let now = self.seen();
        let came = |(name, status): (&Name, &Status)| {
            *status != Status::Registered && before.paths.get(name) != Some(status)
        };
        (now.pins != before.pins) || (now.profiles != before.profiles) || now.paths.iter().any(came)
    }

    fn change(&mut self, command: &Command) -> Result<(), &'static str> {
        match command {
            Command::Copy { package, recursive } => {
                self.bring(&Name::Package(*package), *recursive)
            }
            Command::Add(tree) => {
                self.added.insert(*tree);
                self.publish(&Name::Added(*tree));
                Ok(())
            }
            Command::Read(name) if self.fetches_on_demand => {
                self.find(name)?;
                // A lookup registers what the path refers to.
                if self.status(name).is_none_or(|s| s == Status::Registered) {
                    self.register(name);
                }
                self.bring(name, false)
            }
            Command::Read(name) => match self.status(name) {
                Some(Status::Local) => Ok(()),
                _ => Err("it is not here"),
            },
            Command::Prefetch {
                path,
                recursive,
                pin,
            } => {
                self.find(path)?;
                if *pin {
                    self.pins.insert(path.clone());
                }
                self.bring(path, *recursive)
            }
            Command::Unpin(name) => self
                .pins
                .remove(name)
                .then_some(())
                .ok_or("it is not pinned"),
            Command::Evict => {
                self.evict();
                Ok(())
            }
            Command::Gc { delete_old } => {
                if *delete_old {
                    self.profiles.values_mut().for_each(Profile::delete_old);
                }
                self.collect();
                Ok(())
            }
            Command::Reopen | Command::Kill | Command::LosePower => Ok(()),
            _ => self.change_profile(command),
        }
    }

    fn change_profile(&mut self, command: &Command) -> Result<(), &'static str> {
        match command {
            Command::Install(profile, package) => self.install(profile, package),
            Command::Remove(profile, package) => self.remove(profile, package),
            Command::Set(profile, path) => {
                self.find(path)?;
                self.register(path);
                self.advance(profile, path.clone());
                Ok(())
            }
            Command::Rollback(profile) => self.switch(profile, |p| {
                let below = p.generations.range(..p.current?).next_back();
                below.map(|(number, _)| *number)
            }),
            Command::Switch(profile, to) => {
                self.switch(profile, |p| p.generations.contains_key(to).then_some(*to))
            }
            Command::DeleteOld(profile) => {
                self.profiles
                    .get_mut(profile)
                    .ok_or("no such profile")?
                    .delete_old();
                Ok(())
            }
            Command::Delete(profile) => self
                .profiles
                .remove(profile)
                .map(drop)
                .ok_or("no such profile"),
            other => panic!("{other:?} changes no profile"),
        }
    }

    /// That a path is here or at the source.
    fn find(&self, name: &Name) -> Result<(), &'static str> {
        match name {
            Name::Package(_) => Ok(()),
            _ if self.paths.contains_key(name) => Ok(()),
            _ => Err("no source has it"),
        }
    }

    fn publish(&mut self, name: &Name) {
        self.paths.insert(name.clone(), true);
        self.complete.insert(name.tree());
    }

    fn register(&mut self, name: &Name) {
        for name in closure(name) {
            self.paths.entry(name).or_insert(false);
        }
    }

    /// Makes the contents of a path local, with its closure if `recursive`.
    fn bring(&mut self, name: &Name, recursive: bool) -> Result<(), &'static str> {
        self.find(name)?;
        let wanted = if recursive {
            closure(name)
        } else {
            BTreeSet::from([name.clone()])
        };
        for name in wanted {
            if self.status(&name) != Some(Status::Local) {
                self.publish(&name);
            }
        }
        Ok(())
    }

    /// How many paths of a closure can be found.
    pub fn known_closure(&self, name: &Name) -> usize {
        self.reached(vec![name.clone()]).len()
    }

    /// Paths that are reached from pins and generations.
    fn rooted(&self) -> BTreeSet<Name> {
        let generations = self.profiles.values().flat_map(|p| p.generations.values());
        self.reached(self.pins.iter().chain(generations).cloned().collect())
    }

    /// Paths that are registered and reached from others over registered ones.
    fn reached(&self, mut open: Vec<Name>) -> BTreeSet<Name> {
        let mut reached = BTreeSet::new();
        while let Some(name) = open.pop() {
            if self.paths.contains_key(&name) && reached.insert(name.clone()) {
                open.extend(name.references());
            }
        }
        reached
    }

    fn evict(&mut self) {
        let rooted = self.rooted();
        let is_kept = |name: &&Name| !matches!(name, Name::Package(_)) || rooted.contains(name);
        let local = |name: &&Name| self.status(name) == Some(Status::Local);
        let kept: Vec<_> = self.paths.keys().filter(is_kept).filter(local).collect();
        let trees: BTreeSet<_> = kept.iter().map(|name| name.tree()).collect();
        let chunks: BTreeSet<_> = kept.iter().filter_map(|name| name.chunk()).collect();
        // A tree stays with a chunk that something else keeps: dropping it would free nothing.
        self.complete.retain(|tree| {
            trees.contains(tree) || tree.chunk().is_none_or(|chunk| chunks.contains(&chunk))
        });
    }

    fn collect(&mut self) {
        let rooted = self.rooted();
        self.paths.retain(|name, _| rooted.contains(name));
        let with_trees = self.paths.iter().filter(|(_, has_tree)| **has_tree);
        let trees: BTreeSet<_> = with_trees.map(|(name, _)| name.tree()).collect();
        self.complete.retain(|tree| trees.contains(tree));
    }

    /// The packages of the current generation. A path is looked into to see whether it is an
    /// environment.
    fn installed(&mut self, profile: &str) -> Result<Vec<Name>, &'static str> {
        let Some(profile) = self.profiles.get(profile) else {
            return Ok(Vec::new());
        };
        let current = profile.current.and_then(|n| profile.generations.get(&n));
        match current {
            None => Ok(Vec::new()),
            Some(Name::Environment(packages)) => Ok(packages.clone()),
            Some(path) => {
                let path = path.clone();
                if self.status(&path) == Some(Status::Registered) {
                    self.publish(&path);
                }
                Err("the generation is no environment")
            }
        }
    }

    fn install(&mut self, profile: &'static str, package: &Name) -> Result<(), &'static str> {
        self.find(package)?;
        if self.status(package).is_none_or(|s| s == Status::Registered) {
            self.publish(package);
        }
        self.register(package);
        let mut packages = self.installed(profile)?;
        if packages.contains(package) {
            return Ok(());
        }
        let program = |name: &Name| name.package().map(|p| p.program);
        if packages
            .iter()
            .any(|there| program(there) == program(package))
        {
            return Err("two packages have the same program");
        }
        packages.push(package.clone());
        self.make(profile, packages);
        Ok(())
    }

    fn remove(&mut self, profile: &'static str, package: &Name) -> Result<(), &'static str> {
        let mut packages = self.installed(profile)?;
        let at = packages
            .iter()
            .position(|p| p == package)
            .ok_or("it is not installed")?;
        packages.remove(at);
        self.make(profile, packages);
        Ok(())
    }

    fn make(&mut self, profile: &'static str, packages: Vec<Name>) {
        let environment = Name::Environment(packages);
        self.publish(&environment);
        self.advance(profile, environment);
    }

    fn advance(&mut self, profile: &'static str, target: Name) {
        let profile = self.profiles.entry(profile).or_default();
        let number = match profile.generations.last_key_value() {
            Some((highest, there)) if *there == target => *highest,
            Some((highest, _)) => highest + 1,
            None => 1,
        };
        profile.generations.insert(number, target);
        profile.current = Some(number);
    }

    fn switch(
        &mut self,
        profile: &str,
        to: impl FnOnce(&Profile) -> Option<u64>,
    ) -> Result<(), &'static str> {
        let profile = self.profiles.get_mut(profile).ok_or("no such profile")?;
        profile.current = Some(to(profile).ok_or("no such generation")?);
        Ok(())
    }

    /// Takes over what was found after a power loss. A problem if it is not the state of before or a
    /// state on the way there from before removals.
    pub fn recover(&mut self, found: &Seen) -> Result<(), String> {
        let now = self.seen();
        if (&found.pins, &found.profiles) != (&now.pins, &now.profiles) {
            return Err("pins or profiles are others".to_owned());
        }
        let undurable = std::mem::take(&mut self.undurable);
        let moments: Vec<_> = undurable.iter().chain([&now]).map(|s| &s.paths).collect();
        let is_here = |status: &Status| *status != Status::Registered;
        for (name, status) in &found.paths {
            if !moments.iter().any(|paths| paths.get(name) == Some(status)) {
                return Err(format!("{name:?} was never {status:?}"));
            }
            for reference in name.references() {
                let is_with = |paths: &&BTreeMap<_, _>| {
                    !paths.contains_key(name) || paths.get(&reference).is_some_and(is_here)
                };
                if moments.iter().all(is_with) && !found.paths.contains_key(&reference) {
                    return Err(format!("{name:?} came back without {reference:?}"));
                }
            }
        }
        let is_lost =
            |(name, status): &(&Name, &Status)| is_here(status) && !found.paths.contains_key(name);
        if let Some((lost, _)) = now.paths.iter().find(is_lost) {
            return Err(format!("{lost:?} is lost"));
        }
        self.paths.clear();
        self.complete.clear();
        for (name, status) in &found.paths {
            self.paths.insert(name.clone(), is_here(status));
            if *status == Status::Local {
                self.complete.insert(name.tree());
            }
        }
        Ok(())
    }
}

impl Profile {
    fn delete_old(&mut self) {
        let current = self.current;
        self.generations
            .retain(|number, _| Some(*number) == current);
    }
}

fn closure(name: &Name) -> BTreeSet<Name> {
    let mut reached = BTreeSet::new();
    let mut open = vec![name.clone()];
    while let Some(name) = open.pop() {
        if reached.insert(name.clone()) {
            open.extend(name.references());
        }
    }
    reached
}
