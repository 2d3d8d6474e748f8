//! Builder of trees from the depth-first events of a NAR.
//!
//! Invariant: the result of [`TreeBuilder::finish`] passes [`Tree::parse`].

use thiserror::Error;

use super::format::{
    CHUNK, DIRECTORY, EXECUTABLE, FILE, HEADER, LINK, MAGIC, NODE, Tree, TreeError, VERSION,
    legal_name, write_side_list,
};
use crate::chunk::{ChunkDigest, Occurrence};

/// Limit of the number of nodes of a path: an inode number has 24 bits for the node. The largest
/// known path has 16 thousand.
const MAX_NODES: u32 = 1 << 24;

/// Limit of the length of all names, or of all link targets, of a path; real paths have a few
/// megabytes.
const MAX_TEXT: usize = 1 << 30;

#[derive(Debug, Error)]
pub enum BuildError {
    #[error(
        "the path has more than {MAX_NODES} files, directories and links, which narfs cannot number"
    )]
    TooManyNodes,
    #[error("the names or link targets of the path are longer than 1 GiB together")]
    TooMuchText,
    #[error("the path is malformed: {0}")]
    Malformed(&'static str),
    #[error("the tree that was built is not valid")]
    Invalid(#[from] TreeError),
}

struct Building {
    name: (u32, u8),
    kind: u8,
    target_length: u16,
    a: u64,
    b: u64,
    /// Children of a directory, in the order of the NAR, which is sorted.
    children: Vec<u32>,
}

/// Position of the contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Offset in the run of small files.
    Run(u64),
    /// Offset in the larger files, which follow the run.
    Large(u64),
}

/// How large a tree may become.
#[derive(Clone, Copy)]
struct Limits {
    nodes: u32,
    /// Of all names, and of all link targets, in bytes.
    text: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: MAX_NODES,
            text: MAX_TEXT,
        }
    }
}

#[derive(Default)]
pub struct TreeBuilder {
    limits: Limits,
    nodes: Vec<Building>,
    open: Vec<u32>,
    name: Option<(u32, u8)>,
    names: Vec<u8>,
    targets: Vec<u8>,
    large: Vec<u32>,
}

impl std::fmt::Debug for TreeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TreeBuilder({} nodes)", self.nodes.len())
    }
}

