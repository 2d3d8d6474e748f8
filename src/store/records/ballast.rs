//! Room on the disk for what gives space back.
//!
//! Where others fill the disk to the last byte, RocksDB can write nothing, not even that something is to be
//! deleted. So a file of the state keeps some room, which only an opening, an eviction or a collection
//! takes. Invariant: the file has nothing in it, and whoever finds it missing goes on without.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::store::directory::{RESERVE, free};

/// The name of the file in the state.
const FILE: &str = "ballast";
/// Bytes of chunks from which on there is a ballast: less is not worth it.
const LEAST_CHUNKS: u64 = 16 << 20;
/// Bytes of chunks for each byte of it. What has to be written to delete chunks is mostly less.
const PART: u64 = 32;
/// Least bytes of it: as much as waits in memory for a file.
const LEAST: u64 = 16 << 20;
/// Most bytes of it.
const MOST: u64 = 64 << 20;
/// Bytes that it is rounded to: it grows in steps.
const STEP: u64 = 4 << 20;

/// The ballast of a state.
pub(super) struct Ballast(PathBuf);

impl Ballast {
    pub(super) fn of(state: &Path) -> Self {
        Self(state.join(FILE))
    }

    /// Has it be as large as `chunks` bytes of chunks need, if the disk has room for it.
    pub(super) fn keep(&self, state: &Path, chunks: u64) {
        if chunks < LEAST_CHUNKS {
            if chunks < LEAST_CHUNKS / 2 {
                self.release();
            }
            return;
        }
        let wanted = (chunks / PART).next_multiple_of(STEP).clamp(LEAST, MOST);
        let there = fs::metadata(&self.0).map_or(0, |m| m.len());
        let has_room = || free(state).is_ok_and(|free| free >= RESERVE + wanted - there);
        if there >= wanted || !has_room() {
            return;
        }
        let kept = File::options()
            .create(true)
            .append(true)
            .open(&self.0)
            .and_then(|file| {
                let room = FallocateFlags::empty();
                Ok(rustix::fs::fallocate(&file, room, 0, wanted)?)
            });
        if let Err(e) = kept {
            // Such as a file system that reserves nothing.
            tracing::debug!("no room is kept in {}: {e}", self.0.display());
            let _ = fs::remove_file(&self.0);
        }
    }

    /// Gives the room to whoever writes next; says whether there was any.
    pub(super) fn release(&self) -> bool {
        let there = fs::metadata(&self.0).is_ok_and(|m| m.len() > 0);
        there && fs::remove_file(&self.0).is_ok()
    }
}
