//! A NAR that is unpacked comes out as it went in; bytes that claim to be a tree are refused or
//! can be walked whole.

use std::collections::HashMap;
use std::convert::Infallible;

use crate::chunk::{ChunkDigest, ChunkHash};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{ChunkEntry, ChunkSink, Tree, Unpacker, dump_nar, nar_size};

#[derive(Default)]
struct Memory(HashMap<ChunkDigest, Vec<u8>>);

impl ChunkSink for Memory {
    type Error = Infallible;

    fn put(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(), Infallible> {
        self.0.insert(hash.digest, chunk.to_vec());
        Ok(())
    }
}

fn round_trip(nar: &[u8]) {
    // Hash parts of one digit, so that the fuzzer finds them in contents and targets.
    let references =
        [0u8, 0x21].map(|b| StorePath::new(StorePathHash::from_bytes([b; 20]), "a").unwrap());
    let mut chunks = Memory::default();
    let unpacker = Unpacker::new(&mut chunks, &references, std::path::Path::new("/tmp"));
    let Ok(unpacked) = unpacker.unpack(nar) else {
        return;
    };
    let table = unpacked.references.iter().map(|r| r.hash().to_ascii());
    let table: Vec<_> = table.collect();
    let fetch = |_: usize, e: &ChunkEntry| Ok::<_, Infallible>(chunks.0[&e.digest].as_slice());
    let mut out = Vec::new();
    dump_nar(&unpacked.tree, 0, &table, fetch, &mut out).unwrap();
    assert_eq!(out, nar);
    assert_eq!(nar_size(&unpacked.tree), nar.len() as u64);
    walk(unpacked.tree.bytes());
}

fn walk(bytes: &[u8]) {
    let Ok(tree) = Tree::parse(bytes.to_vec()) else {
        return;
    };
    for index in 0..tree.len() {
        let node = tree.node(index).unwrap();
        let parent = tree.parent(index);
        if index > 0 {
            assert_eq!(tree.lookup(parent, node.name), Some(index));
        }
        tree.target(index, &[]);
    }
}

pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, tree)) => walk(tree),
        Some((_, nar)) => round_trip(nar),
        None => {}
    }
}