impl TreeBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the next node, a child of the open directory.
    ///
    /// # Errors
    /// The name is not allowed, or not expected here.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), BuildError> {
        let Ok(length) = u8::try_from(name.len()) else {
            return Err(BuildError::Malformed("a name is longer than 255 bytes"));
        };
        if name.is_empty() || !legal_name(name) || self.open.is_empty() || self.name.is_some() {
            return Err(BuildError::Malformed("a name is not allowed there"));
        }
        if self.names.len() + name.len() > self.limits.text {
            return Err(BuildError::TooMuchText);
        }
        self.name = Some((self.names.len() as u32, length));
        self.names.extend_from_slice(name);
        Ok(())
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// There are too many nodes, or no node is expected here.
    pub fn directory(&mut self) -> Result<(), BuildError> {
        let index = self.add(DIRECTORY, 0, 0, 0)?;
        self.open.push(index);
        Ok(())
    }

    /// Closes the open directory.
    ///
    /// # Errors
    /// No directory is open.
    pub fn end_directory(&mut self) -> Result<(), BuildError> {
        match self.open.pop() {
            Some(_) if self.name.is_none() => Ok(()),
            _ => Err(BuildError::Malformed("a directory ends out of place")),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// There are too many nodes, or no node is expected here.
    pub fn file(&mut self, executable: bool, size: u64, place: Place) -> Result<(), BuildError> {
        let kind = if executable { EXECUTABLE } else { FILE };
        let offset = match place {
            _ if size == 0 => 0,
            Place::Run(offset) | Place::Large(offset) => offset,
        };
        let index = self.add(kind, 0, offset, size)?;
        if size > 0 && matches!(place, Place::Large(_)) {
            self.large.push(index);
        }
        Ok(())
    }

    /// Adds a link with a (masked) target.
    ///
    /// # Errors
    /// There are too many nodes, or no node is expected here.
    pub fn link(&mut self, target: &[u8]) -> Result<(), BuildError> {
        let length = u16::try_from(target.len())
            .map_err(|_| BuildError::Malformed("a link target is too long"))?;
        if self.targets.len() + target.len() > self.limits.text {
            return Err(BuildError::TooMuchText);
        }
        self.add(LINK, length, self.targets.len() as u64, 0)?;
        self.targets.extend_from_slice(target);
        Ok(())
    }

    /// Offset of the next link target.
    pub fn targets_length(&self) -> u64 {
        self.targets.len() as u64
    }

    fn add(&mut self, kind: u8, target_length: u16, a: u64, b: u64) -> Result<u32, BuildError> {
        let index = self.nodes.len() as u32;
        if index >= self.limits.nodes {
            return Err(BuildError::TooManyNodes);
        }
        let name = match (self.open.last(), self.name.take()) {
            (None, None) if index == 0 => (0, 0),
            (Some(parent), Some(name)) => {
                let parent = &mut self.nodes[*parent as usize];
                parent.children.push(index);
                parent.b += u64::from(kind == DIRECTORY);
                name
            }
            _ => return Err(BuildError::Malformed("a node is out of place")),
        };
        self.nodes.push(Building {
            name,
            kind,
            target_length,
            a,
            b,
            children: Vec::new(),
        });
        Ok(index)
    }

    /// Completes the tree. `run` and `large` are the chunks of the run and of the larger files,
    /// with their lengths; occurrences are relative to the whole stream and to the link targets.
    ///
    /// # Errors
    /// The events do not form a complete tree.
    pub fn finish(
        mut self,
        chunks: &[(u32, ChunkDigest)],
        run_length: u64,
        references: u32,
        content_masks: &[Occurrence],
        target_masks: &[Occurrence],
    ) -> Result<Tree, BuildError> {
        if !self.open.is_empty() || self.nodes.is_empty() {
            return Err(BuildError::Malformed("the tree is not complete"));
        }
        for index in &self.large {
            self.nodes[*index as usize].a += run_length;
        }
        let (nodes, names) = self.breadth_first();
        let lists = [
            write_side_list(content_masks),
            write_side_list(target_masks),
        ];
        let mut out = Vec::with_capacity(HEADER + nodes.len() + chunks.len() * CHUNK);
        out.extend_from_slice(MAGIC);
        for number in [
            VERSION,
            self.nodes.len() as u32,
            chunks.len() as u32,
            references,
            names.len() as u32,
            self.targets.len() as u32,
            lists[0].len() as u32,
            lists[1].len() as u32,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&nodes);
        for (length, digest) in chunks {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&digest.0);
        }
        for part in [&names, &self.targets, &lists[0], &lists[1]] {
            out.extend_from_slice(part);
        }
        Ok(Tree::parse(out)?)
    }

    /// The encoded nodes in breadth-first order, and the names in the same order.
    fn breadth_first(&self) -> (Vec<u8>, Vec<u8>) {
        let mut order = Vec::with_capacity(self.nodes.len());
        order.push(0u32);
        let mut out = Vec::with_capacity(self.nodes.len() * NODE);
        let mut names = Vec::with_capacity(self.names.len());
        let mut at = 0;
        while at < order.len() {
            let node = &self.nodes[order[at] as usize];
            at += 1;
            let (name, length) = node.name;
            let text = &self.names[name as usize..name as usize + usize::from(length)];
            out.extend_from_slice(&(names.len() as u32).to_le_bytes());
            names.extend_from_slice(text);
            out.extend_from_slice(&[length, node.kind]);
            out.extend_from_slice(&node.target_length.to_le_bytes());
            let a = if node.kind == DIRECTORY {
                let first = order.len() as u64;
                order.extend_from_slice(&node.children);
                first | (node.children.len() as u64) << 32
            } else {
                node.a
            };
            out.extend_from_slice(&a.to_le_bytes());
            out.extend_from_slice(&node.b.to_le_bytes());
        }
        (out, names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory that is open, of a tree with these limits.
    fn directory(nodes: u32, text: usize) -> TreeBuilder {
        let mut builder = TreeBuilder {
            limits: Limits { nodes, text },
            ..TreeBuilder::default()
        };
        builder.directory().unwrap();
        builder
    }

    fn finish(mut builder: TreeBuilder) -> Tree {
        builder.end_directory().unwrap();
        builder.finish(&[], 0, 0, &[], &[]).unwrap()
    }

    #[test]
    fn more_nodes_than_the_limit_are_refused() {
        for add in [
            |builder: &mut TreeBuilder| builder.directory(),
            |builder: &mut TreeBuilder| builder.file(false, 0, Place::Run(0)),
            |builder: &mut TreeBuilder| builder.link(b"x"),
        ] {
            let mut builder = directory(3, 100);
            builder.entry(b"a").unwrap();
            builder.file(true, 0, Place::Run(0)).unwrap();
            builder.entry(b"b").unwrap();
            builder.link(b"x").unwrap();
            builder.entry(b"c").unwrap();
            assert!(matches!(add(&mut builder), Err(BuildError::TooManyNodes)));
        }
        let mut builder = directory(2, 100);
        builder.entry(b"a").unwrap();
        builder.file(true, 0, Place::Run(0)).unwrap();
        assert_eq!(finish(builder).len(), 2);
    }

    #[test]
    fn names_and_targets_have_each_as_much_text_as_the_limit() {
        let mut builder = directory(100, 5);
        builder.entry(b"ab").unwrap();
        builder.link(b"xyz").unwrap();
        builder.entry(b"cde").unwrap();
        assert!(matches!(builder.link(b"123"), Err(BuildError::TooMuchText)));
        builder.link(b"12").unwrap();
        assert!(matches!(builder.entry(b"f"), Err(BuildError::TooMuchText)));
        let tree = finish(builder);
        assert_eq!(tree.lookup(0, b"cde"), Some(2));
        assert_eq!(tree.target(2, &[]), Some(b"12".to_vec()));
    }
}
