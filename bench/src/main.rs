//! narfs-bench: what narfs costs and saves, measured beside its peers in one run on one machine.
//!
//! It drives the `narfs` program as a user would, and needs nothing else of the library. Its modules:
//!
//! ```text
//! ingest, size, on_demand, reads, profiles, start    the benchmarks
//! report, chart  medians, ratios, tables, JSON, SVG
//! baseline       ratios of an earlier run, compared with those of this one
//! narfs, nix, image, files   the contenders: narfs, Nix, squashfs and EROFS, files kept once
//! cache, world   the input: binary caches, given or made here
//! measure        wall clock, CPU, memory and bytes written of a command
//! server, link   a binary cache behind HTTP, near and far
//! namespace      a /nix of one's own
//! program        a program of the binary cache to start
//! work           the one directory that this program writes to
//! ```

mod baseline;
mod cache;
mod chart;
mod files;
mod image;
mod ingest;
mod link;
mod measure;
mod namespace;
mod narfs;
mod nix;
mod on_demand;
mod profiles;
mod program;
mod reads;
mod report;
mod server;
mod size;
mod start;
mod work;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;

use crate::baseline::Baseline;
use crate::cache::BinaryCache;
use crate::narfs::Narfs;
use crate::nix::Nix;
use crate::report::Section;
use crate::work::Work;

/// Measures narfs beside its peers: Nix, file-level deduplication, native files, squashfs, EROFS
///
/// Tables go to standard output as markdown, progress to standard error. Needs root. A peer that
/// this machine does not have is reported as not measured.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Options {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// A signed binary cache directory; repeat for the size of several worlds together: first the
    /// world, then its mass rebuild, then an upgrade. Without any, a world and its rebuild are made
    /// of Debian packages that are installed here
    #[arg(long, value_name = "DIR")]
    cache: Vec<PathBuf>,
    /// The public key file of each binary cache, or one for all; default: key.pub beside the cache
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// What the tables call each binary cache; default: world, rebuild, upgrade
    #[arg(long, value_name = "NAME")]
    label: Vec<String>,
    /// Debian packages to make a world of; default: some of perl, git, python3, gcc and others
    #[arg(long, value_name = "NAME", conflicts_with = "cache")]
    package: Vec<String>,
    /// The program to measure; default: the one beside this program
    #[arg(long, value_name = "FILE")]
    narfs: Option<PathBuf>,
    /// Everything is written here, and what was measured is removed again
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    work: PathBuf,
    /// Rounds of the benchmarks whose seconds count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write every sample and setting to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the ratios of reads to this file, as a chart of bars
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Say which ratios are better or worse than those of an earlier run, in a file that --json wrote
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Copying a binary cache until it is synced to disk: narfs and Nix
    Ingest,
    /// Bytes kept for one world, for its mass rebuild, for an upgrade
    Size,
    /// From nothing until a program has run, from a binary cache behind HTTP, near and far: narfs
    /// and Nix. Needs a python3 in the first binary cache, and FUSE
    OnDemand,
    /// Listing, stat, reads, page faults and the start of a program, with cold caches and with warm ones:
    /// narfs, a native copy, EROFS and squashfs images. Needs FUSE, loop devices, mkfs.erofs and mksquashfs
    Reads,
    /// A user environment of 30,000 links made, changed and switched: narfs, nix-env and nix
    /// profile. Needs no binary cache, but FUSE
    Profiles,
    /// Mounting a state of up to 100,000 paths: narfs. Needs no binary cache, but FUSE
    Start,
    /// All of them
    All,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("narfs-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "this needs root: Nix stores are read-only directories, which only root can remove again"
        );
    }
    if options.svg.is_some() && !matches!(options.what, What::Reads | What::All) {
        bail!("--svg draws what `reads` measures: give `reads` or `all`");
    }
    // Before hours of measuring.
    let baseline = options.baseline.as_deref().map(Baseline::read);
    let baseline = baseline.transpose()?;
    let narfs = Narfs::find(options.narfs.as_deref())?;
    let work = Work::open(&options.work)?;
    let nix = Nix::find(&work)?;
    let sections = measure(options, &narfs, nix.as_ref(), &work)?;

    let machine = report::machine(&work, &narfs, nix.as_ref());
    for section in &sections {
        println!("{}", section.markdown);
    }
    println!("{machine}");
    if let Some(baseline) = baseline {
        println!("\n{}", baseline.compare(&sections));
    }
    if let Some(file) = &options.svg {
        let chart = sections.iter().find_map(|section| section.chart.as_deref());
        write(
            file,
            chart.context("nothing was measured that --svg could draw")?,
        )?;
    }
    if let Some(file) = &options.json {
        let ratios = baseline::ratios(&sections);
        let sections: serde_json::Map<_, _> = sections
            .into_iter()
            .map(|Section { name, data, .. }| (name.to_owned(), data))
            .collect();
        let mut all = json!({ "machine": machine, "benchmarks": sections });
        all[baseline::RATIOS] = ratios;
        write(file, &format!("{all:#}\n"))?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The benchmarks that are wanted, one after the other.
fn measure(
    options: &Options,
    narfs: &Narfs,
    nix: Option<&Nix>,
    work: &Work,
) -> Result<Vec<Section>> {
    let rounds = options.rounds;
    let wanted = |what| options.what == what || options.what == What::All;
    let mut sections = Vec::new();
    if !matches!(options.what, What::Profiles | What::Start) {
        let caches = inputs(options, work)?;
        work.require_space(caches.iter().map(BinaryCache::nar_bytes).sum::<u64>() * 2)?;
        if wanted(What::Ingest) {
            sections.push(ingest::run(narfs, nix, &caches[0], work, rounds)?);
        }
        if wanted(What::Size) {
            sections.push(size::run(narfs, nix, &caches, work)?);
        }
        if wanted(What::OnDemand) {
            sections.push(on_demand::run(narfs, nix, &caches[0], work, rounds)?);
        }
        if wanted(What::Reads) {
            sections.push(reads::run(narfs, &caches[0], work, rounds)?);
        }
    }
    if wanted(What::Profiles) {
        sections.push(profiles::run(narfs, nix, work, rounds)?);
    }
    if wanted(What::Start) {
        sections.push(start::run(narfs, work, rounds)?);
    }
    Ok(sections)
}

/// The binary caches, those of the command line or our own, with labels.
fn inputs(options: &Options, work: &Work) -> Result<Vec<BinaryCache>> {
    let (dirs, keys) = if options.cache.is_empty() {
        world::make(work, &options.package)?
    } else {
        (options.cache.clone(), options.key.clone())
    };
    if keys.len() > 1 && keys.len() != dirs.len() {
        bail!(
            "{} keys for {} binary caches: give one for each, or one for all",
            keys.len(),
            dirs.len()
        );
    }
    dirs.iter()
        .enumerate()
        .map(|(i, dir)| {
            let key = keys.get(i).or(keys.first()).map(PathBuf::as_path);
            BinaryCache::open(dir, key, &label(&options.label, i))
        })
        .collect()
}

fn label(given: &[String], i: usize) -> String {
    const USUAL: [&str; 3] = ["world", "rebuild", "upgrade"];
    given
        .get(i)
        .cloned()
        .or_else(|| USUAL.get(i).map(|&name| name.to_owned()))
        .unwrap_or_else(|| format!("cache {}", i + 1))
}
