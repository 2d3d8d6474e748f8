//! What is read, and how: each row of the table, done by this program itself in the same way wherever the
//! store paths lie. All that can be prepared is prepared before the clock starts.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::seed::Random;
use crate::program::Program;

/// Files and links of a row that takes some of them.
pub(super) const PICKED: usize = 6000;

/// The largest file that counts as small: sources, headers, scripts.
pub(super) const SMALL: u64 = 16 << 10;

/// Bytes of a random read.
const PAGE: usize = 4096;

/// Random reads of a cold row, so many that each hits another part of a large library; of a warm one there
/// are more, which take some milliseconds.
pub(super) const READS: [usize; 2] = [1500, 30_000];

/// Page faults of a row, the same way.
pub(super) const FAULTS: [usize; 2] = [500, 30_000];

/// A read of a sequence, as of `cat` and `cp`.
const BUFFER: usize = 128 << 10;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Row {
    Find,
    Stat,
    Small,
    Everything { threads: usize },
    Sequential,
    Random,
    Fault,
    Python,
    OpenClose,
    Readlink,
}

impl Row {
    pub(super) const COLD: [Self; 9] = [
        Self::Find,
        Self::Stat,
        Self::Small,
        Self::Everything { threads: 1 },
        Self::Everything { threads: 2 },
        Self::Sequential,
        Self::Random,
        Self::Fault,
        Self::Python,
    ];
    pub(super) const WARM: [Self; 7] = [
        Self::Find,
        Self::Stat,
        Self::OpenClose,
        Self::Readlink,
        Self::Sequential,
        Self::Random,
        Self::Fault,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Stat => "random stat",
            Self::Small => "small files",
            Self::Everything { threads: 1 } => "read of everything, 1 thread",
            Self::Everything { .. } => "read of everything, 2 threads",
            Self::Sequential => "sequential read",
            Self::Random => "random 4 KiB",
            Self::Fault => "mmap faults",
            Self::Python => "python start",
            Self::OpenClose => "open and close",
            Self::Readlink => "readlink",
        }
    }
}

/// What a row saw. It has to be the same wherever the store paths lie.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct Seen {
    /// Names, files, links, reads or faults.
    pub(super) things: u64,
    /// Of contents; of names where none are read.
    pub(super) bytes: u64,
    /// Of the first byte of each read: tells contents apart that have the same length.
    sum: u64,
}

impl Seen {
    fn thing(&mut self, bytes: u64) {
        self.things += 1;
        self.bytes += bytes;
    }

    fn contents(&mut self, read: &[u8]) {
        self.bytes += read.len() as u64;
        // The order does not matter: threads take files as they come.
        self.sum = self
            .sum
            .wrapping_add(read.first().map_or(0, |&byte| u64::from(byte)));
    }

