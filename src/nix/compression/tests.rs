//! Tests of the decoders: whole streams, several members, every truncation, memory limits.

use std::io::Write;

use proptest::prelude::*;

use super::*;

const SUPPORTED: [Compression; 8] = [
    Compression::None,
    Compression::Xz,
    Compression::Bzip2,
    Compression::Gzip,
    Compression::Zstd,
    Compression::Br,
    Compression::Lzip,
    Compression::Lz4,
];

fn encode(method: Compression, data: &[u8]) -> Vec<u8> {
    match method {
        Compression::None => data.to_vec(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let level = bzip2::Compression::fast();
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Br => {
            let mut output = Vec::new();
            let mut encoder = ::brotli::CompressorWriter::new(&mut output, 4096, 4, 20);
            encoder.write_all(data).unwrap();
            drop(encoder);
            output
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lzip => lzip(data),
        other => panic!("no encoder for {other}"),
    }
}

/// An lzip member: LZMA-1 without properties, between lzip's header and trailer.
fn lzip(data: &[u8]) -> Vec<u8> {
    let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    options.dict_size(1 << 20);
    let stream = Stream::new_lzma_encoder(&options).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(data).unwrap();
    let alone = encoder.finish().unwrap();
    let mut member = b"LZIP\x01\x14".to_vec();
    member.extend_from_slice(&alone[13..]);
    let mut crc = flate2::Crc::new();
    crc.update(data);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&(data.len() as u64).to_le_bytes());
    let size = member.len() as u64 + 8;
    member.extend_from_slice(&size.to_le_bytes());
    member
}

/// Hands out a few bytes at a time, as a slow connection does.
struct Trickle(std::io::Cursor<Vec<u8>>, usize);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.1);
        self.0.read(&mut buffer[..room])
    }
}

fn decode(method: Compression, bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let input = Trickle(std::io::Cursor::new(bytes.to_vec()), piece);
    let mut reader = method.reader(input).unwrap();
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    Ok(output)
}

fn sample(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Compressible, but not trivially.
        (state >> 28) as u8
    };
    (0..length).map(next).collect()
}

#[test]
fn names_and_suffixes() {
    for method in Compression::ALL {
        assert_eq!(Compression::parse(method.name()).unwrap(), method);
    }
    assert_eq!(Compression::parse("").unwrap(), Compression::Bzip2);
    for bad in ["ZSTD", "zst", "xz ", "zstd\r", "brotli"] {
        assert!(matches!(
            Compression::parse(bad),
            Err(CompressionError::Unknown { .. })
        ));
    }
    assert_eq!(Compression::Zstd.suffix(), ".zst");
    assert_eq!(Compression::Gzip.suffix(), "");
}

#[test]
fn endings_of_files_tell_the_method() {
    for (name, method) in [
        ("store-paths.xz", Compression::Xz),
        ("x.tar.gz", Compression::Gzip),
        ("x.bz2", Compression::Bzip2),
        ("x.zst", Compression::Zstd),
        ("x.br", Compression::Br),
        ("x.lz4", Compression::Lz4),
        ("x.lz", Compression::Lzip),
        ("x.lzip", Compression::Lzip),
        ("x.lzma", Compression::Lzma),
        ("store-paths", Compression::None),
        ("xz", Compression::None),
        ("", Compression::None),
    ] {
        assert_eq!(Compression::of_file_name(name), method, "{name}");
    }
}

#[test]
fn methods_without_decoder_say_so() {
    for method in Compression::ALL {
        let reader = method.reader(io::empty());
        assert_eq!(reader.is_ok(), method.is_supported());
        assert_eq!(SUPPORTED.contains(&method), method.is_supported());
    }
}

#[test]
fn streams_are_decoded_whole() {
    for method in SUPPORTED {
        for data in [
            vec![],
            b"hello\n".to_vec(),
            sample(300_000),
            vec![0; 500_000],
        ] {
            for piece in [1000, usize::MAX] {
                let decoded = decode(method, &encode(method, &data), piece).unwrap();
                assert!(decoded == data, "{method}, {} bytes", data.len());
            }
        }
    }
}

