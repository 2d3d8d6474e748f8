//! The places at which a program writes to its state, and its death at one of them.
//!
//! A small library is loaded into the program before all others (`LD_PRELOAD`) and stands between
//! it and the C library where it writes, syncs, renames and removes. So the program itself has no
//! part in it, and dies with whatever it has written so far, be it half of something: for the
//! state that is what `kill -9` leaves. What was armed and what was seen is in a file that both
//! sides share, so that a daemon can be armed when it is needed.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = include_str!("write_points.c");

/// The fields before the events, each of four bytes: armed, file, operation, nth, moment, seen,
/// fired, number of events.
const HEAD: usize = 32;
const FIRED: u64 = 24;
const NUMBER: u64 = 28;
const EVENTS: usize = 8192;

const FILES: [&str; 11] = [
    "WAL",
    "MANIFEST",
    "table",
    "blob",
    "CURRENT",
    "OPTIONS",
    "lock",
    "format",
    "spool",
    "directory",
    "other",
];
const OPERATIONS: [&str; 6] = ["write", "sync", "rename", "remove", "truncate", "make"];

/// When, of a call: 0 is before it, 1 in the middle of what it writes, 2 after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub u32);

/// A place: which operation on which kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: u8,
    operation: u8,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |names: &[&'static str], n: u8| names[usize::from(n) - 1];
        let (file, operation) = (name(&FILES, self.file), name(&OPERATIONS, self.operation));
        write!(f, "{operation} {file}")
    }
}

/// A place, counted from 0, and when.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub place: Place,
    pub nth: u32,
    pub moment: Moment,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = ["before", "in", "after"][self.moment.0 as usize];
        write!(f, "{moment} {} number {}", self.place, self.nth)
    }
}

/// What a program and a test share.
pub struct WritePoints {
    path: PathBuf,
    file: File,
}

impl WritePoints {
    /// Not armed; in a file that is made in `dir`.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join("points");
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.unwrap();
        file.set_len((HEAD + 2 * EVENTS) as u64).unwrap();
        Self { path, file }
    }

    /// Has a program be watched, and whatever it starts, where it writes to `state`.
    pub fn watch(&self, command: &mut Command, state: &Path) {
        command.env("LD_PRELOAD", library());
        command.env("NARFS_TEST_POINTS", &self.path);
        command.env("NARFS_TEST_POINTS_IN", state);
    }

    fn arm(&self, fields: [u32; 8]) {
        let bytes: Vec<_> = fields.iter().flat_map(|n| n.to_ne_bytes()).collect();
        // What makes it live comes last.
        self.file.write_all_at(&[0; 4], 0).unwrap();
        self.file.write_all_at(&bytes[4..], 4).unwrap();
        self.file.write_all_at(&bytes[..4], 0).unwrap();
    }

    /// Only remembers what is reached from now on.
    pub fn record(&self) {
        self.arm([1, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// The next program that reaches a point dies there.
    pub fn kill_at(&self, point: Point) {
        let Point { place, nth, moment } = point;
        let (file, operation) = (place.file.into(), place.operation.into());
        self.arm([2, file, operation, nth, moment.0, 0, 0, 0]);
    }

    fn number(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u32::from_ne_bytes(bytes)
    }

    /// No more from now on; whether a program died.
    pub fn disarm(&self) -> bool {
        self.file.write_all_at(&[0; 4], 0).unwrap();
        self.number(FIRED) != 0
    }

    /// The places that were reached since it was armed, in their order, as points.
    pub fn reached(&self) -> Vec<Point> {
        let number = self.number(NUMBER) as usize;
        assert!(
            number <= EVENTS,
            "{number} events are more than there is room for"
        );
        let mut bytes = vec![0; 2 * number];
        self.file.read_exact_at(&mut bytes, HEAD as u64).unwrap();
        let mut points: Vec<Point> = Vec::new();
        for event in bytes.chunks(2) {
            let place = Place {
                file: event[0],
                operation: event[1],
            };
            let nth = points.iter().filter(|p| p.place == place).count() as u32;
            let moment = Moment(0);
            points.push(Point { place, nth, moment });
        }
        points
    }
}

/// The library, compiled once in each run.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let drafts = tempfile::tempdir_in(dir).unwrap();
        let [source, draft] =
            ["c", "so"].map(|end| drafts.path().join("draft").with_extension(end));
        fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]);
        let compiled = cc.arg(&draft).arg(&source).output();
        let compiled = compiled.unwrap_or_else(|e| panic!("cannot run cc, a C compiler: {e}"));
        assert!(compiled.status.success(), "{compiled:?}");
        // Another run may have its own loaded.
        let library = dir.join("write_points.so");
        fs::rename(draft, &library).unwrap();
        library
    })
}