    fn and(self, other: Self) -> Self {
        Self {
            things: self.things + other.things,
            bytes: self.bytes + other.bytes,
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

/// What lies in a store directory: paths relative to it, in the order of their names.
#[derive(Default)]
pub(super) struct Contents {
    entries: Vec<PathBuf>,
    files: Vec<PathBuf>,
    pub(super) small: Vec<PathBuf>,
    links: Vec<PathBuf>,
    /// The largest shared library, or the largest file if there is none.
    pub(super) large: PathBuf,
    pub(super) large_bytes: u64,
}

impl Contents {
    pub(super) fn of(store: &Path) -> Result<Self> {
        let mut contents = Self::default();
        let mut largest = (false, 0);
        contents.add(store, Path::new(""), &mut largest)?;
        contents.large_bytes = largest.1;
        Ok(contents)
    }

    fn add(&mut self, store: &Path, dir: &Path, largest: &mut (bool, u64)) -> Result<()> {
        let shown = store.join(dir);
        let mut entries = fs::read_dir(&shown)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("cannot list {}", shown.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = dir.join(entry.file_name());
            let meta = entry.metadata()?;
            self.entries.push(path.clone());
            if meta.is_dir() {
                self.add(store, &path, largest)?;
            } else if meta.is_symlink() {
                self.links.push(path);
            } else {
                let name = entry.file_name();
                let size = (name.to_string_lossy().contains(".so"), meta.len());
                if size > *largest {
                    *largest = size;
                    self.large.clone_from(&path);
                }
                if meta.len() <= SMALL {
                    self.small.push(path.clone());
                }
                self.files.push(path);
            }
        }
        Ok(())
    }

    /// Neighbours, as programs read them, from a random one on; all where there are few.
    fn neighbours(&self, random: &mut Random) -> Vec<&PathBuf> {
        let count = self.small.len().min(PICKED);
        let first = random.below(self.small.len());
        self.small.iter().cycle().skip(first).take(count).collect()
    }
}

/// Where a row works.
pub(super) struct Place<'a> {
    pub(super) store: &'a Path,
    pub(super) contents: &'a Contents,
    /// None where the row is not run.
    pub(super) program: Option<&'a Program>,
    pub(super) log: &'a Path,
}

/// What remains to be done when the clock starts.
pub(super) type Job<'a> = Box<dyn Fn() -> Result<Seen> + 'a>;

impl<'a> Place<'a> {
    /// Prepares a row, without a look at the files.
    pub(super) fn job(&'a self, row: Row, cold: bool, seed: u64) -> Job<'a> {
        let mut random = Random::new(seed);
        let contents = self.contents;
        let large = self.store.join(&contents.large);
        let count = |counts: [usize; 2]| counts[usize::from(!cold)];
        let mut some = |paths: &[PathBuf]| self.at(&random.pick(paths, PICKED));
        match row {
            Row::Find => Box::new(|| find(self.store)),
            Row::Stat => all(some(&contents.entries), stat),
            Row::OpenClose => all(some(&contents.files), open_close),
            Row::Readlink => all(some(&contents.links), read_link),
            Row::Small => all(self.at(&contents.neighbours(&mut random)), small),
            Row::Everything { threads } => Box::new(move || everything(self.store, threads)),
            Row::Sequential => Box::new(move || {
                let mut seen = Seen::default();
                let mut buffer = vec![0; BUFFER];
                read(&large, &mut buffer, &mut seen)?;
                Ok(seen)
            }),
            Row::Random => {
                let pages = self.pages(&mut random, count(READS));
                Box::new(move || random_reads(&large, &pages))
            }
            Row::Fault => {
                let pages = self.pages(&mut random, count(FAULTS));
                Box::new(move || faults(&large, &pages))
            }
            Row::Python => Box::new(|| {
                let program = self.program.context("there is no program")?;
                program.run(self.log)?;
                Ok(Seen::default())
            }),
        }
    }

    fn at(&self, paths: &[&PathBuf]) -> Vec<PathBuf> {
        paths.iter().map(|path| self.store.join(path)).collect()
    }

    /// Offsets of random pages of the large file.
    fn pages(&self, random: &mut Random, count: usize) -> Vec<usize> {
        let pages = usize::try_from(self.contents.large_bytes).unwrap_or(0) / PAGE;
        (0..count).map(|_| random.below(pages) * PAGE).collect()
    }
}

/// Does the same with each of some paths.
fn all<'a>(
    paths: Vec<PathBuf>,
    visit: fn(&Path, &mut [u8], &mut Seen) -> std::io::Result<()>,
) -> Job<'a> {
    Box::new(move || {
        let mut seen = Seen::default();
        let mut buffer = vec![0; BUFFER];
        for path in &paths {
            visit(path, &mut buffer, &mut seen)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(seen)
    })
}

fn stat(path: &Path, _: &mut [u8], seen: &mut Seen) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    // A directory has another size on each file system.
    seen.thing(if meta.is_dir() { 0 } else { meta.len() });
    Ok(())
}

fn open_close(path: &Path, _: &mut [u8], seen: &mut Seen) -> std::io::Result<()> {
    drop(File::open(path)?);
    seen.thing(0);
    Ok(())
}

fn read_link(path: &Path, _: &mut [u8], seen: &mut Seen) -> std::io::Result<()> {
    seen.thing(fs::read_link(path)?.as_os_str().len() as u64);
    Ok(())
}

fn small(path: &Path, buffer: &mut [u8], seen: &mut Seen) -> std::io::Result<()> {
    seen.thing(0);
    let mut file = File::open(path)?;
    loop {
        let count = file.read(buffer)?;
        if count == 0 {
            return Ok(());
        }
        seen.contents(&buffer[..count]);
    }
}

/// Reads a file from its beginning to its end.
fn read(path: &Path, buffer: &mut [u8], seen: &mut Seen) -> Result<()> {
    small(path, buffer, seen).with_context(|| format!("cannot read {}", path.display()))
}

/// All names below a directory; what they are is in the listing.
fn find(dir: &Path) -> Result<Seen> {
    let mut seen = Seen::default();
    walk(dir, &mut seen, &mut |_, _| Ok(()))?;
    Ok(seen)
}

fn walk(
    dir: &Path,
    seen: &mut Seen,
    file: &mut impl FnMut(&Path, &mut Seen) -> Result<()>,
) -> Result<()> {
    let listed = || format!("cannot list {}", dir.display());
    for entry in fs::read_dir(dir).with_context(listed)? {
        let entry = entry.with_context(listed)?;
        let kind = entry.file_type().with_context(listed)?;
        seen.thing(entry.file_name().len() as u64);
        if kind.is_dir() {
            walk(&entry.path(), seen, file)?;
        } else if kind.is_file() {
            file(&entry.path(), seen)?;
        }
    }
    Ok(())
}

/// Reads every file, as an archiver does. Each thread takes the next store path that none has taken.
fn everything(store: &Path, threads: usize) -> Result<Seen> {
    let mut tops: Vec<(PathBuf, bool)> = Vec::new();
    for entry in fs::read_dir(store).with_context(|| format!("cannot list {}", store.display()))? {
        let entry = entry?;
        tops.push((entry.path(), entry.file_type()?.is_dir()));
    }
    tops.sort();
    let next = AtomicUsize::new(0);
    let take = || -> Result<Seen> {
        let mut seen = Seen::default();
        let mut buffer = vec![0; BUFFER];
        while let Some((top, is_dir)) = tops.get(next.fetch_add(1, Ordering::Relaxed)) {
            if *is_dir {
                walk(top, &mut seen, &mut |path, seen| {
                    read(path, &mut buffer, seen)
                })?;
            } else if top.is_file() && !top.is_symlink() {
                read(top, &mut buffer, &mut seen)?;
            }
        }
        Ok(seen)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut seen = take()?;
        for other in others {
            let theirs = other
                .join()
                .map_err(|_| anyhow!("a thread that reads panicked"))?;
            seen = seen.and(theirs?);
        }
        Ok(seen)
    })
}

