//! The seeds of the fuzz targets, and bytes near them, without a fuzzer.
//!
//! A generator with a fixed seed changes them, so that every run tries the same bytes.

#[path = "targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// A target by its name.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("chunk_record", targets::chunk_record::run),
    ("decompress", targets::decompress::run),
    ("listing", targets::listing::run),
    ("nar_read", targets::nar_read::run),
    ("narinfo", targets::narinfo::run),
    ("store_path_and_hash", targets::store_path_and_hash::run),
    ("tree", targets::tree::run),
    ("worker_protocol", targets::worker_protocol::run),
];

/// Changes that are tried of each seed.
const CHANGES: usize = 300;

/// Bytes at which formats turn: ends of strings, lines and fields, signs, largest numbers.
const TURNS: &[u8] = b"\0\x01\x7f\x80\xff\n\r /:=-.+09azAZ(){}\"\\";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// Names of files in a directory, without their extensions.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| stem(entry.unwrap().path())).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory().join("seeds").join(target)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Numbers of the generator xorshift64.
struct Numbers(u64);

impl Numbers {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    /// A part of `bytes`.
    fn part<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let from = self.below(bytes.len() + 1);
        let length = self.below((bytes.len() - from).min(64) + 1);
        &bytes[from..from + length]
    }

    /// Changes `bytes` once; `other` is another seed.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        match self.below(7) {
            0 => bytes.truncate(at),
            1 => {
                let inserted = self.part(other).to_vec();
                bytes.splice(at..at, inserted);
            }
            2 => {
                let again = self.part(&bytes.clone()).to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let to = bytes.len().min(at + self.below(16));
                bytes.drain(at..to);
            }
            4 if at + 8 <= bytes.len() => {
                let number = [0, 1, 8, 255, 1 << 16, 1 << 32, u64::MAX / 2, u64::MAX];
                let number = number[self.below(number.len())];
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            5 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            _ if at < bytes.len() => bytes[at] = TURNS[self.below(TURNS.len())],
            _ => bytes.push(TURNS[self.below(TURNS.len())]),
        }
    }
}

#[test]
fn every_target_is_built_by_the_fuzzer_and_has_seeds() {
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&directory().join("fuzz_targets")), known);
    assert_eq!(names(&directory().join("seeds")), known);
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for name in known {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&path), "Cargo.toml has no {path}");
        assert!(!seeds(&name).is_empty(), "seeds/{name} has no seed");
    }
}

#[test]
fn what_holds_for_any_bytes_holds_for_the_seeds_and_bytes_near_them() {
    for (name, run) in TARGETS {
        let seeds = seeds(name);
        let try_out = |bytes: &[u8]| {
            let outcome = catch_unwind(|| run(bytes));
            assert!(outcome.is_ok(), "{name}: b\"{}\"", bytes.escape_ascii());
        };
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        try_out(b"");
        for seed in &seeds {
            try_out(seed);
            for _ in 0..CHANGES {
                let mut bytes = seed.clone();
                for _ in 0..=numbers.below(4) {
                    let other = &seeds[numbers.below(seeds.len())];
                    numbers.change(&mut bytes, other);
                }
                try_out(&bytes);
            }
        }
    }
}
