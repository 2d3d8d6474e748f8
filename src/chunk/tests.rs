//! Cuts and names of chunks that states have on disk. All of this is pinned: where another cut or
//! another name comes out, what is fetched from then on shares nothing with what is there.

use super::chunker::MINIMUM;
use super::elf::SECTION_CUT;
use super::mask::PLACEHOLDER;
use super::*;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn text(length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 80);
    let mut line = 0u32;
    while out.len() < length {
        let says = line.wrapping_mul(2_654_435_761) >> 12;
        out.extend_from_slice(format!("line {line} says {says:x} and nothing else\n").as_bytes());
        line += 1;
    }
    out.truncate(length);
    out
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap()
}

/// The lengths and names of the chunks of parts that a boundary lies between.
fn chunks(parts: &[&[u8]]) -> Vec<String> {
    let mut found = Vec::new();
    let mut emit = |chunk: &[u8]| {
        found.push(format!("{} {}", chunk.len(), ChunkDigest::of(chunk)));
        Ok::<_, std::convert::Infallible>(())
    };
    let mut chunker = Chunker::default();
    for part in parts {
        let Ok(()) = chunker.push(part, &mut emit);
        let Ok(()) = chunker.boundary(&mut emit);
    }
    found
}

#[test]
fn the_parameters_are_those_of_the_chunks_on_disk() {
    assert_eq!((MINIMUM, AVERAGE, MAXIMUM), (32_768, 131_072, 262_144));
    assert_eq!((PACK_BELOW, SECTION_CUT), (65_536, 16_384));
    assert_eq!(&PLACEHOLDER, b"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee");
}

#[test]
fn noise_text_and_zeros_have_these_chunks() {
    assert_eq!(
        chunks(&[&noise(1 << 20)]),
        [
            "44750 17a7780627d726889a48a1907222404a0ed1f28a14348a807559396514d42edc",
            "130934 36cfb17e362ad6b21deea762e432181e5870119949f7c8f303ef33b3200624bb",
            "173622 193abb272fbfe1652db0202f16a195cbcab6658c50bc6ca31b820972dd7bea67",
            "43931 caa16614367bb8e520b1fae3b844fce1099be7ac6767b5cab8d6f40319af98c9",
            "138913 ea29ac476f840086816d0fefbbcae1e757d654030a277ea657620be2344ad8ab",
            "262144 7ed203f8207128039fe301e38505b2ba036a78cd97aa37b08d73f77b2a382e1d",
            "79992 1129f37bc11bcd5e3ad7f6fee5760aa58878577dd83722f265713ab879266d86",
            "143486 710c87ccc4e15d22de8e2bfd104e24f7adc00a9586ad16098f93e40d14f422aa",
            "30804 95c28727d081adc28078bb34403a85fb28174589e8f9aca673e9d089bb6ebf0c",
        ]
    );
    assert_eq!(
        chunks(&[&text(1 << 20)]),
        [
            "262144 d114f7363c0dbcf6c3ab05e993da1efddb1bb31da4bf84c4422441ba9642428b",
            "174549 cd9e03b36d87d2919bb4acb299614f113e15237282acbea78acf3c5d514a1b81",
            "141284 40ff6ad3a9fcec8e835a56bf86eab11dd6646c0ed99dabee1487c43dc4b02811",
            "184084 6ce045db337cede4df1a5dd33300ad3301f45049a7851e7b9d14bfcec319e55e",
            "55254 93481e49cb3e2042835518fb1c6647a05c3b40c95b7a61d4a7c3cf14db34f6d3",
            "43254 5a9877efb17116ac546890d8417540dea867d6549b48644d250da7d864b76f82",
            "121629 fdc3713c11a941d3e13daa3cf5df17e9c19e8b7722e49c141fe1c769522519be",
            "66378 60dc72f7dcd838135b7465e403db5739d523adba3b1078b98deafe19d170dd79",
        ]
    );
    assert_eq!(
        chunks(&[&[0; 300_000]]),
        [
            "262144 86bb2b521a10612d5a1d38204fac4fa632466d1866144d8a6a7e3afc050ce7ae",
            "37856 6cde5337b51d84cc22265ecaff5771823c7dd2388fe51f3d7c0c9e0ff9145acf",
        ]
    );
    assert_eq!(
        chunks(&[&noise(40_000)[..20_000], &text(10)]),
        [
            "20000 43e8f693965aac08ba4f99bc86675bdda2366325f73e9d204f10d60e3c329227",
            "10 af8cf685ec3cc6cfe67a0ab459721b354cedf49325fe9e59410177c78f2b9e69",
        ]
    );
}