fn random_reads(file: &Path, offsets: &[usize]) -> Result<Seen> {
    let read = || -> std::io::Result<Seen> {
        let file = File::open(file)?;
        let mut seen = Seen::default();
        let mut page = [0; PAGE];
        for &offset in offsets {
            file.read_exact_at(&mut page, offset as u64)?;
            seen.contents(&page);
        }
        Ok(seen)
    };
    read().with_context(|| format!("cannot read {}", file.display()))
}

fn faults(file: &Path, offsets: &[usize]) -> Result<Seen> {
    let map = || -> std::io::Result<Seen> {
        let mapped = Mapped::open(file)?;
        let mut seen = Seen::default();
        for &offset in offsets {
            seen.contents(&[mapped.byte(offset)]);
        }
        Ok(seen)
    };
    map().with_context(|| format!("cannot map {}", file.display()))
}

/// A file in memory, to read.
struct Mapped {
    start: *mut std::ffi::c_void,
    bytes: usize,
}

impl Mapped {
    fn open(file: &Path) -> std::io::Result<Self> {
        let file = File::open(file)?;
        let bytes = usize::try_from(file.metadata()?.len()).map_err(std::io::Error::other)?;
        let (hint, read, private) = (std::ptr::null_mut(), ProtFlags::READ, MapFlags::PRIVATE);
        // SAFETY: no address is asked for, so that nothing is replaced; the memory is unmapped with `self`.
        let start = unsafe { mmap(hint, bytes, read, private, &file, 0) }?;
        Ok(Self { start, bytes })
    }

