//! Profiles: a user environment of many links, made, changed and switched. narfs, which computes it
//! and shows it in a mount, beside `nix-env` and `nix profile`, which write it to the disk.
//!
//! All have the same packages. In each round the links that the three show are compared: a
//! difference is an error, and no figure is reported.

mod packages;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::packages::{LINKS, Packages};
use crate::files::{self, Usage};
use crate::measure::{self, Cost};
use crate::namespace;
use crate::narfs::Narfs;
use crate::nix::Nix;
use crate::report::Section;
use crate::work::Work;

/// No command here takes that long.
const LIMIT: Duration = Duration::from_secs(600);

/// There and back so many times in each round.
const SWITCHES: u32 = 3;

/// Where Nix has profiles.
const PROFILES: &str = "/nix/var/nix/profiles";

/// Who has a profile.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Narfs,
    NixEnv,
    NixProfile,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Narfs => "narfs profile",
            Self::NixEnv => "nix-env",
            Self::NixProfile => "nix profile",
        }
    }
}

/// What a step cost.
struct Step {
    cost: Cost,
    /// What the kernel charges to the daemon for writing meanwhile; the command's own is in `cost`.
    daemon_bytes: u64,
    /// What the state, or the store with Nix's database, has more on disk now; a database may also
    /// have less.
    disk_bytes: i64,
    /// The same of files, directories and links.
    inodes: i64,
    /// What narfs counts as stored more: its records, whatever its database makes of them.
    stored_bytes: Option<i64>,
}

impl Step {
    /// What the command and the daemon wrote.
    fn written_bytes(&self) -> u64 {
        self.cost.charged_bytes + self.daemon_bytes
    }
}

/// One round.
struct Sample {
    /// From no profile to an environment of all packages.
    first: Step,
    /// One more package.
    second: Step,
    /// Back to the first generation and forth again.
    switches: Vec<Step>,
    /// Reading every link with cold caches of the kernel.
    list_seconds: f64,
    /// Of the machine, just before.
    load: f64,
}

/// What all generations of Nix together take once equal files and links are kept once.
struct Optimised {
    generations: usize,
    seconds: f64,
    bytes: u64,
    inodes: u64,
}

/// A way and its rounds.
struct Contender {
    way: Way,
    samples: Vec<Sample>,
}

struct Bench<'a> {
    narfs: &'a Narfs,
    nix: Option<&'a Nix>,
    work: &'a Work,
    packages: Packages,
    /// The store path that both give to each of them.
    paths: BTreeMap<PathBuf, String>,
    /// Everything that Nix has, shown at /nix.
    root: PathBuf,
    /// Everything that narfs has.
    state: PathBuf,
    mountpoint: PathBuf,
}

pub fn run(narfs: &Narfs, nix: Option<&Nix>, work: &Work, rounds: u32) -> Result<Section> {
    if !Path::new("/dev/fuse").exists() {
        return Ok(tables::not_measured("there is no /dev/fuse here"));
    }
    // A long link takes a block of its own, and two ways write two generations in each round.
    work.require_space((u64::from(rounds) * 4 + 4) * LINKS as u64 * 4500)?;
    let trees = work.fresh("profiles/packages")?;
    let mut bench = Bench {
        narfs,
        nix,
        work,
        packages: Packages::make(&trees, rounds)?,
        paths: BTreeMap::new(),
        root: work.fresh("profiles/root")?,
        state: work.fresh("profiles/state")?,
        mountpoint: work.fresh("profiles/mount")?,
    };
    let mut contenders = vec![Contender::new(Way::Narfs)];
    if nix.is_some() {
        contenders.extend([Way::NixEnv, Way::NixProfile].map(Contender::new));
    }
    let (dropped, optimised) = namespace::private(|| {
        bench.add_packages()?;
        let before = files::usage(&bench.root)?;
        let dropped = bench.rounds(&mut contenders, rounds)?;
        Ok((dropped, bench.optimise(before, rounds)?))
    })?;
    let optimised = optimised.as_ref();
    Ok(tables::section(&contenders, optimised, rounds, dropped))
}

impl Contender {
    fn new(way: Way) -> Self {
        let samples = Vec::new();
        Self { way, samples }
    }
}