/// What a file with two references becomes: the masked bytes and where which hash stood.
fn masked(data: &[u8], references: &[StorePath]) -> (Vec<u8>, Vec<Occurrence>) {
    let mut table = ReferenceTable::new(references);
    let (mut bytes, mut found) = (data.to_vec(), Vec::new());
    Masker::whole(&mut bytes, 1000, &mut table, &mut found);
    (bytes, found)
}

fn with_hashes(mut data: Vec<u8>, references: &[StorePath]) -> Vec<u8> {
    for (at, reference) in [(70_000, 0), (140_000, 1), (140_032, 0)] {
        let hash = references[reference].hash().to_ascii();
        data[at..at + HASH_LEN].copy_from_slice(&hash);
    }
    data
}

#[test]
fn masked_text_has_these_chunks_whatever_the_hashes_are() {
    let builds = [
        [path(1, "library"), path(2, "bash")],
        [path(250, "library"), path(3, "bash")],
    ];
    for references in builds {
        let data = with_hashes(text(500_000), &references);
        let (bytes, found) = masked(&data, &references);
        let found: Vec<_> = found.iter().map(|o| (o.offset, o.reference)).collect();
        // By their names, so that `bash` is the first.
        assert_eq!(found, [(71_000, 1), (141_000, 0), (141_032, 1)]);
        assert_eq!(
            chunks(&[&bytes]),
            [
                "262144 77622775b020f33b947635defc3e842a2905f15d68b7c2f1020801ebb1cfe166",
                "174549 cd9e03b36d87d2919bb4acb299614f113e15237282acbea78acf3c5d514a1b81",
                "63307 c15c307a222d421ce603eab785af1ed465c89519797593ee7a983696a32cce9f",
            ]
        );
    }
}

/// A 64-bit ELF file of 400,000 bytes with these sections: kind, offset, length.
fn elf(sections: &[(u32, u64, u64)]) -> Vec<u8> {
    let mut file = noise(400_000);
    let table = file.len() - 64 * sections.len();
    file[..64].fill(0);
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    for (header, (kind, offset, length)) in file[table..].chunks_exact_mut(64).zip(sections) {
        header.fill(0);
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&length.to_le_bytes());
    }
    file
}

