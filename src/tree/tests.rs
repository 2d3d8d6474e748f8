//! NAR → tree and chunks → NAR, without a database.

mod large;

use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::builder::Place;
use super::*;
use crate::chunk::{ChunkDigest, ChunkHash, HASH_LEN, MAXIMUM, PACK_BELOW};
use crate::nix::nar::Writer;
use crate::nix::store_path::{StorePath, StorePathHash};

#[derive(Default)]
struct Memory(HashMap<ChunkDigest, Vec<u8>>);

impl ChunkSink for Memory {
    type Error = Infallible;

    fn put(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(), Infallible> {
        assert!(!chunk.is_empty() && chunk.len() <= MAXIMUM);
        self.0.insert(hash.digest, chunk.to_vec());
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Made {
    File(bool, Vec<u8>),
    Link(Vec<u8>),
    Directory(std::collections::BTreeMap<Vec<u8>, Made>),
}

fn write(made: &Made, out: &mut Writer<&mut Vec<u8>>) {
    match made {
        Made::File(executable, data) => {
            out.regular(*executable, data.len() as u64).unwrap();
            out.contents(data).unwrap();
        }
        Made::Link(target) => out.symlink(target).unwrap(),
        Made::Directory(entries) => {
            out.directory().unwrap();
            for (name, child) in entries {
                out.entry(name).unwrap();
                write(child, out);
            }
            out.end_directory().unwrap();
        }
    }
}

fn nar(made: &Made) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    write(made, &mut writer);
    writer.finish().unwrap();
    bytes
}

fn unpack(nar: &[u8], references: &[StorePath], sink: &mut Memory) -> Unpacked {
    let dir = std::env::temp_dir();
    Unpacker::new(sink, references, &dir).unpack(nar).unwrap()
}

fn table(unpacked: &Unpacked) -> Vec<[u8; HASH_LEN]> {
    let references = unpacked.references.iter();
    references.map(|r| r.hash().to_ascii()).collect()
}

fn dump(unpacked: &Unpacked, chunks: &Memory) -> Vec<u8> {
    let mut out = Vec::new();
    let fetch = |_: usize, e: &ChunkEntry| Ok::<_, Infallible>(chunks.0[&e.digest].as_slice());
    dump_nar(&unpacked.tree, 0, &table(unpacked), fetch, &mut out).unwrap();
    out
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap()
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new_derive_key("test")
        .update(&[seed])
        .finalize_xof()
        .fill(&mut out);
    out
}

fn directory<const N: usize>(entries: [(&str, Made); N]) -> Made {
    Made::Directory(entries.map(|(n, m)| (n.as_bytes().to_vec(), m)).into())
}

/// A package whose contents, targets and large files contain its references.
fn package(references: &[StorePath]) -> Made {
    let text = |r: &StorePath| format!("/nix/store/{r}/bin/x").into_bytes();
    let mut large = noise(1, 300_000);
    large.extend(text(&references[0]));
    large.extend(noise(2, 200_000));
    directory([
        (
            "bin",
            directory([
                ("a", Made::File(true, text(&references[1]))),
                ("b", Made::Link(text(&references[0]))),
                ("empty", Made::File(false, vec![])),
            ]),
        ),
        ("large", Made::File(false, large)),
        ("lib", directory([])),
        ("own", Made::File(false, text(&references[2]))),
    ])
}

#[test]
fn a_rebuild_shares_every_chunk_and_the_tree() {
    let old = [path(1, "glibc"), path(2, "bash"), path(3, "own")];
    let new = [path(11, "glibc"), path(5, "bash"), path(4, "own")];
    let (a, b) = (nar(&package(&old)), nar(&package(&new)));
    assert_ne!(a, b);
    let mut chunks = Memory::default();
    let first = unpack(&a, &old, &mut chunks);
    let kept = chunks.0.len();
    let second = unpack(&b, &new, &mut chunks);
    assert_eq!(chunks.0.len(), kept, "the rebuild added a chunk");
    assert_eq!(first.tree.digest(), second.tree.digest());
    assert_eq!(dump(&first, &chunks), a);
    assert_eq!(dump(&second, &chunks), b);
}

#[test]
fn large_programs_come_back_from_memory_and_from_the_spool() {
    for length in [PACK_BELOW as usize, 1 << 20, 33 << 20] {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.extend(noise(3, length));
        let reference = path(7, "dep");
        let at = elf.len() - 40;
        elf[at..at + 32].copy_from_slice(&reference.hash().to_ascii());
        let bytes = nar(&Made::File(true, elf));
        let mut chunks = Memory::default();
        let unpacked = unpack(&bytes, &[reference], &mut chunks);
        assert!(dump(&unpacked, &chunks) == bytes, "{length}");
    }
}

#[test]
fn small_files_share_chunks_and_nodes_are_found() {
    let files = (0..200).map(|i| {
        let name = format!("{i:03}").into_bytes();
        (name, Made::File(false, noise(i, 2000)))
    });
    let made = directory([
        ("d", Made::Directory(files.collect())),
        ("z", Made::Link(b"d".into())),
    ]);
    let bytes = nar(&made);
    let mut chunks = Memory::default();
    let tree = unpack(&bytes, &[], &mut chunks).tree;
    assert!(chunks.0.len() <= 12, "{} chunks for 400 kB", chunks.0.len());
    let d = tree.lookup(0, b"d").unwrap();
    let file = tree.lookup(d, b"117").unwrap();
    assert_eq!(
        (tree.parent(file), tree.parent(d), tree.parent(0)),
        (d, 0, 0)
    );
    assert_eq!(tree.lookup(d, b"200"), None);
    assert_eq!(tree.lookup(file, b"x"), None);
    assert!(matches!(
        tree.node(0).unwrap().kind,
        NodeKind::Directory {
            count: 2,
            subdirectories: 1,
            ..
        }
    ));
    assert_eq!(nar_size(&tree), bytes.len() as u64);
}

fn anything() -> impl Strategy<Value = Made> {
    let text = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        (any::<u8>(), 0usize..150_000).prop_map(|(s, n)| noise(s, n)),
        Just(path(1, "a").hash().to_ascii().to_vec()),
    ];
    let target = prop::collection::vec(1u8.., 1..60);
    let leaf = prop_oneof![
        (any::<bool>(), text).prop_map(|(x, t)| Made::File(x, t)),
        target.prop_map(Made::Link),
        Just(Made::Link(path(2, "b").hash().to_ascii().to_vec())),
    ];
    leaf.prop_recursive(5, 40, 8, |inner| {
        let name = prop_oneof!["[a-c]{1,3}", "[\\x01-\\x2e\\x30-\\xff]{1,20}"];
        let name = name.prop_map(String::into_bytes);
        let name = name.prop_filter("legal", |n| n != b"." && n != b"..");
        prop::collection::btree_map(name, inner, 0..8).prop_map(Made::Directory)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_nar_that_comes_out_is_the_one_that_went_in(made in anything()) {
        let bytes = nar(&made);
        let mut chunks = Memory::default();
        let unpacked = unpack(&bytes, &[path(1, "a"), path(2, "b")], &mut chunks);
        prop_assert!(dump(&unpacked, &chunks) == bytes);
        prop_assert_eq!(nar_size(&unpacked.tree), bytes.len() as u64);
        let again = Tree::parse(unpacked.tree.bytes().to_vec()).unwrap();
        prop_assert_eq!(again.digest(), unpacked.tree.digest());
    }

    #[test]
    fn damaged_trees_are_refused_or_harmless(
        made in anything(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut chunks = Memory::default();
        let unpacked = unpack(&nar(&made), &[path(1, "a"), path(2, "b")], &mut chunks);
        let mut bytes = unpacked.tree.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(tree) = Tree::parse(bytes) {
            for node in 0..tree.len() {
                tree.parent(node);
                tree.target(node, &[]);
                tree.lookup(node, b"x");
            }
        }
    }
}

fn small(references: &[StorePath; 2]) -> Vec<u8> {
    let [library, bash] = references;
    nar(&directory([
        (
            "bin",
            directory([(
                "x",
                Made::File(true, format!("#!/nix/store/{bash}/bin/sh\n").into()),
            )]),
        ),
        ("empty", Made::File(false, vec![])),
        (
            "lib",
            Made::Link(format!("/nix/store/{library}/lib").into()),
        ),
        ("note", Made::File(false, b"hello\n".into())),
    ]))
}

/// What states have on disk, field by field.
const SMALL: &[&str] = &[
    // "narfstre"
    "6e61726673747265",
    // version
    "01000000",
    // nodes
    "06000000",
    // chunks
    "01000000",
    // references
    "02000000",
    // length of the names
    "10000000",
    // of the targets
    "37000000",
    // of the side list of the contents
    "02000000",
    // of that of the targets
    "02000000",
    // /
    "000000000000000001000000040000000100000000000000",
    // /bin
    "000000000300000005000000010000000000000000000000",
    // /empty
    "030000000501000000000000000000000000000000000000",
    // /lib
    "080000000303370000000000000000000000000000000000",
    // /note
    "0b000000040100003a000000000000000600000000000000",
    // /bin/x
    "0f0000000102000000000000000000003a00000000000000",
    // the chunk: its length
    "40000000",
    // and its digest, of what has no hashes in it
    "2b66e6a5db8c5c42e4704089e33783b645071942ad0899762d16b6e00e4512c1",
    // "binemptylibnotex"
    "62696e656d7074796c69626e6f746578",
    // "/nix/store/eee…eee-library/lib"
    "2f6e69782f73746f72652f6565656565656565656565656565656565656565656565\
     6565656565656565652d6c6962726172792f6c6962",
    // 13 bytes after the beginning `bash`
    "0d00",
    // 11 bytes after the beginning `library`
    "0b01",
];

#[test]
fn a_small_nar_has_this_tree_and_no_other() {
    for seeds in [(1, 2), (250, 3)] {
        let references = [path(seeds.0, "library"), path(seeds.1, "bash")];
        let bytes = small(&references);
        let mut chunks = Memory::default();
        let unpacked = unpack(&bytes, &references, &mut chunks);
        let encoded = data_encoding::HEXLOWER.encode(unpacked.tree.bytes());
        assert_eq!(encoded, SMALL.concat());
        assert_eq!(
            unpacked.tree.digest().to_string(),
            "af5856c4e02cfbf8408077a6b1ad2961619753bd00bdd646893687b39c0d9e25"
        );
        // Sorted by name, as numbered in the tree.
        assert_eq!(
            unpacked.references,
            [references[1].clone(), references[0].clone()]
        );
    }
    // The stored encoding is readable whatever the writer does.
    let on_disk = data_encoding::HEXLOWER.decode(SMALL.concat().as_bytes());
    let tree = Tree::parse(on_disk.unwrap()).unwrap();
    let x = tree.lookup(tree.lookup(0, b"bin").unwrap(), b"x").unwrap();
    let kind = NodeKind::File {
        executable: true,
        offset: 0,
        size: 58,
    };
    assert_eq!(tree.node(x).unwrap().kind, kind);
    let table = [path(9, "bash"), path(8, "library")].map(|p| p.hash().to_ascii());
    let link = tree.lookup(0, b"lib").unwrap();
    let target = format!("/nix/store/{}/lib", path(8, "library"));
    assert_eq!(tree.target(link, &table).unwrap(), target.as_bytes());
}

/// The encoding that the builder gives what a tree has.
fn built_again(tree: &Tree) -> Vec<u8> {
    fn add(tree: &Tree, index: NodeIndex, builder: &mut TreeBuilder) {
        match tree.node(index).unwrap().kind {
            NodeKind::Directory { first, count, .. } => {
                builder.directory().unwrap();
                for child in first..first + count {
                    builder.entry(tree.node(child).unwrap().name).unwrap();
                    add(tree, child, builder);
                }
                builder.end_directory().unwrap();
            }
            NodeKind::File {
                executable,
                offset,
                size,
            } => builder.file(executable, size, Place::Run(offset)).unwrap(),
            NodeKind::Link { .. } => builder.link(&tree.target(index, &[]).unwrap()).unwrap(),
        }
    }
    let mut builder = TreeBuilder::new();
    add(tree, 0, &mut builder);
    let chunks: Vec<_> = tree.chunks().map(|c| (c.length, c.digest)).collect();
    let (contents, targets) = (tree.content_masks(), tree.target_masks());
    let built = builder.finish(&chunks, 0, tree.references(), contents, targets);
    built.unwrap().bytes().to_vec()
}

#[test]
fn what_is_read_is_the_only_encoding_of_its_tree() {
    let references = [path(1, "glibc"), path(2, "bash"), path(3, "own")];
    let mut chunks = Memory::default();
    let large = unpack(&nar(&package(&references)), &references, &mut chunks);
    let two = [references[0].clone(), references[1].clone()];
    let small = unpack(&small(&two), &two, &mut chunks);
    for tree in [large.tree, small.tree] {
        let bytes = tree.bytes();
        assert_eq!(built_again(&tree), bytes);
        let mut refused = 0;
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            match Tree::parse(forged.clone()) {
                Ok(tree) => assert_eq!(built_again(&tree), forged, "bit {bit}"),
                Err(_) => refused += 1,
            }
        }
        assert!(
            refused > bytes.len() * 2,
            "{refused} of {}",
            bytes.len() * 8
        );
    }
}

#[test]
fn a_forged_tree_is_refused() {
    let good = data_encoding::HEXLOWER.decode(SMALL.concat().as_bytes());
    let good = good.unwrap();
    let (node, names, targets) = (|n: usize| 40 + 24 * n, 220, 236);
    for (at, bytes, why) in [
        (names + 8, &b"bin"[..], "two of one name"),
        (names + 15, b".", "a name that is the directory itself"),
        (names + 15, b"/", "a slash in a name"),
        (names + 15, b"\0", "a NUL in a name"),
        (node(5), b"\x0e", "a name of another node"),
        (node(5) + 5, b"\x04", "an unknown kind"),
        (node(1) + 20, b"\x01", "more directories than can be"),
        (node(2) + 6, b"\x01", "a target of a file"),
        (node(2) + 8, b"\x01", "a place of an empty file"),
        (node(3) + 16, b"\x01", "a size of a link"),
        (node(3) + 8, b"\x01", "a part of a target"),
        (node(4) + 8, b"\x00", "bytes of another file"),
        (node(4) + 16, b"\x05", "bytes that no file has"),
        (targets + 3, b"\0", "a NUL in a target"),
    ] {
        let mut forged = good.clone();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        assert_ne!(forged, good, "{why}");
        assert!(Tree::parse(forged).is_err(), "{why}");
    }
}

#[test]
fn directories_lie_as_deep_in_each_other_as_a_nar_has_them() {
    let build = |depth: usize| {
        let mut builder = TreeBuilder::new();
        builder.directory().unwrap();
        for _ in 1..depth {
            builder.entry(b"d").unwrap();
            builder.directory().unwrap();
        }
        (0..depth).for_each(|_| builder.end_directory().unwrap());
        builder.finish(&[], 0, 0, &[], &[]).is_ok()
    };
    let most = crate::nix::nar::MAX_DEPTH;
    assert!(build(most) && !build(most + 1));
}

/// A program with a section of 100,000 bytes, and one too small for a cut point.
fn program(reference: &StorePath) -> Made {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[40..48].copy_from_slice(&150_000u64.to_le_bytes());
    elf[58..62].copy_from_slice(&[64, 0, 2, 0]);
    elf.extend((64..150_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8));
    elf[90_000..90_032].copy_from_slice(&reference.hash().to_ascii());
    for (offset, length) in [(4096u64, 100_000u64), (110_000, 16_000)] {
        let mut header = [0; 64];
        header[4] = 1;
        header[24..32].copy_from_slice(&offset.to_le_bytes());
        header[32..40].copy_from_slice(&length.to_le_bytes());
        elf.extend(header);
    }
    Made::File(true, elf)
}

#[test]
fn larger_nars_have_these_trees_and_chunks() {
    let references = [path(1, "glibc"), path(2, "bash"), path(3, "own")];
    let files = (0..200).map(|i| {
        let name = format!("{i:03}").into_bytes();
        (name, Made::File(false, noise(i, 2000)))
    });
    for (made, tree, lengths) in [
        (
            package(&references),
            "2ca28955200f779e0fc142d6f2ffa553c155531078af62da837ad99f89f4070f",
            &[107, 58069, 76965, 262144, 102877][..],
        ),
        (
            program(&references[0]),
            "553e99be5b9c503c9395985b3ec95bae01eb3ad717225f558ee7eb48e8700c30",
            &[4096, 100000, 46032],
        ),
        (
            Made::Directory(files.collect()),
            "9dc7da1984f26c19e691d6b11c8f9f149ec78290f6796c17dd496fecbfae2f70",
            &[68179, 69651, 157747, 104423],
        ),
    ] {
        let unpacked = unpack(&nar(&made), &references, &mut Memory::default());
        let found: Vec<_> = unpacked.tree.chunks().map(|c| c.length).collect();
        assert_eq!(
            (unpacked.tree.digest().to_string().as_str(), &found[..]),
            (tree, lengths)
        );
    }
}
