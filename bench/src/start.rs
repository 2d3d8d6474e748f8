//! The start of a daemon: how long `narfs mount` takes until the mount answers, and what the daemon then
//! needs, with few and with very many registered paths in the state.

mod paths;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::measure;
use crate::namespace;
use crate::narfs::Narfs;
use crate::report::{Section, mb, median, spread, table};
use crate::work::Work;

/// Paths in the states that are mounted.
const PATHS: [u32; 3] = [100, 10_000, 100_000];

/// No command here takes that long.
const LIMIT: Duration = Duration::from_secs(1800);

/// Starts with each state in a round: one takes less than a second.
const STARTS: u32 = 5;

/// One start.
struct Sample {
    /// Until `narfs mount` returned.
    mount_seconds: f64,
    /// Until a file of a path was read after that.
    read_seconds: f64,
    /// Resident memory of the daemon then.
    rss_bytes: u64,
    /// Until the names of the whole store directory were read after that.
    list_seconds: f64,
    /// Resident memory of the daemon then.
    listed_rss_bytes: u64,
    /// Until `narfs status` answered after that.
    status_seconds: f64,
}

/// A state, and what its starts took.
struct State {
    paths: u32,
    dir: PathBuf,
    copy_seconds: f64,
    samples: Vec<Sample>,
}

pub fn run(narfs: &Narfs, work: &Work, rounds: u32) -> Result<Section> {
    if !Path::new("/dev/fuse").exists() {
        return Ok(section(&[], "there is no /dev/fuse here"));
    }
    // A file takes a block in the binary cache, and there are two of each path.
    work.require_space(u64::from(PATHS.iter().sum::<u32>()) * 3 * 4096)?;
    let mut states = Vec::new();
    for paths in PATHS {
        eprintln!("start: a state of {paths} paths");
        let cache = work.fresh("start/cache")?;
        paths::binary_cache(&cache, paths)?;
        let dir = work.fresh(&format!("start/state-{paths}"))?;
        let mut copy = narfs.copy_unsigned(&dir, &cache);
        let began = Instant::now();
        measure::run_within(&mut copy, &work.scratch("start/log"), LIMIT)?;
        states.push(State {
            paths,
            dir,
            copy_seconds: began.elapsed().as_secs_f64(),
            samples: Vec::new(),
        });
        crate::work::remove(&cache)?;
    }
    let mountpoint = work.fresh("start/mount")?;
    fs::create_dir(&mountpoint)?;
    namespace::private(|| {
        for round in 0..rounds * STARTS {
            for state in &mut states {
                let sample = start(narfs, state, &mountpoint, &work.scratch("start/log"))
                    .with_context(|| format!("{} paths, start {}", state.paths, round + 1))?;
                state.samples.push(sample);
            }
        }
        Ok(())
    })?;
    Ok(section(&states, ""))
}

fn start(narfs: &Narfs, state: &State, mountpoint: &Path, log: &Path) -> Result<Sample> {
    let at = mountpoint.to_string_lossy();
    let began = Instant::now();
    measure::run_within(
        &mut narfs.tell(&state.dir, &["mount", &at, "--offline"]),
        log,
        LIMIT,
    )?;
    let mount_seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let store = mountpoint.join("store");
    let one = store.join(paths::base_name(state.paths - 1)).join("a");
    let read = fs::read(&one).with_context(|| format!("cannot read {}", one.display()))?;
    let read_seconds = began.elapsed().as_secs_f64();
    if read != paths::contents(state.paths - 1) {
        bail!("{} is not what it must be", one.display());
    }
    let daemon = narfs.daemon(&state.dir)?;
    let rss_bytes = measure::resident(daemon)?;
    let began = Instant::now();
    let listed = fs::read_dir(&store)?.count();
    let list_seconds = began.elapsed().as_secs_f64();
    if listed != state.paths as usize {
        bail!("{listed} paths are listed in place of {}", state.paths);
    }
    let listed_rss_bytes = measure::resident(daemon)?;
    let began = Instant::now();
    narfs.daemon(&state.dir)?;
    let status_seconds = began.elapsed().as_secs_f64();
    measure::run_within(&mut narfs.tell(&state.dir, &["umount", &at]), log, LIMIT)?;
    Ok(Sample {
        mount_seconds,
        read_seconds,
        rss_bytes,
        list_seconds,
        listed_rss_bytes,
        status_seconds,
    })
}

/// A row of the table.
type Row = (&'static str, fn(&Sample) -> f64);

const ROWS: [Row; 6] = [
    ("`narfs mount` returns: ms", |s| s.mount_seconds * 1e3),
    ("… then a first file is read: ms", |s| {
        s.read_seconds * 1e3
    }),
    ("… MB of memory of the daemon", |s| mb(s.rss_bytes)),
    ("… then all names are listed: ms", |s| {
        s.list_seconds * 1e3
    }),
    ("… MB of memory of the daemon", |s| mb(s.listed_rss_bytes)),
    ("… then `narfs status` answers: ms", |s| {
        s.status_seconds * 1e3
    }),
];

fn section(states: &[State], not_measured: &str) -> Section {
    const NAME: &str = "start";
    if !not_measured.is_empty() {
        return Section {
            markdown: format!("### Start\n\nNot measured: {not_measured}.\n"),
            data: json!({ "not_measured": not_measured }),
            ..Section::new(NAME)
        };
    }
    let head = states.iter().map(|s| format!("{} paths", s.paths));
    let mut rows: Vec<Vec<String>> = vec![std::iter::once(String::new()).chain(head).collect()];
    let values = |state: &State, of: fn(&Sample) -> f64| -> Vec<f64> {
        state.samples.iter().map(of).collect()
    };
    rows.extend(ROWS.iter().map(|(name, of)| {
        let medians = states
            .iter()
            .map(|s| format!("{:.1}", median(values(s, *of))));
        std::iter::once((*name).to_owned()).chain(medians).collect()
    }));
    let starts = states.first().map_or(0, |s| s.samples.len());
    let longest = states.iter().map(|s| {
        let longest = s
            .samples
            .iter()
            .map(|s| s.mount_seconds * 1e3)
            .fold(0.0, f64::max);
        format!("{longest:.0} ms with {}", s.paths)
    });
    let markdown = format!(
        "### Start\n\nMedians of {starts} starts; the longest `narfs mount` took {}.\n\n{}",
        longest.collect::<Vec<_>>().join(", "),
        table(&rows)
    );
    let states = states.iter().map(|s| {
        let samples: Vec<Value> = s
            .samples
            .iter()
            .map(|s| {
                json!({
                    "mount_seconds": s.mount_seconds,
                    "read_seconds": s.read_seconds,
                    "rss_bytes": s.rss_bytes,
                    "list_seconds": s.list_seconds,
                    "listed_rss_bytes": s.listed_rss_bytes,
                    "status_seconds": s.status_seconds,
                })
            })
            .collect();
        json!({
            "paths": s.paths,
            "copy_seconds": s.copy_seconds,
            "mount_spread": spread(values(s, |s| s.mount_seconds)),
            "samples": samples,
        })
    });
    Section {
        markdown,
        data: json!({ "states": states.collect::<Vec<_>>() }),
        ..Section::new(NAME)
    }
}
