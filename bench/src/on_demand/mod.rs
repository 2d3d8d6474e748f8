//! On demand: from nothing here until a program of a binary cache behind HTTP has ended. narfs,
//! which fetches what is touched, beside Nix, which copies the whole closure; over loopback as it
//! is, and over a slow link.
//!
//! Every byte is counted at the server, and the daemon's own count has to be the same.

mod tables;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::BinaryCache;
use crate::link::{self, Quality};
use crate::measure;
use crate::namespace::{self, NIX};
use crate::narfs::{Activity, Narfs};
use crate::nix::{Nix, store_dir};
use crate::program::Program;
use crate::report::Section;
use crate::server::{Sent, Server, Transfer};
use crate::work::Work;

/// No command here takes that long, over the slow link either.
const LIMIT: Duration = Duration::from_secs(600);

/// If the server has sent nothing for so long, and the daemon says that it fetches nothing,
/// nothing more will come: many round trips of the slow link.
const QUIET: Duration = Duration::from_secs(1);

/// A household's line, or a data centre's on another continent.
const SLOW: Quality = Quality {
    round_trip: Duration::from_millis(50),
    bits_per_second: 20_000_000,
};

/// How the program gets there.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    NixCopy,
    /// The same by substitution, which has several transfers at once.
    NixRealise,
    OnDemand,
    PrefetchClosure,
    ReplayFirst,
    ReplayMeanwhile,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::NixCopy,
        Self::NixRealise,
        Self::OnDemand,
        Self::PrefetchClosure,
        Self::ReplayFirst,
        Self::ReplayMeanwhile,
    ];

    fn is_nix(self) -> bool {
        matches!(self, Self::NixCopy | Self::NixRealise)
    }

    fn name(self) -> &'static str {
        match self {
            Self::NixCopy => "nix copy of the closure",
            Self::NixRealise => "nix-store --realise, 16 at once",
            Self::OnDemand => "narfs mount",
            Self::PrefetchClosure => "narfs mount -o prefetch=closure",
            Self::ReplayFirst => "narfs mount, a trace replayed first",
            Self::ReplayMeanwhile => "narfs mount, a trace replayed meanwhile",
        }
    }
}

/// One run.
struct Sample {
    /// From nothing until the program starts, and until it has ended.
    start_seconds: f64,
    seconds: f64,
    /// What the server had sent then, and in the end.
    sent: Sent,
    sent_in_all: Sent,
    /// Every request, in order; when the clock started.
    transfers: Vec<Transfer>,
    began: Instant,
    /// Store paths that are local in the end.
    paths: u64,
    /// What the kernel asks the daemon when the program runs once more.
    second_fuse_requests: Option<u64>,
    /// Of the machine, just before.
    load: f64,
}

/// A way and its runs.
struct Contender {
    way: Way,
    samples: Vec<Sample>,
}

/// A network, and everybody's runs over it.
struct Course {
    name: String,
    server: SocketAddr,
    contenders: Vec<Contender>,
}

/// All that is the same for every run.
struct Bench<'a> {
    narfs: &'a Narfs,
    nix: Option<&'a Nix>,
    cache: &'a BinaryCache,
    work: &'a Work,
    server: Server,
}

pub fn run(
    narfs: &Narfs,
    nix: Option<&Nix>,
    cache: &BinaryCache,
    work: &Work,
    rounds: u32,
) -> Result<Section> {
    if !Path::new("/dev/fuse").exists() {
        return Ok(tables::not_measured("there is no /dev/fuse here"));
    }
    let bench = Bench {
        narfs,
        nix,
        cache,
        work,
        server: Server::start(&cache.dir)?,
    };
    let Some(program) = bench.find_program()? else {
        let what = "the binary cache has no python3 that can import json, ssl and sqlite3";
        return Ok(tables::not_measured(what));
    };
    let trace = bench.record(&program)?;
    let mut courses = bench.courses()?;
    let mut dropped = true;
    for round in 0..rounds as usize {
        for course in &mut courses {
            let count = course.contenders.len();
            for i in 0..count {
                // Each goes first in turn, so that none always follows the same one.
                let contender = &mut course.contenders[(i + round) % count];
                dropped &= measure::drop_kernel_caches();
                let sample = bench
                    .sample(contender.way, course.server, &program, &trace)
                    .with_context(|| format!("{}, {}", contender.way.name(), course.name))?;
                eprintln!(
                    "on demand, {}, round {} of {rounds}: {}: {:.2} s, {:.1} MB",
                    course.name,
                    round + 1,
                    contender.way.name(),
                    sample.seconds,
                    crate::report::mb(sample.sent.bytes)
                );
                contender.samples.push(sample);
            }
        }
    }
    let traced = fs::read_to_string(&trace)?.lines().count();
    Ok(tables::section(&courses, &program, traced, rounds, dropped))
}

