//! The windows of compressed streams, as the beginning of a stream says them.
//!
//! Invariant: whatever the bytes are, the answer is a number or that there are too few of them.

/// Logarithms of the windows that zstd knows.
const ZSTD_LOGS: (u32, u32) = (10, 31);

/// The logarithm of the largest window of zstd in so much memory.
pub(super) fn zstd_log(memory: u64) -> u32 {
    memory.max(1).ilog2().clamp(ZSTD_LOGS.0, ZSTD_LOGS.1)
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The window of the first frame (RFC 8878, section 3.1.1.1), as a power of two.
pub(super) fn zstd(head: &[u8]) -> Option<u64> {
    if head.get(..4)? != [0x28, 0xb5, 0x2f, 0xfd] {
        // A frame to be skipped, or nothing that can be decoded.
        return Some(0);
    }
    let descriptor = *head.get(4)?;
    let window = if descriptor & 0x20 == 0 {
        let byte = u64::from(*head.get(5)?);
        let base = 1u64 << (10 + (byte >> 3));
        base + base / 8 * (byte & 7)
    } else {
        // One segment: the window is the content.
        let at = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
        let length = 1 << (descriptor >> 6);
        number(head.get(at..at + length)?) + if length == 2 { 256 } else { 0 }
    };
    Some(window.checked_next_power_of_two().unwrap_or(u64::MAX))
}

/// The dictionary of the first block (section 3.1 of the format).
pub(super) fn xz(head: &[u8]) -> Option<u64> {
    const STREAM_HEADER: usize = 12;
    if head.get(..6)? != b"\xfd7zXZ\0" {
        return Some(0);
    }
    let size = usize::from(*head.get(STREAM_HEADER)?);
    if size == 0 {
        // The index: there is no block.
        return Some(0);
    }
    let block = head.get(STREAM_HEADER..STREAM_HEADER + (size + 1) * 4)?;
    Some(block_dictionary(block).unwrap_or(0))
}

/// The dictionary of LZMA2 in a header of a block; `None` if it cannot be read.
fn block_dictionary(block: &[u8]) -> Option<u64> {
    let flags = *block.get(1)?;
    let mut rest = &block[2..];
    for bit in [0x40, 0x80] {
        if flags & bit != 0 {
            integer(&mut rest)?;
        }
    }
    for _ in 0..=flags & 3 {
        let (filter, length) = (integer(&mut rest)?, integer(&mut rest)?);
        let (properties, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        if filter == 0x21 {
            let bits = u64::from(properties.first()? & 0x3f);
            return Some(match bits {
                0..40 => (2 | bits & 1) << (bits / 2 + 11),
                _ => 4 << 30,
            });
        }
    }
    None
}

/// A multibyte integer of xz.
fn integer(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..9 {
        let byte = *rest.get(at)?;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Some(number);
        }
    }
    None
}

/// The window of a stream (RFC 7932, section 9.1).
pub(super) fn brotli(head: &[u8]) -> Option<u64> {
    let byte = *head.first()?;
    let bits = match (byte & 1, byte >> 1 & 7, byte >> 4 & 7) {
        (0, ..) => 16,
        (_, 0, 0) => 17,
        (_, 0, more) => 8 + more,
        (_, more, _) => 17 + more,
    };
    Some(1 << bits)
}

/// The dictionary of the first member.
pub(super) fn lzip(head: &[u8]) -> Option<u64> {
    if head.get(..4)? != b"LZIP" {
        return Some(0);
    }
    let byte = u64::from(*head.get(5)?);
    let base = 1u64 << (byte & 0x1f);
    Some(base - base / 16 * (byte >> 5))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use crate::nix::compression::{Compression, TABLES, USUAL_MEMORY};

    fn zstd_of(log: u32, length: usize) -> Vec<u8> {
        let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&vec![0; length]).unwrap();
        encoder.finish().unwrap()
    }

    fn xz_of(dictionary: u32) -> Vec<u8> {
        let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        options.dict_size(dictionary);
        let mut filters = liblzma::stream::Filters::new();
        filters.x86().lzma2(&options);
        let stream =
            liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32);
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
        encoder.write_all(b"some text").unwrap();
        encoder.finish().unwrap()
    }

    /// The need of a stream, which is the same however little of it is seen first.
    fn need(method: Compression, stream: &[u8]) -> u64 {
        let needs = (0..=stream.len()).map(|length| method.memory(&stream[..length]));
        let needs: Vec<_> = needs.skip_while(Option::is_none).collect();
        assert!(needs.iter().all(|need| *need == needs[0]));
        needs[0].unwrap()
    }

    #[test]
    fn a_window_is_read_from_the_head_and_suffices() {
        for log in [20, 24, 27] {
            let stream = zstd_of(log, 1 << 20);
            let need = need(Compression::Zstd, &stream);
            assert_eq!(need, USUAL_MEMORY.max((1 << log) + TABLES));
            let decode = |memory| {
                let reader =
                    Compression::Zstd.reader_within(std::io::Cursor::new(stream.clone()), memory);
                std::io::copy(&mut reader.unwrap(), &mut std::io::sink())
            };
            assert_eq!(decode(need).unwrap(), 1 << 20);
            assert!(decode((1 << log) - 1).is_err());
        }
        // One segment says its length instead.
        let whole = ::zstd::bulk::compress(&vec![0; 20 << 20], 1).unwrap();
        let need = need(Compression::Zstd, &whole);
        assert!(need <= (32 << 20) + TABLES, "{need}");
    }

    #[test]
    fn a_dictionary_of_xz_and_lzip_is_read_from_the_head_and_suffices() {
        for dictionary in [4 << 10, 8 << 20, 96 << 20] {
            let stream = xz_of(dictionary);
            let need = need(Compression::Xz, &stream);
            assert_eq!(need, USUAL_MEMORY.max(u64::from(dictionary) + TABLES));
            let decode = |memory| {
                let reader =
                    Compression::Xz.reader_within(std::io::Cursor::new(stream.clone()), memory);
                let mut text = String::new();
                reader.unwrap().read_to_string(&mut text).map(|_| text)
            };
            assert_eq!(decode(need).unwrap(), "some text");
            assert!(decode(u64::from(dictionary) / 2).is_err());
        }
        assert_eq!(
            need(Compression::Lzip, b"LZIP\x01\x1d"),
            (512 << 20) + TABLES
        );
    }

    #[test]
    fn a_window_of_brotli_is_read_from_the_first_byte() {
        for (window, expected) in [
            (16, USUAL_MEMORY),
            (22, USUAL_MEMORY),
            (24, (1 << 24) + TABLES),
        ] {
            let mut stream = Vec::new();
            let mut encoder = ::brotli::CompressorWriter::new(&mut stream, 4096, 4, window);
            encoder.write_all(&vec![0; 1 << 20]).unwrap();
            drop(encoder);
            assert_eq!(need(Compression::Br, &stream), expected, "{window}");
        }
    }

    #[test]
    fn any_bytes_have_an_answer() {
        proptest::proptest!(|(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..1100),
            magic in 0..4usize,
        )| {
            let magic: &[u8] = [&[0x28, 0xb5, 0x2f, 0xfd][..], b"\xfd7zXZ\0", b"LZIP", b""][magic];
            let bytes = [magic, &bytes].concat();
            for method in [Compression::Zstd, Compression::Xz, Compression::Lzip, Compression::Br] {
                let need = method.memory(&bytes);
                assert!(need.is_none_or(|need| need >= USUAL_MEMORY));
            }
        });
    }
}
