//! How a tree is searched and read, wherever its bytes lie.

use std::ops::Range;

use crate::chunk::{HASH_LEN, Occurrence, unmask};

/// The one of `children`, which are sorted by name, that is named `name`.
pub(super) fn search<N: AsRef<[u8]>, E>(
    children: Range<u32>,
    name: &[u8],
    name_of: impl Fn(u32) -> Result<N, E>,
) -> Result<Option<u32>, E> {
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

/// Passes a range of a stream to `emit`, with the hashes of `table` restored where `masks` says. `piece_at`
/// supplies bytes of the stream, with the offset of the first of them, that have the one at its argument.
pub(super) fn emit_range<C: AsRef<[u8]>, E>(
    range: Range<u64>,
    masks: &[Occurrence],
    table: &[[u8; HASH_LEN]],
    mut piece_at: impl FnMut(u64) -> Result<(u64, C), E>,
    mut emit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = range.start;
    let mut patched = Vec::new();
    while at < range.end {
        let (start, piece) = piece_at(at)?;
        let piece = piece.as_ref();
        let to = (range.end - start).min(piece.len() as u64) as usize;
        let part = &piece[(at - start) as usize..to];
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
