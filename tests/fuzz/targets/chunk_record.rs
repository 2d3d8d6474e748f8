//! A chunk record decodes to at most a chunk, or is refused; what is encoded comes back.

use crate::chunk::{ChunkRecord, Encoder, MAXIMUM, section_cuts};

pub fn run(data: &[u8]) {
    if let Ok(record) = ChunkRecord::parse(data)
        && let Ok(chunk) = record.decode()
    {
        assert!(chunk.len() <= MAXIMUM);
    }
    let record = Encoder::new().unwrap().encode(data).unwrap();
    assert_eq!(ChunkRecord::parse(&record).unwrap().decode().unwrap(), data);
    let cuts = section_cuts(data.len() as u64, |at, out| {
        let at = usize::try_from(at).ok()?;
        out.copy_from_slice(data.get(at..at.checked_add(out.len())?)?);
        Some(())
    });
    assert!(cuts.is_sorted() && cuts.iter().all(|c| *c < data.len() as u64));
}
