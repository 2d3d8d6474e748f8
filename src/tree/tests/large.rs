//! A tree in a temporary file answers as the same tree in memory does.

use std::ops::Range;

use super::*;

fn large(tree: &Tree) -> Result<LargeTree, TreeError> {
    let bytes = tree.bytes();
    LargeTree::unpack(bytes, bytes.len(), &tree.digest(), &std::env::temp_dir())
}

/// Asks both the same.
fn compare(unpacked: &Unpacked, chunks: &Memory) {
    let (tree, table) = (&unpacked.tree, table(unpacked));
    let large = large(tree).unwrap();
    assert_eq!(large.node_count(), tree.len());
    assert_eq!(large.chunk_count(), tree.chunks().len());
    for index in 0..tree.len() {
        let node = tree.node(index).unwrap();
        assert_eq!(large.kind(index).unwrap(), Some(node.kind));
        assert_eq!(large.name(index).unwrap(), node.name);
        let parent = large.parent(index).unwrap();
        assert_eq!(parent, tree.parent(index));
        assert_eq!(
            large.target(index, &table).unwrap(),
            tree.target(index, &table)
        );
        if index > 0 {
            assert_eq!(large.lookup(parent, node.name).unwrap(), Some(index));
        }
        assert_eq!(
            large.lookup(index, b"\x7f").unwrap(),
            tree.lookup(index, b"\x7f")
        );
    }
    assert_eq!(large.kind(tree.len()).unwrap(), None);
    let end = tree.stream_length();
    for (from, length) in [
        (0, end),
        (0, u64::MAX),
        (end / 3, end / 2),
        (end, 1),
        (end + 9, 7),
    ] {
        // In pieces that do not begin where a reader begins.
        let fetch = |_: usize, e: &ChunkEntry, wanted: Range<usize>| {
            let begin = wanted.start / 1000 * 1000;
            let chunk = &chunks.0[&e.digest];
            Ok::<_, TreeError>((begin, &chunk[begin..chunk.len().min(begin + 1000)]))
        };
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let read = large.read(from, length, &table, fetch, |bytes| {
            here.extend_from_slice(bytes);
            Ok(())
        });
        read.unwrap();
        let read = tree.read(from, length, &table, fetch, |bytes| {
            there.extend_from_slice(bytes);
            Ok(())
        });
        read.unwrap();
        assert!(here == there, "{from}..+{length}");
        let to = from.saturating_add(length);
        assert_eq!(
            large.chunks_in(from, to).unwrap(),
            tree.chunks_in(from, to),
            "{from}..+{length}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_answers_the_same(made in anything()) {
        let mut chunks = Memory::default();
        let unpacked = unpack(&nar(&made), &[path(1, "a"), path(2, "b")], &mut chunks);
        compare(&unpacked, &chunks);
    }
}

/// A directory of so many links, each with a hash in its target, and one of as many files.
fn many(reference: &StorePath, count: usize) -> Made {
    let links = (0..count).map(|n| {
        let target = format!("/nix/store/{reference}/share/{n}");
        (
            format!("link-{n:06}").into_bytes(),
            Made::Link(target.into()),
        )
    });
    let files = (0..count).map(|n| {
        let contents = format!("{n} is of /nix/store/{reference}\n");
        (
            format!("file-{n:06}").into_bytes(),
            Made::File(false, contents.into()),
        )
    });
    directory([
        ("files", Made::Directory(files.collect())),
        ("links", Made::Directory(links.collect())),
        ("nothing", directory([])),
    ])
}

#[test]
fn a_tree_of_many_pieces_answers_the_same() {
    let reference = path(1, "a");
    let mut chunks = Memory::default();
    let bytes = nar(&many(&reference, 3000));
    compare(&unpack(&bytes, &[reference], &mut chunks), &chunks);
}

#[test]
fn a_question_reads_few_pieces_however_large_the_tree_is() {
    let reference = path(1, "a");
    let mut chunks = Memory::default();
    let unpacked = unpack(&nar(&many(&reference, 20_000)), &[reference], &mut chunks);
    let (tree, table) = (large(&unpacked.tree).unwrap(), table(&unpacked));
    let links = tree.lookup(0, b"links").unwrap().unwrap();
    for n in 0..50 {
        let before = tree.reads();
        let name = format!("link-{:06}", n * 7919 % 20_000);
        let link = tree.lookup(links, name.as_bytes()).unwrap().unwrap();
        assert!(tree.target(link, &table).unwrap().is_some());
        // A binary search ends in one piece of nodes and one of names; what it begins with stays in
        // memory.
        let (reads, most) = (tree.reads() - before, if n == 0 { 24 } else { 16 });
        assert!(reads <= most, "{reads} pieces for one link");
    }
    assert!(tree.weight() < unpacked.tree.weight() / 4);
}

#[test]
fn what_is_not_what_was_written_is_never_an_answer() {
    let reference = path(1, "a");
    let unpacked = unpack(
        &nar(&many(&reference, 3000)),
        &[reference],
        &mut Memory::default(),
    );
    let tree = large(&unpacked.tree).unwrap();
    assert!(tree.kind(0).is_ok());
    tree.damage();
    assert!(matches!(tree.kind(0), Err(TreeError::Changed)));
    assert!(matches!(tree.lookup(0, b"links"), Err(TreeError::Changed)));
    // Nor are other bytes than the digest names.
    let (mut bytes, digest) = (unpacked.tree.bytes().to_vec(), unpacked.tree.digest());
    bytes[100] ^= 1;
    let other = LargeTree::unpack(&bytes[..], bytes.len(), &digest, &std::env::temp_dir());
    assert!(matches!(other, Err(TreeError::Malformed(_))));
}