impl Bench<'_> {
    /// All rounds; whether the kernel's caches could be dropped.
    fn rounds(&self, contenders: &mut [Contender], rounds: u32) -> Result<bool> {
        let _mounted = self.mount()?;
        let mut dropped = true;
        for round in 0..rounds as usize {
            let count = contenders.len();
            let mut links: Option<BTreeSet<String>> = None;
            for i in 0..count {
                // Each goes first in turn, so that none always follows the same one.
                let contender = &mut contenders[(i + round) % count];
                let way = contender.way;
                let (sample, seen) = self
                    .sample(way, round, &mut dropped)
                    .with_context(|| format!("{}, round {}", way.name(), round + 1))?;
                eprintln!(
                    "profiles, round {} of {rounds}: {}: {:.2} s, one more {:.2} s, a switch {:.3} s",
                    round + 1,
                    way.name(),
                    sample.first.cost.ended_seconds,
                    sample.second.cost.ended_seconds,
                    tables::switch_seconds(&sample),
                );
                let expected = links.get_or_insert_with(|| seen.clone());
                if let Some(other) = expected.symmetric_difference(&seen).next() {
                    bail!(
                        "{} shows other links than the ways before: {other}",
                        way.name()
                    );
                }
                contender.samples.push(sample);
            }
        }
        Ok(dropped)
    }

    /// Has Nix keep equal files once, the links of its generations among them; `before` is what
    /// its store took without any.
    fn optimise(&self, before: Usage, rounds: u32) -> Result<Option<Optimised>> {
        let Some(nix) = self.nix else {
            return Ok(None);
        };
        eprintln!("profiles: nix-store --optimise");
        let mut command = nix.at_nix("nix-store", &["--optimise"]);
        let cost = measure::run(&mut command, &self.root, &self.log())?;
        let after = files::usage(&self.root)?;
        Ok(Some(Optimised {
            generations: rounds as usize * 4,
            seconds: cost.ended_seconds,
            bytes: after.bytes - before.bytes,
            inodes: after.inodes - before.inodes,
        }))
    }

    fn sample(
        &self,
        way: Way,
        round: usize,
        dropped: &mut bool,
    ) -> Result<(Sample, BTreeSet<String>)> {
        let profile = format!("{}-{round}", way.name().replace(' ', "-"));
        let load = measure::load();
        let install = |packages: Vec<&PathBuf>| self.install(way, &profile, &packages);
        let common = self.packages.common.iter();
        let all = common.chain([&self.packages.first[round]]).collect();
        let first = self.step(way, self.output(way), install(all))?;
        let target = self.target(way, &profile)?;
        let second = self.step(
            way,
            self.output(way),
            install(vec![&self.packages.second[round]]),
        )?;
        let changed = self.target(way, &profile)?;
        if target == changed {
            bail!("one more package changed nothing: {target}");
        }
        let mut switches = Vec::new();
        for _ in 0..SWITCHES {
            for (generation, expected) in [("1", &target), ("2", &changed)] {
                let command = self.switch(way, &profile, generation);
                switches.push(self.step(way, &self.kept_by_profiles(way), command)?);
                let now = self.target(way, &profile)?;
                if now != *expected {
                    bail!("a switch to {expected} led to {now}");
                }
            }
        }
        *dropped &= measure::drop_kernel_caches();
        let began = Instant::now();
        let seen = self.links(way, &changed)?;
        let list_seconds = began.elapsed().as_secs_f64();
        let sample = Sample {
            first,
            second,
            switches,
            list_seconds,
            load,
        };
        Ok((sample, seen))
    }

    /// Runs a command that writes below `output`, and says what it cost.
    fn step(&self, way: Way, output: &Path, mut command: Command) -> Result<Step> {
        measure::warm_program(&command)?;
        let daemon = match way {
            Way::Narfs => Some(self.narfs.daemon(&self.state)?),
            Way::NixEnv | Way::NixProfile => None,
        };
        let stored = || daemon.map(|_| self.narfs.stats(&self.state)).transpose();
        let stored_before = stored()?;
        let written = || daemon.map_or(Ok(0), measure::written_by);
        let (before, written_before) = (files::usage(output)?, written()?);
        let cost = measure::run(&mut command, output, &self.log())?;
        let (after, written_after) = (files::usage(output)?, written()?);
        let more = |before: u64, after: u64| after.cast_signed() - before.cast_signed();
        Ok(Step {
            cost,
            daemon_bytes: written_after - written_before,
            disk_bytes: more(before.bytes, after.bytes),
            inodes: more(before.inodes, after.inodes),
            stored_bytes: stored_before
                .zip(stored()?)
                .map(|(before, after)| more(before.stored_bytes, after.stored_bytes)),
        })
    }

    fn output(&self, way: Way) -> &Path {
        match way {
            Way::Narfs => &self.state,
            Way::NixEnv | Way::NixProfile => &self.root,
        }
    }

    /// What of it a switch can change.
    fn kept_by_profiles(&self, way: Way) -> PathBuf {
        match way {
            Way::Narfs => self.state.clone(),
            Way::NixEnv | Way::NixProfile => self.root.join("var"),
        }
    }

    /// A command that installs packages, all in one generation.
    fn install(&self, way: Way, profile: &str, packages: &[&PathBuf]) -> Command {
        let at = format!("{PROFILES}/{profile}");
        let mut command = match (way, self.nix) {
            (Way::NixEnv, Some(nix)) => nix.at_nix("nix-env", &["--profile", &at, "--install"]),
            (Way::NixProfile, Some(nix)) => {
                nix.at_nix("nix", &["profile", "install", "--profile", &at])
            }
            _ => self
                .narfs
                .tell(&self.state, &["profile", "-p", profile, "install"]),
        };
        command.args(
            packages
                .iter()
                .filter_map(|package| self.paths.get(*package)),
        );
        command
    }

    fn switch(&self, way: Way, profile: &str, to: &str) -> Command {
        let at = format!("{PROFILES}/{profile}");
        match (way, self.nix) {
            (Way::NixEnv, Some(nix)) => {
                nix.at_nix("nix-env", &["--profile", &at, "--switch-generation", to])
            }
            (Way::NixProfile, Some(nix)) => nix.at_nix(
                "nix",
                &["profile", "rollback", "--profile", &at, "--to", to],
            ),
            _ => self
                .narfs
                .tell(&self.state, &["profile", "-p", profile, "switch", to]),
        }
    }

    /// The store path that the link of a profile leads to, as it is shown now.
    fn target(&self, way: Way, profile: &str) -> Result<String> {
        let profiles = match way {
            Way::Narfs => self.mountpoint.join("var/nix/profiles"),
            Way::NixEnv | Way::NixProfile => PathBuf::from(PROFILES),
        };
        let read = |link: PathBuf| {
            fs::read_link(&link).with_context(|| format!("{} is no link", link.display()))
        };
        let generation = read(profiles.join(profile))?;
        let target = read(profiles.join(generation))?;
        Ok(target.to_string_lossy().into_owned())
    }

    /// Every name below a store path, with its kind and where it leads, manifests apart.
    fn links(&self, way: Way, path: &str) -> Result<BTreeSet<String>> {
        let base = crate::cache::base_name(path);
        let shown = match way {
            Way::Narfs => self.mountpoint.join("store").join(base),
            Way::NixEnv | Way::NixProfile => PathBuf::from(path),
        };
        let found = Command::new("find")
            .args([".", "-printf", "%p %y %l\\n"])
            .current_dir(&shown)
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8(found.stdout)?;
        let is_manifest = |line: &str| line.starts_with("./manifest.");
        let links = text.lines().filter(|line| !is_manifest(line));
        let links: BTreeSet<String> = links.map(str::to_owned).collect();
        if !found.status.success() || links.len() <= LINKS {
            bail!("{} has {} names, too few", shown.display(), links.len());
        }
        Ok(links)
    }

    /// Adds the packages to the store of Nix and to the state.
    fn add_packages(&mut self) -> Result<()> {
        fs::create_dir_all(self.root.join("var/nix/profiles"))?;
        fs::create_dir_all(&self.state)?;
        namespace::cover(&self.root)?;
        for package in self.packages.all() {
            let place = package.to_string_lossy();
            let path = self.narfs.ask(&self.state, &["add", &place])?;
            let path = String::from_utf8(path)?.trim().to_owned();
            self.paths.insert(package.clone(), path);
        }
        if let Some(nix) = self.nix {
            let mut add = nix.at_nix("nix-store", &["--add"]);
            measure::run_within(add.args(self.packages.all()), &self.log(), LIMIT)?;
        }
        for path in self.paths.values().filter(|_| self.nix.is_some()) {
            fs::symlink_metadata(path).with_context(|| format!("Nix did not add {path}"))?;
        }
        Ok(())
    }

    fn mount(&self) -> Result<Mounted<'_>> {
        fs::create_dir_all(&self.mountpoint)?;
        let at = self.mountpoint.to_string_lossy();
        let mut command = self.narfs.tell(&self.state, &["mount", &at, "--offline"]);
        measure::run_within(&mut command, &self.log(), LIMIT)?;
        Ok(Mounted { bench: self })
    }

    fn log(&self) -> PathBuf {
        self.work.scratch("log")
    }
}

/// A mount in this namespace, until it is dropped.
struct Mounted<'a> {
    bench: &'a Bench<'a>,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // The daemon ends with its mount, and the mount with the namespace.
        let bench = self.bench;
        let at = bench.mountpoint.to_string_lossy();
        let mut command = bench.narfs.tell(&bench.state, &["umount", &at]);
        let _ = measure::run_within(&mut command, &bench.log(), LIMIT);
    }
}
