//! Reads of what is local: the same rows of a store in narfs, in a native copy of it, and in images that the
//! kernel reads, EROFS and squashfs; with cold caches and with warm ones.
//!
//! In each round every contender does a row next to the others, in turn and in the reverse. What it saw is
//! compared with the native copy: a difference is an error, and no figure is reported.

mod rows;
mod seed;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::rows::{Contents, Job, Place, Row, Seen};
use crate::cache::BinaryCache;
use crate::files;
use crate::image::{self, Recipe};
use crate::measure;
use crate::namespace;
use crate::narfs::Narfs;
use crate::program::Program;
use crate::report::{Section, median};
use crate::work::Work;

/// No command here takes that long.
const LIMIT: Duration = Duration::from_secs(1800);

/// Passes of a warm row, after one that nobody counts: a pass takes some milliseconds. Their median is the
/// sample, and their requests are counted together.
const PASSES: u32 = 5;

/// What a file system can take on disk, as a part of the NARs: the copy, three images, the state, and room
/// for what their making needs.
const SPACE: u64 = 4;

/// Where the native copy stands among the contenders, to which ratios are.
const NATIVE: usize = 0;

/// Where narfs stands among the contenders.
const NARFS: usize = 1;

/// A row of the table, and whether caches are cold.
#[derive(Clone, Copy)]
struct Line {
    row: Row,
    cold: bool,
}

impl Line {
    fn all() -> Vec<Self> {
        let lines = |rows: &[Row], cold| rows.iter().map(move |&row| Self { row, cold }).collect();
        let (cold, warm): (Vec<_>, Vec<_>) = (lines(&Row::COLD, true), lines(&Row::WARM, false));
        [cold, warm].concat()
    }

    fn name(self) -> String {
        format!(
            "{} {}",
            if self.cold { "cold" } else { "warm" },
            self.row.name()
        )
    }
}

/// A row done once, or the passes of a warm one.
struct Sample {
    seconds: f64,
    seen: Seen,
    /// What the kernel asked the daemon, by operation; of narfs.
    requests: Option<BTreeMap<String, u64>>,
}

/// One that has the store.
struct Contender {
    name: String,
    /// The directory with `store` in it, or why there is none.
    base: Result<PathBuf, String>,
    /// What is mounted there, if it is an image.
    image: Option<PathBuf>,
    /// What its files, or the image, or the state, take on disk.
    disk_bytes: u64,
    /// For each line those of all rounds; none of a line that is not run.
    samples: Vec<Vec<Sample>>,
}

/// All rounds.
struct Measured {
    lines: Vec<Line>,
    contenders: Vec<Contender>,
    contents: Contents,
    program: Option<Program>,
    rounds: u32,
    dropped: bool,
    /// Processes that ran or wanted to, before each line.
    load: f64,
    input: String,
}

struct Bench<'a> {
    narfs: &'a Narfs,
    work: &'a Work,
    state: PathBuf,
    mountpoint: PathBuf,
}

pub fn run(narfs: &Narfs, cache: &BinaryCache, work: &Work, rounds: u32) -> Result<Section> {
    if !Path::new("/dev/fuse").exists() {
        return Ok(tables::not_measured("there is no /dev/fuse here"));
    }
    work.require_space(cache.nar_bytes() * SPACE)?;
    let dir = work.fresh("reads")?;
    let bench = Bench {
        narfs,
        work,
        state: dir.join("state"),
        mountpoint: dir.join("narfs"),
    };
    let measured = namespace::private(|| {
        let measured = bench.all(cache, &dir, rounds);
        // Loop devices go with the mounts of the images.
        for mounted in fs::read_dir(&dir)?.filter_map(Result::ok) {
            let _ = rustix::mount::unmount(mounted.path(), rustix::mount::UnmountFlags::DETACH);
        }
        measured
    })?;
    crate::work::remove(&dir)?;
    Ok(tables::section(&measured))
}

