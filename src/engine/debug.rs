//! Records of a state, decoded.

use crate::chunk::{ChunkDigest, Occurrence};
use crate::command::{
    ChunkEntryReport, ChunkReport, DebugReport, DebugRequest, KindReport, MaskReport, NodeReport,
    PathRecordReport, ReferenceReport, Report, TreeReport,
};
use crate::engine::error::EngineError;
use crate::engine::location;
use crate::engine::state::Engine;
use crate::store::{Contents, InspectedTree, Origin, RootKind};
use crate::tree::{NodeKind, Tree};

impl Engine {
    pub(super) fn debug(&self, request: &DebugRequest) -> Result<Report, EngineError> {
        Ok(Report::Debug(match request {
            DebugRequest::Tree(text) => DebugReport::Tree(self.tree_record(text)?),
            DebugRequest::Chunk(text) => DebugReport::Chunk(self.chunk_record(text)?),
            DebugRequest::Path(text) => DebugReport::Path(Box::new(self.path_record(text)?)),
        }))
    }

    fn tree_record(&self, text: &str) -> Result<TreeReport, EngineError> {
        let digest = match ChunkDigest::parse(text) {
            Some(digest) => Some(digest),
            None => location::info(&self.store, text)?.tree(),
        };
        let found = digest.map(|digest| self.store.contents().inspect_tree(digest));
        let found = found.transpose()?.flatten();
        let found = found.ok_or_else(|| EngineError::NoRecord(format!("tree {text}")))?;
        let InspectedTree { tree, numbers, .. } = &found;
        let chunks = tree.chunks().enumerate().map(|(at, c)| ChunkEntryReport {
            digest: c.digest.to_string(),
            number: numbers.get(at).copied(),
            offset: c.start,
            length: c.length,
        });
        Ok(TreeReport {
            digest: tree.digest().to_string(),
            length: tree.bytes().len() as u64,
            stored_length: found.stored_length,
            stream_length: tree.stream_length(),
            complete: numbers.len() == tree.chunks().len(),
            references: tree.references(),
            nodes: nodes(tree),
            chunks: chunks.collect(),
            masks: masks(tree.content_masks()),
            target_masks: masks(tree.target_masks()),
        })
    }

    fn chunk_record(&self, text: &str) -> Result<ChunkReport, EngineError> {
        let digest = ChunkDigest::parse(text).ok_or(EngineError::Usage(
            "name a chunk by its digest, 64 hexadecimal digits; `narfs debug tree` prints those of a path",
        ))?;
        let found = self.store.contents().inspect_chunk(digest)?;
        let found = found.ok_or_else(|| EngineError::NoRecord(format!("chunk {digest}")))?;
        Ok(ChunkReport {
            digest: digest.to_string(),
            number: found.number,
            length: found.length,
            stored_length: found.stored_length,
            codec: found.codec.map(str::to_owned),
            intact: found.is_intact,
            trees: found.trees.iter().map(ToString::to_string).collect(),
        })
    }

    fn path_record(&self, text: &str) -> Result<PathRecordReport, EngineError> {
        let info = location::known(&self.store, text)?;
        let tree = info
            .tree()
            .map(|digest| self.store.contents().inspect_tree(digest));
        let tree = tree.transpose()?.flatten();
        let count = |masks: &[Occurrence], number| {
            let named = masks.iter().filter(|o| o.reference == number);
            named.count() as u64
        };
        let (masks, target_masks) = tree.as_ref().map_or((&[][..], &[][..]), |found| {
            (found.tree.content_masks(), found.tree.target_masks())
        });
        let references = (0..).zip(&info.registration.references);
        let table = references.map(|(number, path)| ReferenceReport {
            path: self.full(path),
            masks: count(masks, number),
            target_masks: count(target_masks, number),
        });
        Ok(PathRecordReport {
            ordinal: info.ordinal.0,
            origin: match info.origin {
                Origin::Added => "added".into(),
                Origin::Fetched => "fetched".into(),
            },
            tree: info.tree().map(|digest| digest.to_string()),
            root: match info.contents {
                Contents::Absent(kind) => kind.map(root),
                Contents::Local(_) => None,
            },
            complete: self.store.paths().has_contents(&info)?,
            used: Some(self.store.paths().last_use(info.ordinal)).filter(|used| *used > 0),
            table: table.collect(),
            info: self.path_report(&info, None),
        })
    }
}

fn root(kind: RootKind) -> KindReport {
    match kind {
        RootKind::Directory => KindReport::Directory,
        RootKind::File => KindReport::Regular,
        RootKind::Link => KindReport::Symlink,
    }
}

fn masks(masks: &[Occurrence]) -> Vec<MaskReport> {
    let each = masks.iter().map(|o| MaskReport {
        offset: o.offset,
        reference: o.reference,
    });
    each.collect()
}

/// The nodes in their order.
fn nodes(tree: &Tree) -> Vec<NodeReport> {
    let mut nodes: Vec<NodeReport> = Vec::new();
    for (index, node) in (0..tree.len()).filter_map(|index| Some((index, tree.node(index)?))) {
        let mut name = String::from_utf8_lossy(node.name).into_owned();
        // A directory comes before its children.
        let parent = nodes.get(tree.parent(index) as usize);
        if let Some(parent) = parent.filter(|p| !p.name.is_empty()) {
            name = format!("{}/{name}", parent.name);
        }
        let (kind, offset, size) = match node.kind {
            NodeKind::Directory { first, count, .. } => {
                (KindReport::Directory, u64::from(first), u64::from(count))
            }
            NodeKind::File {
                executable: true,
                offset,
                size,
            } => (KindReport::Executable, offset, size),
            NodeKind::File { offset, size, .. } => (KindReport::Regular, offset, size),
            NodeKind::Link { offset, length } => (KindReport::Symlink, offset, u64::from(length)),
        };
        // Without a table the target stays masked.
        let target = tree.target(index, &[]);
        nodes.push(NodeReport {
            name,
            kind,
            size,
            offset,
            target: target.map(|t| String::from_utf8_lossy(&t).into_owned()),
        });
    }
    nodes
}
