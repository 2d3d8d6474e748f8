//! The work directory: the only place that this program writes to and removes from. It is marked
//! when it is made, and a directory with other people's files in it is refused. One program at a time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::cache;

/// Its time is when many files were removed last.
const MARK: &str = ".narfs-bench";

/// How long ext4 goes round inodes that were removed: a minute, and five more for those whose
/// removal waits in the journal. Until then, who makes many files pays for the search.
const SETTLING: Duration = Duration::from_secs(360);

pub struct Work {
    dir: PathBuf,
    /// Locked as long as it is open.
    mark: File,
}

impl Work {
    pub fn open(dir: &Path) -> Result<Self> {
        let shown = dir.display();
        fs::create_dir_all(dir).with_context(|| format!("cannot make {shown}"))?;
        let dir = dir.canonicalize()?;
        cache::plain(&dir)?;
        if !dir.join(MARK).exists() && fs::read_dir(&dir)?.next().is_some() {
            bail!(
                "{shown} is not empty and not a work directory of this program: name another one with --work"
            );
        }
        let mark = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(dir.join(MARK))
            .with_context(|| format!("cannot write to {shown}"))?;
        if mark.try_lock().is_err() {
            bail!("{shown} is in use by another run: wait for it, or name another one with --work");
        }
        let work = Self { dir, mark };
        work.clear()?;
        fs::create_dir(work.run())?;
        Ok(work)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What one run of the program makes and measures lies here.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.run().join(name)
    }

    /// An absent path below the scratch directory.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch(name);
        remove(&path)?;
        Ok(path)
    }

    /// Removes all but the worlds, which the next run can use again.
    fn clear(&self) -> Result<()> {
        let run = self.run();
        if !run.exists() {
            return Ok(());
        }
        remove(&run)?;
        Ok(self.mark.set_modified(SystemTime::now())?)
    }

    /// How long to wait until the last removal no longer slows down what makes files.
    pub fn settling(&self) -> Duration {
        let age = self.mark.metadata().and_then(|mark| mark.modified());
        match age.map(|removed| removed.elapsed()) {
            Ok(Ok(age)) if self.filesystem().is_some_and(|kind| kind == "ext4") => {
                SETTLING.saturating_sub(age)
            }
            _ => Duration::ZERO,
        }
    }

    /// The type of the file system that all this lies on.
    pub fn filesystem(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        mounts
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                Some((words.next()?, words.next()?))
            })
            .filter(|(point, _)| self.dir.starts_with(point))
            .max_by_key(|(point, _)| point.len())
            .map(|(_, kind)| kind.to_owned())
    }

    pub fn require_space(&self, bytes: u64) -> Result<()> {
        let fs = rustix::fs::statvfs(&self.dir)?;
        let free = fs.f_bavail * fs.f_frsize;
        if free < bytes {
            bail!(
                "{} has {} MB free, and this may need {} MB",
                self.dir.display(),
                free / 1_000_000,
                bytes / 1_000_000
            );
        }
        Ok(())
    }

    fn run(&self) -> PathBuf {
        self.dir.join("run")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What is left after an interruption goes when the next run starts.
        let _ = self.clear();
    }
}

/// A file or a tree that may be absent. Symlinks are removed, not followed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_foreign_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis"), "").unwrap();
        assert!(Work::open(dir.path()).is_err());
        assert!(dir.path().join("thesis").exists());
    }

    #[test]
    fn a_work_directory_serves_one_run_at_a_time_and_keeps_worlds() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work::open(&dir.path().join("bench")).unwrap();
        fs::create_dir(work.dir().join("world")).unwrap();
        fs::write(work.scratch("left"), "").unwrap();
        assert!(Work::open(work.dir()).is_err());

        let dir = work.dir().to_owned();
        let left = work.scratch("left");
        drop(work);
        assert!(!left.exists());
        assert!(dir.join("world").exists());
        Work::open(&dir).unwrap();
    }
}
