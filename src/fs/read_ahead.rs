//! Chunks that are decoded before they are asked for.
//!
//! The kernel asks for 128 KiB ahead of a reader, less than a chunk, so that a reader would wait for each
//! chunk to be read and decompressed, by one core. Where a path is read in the order of its stream, what
//! follows is decoded by threads of its own, as much as was read in order, up to [`FARTHEST`]. Files that
//! follow each other in a path follow each other in its stream, so that a walk through small files is such
//! a reader, too; a reader that jumps costs nothing.

use std::sync::{Arc, Mutex};

use crate::chunk::{AVERAGE, MAXIMUM};
use crate::store::{PathOrdinal, ServedPath, Store};
use crate::sync::{Workers, lock};

/// The farthest point ahead of a reader, in bytes.
const FARTHEST: u64 = 2 << 20;
/// The part of the chunks in memory, as a divisor, that one reader may have decoded ahead.
const SHARE: u64 = 16;
/// The bytes that must be read in order before anything is decoded ahead.
const BEGINS_AFTER: u64 = AVERAGE as u64;
/// The largest step, forward or back, that is still in order: several threads answer what the kernel asks for
/// in order, and a walk leaves out links and what it has seen before.
const STEP: u64 = MAXIMUM as u64;
/// The number of readers that are known at once, the latest ones.
const READERS: usize = 32;
/// The number of chunks that wait for a thread. More are not decoded ahead.
const QUEUE: usize = 64;

/// Decodes ahead of those who read in order.
#[derive(Debug)]
pub(super) struct ReadAhead {
    readers: Mutex<Vec<Reader>>,
    workers: Workers,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self {
            readers: Mutex::default(),
            workers: Workers::new("read-ahead", QUEUE),
        }
    }
}

/// Somebody who reads a path in order; offsets are those of its stream.
#[derive(Debug)]
struct Reader {
    path: PathOrdinal,
    /// Where the last read ended.
    end: u64,
    /// Bytes read in order so far.
    run: u64,
    /// Everything before it was asked of a thread.
    decoded: u64,
}

impl ReadAhead {
    /// `from..to` of the stream of a path of `store` is read now. Whether it is by somebody who reads in
    /// order, and so will want what follows, too.
    pub(super) fn is_read(
        &self,
        store: &Arc<Store>,
        ordinal: PathOrdinal,
        path: &ServedPath,
        (from, to): (u64, u64),
    ) -> bool {
        let farthest = FARTHEST.min(store.contents().chunk_capacity() / SHARE);
        let (is_in_order, ahead) = note(&mut lock(&self.readers), ordinal, (from, to), farthest);
        let Some((from, to)) = ahead else {
            return is_in_order;
        };
        // Whoever reads it hears what is wrong with it.
        for chunk in path.chunks_in(from, to).unwrap_or_default() {
            let (store, path) = (store.clone(), path.clone());
            let decode = move || store.contents().load_ahead(path.contents(), chunk);
            // What has no place is decoded when it is read.
            if !self.workers.try_run(decode) {
                break;
            }
        }
        is_in_order
    }
}

/// Notes what is read, and returns whether that is in order, and what is to be decoded ahead of it.
fn note(
    readers: &mut Vec<Reader>,
    path: PathOrdinal,
    (from, to): (u64, u64),
    farthest: u64,
) -> (bool, Option<(u64, u64)>) {
    let follows = |r: &Reader| r.path == path && from.abs_diff(r.end) <= STEP;
    let Some(at) = readers.iter().position(follows) else {
        if readers.len() >= READERS {
            readers.remove(0);
        }
        readers.push(Reader {
            path,
            end: to,
            run: to - from,
            decoded: to,
        });
        return (false, None);
    };
    let mut reader = readers.remove(at);
    reader.run += to - from;
    reader.end = reader.end.max(to);
    reader.decoded = reader.decoded.max(reader.end);
    let window = reader.run.min(farthest);
    // In steps of half the window, so that not every read takes a chunk of its own.
    let is_in_order = reader.run >= BEGINS_AFTER;
    let ahead = (is_in_order && reader.end + window / 2 >= reader.decoded)
        .then_some((reader.decoded, reader.end + window));
    if let Some((_, to)) = ahead {
        reader.decoded = to;
    }
    readers.push(reader);
    (is_in_order, ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: PathOrdinal = PathOrdinal(7);
    const KIB: u64 = 1 << 10;

    /// Reads parts of the stream of a path in this order: what is decoded ahead.
    fn ahead_of(parts: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
        let mut readers = Vec::new();
        let each = parts.into_iter();
        each.filter_map(|part| note(&mut readers, PATH, part, FARTHEST).1)
            .collect()
    }

    #[test]
    fn what_is_read_in_order_is_decoded_ahead_once_and_farther_each_time() {
        let ahead = ahead_of((0..100).map(|n| (n * 128 * KIB, (n + 1) * 128 * KIB)));
        // Two reads, so that one part of a file is no reader in order.
        assert_eq!(ahead[0].0, 256 * KIB);
        for pair in ahead.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
        let end = 100 * 128 * KIB;
        let last = ahead.last().unwrap().1;
        assert!(last > end && last <= end + FARTHEST, "{last}");
        // Never more than was read.
        assert!(
            ahead.iter().all(|(from, to)| to - from <= *from),
            "{ahead:?}"
        );
    }

    #[test]
    fn files_that_follow_each_other_are_read_in_order() {
        // With gaps: a reader leaves some out.
        let ahead = ahead_of((0..200).map(|n| (n * 5 * KIB, n * 5 * KIB + 3 * KIB)));
        assert!(!ahead.is_empty());
    }

    #[test]
    fn requests_that_come_out_of_order_are_one_reader() {
        let order = [0, 2, 1, 3, 5, 4, 7, 6, 9, 8];
        let ahead = ahead_of(order.map(|n| (n * 128 * KIB, (n + 1) * 128 * KIB)));
        for pair in ahead.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
        assert!(!ahead.is_empty());
    }

    #[test]
    fn two_readers_of_a_path_do_not_disturb_each_other_and_one_that_jumps_has_nothing_decoded() {
        let far = 500 << 20;
        let both =
            (0..20).flat_map(|n| [0, far].map(|at| (at + n * 128 * KIB, at + (n + 1) * 128 * KIB)));
        let ahead = ahead_of(both);
        assert!(
            ahead.iter().any(|(from, _)| *from < far) && ahead.iter().any(|(from, _)| *from > far)
        );
        let jumps = (0..200).map(|n: u64| (n * n * 4321 * KIB, n * n * 4321 * KIB + 4 * KIB));
        assert_eq!(ahead_of(jumps), []);
    }

    #[test]
    fn no_more_readers_are_known_than_there_are_places() {
        let mut readers = Vec::new();
        for n in 0..1000 {
            note(&mut readers, PathOrdinal(n), (0, 4096), FARTHEST);
        }
        assert_eq!(readers.len(), READERS);
    }
}
