//! Ingest: a whole binary cache, verified, into an empty store, until it is synced to disk. narfs
//! beside `nix copy`, plain and with Nix's own deduplication.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::cache::BinaryCache;
use crate::files;
use crate::measure::{self, Cost};
use crate::narfs::Narfs;
use crate::nix::{self, Nix};
use crate::report::{Ratio, Section, Spread, mb, median, spread, table};
use crate::work::Work;

/// What the rest of the machine may take of its CPUs: writing out what a contender wrote is a part
/// of it, and takes some per cent.
const QUIET: f64 = 0.15;

struct Contender<'a> {
    name: &'static str,
    program: Program<'a>,
    samples: Vec<Sample>,
}

enum Program<'a> {
    Narfs(&'a Narfs),
    Nix { nix: &'a Nix, optimise: bool },
}

struct Sample {
    cost: Cost,
    /// What the output takes on disk afterwards.
    disk_bytes: u64,
}

/// A row of the table.
struct Measure {
    name: &'static str,
    decimals: usize,
    /// What narfs is to reach, as a part of `nix copy`.
    aim: Option<(f64, &'static str)>,
    of: fn(&Sample) -> Option<f64>,
}

const MEASURES: &[Measure] = &[
    Measure {
        name: "seconds until synced to disk",
        decimals: 2,
        aim: Some((1.0, "below 1")),
        of: |s| Some(s.cost.synced_seconds),
    },
    Measure {
        name: "seconds until the command ends",
        decimals: 2,
        aim: None,
        of: |s| Some(s.cost.ended_seconds),
    },
    Measure {
        name: "CPU seconds",
        decimals: 2,
        aim: Some((2.0, "at most 2")),
        of: |s| Some(s.cost.cpu_seconds),
    },
    Measure {
        name: "MB written by the disk",
        decimals: 1,
        aim: Some((0.4, "about 1/3")),
        of: |s| s.cost.device_bytes.map(mb),
    },
    Measure {
        name: "MB written by the processes",
        decimals: 1,
        aim: None,
        of: |s| Some(mb(s.cost.charged_bytes)),
    },
    Measure {
        name: "MB on disk afterwards",
        decimals: 1,
        aim: None,
        of: |s| Some(mb(s.disk_bytes)),
    },
    Measure {
        name: "MB of memory at the peak",
        decimals: 1,
        aim: None,
        of: |s| Some(mb(s.cost.peak_rss_bytes)),
    },
];

pub fn run(
    narfs: &Narfs,
    nix: Option<&Nix>,
    cache: &BinaryCache,
    work: &Work,
    rounds: u32,
) -> Result<Section> {
    let mut contenders = vec![Contender::new("narfs copy", Program::Narfs(narfs))];
    if let Some(nix) = nix {
        for (name, optimise) in [("nix copy", false), ("nix copy, auto-optimise-store", true)] {
            contenders.push(Contender::new(name, Program::Nix { nix, optimise }));
        }
    }
    // No output is removed before the end, see `Work::settling`.
    work.require_space(cache.nar_bytes() * u64::from(rounds) * contenders.len() as u64 * 6 / 5)?;
    let settling = work.settling();
    if !settling.is_zero() {
        eprintln!(
            "ingest: waiting {} s: ext4 is slow at making files after so many were removed",
            settling.as_secs()
        );
        std::thread::sleep(settling);
    }
    let mut dropped = true;
    for round in 0..rounds as usize {
        for i in 0..contenders.len() {
            // Each goes first in turn, so that none always follows the same one.
            let i = (i + round) % contenders.len();
            dropped &= measure::drop_kernel_caches();
            let output = work.scratch(&format!("ingest/{round}-{i}"));
            let contender = &mut contenders[i];
            contender.run(cache, &output, &work.scratch("log"))?;
            contender.progress(round + 1, rounds);
        }
    }
    Ok(Section {
        markdown: markdown(&contenders, cache, rounds, dropped),
        data: data(&contenders, cache, dropped),
        input: cache.shown(),
        ratios: ratios(&contenders),
        ..Section::new("ingest")
    })
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, program: Program<'a>) -> Self {
        Self {
            name,
            program,
            samples: Vec::new(),
        }
    }

    fn run(&mut self, cache: &BinaryCache, output: &Path, log: &Path) -> Result<()> {
        std::fs::create_dir_all(output)?;
        let mut command = match self.program {
            Program::Narfs(narfs) => narfs.copy(output, cache),
            Program::Nix { nix, optimise } => nix.copy(output, cache, optimise)?,
        };
        measure::warm_program(&command)?;
        cache.warm()?;
        let cost = measure::run(&mut command, output, log)?;
        let disk_bytes = files::disk_bytes(output)?;
        self.check(output, cache)?;
        self.samples.push(Sample { cost, disk_bytes });
        Ok(())
    }

    fn progress(&self, round: usize, rounds: u32) {
        if let Some(Sample { cost, .. }) = self.samples.last() {
            eprintln!(
                "ingest, round {round} of {rounds}: {}: {:.2} s, {:.2} CPU s",
                self.name, cost.synced_seconds, cost.cpu_seconds
            );
        }
    }

    /// A fast copy that leaves paths out does not count.
    fn check(&self, output: &Path, cache: &BinaryCache) -> Result<()> {
        match self.program {
            Program::Narfs(narfs) => {
                let paths = narfs.stats(output)?.paths;
                if paths != cache.paths.len() as u64 {
                    bail!("narfs copied {paths} of {} paths", cache.paths.len());
                }
                Ok(())
            }
            Program::Nix { .. } => Nix::check(output, cache),
        }
    }

    fn median(&self, measure: &Measure) -> Option<f64> {
        let values: Option<Vec<f64>> = self.samples.iter().map(measure.of).collect();
        values.map(median)
    }
}

fn markdown(contenders: &[Contender], cache: &BinaryCache, rounds: u32, dropped: bool) -> String {
    let peers = &contenders[1..];
    let mut head = vec![String::new(), contenders[0].name.into()];
    for peer in peers {
        head.extend([peer.name.into(), "narfs is".into()]);
    }
    if !peers.is_empty() {
        head.push("aim".into());
    }
    let rows = MEASURES.iter().map(|measure| row(measure, contenders));
    let table = table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    let missing = if peers.is_empty() {
        format!("\nNot measured: nix copy: {}.\n", nix::ABSENT)
    } else {
        String::new()
    };
    let widest = contenders
        .iter()
        .map(|c| spread(c.samples.iter().map(|s| s.cost.synced_seconds)))
        .fold(0.0, f64::max);
    let how = match rounds {
        1 => "One round.".to_owned(),
        _ => format!(
            "Medians of {rounds} interleaved rounds, which lie within {:.0} % of them in seconds until \
             synced.",
            widest * 100.0
        ),
    };
    let rest = if dropped {
        "nothing else was when the command started"
    } else {
        "the rest of it could not be dropped here"
    };
    let others = median(
        contenders
            .iter()
            .flat_map(|c| c.samples.iter().map(|s| s.cost.others_share)),
    );
    let quiet = if others > QUIET {
        ": **too much for the seconds to count; repeat this on a quiet machine**"
    } else {
        ""
    };
    format!(
        "### Ingest: {}, from a binary cache on the same \
         disk\n\n{table}{missing}\n\
         {how} Ratios are to the column on their left; aims are ratios to plain `nix copy`. Both check \
         every signature and NAR hash. Programs and binary cache are in the page cache, {rest}. What the \
         disk wrote is its own count, with the journal and with whatever else ran; what the processes wrote \
         is what the kernel charges to them. Everything else had {:.0} % of the CPUs{quiet}.\n",
        cache.shown(),
        others * 100.0
    )
}

fn row(measure: &Measure, contenders: &[Contender]) -> Vec<String> {
    let shown = |value: Option<f64>| {
        value.map_or("not measured".into(), |v| {
            format!("{v:.*}", measure.decimals)
        })
    };
    let ours = contenders[0].median(measure);
    let mut cells = vec![measure.name.to_owned(), shown(ours)];
    let mut ratios = Vec::new();
    for peer in &contenders[1..] {
        let theirs = peer.median(measure);
        let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        cells.push(shown(theirs));
        cells.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.2} ×")));
        ratios.push(ratio);
    }
    if let Some(&first) = ratios.first() {
        cells.push(match (measure.aim, first) {
            (Some((limit, text)), Some(ratio)) if ratio <= limit => format!("{text}: reached"),
            (Some((_, text)), Some(_)) => format!("{text}: missed"),
            _ => String::new(),
        });
    }
    cells
}

