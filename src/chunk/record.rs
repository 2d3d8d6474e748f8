//! How one chunk is stored.
//!
//! ```text
//! offset  bytes
//! 0       1      codec: 0 raw, 1 zstd, 2 zstd in frames
//! 1       1      filter that was applied before the codec: 0 none
//! 2       1      delta depth: 0 no base, n a chain of n bases
//! 3       1      length p of the filter's parameters
//! 4       4      length of the uncompressed chunk, little-endian
//! 8       8      chunk number of the base (only if the depth is not 0)
//! …       p      parameters of the filter
//! …              payload
//! ```
//!
//! A chunk of more than one part is written in [frames], a shorter one as one frame of zstd,
//! or raw if it gains nothing; earlier versions wrote all chunks like that. There is no filter and no base.
//! A reader that meets another value returns an error rather than wrong bytes. Invariant: a record can be
//! replaced by another encoding of the same chunk at any time; its name is the digest of the uncompressed
//! bytes.

use zstd::zstd_safe::CParameter;

use super::digest::{ChunkHash, PART};
use super::error::RecordError;
use super::frames::{self, Frames};
use super::{ChunkDigest, MAXIMUM};

/// Level of zstd: 9 saves 6 %, 19 saves 14 to 16 % at 4 MB/s; 3 keeps ingest above the speed of
/// a network.
const LEVEL: i32 = 3;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const FRAMES: u8 = 2;
const HEADER: usize = 8;
/// Room for the header and the table of any record.
const ROOM: usize = 1 << 10;

/// A stored chunk, taken apart but not decompressed.
#[derive(Debug)]
pub struct ChunkRecord<'a> {
    length: usize,
    payload: Payload<'a>,
}

#[derive(Debug)]
enum Payload<'a> {
    Raw(&'a [u8]),
    Zstd(&'a [u8]),
    Frames(Frames<'a>),
}

impl<'a> ChunkRecord<'a> {
    /// Parses a record.
    ///
    /// # Errors
    /// A record that is truncated, too long, or of a kind that this version does not know.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (header, payload) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(RecordError::Short)?;
        let [codec, filter, depth, parameters, l0, l1, l2, l3] = *header;
        let raw_length = u32::from_le_bytes([l0, l1, l2, l3]);
        let length = raw_length as usize;
        let unknown = |what, value| Err(RecordError::Unknown { what, value });
        if codec > FRAMES {
            return unknown("codec", codec);
        }
        if filter != 0 || parameters != 0 {
            return unknown("filter", filter);
        }
        if depth != 0 {
            return unknown("delta depth", depth);
        }
        if length > MAXIMUM {
            return Err(RecordError::TooLong(raw_length));
        }
        let payload = match codec {
            RAW => Payload::Raw(payload),
            ZSTD => Payload::Zstd(payload),
            _ => Payload::Frames(Frames::parse(length, payload)?),
        };
        Ok(Self { length, payload })
    }

    /// The name of the codec.
    pub fn codec(&self) -> &'static str {
        match self.payload {
            Payload::Raw(_) => "raw",
            Payload::Zstd(_) => "zstd",
            Payload::Frames(_) => "zstd frames",
        }
    }

    /// Whether the record is one of a chunk in frames.
    pub fn has_frames(record: &[u8]) -> bool {
        record.first() == Some(&FRAMES)
    }

    /// Length of the chunk, uncompressed.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of the chunk in a frame, but for the last one, if it is in frames.
    pub fn frame_length(&self) -> Option<usize> {
        match &self.payload {
            Payload::Frames(frames) => Some(frames.frame_length()),
            Payload::Raw(_) | Payload::Zstd(_) => None,
        }
    }

    /// The chunk's masked, uncompressed bytes, which have this digest.
    ///
    /// # Errors
    /// A record that does not give exactly these bytes.
    pub fn decode(&self, digest: &ChunkDigest) -> Result<Vec<u8>, RecordError> {
        let bytes = match &self.payload {
            Payload::Frames(frames) => return frames.decode(digest),
            Payload::Raw(bytes) => bytes.to_vec(),
            Payload::Zstd(frame) => frames::decode_one(frame, self.length)?,
        };
        frames::is_of_length(bytes.len(), self.length)?;
        match ChunkDigest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(RecordError::Digest),
        }
    }

    /// The first `to` bytes of a frame of the chunk, or some more.
    ///
    /// # Errors
    /// As there, as far as the bytes and what verifies them are concerned.
    pub fn decode_frame(
        &self,
        number: usize,
        to: usize,
        digest: &ChunkDigest,
    ) -> Result<Vec<u8>, RecordError> {
        match &self.payload {
            Payload::Frames(frames) => frames.decode_frame(number, to, digest),
            _ => self.decode(digest),
        }
    }
}