impl Bench<'_> {
    fn all(&self, cache: &BinaryCache, dir: &Path, rounds: u32) -> Result<Measured> {
        let lines = Line::all();
        eprintln!("reads: the state, a native copy, images");
        self.narfs.copy_now(&self.state, cache, &self.log())?;
        fs::create_dir(&self.mountpoint)?;
        let copy = dir.join("copy");
        let mounted = self.mount()?;
        self.copy_natively(&copy)?;
        drop(mounted);
        let contents = Contents::of(&copy.join("store"))?;
        let program = {
            namespace::cover(&copy)?;
            let found = Program::find(cache, &self.log());
            namespace::uncover();
            found
        };
        let mut contenders = vec![
            Contender::new(
                format!(
                    "{} copy",
                    self.work.filesystem().unwrap_or_else(|| "native".into())
                ),
                files::disk_bytes(&copy)?,
                Ok(copy.clone()),
            ),
            Contender::new(
                "narfs".into(),
                files::disk_bytes(&self.state)?,
                Ok(self.mountpoint.clone()),
            ),
        ];
        for recipe in image::read_beside(self.work) {
            eprintln!("reads: {}", recipe.name);
            contenders.push(self.image(&recipe, &copy, dir));
        }
        let mut measured = Measured {
            lines,
            contenders,
            contents,
            program,
            rounds,
            dropped: true,
            load: 0.0,
            input: cache.shown(),
        };
        self.rounds(&mut measured)?;
        Ok(measured)
    }

    /// An image of the copy, mounted.
    fn image(&self, recipe: &Recipe, copy: &Path, dir: &Path) -> Contender {
        let name = recipe.name.replace(' ', "-");
        let (image, at) = (dir.join(format!("{name}.image")), dir.join(&name));
        let mounted = || -> Result<()> {
            fs::create_dir(&at)?;
            image::mount(&image, &at)
        };
        let made = recipe.make(copy, &image, self.work);
        let base = made.and_then(|()| mounted().map_err(|error| format!("{error:#}")));
        let disk_bytes = fs::metadata(&image).map_or(0, |image| image.len());
        Contender {
            image: Some(image),
            ..Contender::new(recipe.name.clone(), disk_bytes, base.map(|()| at))
        }
    }

    /// The store as files of the file system that the state lies on. `cp` reads the mount, which verifies
    /// every byte.
    fn copy_natively(&self, copy: &Path) -> Result<()> {
        fs::create_dir(copy)?;
        let mut command = Command::new("cp");
        command.args(["-a", "--no-preserve=links"]);
        command.arg(self.mountpoint.join("store")).arg(copy);
        measure::run_within(&mut command, &self.log(), LIMIT)
    }

    fn rounds(&self, measured: &mut Measured) -> Result<()> {
        let mut loads = Vec::new();
        let mounted = self.mount()?;
        for round in 0..measured.rounds {
            for line in 0..measured.lines.len() {
                loads.push(measure::load());
                let mut order: Vec<usize> = (0..measured.contenders.len()).collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for i in order {
                    self.sample(measured, &mounted, line, i, round)?;
                }
                measured.compare(line)?;
            }
        }
        measured.load = median(loads);
        Ok(())
    }

    /// One contender does one line.
    fn sample(
        &self,
        measured: &mut Measured,
        mounted: &Mounted<'_>,
        index: usize,
        contender: usize,
        round: u32,
    ) -> Result<()> {
        let line = measured.lines[index];
        let python = line.row == Row::Python;
        let Ok(base) = measured.contenders[contender].base.clone() else {
            return Ok(());
        };
        if python && measured.program.is_none() {
            return Ok(());
        }
        let narfs = contender == NARFS;
        if line.cold {
            match &measured.contenders[contender].image {
                Some(image) => image::mount_anew(image, &base)?,
                None if narfs => mounted.replace()?,
                None => {}
            }
        }
        if python {
            namespace::cover(&base)?;
        }
        let (store, log) = (base.join("store"), self.log());
        let place = Place {
            store: &store,
            contents: &measured.contents,
            program: measured.program.as_ref(),
            log: &log,
        };
        let job = place.job(line.row, line.cold, seed::of(index, round));
        let done = self.timed(&job, line.cold, narfs, &mut measured.dropped);
        drop(job);
        if python {
            namespace::uncover();
        }
        let contender = &mut measured.contenders[contender];
        let name = &contender.name;
        let sample = done.with_context(|| format!("{name}, {}", line.name()))?;
        eprintln!(
            "reads, round {} of {}: {}: {name}: {:.2} ms",
            round + 1,
            measured.rounds,
            line.name(),
            sample.seconds * 1e3
        );
        contender.samples[index].push(sample);
        Ok(())
    }

    fn timed(&self, job: &Job, cold: bool, narfs: bool, dropped: &mut bool) -> Result<Sample> {
        if !cold {
            job()?;
        }
        let before = narfs.then(|| self.narfs.requests(&self.state));
        let before = before.transpose()?;
        if cold {
            *dropped &= measure::drop_kernel_caches();
        }
        let mut seconds = Vec::new();
        let mut seen = Seen::default();
        for _ in 0..if cold { 1 } else { PASSES } {
            let began = Instant::now();
            seen = job()?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        let requests = match before {
            Some(before) => Some(since(&before, self.narfs.requests(&self.state)?)),
            None => None,
        };
        Ok(Sample {
            seconds: median(seconds),
            seen,
            requests,
        })
    }

    fn mount(&self) -> Result<Mounted<'_>> {
        let mounted = Mounted { bench: self };
        mounted.start()?;
        Ok(mounted)
    }

    fn log(&self) -> PathBuf {
        self.work.scratch("log")
    }
}