/// To plain `nix copy`, of all that is measured in each round.
fn ratios(contenders: &[Contender]) -> Vec<Ratio> {
    let [ours, plain, ..] = contenders else {
        return Vec::new();
    };
    let of = |contender: &Contender, measure: &Measure| -> Option<Vec<f64>> {
        contender.samples.iter().map(measure.of).collect()
    };
    let ratio = |measure: &Measure| {
        let spread = Spread::of_ratios(&of(ours, measure)?, &of(plain, measure)?)?;
        let row = measure.name.to_owned();
        Some(Ratio { row, spread })
    };
    MEASURES.iter().filter_map(ratio).collect()
}

fn data(contenders: &[Contender], cache: &BinaryCache, dropped: bool) -> Value {
    let samples = |contender: &Contender| -> Vec<Value> {
        let sample = |s: &Sample| {
            json!({
                "synced_seconds": s.cost.synced_seconds,
                "ended_seconds": s.cost.ended_seconds,
                "cpu_seconds": s.cost.cpu_seconds,
                "peak_rss_bytes": s.cost.peak_rss_bytes,
                "charged_bytes": s.cost.charged_bytes,
                "device_bytes": s.cost.device_bytes,
                "others_share": s.cost.others_share,
                "disk_bytes": s.disk_bytes,
            })
        };
        contender.samples.iter().map(sample).collect()
    };
    let contenders: serde_json::Map<_, _> = contenders
        .iter()
        .map(|contender| (contender.name.to_owned(), samples(contender).into()))
        .collect();
    json!({
        "paths": cache.paths.len(),
        "nar_bytes": cache.nar_bytes(),
        "page_cache_dropped": dropped,
        "contenders": contenders,
    })
}