#[test]
fn a_program_with_references_is_cut_at_its_sections_into_these_chunks() {
    let references = [path(1, "library"), path(2, "bash")];
    let sections = [
        (1, 4096, 16_384),
        (1, 25_000, 16_383),
        (1, 50_000, 250_000),
        (8, 60_000, 1 << 40),
    ];
    let file = with_hashes(elf(&sections), &references);
    let cuts = section_cuts(file.len() as u64, |at, out| {
        let at = at as usize;
        out.copy_from_slice(file.get(at..at + out.len())?);
        Some(())
    });
    assert_eq!(cuts, [4096, 20_480, 50_000, 300_000]);
    let (bytes, _) = masked(&file, &references);
    let mut parts = Vec::new();
    let mut rest = bytes.as_slice();
    for pair in [0].iter().chain(&cuts).zip(&cuts) {
        let (part, after) = rest.split_at((pair.1 - pair.0) as usize);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    assert_eq!(
        chunks(&parts),
        [
            "4096 7f52aff07edd51a1ef7e2d21b820b28ade4740ab0caac0b255d6eec60ca53a39",
            "16384 136b508af4220ec52b70249133ababe6279fd4224181988d3dd6587db4017d55",
            "29520 a710244d679a87f8ef13b2c454ee96cc8c8e8e0817cb35ea8a0df8d06f527b5c",
            "125684 d2e3cc37a5c836e8b4c32a24ba09f8a298bced15934c6aa130c472b9b0c6ad59",
            "124316 9ab4c23cacb2c9a4ff38378a50d2b8cac9a9469b1f26ce4ef3e4771074d833d1",
            "93237 af84004a063c9702cdbf4556239b6a0cc6d7da9210c6906b63c6f71cb07a36bb",
            "6763 90527c9ea7ed96cf5cc803ddd34f6d304a7be038b2b5018a03a9fb3fb4628d0c",
        ]
    );
}

#[test]
fn records_on_disk_are_read() {
    let raw = b"\0\0\0\0\x05\0\0\0hello";
    let record = ChunkRecord::parse(raw).unwrap();
    let hello = ChunkHash::of(b"hello");
    assert_eq!(record.decode(&hello.digest).unwrap(), b"hello");
    let zstd = b"\x01\0\0\0\xe8\x03\0\0\
        \x28\xb5\x2f\xfd\0\0\x4d\0\0\x10\x78\x78\x01\0\xe3\x2b\x80\x05";
    let record = ChunkRecord::parse(zstd).unwrap();
    let digest = ChunkDigest::of(&[b'x'; 1000]);
    assert_eq!(record.decode(&digest).unwrap(), [b'x'; 1000]);
    // What incompressible bytes become is no matter of zstd's.
    let mut encoder = Encoder::new().unwrap();
    assert_eq!(encoder.encode(&hello, b"hello").unwrap(), raw);
}

/// One record with two frames of zstd, as an earlier version may have written it: a block that repeats a
/// byte for each part, which has 65,536 bytes or, at the end, 5.
#[test]
fn records_in_frames_on_disk_are_read() {
    let frame = |blocks: &[&[u8]]| [&b"\x28\xb5\x2f\xfd\0\x30"[..], &blocks.concat()].concat();
    let chunk = [vec![b'a'; 65_536], vec![b'b'; 65_536], vec![b'c'; 5]].concat();
    let first = frame(&[b"\x02\0\x08a", b"\x03\0\x08b"]);
    let second = b"ccccc";
    let mut record = b"\x02\0\0\0\x05\0\x02\0\x02\x0e\0\0\0\x05\0\0\0".to_vec();
    for value in [
        "b1e63595da20632c9aa43ac9da56281ebd35927c90d7e2f5b29cb99c6bd57240",
        "ce650a4a1a0532c7f24c9b595a79bc8771fd4ae63827aa1a5e1a4f1e59348ea7",
        "d7e56f8f798ee9bf917371a6ce6cb814a74cbb0ca3d60942ed7dcd0bf69cd126",
    ] {
        record.extend_from_slice(&data_encoding::HEXLOWER.decode(value.as_bytes()).unwrap());
    }
    record.extend_from_slice(&first);
    record.extend_from_slice(second);
    let digest = ChunkDigest::of(&chunk);
    let parsed = ChunkRecord::parse(&record).unwrap();
    assert_eq!((parsed.codec(), parsed.length()), ("zstd frames", 131_077));
    assert_eq!(parsed.frame_length(), Some(131_072));
    assert!(parsed.decode(&digest).unwrap() == chunk);
    assert!(parsed.decode_frame(0, 9, &digest).unwrap() == chunk[..65_536]);
    assert!(parsed.decode_frame(0, 65_537, &digest).unwrap() == chunk[..131_072]);
    assert_eq!(parsed.decode_frame(1, 1, &digest).unwrap(), second);
}
