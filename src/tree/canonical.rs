//! Whether an encoding is the one that its tree has.
//!
//! Each part of a tree has one place, so that equal trees have equal bytes: names in the order of the nodes,
//! link targets in the order of the NAR, and the contents of files as one stream without gaps, first the
//! run of small files and then each larger one, both in the order of the NAR. What another encoding could
//! hide, such as two files that share bytes or a name that no node has, is refused with it.

use super::format::{Node, NodeIndex, NodeKind, Tree, TreeError};
use crate::nix::nar::{MAX_DEPTH, check_target};

/// Parts of a tree, taken in the order of the NAR.
struct Taken<'t> {
    tree: &'t Tree,
    /// End of the link targets so far.
    targets: u64,
    /// End of the run of small files so far.
    run: u64,
    /// Begin and end so far of the larger files.
    large: Option<(u64, u64)>,
}

impl Tree {
    /// Decodes a tree and validates it completely.
    ///
    /// # Errors
    /// The version is newer, or the bytes are not a canonical tree.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, TreeError> {
        let tree = Self::decode(bytes)?;
        check(&tree)?;
        Ok(tree)
    }
}

/// Checks a tree whose nodes are valid each for itself.
fn check(tree: &Tree) -> Result<(), TreeError> {
    let mut taken = Taken {
        tree,
        targets: 0,
        run: 0,
        large: None,
    };
    // Nodes that come next, each with the end of its siblings.
    let mut open: Vec<(NodeIndex, NodeIndex)> = vec![(0, 1)];
    while let Some((index, end)) = open.pop() {
        if index == end {
            continue;
        }
        let Some(node) = tree.node(index) else {
            return malformed("a node beyond the end");
        };
        open.push((index + 1, end));
        taken.take(index, node)?;
        match node.kind {
            NodeKind::Directory { first, count, .. } if count > 0 => {
                open.push((first, first + count));
            }
            _ => {}
        }
        // One for the root, and one for each directory on the way.
        if open.len() > MAX_DEPTH {
            return malformed("directories too deep in each other");
        }
    }
    taken.has_all()
}

impl Taken<'_> {
    fn take(&mut self, index: NodeIndex, node: Node<'_>) -> Result<(), TreeError> {
        match node.kind {
            NodeKind::Directory { .. } => {}
            NodeKind::File {
                offset: 0, size: 0, ..
            } => {}
            NodeKind::File { size: 0, .. } => return malformed("place of an empty file"),
            NodeKind::File { offset, size, .. } => match &mut self.large {
                _ if offset == self.run => self.run += size,
                Some((_, end)) if *end == offset => *end += size,
                None if offset > self.run => self.large = Some((offset, offset + size)),
                _ => return malformed("order of the contents"),
            },
            NodeKind::Link { offset, length } => {
                if offset != self.targets {
                    return malformed("order of the link targets");
                }
                self.targets += u64::from(length);
                let target = self.tree.target(index, &[]).unwrap_or_default();
                if check_target(&target).is_err() {
                    return malformed("target of a link");
                }
            }
        }
        Ok(())
    }

    fn has_all(&self) -> Result<(), TreeError> {
        let end = match self.large {
            Some((begin, end)) if begin == self.run => end,
            Some(_) => return malformed("a gap in the contents"),
            None => self.run,
        };
        if end != self.tree.stream_length() {
            return malformed("contents that no file has");
        }
        if self.targets != self.tree.targets_length() {
            return malformed("link targets that no link has");
        }
        Ok(())
    }
}

fn malformed<T>(what: &'static str) -> Result<T, TreeError> {
    Err(TreeError::Malformed(what))
}
