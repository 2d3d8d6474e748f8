//! Packages in memory, written down as lines, for tests.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::rc::Rc;

use super::{Directory, Entry, Package, PackageSource};
use crate::chunk::{ChunkDigest, ChunkHash, HASH_LEN};
use crate::nix::nar::Writer;
use crate::nix::store_path::{StoreDir, StorePath, StorePathHash};
use crate::tree::{ChunkSink, NodeIndex, NodeKind, Tree, Unpacker};

/// Chunks in memory.
#[derive(Default)]
pub(super) struct Chunks(pub(super) HashMap<ChunkDigest, Vec<u8>>);

impl ChunkSink for Chunks {
    type Error = Infallible;

    fn put(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(), Infallible> {
        self.0.insert(hash.digest, chunk.to_vec());
        Ok(())
    }
}

/// A store path in memory.
pub(super) struct InMemory {
    path: StorePath,
    tree: Tree,
    table: Vec<[u8; HASH_LEN]>,
}

/// A store in memory.
pub(super) struct Memory {
    pub(super) store_dir: StoreDir,
    packages: Vec<Rc<InMemory>>,
    chunks: Chunks,
    /// How often each path was looked up.
    pub(super) lookups: RefCell<BTreeMap<String, usize>>,
}

enum Made {
    File(Vec<u8>),
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Made>),
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            store_dir: StoreDir::parse("/nix/store").unwrap(),
            packages: Vec::new(),
            chunks: Chunks::default(),
            lookups: RefCell::default(),
        }
    }

    /// Stores `name`, whose path sorts after those before. Each line is a file (`bin/x`, or with
    /// contents `bin/x = text`), a link (`bin/x -> target`) or a directory (`empty/`); the line
    /// `= text` makes the path itself a file, `-> target` a link. `@name@` stands for the path of
    /// another package.
    pub(super) fn add(&mut self, name: &str, lines: &[&str]) -> StorePath {
        let seed = u8::try_from(self.packages.len() + 1).unwrap();
        let path = StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap();
        let mut root = Made::Directory(BTreeMap::new());
        for line in lines {
            let line = self.fill_in(line);
            let (place, made) = if let Some((place, target)) = line.split_once("-> ") {
                (place.trim(), Made::Link(target.into()))
            } else if let Some((place, contents)) = line.split_once("= ") {
                (place.trim(), Made::File(contents.into()))
            } else if let Some(place) = line.strip_suffix('/') {
                (place, Made::Directory(BTreeMap::new()))
            } else {
                (line.as_str(), Made::File(b"contents".to_vec()))
            };
            *root.place(place) = made;
        }
        let mut nar = Vec::new();
        let mut writer = Writer::new(&mut nar);
        root.write(&mut writer);
        writer.finish().unwrap();
        let mut references: Vec<StorePath> = self.packages.iter().map(|p| p.path.clone()).collect();
        references.push(path.clone());
        let unpacker = Unpacker::new(&mut self.chunks, &references, &std::env::temp_dir());
        let unpacked = unpacker.unpack(nar.as_slice()).unwrap();
        self.packages.push(Rc::new(InMemory {
            path: path.clone(),
            tree: unpacked.tree,
            table: unpacked
                .references
                .iter()
                .map(|r| r.hash().to_ascii())
                .collect(),
        }));
        path
    }

    /// The path of a package that was added before.
    pub(super) fn path(&self, name: &str) -> StorePath {
        let mut paths = self.packages.iter().map(|p| &p.path);
        paths
            .find(|p| p.name() == name)
            .unwrap_or_else(|| panic!("no package {name}"))
            .clone()
    }

    pub(super) fn full(&self, name: &str) -> String {
        self.path(name).to_full(&self.store_dir)
    }

    pub(super) fn package(&self, name: &str, priority: i64) -> Package {
        Package {
            path: self.path(name),
            active: true,
            priority,
        }
    }

    /// Replaces each `@name@` by the path of that package.
    pub(super) fn fill_in(&self, text: &str) -> String {
        let mut pieces = text.split('@');
        let mut filled = pieces.next().unwrap().to_owned();
        while let Some(name) = pieces.next() {
            filled += &self.full(name);
            filled += pieces.next().unwrap();
        }
        filled
    }

    /// A forest as lines: `bin/` for a directory, `bin/foo -> foo/bin/foo` for a link, where a
    /// store path has its name only.
    pub(super) fn lines(&self, root: &Directory) -> Vec<String> {
        let mut lines = Vec::new();
        self.append_lines(root, "", &mut lines);
        lines
    }

    fn append_lines(&self, directory: &Directory, above: &str, lines: &mut Vec<String>) {
        for (name, entry) in directory.iter() {
            let name = format!("{above}{}", String::from_utf8_lossy(name));
            match entry {
                Entry::Directory(below) => {
                    lines.push(format!("{name}/"));
                    self.append_lines(below, &format!("{name}/"), lines);
                }
                Entry::Link(target) => {
                    let mut target = String::from_utf8_lossy(target).into_owned();
                    for package in &self.packages {
                        let full = package.path.to_full(&self.store_dir);
                        target = target.replace(&full, package.path.name());
                    }
                    lines.push(format!("{name} -> {target}"));
                }
            }
        }
    }
}

impl Made {
    fn place(&mut self, path: &str) -> &mut Self {
        if path.is_empty() {
            return self;
        }
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let Self::Directory(entries) = self else {
            panic!("{path} lies below a file");
        };
        let entry = entries
            .entry(name.into())
            .or_insert(Self::Directory(BTreeMap::new()));
        entry.place(rest)
    }

    fn write(&self, out: &mut Writer<&mut Vec<u8>>) {
        match self {
            Self::Link(target) => out.symlink(target).unwrap(),
            Self::File(contents) => {
                out.regular(false, contents.len() as u64).unwrap();
                out.contents(contents).unwrap();
            }
            Self::Directory(entries) => {
                out.directory().unwrap();
                for (name, made) in entries {
                    out.entry(name).unwrap();
                    made.write(out);
                }
                out.end_directory().unwrap();
            }
        }
    }
}

impl PackageSource for Memory {
    type Package = Rc<InMemory>;
    type Error = Infallible;

    fn find(&self, path: &StorePath) -> Result<Option<Rc<InMemory>>, Infallible> {
        *self
            .lookups
            .borrow_mut()
            .entry(path.to_string())
            .or_default() += 1;
        Ok(self.packages.iter().find(|p| p.path == *path).cloned())
    }

    fn tree<'p>(&self, package: &'p Rc<InMemory>) -> &'p Tree {
        &package.tree
    }

    fn target(&self, package: &Rc<InMemory>, link: NodeIndex) -> Option<Vec<u8>> {
        package.tree.target(link, &package.table)
    }

    fn read(&self, package: &Rc<InMemory>, file: NodeIndex) -> Result<Vec<u8>, Infallible> {
        let InMemory { tree, table, .. } = &**package;
        let Some(NodeKind::File { offset, size, .. }) = tree.node(file).map(|n| n.kind) else {
            panic!("not a file");
        };
        let mut contents = Vec::new();
        tree.read(
            offset,
            size,
            table,
            |_, entry, _| Ok::<_, Infallible>((0, &self.chunks.0[&entry.digest])),
            |bytes| {
                contents.extend_from_slice(bytes);
                Ok(())
            },
        )?;
        Ok(contents)
    }
}
