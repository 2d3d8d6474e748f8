//! What memory has of a chunk, decoded and checked.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::chunk::{ChunkDigest, ChunkRecord, RecordError};

/// All of a chunk, or of some frames their first bytes.
#[derive(Clone)]
pub(super) enum Decoded {
    Whole(Bytes),
    Frames(Arc<Frames>),
}

/// The first bytes of some frames of a chunk.
#[derive(Clone)]
pub(super) struct Frames {
    /// Bytes of the chunk.
    length: usize,
    /// Bytes of the chunk in a frame, but for the last one.
    frame_length: usize,
    /// Empty where nothing of the frame is there.
    begun: Vec<Bytes>,
}

impl Decoded {
    /// Bytes that are in memory for it.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Frames(frames) => {
                let each = frames.begun.iter();
                let bytes: usize = each.map(|begun| begun.len() + size_of::<Bytes>()).sum();
                (bytes + size_of::<Frames>()) as u64
            }
        }
    }

    /// Bytes of the chunk.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Frames(frames) => frames.length,
        }
    }

    /// Whether these bytes of the chunk are there.
    pub(super) fn has(&self, wanted: &Range<usize>) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Frames(frames) => {
                let mut needed = frames.needed(wanted);
                needed.all(|(number, to)| frames.begun[number].len() >= to)
            }
        }
    }

    /// Bytes that have the byte `at` of the chunk, which is there, with the offset of the first of them.
    pub(super) fn piece(&self, at: usize) -> (usize, Bytes) {
        match self {
            Self::Whole(bytes) => (0, bytes.clone()),
            Self::Frames(frames) => {
                let number = at / frames.frame_length;
                (number * frames.frame_length, frames.begun[number].clone())
            }
        }
    }
}

impl Frames {
    /// None of a chunk of so many bytes.
    pub(super) fn new(length: usize, frame_length: usize) -> Self {
        Self {
            length,
            frame_length,
            begun: vec![Bytes::new(); length.div_ceil(frame_length)],
        }
    }

    pub(super) fn frame_length(&self) -> usize {
        self.frame_length
    }

    /// Adds what is needed for these bytes of the chunk, whose record this is. The beginning of a frame is
    /// enough for who wants it first; who comes back for more gets all of it.
    pub(super) fn add(
        &mut self,
        record: &ChunkRecord<'_>,
        digest: &ChunkDigest,
        wanted: &Range<usize>,
    ) -> Result<(), RecordError> {
        for (number, to) in self.needed(wanted) {
            let begun = self.begun[number].len();
            if begun < to {
                let to = if begun > 0 { self.frame_length } else { to };
                self.begun[number] = record.decode_frame(number, to, digest)?.into();
            }
        }
        Ok(())
    }

    /// The frames that have some of these bytes, each with how many of its own are needed.
    fn needed(&self, wanted: &Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (frame_length, end) = (self.frame_length, wanted.end.min(self.length));
        let numbers = wanted.start / frame_length..end.div_ceil(frame_length);
        numbers.map(move |number| (number, frame_length.min(end - number * frame_length)))
    }
}
