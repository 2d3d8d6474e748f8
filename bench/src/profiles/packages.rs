//! The packages of the benchmark: made here, and added to both stores as they are, so that they have
//! the same store paths in both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Packages of an environment, as of a well-equipped profile or a system.
const PACKAGES: usize = 30;

/// Files of each. All lie in directories that every package has, so that each file is a link.
const FILES: usize = 1000;

/// Directories below `share`, which have nine of ten files.
const DIRECTORIES: usize = 30;

/// Links of the environment.
pub(super) const LINKS: usize = PACKAGES * FILES;

/// Directories with the trees of packages, each named as its store path will be.
pub(super) struct Packages {
    /// Those of every environment.
    pub(super) common: Vec<PathBuf>,
    /// For each round one more, so that no environment is there already when it is installed.
    pub(super) first: Vec<PathBuf>,
    /// For each round one of a few files, which is installed afterwards.
    pub(super) second: Vec<PathBuf>,
}

impl Packages {
    /// Makes them below a directory.
    pub(super) fn make(dir: &Path, rounds: u32) -> Result<Self> {
        let common = (0..PACKAGES).map(|n| {
            let name = format!("part{n:02}");
            package(dir, &name, FILES)
        });
        let few = |name: &str| -> Result<Vec<PathBuf>> {
            let rounds = 0..rounds;
            rounds
                .map(|round| package(dir, &format!("{name}{round}"), 10))
                .collect()
        };
        Ok(Self {
            common: common.collect::<Result<_>>()?,
            first: few("first")?,
            second: few("second")?,
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.common.iter().chain(&self.first).chain(&self.second)
    }
}

fn package(dir: &Path, name: &str, files: usize) -> Result<PathBuf> {
    let package = dir.join(format!("{name}-1.0"));
    let make = || {
        for n in 0..files {
            let place = match n % 10 {
                0 if n % 100 == 0 => "bin".to_owned(),
                0 => "lib".to_owned(),
                _ => format!("share/common-{:02}", n % DIRECTORIES),
            };
            let place = package.join(place);
            fs::create_dir_all(&place)?;
            fs::write(
                place.join(format!("{name}-{n:04}")),
                format!("{name} {n}\n"),
            )?;
        }
        Ok::<_, std::io::Error>(())
    };
    make().with_context(|| format!("cannot make {}", package.display()))?;
    Ok(package)
}
