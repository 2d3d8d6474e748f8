//! Content-defined chunking of a byte stream that arrives in pieces.
//!
//! Invariant: where the cuts fall depends only on the bytes since the last boundary, never on
//! how they arrived; so the same content always gives the same chunks.

use fastcdc::v2020::FastCDC;

/// Smallest chunk, in bytes, except at a boundary.
pub(super) const MINIMUM: usize = 32 << 10;
/// Average chunk, in bytes. Of 16, 64, 128 and 256 KiB, 128 gave the smallest sum over three
/// generations of a real store (398 and 494 MB), at a quarter of the chunks of 64 KiB; 256 KiB
/// makes random reads slower.
pub const AVERAGE: usize = 128 << 10;
/// Largest chunk, in bytes: twice the kernel's largest read-ahead of a FUSE mount.
pub const MAXIMUM: usize = 256 << 10;
/// Length, in bytes, from which a file is chunked by itself; shorter ones are packed, in NAR order, into one
/// run, which gives half the chunks and 5 % fewer bytes. It is half the average chunk: a larger file has cuts
/// of its own.
pub const PACK_BELOW: u64 = AVERAGE as u64 / 2;

/// Cuts what is pushed into chunks and hands each to a callback.
#[derive(Debug, Default)]
pub struct Chunker {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were handed out already.
    start: usize,
}

impl Chunker {
    /// Takes `bytes`, and hands every chunk that is complete to `emit`.
    ///
    /// # Errors
    /// Those of `emit`; the chunker must not be used after one.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        emit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // The buffer is empty, so chunks that are whole in `bytes` need not pass through it.
        while self.buffer.is_empty() && bytes.len() >= MAXIMUM {
            let cut = cut(bytes);
            emit(&bytes[..cut])?;
            bytes = &bytes[cut..];
        }
        while !bytes.is_empty() {
            // Room for several chunks, so that moving the rest down costs little.
            let room = (8 * MAXIMUM).saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            while self.buffer.len() - self.start >= MAXIMUM {
                self.cut_one(emit)?;
            }
            if bytes.is_empty() && self.start < 4 * MAXIMUM {
                break;
            }
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        Ok(())
    }

    /// Ends the last chunk here: what follows is cut as if it began a stream.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn boundary<E>(&mut self, emit: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.start < self.buffer.len() {
            self.cut_one(emit)?;
        }
        self.buffer.clear();
        self.start = 0;
        Ok(())
    }

    fn cut_one<E>(&mut self, emit: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let rest = &self.buffer[self.start..];
        let cut = cut(rest);
        emit(&rest[..cut])?;
        self.start += cut;
        Ok(())
    }
}

/// Length of the chunk at the front of `bytes`, which are at least [`MAXIMUM`] or all there is.
fn cut(bytes: &[u8]) -> usize {
    let window = &bytes[..bytes.len().min(MAXIMUM)];
    let (_, cut) = FastCDC::new(window, MINIMUM, AVERAGE, MAXIMUM).cut(0, window.len());
    // An empty chunk would be cut for ever.
    if cut == 0 { window.len() } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn cuts(data: &[u8], piece: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut emit = |c: &[u8]| -> Result<(), ()> {
            lengths.push(c.len());
            Ok(())
        };
        let mut chunker = Chunker::default();
        for part in data.chunks(piece) {
            chunker.push(part, &mut emit).unwrap();
        }
        chunker.boundary(&mut emit).unwrap();
        lengths
    }

    #[test]
    fn the_cuts_do_not_depend_on_how_the_bytes_arrive() {
        let data = noise(5 << 20);
        let whole = cuts(&data, data.len());
        assert_eq!(whole.iter().sum::<usize>(), data.len());
        assert!(whole.len() > 20 && whole.len() < 80, "{}", whole.len());
        for piece in [1000, 65536, 1 << 20] {
            assert_eq!(cuts(&data, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn an_insertion_changes_the_cuts_near_it_only() {
        let data = noise(4 << 20);
        let mut changed = data.clone();
        changed.splice(1 << 20..1 << 20, *b"inserted");
        let ends = |l: Vec<usize>| {
            l.iter()
                .rev()
                .scan(0, |at, n| {
                    *at += n;
                    Some(*at)
                })
                .collect::<std::collections::BTreeSet<_>>()
        };
        let (a, b) = (ends(cuts(&data, 1 << 16)), ends(cuts(&changed, 1 << 16)));
        assert!(a.intersection(&b).count() * 4 > a.len() * 2);
    }

    #[test]
    fn nothing_gives_no_chunk_and_bounds_are_kept() {
        assert!(cuts(b"", 10).is_empty());
        assert_eq!(cuts(b"abc", 1), [3]);
        let zeros = cuts(&vec![0; 3 * MAXIMUM + 5], 4096);
        assert!(zeros.iter().all(|n| *n <= MAXIMUM));
    }
}