    fn byte(&self, offset: usize) -> u8 {
        assert!(offset < self.bytes, "beyond the end of the file");
        // SAFETY: the offset lies in what is mapped. Nobody changes the files that are measured.
        unsafe { self.start.cast::<u8>().add(offset).read_volatile() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the memory any more: `byte` gives copies.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store of two paths, one of them a file.
    fn store(dir: &Path) -> PathBuf {
        let store = dir.join("store");
        let package = store.join("a-package");
        fs::create_dir_all(package.join("lib")).unwrap();
        fs::write(package.join("lib/libx.so.1"), vec![7; 10 * PAGE + 5]).unwrap();
        fs::write(package.join("data"), vec![1; 20 * PAGE]).unwrap();
        fs::write(package.join("notes"), "small").unwrap();
        std::os::unix::fs::symlink("notes", package.join("link")).unwrap();
        fs::write(store.join("b-file"), "alone").unwrap();
        store
    }

    fn seen(store: &Path, contents: &Contents, row: Row) -> Seen {
        let place = Place {
            store,
            contents,
            program: None,
            log: store,
        };
        place.job(row, true, 5)().unwrap()
    }

    #[test]
    fn a_store_is_known_by_its_names_and_its_largest_library() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::of(&store(dir.path())).unwrap();
        assert_eq!((contents.entries.len(), contents.files.len()), (7, 4));
        assert_eq!(
            contents.small,
            ["a-package/notes", "b-file"].map(PathBuf::from)
        );
        assert_eq!(contents.links, ["a-package/link"].map(PathBuf::from));
        assert_eq!(contents.large, Path::new("a-package/lib/libx.so.1"));
        assert_eq!(contents.large_bytes, 10 * 4096 + 5);
    }

    #[test]
    fn each_row_sees_all_that_it_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let contents = Contents::of(&store).unwrap();
        let large = contents.large_bytes;
        let files = 20 * 4096 + large + 10;
        let see = |row| {
            let seen = seen(&store, &contents, row);
            (seen.things, seen.bytes)
        };
        let names = "a-package b-file lib libx.so.1 data notes link";
        assert_eq!(see(Row::Find), (7, names.replace(' ', "").len() as u64));
        assert_eq!(see(Row::Stat), (7, files + 5));
        assert_eq!(see(Row::OpenClose), (4, 0));
        assert_eq!(see(Row::Readlink), (1, 5));
        assert_eq!(see(Row::Small), (2, 10));
        assert_eq!(see(Row::Sequential), (1, large));
        assert_eq!(see(Row::Random), (0, 1500 * 4096));
        assert_eq!(see(Row::Fault), (0, 500));
        let one = seen(&store, &contents, Row::Everything { threads: 1 });
        assert_eq!(one, seen(&store, &contents, Row::Everything { threads: 2 }));
        assert_eq!(
            one.bytes - see(Row::Find).1 + 15,
            files,
            "of names, those at the top are not counted"
        );
    }

    #[test]
    fn other_contents_of_the_same_length_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let contents = Contents::of(&store).unwrap();
        let rows = [
            Row::Everything { threads: 2 },
            Row::Sequential,
            Row::Random,
            Row::Fault,
        ];
        let before = rows.map(|row| seen(&store, &contents, row));
        let library = store.join(&contents.large);
        fs::write(library, vec![8; 10 * PAGE + 5]).unwrap();
        for (row, before) in rows.into_iter().zip(before) {
            assert_ne!(seen(&store, &contents, row), before, "{row:?}");
        }
    }

    #[test]
    fn an_empty_store_and_an_absent_file_are_no_reason_to_panic() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::of(dir.path()).unwrap();
        for row in [Row::Find, Row::Stat, Row::Small, Row::Readlink] {
            assert_eq!(seen(dir.path(), &contents, row), Seen::default());
        }
        let place = Place {
            store: &dir.path().join("absent"),
            contents: &contents,
            program: None,
            log: dir.path(),
        };
        for row in Row::COLD {
            let _ = place.job(row, true, 1)();
        }
        assert!(place.job(Row::Python, true, 1)().is_err());
    }
}