impl Bench<'_> {
    fn find_program(&self) -> Result<Option<Program>> {
        let state = self.work.fresh("on-demand/found")?;
        self.private(|| {
            let mounted = self.mount(&state, self.server.address, &[])?;
            let found = Program::find(self.cache, &self.log());
            mounted.end()?;
            Ok(found)
        })
    }

    fn courses(&self) -> Result<Vec<Course>> {
        let contenders = || {
            let there = |way: &Way| !way.is_nix() || self.nix.is_some();
            let ways = Way::ALL.into_iter().filter(there);
            ways.map(|way| Contender {
                way,
                samples: Vec::new(),
            })
            .collect()
        };
        let slow = format!(
            "{} ms and {} Mbit/s",
            SLOW.round_trip.as_millis(),
            SLOW.bits_per_second / 1_000_000
        );
        Ok(vec![
            Course {
                name: "loopback".into(),
                server: self.server.address,
                contenders: contenders(),
            },
            Course {
                name: slow,
                server: link::open(self.server.address, SLOW)?,
                contenders: contenders(),
            },
        ])
    }

    /// The store paths that the program touches, one a line, as a first run of it is recorded.
    fn record(&self, program: &Program) -> Result<PathBuf> {
        let trace = self.work.scratch("trace");
        let state = self.work.fresh("on-demand/recorded")?;
        self.private(|| {
            let mounted = self.mount(&state, self.server.address, &[])?;
            self.tell(&state, &["trace", "start", "bench"])?;
            program.run(&self.log())?;
            self.tell(&state, &["trace", "stop", "bench"])?;
            let recorded = self.narfs.ask(&state, &["trace", "show", "bench"])?;
            if recorded.is_empty() {
                bail!("the trace of {} is empty", program.path);
            }
            fs::write(&trace, recorded)?;
            mounted.end()
        })?;
        Ok(trace)
    }

    fn sample(
        &self,
        way: Way,
        server: SocketAddr,
        program: &Program,
        trace: &Path,
    ) -> Result<Sample> {
        let output = self
            .work
            .fresh(&format!("on-demand/{}", self.server.mark()))?;
        fs::create_dir_all(&output)?;
        self.cache
            .warm_paths(program.closure.iter().map(String::as_str))?;
        measure::warm_program(&self.narfs.tell(&output, &[]))?;
        let load = measure::load();
        self.private(|| match self.nix {
            Some(nix) if way.is_nix() => self.copied(nix, way, &output, server, program, load),
            _ => self.mounted(way, &output, server, program, trace, load),
        })
    }

    fn copied(
        &self,
        nix: &Nix,
        way: Way,
        root: &Path,
        server: SocketAddr,
        program: &Program,
        load: f64,
    ) -> Result<Sample> {
        let mut copy = match way {
            Way::NixRealise => nix.realise_from(root, self.cache, &url(server)),
            _ => nix.copy_from(root, self.cache, &url(server))?,
        };
        copy.arg(&program.path);
        nix.forget()?;
        measure::warm_program(&copy)?;

        let mark = self.server.mark();
        let began = Instant::now();
        measure::run_within(&mut copy, &self.log(), LIMIT)?;
        namespace::cover(&root.join("nix"))?;
        let start_seconds = began.elapsed().as_secs_f64();
        program.run(&self.log())?;
        let seconds = began.elapsed().as_secs_f64();

        let transfers = self.server.since(mark);
        let sent = Sent::of(&transfers);
        for path in &program.closure {
            let copied = store_dir(root).join(crate::cache::base_name(path));
            fs::symlink_metadata(copied).with_context(|| format!("Nix left out {path}"))?;
        }
        Ok(Sample {
            start_seconds,
            seconds,
            sent,
            sent_in_all: sent,
            transfers,
            began,
            paths: program.closure.len() as u64,
            second_fuse_requests: None,
            load,
        })
    }

    fn mounted(
        &self,
        way: Way,
        state: &Path,
        server: SocketAddr,
        program: &Program,
        trace: &Path,
        load: f64,
    ) -> Result<Sample> {
        let replay = || {
            let mut command = self.narfs.tell(state, &["prefetch", "--no-recursive", "-"]);
            let log = self.work.scratch("replay-log");
            measure::start(command.stdin(Stdio::from(File::open(trace)?)), &log)
        };
        let options: &[&str] = match way {
            Way::PrefetchClosure => &["prefetch=closure"],
            _ => &[],
        };
        let mark = self.server.mark();
        let began = Instant::now();
        let mounted = self.mount(state, server, options)?;
        let mut replayed = None;
        match way {
            Way::ReplayFirst => replay()?.end(LIMIT)?,
            Way::ReplayMeanwhile => replayed = Some(replay()?),
            _ => {}
        }
        let start_seconds = began.elapsed().as_secs_f64();
        program.run(&self.log())?;
        let seconds = began.elapsed().as_secs_f64();
        let sent = Sent::of(&self.server.since(mark));

        if let Some(replayed) = replayed {
            replayed.end(LIMIT)?;
        }
        let activity = self.settle(state, mark)?;
        let transfers = self.server.since(mark);
        let sent_in_all = Sent::of(&transfers);
        if activity.fetched_bytes != sent_in_all.nar_bytes {
            bail!(
                "narfs counts {} bytes of NARs as fetched, and the server has sent {}",
                activity.fetched_bytes,
                sent_in_all.nar_bytes
            );
        }
        let second = self.second_run(state, program, activity)?;
        mounted.end()?;
        let paths = self.narfs.stats(state)?.paths;
        if way == Way::PrefetchClosure && paths < program.closure.len() as u64 {
            bail!(
                "prefetch=closure left {paths} of {} paths here",
                program.closure.len()
            );
        }
        Ok(Sample {
            start_seconds,
            seconds,
            sent,
            sent_in_all,
            transfers,
            began,
            paths,
            second_fuse_requests: Some(second),
            load,
        })
    }

    /// Runs the program again, which must ask the server for nothing; says how often the kernel
    /// asks the daemon.
    fn second_run(&self, state: &Path, program: &Program, before: Activity) -> Result<u64> {
        let mark = self.server.mark();
        program.run(&self.log())?;
        let after = self.narfs.activity(state)?;
        if let Some(transfer) = self.server.since(mark).first() {
            bail!(
                "a second run of {} asks the server for {}",
                program.path,
                transfer.path
            );
        }
        Ok(after.fuse_requests - before.fuse_requests)
    }

    /// Waits until nothing is fetched any more.
    fn settle(&self, state: &Path, mark: usize) -> Result<Activity> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            let activity = self.narfs.activity(state)?;
            let transfers = self.server.since(mark);
            let done = |t: &Transfer| t.ended.is_some_and(|ended| ended.elapsed() > QUIET);
            if activity.idle && transfers.iter().all(done) {
                return Ok(activity);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("narfs does not come to an end with fetching: see `narfs status`")
    }

    fn private<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        namespace::private(work)
    }

    fn mount(&self, state: &Path, server: SocketAddr, options: &[&str]) -> Result<Mounted<'_>> {
        let mut command = self.narfs.mount(state, NIX, self.cache, &url(server));
        // A /nix of this machine may have something in it.
        let options = [&["nonempty"], options].concat().join(",");
        measure::run_within(command.args(["-o", &options]), &self.log(), LIMIT)?;
        Ok(Mounted {
            bench: self,
            state: state.to_owned(),
        })
    }

    fn tell(&self, state: &Path, args: &[&str]) -> Result<()> {
        measure::run_within(&mut self.narfs.tell(state, args), &self.log(), LIMIT)
    }

    fn log(&self) -> PathBuf {
        self.work.scratch("log")
    }
}

/// A mount at /nix, in this namespace, until it is dropped.
struct Mounted<'a> {
    bench: &'a Bench<'a>,
    state: PathBuf,
}

impl Mounted<'_> {
    fn end(self) -> Result<()> {
        self.bench.tell(&self.state, &["umount", NIX])
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Of what failed: the daemon ends with its mount.
        namespace::uncover();
    }
}

fn url(server: SocketAddr) -> String {
    format!("http://{server}")
}