/// Makes chunk records; keeps the compressor's working memory between chunks.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// An encoder at the level that all ingest uses.
    ///
    /// # Errors
    /// No memory for the compressor.
    pub fn new() -> std::io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(LEVEL)?;
        // The digest of the chunk is its name, and its length is in our header.
        zstd.include_checksum(false)?;
        zstd.include_contentsize(false)?;
        zstd.include_magicbytes(true)?;
        zstd.set_parameter(CParameter::MaxBlockSize(PART as u32))?;
        Ok(Self { zstd })
    }

    /// The record of a chunk of at most [`MAXIMUM`] bytes; raw where zstd gains nothing.
    ///
    /// # Errors
    /// Those of zstd, which are not expected.
    pub fn encode(&mut self, hash: &ChunkHash, chunk: &[u8]) -> std::io::Result<Vec<u8>> {
        debug_assert!(chunk.len() <= MAXIMUM);
        let mut out = Vec::with_capacity(ROOM + zstd::zstd_safe::compress_bound(chunk.len()));
        out.resize(HEADER, 0);
        out[4..].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
        if chunk.len() > PART {
            out[0] = FRAMES;
            frames::encode(&mut self.zstd, hash, chunk, &mut out)?;
            return Ok(out);
        }
        out.resize(HEADER + zstd::zstd_safe::compress_bound(chunk.len()), 0);
        let n = self.zstd.compress_to_buffer(chunk, &mut out[HEADER..])?;
        if n < chunk.len() {
            out[0] = ZSTD;
            out.truncate(HEADER + n);
        } else {
            out[0] = RAW;
            out.truncate(HEADER);
            out.extend_from_slice(chunk);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(chunk: &[u8]) -> Vec<u8> {
        let hash = ChunkHash::of(chunk);
        Encoder::new().unwrap().encode(&hash, chunk).unwrap()
    }

    fn decode(record: &[u8], chunk: &[u8]) -> Result<Vec<u8>, RecordError> {
        ChunkRecord::parse(record)?.decode(&ChunkDigest::of(chunk))
    }

    fn round(chunk: &[u8]) -> Vec<u8> {
        let record = encode(chunk);
        assert_eq!(decode(&record, chunk).unwrap(), chunk);
        record
    }

    #[test]
    fn chunks_come_back_and_incompressible_ones_stay_raw() {
        round(b"");
        assert!(round(&[7; 100_000]).len() < 400);
        let mut noise = vec![0; 30_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let record = round(&noise);
        assert_eq!((record[0], record.len()), (RAW, noise.len() + HEADER));
    }

    #[test]
    fn unknown_codecs_filters_and_bases_are_named() {
        let good = encode(b"hello");
        for (at, what) in [(0, "codec 9"), (1, "filter 9"), (2, "delta depth 9")] {
            let mut bad = good.clone();
            bad[at] = 9;
            let e = ChunkRecord::parse(&bad).unwrap_err().to_string();
            assert!(e.contains(what), "{e}");
        }
    }

    #[test]
    fn damage_is_an_error_and_a_bomb_is_refused() {
        let chunk = [7; 1000];
        let good = encode(&chunk);
        assert!(ChunkRecord::parse(&good[..5]).is_err());
        assert!(decode(&good[..good.len() - 3], &chunk).is_err());
        let mut bomb = good.clone();
        bomb[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            ChunkRecord::parse(&bomb),
            Err(RecordError::TooLong(_))
        ));
        for length in [999u32, 1001] {
            let mut other = good.clone();
            other[4..8].copy_from_slice(&length.to_le_bytes());
            assert!(decode(&other, &chunk).is_err());
        }
        // The bytes of another chunk are none of this one.
        assert!(matches!(decode(&good, b"other"), Err(RecordError::Digest)));
    }
}