impl Contender {
    fn new(name: String, disk_bytes: u64, base: Result<PathBuf, String>) -> Self {
        Self {
            name,
            base,
            image: None,
            disk_bytes,
            samples: Line::all().iter().map(|_| Vec::new()).collect(),
        }
    }
}

impl Measured {
    /// An error unless all saw the same in the last round.
    fn compare(&self, line: usize) -> Result<()> {
        let last = |contender: &Contender| contender.samples[line].last().map(|sample| sample.seen);
        let native = last(&self.contenders[NATIVE]);
        for contender in &self.contenders {
            let seen = last(contender);
            if seen.is_some() && seen != native {
                bail!(
                    "{} of {} saw {seen:?}, and the native copy {native:?}",
                    self.lines[line].name(),
                    contender.name
                );
            }
        }
        Ok(())
    }
}

/// A mount in this namespace, until it is dropped.
struct Mounted<'a> {
    bench: &'a Bench<'a>,
}

impl Mounted<'_> {
    fn start(&self) -> Result<()> {
        let at = self.bench.mountpoint.to_string_lossy();
        self.tell(&["mount", &at, "--offline"])
    }

    fn end(&self) -> Result<()> {
        let at = self.bench.mountpoint.to_string_lossy();
        self.tell(&["umount", &at])
    }

    /// Unmounts, and mounts with a new daemon.
    fn replace(&self) -> Result<()> {
        self.end()?;
        self.start()
    }

    fn tell(&self, args: &[&str]) -> Result<()> {
        let bench = self.bench;
        let mut command = bench.narfs.tell(&bench.state, args);
        measure::run_within(&mut command, &bench.log(), LIMIT)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // The daemon ends with its mount, and the mount with the namespace.
        let _ = self.end();
    }
}

/// What was asked since then, without what was not.
fn since(before: &BTreeMap<String, u64>, now: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = now.into_iter().map(|(operation, count)| {
        let earlier = before.get(&operation).copied().unwrap_or(0);
        (operation, count - earlier)
    });
    more.filter(|(_, count)| *count > 0).collect()
}
