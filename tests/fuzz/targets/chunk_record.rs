//! A chunk record decodes to at most a chunk, or is refused; what is encoded comes back.

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::chunk::{ChunkDigest, ChunkHash, ChunkRecord, Encoder, MAXIMUM, section_cuts};

pub fn run(data: &[u8]) {
    let digest = claimed(data).unwrap_or(ChunkHash::of(data).digest);
    if let Ok(record) = ChunkRecord::parse(data) {
        assert!(record.length() <= MAXIMUM && record.frame_length() != Some(0));
        if let Ok(chunk) = record.decode(&digest) {
            assert!(chunk.len() <= MAXIMUM);
        }
        for (number, to) in [(0, 1), (0, MAXIMUM), (1, 90_000), (9, 1)] {
            let _ = record.decode_frame(number, to, &digest);
        }
    }
    // Long enough for frames, too.
    let long = data.repeat(data.len().min(3000));
    for chunk in [data, &long[..long.len().min(MAXIMUM)]] {
        let chunk = &chunk[..chunk.len().min(MAXIMUM)];
        let hash = ChunkHash::of(chunk);
        let record = Encoder::new().unwrap().encode(&hash, chunk).unwrap();
        let record = ChunkRecord::parse(&record).unwrap();
        assert_eq!(record.decode(&hash.digest).unwrap(), chunk);
        if !chunk.is_empty() {
            let begin = record.decode_frame(0, 1, &hash.digest).unwrap();
            assert_eq!(begin, chunk[..begin.len()]);
        }
    }
    let cuts = section_cuts(data.len() as u64, |at, out| {
        let at = usize::try_from(at).ok()?;
        out.copy_from_slice(data.get(at..at.checked_add(out.len())?)?);
        Some(())
    });
    assert!(cuts.is_sorted() && cuts.iter().all(|c| *c < data.len() as u64));
}

/// The digest that the chaining values of a record in frames give, so that what they verify is decoded.
fn claimed(record: &[u8]) -> Option<ChunkDigest> {
    let length = u32::from_le_bytes(*record.get(4..8)?.first_chunk()?) as usize;
    let parts = length.div_ceil(64 << 10);
    let frames = parts.div_ceil(usize::from(*record.get(8)?).max(1));
    let (values, _) = record.get(9 + 4 * frames..)?.as_chunks::<32>();
    let values = values.get(..parts)?;
    if parts < 2 {
        return None;
    }
    let left = parts.next_power_of_two() / 2;
    let [left, right] = [&values[..left], &values[left..]].map(chaining_value);
    Some(ChunkDigest(
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
    ))
}

fn chaining_value(values: &[[u8; 32]]) -> [u8; 32] {
    if let [value] = values {
        return *value;
    }
    let left = values.len().next_power_of_two() / 2;
    let [left, right] = [&values[..left], &values[left..]].map(chaining_value);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}
