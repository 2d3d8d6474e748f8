//! Writer of the NAR of a tree, bit for bit the NAR that the tree was made from.

use std::io::Write;

use thiserror::Error;

use super::format::{ChunkEntry, NodeIndex, NodeKind, Tree};
use crate::chunk::HASH_LEN;
use crate::nix::nar::{NarError, Writer, sizes};

#[derive(Debug, Error)]
pub enum DumpError<E: std::error::Error + Send + Sync + 'static> {
    #[error("cannot write the NAR")]
    Write(#[from] NarError),
    #[error(transparent)]
    Chunk(E),
}

/// Writes the NAR of `tree`, or of the part below `root`, to `out`. `table` has the hashes of the
/// path's references; `fetch` supplies chunks as for [`Tree::read`].
///
/// # Errors
/// A chunk cannot be read, or `out` fails.
pub fn dump_nar<W: Write, C: AsRef<[u8]>, E: std::error::Error + Send + Sync + 'static>(
    tree: &Tree,
    root: NodeIndex,
    table: &[[u8; HASH_LEN]],
    mut fetch: impl FnMut(usize, &ChunkEntry) -> Result<C, E>,
    out: W,
) -> Result<(), DumpError<E>> {
    let mut writer = Writer::new(out);
    // The open directories, each with its remaining children.
    let mut open: Vec<std::ops::Range<NodeIndex>> = Vec::new();
    let mut next = Some(root);
    while let Some(index) = next {
        let kind = tree.node(index).map(|n| n.kind);
        match kind {
            Some(NodeKind::Directory { first, count, .. }) => {
                writer.directory()?;
                open.push(first..first + count);
            }
            Some(NodeKind::Link { .. }) => {
                writer.symlink(&tree.target(index, table).unwrap_or_default())?;
            }
            Some(NodeKind::File {
                executable,
                offset,
                size,
            }) => {
                writer.regular(executable, size)?;
                tree.read(
                    offset,
                    size,
                    table,
                    |n, entry, _| match fetch(n, entry) {
                        Ok(chunk) => Ok((0, chunk)),
                        Err(e) => Err(DumpError::Chunk(e)),
                    },
                    |bytes| writer.contents(bytes).map_err(DumpError::Write),
                )?;
            }
            None => {}
        }
        next = loop {
            let Some(children) = open.last_mut() else {
                break None;
            };
            if let Some(child) = children.next() {
                writer.entry(tree.node(child).map_or(&[][..], |n| n.name))?;
                break Some(child);
            }
            writer.end_directory()?;
            open.pop();
        };
    }
    writer.finish()?;
    Ok(())
}

/// The size of the NAR of `tree`, computed without writing it.
pub fn nar_size(tree: &Tree) -> u64 {
    let mut size = sizes::MAGIC;
    for index in 0..tree.len() {
        let Some(node) = tree.node(index) else { break };
        if index > 0 {
            size += sizes::entry_start(node.name.len() as u64) + sizes::ENTRY_END;
        }
        size += match node.kind {
            NodeKind::Directory { .. } => sizes::DIRECTORY_START + sizes::DIRECTORY_END,
            NodeKind::Link { length, .. } => sizes::symlink(u64::from(length)),
            NodeKind::File {
                executable, size, ..
            } => sizes::regular(executable, size),
        };
    }
    size
}
