//! How a tree is searched and read, wherever its bytes lie.

use std::ops::Range;

use super::format::{ChunkEntry, NodeIndex};
use crate::chunk::{HASH_LEN, Occurrence, unmask};

/// The one of `children`, which are sorted by name, that is named `name`.
pub(super) fn search<N: AsRef<[u8]>, E>(
    children: Range<NodeIndex>,
    name: &[u8],
    name_of: impl Fn(NodeIndex) -> Result<N, E>,
) -> Result<Option<NodeIndex>, E> {
    let (mut low, mut high) = (children.start, children.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match name_of(middle)?.as_ref().cmp(name) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Ok(Some(middle)),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

/// Passes a range of a stream to `emit`, with the hashes of `table` restored where `masks` says. `next`
/// supplies one chunk after the other, from the one on in which the range begins.
pub(super) fn emit_range<C: AsRef<[u8]>, E>(
    range: Range<u64>,
    masks: &[Occurrence],
    table: &[[u8; HASH_LEN]],
    mut next: impl FnMut() -> Result<(ChunkEntry, C), E>,
    mut emit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = range.start;
    let mut patched = Vec::new();
    while at < range.end {
        let (entry, chunk) = next()?;
        let from = (at - entry.start) as usize;
        let to = (range.end - entry.start).min(u64::from(entry.length)) as usize;
        let part = &chunk.as_ref()[from..to];
        let end = at + part.len() as u64;
        if is_masked(masks, at..end) {
            patched.clear();
            patched.extend_from_slice(part);
            unmask(&mut patched, at, masks, |n| table.get(n as usize));
            emit(&patched)?;
        } else {
            emit(part)?;
        }
        at = end;
    }
    Ok(())
}

fn is_masked(masks: &[Occurrence], range: Range<u64>) -> bool {
    let from = masks.partition_point(|o| o.offset + HASH_LEN as u64 <= range.start);
    masks.get(from).is_some_and(|o| o.offset < range.end)
}