#[test]
fn all_members_are_decoded() {
    for method in SUPPORTED {
        if method == Compression::Br {
            continue; // The format has no members.
        }
        let parts = [sample(5000), b"x".to_vec(), sample(70_000)];
        let encoded: Vec<u8> = parts.iter().flat_map(|part| encode(method, part)).collect();
        for piece in [1, 777, usize::MAX] {
            assert!(
                decode(method, &encoded, piece).unwrap() == parts.concat(),
                "{method}"
            );
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let data = sample(700);
    for method in &SUPPORTED[1..] {
        let encoded = encode(*method, &data);
        for length in 0..encoded.len() {
            let result = decode(*method, &encoded[..length], usize::MAX);
            assert!(
                result.is_err(),
                "{method} cut to {length} of {}",
                encoded.len()
            );
        }
    }
}

#[test]
fn every_truncation_of_a_second_member_is_an_error() {
    let data = sample(300);
    for method in &SUPPORTED[1..] {
        let one = encode(*method, &data).len();
        let two = [encode(*method, &data), encode(*method, &data)].concat();
        // To lzip, a part of its four magic bytes is trailing data like any other.
        let ignored = if *method == Compression::Lzip { 3 } else { 0 };
        for length in one + ignored + 1..two.len() {
            assert!(
                decode(*method, &two[..length], 64).is_err(),
                "{method} cut to {length}"
            );
        }
    }
}

#[test]
fn truncation_between_blocks_is_an_error() {
    // Large enough for several blocks, cut where the decoder of the crate sees nothing amiss.
    let mut info = lz4_flex::frame::FrameInfo::new();
    info.block_size = lz4_flex::frame::BlockSize::Max64KB;
    for checksums in [false, true] {
        let info = info
            .clone()
            .block_checksums(checksums)
            .content_checksum(checksums);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&sample(300_000)).unwrap();
        let encoded = encoder.finish().unwrap();
        assert_eq!(
            decode(Compression::Lz4, &encoded, 999).unwrap(),
            sample(300_000)
        );
        let header = 7;
        let first = u32::from_le_bytes(encoded[header..header + 4].try_into().unwrap());
        let block_end = header + 4 + (first & 0x7fff_ffff) as usize + if checksums { 4 } else { 0 };
        assert!(decode(Compression::Lz4, &encoded[..block_end], 999).is_err());
    }
}

#[test]
fn trailing_garbage_is_an_error() {
    for method in &SUPPORTED[1..] {
        let mut encoded = encode(*method, b"hello\n");
        encoded.extend_from_slice(b"garbage!");
        let result = decode(*method, &encoded, usize::MAX);
        // The manual of lzip wants trailing data to be ignored, and liblzma does so.
        assert_eq!(result.is_err(), *method != Compression::Lzip, "{method}");
    }
}

#[test]
fn errors_stay() {
    for method in &SUPPORTED[1..] {
        let mut encoded = encode(*method, &sample(5000));
        encoded.truncate(encoded.len() - 1);
        let mut reader = method.reader(std::io::Cursor::new(encoded)).unwrap();
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
        assert!(reader.read(&mut [0; 10]).is_err(), "{method}");
    }
}

#[test]
fn memory_is_limited() {
    // A zstd frame header that asks for a window of 2^28 bytes.
    let frame = [
        0x28,
        0xb5,
        0x2f,
        0xfd,
        0x00,
        (28 - 10) << 3,
        0x01,
        0x00,
        0x00,
    ];
    assert!(decode(Compression::Zstd, &frame, usize::MAX).is_err());
    let frame = [
        0x28,
        0xb5,
        0x2f,
        0xfd,
        0x00,
        (27 - 10) << 3,
        0x01,
        0x00,
        0x00,
    ];
    assert_eq!(decode(Compression::Zstd, &frame, usize::MAX).unwrap(), b"");
    // An lzip member that asks for a dictionary of 512 MiB.
    let mut member = lzip(b"hello\n");
    member[5] = 29;
    assert!(decode(Compression::Lzip, &member, usize::MAX).is_err());
    // A brotli stream with the large window extension.
    let large = [0x11, 0x1e, 0x03];
    assert!(decode(Compression::Br, &large, usize::MAX).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        magic in 0usize..8,
    ) {
        let method = SUPPORTED[magic];
        let mut input = encode(method, b"");
        input.truncate(6);
        input.extend_from_slice(&bytes);
        let mut reader = method.reader(std::io::Cursor::new(input)).unwrap().take(1 << 20);
        let _ = io::copy(&mut reader, &mut io::sink());
    }
}
